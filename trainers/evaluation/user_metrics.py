"""Metrics of the user's own, found by their import path and called on the driver."""

from __future__ import annotations

import importlib
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from luthier.errors import ConfigError
from luthier.evaluation_schema import CALIBRATION_METRICS, CLASS_METRICS, JSON_METRICS, TEXT_METRICS
from luthier.trainers.evaluation.measured import ExtraMetric
from luthier.trainers.evaluation.metrics import FloatArray
from luthier.trainers.evaluation.predictions import Prediction

_TAKEN = frozenset({*CLASS_METRICS, *CALIBRATION_METRICS, *TEXT_METRICS, *JSON_METRICS, "perplexity"})

UserMetric = Callable[[list[str], list[str], list[dict[str, Any]]], Any]
"""Takes references, answers and what is known of the rows; gives a number, or one for each row."""


def user_metrics(paths: Sequence[str]) -> tuple[ExtraMetric, ...]:
    """The functions that ``evaluate.metrics`` names, ready to be called.

    Modules are looked for as Python does, and then in the current directory.

    Args:
        paths: Each ``package.module:function``; the function's name is the metric's.

    Raises:
        ConfigError: A module can't be imported, a function is not there, or two metrics have one name.
    """
    found: dict[str, ExtraMetric] = {}
    for path in paths:
        name = path.partition(":")[2]
        if name in _TAKEN or name in found:
            raise ConfigError(f"evaluate.metrics: {path}: there is a metric {name!r} already; rename the function.")
        found[name] = ExtraMetric(name, partial(_measure, path, _function(path)))
    return tuple(found.values())


def _function(path: str) -> UserMetric:
    module_name, _, name = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        function = getattr(importlib.import_module(module_name), name)
    except AttributeError as error:
        raise ConfigError(
            f"evaluate.metrics: {path}: module {module_name} has no {name!r}; correct the path."
        ) from error
    except Exception as error:
        raise ConfigError(
            f"evaluate.metrics: {path}: {module_name} can't be imported ({_told(error)}); correct the path or the module."
        ) from error
    if not callable(function):
        raise ConfigError(f"evaluate.metrics: {path} is {type(function).__name__}; it must be a function.")
    return function  # type: ignore[no-any-return]


def _measure(path: str, function: UserMetric, rows: Sequence[Prediction]) -> FloatArray | float:
    """The function's figure or figures, checked."""
    try:
        given = function([row.label for row in rows], [row.answer for row in rows], [dict(row.row) for row in rows])
    except Exception as error:
        raise ConfigError(f"evaluate.metrics: {path} failed ({_told(error)}); correct the function.") from error
    if isinstance(given, Real):
        if not math.isfinite(given):
            raise ConfigError(f"evaluate.metrics: {path} gave {given}; it must give finite numbers.")
        return float(given)
    try:
        values_N = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"evaluate.metrics: {path} gave {type(given).__name__}; it must give a number, or one for each row."
        ) from error
    if values_N.shape != (len(rows),) or not np.isfinite(values_N).all():
        raise ConfigError(
            f"evaluate.metrics: {path} gave figures of shape {values_N.shape} for {len(rows)} rows, finite: "
            f"{bool(np.isfinite(values_N).all())}; it must give a finite number, or one for each row."
        )
    return values_N


def _told(error: BaseException) -> str:
    """Kind and place of an error, without its text, which may quote a row."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
