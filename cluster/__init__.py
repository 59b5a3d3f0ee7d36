"""Clusters: plan a run, open a Ray session, submit jobs. The only user of the Ray Jobs API."""

from __future__ import annotations

from luthier.cluster.plan import Plan, plan, plan_table
from luthier.cluster.resources import ask_cluster, check_resources

__all__ = ["Plan", "ask_cluster", "check_resources", "plan", "plan_table"]
