"""Which strategy carries which method on which device: data that refuses a config and fills the table of the docs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Device = Literal["cpu", "gpu"]
DEVICES: tuple[Device, ...] = ("cpu", "gpu")

STRATEGIES = ("ddp", "fsdp2", "z0", "z1", "z2", "z3", "z2_offload", "z3_offload")
"""Rows of the table. A DeepSpeed JSON counts as the stage that it asks for."""

METHODS = {
    "lora": "method: lora",
    "rslora": "use_rslora",
    "dora": "use_dora",
    "pissa": "init_lora_weights: pissa or olora, which change the base",
    "modules_to_save": "lora_modules_to_save",
    "qlora": "load_in_4bit",
    "full": "method: full",
    "frozen": "freeze_layers or freeze_modules",
}
"""Columns of the table, and the settings that they stand for. A run may use several at once."""


@dataclass(frozen=True)
class Refusal:
    """A part of the table that is refused.

    Attributes:
        reason: Why, and what to do instead.
        methods: Columns.
        strategies: Rows.
        devices: Where.
    """

    reason: str
    methods: Collection[str]
    strategies: Collection[str] = STRATEGIES
    devices: tuple[Device, ...] = DEVICES


REFUSALS = (
    Refusal(
        "4-bit weights need a GPU with bitsandbytes; set train.load_in_4bit to false, or give workers a GPU "
        "(train.resources_per_worker)",
        methods=("qlora",),
        devices=("cpu",),
    ),
    Refusal(
        "4-bit weights can't be divided among workers; use ddp, or DeepSpeed up to z2",
        methods=("qlora",),
        strategies=("fsdp2", "z3", "z3_offload"),
        devices=("gpu",),
    ),
)


def refusal(strategy: str, method: str, device: Device) -> str | None:
    """Why a cell of the table is refused; None where it works.

    Args:
        strategy: A row.
        method: A column.
        device: What workers compute on.
    """
    for one in REFUSALS:
        if strategy in one.strategies and method in one.methods and device in one.devices:
            return one.reason
    return None


def markdown(device: Device) -> str:
    """One device's table as it stands in the docs."""
    lines = ["| | " + " | ".join(f"`{name}`" for name in METHODS) + " |", "| --- |" + " --- |" * len(METHODS)]
    for strategy in STRATEGIES:
        cells = ("no" if refusal(strategy, method, device) else "yes" for method in METHODS)
        lines.append(f"| `{strategy}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)
