"""Ray's LLM server around vLLM. Imported by the engine's process only: it takes vLLM about 20 s on a slow core."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.common.models import global_id_manager
from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.llm._internal.serve.utils.lora_serve_utils import LoraModelLoader
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from luthier.errors import IntegrityError
from luthier.precision import Dtype, served_dtype
from luthier.registry import Registry
from luthier.serving.adapters import DAMAGED, problem_of, rank_step
from luthier.serving.calls import tool_kwargs
from luthier.serving.held import HeldAdapters
from luthier.serving.metrics import AdapterLoads
from luthier.serving.names import Refused
from luthier.serving.pieces import gathered
from luthier.serving.replies import not_servable
from luthier.serving.shapes import shape_problem
from luthier.serving.spec import EngineSpec
from luthier.serving.warm import forked_core

logger = logging.getLogger("ray.serve")


async def start(spec: EngineSpec, dtype: Dtype, *, shows_tools: bool) -> LLMServer:
    """A started engine that holds its first adapters, ``serve.max_cpu_loras`` of them; others are loaded when asked for.

    Args:
        spec: What it serves.
        dtype: What it computes in.
        shows_tools: Whether its chat template does.

    Raises:
        ValueError: vLLM can't load the model or an adapter, or has no such parser of tool calls.
    """
    config = llm_config(spec, dtype, shows_tools=shows_tools)
    held = HeldAdapters(spec.serve.held_loras, AdapterLoads().count)
    adapters = RegisteredAdapters(spec, held)
    server = LocalServer.sync_init(
        config, engine_cls=partial(LocalEngine, held=held), model_downloader=lambda **options: adapters
    )
    await server.start()
    for name in list(spec.adapters)[: spec.serve.held_loras]:
        await server.engine.resolve_lora(await adapters.load_model_from_config(name, config))
    return server


def llm_config(spec: EngineSpec, dtype: Dtype, *, shows_tools: bool = False) -> LLMConfig:
    """An engine as Ray describes it.

    Args:
        spec: What is served.
        dtype: What it computes in.
        shows_tools: Whether its chat template does.

    Raises:
        ValueError: vLLM has no such parser of tool calls.
    """
    return LLMConfig(
        model_loading_config={"model_id": spec.model_id, "model_source": spec.model_dir},
        engine_kwargs=engine_kwargs(spec, dtype, shows_tools=shows_tools),
        lora_config={"max_num_adapters_per_replica": spec.serve.held_loras} if spec.max_rank else None,
        placement_group_config={"bundle_per_worker": spec.resources, "strategy": "PACK"},
        callback_config={"callback_class": FilesAreLocal},
        log_engine_metrics=False,
    )


def engine_kwargs(spec: EngineSpec, dtype: Dtype, *, shows_tools: bool = False) -> dict[str, Any]:
    """vLLM's own settings."""
    serve = spec.serve
    kwargs: dict[str, Any] = {
        "dtype": dtype,
        "tokenizer": spec.tokenizer_dir,
        "max_model_len": serve.max_model_len,
        "max_num_seqs": serve.max_num_seqs,
        "max_logprobs": 20,
        "trust_remote_code": False,
        # Only what a request asks for, no sampling defaults of the model's author; his stop tokens hold all the same.
        "generation_config": "vllm",
        "disable_log_stats": True,
        "seed": 0,
    }
    if spec.max_rank:
        # vLLM pads every adapter to the largest rank.
        slots = serve.max_loras if spec.source else min(serve.max_loras, len(spec.adapters))
        kwargs |= {
            "enable_lora": True,
            "max_loras": slots,
            "max_cpu_loras": serve.held_loras,
            "max_lora_rank": rank_step(spec.max_rank),
        }
    if spec.task == "embed":
        kwargs |= {"runner": "pooling"}
    if shows_tools:
        kwargs |= tool_kwargs(serve.tool_call_parser)
    if not spec.gpu:
        # Compilation costs a minute at each start, and gains a CPU little at these sizes.
        kwargs |= {"enforce_eager": True}
    return kwargs


async def dtype_of(spec: EngineSpec) -> Dtype:
    """What the engine computes in, asked of the hardware that its placement group holds."""
    if spec.serve.dtype != "auto" or not spec.gpu:
        return served_dtype(spec.serve.dtype, "cpu")
    # The replica itself sees no GPU; a sliver of its group's does, and is given back before the engine takes it.
    probe = ray.remote(num_cpus=0, num_gpus=0.001)(served_dtype).options(
        scheduling_strategy=PlacementGroupSchedulingStrategy(get_current_placement_group())
    )
    dtype: Dtype = await probe.remote("auto", "cuda")
    return dtype


