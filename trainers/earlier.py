"""What a training knows of the stages before it: the weights to begin with, and the tasks that these were taught."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from luthier.config.data import DataConfig
from luthier.config.train import TrainConfig
from luthier.digests import sha256_file, sha256_json
from luthier.trainers.blocks import Block, Rows
from luthier.trainers.objectives import build_objective
from luthier.trainers.validation import Task


@dataclass(frozen=True)
class Start:
    """Trained weights that a training begins with.

    Attributes:
        weights_dir: Holds ``adapter/`` or ``model/``.
        digest: Of the weights' files.
    """

    weights_dir: Path
    digest: str

    @classmethod
    def at(cls, weights_dir: Path) -> Start:
        """The weights in a directory."""
        files = sorted(weights_dir.rglob("*.safetensors"))
        return cls(weights_dir, sha256_json([[file.name, sha256_file(file)] for file in files]))


@dataclass(frozen=True)
class EarlierTask:
    """A task that an earlier stage has taught.

    Attributes:
        name: Of its dataset.
        train: The settings that it was taught with, for the objective.
        data: How its rows became tokens.
        validation: Its tokenised validation rows.
    """

    name: str
    train: TrainConfig
    data: DataConfig
    validation: Block

    def task(self, base_model_dir: Path, rows: Rows) -> Task:
        """The task as it is validated, on those of its rows that are used."""
        objective = build_objective(self.train, self.data, base_model_dir)
        return Task(self.name, objective, rows.by_length(), self.train.learns_tokens, is_earlier=True)
