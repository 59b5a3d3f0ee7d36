"""Trained weights in the form that peft, transformers and the server read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from luthier.trainers.adapter_start import on_unchanged_base


def write_weights(model: Any, weights: dict[str, torch.Tensor], directory: Path) -> None:
    """Write ``adapter/`` (peft, float32) or ``model/`` (transformers, bfloat16), safetensors only.

    Args:
        model: The model that was trained; its config and architecture are used, its own weights are not.
        weights: What :func:`luthier.trainers.strategies.base.weights_to_save` names, whole.
        directory: Where to write.
    """
    from peft import PeftModel

    if isinstance(model, PeftModel):
        whole, settings = on_unchanged_base(model, weights)
        state = {name: weight.float() for name, weight in whole.items()}
        model.save_pretrained(str(directory / "adapter"), state_dict=state, save_embedding_layers=False)
        if settings is not None:
            settings.save_pretrained(str(directory / "adapter"))
        (directory / "adapter" / "README.md").unlink(missing_ok=True)
    else:
        half = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
        model.save_pretrained(directory / "model", state_dict=half)
