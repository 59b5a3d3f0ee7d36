"""Training and serving where there is a GPU."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from luthier.cluster.session import start
from luthier.config import RunConfig, apply_overrides, load_config
from luthier.config.source import parse_yaml
from luthier.registry import Registry
from luthier.serving import ask, deploy, stop

ROOT = Path(__file__).parents[2]
KEY = "a-key-of-the-tests"


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


needs_gpu = pytest.mark.skipif(not has_gpu(), reason="no CUDA device")


@pytest.fixture
def on_gpu(tmp_path: Path) -> RunConfig:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "storage_path": str(tmp_path / "runs"),
        "registry.uri": str(tmp_path / "registry"),
        "tune": "null",
        "train.num_workers": 1,
        "train.resources_per_worker": "{CPU: 1, GPU: 1}",
        "train.max_steps": 4,
        "serve.port": port,
    }
    return load_config(ROOT / "configs" / "quickstart.yaml", [f"{key}={value}" for key, value in settings.items()])


WAYS: dict[str, dict[str, str]] = {
    "lora, fsdp2": {"train.strategy": "fsdp2"},
    "full, fsdp2": {"train.strategy": "fsdp2", "train.method": "full", "train.learning_rate": "1e-4"},
    "lora, z2_offload": {"train.strategy": "deepspeed", "train.deepspeed": "z2_offload"},
    "lora, z3_offload": {"train.strategy": "deepspeed", "train.deepspeed": "z3_offload"},
    "full, z2": {
        "train.strategy": "deepspeed",
        "train.deepspeed": "z2",
        "train.method": "full",
        "train.learning_rate": "1e-4",
    },
    "full, a JSON": {
        "train.strategy": "deepspeed",
        "train.deepspeed": str(ROOT / "configs" / "deepspeed" / "zero2-offload.json"),
        "train.method": "full",
        "train.learning_rate": "1e-4",
    },
    "qlora": {"train.load_in_4bit": "true", "train.bf16": "true"},
    "qlora, z2": {
        "train.load_in_4bit": "true",
        "train.bf16": "true",
        "train.strategy": "deepspeed",
        "train.deepspeed": "z2",
    },
}


@needs_gpu
@pytest.mark.parametrize("way", WAYS)
def test_strategies_and_methods_learn_on_a_gpu(
    way: str, on_gpu: RunConfig, base_model_dir: Path, tmp_path: Path
) -> None:
    from luthier.trainers.fit import train

    if "qlora" in way:
        pytest.importorskip("bitsandbytes")
    cfg = apply_overrides(on_gpu, {key: parse_yaml(value) for key, value in WAYS[way].items()})
    with start(cfg):
        trained = train(cfg, base_model_dir=base_model_dir, workdir=tmp_path / "train")
    assert trained.best_step == 4
    assert trained.metrics[-1]["loss"] < trained.metrics[0]["loss"]


@needs_gpu
def test_a_lora_is_trained_and_served_on_a_gpu(
    on_gpu: RunConfig, base_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.trainers.base_model import base_digest
    from luthier.trainers.fit import train

    monkeypatch.setenv(on_gpu.serve.api_key_env, KEY)
    with start(on_gpu):
        trained = train(on_gpu, base_model_dir=base_model_dir, workdir=tmp_path / "train")
        assert trained.best_step == 4
        assert trained.metrics[-1]["loss"] < trained.metrics[0]["loss"]
        version = Registry(on_gpu.registry.uri, on_gpu.registry.alias).register(trained.artifact_dir, on_gpu.name)
        digest = base_digest(base_model_dir)
        endpoint = deploy(on_gpu, base_model_dir=base_model_dir, refs=[version.ref], base_digest=digest)
        try:
            question = [{"role": "user", "content": "a text editor for the terminal"}]
            assert ask(endpoint, on_gpu.name, question, KEY, 4).completion_tokens >= 1
        finally:
            stop(endpoint)


@needs_gpu
def test_rows_laid_out_flat_have_the_losses_that_they_have_alone_by_the_flash_kernel(base_model_dir: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from luthier.trainers.batches import collate, collate_flat
    from luthier.trainers.flat_attention import why_not_flat
    from luthier.trainers.loss import SumLoss
    from luthier.trainers.tokens import IGNORE, Encoded

    device = torch.device("cuda")
    ids = torch.randint(5, 9000, (4, 60), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [Encoded(str(n), (*ids[0][:20], *row), (*[IGNORE] * 40, *row[20:])) for n, row in enumerate(ids)]
    model = AutoModelForCausalLM.from_pretrained(base_model_dir, dtype=torch.bfloat16).to(device)
    with torch.no_grad():
        expected = [SumLoss(model).row_losses(collate([row], 0).to(device))[0][0] for row in rows]
        assert why_not_flat(model) is None
        batch = collate_flat(rows, 0, share=True).to(device)
        found = [nll for nll, _ in SumLoss(model).row_losses(batch)]
    assert found == pytest.approx(expected, rel=0.01)


@needs_gpu
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_plan_foretells_what_torch_allocates(
    method: str, on_gpu: RunConfig, base_model_dir: Path, tmp_path: Path
) -> None:
    from luthier.cluster import plan
    from luthier.trainers.fit import train
    from luthier.trainers.peak_memory import FILE_NAME

    cfg = apply_overrides(on_gpu, {"train.method": method, "train.learning_rate": 1e-4, "train.max_steps": 8})
    memory = plan(cfg).memory_per_worker
    assert memory is not None
    with start(cfg):
        train(cfg, base_model_dir=base_model_dir, workdir=tmp_path / "train")
    measured = json.loads((tmp_path / "train" / FILE_NAME).read_text())["peak_memory_bytes"]
    assert max(memory.total_bytes / measured, measured / memory.total_bytes) <= 1.15
