"""Where the rows come from, and how they become tokens."""

from __future__ import annotations

import difflib
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from luthier.config.base import Config
from luthier.config.checks import ChecksConfig, Redaction
from luthier.row_formats import COLUMNS


class DatasetConfig(Config):
    """One task's files. Each is JSONL, JSON, CSV, TSV or Parquet, told by its ending, or a directory that
    ``datasets.save_to_disk`` made; by path or by fsspec URI. All but Parquet may be compressed (.gz, .zst).

    Columns: ``messages`` (role, content), or ``prompt`` and ``completion``, or ``text`` and ``label``; other objectives
    than ``sft`` read ``text``, or ``text`` and ``label``, or ``prompt``, ``chosen`` and ``rejected``.
    """

    name: str = "data"
    """Name of the task in reports."""

    train: str
    """File of training rows."""

    validation: str | None = None
    """File of rows that select checkpoints and sweep winners."""

    test: str | None = None
    """File of rows that are read once, by the final evaluation."""

    system: str | None = None
    """System message put before each prompt (text/label and prompt/completion rows)."""

    prompt: str = "{text}"
    """Question made of a text/label row; ``{text}`` stands for the text."""

    weight: float | None = Field(default=None, gt=0.0)
    """Share of the rows (with ``train.packing``, of the packs) of training that are this task's, relative to the other
    datasets' weights; some rows then come oftener than once an epoch, others less often. None: every row once."""

    labels: tuple[str, ...] | None = None
    """The allowed labels; a row with another is refused. None: every label found in the training rows."""

    columns: dict[str, str] = Field(default_factory=dict)
    """Columns that the file calls otherwise, luthier's name first: ``{text: body, label: category}``. Dots lead into
    nested objects (``{text: body.en}``)."""

    @field_validator("columns")
    @classmethod
    def _columns_known(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name not in COLUMNS:
                near = difflib.get_close_matches(name, sorted(COLUMNS), n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(sorted(COLUMNS))}"
                raise ValueError(f"columns has {name!r}, which is no column of luthier's (they come first); {hint}")
        return value

    @field_validator("prompt")
    @classmethod
    def _prompt_has_text(cls, value: str) -> str:
        if "{text}" not in value:
            raise ValueError(f"prompt {value!r} has no {{text}}; put {{text}} where the row's text belongs")
        return value

    @field_validator("labels")
    @classmethod
    def _labels_distinct(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (len(value) < 2 or len(set(value)) != len(value)):
            raise ValueError(f"labels {value!r} must be at least two, each once")
        return value

    @model_validator(mode="after")
    def _splits_are_distinct(self) -> DatasetConfig:
        files = [f for f in (self.train, self.validation, self.test) if f is not None]
        if len(set(files)) != len(files):
            raise ValueError("train, validation and test must be different files, or the test figures mean nothing")
        return self


class DataConfig(Config):
    """How rows become token sequences."""

    max_length: int = Field(default=512, ge=8)
    """Longest sequence in tokens; what lies behind that is cut off a longer row."""

    assistant_only_loss: bool = True
    """Learn only the assistant's answers. False: every token of the conversation."""

    truncation: bool = True
    """Cut rows longer than max_length. False: such a row is an error."""

    max_dropped_fraction: float = Field(default=0.01, ge=0.0, lt=1.0)
    """Share of training rows that may be left without any token to learn after truncation; more is an error."""

    max_train_samples: Annotated[int, Field(ge=1)] | None = None
    """Use only this many training rows, drawn evenly by the seed; None: all."""

    max_eval_samples: Annotated[int, Field(ge=1)] | None = None
    """Use only this many validation rows, drawn evenly by the seed; None: all."""

    checks: ChecksConfig = ChecksConfig()
    """What is looked for in the rows, such as duplicates and leakage."""

    redact: Redaction | None = None
    """Personal data and secrets that are taken out before tokenising: ``mask`` or ``drop``, or ``way`` and ``kinds``. None:
    rows stay as they are."""
