"""From a judgement to the registry, and how an alias moves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier import stages
from luthier.config import RunConfig, apply_overrides
from luthier.errors import GateRefused, RegistryError
from luthier.gate import decide
from luthier.judging import Judgement
from luthier.measuring import put_before_gate, require_passed
from luthier.promotion import check_promotion
from luthier.registry import ModelVersion, Registry
from luthier.view import QuietView
from tests.unit.artifacts import make_artifact, make_evaluation, make_served

VIEW = QuietView()


@pytest.fixture
def cfg(quickstart: RunConfig) -> RunConfig:
    return apply_overrides(quickstart, {"gate.metric": "rouge_l"})


def registered(cfg: RunConfig, place: Path, content: str, *, value: float = 0.7, gain: float = 0.2) -> ModelVersion:
    """Registered with a stored evaluation, whatever the gate says."""
    evaluation = make_evaluation(value, gain=gain).model_dump(mode="json")
    artifact = make_artifact(place / content, cfg, content=content)
    return Registry(cfg.registry.uri).register(artifact, cfg.name, evaluation)


def judged(cfg: RunConfig, *, gain: float = 0.2) -> Judgement:
    evaluation = make_evaluation(gain=gain)
    row = {"row_id": "test.jsonl:1", "text": "a private question", "label": "x"}
    return Judgement(evaluation, decide(evaluation, cfg.gate), {}, (row,))


def test_registering_moves_no_alias_and_the_same_artifact_is_not_registered_twice(
    cfg: RunConfig, tmp_path: Path
) -> None:
    registry = Registry(cfg.registry.uri)
    first = stages.register(cfg, make_artifact(tmp_path / "1", cfg), judged(cfg), VIEW)
    assert (first.ref, registry.aliases(cfg.name)) == ("debian-sections@1", {})
    assert stages.register(cfg, make_artifact(tmp_path / "2", cfg), judged(cfg), VIEW) == first
    other = stages.register(cfg, make_artifact(tmp_path / "3", cfg, content="b"), judged(cfg), VIEW)
    assert [version.ref for version in registry.list()] == ["debian-sections@1", other.ref]


def test_the_report_that_is_registered_tells_figures_and_nothing_private(cfg: RunConfig, tmp_path: Path) -> None:
    local = cfg.model_copy(
        update={"model": cfg.model.model_copy(update={"model_name_or_path": f"{tmp_path}/the-base"})}
    )
    version = stages.register(cfg, make_artifact(tmp_path / "1", local), judged(cfg), VIEW, [{"step": 1, "loss": 2.0}])
    report = Registry(cfg.registry.uri).get_report(version.ref).decode()
    for told in ("ROUGE-L", "gate passed", "the-base", version.manifest.lineage_id):
        assert told in report
    for private in ("a private question", "test.jsonl", str(tmp_path), "Resolved config"):
        assert private not in report


def test_what_the_gate_refuses_is_not_registered(cfg: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(GateRefused, match="Nothing was registered"):
        stages.register(cfg, make_artifact(tmp_path / "1", cfg), judged(cfg, gain=0.0), VIEW)
    assert Registry(cfg.registry.uri).list() == []


def test_an_alias_moves_only_from_where_it_was_compared(cfg: RunConfig, tmp_path: Path) -> None:
    registry, decision = Registry(cfg.registry.uri), judged(cfg).decision
    first, second = (registered(cfg, tmp_path, content) for content in "ab")
    stages.promote(cfg, first, None, decision, VIEW)
    assert registry.aliases(cfg.name) == {"champion": 1}
    assert registry.history(cfg.name)[-1].figures["rouge_l tuned-base"] == pytest.approx(0.18)
    with pytest.raises(RegistryError, match="moved it meanwhile"):
        stages.promote(cfg, second, None, decision, VIEW)
    stages.promote(cfg, second, first, decision, VIEW)
    stages.promote(cfg, second, second, decision, VIEW)
    assert registry.aliases(cfg.name) == {"champion": 2}
    assert len(registry.history(cfg.name)) == 2


def test_an_incumbent_of_another_base_is_found_early(cfg: RunConfig, tmp_path: Path, base_model_dir: Path) -> None:
    from luthier.errors import ConfigError
    from luthier.trainers.base_model import base_digest

    registry, digest = Registry(cfg.registry.uri), base_digest(base_model_dir)
    assert stages.incumbent_of(cfg, base_model_dir) is None
    ours = registry.register(make_artifact(tmp_path / "1", cfg, base_digest=digest), cfg.name)
    registry.set_alias(cfg.name, "champion", ours.version, "ada", "first")
    incumbent = stages.incumbent_of(cfg, base_model_dir)
    assert incumbent is not None and incumbent.ref == ours.ref
    other = registered(cfg, tmp_path, "b")
    registry.set_alias(cfg.name, "champion", other.version, "ada", "another base")
    with pytest.raises(ConfigError, match=r"debian-sections@2, the incumbent, is an adapter of"):
        stages.incumbent_of(cfg, base_model_dir)


@pytest.mark.parametrize(("value", "passes"), [(0.7, True), (0.67, True), (0.6, False)])
def test_a_promotion_by_hand_is_held_against_the_present_champion(
    cfg: RunConfig, tmp_path: Path, value: float, passes: bool
) -> None:
    registry = Registry(cfg.registry.uri)
    champion = registered(cfg, tmp_path, "a")
    assert check_promotion(registry, champion, "champion")["rouge_l tuned-base"] == pytest.approx(0.18)
    registry.set_alias(cfg.name, "champion", champion.version, "ada", "first")
    candidate = registered(cfg, tmp_path, "b", value=value)
    assert check_promotion(registry, candidate, "other")
    if passes:
        assert "rouge_l tuned-incumbent" in check_promotion(registry, candidate, "champion")
        return
    with pytest.raises(GateRefused, match=r"luthier evaluate debian-sections@2 --promote"):
        check_promotion(registry, candidate, "champion")


def test_a_promotion_without_figures_is_refused_with_a_remedy_that_exists(cfg: RunConfig, tmp_path: Path) -> None:
    registry = Registry(cfg.registry.uri)
    bare = registry.register(make_artifact(tmp_path / "1", cfg), cfg.name)
    with pytest.raises(RegistryError, match=r"without an evaluation; run luthier evaluate debian-sections@1 --promote"):
        check_promotion(registry, bare, "champion")
    registry.set_alias(cfg.name, "champion", bare.version, "ada", "first")
    judged_one = registered(cfg, tmp_path, "b")
    with pytest.raises(GateRefused, match="debian-sections@1, the incumbent, has no stored evaluation"):
        check_promotion(registry, judged_one, "champion")
    weak = registered(cfg, tmp_path, "c", gain=0.0)
    with pytest.raises(GateRefused, match="does not lie above 0 as a whole"):
        check_promotion(registry, weak, "other")


def test_a_promotion_by_hand_asks_how_the_version_answered_where_it_was_served(cfg: RunConfig, tmp_path: Path) -> None:
    bounded = apply_overrides(cfg, {"gate.max_first_token_s": 0.5, "gate.max_size_mb": 1})
    registry, version = Registry(cfg.registry.uri), registered(bounded, tmp_path, "a")
    with pytest.raises(
        GateRefused, match=r"gate.max_first_token_s is 0.5, but no .* luthier evaluate debian-sections@1 --serve"
    ):
        check_promotion(registry, version, "champion")
    registry.add_served(version, make_served(version.registration.manifest_sha256, mismatch=1))
    with pytest.raises(GateRefused, match="1 of 21 served answers differ"):
        check_promotion(registry, version, "champion")
    registry.add_served(version, make_served(version.registration.manifest_sha256))
    figures = check_promotion(registry, version, "champion")
    assert (figures["first_token_s p95"], figures["inter_token_ms p50"], figures["parity"]) == (0.5, 20.0, 0)
    assert figures["size_mb"] == pytest.approx(version.manifest.size_bytes / 1e6)


def test_a_version_that_is_too_large_is_refused(cfg: RunConfig, tmp_path: Path) -> None:
    version = registered(apply_overrides(cfg, {"gate.max_size_mb": 0.0001}), tmp_path, "a")
    with pytest.raises(GateRefused, match=r"files have 0.0 MB; gate.max_size_mb is 0.0001"):
        check_promotion(Registry(cfg.registry.uri), version, "champion")


def test_a_version_that_answers_too_slowly_is_refused_before_the_alias_moves(cfg: RunConfig, tmp_path: Path) -> None:
    slow = apply_overrides(cfg, {"gate.max_first_token_s": 0.4})
    version = registered(slow, tmp_path, "a")
    record = make_served(version.registration.manifest_sha256)
    judgement = put_before_gate(slow, version, judged(slow), record)
    with pytest.raises(
        GateRefused, match=r"debian-sections@1: first_token_s p95: 0.5 s .* stays registered, without the alias"
    ):
        require_passed(version, judgement)
    require_passed(version, put_before_gate(cfg, version, judged(cfg), record))


def test_a_forced_move_keeps_the_figures_that_are_known(cfg: RunConfig, tmp_path: Path) -> None:
    from luthier.cli.models import promote

    registry, uri = Registry(cfg.registry.uri), cfg.registry.uri
    slow = registered(apply_overrides(cfg, {"gate.max_first_token_s": 0.1}), tmp_path, "a", gain=0.0)
    registry.add_served(slow, make_served(slow.registration.manifest_sha256))
    bare = registry.register(make_artifact(tmp_path / "bare", cfg, content="b"), cfg.name)
    for version in (slow, bare):
        promote(version.ref, alias="champion", reason="a test", force=True, registry=uri)
    first, second = registry.history(cfg.name)
    assert first.forced and second.forced and first.reason == "a test"
    assert first.figures["first_token_s p95"] == 0.5
    assert first.figures["rouge_l tuned-base"] == pytest.approx(-0.02)
    assert second.figures == {"size_mb": pytest.approx(bare.manifest.size_bytes / 1e6)}


def test_a_stored_evaluation_is_shown(cfg: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from luthier.cli.models import promote, rollback, show

    for content in "ab":
        registered(cfg, tmp_path, content)
    uri = cfg.registry.uri
    show("debian-sections@1", registry=uri, as_json=True)
    assert json.loads(capsys.readouterr().out)["evaluation"]["n"] == 400
    promote("debian-sections@1", registry=uri, dry_run=True)
    assert capsys.readouterr().out == "debian-sections@champion would be debian-sections@1\n"
    assert Registry(uri).aliases(cfg.name) == {}
    for number in (1, 2):
        promote(f"debian-sections@{number}", alias="champion", reason="test", registry=uri)
    assert capsys.readouterr().out.endswith("debian-sections@champion is debian-sections@2\n")
    rollback("debian-sections", registry=uri, dry_run=True)
    assert capsys.readouterr().out == "debian-sections@champion would be debian-sections@1\n"
    assert Registry(uri).aliases(cfg.name) == {"champion": 2}
