"""Clusters: plan a run, open a Ray session, submit jobs. The only user of the Ray Jobs API."""

from __future__ import annotations

from luthier.cluster.choosing import Choice, choose
from luthier.cluster.plan import Plan, plan, plan_table
from luthier.cluster.resources import ask_cluster, check_resources

__all__ = ["Choice", "Plan", "ask_cluster", "check_resources", "choose", "plan", "plan_table"]
