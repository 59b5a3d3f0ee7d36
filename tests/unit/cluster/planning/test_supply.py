"""Whether a gang fits by nodes, now, after autoscaling or never."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.cluster.planning.supply import NodeKind, Supply, combined, judge, read_cluster_config
from luthier.cluster.resources import Demand
from luthier.errors import ConfigError

BOX = {"CPU": 16.0, "GPU": 4.0}

YAML = """\
max_workers: {limit}
head_node_type: head
available_node_types:
  head: {{resources: {{CPU: 4}}, node_config: {{}}, max_workers: 0}}
  gpu: {{resources: {{CPU: 16, GPU: 4}}, node_config: {{}}, min_workers: 0, max_workers: 3}}
"""


def gang(number: int, **bundle: float) -> Demand:
    return Demand(stage="train", bundle=bundle, num_bundles=number, remedy="ask for less")


def test_a_bundle_needs_one_node_whatever_the_sum_is() -> None:
    pair = Supply(nodes=(BOX, BOX), free=(BOX, BOX), kinds=())
    assert judge(gang(8, GPU=1), pair).when == "now"
    assert judge(gang(2, GPU=4), pair).when == "now"
    never = judge(gang(1, GPU=8), pair)  # 8 in all, 4 on a node
    assert (never.when, "ask for less" in never.reason) == ("never", True)


def test_what_others_hold_is_not_free() -> None:
    half = {"CPU": 16.0, "GPU": 2.0}
    busy = Supply(nodes=(BOX,), free=(half,), kinds=())
    assert judge(gang(2, GPU=1), busy).when == "now"
    assert judge(gang(4, GPU=1), busy).when == "unknown"
    growing = busy.model_copy(update={"kinds": (NodeKind(name="gpu", resources=BOX, max_nodes=2),)})
    verdict = judge(gang(4, GPU=1), growing)
    assert (verdict.when, "1 more node(s) of gpu" in verdict.reason) == ("after autoscaling", True)
    assert judge(gang(4, GPU=1), Supply(nodes=(BOX,))).when == "unknown"


def test_an_autoscaler_has_limits_by_kind_and_in_all() -> None:
    kind = NodeKind(name="gpu", resources=BOX, max_nodes=3)
    supply = Supply(nodes=(), free=(), kinds=(kind,))
    assert judge(gang(12, GPU=1), supply).when == "after autoscaling"
    assert judge(gang(13, GPU=1), supply).when == "never"
    assert judge(gang(12, GPU=1), supply.model_copy(update={"max_workers": 2})).when == "never"
    endless = supply.model_copy(update={"kinds": (kind.model_copy(update={"max_nodes": None}),)})
    assert judge(gang(1000, GPU=1), endless).when == "after autoscaling"
    assert judge(gang(1, TPU=1), endless).when == "never"
    assert judge(gang(1, GPU=1), Supply(nodes=(), free=())).when == "unknown"


def test_rays_yaml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(YAML.format(limit=3))
    supply = read_cluster_config(path)
    assert supply.nodes == ({"CPU": 4.0},)
    assert judge(gang(3, GPU=4), supply).when == "after autoscaling"
    assert judge(gang(4, GPU=4), supply).when == "never"
    there = combined(Supply(nodes=({"CPU": 4.0}, BOX), free=({"CPU": 4.0}, {})), path)
    assert there is not None and there.max_workers == 2
    assert combined(None, None) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "give the YAML"),
        ("max_workers: 2", "available_node_types"),
        ("available_node_types: {gpu: {node_config: {}}}", "gpu name no resources"),
    ],
)
def test_a_yaml_that_is_none_of_rays_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_cluster_config(path)
