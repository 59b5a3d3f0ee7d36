"""Figures of generated texts against hand-computed values and against the libraries."""

from __future__ import annotations

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu, corpus_chrf

from luthier.evaluation_schema import LABEL_TEXT_METRICS, TEXT_METRICS
from luthier.trainers.evaluation.text_metrics import (
    corpus_figures,
    exact_match_rows,
    rouge_rows,
    text_figures,
    token_f1_rows,
)

REFERENCES = ["the cat sat on the mat today", "größe und breite der stadt", "one two three four five", "データ処理"]
ANSWERS = ["the cat is on the mat", "größe der kleinen stadt", "", "データ"]


def test_exact_match_is_of_the_whole_answer() -> None:
    found = exact_match_rows(["net", "net", "net", "net"], [" net\n", "Net", "net.", "net\nx"])
    assert found.tolist() == [1.0, 0.0, 0.0, 0.0]


def test_rouge_l_equals_the_library_for_plain_english() -> None:
    pairs = [
        ("the cat sat on the mat", "The cat, on a mat!"),
        ("one_two three-four", "three four one two"),
        ("x", ""),
        ("a b c", "c b a"),
    ]
    scorer = RougeScorer(["rougeL"])
    expected = [scorer.score(reference, answer)["rougeL"].fmeasure for reference, answer in pairs]
    assert rouge_rows(*map(list, zip(*pairs, strict=True)))["rouge_l"].tolist() == pytest.approx(expected)
    # longest common subsequence "the cat on mat": 4 of 6 and 4 of 5 words
    assert expected[0] == pytest.approx(2 * (4 / 6) * (4 / 5) / (4 / 6 + 4 / 5))


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [("größe", "größe", 1.0), ("データ処理", "データ", 0.75), ("привет мир", "мир", 2 / 3)],
)
def test_rouge_l_reads_every_script(reference: str, answer: str, expected: float) -> None:
    assert rouge_rows([reference], [answer])["rouge_l"][0] == pytest.approx(expected)


def test_rouge_counts_words_and_pairs() -> None:
    found = rouge_rows(["a b c d"], ["a b d"])
    assert found["rouge_1"][0] == pytest.approx(2 * 3 / (4 + 3))
    assert found["rouge_2"][0] == pytest.approx(2 * 1 / (3 + 2))  # "a b" of three and of two pairs


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        ("the Eiffel Tower", "Eiffel tower.", 1.0),
        ("b b c", "b c d", 2 * 2 / 6),
        ("yes", "no", 0.0),
        ("the", "the", 1.0),
        ("yes", "", 0.0),
        ("?!", "...", 1.0),
    ],
)
def test_token_f1(reference: str, answer: str, expected: float) -> None:
    assert token_f1_rows([reference], [answer])[0] == pytest.approx(expected)


def test_corpus_figures_and_their_resamples_equal_the_library() -> None:
    figures = corpus_figures(REFERENCES, ANSWERS)
    rows = np.array([[0, 1, 2, 3], [0, 0, 1, 3], [1, 1, 1, 0]])
    for name, library in {"bleu": corpus_bleu, "chrf": corpus_chrf}.items():
        assert figures[name].value == pytest.approx(library(ANSWERS, [REFERENCES]).score / 100)
        expected = [library([ANSWERS[i] for i in one], [[REFERENCES[i] for i in one]]).score / 100 for one in rows]
        assert figures[name].statistic(rows)[name].tolist() == pytest.approx(expected)
        assert len(set(expected)) == 3


def test_free_text_has_all_figures_and_labels_have_those_that_tell_something() -> None:
    values, statistics = text_figures(REFERENCES, ANSWERS, free_text=True)
    assert tuple(values) == TEXT_METRICS
    everything = np.arange(4)[None, :]
    resampled = {name: found[0] for one in statistics for name, found in one(everything).items()}
    assert resampled == pytest.approx(values)
    assert tuple(text_figures(REFERENCES, ANSWERS, free_text=False)[0]) == LABEL_TEXT_METRICS
