"""What a sweep tries, and how much it may spend."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_origin

from pydantic import Field, field_validator, model_validator

from luthier.config.base import Config
from luthier.config.domains import Choice, Domain, Grid
from luthier.config.eval_metrics import LOWER_IS_BETTER, SWEEPABLE
from luthier.config.train import TrainConfig

_MAPPINGS = {name for name, field in TrainConfig.model_fields.items() if get_origin(field.annotation) is dict}
"""Settings whose own value is a mapping."""


Searcher = Literal["random", "grid", "optuna", "optuna_gp", "hyperopt"]
Scheduler = Literal["asha", "hyperband", "median", "pbt", "pb2", "none"]
Mode = Literal["min", "max"]

MUTABLE = ("train.learning_rate", "train.weight_decay", "train.max_grad_norm")
"""What may change in the middle of a training: settings that its weights, its data order and its schedule don't know."""


class Budget(Config):
    """What a sweep may use; it ends before the first of these is used up."""

    wall_hours: Annotated[float, Field(gt=0.0)] | None = None
    """Hours from the start to the end, over all starts of a sweep that was cut off."""

    accelerator_hours: Annotated[float, Field(gt=0.0)] | None = None
    """GPUs held by trials times hours; CPUs, where trials hold no GPU."""


class TuneConfig(Config):
    """A hyperparameter sweep on a validation metric. The test split is never read."""

    metric: str = "eval_loss"
    """What a trial is judged by: ``eval_loss``, ``loss``, or a task metric such as ``eval_macro_f1``, which trials then
    measure without being told in ``train.eval_metrics``."""

    mode: Mode = "min"
    """Whether less or more of the metric is better."""

    more_metrics: dict[str, Mode] = {}
    """Other metrics to show beside it, such as ``eval_loss: min``; they decide nothing."""

    num_samples: Annotated[int, Field(ge=1)] = 8
    """Trials drawn from the space (times the size of the grid, if any)."""

    budget: Budget = Budget()
    """Limits beside the number of trials."""

    search_space: dict[str, Domain] = Field(min_length=1)
    """Dotted config path to domain, such as ``train.learning_rate: {type: loguniform, low: 1e-5, high: 1e-3}``."""

    overrides: dict[str, Any] = {}
    """Settings of every trial that the final run does not have, such as fewer epochs; dotted or nested."""

    searcher: Searcher = "random"
    """Who proposes values; ``optuna`` is multivariate TPE (Bergstra et al. 2011), ``optuna_gp`` a Gaussian process."""

    scheduler: Scheduler = "asha"
    """``asha`` (Li et al. 2020), ``hyperband`` and ``median`` stop weak trials early; ``pbt`` and ``pb2`` let them go on
    from the weights of strong ones with changed settings."""

    grace_period: Annotated[int, Field(ge=1)] = 1
    """Validations that every trial gets before it can be stopped or changed, and between changes."""

    reduction_factor: Annotated[int, Field(ge=2)] = 4
    """At each rung one trial in this many goes on."""

    max_concurrent_trials: Annotated[int, Field(ge=1)] | None = None
    """Trials at a time; None: as many as the cluster's resources hold."""

    adapters_together: Annotated[int, Field(ge=2, le=60)] | None = None
    """Trials that train together on one copy of the base, per worker; None: each has its own."""

    max_trial_failures: Annotated[int, Field(ge=0)] = 1
    """How often a trial that fails is started again; it goes on from its newest checkpoint."""

    seeds: Annotated[int, Field(ge=1)] = 1
    """Seeds by which the finalists are judged; above 1 the best trials are repeated and ranked by their mean."""

    finalists: Annotated[int, Field(ge=2)] = 3
    """The best trials, which are repeated where ``seeds`` is above 1."""

    @property
    def exchanges_weights(self) -> bool:
        """Whether trials go on from the weights of others."""
        return self.scheduler in ("pbt", "pb2")

    @property
    def hands_on(self) -> bool:
        """Whether Ray Tune is given checkpoints: for other trials, or for a trial that waits without its process."""
        return self.exchanges_weights or self.scheduler == "hyperband"

    @property
    def num_trials(self) -> int:
        """Trials that the sweep draws: ``num_samples`` times the grid's points; these once with ``searcher: grid``."""
        return len(self.grid_points()) * (1 if self.searcher == "grid" else self.num_samples)

    def grid_points(self) -> list[dict[str, Any]]:
        """Listed values in all combinations, without what conditions on other listed ones leave unset; one empty point
        where nothing is listed."""
        kinds = (Grid, Choice) if self.searcher == "grid" else (Grid,)
        grids = {path: one.values for path, one in self.search_space.items() if isinstance(one, kinds)}
        points: list[dict[str, Any]] = []
        for values in itertools.product(*grids.values()):
            point = dict(zip(grids, values, strict=True))
            unset = [path for path in ordered(self.search_space) if path in grids and not self._met(path, point, grids)]
            for path in unset:
                point.pop(path)
            if not unset or point not in points:
                points.append(point)
        return points

    def _met(self, path: str, point: Mapping[str, Any], grids: Mapping[str, Any]) -> bool:
        """Whether the conditions of a path that name listed ones hold, and theirs."""
        conditions = {other: wanted for other, wanted in self.search_space[path].when.items() if other in grids}
        return all(point[o] in wanted and self._met(o, point, grids) for o, wanted in conditions.items())

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that is looked at, the one that decides first."""
        return (self.metric, *(name for name in self.more_metrics if name != self.metric))

    @field_validator("metric", "more_metrics")
    @classmethod
    def _known_metrics(cls, value: str | dict[str, Mode]) -> str | dict[str, Mode]:
        for name in [value] if isinstance(value, str) else value:
            if name not in SWEEPABLE:
                raise ValueError(f"{name} is not measured in training; set it to one of {', '.join(SWEEPABLE)}")
        return value

    @model_validator(mode="after")
    def _losses_fall(self) -> TuneConfig:
        if (self.mode == "min") != (self.metric in LOWER_IS_BETTER):
            better, right = ("less", "min") if self.metric in LOWER_IS_BETTER else ("more", "max")
            raise ValueError(f"mode is {self.mode}, but {better} {self.metric} is better; set mode: {right}")
        return self

    @model_validator(mode="after")
    def _conditions_are_searched(self) -> TuneConfig:
        for path, domain in self.search_space.items():
            for other in domain.when:
                if other == path or other not in self.search_space:
                    raise ValueError(f"search_space.{path}.when names {other}, which is no other searched path")
        in_order = list(ordered(self.search_space))
        if missing := [path for path in self.search_space if path not in in_order]:
            raise ValueError(f"search_space: the conditions of {', '.join(missing)} go round in a circle")
        return self

    @model_validator(mode="after")
    def _fits_the_algorithms(self) -> TuneConfig:
        space = self.search_space
        ranges = [path for path, one in space.items() if not isinstance(one, Choice | Grid)]
        grids = [path for path, one in space.items() if isinstance(one, Grid)]
        if self.searcher == "grid" and ranges:
            raise ValueError(
                f"searcher: grid needs lists of values, but {', '.join(ranges)} is a range; use a grid or random"
            )
        if self.searcher not in ("random", "grid") and grids:
            raise ValueError(f"searcher: {self.searcher} draws from no grid ({', '.join(grids)}); use type: choice")
        if self.searcher == "hyperopt" and any(one.when for one in space.values()):
            raise ValueError("searcher: hyperopt knows no conditions (when); use optuna or random")
        if self.scheduler == "hyperband" and self.max_concurrent_trials:
            raise ValueError(
                "scheduler: hyperband has trials wait for one another, so that max_concurrent_trials would keep its brackets "
                "from filling; leave it out (resources bound how many run), or use asha"
            )
        if self.adapters_together:
            if self.hands_on:
                raise ValueError(
                    f"scheduler: {self.scheduler} hands checkpoints on, which trials with adapters_together do not write; "
                    "use asha, median or none"
                )
            shared = ("train.resources_per_worker", "train.bf16", "train.fused_layers", "train")
            if apart := [path for path in space if path.startswith(shared[:-1]) or path == shared[-1]]:
                raise ValueError(
                    f"search_space.{apart[0]} is the same for all trials with adapters_together; leave one out"
                )
            if drawn := [path for path in ranges if path.partition(".")[0] in ("data", "datasets")]:
                raise ValueError(
                    f"search_space.{drawn[0]} is a range, so that each trial would tokenise; list values, or leave "
                    "adapters_together out"
                )
        if self.exchanges_weights:
            if self.searcher != "random":
                raise ValueError(
                    f"scheduler: {self.scheduler} changes settings by itself, of which searcher: {self.searcher} would learn "
                    "nothing; set searcher: random"
                )
            fixed = [path for path in space if path not in MUTABLE]
            if fixed:
                raise ValueError(
                    f"scheduler: {self.scheduler} changes settings of a running training, which {', '.join(fixed)} can't be; "
                    f"search {', '.join(MUTABLE)} only, or use asha"
                )
            if self.scheduler == "pb2" and (listed := [p for p in space if p not in ranges]):
                raise ValueError(f"scheduler: pb2 needs ranges, but {', '.join(listed)} is a list; use pbt")
        return self

    @field_validator("overrides", mode="before")
    @classmethod
    def _overrides_are_dotted(cls, value: Any) -> Any:
        """``{train: {max_steps: 4}}`` means ``{train.max_steps: 4}``, and leaves the rest of ``train`` as it is."""
        if not isinstance(value, Mapping):
            return value
        leaves = list(_leaves(value))
        twice = [path for path, _ in leaves if sum(path == other for other, _ in leaves) > 1]
        if twice:
            raise ValueError(f"{twice[0]} is set twice, dotted and nested; keep one")
        return dict(leaves)


def _leaves(settings: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of every setting below a mapping."""
    for key, value in settings.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and path.rpartition(".")[2] not in _MAPPINGS:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


def ordered(space: Mapping[str, Domain]) -> Iterator[str]:
    """Paths, each after those that its condition names; those of a circle are left out."""
    told: set[str] = set()
    while ready := [path for path, one in space.items() if path not in told and told.issuperset(one.when)]:
        told.update(ready)
        yield from ready


def is_set(domain: Domain, values: Mapping[str, Any]) -> bool:
    """Whether a domain's condition holds under the values drawn so far."""
    return all(path in values and values[path] in wanted for path, wanted in domain.when.items())
