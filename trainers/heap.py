"""Freed memory given back to the operating system, at the few places where much was freed for good."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


def give_back_freed() -> None:
    """Let the C library give back the pages that hold nothing, also those in the midst of its heap; not on every system.

    It is set up to keep what is freed (see ``luthier/cluster/environment.py``), which is quicker from step to step. But
    what loading a model has freed fits no tensor of a step, and what a step has freed fits no copy for a checkpoint.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
