"""A sweep's journal: what was noted is there again, whatever became of the last line."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.errors import OutputError
from luthier.tuning.journal import Journal
from luthier.tuning.record import SweepLog

HELD = {"ran_s": 2.0, "held": {"CPU": 4.0}}
POINT = {"step": 2, "epoch": 0.5, "metrics": {"eval_loss": 1.5}}


def log_of(path: Path) -> SweepLog:
    return SweepLog(Journal(path, "a sweep"), "eval_loss")


def test_what_was_noted_is_known_again(tmp_path: Path) -> None:
    log = log_of(tmp_path / "sweep.jsonl")
    first, second = log.draw({"train.lora_r": 4}), log.draw({"train.lora_r": 8})
    log.note(event="validated", trial=first.number, validation=1, **POINT, **HELD)
    log.note(event="ended", trial=first.number, status="finished", reason=None, **HELD)
    log.note(event="retried", trial=second.number, reason="OSError: no", **HELD)
    again = log_of(tmp_path / "sweep.jsonl").record
    assert again.trials == log.record.trials
    assert (first.status, first.held, first.elapsed_s) == ("finished", {"CPU": 8.0}, 4.0)
    assert (second.status, second.attempts) == (None, 2)
    assert again.spent(0.0, None).cpu_hours == pytest.approx(12 / 3600)
    assert again.best_value("min") == 1.5


def test_a_validation_that_comes_again_takes_the_place_of_the_old_ones(tmp_path: Path) -> None:
    log = log_of(tmp_path / "sweep.jsonl")
    trial = log.draw({})
    for validation in (1, 2, 3, 2):
        log.note(event="validated", trial=trial.number, validation=validation, **POINT)
    assert [point.validation for point in trial.history] == [1, 2]


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    log_of(path).draw({"train.lora_r": 4})
    path.write_text(path.read_text() + '{"event": "drawn", "tri')
    log = log_of(path)
    assert list(log.record.trials) == [1]
    log.draw({"train.lora_r": 8})
    assert list(log_of(path).record.trials) == [1, 2]


def test_damage_and_other_sweeps_are_named(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    log_of(path).draw({})
    with pytest.raises(OutputError, match="of a sweep with other settings"):
        Journal(path, "another sweep")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{", *lines[1:]]) + "\n")
    with pytest.raises(OutputError, match=r"sweep\.jsonl:2: the sweep's journal is damaged"):
        Journal(path, "a sweep")
    assert "{\n" in path.read_text()  # nothing was lost
