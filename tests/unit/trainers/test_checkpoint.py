"""Checkpoints: visible only when whole, skipped when damaged, pruned without losing the best or the newest."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from luthier.errors import IntegrityError, OutputError
from luthier.trainers.checkpoint import Checkpoint, CheckpointStore, verify
from luthier.trainers.saving import Saver
from luthier.trainers.strategies import Worker

ALONE = Worker(0, 1, torch.device("cpu"))


def write(checkpoint: Checkpoint) -> None:
    (checkpoint.weights_dir / "adapter").mkdir()
    (checkpoint.weights_dir / "adapter" / "w.safetensors").write_bytes(b"weights of %d" % checkpoint.step)
    (checkpoint.state_dir / "optimizer.pt").write_bytes(b"state")


def store_of(root: Path, keep: int = 10, identity: str = "this run") -> CheckpointStore:
    return CheckpointStore(root, keep, "eval_loss", identity)


def save(store: CheckpointStore, step: int, eval_loss: float | None = None) -> Checkpoint:
    metrics = {"loss": 1.0} if eval_loss is None else {"loss": 1.0, "eval_loss": eval_loss}
    return save_by(store, step, metrics, write)


def save_by(
    store: CheckpointStore, step: int, metrics: dict[str, float], write: Callable[[Checkpoint], None]
) -> Checkpoint:
    saved: list[Checkpoint] = []
    saver = Saver(store, ALONE, lambda row, checkpoint: saved.append(checkpoint), in_background=False)
    saver.save(step, metrics, lambda checkpoint: [partial(write, checkpoint)])
    return saved[0]


def weights(checkpoint: Checkpoint) -> Path:
    return checkpoint.weights_dir / "adapter" / "w.safetensors"


def test_a_saved_checkpoint_is_found_again(tmp_path: Path) -> None:
    saved = save(store_of(tmp_path), 120, 0.5)
    found = store_of(tmp_path).newest()
    assert found == saved
    assert (saved.path.name, saved.metrics, saved.world_size) == ("step-00000120", {"loss": 1.0, "eval_loss": 0.5}, 1)
    assert weights(saved).read_bytes() == b"weights of 120"


def test_nothing_is_published_before_all_files_are_written(tmp_path: Path) -> None:
    store = store_of(tmp_path)

    def interrupted(checkpoint: Checkpoint) -> None:
        write(checkpoint)
        assert store.complete() == []
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_by(store, 1, {}, interrupted)
    assert (store.complete(), store.newest(), store.best()) == ([], None, None)
    assert list(tmp_path.glob("step-*/state/optimizer.pt"))
    save(store, 1, 0.3)
    assert [checkpoint.metrics["eval_loss"] for checkpoint in store.complete()] == [0.3]


def test_a_start_that_was_followed_by_another_writes_no_more(tmp_path: Path) -> None:
    left, second = store_of(tmp_path), store_of(tmp_path)
    left.take()
    save(left, 1)
    second.take()
    kept = save(second, 2)

    def write_late(checkpoint: Checkpoint) -> None:
        write(checkpoint)
        third.take()  # while the files are written

    for step in (1, 2, 3):
        with pytest.raises(OutputError, match="the run was started again meanwhile"):
            save(left, step)
    verify(kept)
    assert [checkpoint.step for checkpoint in second.complete()] == [1, 2]
    third = store_of(tmp_path)
    with pytest.raises(OutputError, match="the run was started again meanwhile"):
        save_by(second, 3, {}, write_late)
    assert [checkpoint.step for checkpoint in third.complete()] == [1, 2]


def test_control_two_starts_that_know_nothing_of_each_other_take_each_others_checkpoints(tmp_path: Path) -> None:
    kept = save(store_of(tmp_path), 2)

    def interrupted(checkpoint: Checkpoint) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_by(store_of(tmp_path), 2, {}, interrupted)  # broken on purpose: neither took the place
    assert not kept.path.joinpath("checkpoint.json").exists()


def test_the_index_holds_the_digest_of_every_file(tmp_path: Path) -> None:
    saved = save(store_of(tmp_path), 1)
    index = json.loads((saved.path / "checkpoint.json").read_text())
    assert sorted(index["files"]) == ["state/optimizer.pt", "weights/adapter/w.safetensors"]
    verify(saved)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(bytes(content))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink], ids=["flipped bit", "truncated", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(tmp_path)
    sound, damaged = save(store, 1, 0.9), save(store, 2, 0.1)
    damage(weights(damaged))
    with pytest.raises(IntegrityError, match=r"step-00000002/weights/adapter/w\.safetensors"):
        verify(damaged)
    with caplog.at_level(logging.WARNING):
        assert store.newest() == sound
        assert store.best() == sound
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert all(str(damaged.path) in record.getMessage() for record in caplog.records)
    assert all("w.safetensors" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("content", [b"", b'{"step": 2', b"[]", b"\xff"], ids=["empty", "half", "list", "binary"])
def test_an_unreadable_index_is_named_and_skipped(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(tmp_path)
    sound, damaged = save(store, 1), save(store, 2)
    (damaged.path / "checkpoint.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert store.newest() == sound
    assert str(damaged.path) in caplog.text


def test_best_is_the_lowest_metric_and_of_equals_the_newest(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    for step, eval_loss in ((1, 0.5), (2, 0.2), (3, 0.2), (4, 0.4)):
        save(store, step, eval_loss)
    best, newest = store.best(), store.newest()
    assert best is not None and newest is not None
    assert (best.step, newest.step) == (3, 4)


def test_without_the_metric_the_newest_is_best(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    for step in (1, 2):
        save(store, step)
    best = store.best()
    assert best is not None and best.step == 2


@pytest.mark.parametrize(
    ("keep", "eval_losses", "kept"),
    [
        (2, [0.1, 0.2, 0.3, 0.4], [1, 4]),
        (2, [0.4, 0.3, 0.2, 0.1], [3, 4]),
        (1, [0.1, 0.2, 0.3], [1, 3]),
        (1, [0.3, 0.2, 0.1], [3]),
        (3, [0.5, 0.1, 0.4, 0.3, 0.2], [2, 4, 5]),
    ],
)
def test_pruning_keeps_the_best_and_the_newest(
    keep: int, eval_losses: list[float], kept: list[int], tmp_path: Path
) -> None:
    store = store_of(tmp_path, keep)
    for step, eval_loss in enumerate(eval_losses, start=1):
        save(store, step, eval_loss)
    assert [checkpoint.step for checkpoint in store.complete()] == kept
    assert len(list(tmp_path.iterdir())) == len(kept)


def test_checkpoints_of_another_run_are_named_once_ignored_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        save(store_of(tmp_path, identity="other"), step, 0.1)
    store = store_of(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert (store.newest(), store.best()) == (None, None)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert str(tmp_path) in warning and "other settings or data (steps 1, 2)" in warning
    saved = save(store, 1, 0.9)
    assert [path.name for path in tmp_path.glob("step-*")] == [saved.path.name]
    assert store_of(tmp_path).best() == saved
    assert store_of(tmp_path, identity="other").newest() is None


def test_a_run_keeps_its_lineage_id_and_another_run_gets_its_own(tmp_path: Path) -> None:
    first = store_of(tmp_path / "new").lineage_id()
    assert store_of(tmp_path / "new").lineage_id() == first
    other = store_of(tmp_path / "new", identity="other").lineage_id()
    assert other != first
    assert store_of(tmp_path / "new", identity="other").lineage_id() == other
