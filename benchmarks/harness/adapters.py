"""Many small adapters in a registry: real ones, of random weights that are not zero."""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from pathlib import Path

from harness.serving import serve_config

NAME = "adapter"


def register_adapters(registry_uri: str, number: int, rank: int) -> list[str]:
    """Make and register adapters of the quickstart's model, in a process of its own that gives its memory back.

    Returns:
        Their references.
    """
    process = multiprocessing.get_context("spawn").Process(target=_register, args=(registry_uri, number, rank))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"no adapters: exit code {process.exitcode}")
    return [f"{NAME}-{one}@1" for one in range(number)]


def _register(registry_uri: str, number: int, rank: int) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from luthier.manifest import BaseModelRef, write_manifest
    from luthier.registry import Registry
    from luthier.trainers.base_model import base_digest, prepare_base

    cfg = serve_config(8000)
    base_dir = prepare_base(cfg.model, offline=True)
    base = BaseModelRef(model_name_or_path=cfg.model.model_name_or_path, digest=base_digest(base_dir))
    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    lora = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=rank, target_modules="all-linear")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32), lora)
    registry = Registry(registry_uri)
    torch.manual_seed(0)
    for one in range(number):
        with tempfile.TemporaryDirectory() as directory:
            for name, weight in model.named_parameters():
                if "lora_" in name:
                    torch.nn.init.normal_(weight, std=0.02)
            model.save_pretrained(f"{directory}/adapter")
            tokenizer.save_pretrained(f"{directory}/tokenizer")
            write_manifest(
                Path(directory),
                name=f"{NAME}-{one}",
                method="lora",
                base_model=base,
                config_hash="benchmark",
                data={},
                metrics={},
            )
            registry.register(Path(directory), f"{NAME}-{one}")
