"""What is certain to stop a run at a later stage, found before anything is started."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.config import RunConfig
from luthier.config.judge import rows_for_a_gain
from luthier.config.sequence import judged_datasets, trainings
from luthier.errors import ConfigError, DataError
from luthier.evaluation_schema import CLASS_METRICS, JSON_METRICS, LABEL_TEXT_METRICS, TEXT_METRICS

if TYPE_CHECKING:
    from luthier.config.data import DatasetConfig
    from luthier.rows import Row
    from luthier.trainers.files import Split


Check = Callable[[], None]
"""Raises the LuthierError that a run would end with."""


def preflight(cfg: RunConfig) -> None:
    """Check everything that a whole run needs and that can be known now.

    Raises:
        ConfigError: Settings that can't work together here, or a port that is taken.
        DataError: A data file that can't be used, or a test split that can't be judged.
        OutputError: The registry can't be written.
    """
    for check in checks_of_run(cfg):
        check()


def checks_of_run(cfg: RunConfig) -> tuple[Check, ...]:
    """Everything that a whole run needs and that its config, its data and this machine tell."""
    servable = (partial(_check_servable, cfg),) if cfg.train.answers_prompts else ()
    sweep = checks_of_sweep(cfg) if cfg.tune is not None else ()
    port = (partial(check_port, cfg),) if cfg.train.is_served else ()
    return (*servable, *checks_of_candidate(cfg), *sweep, *port)


def checks_of_candidate(cfg: RunConfig) -> tuple[Check, ...]:
    """What it takes to train a model, judge it and register it."""
    return partial(_check_data, cfg), partial(check_judgeable, cfg), partial(_check_registry, cfg)


def checks_of_sweep(cfg: RunConfig) -> tuple[Check, ...]:
    """What a search space must be."""

    def check() -> None:
        from luthier.tuning import check_space

        check_space(cfg)

    return (check,)


def _check_data(cfg: RunConfig) -> None:
    from luthier.trainers.files import SPLITS, iter_split

    for training in trainings(cfg):
        for split in SPLITS:
            deque(iter_split(training.datasets, split, training.train.objective), maxlen=0)  # reads all, and keeps none


def _check_registry(cfg: RunConfig) -> None:
    from luthier.registry import Registry

    Registry(cfg.registry.uri, cfg.registry.alias).check_writable()


def check_judgeable(cfg: RunConfig) -> None:
    """Refuse a test split on which the gate can't decide.

    Raises:
        DataError: There are no or too few test rows, or labels that can't be told apart.
        ConfigError: ``gate.metric`` needs labels or a schema that are not there, or a metric of the user's can't be loaded.
    """
    from luthier.scoring import extra_metrics
    from luthier.trainers.evaluation.labels import LabelSet
    from luthier.trainers.files import evaluation_rows

    rows = evaluation_rows(cfg)
    if not rows:
        raise DataError(
            "no dataset has a test split, so nothing can be judged; add datasets[].test, or only train: luthier train."
        )
    _check_evaluation(cfg, rows)
    needed = rows_for_a_gain(cfg.evaluate.confidence) if cfg.gate.against else 2
    if len(rows) < needed:
        raise DataError(
            f"{len(rows)} test rows are too few: a gain at {cfg.evaluate.confidence:.0%} confidence takes at least "
            f"{needed}; add rows to datasets[].test."
        )
    labels = class_labels(cfg, rows)
    extra = extra_metrics(cfg, rows, labelled=labels is not None)
    _refuse_unmeasured(cfg, labelled=labels is not None, extra=[metric.name for metric in extra])
    if labels is None:
        _refuse_class_metric(cfg, rows)
        return
    known = LabelSet(labels)
    for row in rows:
        known.of_truth(str(row.label), row.row_id)


def check_port(cfg: RunConfig) -> None:
    """Refuse a taken port, where the endpoint will listen on this machine.

    Raises:
        ConfigError: Something listens there already.
    """
    from luthier.serving.address import require_free_port

    if cfg.cluster.address is None and not os.environ.get("RAY_ADDRESS"):
        require_free_port(cfg.serve.host, cfg.serve.port)


def class_labels(cfg: RunConfig, rows: Sequence[Row]) -> tuple[str, ...] | None:
    """The classes of an evaluation, in the order of the datasets.

    Args:
        cfg: Its datasets give their labels; one that lists none has those of its training and test rows.
        rows: The test rows; only the datasets that they are of count.

    Returns:
        None where a row has no label, so that answers are compared as text.
    """
    if not rows or any(row.label is None for row in rows):
        return None
    if cfg.train.objective == "classification":
        from luthier.trainers.files import classes_of

        return classes_of(cfg.datasets)
    names = {row.dataset for row in rows}
    datasets = [dataset for dataset in judged_datasets(cfg) if dataset.name in names]
    return tuple(dict.fromkeys(label for one in datasets for label in one.labels or _labels_found(one)))


def _labels_found(dataset: DatasetConfig) -> list[str]:
    from luthier.trainers.files import iter_split

    splits: tuple[Split, ...] = ("train", "test")
    rows = (row for split in splits for row in iter_split([dataset], split))
    return sorted({row.label for row in rows if row.label is not None})


def _refuse_class_metric(cfg: RunConfig, rows: Sequence[Row]) -> None:
    if cfg.gate.metric in CLASS_METRICS:
        unlabelled = next(row.row_id for row in rows if row.label is None)
        raise ConfigError(
            f"gate.metric={cfg.gate.metric} needs a label on every test row, and {unlabelled} has none; set it to "
            "exact_match or rouge_l, or leave it out."
        )


def _check_evaluation(cfg: RunConfig, rows: Sequence[Row]) -> None:
    """Columns and files that the evaluation is asked for."""
    from luthier.cluster.planning.costs import read_prices
    from luthier.fewshot import validation_sample
    from luthier.trainers.harness import check_harness

    for field in cfg.evaluate.slices:
        if not any(field in row.fields for row in rows):
            raise ConfigError(
                f"evaluate.slices: no test row has the column {field!r}; correct the name or leave it out."
            )
    if cfg.evaluate.prices is not None:
        read_prices(Path(cfg.evaluate.prices).expanduser(), "evaluate.prices")
    if len(cfg.evaluate.few_shot_ks) > 1:
        validation_sample(cfg)
    if cfg.evaluate.harness is not None:
        check_harness(cfg.evaluate.harness, offline=cfg.offline)
    judge = cfg.evaluate.judge
    if judge is not None and judge.api_key_env and not os.environ.get(judge.api_key_env):
        raise ConfigError(
            f"evaluate.judge.api_key_env: {judge.api_key_env} is not set; set it, or give its place in "
            f"secrets.{judge.api_key_env}."
        )


def _refuse_unmeasured(cfg: RunConfig, *, labelled: bool, extra: Sequence[str]) -> None:
    metric = cfg.gate.metric
    if metric in JSON_METRICS and metric not in extra:
        need = "answers in free text" if labelled else "evaluate.json_schema"
        if metric == "json_valid" and not labelled:
            need += ", or references that are all JSON objects or lists"
        raise ConfigError(f"gate.metric={metric} needs {need}; set another or leave it out.")
    if labelled and metric in TEXT_METRICS and metric not in LABEL_TEXT_METRICS:
        raise ConfigError(
            f"gate.metric={metric} is measured of free text, and every test row has a label; set it to one of "
            f"{', '.join((*CLASS_METRICS, *LABEL_TEXT_METRICS))}, or leave it out."
        )


def _check_servable(cfg: RunConfig) -> None:
    from luthier.serving.spec import base_name

    if (setting := cfg.train.not_servable) is not None:
        raise ConfigError(
            f"{setting}: the server can't load such an adapter; train without serving (luthier train, luthier evaluate) "
            f"and merge it (luthier export --merge), or leave {setting} out."
        )
    if base_name(cfg.model.model_name_or_path) == cfg.name:
        raise ConfigError(f"name: {cfg.name!r} is the base model's name at the endpoint too; choose another.")