class FilesAreLocal(CallbackBase):
    """Skips Ray's download step, which would start one more process that imports vLLM to find nothing to do."""

    async def on_before_node_init(self) -> None:
        """Called by Ray's LLM server before it downloads."""
        self.ctx.run_init_node = False


class LocalServer(LLMServer):
    """Ray's LLM server without its telemetry, which also costs the start of one more process that imports vLLM, and with
    our way of gathering a stream's pieces.
    """

    async def _start_engine(self) -> None:
        await self.engine.start()

    def _batch_output_stream(self, generator: AsyncGenerator[Any]) -> AsyncGenerator[list[Any]]:
        return gathered(generator)


class LocalEngine(VLLMEngine):
    """vLLM with as few processes as it takes, because each imports vLLM anew.

    On CPUs Ray asks for a process per worker besides that of the engine's core. A single worker runs in the core as
    well: vLLM parts them only to bind threads to cores, which is switched off here.

    Args:
        config: The engine.
        held: Told of the adapters that are loaded and used.
    """

    def __init__(self, config: LLMConfig, held: HeldAdapters) -> None:
        super().__init__(config)
        self.held = held
        self._loading: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def _prepare_engine_config(self, callback_ctx: Any) -> Any:
        arguments, frontend, config = super()._prepare_engine_config(callback_ctx)
        parallel = config.parallel_config
        if parallel.distributed_executor_backend == "mp" and parallel.world_size == 1:
            parallel.distributed_executor_backend = "uni"
        return arguments, frontend, config

    async def resolve_lora(self, disk_lora_model: DiskMultiplexConfig) -> None:
        """Load an adapter, once for all requests that wait for it: vLLM refuses one that it has loaded meanwhile.

        Raises:
            Refused: vLLM can't.
        """
        try:
            async with self._loading[disk_lora_model.model_id]:
                await super().resolve_lora(disk_lora_model)
        except ValueError as error:
            self.held.refused(disk_lora_model.model_id)
            logger.exception("vLLM can't load %s", disk_lora_model.model_id)
            raise Refused(not_servable(disk_lora_model.model_id, "the engine can't load it")) from error
        self.held.used(disk_lora_model.model_id, disk_lora_model.lora_assigned_int_id)

    def _start_async_llm_engine(self, arguments: Any, config: Any, placement_group: Any) -> Any:
        single = config.parallel_config.distributed_executor_backend == "uni"
        with forked_core() if single else nullcontext():
            return super()._start_async_llm_engine(arguments, config, placement_group)


class RegisteredAdapters(LoraModelLoader):
    """Finds an adapter among those that the engine was told of, else in the registry; Ray's own loader takes cloud URIs
    only.

    Args:
        spec: The engine.
        held: Told of adapters that can't be loaded.
    """

    def __init__(self, spec: EngineSpec, held: HeldAdapters) -> None:
        super().__init__()
        self._spec = spec
        self._held = held

    async def load_model_from_config(self, lora_model_id: str, llm_config: LLMConfig) -> DiskMultiplexConfig:
        """The adapter's place on disk, every file checked.

        Raises:
            Refused: It can't be served; the engine and its other adapters are none the worse.
        """
        try:
            directory = await asyncio.to_thread(self._checked, lora_model_id)
        except Refused:
            self._held.refused(lora_model_id)
            raise
        return DiskMultiplexConfig(
            model_id=lora_model_id,
            max_total_tokens=None,
            local_path=str(directory),
            lora_assigned_int_id=global_id_manager.next(),
        )

    def _checked(self, ref: str) -> Path:
        held = self._spec.adapters.get(ref)
        directory = Path(held) if held else self._fetch(ref)
        if problem := shape_problem(directory, Path(self._spec.model_dir)):
            raise Refused(not_servable(ref, problem))
        return directory

    def _fetch(self, ref: str) -> Path:
        source = self._spec.source
        if source is None:
            raise Refused(not_servable(ref, "this endpoint was started for others"))
        try:
            registry = Registry(source.registry_uri, source.default_alias)
            problem = problem_of(registry, registry.resolve(ref), source)
            if problem is None:
                return registry.fetch(ref) / "adapter"
        except IntegrityError as error:
            logger.error("%s can't be loaded: %s", ref, error)
            problem = DAMAGED
        raise Refused(not_servable(ref, problem))
