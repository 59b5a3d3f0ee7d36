"""From the best checkpoint to the artifact that every later stage reads."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from luthier.config import RunConfig, config_hash, dump_yaml, with_absolute_paths
from luthier.manifest import BaseModelRef, DataFingerprint, Manifest, write_manifest
from luthier.trainers.base_model import base_digest
from luthier.trainers.checkpoint import Checkpoint
from luthier.trainers.classifier import merge_classifier
from luthier.trainers.loop import Job


def write_artifact(cfg: RunConfig, jobs: Sequence[Job], best: Checkpoint, artifact_dir: Path) -> Manifest:
    """Copy the best weights, the tokenizer and the resolved config, and describe them in a manifest written last.

    A classifier's adapter is merged into its base: an adapter knows no labels. The directory appears whole or not at all.

    Args:
        cfg: The run's configuration.
        jobs: Its trainings, whose data is named; the last one made the weights.
        best: Where these are.
        artifact_dir: Where the artifact goes.
    """
    job = jobs[-1]
    half_made = artifact_dir.with_name(artifact_dir.name + ".partial")
    shutil.rmtree(half_made, ignore_errors=True)
    shutil.copytree(best.weights_dir, half_made)
    objective = job.objective()
    if objective.classes and (half_made / "adapter").exists():
        merge_classifier(
            job.base_model_dir, job.cfg.model, half_made / "adapter", objective.classes, half_made / "model"
        )
        shutil.rmtree(half_made / "adapter")
    objective.tokenizer.hf.save_pretrained(half_made / "tokenizer")
    (half_made / "config.yaml").write_text(dump_yaml(with_absolute_paths(cfg)), encoding="utf-8")
    prints: dict[str, dict[DataFingerprint, None]] = {}
    for one in jobs:
        for split, block in (("train", one.train), ("validation", one.validation)):
            if block is not None:
                prints.setdefault(split, {}).update(dict.fromkeys(block.fingerprints))
    manifest = write_manifest(
        half_made,
        name=job.cfg.name,
        method=job.cfg.train.method,
        base_model=BaseModelRef(
            model_name_or_path=job.cfg.model.model_name_or_path, digest=base_digest(job.base_model_dir)
        ),
        config_hash=config_hash(cfg),
        lineage_id=job.store().lineage_id(),
        objective=job.cfg.train.objective,
        data={split: tuple(found) for split, found in prints.items()},
        metrics={name: value for name, value in best.metrics.items() if name in ("step", "epoch", "loss", "eval_loss")},
    )
    shutil.rmtree(artifact_dir, ignore_errors=True)
    half_made.replace(artifact_dir)
    return manifest
