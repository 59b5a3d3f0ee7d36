"""From the run's config to Ray's LLM config: vLLM on a GPU where the worker has one, else on CPUs."""

from __future__ import annotations

from typing import Any

from ray.serve.llm import LLMConfig

from luthier.config.deploy import ServeConfig
from luthier.precision import Dtype, served_dtype


def llm_config(
    serve: ServeConfig, *, model_id: str, model_dir: str, tokenizer_dir: str, adapters: bool, gpu: bool, dtype: Dtype
) -> LLMConfig:
    """One engine.

    Args:
        serve: Limits and resources.
        model_id: Name at the endpoint.
        model_dir: Directory of the weights.
        tokenizer_dir: Directory of tokenizer and chat template.
        adapters: Whether LoRA adapters are served on this model.
        gpu: Whether the engine reserves a GPU.
        dtype: What it computes in.
    """
    resources = {"GPU": 1.0} if gpu else {"CPU": serve.num_cpus}
    options: dict[str, Any] = {} if gpu else {"env_vars": _cpu_environment(serve)}
    return LLMConfig(
        model_loading_config={"model_id": model_id, "model_source": model_dir},
        engine_kwargs=_engine_kwargs(serve, tokenizer_dir, adapters=adapters, gpu=gpu, dtype=dtype),
        lora_config={"max_num_adapters_per_replica": serve.max_loras} if adapters else None,
        # The placement group holds the engine; the replica actor around it only waits.
        placement_group_config={"bundle_per_worker": resources, "strategy": "PACK"},
        deployment_config={
            "num_replicas": serve.num_replicas,
            "max_ongoing_requests": serve.max_num_seqs * 2,
            "max_queued_requests": serve.max_queued_requests,
            "ray_actor_options": {"num_cpus": 0},
            "graceful_shutdown_timeout_s": 10.0,
        },
        runtime_env=options or None,
        log_engine_metrics=False,
    )


def engine_dtype(serve: ServeConfig, *, gpu: bool) -> Dtype:
    """What engines compute in, asked of a machine that has an engine's resources. Ray must be initialised."""
    import ray

    probe = ray.remote(num_cpus=0 if gpu else serve.num_cpus, num_gpus=int(gpu))(served_dtype)
    dtype: Dtype = ray.get(probe.remote(serve.dtype, "cuda" if gpu else "cpu"))
    return dtype


def _engine_kwargs(
    serve: ServeConfig, tokenizer_dir: str, *, adapters: bool, gpu: bool, dtype: Dtype
) -> dict[str, Any]:
    kwargs: dict[str, Any] = {
        "dtype": dtype,
        "tokenizer": tokenizer_dir,
        "max_model_len": serve.max_model_len,
        "max_num_seqs": serve.max_num_seqs,
        "max_logprobs": 20,
        "trust_remote_code": False,
        "generation_config": "vllm",  # only what a request asks for, no sampling defaults of the model's author
        "seed": 0,
    }
    if adapters:
        kwargs |= {"enable_lora": True, "max_loras": serve.max_loras, "max_lora_rank": _rank_step(serve.max_lora_rank)}
    if not gpu:
        # Compilation costs a minute at each start, and gains a CPU little at these sizes.
        kwargs |= {"enforce_eager": True}
    return kwargs


def _rank_step(rank: int) -> int:
    """The smallest rank that vLLM's kernels are built for and that holds ``rank``."""
    return min(step for step in (8, 16, 32, 64, 128, 256, 320, 512) if step >= rank)


def _cpu_environment(serve: ServeConfig) -> dict[str, str]:
    threads = max(1, int(serve.num_cpus))
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(serve.cpu_kvcache_gb),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
    }
