"""What trying a model out has shown, kept in the cache: an equal model need not be tried by the next process.

A verdict is about an architecture, computed in a type on a kind of device by certain versions of the libraries and of
the code that tries it; what its weights are does not matter.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from luthier.digests import atomic_write_text, sha256_file, sha256_json
from luthier.errors import OutputError
from luthier.paths import cache_dir
from luthier.trainers.base_model import subcache

_FOLDER = "verdicts"

T = TypeVar("T", bool, str | None)


def remembered(question: str, model: Any, answer: Callable[[], T]) -> T:
    """The answer that an equal model got, or else this one's, which is kept.

    Args:
        question: What is asked.
        model: A transformers (or peft) model on one device.
        answer: Tries the model.
    """
    note = f"{sha256_json([question, _code_of(answer), _fingerprint(model)])}.json"
    with suppress(OSError, ValueError, KeyError):  # not there, or half a file: the model is tried
        known: T = json.loads((cache_dir() / _FOLDER / note).read_text(encoding="utf-8"))["answer"]
        return known
    found = answer()
    with suppress(OutputError):  # a cache that can't be written costs every process the try, and nothing else
        atomic_write_text(subcache(_FOLDER) / note, json.dumps({"question": question, "answer": found}))
    return found


def _code_of(answer: Callable[[], object]) -> str:
    return sha256_file(Path(inspect.getfile(answer)))


def _fingerprint(model: Any) -> list[Any]:
    """All that an answer may depend on: settings, every module's class and own forward pass, types and versions."""
    import peft
    import transformers

    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    settings = {key: value for key, value in causal.config.to_dict().items() if key != "_name_or_path"}
    modules = [
        [name, f"{type(module).__module__}.{type(module).__qualname__}", _own_forward(module)]
        for name, module in model.named_modules()
    ]
    types = sorted({f"{parameter.dtype} {parameter.device.type}" for parameter in model.parameters()})
    computed_in = (
        str(torch.get_autocast_dtype(causal.device.type)) if torch.is_autocast_enabled(causal.device.type) else ""
    )
    versions = [torch.__version__, transformers.__version__, peft.__version__]
    return [json.dumps(settings, sort_keys=True, default=str), modules, types, computed_in, versions]


def _own_forward(module: torch.nn.Module) -> str:
    """What replaces a module's forward pass on the module itself, by its name."""
    own = vars(module).get("forward")
    return "" if own is None else f"{own.__module__}.{own.__qualname__}"
