"""The data report on a terminal."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
from rich.console import Console

from luthier.trainers.accounts import SplitAccount
from luthier.trainers.data_report import DataReport, SplitReport
from luthier.trainers.doctor.examine import FINDING
from luthier.trainers.doctor.health import health_of
from luthier.trainers.doctor.listed import Listed

TRAIN = SplitAccount(
    rows=1_814_000,
    kept=1_813_990,
    truncated=12,
    dropped=10,
    tokens=12_345_678_901,
    loss_tokens=123_456_789,
    longest=512,
    cut_tokens=4_321,
    reasons={"no answer token within data.max_length": 10},
    datasets={"data": 1_814_000},
    not_drawn=1_813_510,
    limits={"data.max_length": 512, "data.max_dropped_fraction": 0.01, "data.max_train_samples": 480},
)
WHOLE = SplitAccount(9, 9, 0, 0, 90, 20, 12, limits={"data.max_length": 512})

HEALTH = health_of({"train": pa.schema(list(FINDING)).empty_table()}, None, 512)[0]["train"]


def shown(report: DataReport) -> list[str]:
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(report.table())
    return captured.get().splitlines()


def test_the_report_fits_a_narrow_terminal_and_leaves_no_figure_of_a_loss_out() -> None:
    leaky = replace(HEALTH, also_in_train=Listed(3, ("test.jsonl:1",)))
    lines = shown(DataReport({"train": SplitReport(TRAIN, HEALTH, False), "test": SplitReport(WHOLE, leaky, False)}))
    told = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:4]] for line in lines if "│" in line
    }
    assert told["rows"] == ["1,814,000", "9"]
    assert told["rows dropped"] == ["10", "0"]
    assert told["no answer token within data.max_length"] == ["10", "0"]
    assert told["rows truncated to data.max_length=512"] == ["12", "0"]
    assert told["tokens cut off"] == ["4,321", "0"]
    assert told["left out by data.max_*_samples"] == ["1,813,510", "0"]
    assert told["tokens"] == ["12,345,678,901", "90"]
    assert told["prompts also in train"] == ["0", "3"]
    assert "rows divided" not in told


def test_of_data_that_lost_nothing_only_the_plain_figures_are_shown() -> None:
    lines = shown(DataReport({"train": SplitReport(WHOLE, HEALTH, False)}))
    names = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert names == ["rows", "rows kept", "rows dropped", "tokens", "tokens with loss", "longest"]
