"""Tokenised data, made once before the trials that share it."""

from __future__ import annotations

import itertools
from pathlib import Path

from luthier.config import RunConfig
from luthier.config.domains import Choice, Grid
from luthier.config.tune import TuneConfig
from luthier.tuning.space import sweep_of, trial_config

_DATA_KEYS = ("data", "datasets")


def prepare_data(cfg: RunConfig, base_model_dir: Path) -> None:
    """Tokenise the training and validation splits for every listed variant of the data settings.

    Trials hold the cluster's CPUs while they run, and tokenising asks Ray for more: left to the trials, each
    would wait for the others.

    Raises:
        DataError: A file is missing or malformed.
    """
    from luthier.trainers.blocks import prepare_blocks

    searched = {path: domain for path, domain in sweep_of(cfg).search_space.items() if _is_data(path)}
    listed = {path: domain.values for path, domain in searched.items() if isinstance(domain, Choice | Grid)}
    for values in itertools.product(*listed.values()):
        trial = trial_config(cfg, dict(zip(listed, values, strict=True)))
        prepare_blocks(trial.datasets, trial.data, base_model_dir, ("train", "validation"), trial.train)


def trials_tokenise(tune: TuneConfig) -> bool:
    """Whether data settings are drawn from a range, so that a trial meets data not tokenised yet."""
    return any(_is_data(path) and not isinstance(d, Choice | Grid) for path, d in tune.search_space.items())


def _is_data(path: str) -> bool:
    return path.partition(".")[0] in _DATA_KEYS
