"""The leaderboard in the terminal and as tables for programs."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from rich.console import Console

from luthier.sweep_schema import RungAgreement, Spent, SweepResult, TrialResult
from luthier.tuning.leaderboard import leaderboard_table
from luthier.tuning.table import as_csv, as_parquet, trial_records
from luthier.tuning.wording import agreement_warning, distinct_texts, short_names
from tests.unit.tuning.made_up import made_up_sweep, small_sweep


def shown(result: SweepResult, width: int = 250) -> str:
    console = Console(width=width, record=True, force_terminal=False, file=io.StringIO())
    console.print(leaderboard_table(result))
    return console.export_text()


def trial(number: int, **fields: Any) -> TrialResult:
    settings = {"params": {}, "metric": float(number), "status": "finished", "wall_s": 1.0}
    return TrialResult.model_validate({"trial_id": f"trial-{number:03d}"} | settings | fields)


def test_the_table_has_the_columns_that_the_sweep_has() -> None:
    rich, poor = shown(made_up_sweep(12, finalists=3)), shown(small_sweep([trial(1), trial(2)]))
    for column in ("macro_f1", "* on the Pareto front", "over seeds", "GPU s", "attempts"):
        assert column in rich
        assert column not in poor
    assert "±" in rich
    assert "(3 seeds)" in rich


def test_the_footer_tells_cost_agreement_and_what_ended_the_sweep() -> None:
    spent = Spent(
        trials=2, wall_s=1.0, cpu_hours=3.0, gpu_hours=0.0, by_status={"finished": 2.0, "stopped": 1.0}, ended_by="2 h"
    )
    agreement = RungAgreement(validation=1, num_trials=6, spearman=0.83)
    text = " ".join(shown(small_sweep([trial(1), trial(2)], spent=spent, rung_agreement=(agreement,))).split())
    assert "finished 2 CPU-h (67%), stopped 1 CPU-h (33%)" in text
    assert "ended early by its budget: 2 h" in text
    assert "after validation 1 the order of trials agrees with the final one by Spearman 0.83 (6 trials)" in text
    assert "warning" not in text


@pytest.mark.parametrize(
    ("spearman", "status", "warns"),
    [(0.2, "stopped", True), (0.2, "finished", False), (0.7, "stopped", False), (None, "stopped", False)],
)
def test_early_stopping_on_values_that_foretell_nothing_is_warned_of(
    spearman: float | None, status: str, warns: bool
) -> None:
    point = {"step": 1, "epoch": 0.1, "value": 2.0, "validation": 1}
    trials = [trial(1), trial(2, status=status, history=[point])]
    result = small_sweep(trials, rung_agreement=(RungAgreement(validation=1, num_trials=6, spearman=spearman),))
    assert (agreement_warning(result) is not None) == warns
    assert ("warning" in shown(result)) == warns


def test_a_large_sweep_shows_its_best_and_counts_the_rest() -> None:
    text = shown(made_up_sweep(200))
    assert text.count("trial-") < 60
    assert "160 more trials are in leaderboard.csv" in text
    assert "and 19 more failed: TrainingDiverged" in text  # 22 with one reason


def test_the_tables_hold_what_the_json_holds() -> None:
    result = made_up_sweep(30, finalists=3)
    records = trial_records(result)
    read = parquet.read_table(pa.BufferReader(as_parquet(records)))
    assert read.equals(records)
    rows = {row["trial_id"]: row for row in read.to_pylist()}
    from_csv = {row["trial_id"]: row for row in csv.DictReader(io.StringIO(as_csv(records).decode()))}
    assert len(rows) == len(from_csv) == 30
    assert read["trial_id"][0].as_py() == result.best_trial_id
    for found in json.loads(result.model_dump_json())["trials"]:
        row, text = rows[found["trial_id"]], from_csv[found["trial_id"]]
        assert (row["status"], row["eval_loss"]) == (found["status"], found["metric"])
        assert row["macro_f1"] == found["metrics"].get("macro_f1")
        assert row["held_gpu_s"] == found["held"]["GPU"]
        assert float(text["eval_loss"]) == found["metric"] if found["metric"] is not None else text["eval_loss"] == ""
        for path in ("train.learning_rate", "train.method", "train.gradient_accumulation_steps", "train.lora_r"):
            assert row[path] == found["params"].get(path)
            value = found["params"].get(path)
            assert text[path] == ("" if value is None else text[path] if isinstance(value, float) else str(value))
            assert not isinstance(value, float) or float(text[path]) == value
        assert json.loads(row["datasets"]) == json.loads(text["datasets"]) == found["params"]["datasets"]


@pytest.mark.parametrize(
    ("values", "kind", "read"),
    [
        ([True, False], pa.bool_(), [True, False]),
        ([1, 2.5], pa.float64(), [1.0, 2.5]),
        ([1, None], pa.int64(), [1, None]),
        ([1, 2**80], pa.string(), ["1", str(2**80)]),
        ([8, "auto"], pa.string(), ["8", '"auto"']),
        ([{"b": 1, "a": [2]}, None], pa.string(), ['{"a": [2], "b": 1}', "null"]),
        (["x", 'quote " and, comma\nline'], pa.string(), ["x", 'quote " and, comma\nline']),
    ],
)
def test_a_column_has_the_type_of_its_values(values: list[Any], kind: pa.DataType, read: list[Any]) -> None:
    records = trial_records(small_sweep([trial(n, params={"train.x": value}) for n, value in enumerate(values)]))
    assert records.schema.field("train.x").type == kind
    assert records["train.x"].to_pylist() == read
    assert len(list(csv.DictReader(io.StringIO(as_csv(records).decode())))) == len(values)


def test_names_are_as_short_as_they_can_be() -> None:
    paths = ("train.learning_rate", "data.max_length", "train.a.size", "train.b.size", "seed", "train.seed")
    assert list(short_names(paths).values()) == [
        "learning_rate",
        "max_length",
        "a.size",
        "b.size",
        "seed",
        "train.seed",
    ]


def test_values_that_differ_read_differently_also_where_they_are_cut() -> None:
    start = "x" * 100
    assert set(distinct_texts([start + "a", start + "b"], 20).values()) == {"…a", "…b"}
    assert len(set(distinct_texts([f"{start}{n}{start}" for n in range(12)], 10).values())) == 12
    same_end = [{"k": [start, n, start]} for n in range(3)]
    assert all(len(text) <= 20 for text in distinct_texts(same_end, 20).values())
