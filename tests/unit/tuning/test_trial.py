"""How a trial that waits for other processes reports from its own thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.config import RunConfig
from luthier.tuning.concurrency import any_nested
from luthier.tuning.trial import Row, relay, remove_leftovers

OnRow = Callable[[Row], None]


def three_rows(on_row: OnRow) -> None:
    for step in range(3):
        on_row({"step": float(step)})


def test_rows_are_reported_in_order_and_by_the_calling_thread() -> None:
    seen: list[tuple[float, str]] = []
    relay(three_rows, lambda row, checkpoint=None: seen.append((row["step"], threading.current_thread().name)))
    assert seen == [(float(step), threading.current_thread().name) for step in range(3)]


def test_an_exit_from_report_ends_the_calling_thread() -> None:
    never = threading.Event()

    def endless(on_row: OnRow) -> None:
        three_rows(on_row)
        never.wait()

    def stop(row: Any, checkpoint: Path | None = None) -> None:
        raise SystemExit(0)

    with pytest.raises(SystemExit):
        relay(endless, stop)
    never.set()


def test_an_error_of_the_work_is_raised_where_the_trial_runs() -> None:
    def fail(on_row: OnRow) -> None:
        raise ValueError("no good")

    with pytest.raises(ValueError, match="no good"):
        relay(fail, lambda row, checkpoint=None: None)


def test_leftovers_go_and_metrics_stay(tmp_path: Path) -> None:
    for name in ("checkpoints/step-1", "artifact/model"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
    ("train", "space", "nested"),
    [
        ({}, {"train.lora_r": {"type": "choice", "values": [8]}}, False),
        ({"num_workers": 2}, {"train.lora_r": {"type": "choice", "values": [8]}}, True),
        ({}, {"train.num_workers": {"type": "choice", "values": [1, 2]}}, True),
    ],
)
def test_one_trial_of_several_workers_is_enough_to_give_up_warm_processes(
    train: dict[str, Any], space: dict[str, Any], nested: bool
) -> None:
    described = {
        "name": "demo",
        "model": {"model_name_or_path": "some/model"},
        "datasets": [{"train": "train.jsonl", "validation": "validation.jsonl"}],
        "train": train,
        "tune": {"search_space": space},
    }
    assert any_nested(RunConfig.model_validate(described)) is nested
