"""From answers to figures: all rows together, each dataset's, and those of each value of a field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from luthier.config import RunConfig
from luthier.preflight import class_labels

if TYPE_CHECKING:
    from luthier.evaluation_parts import Slices, SliceScores
    from luthier.evaluation_schema import Evaluation, TaskScores
    from luthier.rows import Row
    from luthier.trainers.evaluation import Prediction
    from luthier.trainers.evaluation.measured import ExtraMetric
    from luthier.trainers.generate import Scored

MAX_SLICES = 20
"""Values of a field that are told; of more, those with the most rows."""

NO_VALUE = "(none)"


def score_all(
    cfg: RunConfig, scored: Mapping[str, Sequence[Scored]], rows: Sequence[Row], few_shot_k: int
) -> Evaluation:
    """All rows together, those of each dataset where there are several, and the slices that are asked for.

    Args:
        cfg: The configuration.
        scored: By variant its answers, in the order of the rows.
        rows: The rows that were asked.
        few_shot_k: Examples in the few-shot prompt.
    """
    labels = class_labels(cfg, rows)
    everything = range(len(rows))
    evaluation = score_rows(cfg, scored, rows, everything, labels, few_shot_k)
    slices = {field: _slices(cfg, scored, rows, field, labels) for field in cfg.evaluate.slices}
    return evaluation.model_copy(update={"tasks": _tasks(cfg, scored, rows), "slices": slices})


def _tasks(cfg: RunConfig, scored: Mapping[str, Sequence[Scored]], rows: Sequence[Row]) -> dict[str, TaskScores]:
    from luthier.evaluation_schema import TaskScores

    names = list(dict.fromkeys(row.dataset for row in rows))
    tasks: dict[str, TaskScores] = {}
    for name in names if len(names) > 1 else ():
        places = [place for place, row in enumerate(rows) if row.dataset == name]
        if len(places) > 1:  # an interval takes two rows
            labels = class_labels(cfg, [rows[place] for place in places])
            alone = score_rows(cfg, scored, rows, places, labels)
            tasks[name] = TaskScores(n=alone.n, variants={one: found.metrics for one, found in alone.variants.items()})
    return tasks


def _slices(
    cfg: RunConfig,
    scored: Mapping[str, Sequence[Scored]],
    rows: Sequence[Row],
    field: str,
    labels: tuple[str, ...] | None,
) -> Slices:
    from luthier.evaluation_parts import Slices

    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.fields.get(field, NO_VALUE), []).append(place)
    largest_first = sorted(places, key=lambda value: (-len(places[value]), value))
    told = tuple(_slice(cfg, scored, rows, value, places[value], labels) for value in largest_first[:MAX_SLICES])
    return Slices(slices=told, num_left_out=len(largest_first) - len(told))


def _slice(
    cfg: RunConfig,
    scored: Mapping[str, Sequence[Scored]],
    rows: Sequence[Row],
    value: str,
    places: Sequence[int],
    labels: tuple[str, ...] | None,
) -> SliceScores:
    from luthier.evaluation_parts import SliceScores

    if len(places) < 2:
        return SliceScores(value=value, n=len(places))
    found = score_rows(cfg, scored, rows, places, labels)
    variants = {name: one.metrics for name, one in found.variants.items()}
    return SliceScores(value=value, n=found.n, variants=variants, differences=found.differences)


def score_rows(
    cfg: RunConfig,
    scored: Mapping[str, Sequence[Scored]],
    rows: Sequence[Row],
    places: Sequence[int],
    labels: tuple[str, ...] | None,
    few_shot_k: int = 0,
) -> Evaluation:
    """The rows at some places, answered by every variant.

    Args:
        cfg: The configuration.
        scored: By variant its answers, in the order of the rows.
        rows: The rows that were asked.
        places: Which of them.
        labels: The classes; None: answers are free text.
        few_shot_k: Recorded in the result.
    """
    from luthier.trainers.evaluation import score

    predictions = {
        name: [_prediction(rows[place], answers[place]) for place in places] for name, answers in scored.items()
    }
    likely = {
        name: [(answers[place].nll, answers[place].num_tokens) for place in places] for name, answers in scored.items()
    }
    return score(
        predictions,
        labels,
        confidence=cfg.evaluate.confidence,
        bootstrap_samples=cfg.evaluate.bootstrap_samples,
        seed=cfg.seed,
        few_shot_k=few_shot_k,
        perplexity=None if cfg.train.objective == "classification" else likely,
        text_metrics=cfg.train.answers_prompts,
        extra=extra_metrics(cfg, rows, labelled=labels is not None),
    )


def _prediction(row: Row, scored: Scored) -> Prediction:
    from luthier.trainers.evaluation import Prediction

    return Prediction(
        row_id=row.row_id,
        label=row.label or row.answer,
        answer=scored.answer.text,
        scores=None if scored.classified is None else scored.classified.scores,
        probability=scored.answer.probability,
        row={"row_id": row.row_id, "question": row.question, "dataset": row.dataset, **row.fields},
    )


def extra_metrics(cfg: RunConfig, rows: Sequence[Row], *, labelled: bool) -> tuple[ExtraMetric, ...]:
    """The user's own metrics, and those of answers that must be JSON.

    Raises:
        ConfigError: A function or the schema can't be used.
    """
    from luthier.trainers.evaluation.json_metrics import json_metrics
    from luthier.trainers.evaluation.user_metrics import user_metrics

    own = user_metrics(cfg.evaluate.metrics)
    if labelled or not cfg.train.answers_prompts:
        return own
    return (*json_metrics(cfg.evaluate.json_schema, [row.answer for row in rows]), *own)
