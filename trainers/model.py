"""The model that a worker trains or asks: the base in its compute type, with adapters where wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from luthier.config.model import ModelConfig
from luthier.config.train import TrainConfig
from luthier.errors import ConfigError
from luthier.trainers.classifier import freeze_body, new_classifier


def load_base(base_model_dir: Path, model: ModelConfig, dtype: torch.dtype) -> Any:
    """The pretrained causal language model in one floating-point type."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        base_model_dir,
        dtype=dtype,
        attn_implementation=model.attn_implementation,
        trust_remote_code=model.trust_remote_code,
        use_safetensors=True,
    )


def build_trainable(
    base_model_dir: Path, model: ModelConfig, train: TrainConfig, classes: tuple[str, ...] = ()
) -> nn.Module:
    """The model to train. Trained weights are float32; a frozen base is in the compute type.

    Args:
        base_model_dir: The pretrained model.
        model: How to load it.
        train: What to train of it.
        classes: Labels of a new classification head; none: a causal language model.

    Raises:
        ConfigError: ``lora_target_modules`` names no layer of this model.
    """
    compute = torch.bfloat16 if train.bf16 else torch.float32
    frozen = train.method == "lora" or train.classification.freeze_body
    dtype = compute if frozen else torch.float32
    base = new_classifier(base_model_dir, model, dtype, classes) if classes else load_base(base_model_dir, model, dtype)
    base.config.use_cache = False
    if train.classification.freeze_body:
        freeze_body(base)
    if train.gradient_checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if train.method == "full":
        return base  # type: ignore[no-any-return]
    if train.gradient_checkpointing:
        base.enable_input_require_grads()
    return _with_adapter(base, train, "SEQ_CLS" if classes else "CAUSAL_LM")


def load_adapter(base: Any, adapter_dir: Path) -> Any:
    """Put a saved adapter on a base for inference, in the base's own type, as the server does."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(base, adapter_dir, autocast_adapter_dtype=False)
    return model.to(base.dtype).eval()


def load_trained(base_model_dir: Path, model: ModelConfig, weights_dir: Path | None, dtype: torch.dtype) -> Any:
    """A causal language model for inference in one floating-point type.

    Args:
        base_model_dir: The pretrained model.
        model: How to load it.
        weights_dir: Holds ``adapter/`` or ``model/`` of a trained model; None: the base itself.
        dtype: Compute type.
    """
    from transformers import GenerationConfig

    whole = weights_dir is not None and (weights_dir / "model").is_dir()
    loaded = load_base(weights_dir / "model" if whole and weights_dir else base_model_dir, model, dtype)
    # Greedy means greedy: the author's sampling settings, such as a repetition penalty, would creep in.
    loaded.generation_config = GenerationConfig()
    return loaded if weights_dir is None or whole else load_adapter(loaded, weights_dir / "adapter")


def _with_adapter(base: Any, train: TrainConfig, task_type: str) -> nn.Module:
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    targets = train.lora_target_modules
    lora = LoraConfig(
        task_type=task_type,
        r=train.lora_r,
        lora_alpha=train.lora_alpha,  # type: ignore[arg-type]  # peft also takes floats
        lora_dropout=train.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=train.use_rslora,
        use_dora=train.use_dora,
    )
    try:
        model: nn.Module = get_peft_model(base, lora)
    except ValueError as error:
        raise ConfigError(f"train.lora_target_modules is {targets!r}: {error}") from error
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            # The adapters' products run in the compute type by autocast; a detour through float32 would cost a tenth
            # of the step's time and change nothing.
            module.cast_input_dtype_enabled = False
    return model
