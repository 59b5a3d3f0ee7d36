"""What this machine is, without torch."""

from __future__ import annotations

import os
from pathlib import Path

from luthier.config import RunConfig

_BF16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}
"""Of x86 and Arm; the instructions that ``luthier/precision.py`` asks torch for."""


def memory_bytes() -> int:
    """Main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def multiplies_bf16() -> bool:
    """Whether the processor multiplies in bfloat16; false where the operating system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    told = (line.partition(":") for line in lines)
    return any(key.strip() in ("flags", "Features") and _BF16_FLAGS & set(flags.split()) for key, _, flags in told)


def in_bf16(cfg: RunConfig) -> RunConfig:
    """The config with ``train.bf16: auto`` decided; on another machine's CPU float32, which takes more, is assumed."""
    if cfg.train.bf16 != "auto":
        return cfg
    able = cfg.train.use_gpu or (cfg.cluster.address is None and multiplies_bf16())
    return cfg.model_copy(update={"train": cfg.train.model_copy(update={"bf16": able})})
