"""Which parameters full fine-tuning leaves as they are."""

from __future__ import annotations

import re

BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks|layer)\.(\d+)\.")
"""Place of a transformer block's number in the name of a parameter."""

_EMBEDDINGS = ("embed", "wte", "wpe")


def is_frozen(name: str, freeze_layers: int, freeze_modules: tuple[str, ...]) -> bool:
    """Whether a parameter is left as it is.

    Args:
        name: Of the parameter.
        freeze_layers: The first blocks, so many, are frozen, and with any of them the embeddings below them.
        freeze_modules: Modules by the end of their names or the whole of them: ``mlp``, ``model.layers.3``.
    """
    block = BLOCK.search(name)
    if block is not None and int(block[1]) < freeze_layers:
        return True
    if freeze_layers and block is None and any(part in name for part in _EMBEDDINGS):
        return True
    return any(f".{module}." in f".{name}" for module in freeze_modules)
