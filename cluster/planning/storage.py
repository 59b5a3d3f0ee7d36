"""Room that a run takes on disks."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from luthier.cluster.planning.parameters import num_parameters, num_trainable
from luthier.cluster.planning.shapes import Shapes
from luthier.cluster.planning.states import ADAM_BYTES
from luthier.config.train import TrainConfig

FILE_BYTES = 2
FP32_BYTES = 4


class Storage(BaseModel):
    """Bytes on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoints_bytes: int
    """All that are kept on ``storage_path`` at once, and one more that is being written: trained weights in float32 twice
    (to go on from, and to deploy) and the optimizer's moments."""

    artifact_bytes: int
    """The trained weights once more, in the run's directory and again in the registry."""

    base_model_bytes: int
    """The pretrained model in each machine's cache, in 16 bits."""

    @property
    def total_bytes(self) -> int:
        """On a machine that holds all of it."""
        return self.checkpoints_bytes + self.artifact_bytes + self.base_model_bytes


def storage(shapes: Shapes, train: TrainConfig) -> Storage:
    """What a training leaves on disks."""
    trained, everything = num_trainable(shapes, train), num_parameters(shapes)
    deployed = FP32_BYTES * (everything if train.method == "full" else trained)
    one = deployed + (FP32_BYTES + ADAM_BYTES) * trained
    return Storage(
        checkpoints_bytes=(train.save_total_limit + 1) * one,
        artifact_bytes=2 * deployed,
        base_model_bytes=FILE_BYTES * everything,
    )
