"""Whether a candidate may take an alias: better than the untrained by more than chance, no worse than the incumbent.

A gain over base or few-shot counts only where the whole bootstrap interval of the paired difference lies above
``gate.min_delta``. The incumbent need not be beaten: a candidate is refused only where the whole interval lies below
0, so that the same training, done again, may take the alias.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import BaseModel, ConfigDict

from luthier.config.judge import GateConfig, rows_for_a_gain
from luthier.evaluation_schema import CANDIDATE, LOWER_IS_BETTER, Evaluation, Interval

INCUMBENT = "incumbent"
_REMEDY = {"few_shot": "set evaluate.few_shot_k above 0 or take it out of gate.against."}


class GateCheck(BaseModel):
    """One condition and how it came out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """What was looked at; unique within a decision."""

    passed: bool
    """True also where the condition did not apply; ``reason`` says so."""

    figure: float | None
    """What was compared with the limit; None where there was nothing to compare."""

    limit: float | None
    """The bound; None where there was nothing to compare, or no bound is set."""

    reason: str
    """One sentence for people."""


class GateDecision(BaseModel):
    """All conditions together."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    passed: bool
    """Whether every check passed."""

    checks: tuple[GateCheck, ...]
    """In the order of the config."""

    metric: str | None = None
    """The figure that was compared."""

    @property
    def figures(self) -> dict[str, float]:
        """Every figure by its check's name, for the audit record."""
        return {check.name: check.figure for check in self.checks if check.figure is not None}

    @property
    def refusals(self) -> list[str]:
        """Why it did not pass: the conditions that were not met, each with its reason."""
        return [f"{check.name}: {check.reason}" for check in self.checks if not check.passed]

    def also(self, checks: Iterable[GateCheck]) -> GateDecision:
        """The decision with further conditions."""
        both = (*self.checks, *checks)
        return self.model_copy(update={"passed": all(check.passed for check in both), "checks": both})


def decide(evaluation: Evaluation, gate: GateConfig) -> GateDecision:
    """Hold an evaluation against the gate.

    Args:
        evaluation: Must hold the variant ``tuned``.
        gate: The conditions.

    Returns:
        The decision; a baseline or metric that the evaluation lacks is a failed check, not an error. Only a
        missing incumbent is skipped, because a name's first version has none.
    """
    metric = _metric(evaluation, gate)
    checks = tuple(_checks(evaluation, gate, metric))
    return GateDecision(passed=all(check.passed for check in checks), checks=checks, metric=metric)


def gate_metric(gate: GateConfig, *, labelled: bool) -> str:
    """The figure that the gate compares, which the config may leave to the data."""
    return gate.metric or ("macro_f1" if labelled else "rouge_l")


def _metric(evaluation: Evaluation, gate: GateConfig) -> str:
    """The same, of an evaluation; of plain text there is but the perplexity."""
    metric = gate_metric(gate, labelled=bool(evaluation.labels))
    known = next(iter(evaluation.variants.values())).metrics
    return "perplexity" if gate.metric is None and metric not in known and "perplexity" in known else metric


def hold_against_stored(candidate: Evaluation, champion: Evaluation, gate: GateConfig) -> GateCheck:
    """Compare two versions by the evaluations that were stored with them, of the same test split.

    Their rows are not paired any more, so the intervals of the two figures themselves are held side by side: the
    candidate is worse by more than chance where its whole interval lies below the champion's.
    """
    metric = _metric(candidate, gate)
    name = f"{metric} {CANDIDATE}-{INCUMBENT}"
    figures = [
        one.variants[CANDIDATE].metrics.get(metric) for one in (candidate, champion) if CANDIDATE in one.variants
    ]
    if len(figures) < 2 or figures[0] is None or figures[1] is None:
        return _missing(name, f"the stored evaluations do not both hold {metric} of {CANDIDATE!r}.")
    if (candidate.n, candidate.labels) != (champion.n, champion.labels):
        return _missing(
            name, f"the stored evaluations are of different test splits ({candidate.n}, {champion.n} rows)."
        )
    mine, theirs = figures[0], figures[1]
    reason = f"{metric} is {_range(mine)}, the incumbent's {_range(theirs)}."
    if metric in LOWER_IS_BETTER:
        mine, theirs = _turned(mine), _turned(theirs)
    return GateCheck(name=name, passed=mine.high >= theirs.low, figure=mine.high, limit=theirs.low, reason=reason)


