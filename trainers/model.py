"""The model that a worker trains or asks: the base in its compute type, with adapters where wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from luthier.config.model import ModelConfig
from luthier.config.train import TrainConfig
from luthier.errors import ConfigError
from luthier.freezing import is_frozen
from luthier.trainers.adapter_start import remember_start
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
    """The model to train. Trained weights are float32; a frozen base is in the compute type, or in 4 bits.

    Args:
        base_model_dir: The pretrained model.
        model: How to load it.
        train: What to train of it.
        classes: Labels of a new classification head; none: a causal language model.

    Raises:
        ConfigError: Settings name modules that this model lacks, or leave nothing to train.
    """
    compute = torch.bfloat16 if train.bf16 else torch.float32
    frozen = train.method == "lora" or train.classification.freeze_body
    dtype = compute if frozen else torch.float32
    if classes:
        base = new_classifier(base_model_dir, model, dtype, classes)
    else:
        base = (load_base_in_4bit if train.load_in_4bit else load_base)(base_model_dir, model, dtype)
    base.config.use_cache = False
    if train.classification.freeze_body:
        freeze_body(base)
    if train.gradient_checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if train.method == "full":
        return _partly_frozen(base, train)
    if train.gradient_checkpointing:
        base.enable_input_require_grads()
    return with_adapter(base, train, "SEQ_CLS" if classes else "CAUSAL_LM")


def load_base_in_4bit(base_model_dir: Path, model: ModelConfig, dtype: torch.dtype) -> Any:
    """The pretrained model on this process's GPU, its linear layers in 4-bit NormalFloat with quantised constants
    (Dettmers et al. 2023), the rest in ``dtype``, which products are computed in.

    Raises:
        ConfigError: bitsandbytes is not installed where this worker runs, or there is no GPU.
    """
    import importlib.util

    if not torch.cuda.is_available() or importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "train.load_in_4bit needs a GPU and bitsandbytes on every worker's machine; run pip install bitsandbytes "
            "there, or set it to false."
        )
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return AutoModelForCausalLM.from_pretrained(
        base_model_dir,
        dtype=dtype,
        quantization_config=quantised,
        device_map={"": torch.cuda.current_device()},
        attn_implementation=model.attn_implementation,
        trust_remote_code=model.trust_remote_code,
        use_safetensors=True,
    )


def _partly_frozen(base: nn.Module, train: TrainConfig) -> nn.Module:
    """Leave out of training what the config freezes.

    Raises:
        ConfigError: That is everything, or a name in ``freeze_modules`` is no module's.
    """
    named = list(base.named_parameters(remove_duplicate=False))  # a head tied to the embeddings has two names
    names = [name for name, _ in named]
    for module in train.freeze_modules:
        if not any(is_frozen(name, 0, (module,)) for name in names):
            raise ConfigError(
                f"train.freeze_modules names {module!r}, which no module of this model is called; there are "
                f"{', '.join(_module_names(base))}."
            )
    for name, parameter in named:
        if is_frozen(name, train.freeze_layers, train.freeze_modules):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in base.parameters()):
        raise ConfigError(
            f"train.freeze_layers={train.freeze_layers} and train.freeze_modules={list(train.freeze_modules)} freeze "
            "every weight; freeze less."
        )
    return base


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


def with_adapter(base: Any, train: TrainConfig, task_type: str = "CAUSAL_LM") -> nn.Module:
    """A base with new adapters, as the config describes them.

    Raises:
        ConfigError: ``lora_target_modules`` or ``lora_modules_to_save`` names no module of this model.
    """
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    names = _module_names(base)
    for wanted in train.lora_modules_to_save:
        if wanted not in names:
            raise ConfigError(
                f"train.lora_modules_to_save names {wanted!r}, which no module of this model is called; there are "
                f"{', '.join(names)}."
            )
    targets = train.lora_target_modules
    lora = LoraConfig(
        task_type=task_type,
        r=train.lora_r,
        lora_alpha=train.lora_alpha,  # type: ignore[arg-type]  # peft also takes floats
        lora_dropout=train.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=train.use_rslora,
        use_dora=train.use_dora,
        init_lora_weights=train.init_lora_weights,  # type: ignore[arg-type]  # one of those that the config allows
        modules_to_save=list(train.lora_modules_to_save) or None,
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
    if train.changes_base:
        remember_start(model)
    return model


def _module_names(base: nn.Module) -> list[str]:
    """What modules that hold weights are called, by the last part of their names."""
    owners = (name.split(".")[-2:-1] for name, _ in base.named_parameters(remove_duplicate=False))
    return sorted({part for owner in owners for part in owner})
