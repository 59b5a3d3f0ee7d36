"""The search space: checked against the config's schema before the first trial, then handed to Ray Tune."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from luthier.config import RunConfig, apply_overrides
from luthier.config.domains import Choice, Domain, Grid, QUniform, RandInt
from luthier.config.eval_metrics import measured_for
from luthier.config.shared_base import refuse_group
from luthier.config.tune import TuneConfig, is_set, ordered
from luthier.errors import ConfigError

# What a trial is made of. The rest of the config does not change a trial's result (serve, gate, ...), or is
# prepared once for all trials (model).
SEARCHABLE = ("train", "data", "datasets", "seed")

# Above this many combinations only pairs of values are tried together: most rules span at most two keys.
MAX_COMBINATIONS = 2048

# An inner point of a range (1 - 1/golden ratio): not round, so a real-valued range over an integer key shows.
_INNER = 0.381966


def sweep_of(cfg: RunConfig) -> TuneConfig:
    """The sweep's settings.

    Raises:
        ConfigError: The config has no ``tune`` section.
    """
    if cfg.tune is None:
        raise ConfigError("the config has no 'tune' section; add tune.search_space to sweep.")
    return cfg.tune


def trial_config(cfg: RunConfig, params: Mapping[str, Any]) -> RunConfig:
    """The frozen config of one trial: ``cfg`` with the sweep's overrides, then the drawn values.

    The test split is taken out, so that no trial can read it, and the sweep itself, so that none is nested. What the sweep
    looks at is measured.

    Raises:
        ConfigError: A path or value is not valid.
    """
    tune = sweep_of(cfg)
    wanted = tuple(dict.fromkeys((*cfg.train.eval_metrics, *measured_for(tune.metrics, cfg.train.objective))))
    measured = {"train.eval_metrics": wanted} if wanted else {}
    changed = apply_overrides(cfg, {**measured, **tune.overrides, **params})
    datasets = tuple(dataset.model_copy(update={"test": None}) for dataset in changed.datasets)
    return changed.model_copy(update={"datasets": datasets, "tune": None})


def final_config(cfg: RunConfig, params: Mapping[str, Any]) -> RunConfig:
    """The frozen config of the run that follows the sweep: full length, with the winner's values.

    Raises:
        ConfigError: A path or value is not valid.
    """
    return apply_overrides(cfg, params).model_copy(update={"tune": None})


def check_space(cfg: RunConfig) -> None:
    """Refuse a space that could produce an invalid config, for a trial or for the final run.

    Raises:
        ConfigError: Names the path or the combination, the value and the rule it breaks.
    """
    tune = sweep_of(cfg)
    for where, paths in (("search_space", tune.search_space), ("overrides", tune.overrides)):
        for path in paths:
            _check_path(where, path)
    for path in tune.search_space:
        for other in (*tune.overrides, *tune.search_space):
            if other.startswith(f"{path}.") or (other == path and path in tune.overrides):
                raise ConfigError(f"tune.search_space.{path} and {other!r} set the same key; remove one of them.")
    try:
        apply_overrides(cfg, tune.overrides)
    except ConfigError as error:
        raise ConfigError(f"tune.overrides: {error}") from error
    probes = {path: probe_values(domain) for path, domain in tune.search_space.items()}
    seen: list[dict[str, Any]] = []
    for combination in _combinations(probes):
        there = _without_unset(tune, combination)
        if there not in seen:
            seen.append(there)
            _check_combination(cfg, there)


def probe_values(domain: Domain) -> tuple[Any, ...]:
    """Values that stand for a domain: all of a list; the ends and an inner point of a range."""
    if isinstance(domain, Choice | Grid):
        return domain.values
    if isinstance(domain, RandInt):
        return tuple(dict.fromkeys((domain.low, domain.high - 1)))
    if isinstance(domain, QUniform):
        ends = (domain.low, min(domain.low + domain.q, domain.high), domain.high)
        return tuple(dict.fromkeys(round(end / domain.q) * domain.q for end in ends))
    return (domain.low, domain.high, domain.low + _INNER * (domain.high - domain.low))


def _check_path(where: str, path: str) -> None:
    root = path.partition(".")[0]
    if path == "train.objective":
        raise ConfigError(
            f"tune.{where}.{path}: losses of different objectives can't be compared; sweep one at a time."
        )
    if root in RunConfig.model_fields and root not in SEARCHABLE:
        why = "the base model is prepared once for all trials" if root == "model" else "it does not change a trial"
        raise ConfigError(f"tune.{where}.{path}: {root!r} can't vary, {why}; use one of {', '.join(SEARCHABLE)}.")


def _combinations(probes: Mapping[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """All combinations of the probe values; where too many, all pairs with the rest at their first value."""
    if math.prod(map(len, probes.values())) <= MAX_COMBINATIONS:
        for values in itertools.product(*probes.values()):
            yield dict(zip(probes, values, strict=True))
        return
    first = {path: values[0] for path, values in probes.items()}
    for one, other in itertools.combinations(probes, 2):
        for value, second in itertools.product(probes[one], probes[other]):
            yield {**first, one: value, other: second}


def _without_unset(tune: TuneConfig, combination: Mapping[str, Any]) -> dict[str, Any]:
    """What of a combination a trial would have."""
    values: dict[str, Any] = {}
    for path in ordered(tune.search_space):
        if is_set(tune.search_space[path], values):
            values[path] = combination[path]
    return values


def _check_combination(cfg: RunConfig, combination: Mapping[str, Any]) -> None:
    problem = _problem(cfg, combination)
    if problem is None:
        return
    culprits = dict(combination)
    for path in combination:
        fewer = {key: value for key, value in culprits.items() if key != path}
        if fewer and (smaller := _problem(cfg, fewer)) is not None:
            culprits, problem = fewer, smaller
    paths = " with ".join(f"tune.search_space.{path}={value!r}" for path, value in culprits.items())
    raise ConfigError(f"{paths} would be an invalid config: {problem}")


def _problem(cfg: RunConfig, params: Mapping[str, Any]) -> str | None:
    """Why a trial or the final run with these values would be refused; None if both are valid."""
    try:
        trial = trial_config(cfg, params)
        if sweep_of(cfg).adapters_together:
            refuse_group(trial)
        if sweep_of(cfg).hands_on and trial.train.max_workers > 1:
            raise ConfigError(
                f"train.num_workers={trial.train.num_workers}, but tune.scheduler: {sweep_of(cfg).scheduler} hands on "
                "checkpoints of trials with one worker; set train.num_workers: 1 in tune.overrides."
            )
        final_config(cfg, params)
    except ConfigError as error:
        return str(error)
    return None
