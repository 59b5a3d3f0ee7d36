"""How a sweep's names, values and costs read for people."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from luthier.sweep_schema import Finalist, RungAgreement, SweepResult, TrialResult
from luthier.tuning.analysis import as_json

WEAK_AGREEMENT = 0.5
"""Below this Spearman correlation the scheduler may well have stopped trials that would have won."""

_MAX_VALUE_CHARS = 40


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Dotted config path to its shortest end that no other one has: ``train.learning_rate`` to ``learning_rate``."""
    parts = {path: path.split(".") for path in paths}
    ends = {path: [".".join(names[-count:]) for count in range(1, len(names) + 1)] for path, names in parts.items()}
    taken = [end for path in ends for end in ends[path]]
    return {path: next((end for end in ends[path] if taken.count(end) == 1), path) for path in ends}


def params_of(trials: Sequence[TrialResult]) -> list[str]:
    """Every parameter that any of the trials has, in the order met."""
    return list(dict.fromkeys(path for trial in trials for path in trial.params))


def metrics_of(result: SweepResult) -> list[str]:
    """The deciding metric and those that are shown beside it."""
    return list(dict.fromkeys((result.metric, *(aim.metric for aim in result.more_metrics))))


def metric_of(trial: TrialResult, metric: str, result: SweepResult) -> float | None:
    """A trial's value of one of the sweep's metrics; None where it reported none."""
    return trial.metric if metric == result.metric else trial.metrics.get(metric)


def value_text(value: Any, max_chars: int = _MAX_VALUE_CHARS) -> str:
    """A parameter's value; structured ones as JSON without quotes, cut where they are long."""
    if isinstance(value, float):
        text = f"{value:.3g}"
    else:
        text = value if isinstance(value, str) else as_json(value).replace('"', "")
    return _cut(text, max_chars)


def distinct_texts(values: Iterable[Any], max_chars: int = _MAX_VALUE_CHARS) -> dict[str, str]:
    """:func:`value_text` of each different value by its JSON; those that would be cut to the same text lose their
    common start instead, and get a number where that does not tell them apart."""
    whole = {as_json(value): value_text(value, max_chars=10_000) for value in values}
    texts = {key: _cut(text, max_chars) for key, text in whole.items()}
    for text, count in Counter(texts.values()).items():
        if count > 1 and text.endswith("…"):
            alike = [key for key in texts if texts[key] == text]
            start = _common_chars([whole[key] for key in alike])
            ends = [_cut(f"…{whole[key][start:]}", max_chars) for key in alike]
            if len(set(ends)) < count:
                ends = [_cut(f"#{number} {text}", max_chars) for number in range(1, count + 1)]
            texts |= zip(alike, ends, strict=True)
    return texts


def _common_chars(texts: Sequence[str]) -> int:
    """Length of the start that all texts share."""
    columns = zip(*texts, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda chars: len(set(chars)) == 1, columns))


def _cut(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"


def charged_resource(trials: Sequence[TrialResult]) -> str | None:
    """The resource whose holding is a trial's cost: GPUs where any trial held one, else CPUs; None: not known."""
    held = {name for trial in trials for name, amount in trial.held.items() if amount > 0}
    return next((name for name in ("GPU", "CPU") if name in held), None)


def seeds_text(finalist: Finalist) -> str:
    """A finalist's mean with the interval over its seeds."""
    if len(finalist.values) == 1:
        return f"{finalist.mean:.4f} (one seed)"
    half = finalist.high - finalist.mean
    return f"{finalist.mean:.4f} ± {half:.4f} ({len(finalist.values)} seeds)"


def spent_text(result: SweepResult) -> str | None:
    """Where the compute went, and what ended the sweep."""
    spent = result.spent
    if spent is None:
        return None
    unit = "GPU-h" if spent.gpu_hours > 0 else "CPU-h"
    whole = sum(spent.by_status.values())
    shares = ", ".join(
        f"{status} {hours:.3g} {unit} ({hours / whole:.0%})" for status, hours in spent.by_status.items() if hours > 0
    )
    text = f"held {spent.gpu_hours:.3g} GPU-h and {spent.cpu_hours:.3g} CPU-h"
    text = f"{text}: {shares}" if shares else text
    return f"{text}; ended early by its budget: {spent.ended_by}" if spent.ended_by else text


def agreement_text(found: RungAgreement) -> str:
    """One sentence on how well a validation foretells the end."""
    after = f"after validation {found.validation} the order of trials"
    if found.spearman is None:
        return f"{after} can't be compared with the final one ({found.num_trials} trials)"
    return f"{after} agrees with the final one by Spearman {found.spearman:.2f} ({found.num_trials} trials)"


def agreement_warning(result: SweepResult) -> str | None:
    """A warning where trials were stopped early although early values don't foretell the end; else None.

    Looked at are the validations at which trials were stopped.
    """
    stopped_at = {len(trial.history) for trial in result.trials if trial.status == "stopped"}
    weak = [
        str(found.validation)
        for found in result.rung_agreement
        if found.spearman is not None and found.spearman < WEAK_AGREEMENT and found.validation in stopped_at
    ]
    if not weak:
        return None
    return (
        f"trials were stopped at validation {', '.join(weak)}, but the order there says little about the end "
        f"(Spearman below {WEAK_AGREEMENT}): better ones may have been stopped. Raise tune.grace_period."
    )


def reasons_of(trials: Sequence[TrialResult]) -> dict[str, list[str]]:
    """Why trials failed, to the ids of those that failed so."""
    reasons: dict[str, list[str]] = {}
    for trial in trials:
        if trial.status == "failed":
            reasons.setdefault(trial.reason or "no reason is known", []).append(trial.trial_id)
    return reasons
