"""A sweep's outcome as a single HTML page that loads nothing and runs no script."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from jinja2 import Environment

from luthier.sweep_schema import SweepResult
from luthier.trainers.evaluation.drawing import style
from luthier.trainers.evaluation.page import page_environment, svg_or_none
from luthier.trainers.evaluation.run_plots import sweep_figure
from luthier.tuning.analysis import as_json, importances, is_sound, standings
from luthier.tuning.figures import agreement_figure, cost_figure, seeds_figure
from luthier.tuning.parallel import parallel_figure, shown_params
from luthier.tuning.selection import selection_note
from luthier.tuning.wording import (
    agreement_text,
    agreement_warning,
    charged_resource,
    distinct_texts,
    metric_of,
    metrics_of,
    params_of,
    reasons_of,
    seeds_text,
    short_names,
)

_TEMPLATES = Path(__file__).parent / "templates"

_MAX_CELL_CHARS = 32

_FEW_TRIALS = 20
"""optuna wants five trials in the best quarter for stable importances."""


def sweep_page(title: str, result: SweepResult) -> str:
    """The report of a sweep as HTML.

    Args:
        title: Heading, usually the run's name.
        result: The sweep; whatever it lacks (seeds, more metrics, costs) is left out.
    """
    trials = standings(result)
    shares = importances(result)
    paths = params_of(trials)
    names = short_names(paths)
    drawn = shown_params(result, shares)
    seeds = next((f for f in result.finalists if f.trial_id == result.best_trial_id), None)
    with style():
        pictures = {
            "parallel": svg_or_none(parallel_figure(result, shares)),
            "steps": svg_or_none(sweep_figure(result.model_dump(mode="json"))),
            "cost": svg_or_none(cost_figure(result)),
            "seeds": svg_or_none(seeds_figure(result)),
            "agreement": svg_or_none(agreement_figure(result)),
        }
    values: dict[str, Any] = {
        "title": title,
        "result": result,
        "spent": result.spent,
        "trials": trials,
        "paths": paths,
        "names": names,
        "metrics": metrics_of(result),
        "resource": charged_resource(trials),
        "retried": any(trial.attempts > 1 for trial in trials),
        "counts": ", ".join(f"{n} {status}" for status, n in Counter(t.status for t in trials).most_common()),
        "winner_seeds": f"over seeds {seeds_text(seeds)}" if seeds else None,
        "warning": agreement_warning(result),
        "selection": selection_note(result),
        "importances": shares,
        "few_trials": sum(map(is_sound, trials)) < _FEW_TRIALS,
        "left_out": [names[path] for path in paths if path not in drawn],
        "reasons": reasons_of(trials),
        "pictures": pictures,
    }
    return _environment(result).get_template("sweep.html.jinja").render(values)


def _environment(result: SweepResult) -> Environment:
    texts = {
        path: distinct_texts((t.params[path] for t in result.trials if path in t.params), _MAX_CELL_CHARS)
        for path in params_of(result.trials)
    }
    environment = page_environment(_TEMPLATES)
    environment.filters |= {
        "exact": as_json,
        "cell": lambda value, path: texts[path][as_json(value)],
        "metric_of": lambda trial, metric: metric_of(trial, metric, result),
        "agreement": agreement_text,
        "capitalize_first": lambda text: text[:1].upper() + text[1:],
    }
    return environment
