"""A checkpoint is visible only when complete: a save is killed at every file boundary, and what is left is loaded."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.trainers.checkpoint import Checkpoint, CheckpointStore
from luthier.trainers.export import write_weights
from luthier.trainers.resuming import dropout_state
from luthier.trainers.saving import Saver
from luthier.trainers.strategies import Worker

ALONE = Worker(0, 1, torch.device("cpu"))
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
"""Audit events (docs.python.org/3/library/audit_events.html) of what changes a file system."""


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.set_num_threads(1)  # a forked process has none of OpenMP's threads
    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=32
    )
    lora = LoraConfig(r=2, target_modules=["q_proj"])
    return get_peft_model(LlamaForCausalLM(config), lora)  # type: ignore


def store_of(root: Path) -> CheckpointStore:
    return CheckpointStore(root, 1, "eval_loss", "this run")


def save(root: Path, model: torch.nn.Module, step: int) -> None:
    """What the loop saves, by the saver that it uses."""
    weights = {name: torch.full_like(p, step) for name, p in model.named_parameters() if p.requires_grad}
    moments = {"optimizer": [torch.full((1000,), float(step)) for _ in range(3)]}

    def snapshot(checkpoint: Checkpoint) -> list[Callable[[], object]]:
        return [
            lambda: torch.save(moments, checkpoint.state_dir / "optimizer.pt"),
            dropout_state(checkpoint, ALONE),
            partial(write_weights, model, weights, checkpoint.weights_dir),
        ]

    saver = Saver(store_of(root), ALONE, lambda row, checkpoint: None, in_background=True)
    saver.save(step, {"step": step}, snapshot)
    saver.wait()


class Killer:
    """Counts the file boundaries of a save, and kills the process at one.

    Python's own changes to files are told by audit events. Those that torch and safetensors make are not, so their
    functions are wrapped: a boundary lies before, in the middle of, and after what they write.
    """

    def __init__(self, root: Path, at: int) -> None:
        self.root, self.at, self.count = str(root), at, 0

    def install(self) -> None:
        sys.addaudithook(self.hear)
        torch.save = self.wrap(torch.save, 1)  # type: ignore
        import peft.peft_model

        peft.peft_model.safe_save_file = self.wrap(safetensors.torch.save_file, 1)  # type: ignore[attr-defined]

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        writes = event != "open" or any(mode in str(arguments[1]) for mode in "wax+")
        if event in CHANGES and writes and str(arguments[0]).startswith(self.root):
            self.boundary()

    def wrap(self, write: Callable[..., object], position: int) -> Callable[..., object]:
        def wrapped(*arguments: object, **more: object) -> object:
            self.boundary()
            done = write(*arguments, **more)
            path = Path(str(arguments[position]))
            whole = path.read_bytes()
            os.truncate(path, len(whole) // 2)
            self.boundary()
            with open(os.open(path, os.O_WRONLY), "wb") as stream:  # noqa: PTH123
                stream.write(whole)
            self.boundary()
            return done

        return wrapped

    def boundary(self) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def killed_at(boundary: int, work: Callable[[], None], root: Path) -> bool:
    """Do the work in a forked process that is killed at a boundary; whether it came so far."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            Killer(root, boundary).install()
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            raise AssertionError(f"the save hangs after boundary {boundary}")
        time.sleep(0.005)
    code = os.waitstatus_to_exitcode(ended[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def newest_after_kills(root: Path, work: Callable[[], None], model: torch.nn.Module) -> list[int]:
    """The newest checkpoint's step after a kill at each boundary in turn."""
    found: list[int] = []
    while killed_at(len(found) + 1, work, root):
        newest = store_of(root).newest()
        assert newest is not None, f"nothing is left after a kill at boundary {len(found) + 1}"
        kept = safetensors.torch.load_file(newest.weights_dir / "adapter" / "adapter_model.safetensors")
        assert all(torch.all(weight == newest.step) for weight in kept.values())
        moments = torch.load(newest.state_dir / "optimizer.pt", weights_only=True)["optimizer"]
        assert all(torch.all(moment == newest.step) for moment in moments)
        found.append(newest.step)
        save(root, model, 1)  # the next kill starts from the same place
        for left in root.glob("step-00000002"):
            (left / "checkpoint.json").unlink(missing_ok=True)
    return found


def test_a_save_killed_at_any_file_boundary_leaves_the_old_checkpoint_or_the_new(
    model: torch.nn.Module, tmp_path: Path
) -> None:
    save(tmp_path, model, 1)
    found = newest_after_kills(tmp_path, lambda: save(tmp_path, model, 2), model)
    # Three files by torch and safetensors with three boundaries each, directories, the index, what is deleted.
    assert len(found) > 15
    assert set(found) == {1, 2}
    assert found == sorted(found)  # from one boundary on, and for good
    newest = store_of(tmp_path).newest()
    assert newest is not None and newest.step == 2


def test_control_an_index_that_is_written_first_shows_half_a_checkpoint(
    model: torch.nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Broken on purpose: published before its files are written, and the one before it is deleted."""
    save(tmp_path, model, 1)

    def wrong() -> None:
        store = store_of(tmp_path)
        checkpoint = store.begin(ALONE, 2, {"step": 2})
        store.publish(checkpoint)
        torch.save({"optimizer": [torch.full((1000,), 2.0)]}, checkpoint.state_dir / "optimizer.pt")

    with pytest.raises((AssertionError, FileNotFoundError)):
        newest_after_kills(tmp_path, wrong, model)
