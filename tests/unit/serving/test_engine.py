"""What vLLM and Ray are told, from the config."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from luthier.config.serve import ServeConfig
from luthier.serving.application import engine_options
from luthier.serving.spec import AdapterSource, EngineSpec


def spec(*, adapters: int = 1, rank: int = 8, gpu: bool = False, **serve: Any) -> EngineSpec:
    places = {f"demo@{number}": "/demo" for number in range(adapters)}
    return EngineSpec("base", "/base", "/base", places, rank, ServeConfig(**serve), gpu)


def test_limits_reach_vllm_and_code_of_a_model_does_not_run() -> None:
    from luthier.serving.engine import engine_kwargs

    kwargs = engine_kwargs(spec(max_model_len=256, max_num_seqs=3), "float32")
    assert (kwargs["max_model_len"], kwargs["max_num_seqs"], kwargs["dtype"]) == (256, 3, "float32")
    assert kwargs["trust_remote_code"] is False
    assert kwargs["enforce_eager"] is True


def test_only_adapters_turn_lora_on() -> None:
    from luthier.serving.engine import engine_kwargs

    assert engine_kwargs(spec(), "float32")["enable_lora"] is True
    assert "enable_lora" not in engine_kwargs(spec(adapters=0, rank=0), "float32")


@pytest.mark.parametrize(("served", "limit", "slots"), [(1, 4, 1), (4, 4, 4), (9, 4, 4)])
def test_there_are_no_more_slots_than_adapters(served: int, limit: int, slots: int) -> None:
    from luthier.serving.engine import engine_kwargs

    assert engine_kwargs(spec(adapters=served, max_loras=limit), "float32")["max_loras"] == slots


def test_where_adapters_may_come_later_there_are_slots_for_them() -> None:
    from luthier.serving.engine import engine_kwargs

    source = AdapterSource("/registry", "champion", "base", "d" * 64, {}, 8)
    assert engine_kwargs(replace(spec(adapters=0), source=source), "float32")["max_loras"] == 16


@pytest.mark.parametrize(("asked", "given"), [(1, 8), (8, 8), (9, 16), (64, 64), (257, 320), (512, 512)])
def test_the_rank_is_one_that_vllm_has_kernels_for(asked: int, given: int) -> None:
    from luthier.serving.engine import engine_kwargs

    assert engine_kwargs(spec(rank=asked, max_lora_rank=512), "float32")["max_lora_rank"] == given


@pytest.mark.parametrize(("asked", "given"), [("hermes", "hermes"), (None, "luthier_schema_only")])
def test_a_template_that_shows_tools_has_a_parser_of_calls(asked: str | None, given: str) -> None:
    from vllm.tool_parsers import ToolParserManager

    from luthier.serving.engine import engine_kwargs

    with_parser = spec(tool_call_parser=asked)
    assert "tool_call_parser" not in engine_kwargs(with_parser, "float32")
    kwargs = engine_kwargs(with_parser, "float32", shows_tools=True)
    assert (kwargs["enable_auto_tool_choice"], kwargs["tool_call_parser"]) == (True, given)
    assert ToolParserManager.get_tool_parser(given)


def test_a_parser_that_vllm_does_not_have_is_refused_with_those_that_it_has() -> None:
    from luthier.serving.engine import engine_kwargs

    with pytest.raises(ValueError, match=r"serve.tool_call_parser: 'hermez' is none of vLLM's, which are .*hermes"):
        engine_kwargs(spec(tool_call_parser="hermez"), "float32", shows_tools=True)


def test_a_larger_rank_is_refused_by_the_config() -> None:
    with pytest.raises(ValueError, match="512"):
        ServeConfig(max_lora_rank=513)


def test_a_cpu_engine_reserves_cpus_and_computes_with_as_many_threads() -> None:
    options = engine_options(spec(num_cpus=2, cpu_kvcache_gb=3, max_num_seqs=5))
    assert options["placement_group_bundles"] == [{"CPU": 2.0}]
    env = options["ray_actor_options"]["runtime_env"]["env_vars"]
    assert (env["OMP_NUM_THREADS"], env["VLLM_CPU_KVCACHE_SPACE"], env["VLLM_MAX_N_SEQUENCES"]) == ("2", "3", "5")
    assert env["VLLM_NO_USAGE_STATS"] == "1"


def test_a_gpu_engine_reserves_a_gpu_and_compiles() -> None:
    from luthier.serving.engine import engine_kwargs, llm_config

    gpu = spec(gpu=True)
    options = engine_options(gpu)
    assert options["placement_group_bundles"] == [{"GPU": 1.0}]
    assert "OMP_NUM_THREADS" not in options["ray_actor_options"]["runtime_env"]["env_vars"]
    assert "enforce_eager" not in engine_kwargs(gpu, "bfloat16")
    assert llm_config(gpu, "bfloat16").accelerator_config.kind == "gpu"
    assert llm_config(spec(), "float32").accelerator_config.kind == "cpu"


def test_a_failed_start_is_not_tried_again() -> None:
    assert engine_options(spec())["max_constructor_retry_count"] == 1
