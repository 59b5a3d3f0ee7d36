"""A sweep's trials as a table for other programs: one row per trial, as CSV or parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.sweep_schema import SweepResult
from luthier.tuning.analysis import as_json, standings
from luthier.tuning.wording import metric_of, metrics_of, params_of

if TYPE_CHECKING:
    import pyarrow as pa

_INT64 = range(-(2**63), 2**63)


def trial_records(result: SweepResult) -> pa.Table:
    """One row per trial, the winner first.

    Columns: ``rank``; ``trial_id``; ``status``; one per metric by its name; one per parameter by its dotted path;
    ``pareto``; ``num_validations``; ``wall_s``; ``held_cpu_s`` and the like, seconds times amount; ``attempts``;
    ``seeds_mean``, ``seeds_low``, ``seeds_high`` and ``num_seeds`` of finalists; ``reason``. A parameter that a trial
    does not have is null. Parameters with structured or mixed values, and integers beyond 64 bits, are JSON text.
    """
    import pyarrow as pa

    trials = standings(result)
    finalists = {finalist.trial_id: finalist for finalist in result.finalists}
    repeated = [finalists.get(trial.trial_id) for trial in trials]
    resources = dict.fromkeys(name for trial in trials for name in trial.held)
    columns: dict[str, pa.Array] = {
        "rank": pa.array(range(1, len(trials) + 1), pa.int64()),
        "trial_id": pa.array([trial.trial_id for trial in trials]),
        "status": pa.array([trial.status for trial in trials]),
    }
    for metric in metrics_of(result):
        columns[metric] = pa.array([metric_of(trial, metric, result) for trial in trials], pa.float64())
    for path in params_of(trials):
        columns[path] = _column([trial.params for trial in trials], path)
    columns |= {
        "pareto": pa.array([trial.trial_id in result.pareto for trial in trials]),
        "num_validations": pa.array([len(trial.history) for trial in trials], pa.int64()),
        "wall_s": pa.array([trial.wall_s for trial in trials], pa.float64()),
    }
    for name in resources:
        columns[f"held_{name.lower()}_s"] = pa.array([trial.held.get(name, 0.0) for trial in trials], pa.float64())
    columns |= {
        "attempts": pa.array([trial.attempts for trial in trials], pa.int64()),
        "seeds_mean": pa.array([found and found.mean for found in repeated], pa.float64()),
        "seeds_low": pa.array([found and found.low for found in repeated], pa.float64()),
        "seeds_high": pa.array([found and found.high for found in repeated], pa.float64()),
        "num_seeds": pa.array([found and len(found.values) for found in repeated], pa.int64()),
        "reason": pa.array([trial.reason for trial in trials], pa.string()),
    }
    return pa.table(columns)


def as_csv(records: pa.Table) -> bytes:
    """The table as CSV with a header, UTF-8; null is an empty field."""
    import pyarrow as pa
    from pyarrow import csv

    sink = pa.BufferOutputStream()
    csv.write_csv(records, sink)
    return bytes(sink.getvalue())


def as_parquet(records: pa.Table) -> bytes:
    """The table as a parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(records, sink)
    return bytes(sink.getvalue())


def _column(params: Sequence[Mapping[str, Any]], path: str) -> pa.Array:
    import pyarrow as pa

    values = [of_trial[path] for of_trial in params if of_trial.get(path) is not None]
    kinds = {type(value) for value in values}
    whole = [of_trial.get(path) for of_trial in params]
    if kinds == {bool}:
        return pa.array(whole, pa.bool_())
    if kinds == {int} and all(value in _INT64 for value in values):
        return pa.array(whole, pa.int64())
    if float in kinds and kinds <= {int, float}:
        return pa.array([None if value is None else float(value) for value in whole], pa.float64())
    if kinds == {str}:
        return pa.array(whole, pa.string())
    return pa.array([as_json(of_trial[path]) if path in of_trial else None for of_trial in params], pa.string())
