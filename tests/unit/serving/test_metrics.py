"""The dashboard shows every figure that the endpoint counts, and none that it does not."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ray.util.metrics import Metric

from luthier.serving.metrics import AdapterLoads, Captures, Metrics

DASHBOARD = Path(__file__).parents[3] / "examples" / "monitoring" / "grafana-dashboard.json"
SUFFIXES = re.compile(r"_(total|bucket)$")


def counted() -> set[str]:
    held = (one for counts in (Metrics(), AdapterLoads(), Captures()) for one in vars(counts).values())
    return {f"ray_{one.info['name']}" for one in held if isinstance(one, Metric)}


def test_the_dashboard_and_the_endpoint_name_the_same_figures() -> None:
    board = json.loads(DASHBOARD.read_text())
    asked = " ".join(target["expr"] for panel in board["panels"] for target in panel["targets"])
    shown = {SUFFIXES.sub("", name) for name in re.findall(r"ray_luthier_\w+", asked)}
    assert shown == counted()


def test_panels_do_not_overlap() -> None:
    board = json.loads(DASHBOARD.read_text())
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in board["panels"]})
