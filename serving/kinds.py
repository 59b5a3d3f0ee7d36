"""What a model's own files tell of it: what it does, and how much it reads. Nothing is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.errors import ServingError
from luthier.serving.spec import Task

_CLASSIFIER = "ForSequenceClassification"
_BODY = "Model"
"""How transformers' architectures without a head end, such as ``BertModel``: they make vectors and no text."""

_AFTER_PADDING = (
    "camembert",
    "data2vec-text",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
"""Types of models that count positions from the padding token's id on, so that the first of them take no token."""


def task_of(model_dir: Path) -> Task:
    """What a model does. One that sentence-transformers describes embeds, whatever its architecture."""
    architectures = _read(model_dir / "config.json").get("architectures") or []
    if any(one.endswith(_CLASSIFIER) for one in architectures):
        return "classify"
    if (model_dir / "modules.json").is_file() or any(one.endswith(_BODY) for one in architectures):
        return "embed"
    return "generate"


def longest_text(model_dir: Path, tokenizer_dir: Path, at_most: int) -> int:
    """Tokens that an encoder reads of a text.

    Args:
        model_dir: The model.
        tokenizer_dir: Its tokenizer.
        at_most: What the endpoint allows.
    """
    config = _read(model_dir / "config.json")
    positions = config.get("max_position_embeddings")
    if positions is not None and config.get("model_type") in _AFTER_PADDING:
        positions -= (config.get("pad_token_id") or 0) + 1
    described = [_read(path).get("max_seq_length") for path in model_dir.glob("sentence_*_config.json")]
    of_tokenizer = _read(tokenizer_dir / "tokenizer_config.json").get("model_max_length")
    return int(min(at_most, *(limit for limit in (positions, of_tokenizer, *described) if limit), at_most))


def require_classes(model_dir: Path, ref: str) -> None:
    """Refuse heads that put a text into other than one of several classes.

    Raises:
        ServingError: It is a reward model, a regression, or tells several labels of a text.
    """
    config = _read(model_dir / "config.json")
    kind = config.get("problem_type")
    labels = config.get("id2label")
    if kind not in (None, "single_label_classification") or (labels is not None and len(labels) < 2):
        told = f"problem_type {kind!r}" if kind else "a single output, as reward models and regressions have"
        raise ServingError(
            f"{ref} can't be served: it is a classifier with {told}; what is served puts each text into one of several "
            "classes (single_label_classification)."
        )


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file.

    Raises:
        ServingError: The file holds something else.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ServingError(f"{path}: not valid JSON ({error}); fetch the model again.") from error
    if not isinstance(found, dict):
        raise ServingError(f"{path}: holds {type(found).__name__}; it must be an object.")
    return found
