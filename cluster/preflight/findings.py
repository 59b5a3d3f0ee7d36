"""What a preflight tells: each thing that was looked at, and each thing that would stop the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.errors import LuthierError, ResourceError

if TYPE_CHECKING:
    from rich.table import Table

CLUSTER = "cluster"
"""The ``node`` of what is not one node's."""

DRIVER = "driver"
"""The process that runs the verb, and the machine that it is on."""


@dataclass(frozen=True)
class Finding:
    """Something that would stop the run.

    Attributes:
        check: Which check found it.
        node: Where: a node's name, :data:`DRIVER`, or :data:`CLUSTER`.
        problem: What is wrong, with the value and the limit.
        remedy: What to do about it.
        failure: The error that it is.
    """

    check: str
    node: str
    problem: str
    remedy: str
    failure: type[LuthierError] = ResourceError

    def __str__(self) -> str:
        where = "" if self.node in (CLUSTER, DRIVER) else f"{self.node}: "
        return f"{where}{self.problem}; {self.remedy}." if self.remedy else f"{where}{self.problem}"


@dataclass(frozen=True)
class Report:
    """All that was looked at.

    Attributes:
        checks: Check and node of everything that was looked at.
        findings: What failed.
        took_s: How long it took, in seconds.
    """

    checks: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]
    took_s: float

    @property
    def passed(self) -> bool:
        """Whether nothing would stop the run."""
        return not self.findings

    def require_passed(self) -> None:
        """Refuse the run.

        Raises:
            LuthierError: Every finding, in one; of the type that the findings share, else a ResourceError.
        """
        if self.passed:
            return
        kinds = {finding.failure for finding in self.findings}
        kind = kinds.pop() if len(kinds) == 1 else ResourceError
        if len(self.findings) == 1:
            raise kind(str(self.findings[0]))
        listed = "\n".join(f"  {number}. {finding}" for number, finding in enumerate(self.findings, start=1))
        raise kind(f"preflight found {len(self.findings)} problems; nothing was started:\n{listed}")

    def as_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        failed = {(finding.check, finding.node) for finding in self.findings}
        return {
            "passed": self.passed,
            "took_s": round(self.took_s, 3),
            "checks": [
                {"check": check, "node": node, "passed": (check, node) not in failed} for check, node in self.checks
            ],
            "findings": [
                {"check": one.check, "node": one.node, "problem": one.problem, "remedy": one.remedy}
                for one in self.findings
            ],
        }

    def table(self) -> Table:
        """One row for each check and node, and under those that failed what to do."""
        from rich.markup import escape
        from rich.table import Table

        table = Table("check", "node", "", title=f"Preflight, {self.took_s:.2f} s")
        for check, node in self.checks:
            failed = [one for one in self.findings if (one.check, one.node) == (check, node)]
            told = "\n".join(f"{one.problem}; {one.remedy}" if one.remedy else one.problem for one in failed)
            table.add_row(check, node, f"[red]failed[/]: {escape(told)}" if failed else "[green]passed[/]")
        return table


def report(checks: Sequence[tuple[str, str]], findings: Sequence[Finding], took_s: float) -> Report:
    """A report in which each check stands once, those that only showed up by failing included."""
    looked_at = dict.fromkeys([*checks, *((finding.check, finding.node) for finding in findings)])
    return Report(tuple(looked_at), tuple(findings), took_s)
