"""How near generated texts come to their references, row by row or as a corpus.

Shape legend: R resamples, N rows, S sufficient statistics of a corpus figure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from luthier.trainers.evaluation.intervals import Statistic, mean_statistic
from luthier.trainers.evaluation.metrics import FloatArray, IntArray

_ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
_ARTICLES = frozenset({"a", "an", "the"})


def exact_match_rows(references: Sequence[str], answers: Sequence[str]) -> FloatArray:
    """1 where the whole answer is the reference, character for character but for white space around it."""
    pairs = zip(references, answers, strict=True)
    return np.array([reference.strip() == answer.strip() for reference, answer in pairs], dtype=np.float64)


def rouge_rows(
    references: Sequence[str], answers: Sequence[str], names: Sequence[str] = tuple(_ROUGE)
) -> dict[str, FloatArray]:
    """ROUGE F-measures of each row (Lin 2004), without stemming: of words, of pairs of words, of the longest sequence."""
    scorer = RougeScorer([_ROUGE[name] for name in names], tokenizer=_UnicodeTokenizer())
    scored = [scorer.score(reference, answer) for reference, answer in zip(references, answers, strict=True)]
    return {name: np.array([one[_ROUGE[name]].fmeasure for one in scored]) for name in names}


def rouge_l_rows(references: Sequence[str], answers: Sequence[str]) -> FloatArray:
    """ROUGE-L alone."""
    return rouge_rows(references, answers, ("rouge_l",))["rouge_l"]


def token_f1_rows(references: Sequence[str], answers: Sequence[str]) -> FloatArray:
    """F1 of the words that answer and reference share, counted as often as they occur, without English articles
    (Rajpurkar et al. 2016)."""
    return np.array([_token_f1(_words(one), _words(other)) for one, other in zip(references, answers, strict=True)])


def _words(text: str) -> Counter[str]:
    words = Counter(_UnicodeTokenizer().tokenize(text))
    return Counter({word: count for word, count in words.items() if word not in _ARTICLES}) or words


def _token_f1(reference: Counter[str], answer: Counter[str]) -> float:
    if not reference or not answer:
        return float(reference == answer)
    return 2 * (reference & answer).total() / (reference.total() + answer.total())


class _UnicodeTokenizer:
    """Words of any script; the library's own drops every letter outside a-z, so that other scripts score 0.

    Scripts without spaces between words are taken character by character.
    """

    _TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")

    def tokenize(self, text: str) -> list[str]:
        """The text's tokens."""
        return self._TOKEN.findall(text.lower())


class CorpusFigure:
    """A figure of all rows together, computed from counts that add up over rows, so that resamples are cheap.

    Args:
        name: Of the metric.
        metric: A sacreBLEU metric.
        references: Of each row.
        answers: In the same order.
    """

    def __init__(self, name: str, metric: Any, references: Sequence[str], answers: Sequence[str]) -> None:
        self._name, self._metric = name, metric
        # What sacreBLEU's own resampling is built on; it has no public name.
        self._counts_NS: IntArray = np.array(metric._extract_corpus_statistics(list(answers), [list(references)]))

    @property
    def value(self) -> float:
        """On all rows, between 0 and 1."""
        return self._of(self._counts_NS.sum(axis=0))

    def statistic(self, rows_RN: IntArray) -> dict[str, FloatArray]:
        """For every resample."""
        return {self._name: np.array([self._of(self._counts_NS[rows_N].sum(axis=0)) for rows_N in rows_RN])}

    def _of(self, counts_S: IntArray) -> float:
        return float(self._metric._compute_score_from_stats(counts_S.tolist()).score) / 100.0


def corpus_figures(references: Sequence[str], answers: Sequence[str]) -> dict[str, CorpusFigure]:
    """BLEU (Papineni et al. 2002; sacreBLEU's 13a tokens, exponential smoothing) and chrF (Popović 2015; six characters,
    beta 2)."""
    made = {"bleu": BLEU(force=True), "chrf": CHRF()}
    return {name: CorpusFigure(name, metric, references, answers) for name, metric in made.items()}


def text_figures(
    references: Sequence[str], answers: Sequence[str], *, free_text: bool
) -> tuple[dict[str, float], list[Statistic]]:
    """Values on all rows, and how to compute them for resamples.

    Args:
        references: Of each row.
        answers: In the same order.
        free_text: Whether answers are texts of their own; False: they are labels, of which pairs of words and n-grams
            tell nothing.
    """
    names = tuple(_ROUGE) if free_text else ("rouge_l",)
    rows = {"exact_match": exact_match_rows(references, answers)}
    if free_text:
        rows["token_f1"] = token_f1_rows(references, answers)
    rows |= rouge_rows(references, answers, names)
    values = {name: float(values_N.mean()) for name, values_N in rows.items()}
    statistics = [mean_statistic(name, values_N) for name, values_N in rows.items()]
    if free_text:
        corpus = corpus_figures(references, answers)
        values |= {name: figure.value for name, figure in corpus.items()}
        statistics += [figure.statistic for figure in corpus.values()]
    return values, statistics
