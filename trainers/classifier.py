"""A pretrained body with a classification head: made anew for training, loaded with its labels for answering."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from luthier.config.model import ModelConfig
from luthier.errors import ModelError

_HEADS = ("classifier", "score")
"""What transformers calls a classification head; peft knows the same two."""


def new_classifier(base_model_dir: Path, model: ModelConfig, dtype: torch.dtype, classes: tuple[str, ...]) -> Any:
    """The pretrained body in one floating-point type with a new head in float32, drawn from torch's generator.

    Args:
        base_model_dir: The pretrained encoder or decoder.
        model: How to load it.
        dtype: Type of the body.
        classes: The labels; they are kept in the model's config as ``id2label``.

    Raises:
        ModelError: The head has a name that neither transformers nor peft commonly use.
    """
    from luthier.trainers.tokens import TextTokenizer

    labels = {"id2label": dict(enumerate(classes)), "label2id": {name: index for index, name in enumerate(classes)}}
    classifier = load_classifier(base_model_dir, model, dtype, num_labels=len(classes), **labels)
    classifier.config.pad_token_id = TextTokenizer(base_model_dir).pad_id  # decoders pool the last token that is not it
    classifier.config.problem_type = "single_label_classification"
    head_of(classifier).float()
    return classifier


def load_classifier(directory: Path, model: ModelConfig, dtype: torch.dtype, **settings: Any) -> Any:
    """A sequence classifier.

    Args:
        directory: A trained classifier, or a pretrained body, which gets a new head.
        model: How to load it.
        dtype: Floating-point type of all weights.
        settings: Values that replace those of the model's own config.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of a head that is newly initialised, which is the point
    try:
        return AutoModelForSequenceClassification.from_pretrained(
            directory,
            dtype=dtype,
            attn_implementation=model.attn_implementation,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,
            **settings,
        )
    finally:
        logging.set_verbosity(verbosity)


def head_of(classifier: Any) -> nn.Module:
    """The classification head.

    Raises:
        ModelError: It has an unknown name.
    """
    for name in _HEADS:
        head = getattr(classifier, name, None)
        if isinstance(head, nn.Module):
            return head
    raise ModelError(
        f"{type(classifier).__name__} has no head named {' or '.join(_HEADS)}; classify with another architecture."
    )


def freeze_body(classifier: Any) -> None:
    """Leave only the head to be trained, with the layer that pools an encoder's first token, where there is one."""
    classifier.requires_grad_(False)
    pooler = getattr(classifier.base_model, "pooler", None)
    for part in (head_of(classifier), pooler):
        if isinstance(part, nn.Module):
            part.float().requires_grad_(True)


def merge_classifier(
    base_model_dir: Path, model: ModelConfig, adapter_dir: Path, classes: tuple[str, ...], output: Path
) -> None:
    """Write an adapter and its head as a whole classifier in bfloat16, rounded once."""
    from peft import PeftModel

    base = new_classifier(base_model_dir, model, torch.float32, classes)
    merged: Any = PeftModel.from_pretrained(base, adapter_dir).merge_and_unload()
    merged.to(torch.bfloat16).save_pretrained(output)
