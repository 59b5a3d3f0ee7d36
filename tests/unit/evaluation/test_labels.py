"""Which label an answer means."""

from __future__ import annotations

import pytest

from luthier.errors import DataError
from luthier.trainers.evaluation.labels import LabelSet, normalise


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        ("Science", "science"),
        ("  science.\n", "science"),
        ("science!?\nBecause it is physics.", "science"),
        ("\n\nscience", "science"),
        ("STRASSE", normalise("straße")),
        ("C++", "c++"),
        ("", ""),
        (" \n ", ""),
        ("a science", "a science"),
    ],
)
def test_normalise(answer: str, meaning: str) -> None:
    assert normalise(answer) == meaning


def test_answers_that_are_no_label_fall_into_the_last_column() -> None:
    labels = LabelSet(("net", "Science"))
    assert [labels.of_answer(text) for text in ("science", "NET.", "the net", "")] == [1, 0, 2, 2]
    assert labels.other == 2


@pytest.mark.parametrize("labels", [("a", "A"), ("a", "a."), ("a", ""), ("a", "(other)"), ("a", " ! ")])
def test_labels_that_no_answer_could_tell_apart_are_refused(labels: tuple[str, ...]) -> None:
    with pytest.raises(DataError):
        LabelSet(labels)


def test_a_foreign_true_label_names_row_and_labels() -> None:
    with pytest.raises(DataError, match=r"test\.jsonl:7.*'mail'.*net, science"):
        LabelSet(("net", "science")).of_truth("mail", "test.jsonl:7")
