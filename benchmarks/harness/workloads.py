"""What is learnt in the benchmarks: rows as token ids and labels, the same for every side."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

from luthier.config import RunConfig, load_config
from luthier.rows import Message, Row
from luthier.trainers.base_model import prepare_base
from luthier.trainers.files import read_rows
from luthier.trainers.tokens import ChatTokenizer, Encoded

ROOT = Path(__file__).parents[2]
BATCH_ROWS = 8


@dataclass(frozen=True)
class Workload:
    """Rows to learn from, in the order in which every side that does not pack sees them.

    Attributes:
        name: Of the data.
        train: Rows to learn from.
        held_out: Rows for the final loss.
        batch_rows: Rows of an optimizer step: as many as ``SFTConfig`` and the quickstart take by default.
        pack_tokens: Tokens of a pack.
        batch_packs: Packs of an optimizer step that hold about as many tokens as ``batch_rows`` rows.
    """

    name: str
    train: tuple[Encoded, ...]
    held_out: tuple[Encoded, ...]
    batch_rows: int
    pack_tokens: int
    batch_packs: int


def base_config(*overrides: str) -> RunConfig:
    """The quickstart's model and data, with torch's default of all processors."""
    return load_config(ROOT / "configs" / "quickstart.yaml", list(overrides))


def workload(name: str, cfg: RunConfig) -> Workload:
    """``debian-sections``: short prompts, answers of a few tokens. ``longer-text``: long answers of uneven length.

    TRL attends to a pack as a whole, so packs are short: of the longest row, which TRL takes less time for, on both, than
    for all rows of a step in one pack.
    """
    base_dir = prepare_base(cfg.model, offline=True)
    tokenizer = ChatTokenizer(base_dir)
    if name == "debian-sections":
        dataset = cfg.datasets[0].model_copy(update={"train": str(ROOT / cfg.datasets[0].train)})
        rows, limit = read_rows(dataset, "train"), 128
    else:
        rows, limit = python_reference(), 768
    encoded = [tokenizer.encode(row, max_length=limit, assistant_only_loss=True) for row in rows]
    random.Random(0).shuffle(encoded)
    held_out, train = encoded[:32], [row for row in encoded[32:] if row.num_loss_tokens]
    pack_tokens = max(len(row.input_ids) for row in train)
    step_tokens = sum(len(row.input_ids) for row in train) / len(train) * BATCH_ROWS
    batch_packs = max(1, round(step_tokens / pack_tokens))
    return Workload(name, tuple(train), tuple(held_out[:16]), BATCH_ROWS, pack_tokens, batch_packs)


def python_reference() -> list[Row]:
    """Questions about Python and what its reference says: the text that every Python carries for ``help()``.

    Topics are cut at blank lines into pieces of 200 to 2,400 characters, so that lengths are uneven.
    """
    from pydoc_data.topics import topics

    draw = random.Random(1)
    rows: list[Row] = []
    for topic in sorted(topics):
        piece, size = "", draw.randint(200, 2400)
        for paragraph in topics[topic].split("\n\n"):
            piece += paragraph + "\n\n"
            if len(piece) >= size:
                rows.append(_asked(topic, piece, len(rows)))
                piece, size = "", draw.randint(200, 2400)
    return rows


def _asked(topic: str, text: str, number: int) -> Row:
    question = Message("user", f"What does the Python reference say about {topic}?")
    return replace(Row(f"python-reference:{number}", (question, Message("assistant", text.strip()))), dataset="python")
