"""What makes two runs the same run, so that one may continue from the other's checkpoints."""

from __future__ import annotations

from luthier.config.run import RunConfig
from luthier.digests import sha256_json
from luthier.trainers.blocks import SAMPLING, Block

_NOT_IDENTITY = {
    "max_steps",
    "num_train_epochs",
    "max_failures",
    "start_timeout_s",
    "resources_per_worker",
    "logging_steps",
    "eval_steps",
    "eval_metrics",
    "save_steps",
    "async_save",
    "elastic_resize_monitor_interval_s",
    "log_samples",
    "hang_timeout_s",
    "spare_workers",
    "min_per_device_train_batch_size",
    "save_total_limit",
    "metric_for_best_model",
}
"""Settings of ``train`` under which a step is the same step: how many there are, what they run on, what is noted."""


def run_identity(cfg: RunConfig, train: Block, validation: Block | None, start: str | None = None) -> str:
    """Digest of all that decides what a step of training does.

    The names of the tokenised splits are digests of the base model, the source files and the data settings. The length
    of the run is left out, so that a longer one continues a shorter one; a schedule that decays bends at that point.

    Args:
        cfg: The configuration; what comes before or after training (sweep, evaluation, registry, serving) is left out.
        train: Tokenised training rows.
        validation: Tokenised validation rows, or None.
        start: Digest of the weights that it begins with; None: the base's.
    """
    return sha256_json(
        {
            "seed": cfg.seed,
            "start": start,
            "weights": {one.name: one.weight for one in cfg.datasets},
            "model": cfg.model.model_dump(mode="json", exclude={"model_name_or_path", "revision"}),
            "train": cfg.train.model_dump(mode="json", exclude=_NOT_IDENTITY),
            "sampling": cfg.data.model_dump(mode="json", include=SAMPLING),
            "blocks": [train.path.name, validation.path.name if validation else None],
        }
    )
