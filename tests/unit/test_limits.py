"""Size, parity and latency: what passes, what is refused with which remedy, and what is told where no bound is set."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.config import load_config
from luthier.config.judge import GateConfig
from luthier.errors import ConfigError
from luthier.limits import served_checks, size_check
from luthier.manifest import BaseModelRef, Manifest
from luthier.safe_files import FileDigest
from luthier.served_schema import Percentiles
from tests.conftest import ROOT
from tests.unit.artifacts import make_served


def manifest(*sizes: int) -> Manifest:
    files = {f"model/{n}.safetensors": FileDigest(sha256="0" * 64, size_bytes=size) for n, size in enumerate(sizes)}
    return Manifest(
        name="x",
        method="full",
        base_model=BaseModelRef(model_name_or_path="base", digest="d"),
        files=files,
        chat_template_sha256=None,
        config_hash="c",
        data={},
        metrics={},
        lineage_id="0" * 32,
        created_at="2025-01-01T00:00:00+00:00",
        luthier_version="0",
    )


def refused(record: Any, **gate: Any) -> dict[str, str]:
    checks = served_checks(record, GateConfig(**gate), "demo@3")
    return {check.name: check.reason for check in checks if not check.passed}


@pytest.mark.parametrize(("limit", "passes"), [(None, True), (3.5, True), (3.4, False)])
def test_all_files_count_in_decimal_megabytes(limit: float | None, passes: bool) -> None:
    check = size_check(manifest(3_000_000, 500_000), GateConfig(max_size_mb=limit))
    assert (check.passed, check.figure, check.limit) == (passes, 3.5, limit)
    assert "3.5 MB" in check.reason


def test_every_figure_is_told_without_any_bound() -> None:
    checks = list(served_checks(make_served(), GateConfig(), "demo@3"))
    assert {check.name: check.figure for check in checks} == {
        "parity": 0,
        "first_token_s p50": 0.2,
        "first_token_s p95": 0.5,
        "inter_token_ms p50": 20.0,
        "inter_token_ms p95": 40.0,
    }
    assert all(check.passed for check in checks)
    assert "16 at a time on a CPU in float32; no bound is set" in checks[2].reason


@pytest.mark.parametrize(
    ("gate", "names"),
    [
        ({"max_first_token_s": 0.5, "max_inter_token_ms": 40}, set()),
        ({"max_first_token_s": 0.4}, {"first_token_s p95"}),
        ({"max_inter_token_ms": 39}, {"inter_token_ms p95"}),
    ],
)
def test_a_bound_is_one_on_the_95th_percentile(gate: dict[str, float], names: set[str]) -> None:
    assert refused(make_served(), **gate).keys() == names


@pytest.mark.parametrize(
    ("parity", "differ", "passes"),
    [("if_served", 0, True), ("if_served", 1, False), ("required", 1, False), ("ignored", 1, True)],
)
def test_answers_must_be_the_trainers_unless_that_is_ignored(parity: str, differ: int, passes: bool) -> None:
    found = refused(make_served(mismatch=differ), parity=parity)
    assert found == ({} if passes else {"parity": found["parity"]})
    if not passes:
        assert found["parity"].startswith("1 of 21 served answers differ")


@pytest.mark.parametrize("gate", [{"parity": "required"}, {"max_first_token_s": 1}, {"max_inter_token_ms": 1}])
def test_what_was_never_served_is_refused_only_where_it_is_asked_for(gate: dict[str, Any]) -> None:
    assert refused(None) == {}
    (reason,) = refused(None, **gate).values()
    assert "run luthier evaluate demo@3 --serve" in reason


def test_answers_of_one_token_have_no_time_between_tokens() -> None:
    short = make_served().model_copy(update={"inter_token_ms": None})
    assert refused(short) == {}
    assert "the answers have none" in refused(short, max_inter_token_ms=1)["inter_token_ms p95"]


def test_percentiles_are_values_that_were_measured() -> None:
    assert Percentiles.of([float(n) for n in range(20, 0, -1)]) == Percentiles(p50=10, p95=19)
    assert Percentiles.of([7.0]) == Percentiles(p50=7, p95=7)


@pytest.mark.parametrize("setting", ["max_first_token_s=1", "max_inter_token_ms=1", "parity=required"])
def test_a_model_that_is_not_served_can_not_be_asked_how_it_answers(setting: str) -> None:
    overrides = [f"gate.{setting}", "gate.against=[base]", "gate.metric=perplexity"]
    with pytest.raises(ConfigError, match=r"gate\.(max_|parity).* is not served; take it out"):
        load_config(ROOT / "configs" / "pretraining.yaml", overrides)


def test_a_classifier_has_no_tokens_to_wait_for_but_labels_to_compare() -> None:
    config = ROOT / "configs" / "classification.yaml"
    assert load_config(config, ["gate.parity=required"]).gate.parity == "required"
    with pytest.raises(ConfigError, match=r"gate\.max_first_token_s asks how soon tokens come"):
        load_config(config, ["gate.max_first_token_s=1"])
