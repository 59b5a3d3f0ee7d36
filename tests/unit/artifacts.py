"""Small artifacts and evaluations for tests of what is done with them; no model is trained."""

from __future__ import annotations

from pathlib import Path

from luthier.config import RunConfig, config_hash, dump_yaml
from luthier.evaluation_schema import Evaluation, Interval, VariantScores
from luthier.manifest import BaseModelRef, write_manifest
from luthier.served_schema import ParityCounts, Percentiles, ServedRecord

EMPTY_SAFETENSORS = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"


def make_artifact(directory: Path, cfg: RunConfig, *, content: str = "a", base_digest: str = "base") -> Path:
    """An adapter without tensors; ``content`` tells artifacts apart."""
    for name, data in {
        "adapter/adapter_model.safetensors": EMPTY_SAFETENSORS,
        "adapter/adapter_config.json": f'{{"content": "{content}"}}'.encode(),
        "tokenizer/tokenizer.json": b"{}",
        "config.yaml": dump_yaml(cfg).encode(),
    }.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    base = BaseModelRef(model_name_or_path=cfg.model.model_name_or_path, digest=base_digest)
    hashed = config_hash(cfg)
    write_manifest(directory, name=cfg.name, method="lora", base_model=base, config_hash=hashed, data={}, metrics={})
    return directory


def make_evaluation(value: float = 0.7, *, gain: float = 0.2, n: int = 400) -> Evaluation:
    """Tuned against base and few-shot, by rouge_l."""
    names = ("base", "few_shot", "tuned")
    scores = VariantScores(metrics={"rouge_l": Interval(value=value, low=value - 0.02, high=value + 0.02)})
    difference = {"rouge_l": Interval(value=gain, low=gain - 0.02, high=gain + 0.02)}
    return Evaluation(
        labels=(),
        n=n,
        variants=dict.fromkeys(names, scores),
        differences={"tuned-base": difference, "tuned-few_shot": difference},
        few_shot_k=5,
        confidence=0.95,
        bootstrap_samples=100,
        seed=0,
    )


def make_served(manifest_sha256: str = "0" * 64, *, mismatch: int = 0) -> ServedRecord:
    """20 answers like the trainer's, and those that are not."""
    return ServedRecord(
        manifest_sha256=manifest_sha256,
        parity=ParityCounts(same=19, near_tie=1, mismatch=mismatch, other_prompt=0, tolerance=0.01),
        first_token_s=Percentiles(p50=0.2, p95=0.5),
        inter_token_ms=Percentiles(p50=20.0, p95=40.0),
        concurrency=16,
        dtype="float32",
        device="cpu",
        measured_at="2025-01-01T00:00:00+00:00",
        measured_by="ada",
    )
