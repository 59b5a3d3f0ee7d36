"""Clusters: plan a run, open a Ray session, submit jobs. The only user of the Ray Jobs API."""

from __future__ import annotations

from luthier.cluster.planning.choosing import Choice, choose
from luthier.cluster.planning.plan import Plan, plan, plan_table
from luthier.cluster.planning.supply import Supply
from luthier.cluster.resources import check_resources

__all__ = ["Choice", "Plan", "Supply", "check_resources", "choose", "plan", "plan_table"]
