"""The stream of measurements: whole rows only, and no row twice after a restart."""

from __future__ import annotations

import threading
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from luthier.trainers.metrics_stream import FILE_NAME, Metrics, MetricsTail, MetricsWriter, read_metrics


def write(directory: Path, resume_after_step: int, *rows: Metrics) -> None:
    writer = MetricsWriter(directory, resume_after_step)
    for row in rows:
        writer.write(row)
    writer.close()


def test_rows_are_read_as_they_were_written_and_stand_in_tensorboard(tmp_path: Path) -> None:
    rows: list[Metrics] = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "eval_loss": 1 / 3}]
    write(tmp_path, 0, *rows)
    assert read_metrics(tmp_path / FILE_NAME) == rows
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(board.Tags()["scalars"]) == ["eval_loss", "loss"]
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(1, 0.5), (2, 0.25)]


def test_a_restart_removes_the_rows_after_its_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 0, *({"step": step, "loss": 1.0} for step in (1, 2, 3)))
    write(tmp_path, 2, {"step": 3, "loss": 0.5}, {"step": 4, "loss": 0.4})
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path / FILE_NAME)] == [
        (1, 1.0),
        (2, 1.0),
        (3, 0.5),
        (4, 0.4),
    ]


def test_a_row_cut_off_in_the_middle_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 1.0}]
    write(tmp_path, 1, {"step": 2, "loss": 0.5})
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / FILE_NAME) == []


def test_the_tail_hands_on_each_whole_row_while_it_is_written(tmp_path: Path) -> None:
    path, seen, came = tmp_path / FILE_NAME, list[Metrics](), threading.Event()

    def on_row(row: Metrics) -> None:
        seen.append(row)
        came.set()

    with MetricsTail(path, on_row, interval_s=0.01):
        writer = MetricsWriter(tmp_path, 0)
        writer.write({"step": 1, "loss": 1.0})
        assert came.wait(10)
        assert seen == [{"step": 1, "loss": 1.0}]
        with path.open("a") as stream:
            stream.write('{"step": 2,')
            stream.flush()
            stream.write(' "loss": 2.0}\n')
        writer.close()
    assert [row["step"] for row in seen] == [1, 2]


def test_the_tail_begins_behind_what_an_earlier_attempt_wrote(tmp_path: Path) -> None:
    write(tmp_path, 0, {"step": 1, "loss": 1.0})
    seen: list[Metrics] = []
    with MetricsTail(tmp_path / FILE_NAME, seen.append, interval_s=0.01):
        write(tmp_path, 1, {"step": 2, "loss": 1.0})
    assert [row["step"] for row in seen] == [2]


def test_the_tail_tells_a_row_again_only_where_a_restarted_attempt_made_it_anew(tmp_path: Path) -> None:
    seen: list[Metrics] = []
    tail = MetricsTail(tmp_path / FILE_NAME, seen.append, interval_s=60)
    with tail:
        for attempt, steps in ((1.0, (1, 2, 3)), (2.0, (3, 4))):
            write(tmp_path, steps[0] - 1, *({"step": step, "loss": attempt} for step in steps))
            tail._forward()
    assert [(row["step"], row["loss"]) for row in seen] == [(1, 1.0), (2, 1.0), (3, 1.0), (3, 2.0), (4, 2.0)]
