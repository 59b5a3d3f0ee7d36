"""Elastic runs: a node dies, comes back and is drained; every row is still learned from once an epoch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from luthier.trainers.metrics_stream import FILE_NAME, read_metrics
from luthier.trainers.sample_log import read_samples

pytestmark = pytest.mark.slow

EPOCH = 3
"""Steps."""


def assert_each_row_once(samples: dict[int, list[list[list[str]]]]) -> None:
    """Every epoch sees each row exactly once, however many workers there were."""
    steps = {step: list(chain(*chain(*workers))) for step, workers in samples.items()}
    assert list(steps) == list(range(1, len(steps) + 1))
    for first in range(1, len(steps), EPOCH):
        seen = sorted(chain(*(steps[step] for step in range(first, first + EPOCH))))
        assert len(seen) == 12 and len(set(seen)) == 12


@pytest.mark.parametrize("strategy", [{}, {"strategy": "deepspeed", "deepspeed": "z2"}], ids=["ddp", "z2"])
def test_a_run_goes_on_while_nodes_come_and_go(
    strategy: dict[str, Any], small_data: Path, shallow_base_dir: Path, tmp_path: Path
) -> None:
    arguments = [str(small_data), str(shallow_base_dir), str(tmp_path), json.dumps(strategy)]
    environment = {**os.environ, "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"}
    command = [sys.executable, "-m", "tests.chaos.elastic_run", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.partition("TOLD ")[2])
    print(told)
    samples = read_samples(tmp_path / "run")
    assert_each_row_once(samples)
    at_work = [len(workers) for workers in samples.values()]
    changes = [here for here, before in zip(at_work, [0, *at_work], strict=False) if here != before]
    assert changes == [2, 1, 2, 1]  # both, one node lost, both again, one drained
    # The notice was answered by a checkpoint that was not due.
    assert any(step % 20 and step >= told["drained_after"] for step in told["saved_steps"])
    losses = [row["loss"] for row in read_metrics(tmp_path / "run" / FILE_NAME)]
    assert max(losses[-60:]) < 0.2 * losses[0]


def test_control_a_plan_that_depends_on_the_workers_repeats_and_skips_rows() -> None:
    from luthier.trainers.batches import StepPlan

    def rows(plan: StepPlan, step: int) -> list[list[list[str]]]:
        parts = [plan.micro_batches(step, rank) for rank in range(plan.world_size)]
        return [[[str(row) for row in micro] for micro in part] for part in parts]

    # Broken on purpose: one worker alone learns from half the rows a step, but the steps are counted on.
    samples = {step + 1: rows(StepPlan(12, 2 if step < 2 else 1, 1, 2, 0), step) for step in range(6)}
    with pytest.raises(AssertionError):
        assert_each_row_once(samples)
