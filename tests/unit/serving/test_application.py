"""What Ray Serve is told of an engine, and when a change means another engine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from luthier.config.serve import CanaryConfig, LimitsConfig, ServeConfig
from luthier.serving.application import engine_options, engine_version
from luthier.serving.spec import AdapterSource, EngineSpec

SOURCE = AdapterSource("/registry", "champion", "base", "d" * 64, {}, 8)


def spec(**settings: object) -> EngineSpec:
    return EngineSpec("base", "/base", "/base", {}, 8, ServeConfig.model_validate(settings), gpu=False, source=SOURCE)


@pytest.mark.parametrize(
    "settings",
    [
        {"limits": LimitsConfig(max_n=2)},
        {"canary": CanaryConfig(min_requests=5)},
        {"num_replicas": 3},
        {"num_replicas": (0, 4)},
        {"keys_file": "/keys.json"},
        {"request_timeout_s": 5.0},
    ],
)
def test_what_an_engine_never_sees_leaves_it_as_it_is(settings: dict[str, object]) -> None:
    assert engine_version(spec(**settings)) == engine_version(spec())


@pytest.mark.parametrize(
    "settings", [{"max_model_len": 64}, {"max_num_seqs": 2}, {"dtype": "float32"}, {"max_loras": 8}, {"num_cpus": 2}]
)
def test_what_an_engine_is_made_from_makes_another_one(settings: dict[str, object]) -> None:
    assert engine_version(spec(**settings)) != engine_version(spec())


def test_first_adapters_make_another_engine_only_where_it_can_load_no_others() -> None:
    one, other = spec(), replace(spec(), adapters={"a@1": "/a"})
    assert engine_version(one) == engine_version(other)
    assert engine_version(replace(one, source=None)) != engine_version(replace(other, source=None))


def test_a_pair_of_replicas_is_autoscaled_and_begins_with_one_at_least() -> None:
    options = engine_options(spec(num_replicas=(0, 3), max_num_seqs=5))
    scale = options["autoscaling_config"]
    assert "num_replicas" not in options
    assert (scale["min_replicas"], scale["initial_replicas"], scale["max_replicas"]) == (0, 1, 3)
    assert scale["target_ongoing_requests"] == 5
    assert "autoscaling_config" not in engine_options(spec(num_replicas=2))


def test_ray_takes_the_scale() -> None:
    from ray.serve.config import AutoscalingConfig

    scale = engine_options(spec(num_replicas=(1, 3)))["autoscaling_config"]
    assert AutoscalingConfig(**scale).max_replicas == 3


def test_a_replica_that_stops_may_end_its_longest_request() -> None:
    assert engine_options(spec(request_timeout_s=300.0))["graceful_shutdown_timeout_s"] > 300


@pytest.mark.parametrize("pair", [(2, 1), (0, 0), (-1, 2), (1,), (1, 2, 3)])
def test_a_pair_must_be_fewest_and_most(pair: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="num_replicas"):
        ServeConfig.model_validate({"num_replicas": pair})
