"""Clusters: plan a run, open a Ray session, submit jobs. The only user of the Ray Jobs API."""

from __future__ import annotations

from luthier.cluster.choosing import Choice, choose
from luthier.cluster.plan import Plan, plan, plan_table
from luthier.cluster.resources import check_resources
from luthier.cluster.supply import Supply

__all__ = ["Choice", "Plan", "Supply", "check_resources", "choose", "plan", "plan_table"]