def _checks(evaluation: Evaluation, gate: GateConfig, metric: str) -> Iterator[GateCheck]:
    if CANDIDATE not in evaluation.variants:
        yield _missing(CANDIDATE, f"the evaluation has no variant {CANDIDATE!r}: there is nothing to promote.")
        return
    candidate = evaluation.variants[CANDIDATE].metrics
    if metric not in candidate:
        known = ", ".join(candidate)
        yield _missing(metric, f"the evaluation has no {metric}; set gate.metric to one of {known}.")
        return
    if gate.against:
        yield _enough_rows(evaluation)
    for baseline in gate.against:
        yield _comparison(evaluation, gate, metric, baseline)
    if gate.min_value is not None:
        yield _floor(candidate[metric].value, metric, gate.min_value)


def _missing(name: str, reason: str) -> GateCheck:
    return GateCheck(name=name, passed=False, figure=None, limit=None, reason=reason)


def _enough_rows(evaluation: Evaluation) -> GateCheck:
    """Fewer rows than a sign test needs can't show a gain, though the bootstrap of two rows may have no width."""
    limit = rows_for_a_gain(evaluation.confidence)
    reason = f"{evaluation.n} test rows; a gain at {evaluation.confidence:.0%} confidence takes at least {limit}."
    return GateCheck(
        name="rows", passed=evaluation.n >= limit, figure=float(evaluation.n), limit=float(limit), reason=reason
    )


def _comparison(evaluation: Evaluation, gate: GateConfig, metric: str, baseline: str) -> GateCheck:
    name = f"{metric} {CANDIDATE}-{baseline}"
    if baseline not in evaluation.variants:
        if baseline == INCUMBENT:
            reason = "skipped: there was no other incumbent to compare with."
            return GateCheck(name=name, passed=True, figure=None, limit=None, reason=reason)
        remedy = _REMEDY.get(baseline, "evaluate it or take it out of gate.against.")
        return _missing(name, f"the evaluation has no {baseline!r} to compare with; {remedy}")
    difference = evaluation.differences.get(f"{CANDIDATE}-{baseline}", {}).get(metric)
    if difference is None:
        return _missing(name, f"the evaluation holds no paired difference of {metric} to {baseline!r}.")
    difference = _turned(difference) if metric in LOWER_IS_BETTER else difference
    if baseline == INCUMBENT:
        return _not_worse(name, difference)
    return _gain(name, difference, baseline, gate.min_delta)


def _gain(name: str, difference: Interval, baseline: str, min_delta: float) -> GateCheck:
    passed = difference.low > min_delta
    verb = "lies" if passed else "does not lie"
    reason = f"the gain over {baseline}, {_text(difference)}, {verb} above {min_delta:g} as a whole."
    return GateCheck(name=name, passed=passed, figure=difference.low, limit=min_delta, reason=reason)


def _not_worse(name: str, difference: Interval) -> GateCheck:
    passed = difference.high >= 0
    verdict = "does not lie below 0 as a whole: no worse" if passed else "lies below 0 as a whole: worse"
    reason = f"the difference to the incumbent, {_text(difference)}, {verdict} by more than chance."
    return GateCheck(name=name, passed=passed, figure=difference.high, limit=0.0, reason=reason)


def _floor(value: float, metric: str, limit: float) -> GateCheck:
    reason = f"{metric} is {value:.4f}; gate.min_value is {limit:g}."
    return GateCheck(name=f"{metric} {CANDIDATE}", passed=value >= limit, figure=value, limit=limit, reason=reason)


def _turned(interval: Interval) -> Interval:
    """A figure of which less is better, as one of which more is."""
    return Interval(value=-interval.value, low=-interval.high, high=-interval.low)


def _text(interval: Interval) -> str:
    return f"{interval.value:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def _range(interval: Interval) -> str:
    return f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
