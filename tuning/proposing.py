"""Who proposes the values of the next trial, as Ray Tune's searchers: by chance, along a grid, by Optuna, by HyperOpt.

Each is a function of the seed and of what it was told so far, in order; so a sweep that was cut off brings one back to
where it was by telling it the same again.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ray.tune.search import Searcher

from luthier.config.domains import Choice, Domain, Grid, LogUniform, QUniform, RandInt, Uniform
from luthier.config.tune import TuneConfig, is_set, ordered

Values = dict[str, Any]

_STARTUP_TRIALS = 5
"""Drawn by chance before Optuna's model is asked: half of its own default, as sweeps of language models are short."""


def make_searcher(tune: TuneConfig, seed: int) -> Searcher:
    """The searcher that the config names."""
    if tune.searcher == "optuna":
        return _optuna(tune, _tpe, seed)
    if tune.searcher == "optuna_gp":
        return _optuna(tune, _gp, seed)
    if tune.searcher == "hyperopt":
        return _hyperopt(tune, seed)
    return ListedSearcher(tune, seed)


class ListedSearcher(Searcher):
    """Draws trial n by a generator of its own, seeded by the sweep's seed and n; listed grids are gone through in order.

    Args:
        tune: The sweep.
        seed: Of the run.
    """

    def __init__(self, tune: TuneConfig, seed: int) -> None:
        super().__init__(metric=tune.metric, mode=tune.mode)
        self._space = tune.search_space
        self._seed = seed
        self._points = tune.grid_points()
        self._drawn = 0

    def suggest(self, trial_id: str) -> Values | None:
        """The next trial's values."""
        number, self._drawn = self._drawn, self._drawn + 1
        random = np.random.default_rng([self._seed, number])
        values: Values = {}
        point = self._points[number % len(self._points)]
        for path in ordered(self._space):
            domain = self._space[path]
            if is_set(domain, values):
                values[path] = point[path] if path in point else _draw(domain, random)
        return values

    def on_trial_complete(self, trial_id: str, result: Values | None = None, error: bool = False) -> None:
        """Nothing is learnt from results."""


def _draw(domain: Domain, random: np.random.Generator) -> Any:
    if isinstance(domain, Choice | Grid):
        return domain.values[int(random.integers(len(domain.values)))]
    if isinstance(domain, RandInt):
        return int(random.integers(domain.low, domain.high))
    if isinstance(domain, LogUniform):
        return float(np.exp(random.uniform(np.log(domain.low), np.log(domain.high))))
    if isinstance(domain, QUniform):
        return float(round(random.uniform(domain.low, domain.high) / domain.q) * domain.q)
    return float(random.uniform(domain.low, domain.high))


def _tpe(seed: int) -> Any:
    import optuna

    return optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, n_startup_trials=_STARTUP_TRIALS, constant_liar=True
    )


def _gp(seed: int) -> Any:
    import optuna

    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=_STARTUP_TRIALS, deterministic_objective=False)


def _optuna(tune: TuneConfig, make_sampler: Callable[[int], Any], seed: int) -> Searcher:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("ray.tune.search.optuna").setLevel(logging.ERROR)
    # Its model of the past is fitted inside the function that it takes for a description of the space.
    warnings.filterwarnings("ignore", message="Define-by-run function passed", category=UserWarning)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    space = tune.search_space

    def define(trial: Any) -> Values:
        values: Values = {}
        for path in ordered(space):
            if is_set(space[path], values):
                values[path] = _suggested(trial, path, space[path])
        return values

    return OptunaSearch(define, metric=tune.metric, mode=tune.mode, sampler=make_sampler(seed))


def _suggested(trial: Any, path: str, domain: Domain) -> Any:
    if isinstance(domain, Choice | Grid):  # by place: Optuna's categories can't be mappings
        return domain.values[trial.suggest_categorical(path, list(range(len(domain.values))))]
    if isinstance(domain, RandInt):
        return trial.suggest_int(path, domain.low, domain.high - 1)
    if isinstance(domain, QUniform):
        return trial.suggest_float(path, domain.low, domain.high, step=domain.q)
    return trial.suggest_float(path, domain.low, domain.high, log=isinstance(domain, LogUniform))


def _hyperopt(tune: TuneConfig, seed: int) -> Searcher:
    from ray import tune as ray_tune
    from ray.tune.search.hyperopt import HyperOptSearch

    space = tune.search_space
    listed = {path: one.values for path, one in space.items() if isinstance(one, Choice)}
    domains: dict[str, Any] = {}
    for path, one in space.items():
        if isinstance(one, Choice):
            domains[path] = ray_tune.choice(list(range(len(one.values))))
        elif isinstance(one, RandInt):
            domains[path] = ray_tune.randint(one.low, one.high)
        elif isinstance(one, QUniform):
            domains[path] = ray_tune.quniform(one.low, one.high, one.q)
        elif isinstance(one, LogUniform):
            domains[path] = ray_tune.loguniform(one.low, one.high)
        elif isinstance(one, Uniform):
            domains[path] = ray_tune.uniform(one.low, one.high)
    search = HyperOptSearch(n_initial_points=_STARTUP_TRIALS, random_state_seed=seed)
    search.set_search_properties(tune.metric, tune.mode, domains)
    return _Named(search, listed)


class _Named(Searcher):
    """A searcher that knows listed values by their place only, as one that gives the values.

    Args:
        inner: Who proposes.
        listed: Path to values.
    """

    def __init__(self, inner: Searcher, listed: Mapping[str, tuple[Any, ...]]) -> None:
        super().__init__(metric=inner.metric, mode=inner.mode)
        self._inner = inner
        self._listed = listed

    def suggest(self, trial_id: str) -> Values | None:
        """The inner one's proposal."""
        values = self._inner.suggest(trial_id)
        if not isinstance(values, dict):
            return values  # type: ignore[no-any-return]
        return {path: self._listed[path][int(v)] if path in self._listed else v for path, v in values.items()}

    def on_trial_result(self, trial_id: str, result: Values) -> None:
        """Handed on."""
        self._inner.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: Values | None = None, error: bool = False) -> None:
        """Handed on."""
        self._inner.on_trial_complete(trial_id, result, error)
