"""Whether a candidate may take an alias: better than every baseline by more than chance, and good enough.

A gain counts only where the whole bootstrap interval of the paired difference lies above ``gate.min_delta``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from luthier.config.judge import GateConfig
from luthier.evaluation_schema import Evaluation, Interval

CANDIDATE = "tuned"
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
    """The bound; None where there was nothing to compare."""

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


def decide(evaluation: Evaluation, gate: GateConfig) -> GateDecision:
    """Hold an evaluation against the gate.

    Args:
        evaluation: Must hold the variant ``tuned``.
        gate: The conditions.

    Returns:
        The decision; a baseline or metric that the evaluation lacks is a failed check, not an error. Only a
        missing incumbent is skipped, because a name's first version has none.
    """
    checks = tuple(_checks(evaluation, gate))
    return GateDecision(passed=all(check.passed for check in checks), checks=checks, metric=gate.metric)


def _checks(evaluation: Evaluation, gate: GateConfig) -> Iterator[GateCheck]:
    if CANDIDATE not in evaluation.variants:
        yield _missing(CANDIDATE, f"the evaluation has no variant {CANDIDATE!r}: there is nothing to promote.")
        return
    candidate = evaluation.variants[CANDIDATE].metrics
    if gate.metric not in candidate:
        known = ", ".join(candidate)
        yield _missing(gate.metric, f"the evaluation has no {gate.metric}; set gate.metric to one of {known}.")
        return
    if gate.against:
        yield _enough_rows(evaluation)
    for baseline in gate.against:
        yield _gain(evaluation, gate, baseline)
    if gate.min_value is not None:
        yield _floor(candidate[gate.metric].value, gate.metric, gate.min_value)


def _missing(name: str, reason: str) -> GateCheck:
    return GateCheck(name=name, passed=False, figure=None, limit=None, reason=reason)


def _enough_rows(evaluation: Evaluation) -> GateCheck:
    """Fewer rows than a sign test needs can't show a gain, though the bootstrap of two rows may have no width.

    If nothing had changed, each of n changed rows would be a gain with probability 1/2; all n are with 2^-n, which
    must not exceed (1 - confidence) / 2.
    """
    limit = math.ceil(math.log2(2 / (1 - evaluation.confidence)))
    reason = f"{evaluation.n} test rows; a gain at {evaluation.confidence:.0%} confidence takes at least {limit}."
    return GateCheck(
        name="rows", passed=evaluation.n >= limit, figure=float(evaluation.n), limit=float(limit), reason=reason
    )


def _gain(evaluation: Evaluation, gate: GateConfig, baseline: str) -> GateCheck:
    name = f"{gate.metric} {CANDIDATE}-{baseline}"
    if baseline not in evaluation.variants:
        if baseline == "incumbent":
            reason = "skipped: there was no incumbent to compare with."
            return GateCheck(name=name, passed=True, figure=None, limit=None, reason=reason)
        remedy = _REMEDY.get(baseline, "evaluate it or take it out of gate.against.")
        return _missing(name, f"the evaluation has no {baseline!r} to compare with; {remedy}")
    difference = evaluation.differences.get(f"{CANDIDATE}-{baseline}", {}).get(gate.metric)
    if difference is None:
        return _missing(name, f"the evaluation holds no paired difference of {gate.metric} to {baseline!r}.")
    passed = difference.low > gate.min_delta
    verb = "lies" if passed else "does not lie"
    reason = f"the gain over {baseline}, {_text(difference)}, {verb} above {gate.min_delta:g} as a whole."
    return GateCheck(name=name, passed=passed, figure=difference.low, limit=gate.min_delta, reason=reason)


def _floor(value: float, metric: str, limit: float) -> GateCheck:
    reason = f"{metric} is {value:.4f}; gate.min_value is {limit:g}."
    return GateCheck(name=f"{metric} {CANDIDATE}", passed=value >= limit, figure=value, limit=limit, reason=reason)


def _text(interval: Interval) -> str:
    return f"{interval.value:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"
