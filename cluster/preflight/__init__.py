"""What can stop a run on any node, found before anything is written or trained."""

from __future__ import annotations

from luthier.cluster.preflight.examine import checked, examine
from luthier.cluster.preflight.findings import Finding, Report

__all__ = ["Finding", "Report", "checked", "examine"]
