"""Saving behind the loop: the loop waits for the copy, one write is in flight, and no error or torn copy goes unseen."""

from __future__ import annotations

import errno
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from luthier.errors import OutputError
from luthier.trainers.checkpoint import Checkpoint, CheckpointStore
from luthier.trainers.copies import copied
from luthier.trainers.saving import Saver
from luthier.trainers.strategies import Worker

ALONE = Worker(0, 1, torch.device("cpu"))


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path, 10, "eval_loss", "this run")


def saver_of(store: CheckpointStore, reported: list[int] | None = None) -> Saver:
    steps = [] if reported is None else reported
    return Saver(store, ALONE, lambda row, checkpoint: steps.append(checkpoint.step), in_background=True)


def save(saver: Saver, step: int, write: Callable[[Checkpoint], object]) -> None:
    saver.save(step, {"step": step}, lambda checkpoint: [partial(write, checkpoint)])


def put(checkpoint: Checkpoint) -> None:
    (checkpoint.state_dir / "state.pt").write_bytes(b"%d" % checkpoint.step)


def steps(store: CheckpointStore) -> list[int]:
    return [checkpoint.step for checkpoint in store.complete()]


def test_the_loop_does_not_wait_for_a_write_and_the_next_save_does(store: CheckpointStore) -> None:
    storage_is_free = threading.Event()
    reported: list[int] = []
    saver = saver_of(store, reported)

    def slow(checkpoint: Checkpoint) -> None:
        assert storage_is_free.wait(30)
        put(checkpoint)

    save(saver, 1, slow)  # returns although the storage takes nothing yet
    saver.check()
    assert (steps(store), reported) == ([], [])
    threading.Timer(0.2, storage_is_free.set).start()
    save(saver, 2, put)
    assert reported[:1] == [1] and 1 in steps(store)  # the second had to wait for the first: one is in flight
    saver.wait()
    assert (steps(store), reported) == ([1, 2], [1, 2])


def fail(checkpoint: Checkpoint) -> None:
    put(checkpoint)
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failed_write_surfaces_at_the_next_step_and_leaves_the_checkpoint_before_it(store: CheckpointStore) -> None:
    saver = saver_of(store)
    save(saver, 1, put)
    save(saver, 2, fail)
    told = (
        r"the checkpoint of step 2 can't be written \(.*No space left on device\); \d+ MiB are free there\..*free some"
    )
    with pytest.raises(OutputError, match=told):
        while True:
            saver.check()
    saver.check()  # told once
    newest = store.newest()
    assert newest is not None and newest.step == 1


@pytest.mark.parametrize("surfaces", ["the next save", "the end"])
def test_a_failed_write_surfaces_at_the_latest_when_it_is_waited_for(surfaces: str, store: CheckpointStore) -> None:
    saver = saver_of(store)
    save(saver, 1, fail)
    with pytest.raises(OutputError, match="step 1"):
        if surfaces == "the end":
            saver.wait()
        else:
            save(saver, 2, put)


def test_a_fault_of_our_own_is_not_taken_for_the_storage(store: CheckpointStore) -> None:
    saver = saver_of(store)

    def wrong(checkpoint: Checkpoint) -> None:
        raise TypeError("a bug")

    save(saver, 1, wrong)
    with pytest.raises(TypeError, match="a bug"):
        saver.wait()


def test_a_copy_keeps_its_values_and_kind_when_training_goes_on() -> None:
    weight = torch.zeros(3)
    state = {"flat": weight[1:], "list": [weight], "pair": (weight, 1), "ordered": OrderedDict(b=weight), "lr": 0.1}
    copy = copied(state)
    weight += 1
    assert [type(value) for value in copy.values()] == [type(value) for value in state.values()]
    kept = (copy["flat"], copy["list"][0], copy["pair"][0], copy["ordered"]["b"])
    assert all(torch.count_nonzero(tensor) == 0 for tensor in kept)
    assert copy["flat"].untyped_storage().nbytes() == 8  # not the whole of what it was a view of
    assert (copy["pair"][1], copy["lr"]) == (1, 0.1)
