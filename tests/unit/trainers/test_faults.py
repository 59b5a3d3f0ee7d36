"""Which failures are named and end a run at once, and how far micro-batches shrink."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from luthier.config import RunConfig
from luthier.config.load import apply_overrides
from luthier.errors import ConfigError, LuthierError, OutOfMemory, TrainingDiverged
from luthier.trainers.accounts import SplitAccount
from luthier.trainers.blocks import Block
from luthier.trainers.faults import EndOnLastingFailures, ran_out
from luthier.trainers.loop import Job


def test_an_allocation_that_fails_on_a_cpu_is_named() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    named = ran_out(raised.value)
    assert named is not None and "lower train.per_device_train_batch_size" in str(named)
    assert ran_out(RuntimeError("size mismatch")) is None


def died(told: str) -> WorkerHealthCheckFailedError:
    """What the controller is given when a worker's process is gone."""
    return WorkerHealthCheckFailedError(
        "A worker health check failed.",
        failure=ActorDiedError(ActorDiedErrorContext(error_message=told, actor_id=bytes(16))),
    )


def test_a_death_is_a_failure_like_any_other() -> None:
    EndOnLastingFailures().after_exception(None, {0: died("killed by a signal"), 1: RuntimeError("connection closed")})


def test_a_death_by_rays_memory_monitor_is_named() -> None:
    told = "1 worker(s) were killed due to the node running low on memory."
    with pytest.raises(OutOfMemory, match="worker 1 was killed by Ray because its machine ran low on memory"):
        EndOnLastingFailures().after_exception(None, {0: RuntimeError("connection closed"), 1: died(told)})


def test_a_death_while_the_kernel_killed_for_memory_is_named() -> None:
    ending = EndOnLastingFailures()
    ending._kills -= 1  # one more since the run began
    with pytest.raises(OutOfMemory, match="worker 1 died while the kernel of"):
        ending.after_exception(None, {1: died("killed by a signal")})


@pytest.mark.parametrize("error", [TrainingDiverged("step 3: the loss is nan"), OutOfMemory("a worker ran out")])
def test_what_would_come_again_ends_the_run(error: LuthierError) -> None:
    with pytest.raises(type(error), match=str(error)):
        EndOnLastingFailures().after_exception(None, {0: RuntimeError("connection closed"), 1: error})


def sizes(cfg: RunConfig) -> list[int]:
    """The micro-batches that are tried after each other."""
    job: Job | None = Job(cfg, Path(), Block(Path(), SplitAccount(1, 1, 0, 0, 9, 3, 9), (), reused=False), None, Path())
    tried = []
    while job is not None:
        tried.append(job.micro_batch_size)
        job = job.with_smaller_micro_batches()
    return tried


@pytest.mark.parametrize(
    ("size", "least", "tried"), [(8, 2, [8, 4, 2]), (8, None, [8]), (7, 1, [7, 4, 2, 1]), (3, 3, [3])]
)
def test_micro_batches_shrink_as_far_as_the_config_allows(
    size: int, least: int | None, tried: list[int], quickstart: RunConfig
) -> None:
    settings = {"train.per_device_train_batch_size": size, "train.min_per_device_train_batch_size": least}
    assert sizes(apply_overrides(quickstart, settings)) == tried


def test_a_least_micro_batch_above_the_first_is_refused(quickstart: RunConfig) -> None:
    with pytest.raises(ConfigError, match="min_per_device_train_batch_size=9 is above per_device_train_batch_size=8"):
        apply_overrides(quickstart, {"train.min_per_device_train_batch_size": 9})


def test_a_range_of_workers_the_wrong_way_round_is_refused(quickstart: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"num_workers=\(2, 1\) is no range"):
        apply_overrides(quickstart, {"train.num_workers": [2, 1]})
