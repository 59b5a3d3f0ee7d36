"""How bytes of text become tokens: by the model's own tokenizer where its files are at hand, else by rule of thumb."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from luthier.config.data import DatasetConfig
from luthier.config.model import ModelConfig
from luthier.paths import cache_dir

BYTES_PER_TOKEN = 3.5
"""English prose under a 50k byte-pair vocabulary lies around 4; rows with names, code or other languages lie lower, and
too many tokens is the safer error in a plan."""

TEMPLATE_TOKENS = 24
"""What a chat template adds to a conversation of two or three messages."""

SAMPLED_ROWS = 256
"""Lines that are really tokenised, to learn how many bytes a token has."""

_MARK = "\N{SNOWMAN}"
"""Stands for the text of a row in an otherwise empty conversation."""


@dataclass(frozen=True)
class Scale:
    """Bytes to tokens in one dataset.

    Attributes:
        bytes_per_token: Of the rows' own text.
        frame_tokens: What stands around that text: template, system message and prompt.
        shared_tokens: How many of these come before the text.
    """

    bytes_per_token: float
    frame_tokens: int
    shared_tokens: int

    def tokens(self, num_bytes: int) -> int:
        """Of so much of the rows' text."""
        return round(num_bytes / self.bytes_per_token)


def by_bytes(dataset: DatasetConfig) -> Scale:
    """The rule of thumb."""
    before = len((dataset.system or "").encode()) + len(dataset.prompt.partition("{text}")[0].encode())
    after = len(dataset.prompt.partition("{text}")[2].encode())
    shared = TEMPLATE_TOKENS // 2 + round(before / BYTES_PER_TOKEN)
    return Scale(
        BYTES_PER_TOKEN, TEMPLATE_TOKENS + round((before + after) / BYTES_PER_TOKEN), shared if dataset.system else 0
    )


def scale_for(model: ModelConfig, *, chat: bool) -> Callable[[DatasetConfig], Scale]:
    """How rows become tokens for a model.

    Args:
        model: Its tokenizer's files are used where they are on this machine.
        chat: Whether rows become conversations by the chat template.
    """
    directory = _tokenizer_dir(model)
    if directory is None:
        return by_bytes
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    render = _template(directory) if chat else None

    def scale(dataset: DatasetConfig) -> Scale:
        guess = by_bytes(dataset)
        ratio = _bytes_per_token(tokenizer, Path(dataset.train).expanduser()) or guess.bytes_per_token
        if render is None:
            return Scale(ratio, guess.frame_tokens, guess.shared_tokens)
        system = [{"role": "system", "content": dataset.system}] if dataset.system else []
        asked = {"role": "user", "content": dataset.prompt.replace("{text}", _MARK)}
        before, _, after = render([*system, asked, {"role": "assistant", "content": ""}]).partition(_MARK)
        counts = [len(tokenizer.encode(part, add_special_tokens=False).ids) for part in (before, after)]
        return Scale(ratio, sum(counts), counts[0])

    return scale


def _bytes_per_token(tokenizer: Any, file: Path) -> float | None:
    """Over the first rows of a file of lines; None: there are none to read."""
    try:
        with file.open("rb") as stream:
            texts = [text for line in islice(stream, SAMPLED_ROWS) for text in _texts(json.loads(line))]
    except (OSError, ValueError):
        return None
    tokens = sum(len(one.ids) for one in tokenizer.encode_batch(texts, add_special_tokens=False))
    return sum(len(text.encode()) for text in texts) / tokens if tokens else None


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for one in value.values() for text in _texts(one)]
    if isinstance(value, list):
        return [text for one in value for text in _texts(one)]
    return [str(value)]


def _template(directory: Path) -> Callable[[list[dict[str, Any]]], str] | None:
    """The model's chat template; None where it has none, or one that needs more than messages."""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    settings = _settings(directory)
    file = directory / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.exists() else settings.get("chat_template")
    if not isinstance(source, str):
        return None
    special = {key: _content(settings.get(key)) for key in ("bos_token", "eos_token")}
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["strftime_now"] = lambda form: form
    environment.globals["raise_exception"] = lambda message: message

    def render(messages: list[dict[str, Any]]) -> str:
        return environment.from_string(source).render(messages=messages, add_generation_prompt=False, **special)

    try:
        rendered = render([{"role": "user", "content": _MARK}, {"role": "assistant", "content": ""}])
    except (TemplateError, TypeError):
        return None
    return render if _MARK in rendered else None


def _settings(directory: Path) -> dict[str, Any]:
    file = directory / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return settings if isinstance(settings, dict) else {}


def _content(token: object) -> str:
    """A special token's text, which is given as such or as an object."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _tokenizer_dir(model: ModelConfig) -> Path | None:
    """Where the tokenizer lies on this machine; None: nowhere, or the library that reads it is not installed."""
    if importlib.util.find_spec("tokenizers") is None or importlib.util.find_spec("jinja2") is None:
        return None
    name = model.model_name_or_path
    if name.startswith("package:"):
        places = sorted((cache_dir() / "models").glob(f"{name.removeprefix('package:')}-*"))
    elif Path(name).expanduser().is_dir():
        places = [Path(name).expanduser()]
    else:
        places = _in_hub_cache(model)
    return next((place for place in places if (place / "tokenizer.json").is_file()), None)


def _in_hub_cache(model: ModelConfig) -> list[Path]:
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(model.model_name_or_path, "tokenizer.json", revision=model.revision)
    except ValueError:  # no name that the hub could have
        return []
    return [Path(found).parent] if isinstance(found, str) else []
