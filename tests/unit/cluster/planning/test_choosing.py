"""``strategy: auto`` takes the quickest strategy that the workers have memory for, and says why."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from luthier.cluster import plan
from luthier.cluster.planning.choosing import GIB, GPU_GIB, Room, choose, choose_for, with_strategy, worker_room
from luthier.cluster.planning.memory import estimate
from luthier.cluster.planning.microbatch import of_length
from luthier.cluster.planning.shapes import Shapes
from luthier.config import RunConfig, config_hash
from luthier.config.train import TrainConfig
from luthier.stages import settle_strategy
from luthier.view import QuietView

WIDTH, DEPTH = 4096, 32


def block(number: int) -> Shapes:
    names = {"self_attn.q_proj": (WIDTH, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH)}
    names |= {"self_attn.k_proj": (1024, WIDTH), "self_attn.v_proj": (1024, WIDTH)}
    names |= {"mlp.gate_proj": (14336, WIDTH), "mlp.up_proj": (14336, WIDTH), "mlp.down_proj": (WIDTH, 14336)}
    return {f"model.layers.{number}.{name}.weight": shape for name, shape in names.items()}


LLAMA_8B: Shapes = {
    "model.embed_tokens.weight": (128_256, WIDTH),
    "lm_head.weight": (128_256, WIDTH),
    **{name: shape for number in range(DEPTH) for name, shape in block(number).items()},
}
"""The weights of Llama 3.1 8B."""


def on_gpus(num_workers: int, **changes: Any) -> TrainConfig:
    shared = {"strategy": "auto", "per_device_train_batch_size": 1, "gradient_checkpointing": True}
    return TrainConfig.model_validate(
        {**shared, "num_workers": num_workers, "resources_per_worker": {"GPU": 1}, **changes}
    )


CASES: dict[str, tuple[TrainConfig, int, str]] = {
    "LoRA of 8B on one H100": (on_gpus(1), 80, "ddp"),
    "LoRA of 8B on L4s": (on_gpus(4), 24, "ddp"),
    "LoRA of 8B on T4s": (on_gpus(4), 16, "fsdp2"),
    "QLoRA of 8B on T4s": (on_gpus(4, load_in_4bit=True), 16, "ddp"),
    "full 8B on 8 H100s": (on_gpus(8, method="full"), 80, "z2"),
    "full 8B on 8 A100s of 40 GiB": (on_gpus(8, method="full"), 40, "z2"),
    "full 8B on 8 A10Gs": (on_gpus(8, method="full"), 24, "fsdp2"),
    "full 8B on 2 H100s": (on_gpus(2, method="full"), 80, "fsdp2"),
    "full 8B on one H200": (on_gpus(1, method="full"), 141, "z2_offload"),
    "full 8B on one A100": (on_gpus(1, method="full"), 40, "z2_offload"),
    "full 8B on one A10G": (on_gpus(1, method="full"), 24, "z3_offload"),
    "full 8B on the CPUs of two machines": (
        TrainConfig(strategy="auto", method="full", num_workers=2, per_device_train_batch_size=1, bf16=False),
        160,
        "fsdp2",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_first_that_fits_is_taken(case: str) -> None:
    train, gib, expected = CASES[case]
    room = Room(gib * GIB, "a device")
    choice = choose_for(train, LLAMA_8B, room, of_length(train, 2048))
    assert choice.row == expected, choice.reason
    needs = estimate(LLAMA_8B, with_strategy(train, choice.row), of_length(train, 2048)).total_bytes
    assert needs <= 0.9 * gib * GIB
    assert f"{expected} takes {needs / GIB:.1f} of {gib}.0 GiB per worker (a device)" in choice.reason


def test_where_nothing_fits_the_most_frugal_is_taken_and_the_remedy_told() -> None:
    train = on_gpus(2, method="full")
    choice = choose_for(train, LLAMA_8B, Room(4 * GIB, "a card"), of_length(train, 2048))
    assert choice.row == "z3_offload"
    assert "nothing fits" in choice.reason and "train.per_device_train_batch_size" in choice.reason


def test_unknown_memory_is_said_and_divides_the_most() -> None:
    room = Room(None, "nobody knows")
    assert choose_for(on_gpus(2), LLAMA_8B, room, of_length(on_gpus(2), 64)).row == "fsdp2"
    alone = choose_for(on_gpus(1), LLAMA_8B, room, of_length(on_gpus(1), 64))
    assert (alone.row, "nobody knows" in alone.reason) == ("ddp", True)


def config(directory: Path, **train: Any) -> RunConfig:
    header = json.dumps({"model.embed_tokens.weight": {"dtype": "BF16", "shape": [64, 16], "data_offsets": [0, 0]}})
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
    (directory / "train.jsonl").write_text('{"text": "a", "label": "b"}\n' * 4)
    return RunConfig.model_validate(
        {
            "name": "demo",
            "offline": True,
            "storage_path": str(directory / "runs"),
            "model": {"model_name_or_path": str(directory)},
            "datasets": [{"train": str(directory / "train.jsonl")}],
            "train": {"strategy": "auto", **train},
        }
    )


def test_room_is_a_gpus_memory_or_a_share_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    gpu = config(tmp_path, resources_per_worker={"GPU": 1})
    assert worker_room(gpu, {"GPU": 2, "accelerator_type:H100": 1}).num_bytes == 80 * GIB
    assert worker_room(gpu, {"accelerator_type:H100": 1, "accelerator_type:L4": 1}).num_bytes == GPU_GIB["L4"] * GIB
    assert worker_room(gpu, {"accelerator_type:H100": 1, "accelerator_type:NEW": 1}).num_bytes is None
    one, two = (worker_room(config(tmp_path, num_workers=n), None).num_bytes for n in (1, 2))
    assert one is not None and two == one // 2
    elsewhere = config(tmp_path, num_workers=4).model_copy(
        update={"cluster": gpu.cluster.model_copy(update={"address": "10.0.0.1:6379"})}
    )
    assert worker_room(elsewhere, {"memory": 64.0 * GIB}).num_bytes == 16 * GIB
    assert worker_room(elsewhere, {"CPU": 4.0}).num_bytes is None


def test_the_plan_tells_the_choice_and_the_run_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cfg = config(tmp_path, num_workers=2)
    made = plan(cfg)
    assert made.strategy == "ddp" and made.strategy_reason == choose(cfg, {"CPU": 2.0}).reason
    assert made.config_hash == config_hash(cfg)
    settled = settle_strategy(cfg, {"CPU": 2.0}, tmp_path, QuietView())
    assert settled.train.strategy == "ddp"
    assert config_hash(settled) != config_hash(cfg)
    # What was noted once stays, whatever the cluster has by then.
    noted = json.loads((tmp_path / "strategy.json").read_text())
    (tmp_path / "strategy.json").write_text(json.dumps({**noted, "row": "z3"}))
    again = settle_strategy(cfg, {"CPU": 2.0}, tmp_path, QuietView())
    assert (again.train.strategy, again.train.deepspeed) == ("deepspeed", "z3")
    assert settle_strategy(settled, {}, tmp_path, QuietView()) is settled
