"""What became of a split's rows, added up table by table while they are tokenised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from luthier.config.data import DataConfig
from luthier.errors import DataError
from luthier.trainers.files import Split

SAMPLES: Mapping[Split, str] = {"train": "max_train_samples", "validation": "max_eval_samples"}
"""By split, the setting of ``data`` that limits how many tokenised rows are used; it changes none of them."""


@dataclass(frozen=True)
class SplitAccount:
    """What became of a split's rows: ``rows = kept + dropped``, and the reasons add up to ``dropped``.

    Attributes:
        rows: Rows read.
        kept: Rows that carry loss.
        truncated: Kept or dropped rows that lost tokens.
        dropped: Rows left without a token to learn.
        tokens: Tokens of the kept rows.
        loss_tokens: Those that carry loss; of classification, the rows.
        longest: Longest kept sequence in tokens; of preferences, both answers with their prompts.
        divided: Rows of plain text that were divided because they are too long.
        pieces: Sequences that these make.
        cut_tokens: Tokens that the truncated rows lost.
        reasons: Dropped rows by what left them without a token to learn.
        datasets: Rows read, by dataset.
        redacted: Rows that ``data.redact`` changed, by kind of what was taken out; a row may count for several.
        not_drawn: Kept rows, or pieces of divided ones, that are not used because of ``data.max_train_samples`` or
            ``data.max_eval_samples``.
        limits: The settings that decided all this, by key.
    """

    rows: int
    kept: int
    truncated: int
    dropped: int
    tokens: int
    loss_tokens: int
    longest: int
    divided: int = 0
    pieces: int = 0
    cut_tokens: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    datasets: Mapping[str, int] = field(default_factory=dict)
    redacted: Mapping[str, int] = field(default_factory=dict)
    not_drawn: int = 0
    limits: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def sequences(self) -> int:
        """What the kept rows make: one each, or the pieces of a divided one."""
        return self.kept - self.divided + self.pieces

    def under(self, data: DataConfig, split: Split) -> SplitAccount:
        """The same with the limits that decided it, and with what a sample of the split leaves out."""
        names = ["max_length", "max_dropped_fraction", *([SAMPLES[split]] if split in SAMPLES else [])]
        sample: int | None = getattr(data, SAMPLES[split]) if split in SAMPLES else None
        not_drawn = 0 if sample is None else max(self.sequences - sample, 0)
        return replace(self, not_drawn=not_drawn, limits={f"data.{name}": getattr(data, name) for name in names})


class Accountant:
    """Adds up a split's tables of encoded sequences, whose columns :data:`luthier.trainers.tokenise.ENCODED` lists."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._datasets: Counter[str] = Counter()
        self._redacted: Counter[str] = Counter()
        self._longest = 0
        self._first_truncated: str | None = None
        self._first_dropped: str | None = None

    def add(self, encoded: pa.Table) -> pa.Table:
        """Count a table's sequences; those that carry loss."""
        kept = encoded.filter(pc.is_null(encoded["why_dropped"]))
        cut, first_pieces = (encoded.filter(mask) for mask in (_over(encoded, "num_cut"), _at(encoded, 0)))
        lost = first_pieces.filter(pc.is_valid(first_pieces["why_dropped"]))
        lengths = pc.list_value_length(kept["input_ids"])
        self._sums.update(
            rows=first_pieces.num_rows,
            dropped=lost.num_rows,
            sequences=encoded.num_rows,
            divided=encoded.filter(_at(encoded, 1)).num_rows,
            truncated=cut.num_rows,
            cut_tokens=_sum(cut["num_cut"]),
            tokens=_sum(lengths),
            loss_tokens=_sum(kept["num_loss_tokens"]),
        )
        self._reasons.update(lost["why_dropped"].to_pylist())
        self._datasets.update(first_pieces["dataset"].to_pylist())
        self._redacted.update(pc.list_flatten(first_pieces["redacted"]).to_pylist())
        self._longest = max(self._longest, pc.max(lengths).as_py() or 0)
        self._first_truncated = self._first_truncated or _first(cut)
        self._first_dropped = self._first_dropped or _first(lost)
        return kept

    def account(self) -> SplitAccount:
        """What was counted so far."""
        sums = self._sums
        return SplitAccount(
            rows=sums["rows"],
            kept=sums["rows"] - sums["dropped"],
            truncated=sums["truncated"],
            dropped=sums["dropped"],
            tokens=sums["tokens"],
            loss_tokens=sums["loss_tokens"],
            longest=self._longest,
            divided=sums["divided"],
            pieces=sums["sequences"] - sums["rows"] + sums["divided"],
            cut_tokens=sums["cut_tokens"],
            reasons=dict(self._reasons.most_common()),
            datasets=dict(self._datasets),
            redacted=dict(self._redacted),
        )

    def check(self, data: DataConfig, split: Split) -> None:
        """Refuse a split that lost more than the config allows.

        Raises:
            DataError: Rows are too long, or too many have nothing to learn.
        """
        account = self.account()
        if account.truncated and not data.truncation:
            raise DataError(
                f"{split}: {account.truncated} rows are longer than data.max_length={data.max_length} tokens, the first "
                f"at {self._first_truncated}; raise data.max_length or set data.truncation: true."
            )
        if account.dropped > data.max_dropped_fraction * account.rows:
            raise DataError(
                f"{split}: {account.dropped} of {account.rows} rows have no token to learn after truncation to "
                f"data.max_length={data.max_length}, the first at {self._first_dropped}; the limit is "
                f"data.max_dropped_fraction={data.max_dropped_fraction}. Raise data.max_length."
            )


def _over(table: pa.Table, column: str) -> pa.ChunkedArray:
    return pc.greater(table[column], 0)


def _at(table: pa.Table, piece: int) -> pa.ChunkedArray:
    return pc.equal(table["piece"], piece)


def _sum(values: pa.ChunkedArray) -> int:
    return int(pc.sum(values).as_py() or 0)


def _first(table: pa.Table) -> str | None:
    return str(table["row_id"][0].as_py()) if table.num_rows else None
