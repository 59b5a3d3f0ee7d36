"""Adapters from the registry. Ray's own loader takes cloud URIs only, so this one stands in its place."""

from __future__ import annotations

from typing import Any

from ray.llm._internal.common.models import global_id_manager
from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig
from ray.llm._internal.serve.utils.lora_serve_utils import LoraModelLoader
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer


class _LocalLoader(LoraModelLoader):
    """Finds an adapter in a table of directories."""

    def __init__(self, directories: dict[str, str], **options: Any) -> None:
        super().__init__(**options)
        self._directories = directories
        self._known: dict[str, DiskMultiplexConfig] = {}

    async def load_model_from_config(self, lora_model_id: str, llm_config: LLMConfig) -> DiskMultiplexConfig:
        """The adapter's place on disk; each gets one number for the life of the process."""
        if lora_model_id not in self._known:
            self._known[lora_model_id] = DiskMultiplexConfig(
                model_id=lora_model_id,
                max_total_tokens=None,
                local_path=self._directories[lora_model_id],
                lora_assigned_int_id=global_id_manager.next(),
            )
        return self._known[lora_model_id]


class AdapterServer(LLMServer):
    """Ray's LLM server with adapters that the registry has on disk.

    Args:
        llm_config: The engine.
        adapters: Canonical name to directory.
    """

    async def __init__(self, llm_config: LLMConfig, *, adapters: dict[str, str]) -> None:
        self._adapters = adapters
        await super().__init__(llm_config)

    def _init_multiplex_loader(self, model_downloader_cls: Any = None) -> None:
        directories = self._adapters

        def loader(**options: Any) -> _LocalLoader:
            return _LocalLoader(directories, **options)

        super()._init_multiplex_loader(loader)  # type: ignore[arg-type]  # a factory serves as well as a class
