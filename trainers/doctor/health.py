"""From the findings of each row to the figures of each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from luthier.pii import KINDS
from luthier.trainers.doctor.corpus import Corpus
from luthier.trainers.doctor.labels import conflicting, counts, unknown
from luthier.trainers.doctor.lengths import Lengths, edges_of, length_outliers, lengths_of, ratio_outliers
from luthier.trainers.doctor.listed import Listed, listed, listed_beside
from luthier.trainers.files import Split


@dataclass(frozen=True)
class Health:
    """What was found in a split's rows.

    Attributes:
        rows: Rows looked at: all that were read, those without a token to learn too.
        labels: Rows per label; empty for data without labels.
        new_labels: Rows whose label no training row has.
        conflicting_labels: Rows asked the same as another one of the split with another label.
        repeated: Rows that are the same as an earlier one of the split.
        nearly_repeated: Rows nearly the same as an earlier one.
        also_in_train: Rows asked the same as a training row; none of the training split.
        nearly_in_train: Other rows that are nearly the same as a training row.
        also_in_validation: Test rows asked the same as a validation row.
        languages: Rows per language, by ISO 639 code; ``und`` where it can't be told.
        pii: Rows per kind of personal data that is in them as they were read; a row may count for several.
        with_pii: Rows with any of it.
        lengths: Tokens of the rows.
        unusual_length: Rows far shorter or longer than the rest.
        unusual_text: Rows of which a character takes far more or fewer tokens than of the rest.
    """

    rows: int
    labels: Mapping[str, int]
    new_labels: Listed
    conflicting_labels: Listed
    repeated: Listed
    nearly_repeated: Listed
    also_in_train: Listed
    nearly_in_train: Listed
    also_in_validation: Listed
    languages: Mapping[str, int]
    pii: Mapping[str, int]
    with_pii: Listed
    lengths: Lengths
    unusual_length: Listed
    unusual_text: Listed


def health_of(
    findings: Mapping[Split, pa.Table], near: float | None, max_length: int
) -> tuple[dict[Split, Health], tuple[int, ...]]:
    """The figures of all splits, and the edges of their histograms of length in tokens.

    Args:
        findings: By split, in order, what was found in its rows.
        near: Least similarity of near duplicates; None: they are not looked for.
        max_length: Tokens kept of a row.
    """
    corpus = Corpus(findings, near)
    edges = edges_of([table["num_tokens"].to_numpy() for table in findings.values()], max_length)
    known = set(counts(findings["train"]["label"])) if "train" in findings else set()
    return {split: _health(split, table, corpus, known, edges) for split, table in findings.items()}, edges


def _health(split: Split, table: pa.Table, corpus: Corpus, known: set[str], edges: Sequence[int]) -> Health:
    ids, labels = table["row_id"], table["label"]
    tokens, characters = (table[name].to_numpy() for name in ("num_tokens", "num_characters"))
    kinds, part = table["kinds"].to_numpy(), corpus.part(split)
    nobody = np.zeros(table.num_rows, dtype=bool)
    leaked = corpus.also_in(split, "train") if split != "train" else nobody
    nearly = corpus.near_train(split) & ~leaked if split != "train" else nobody
    return Health(
        rows=table.num_rows,
        labels=counts(labels),
        new_labels=listed(ids, unknown(labels, known) if known else nobody),
        conflicting_labels=listed(ids, conflicting(corpus.asked[part], labels)),
        repeated=listed_beside(corpus.ids, *corpus.repeated(split)),
        nearly_repeated=listed_beside(corpus.ids, *corpus.nearly_repeated(split)),
        also_in_train=listed(ids, leaked),
        nearly_in_train=listed(ids, nearly),
        also_in_validation=listed(ids, corpus.also_in(split, "validation") if split == "test" else nobody),
        languages=counts(table["language"]),
        pii={kind: num for place, kind in enumerate(KINDS) if (num := int((kinds >> place & 1).sum()))},
        with_pii=listed(ids, kinds > 0),
        lengths=lengths_of(tokens, edges),
        unusual_length=listed(ids, length_outliers(tokens)),
        unusual_text=listed(ids, ratio_outliers(tokens, characters)),
    )
