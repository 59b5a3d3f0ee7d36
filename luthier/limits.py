"""What the gate asks of a version beside its metrics: its size, and how it answered where it was served.

Every figure is told, also where no bound is set, so that the audit record has it.
"""

from __future__ import annotations

from collections.abc import Iterator

from luthier.config.judge import GateConfig
from luthier.gate import GateCheck
from luthier.manifest import Manifest
from luthier.served_schema import Percentiles, ServedRecord

BYTES_PER_MB = 1_000_000

_LATENCIES = {"first_token_s": "s to the first token", "inter_token_ms": "ms from token to token"}
"""Fields of a record that the gate bounds, with what they say."""


def size_check(manifest: Manifest, gate: GateConfig) -> GateCheck:
    """Whether a version's files are small enough."""
    size_mb = manifest.size_bytes / BYTES_PER_MB
    return _bounded(
        "size_mb", size_mb, "gate.max_size_mb", gate.max_size_mb, f"the version's files have {size_mb:.1f} MB"
    )


def served_checks(record: ServedRecord | None, gate: GateConfig, ref: str) -> Iterator[GateCheck]:
    """Whether a version answered as it was trained to, and fast enough.

    Args:
        record: What was measured; None: nothing was.
        gate: The conditions.
        ref: The version, for the remedy.
    """
    yield _parity(record, gate, ref)
    for name, unit in _LATENCIES.items():
        yield from _latency(name, unit, record, getattr(gate, f"max_{name}"), ref)


def _parity(record: ServedRecord | None, gate: GateConfig, ref: str) -> GateCheck:
    if record is None:
        if gate.parity == "required":
            return _missing("parity", f"{_unserved(ref)}, or set gate.parity=if_served.")
        return _skipped("parity", "the served answers were not compared with the trainer's.")
    found = record.parity
    what = (
        f"{found.different} of {found.compared} served answers differ from the trainer's ({found.near_tie} near-ties)"
    )
    return _bounded("parity", found.different, "the limit", None if gate.parity == "ignored" else 0, what)


def _latency(name: str, unit: str, record: ServedRecord | None, limit: float | None, ref: str) -> Iterator[GateCheck]:
    """The median for the record, and the 95th percentile against its bound."""
    key, p95 = f"gate.max_{name}", f"{name} p95"
    found: Percentiles | None = getattr(record, name) if record else None
    if record and found:
        yield _bounded(f"{name} p50", found.p50, key, None, f"{found.p50:.4g} {unit} at the median")
        what = f"{found.p95:.4g} {unit} at the 95th percentile, {record.concurrency} at a time on a {record.device.upper()}"
        yield _bounded(p95, found.p95, key, limit, f"{what} in {record.dtype}")
        return
    if limit is None:
        yield _skipped(p95, "the answers have none." if record else "it was not measured.")
    elif record:
        yield _missing(p95, f"{key} is {limit:g}, but the answers have none; take {key} out.")
    else:
        yield _missing(p95, f"{key} is {limit:g}, but {_unserved(ref)}, or take {key} out.")


def _unserved(ref: str) -> str:
    return f"no measurement of an endpoint is stored with {ref}; run luthier evaluate {ref} --serve"


def _bounded(name: str, figure: float, key: str, limit: float | None, what: str) -> GateCheck:
    told = "no bound is set" if limit is None else f"{key} is {limit:g}"
    passed = limit is None or figure <= limit
    return GateCheck(name=name, passed=passed, figure=figure, limit=limit, reason=f"{what}; {told}.")


def _skipped(name: str, why: str) -> GateCheck:
    return GateCheck(name=name, passed=True, figure=None, limit=None, reason=f"skipped: {why}")


def _missing(name: str, reason: str) -> GateCheck:
    return GateCheck(name=name, passed=False, figure=None, limit=None, reason=reason)
