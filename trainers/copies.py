"""Copies of training state that no later step changes."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch


def copied(value: Any) -> Any:
    """The value with every tensor copied to the CPU, so that the next optimizer step does not change it."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if type(value) in (list, tuple):
        return type(value)(copied(one) for one in value)
    if type(value) in (dict, OrderedDict):
        return type(value)((key, copied(one)) for key, one in value.items())
    return copy.deepcopy(value)
