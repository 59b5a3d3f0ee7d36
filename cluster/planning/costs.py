"""Floating-point operations of a run, and roughly the hours and the money that they take."""

from __future__ import annotations

import math
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from luthier.cluster.planning.activations import blocks, embedding_shape
from luthier.cluster.planning.parameters import num_parameters, num_trainable
from luthier.cluster.planning.shapes import Shapes
from luthier.config.train import TrainConfig
from luthier.errors import ConfigError

TFLOPS = {
    "A10G": 70,
    "A100": 312,
    "A100-40G": 312,
    "A100-80G": 312,
    "B200": 2250,
    "H100": 989,
    "H200": 989,
    "L4": 121,
    "L40S": 362,
    "RTX-4090": 165,
    "T4": 65,
    "V100": 125,
}
"""Peak of dense products in 16 bits, in 10^12 a second, by the vendors' data sheets; T4 and V100 in float16."""

UTILISATION = (0.15, 0.45)
"""Share of the peak that training reaches: 0.3 to 0.45 in well-tuned runs (Chowdhery et al. 2022 call it MFU and list
others'), and about half of the lower of those for short rows and small batches."""

CPU_UTILISATION = (0.3, 0.9)
"""Share of a core's speed at large products."""


class Range(BaseModel):
    """From a hopeful to a cautious guess."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float = Field(ge=0.0, allow_inf_nan=False)
    high: float = Field(ge=0.0, allow_inf_nan=False)


class Prices(BaseModel):
    """What an hour costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: str
    as_of: str
    """When the prices were such."""

    accelerators: dict[str, Range]
    """Of one, by Ray's name."""

    cpu_core: Range
    """Of one core of a machine without accelerators."""


def read_prices(path: Path | None = None, named: str = "--prices") -> Prices:
    """A price table.

    Args:
        path: A YAML file; None: the examples that luthier brings.
        named: What named the file.

    Raises:
        ConfigError: It can't be read, or is no such table.
    """
    import yaml

    place = path or files("luthier.cluster.planning").joinpath("prices.yaml")
    try:
        return Prices.model_validate(yaml.safe_load(place.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{named} {place}: {error}; give a YAML file of prices, see docs/plan.md.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"{named} {place}: {where}: {first['msg']}; docs/plan.md has the format.") from error


def training_flops(shapes: Shapes, train: TrainConfig, *, tokens: int, row_tokens: float) -> int:
    """Operations of a training: 2 a token and weight in the forward pass, twice that in the backward pass (Kaplan et al.
    2020), of which the half that makes weight gradients falls away for what is frozen (Hu et al. 2021); and attention's
    two products, 4 a pair of tokens and width, halved by the causal mask, three times as much with the backward pass.

    Args:
        shapes: The weights.
        train: Method and checkpointing.
        tokens: Learned from, over all epochs.
        row_tokens: Mean length of a row.
    """
    vocabulary, hidden = embedding_shape(shapes)
    tied = not any("lm_head" in name for name in shapes)
    # Looking an embedding up is no product, but the head that is tied to it is one.
    multiplied = num_parameters(shapes) - (0 if tied else vocabulary * hidden)
    trained = min(num_trainable(shapes, train), multiplied)
    adapters = num_trainable(shapes, train) if train.method == "lora" else 0
    weights = multiplied + adapters
    again = 2 * weights if train.gradient_checkpointing else 0
    per_token = 2 * weights + 2 * weights + 2 * trained + again
    attention = sum(2 * block.queries for block in blocks(shapes, train)) * row_tokens
    return round(tokens * (per_token + attention * (4 if train.gradient_checkpointing else 3)))


def hours(flops: int, flops_per_s: float, utilisation: tuple[float, float]) -> Range:
    """How long workers that reach so much at their peak, together, take."""
    low, high = utilisation
    return Range(low=_short(flops / (flops_per_s * high) / 3600), high=_short(flops / (flops_per_s * low) / 3600))


def cost(time: Range, prices: Prices, *, accelerator: str | None, units: float) -> Range | None:
    """What it costs; None: no price is known.

    Args:
        time: Hours.
        prices: The table.
        accelerator: Ray's name; None: CPU cores.
        units: How many accelerators or cores are held.
    """
    price = prices.cpu_core if accelerator is None else prices.accelerators.get(accelerator)
    if price is None:
        return None
    return Range(low=_short(time.low * units * price.low), high=_short(time.high * units * price.high))


def cpu_flops_per_s(*, bf16: bool, seconds: float = 0.3) -> float | None:
    """What one core of this machine makes of a product, measured in a fraction of a second; None: torch is not there.

    Args:
        bf16: Multiply in bfloat16.
        seconds: At least so long.
    """
    import subprocess
    import sys

    # In a process of its own, since a plan imports no torch and threads can't be taken back.
    done = subprocess.run(
        [sys.executable, "-c", _PRODUCT, "bfloat16" if bf16 else "float32", str(seconds)],
        capture_output=True,
        text=True,
        check=False,
    )
    return float(done.stdout) if done.returncode == 0 else None


_PRODUCT = """
import sys, time, torch
torch.set_num_threads(1)
a = torch.ones(512, 1024, dtype=getattr(torch, sys.argv[1]))
b = torch.ones(1024, 1024, dtype=a.dtype)
a @ b
began, done = time.perf_counter(), 0
while time.perf_counter() - began < float(sys.argv[2]):
    a @ b
    done += 1
print(done * 2 * 512 * 1024 * 1024 / (time.perf_counter() - began))
"""


def _short(value: float) -> float:
    """Two digits: a guess has no more."""
    return 0.0 if value <= 0 else round(value, 1 - math.floor(math.log10(value)))
