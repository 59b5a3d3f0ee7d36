"""A new run's adapter, drawn as the run would draw it alone, and its form on storage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from luthier.config.train import TrainConfig
from luthier.errors import ConfigError
from luthier.trainers.fused import plain_lora
from luthier.trainers.model import with_adapter
from luthier.trainers.together.sliced import Adapter, Pair, weights_of


@dataclass(frozen=True)
class NewAdapter:
    """An adapter apart from its base.

    Attributes:
        pairs: By the name of the layer.
        settings: peft's description of it.
    """

    pairs: Adapter
    settings: Any

    def parameters(self) -> list[nn.Parameter]:
        """The trained weights, layer by layer."""
        return weights_of(self.pairs)

    def write(self, directory: Path) -> None:
        """Write ``adapter/``, as :func:`luthier.trainers.export.write_weights` does for a run by itself."""
        state: dict[str, torch.Tensor] = {}
        for layer, pair in self.pairs.items():
            for name, weight in (("lora_A", pair.a_RI), ("lora_B", pair.b_OR)):
                state[f"base_model.model.{layer}.{name}.weight"] = weight.detach().float().cpu().contiguous()
        (directory / "adapter").mkdir(parents=True)
        save_file(state, directory / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
        self.settings.save_pretrained(str(directory / "adapter"))


def draw_adapter(base: Any, train: TrainConfig, seed: int) -> NewAdapter:
    """A new adapter for a base, which is left without it.

    peft puts it on the base and takes it off again, after ``torch.manual_seed(seed)``: so a run begins with the weights
    that it has alone, unless loading its base draws random numbers, as that of no model with all its weights does.

    Args:
        base: A transformers causal language model, frozen.
        train: Describes the adapter.
        seed: The run's.

    Raises:
        ConfigError: ``lora_target_modules`` names no module, or one that is no plain linear layer below the head.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = with_adapter(base, train)
    try:
        layers = [(name, one) for name, one in base.named_modules() if isinstance(one, BaseTunerLayer)]
        head = base.get_output_embeddings()
        pairs = {name: _pair(name, layer, head, train) for name, layer in layers}
        return NewAdapter(pairs, _settings(model))
    finally:
        model.unload()


def _pair(name: str, layer: Any, head: nn.Module, train: TrainConfig) -> Pair:
    from peft.tuners.lora import Linear as LoraLinear

    if type(layer) is not LoraLinear or not plain_lora(layer) or layer is head:
        raise ConfigError(
            f"train.lora_target_modules={train.lora_target_modules!r} puts an adapter on {name}; trials that share a base "
            "have adapters on plain linear layers below the head alone: leave that one out."
        )
    (adapter,) = layer.lora_A
    return Pair(layer.lora_A[adapter].weight, layer.lora_B[adapter].weight, float(layer.scaling[adapter]))


def _settings(model: Any) -> Any:
    settings = model.peft_config["default"]
    settings.inference_mode = True
    return settings
