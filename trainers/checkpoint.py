"""Checkpoints that are visible only when they are whole.

A checkpoint is a directory ``step-00000120``. Every worker writes its files; when all are done, rank 0 writes
``checkpoint.json`` with the digest of each (:mod:`luthier.trainers.saving`). A directory without that file, or with a
file that differs from its digest, is no checkpoint; nor is one of another run (other settings or data) that was made in
the same place.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from luthier.digests import atomic_write_text, sha256_file, sha256_stream
from luthier.errors import IntegrityError, OutputError
from luthier.manifest import new_lineage_id
from luthier.trainers.strategies.base import Worker

log = logging.getLogger(__name__)
_INDEX = "checkpoint.json"
_LINEAGE = "lineage.json"
_OWNER = "owner"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        path: Its directory.
        step: Optimizer steps done.
        metrics: What was measured at that step.
        world_size: Workers that wrote it.
        identity: Digest of what the run was; see :func:`luthier.trainers.identity.run_identity`.
    """

    path: Path
    step: int
    metrics: dict[str, float]
    world_size: int
    identity: str

    @property
    def weights_dir(self) -> Path:
        """Deployable weights: ``adapter/`` or ``model/`` inside."""
        return self.path / "weights"

    @property
    def state_dir(self) -> Path:
        """Optimizer and schedule."""
        return self.path / "state"


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        root: Directory that holds them; on storage that all workers see.
        keep: How many to keep; the best and the newest always stay.
        metric: Name of the metric that ``best`` minimises.
        identity: Digest of what the run is; checkpoints of another are named once, ignored, and deleted when one of this
            run is published.
    """

    def __init__(self, root: Path, keep: int, metric: str, identity: str) -> None:
        self.root = root
        self._keep = keep
        self._metric = metric
        self._identity = identity
        self._told_of_others = False
        self._owner: str | None = None

    def take(self) -> None:
        """Refuse, from now on, whatever another store would write here. Rank 0 calls, before it reads.

        The command, or its machine, may die and be started again while workers of the first start are still there: cut
        off from the cluster, or stopped. When they wake they must not touch what the second start writes.
        """
        self._owner = uuid.uuid4().hex
        self.root.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self.root / _OWNER, self._owner)

    def adopt(self, path: Path) -> bool:
        """Copy a checkpoint, as this run's only one; returns whether another run wrote it.

        Raises:
            IntegrityError: It is not complete.
        """
        adopted = _described(path / _INDEX)
        if adopted is None:
            raise IntegrityError(f"{path} holds no complete checkpoint.")
        verify(adopted)
        for old in self.root.glob("step-*"):
            (old / _INDEX).unlink(missing_ok=True)
            shutil.rmtree(old)
        mine = replace(adopted, path=self.root / f"step-{adopted.step:08d}", identity=self._identity)
        shutil.copytree(path, mine.path, ignore=shutil.ignore_patterns(_INDEX))
        self.publish(mine)
        return adopted.identity != self._identity

    def begin(self, worker: Worker, step: int, metrics: dict[str, float]) -> Checkpoint:
        """Make a new checkpoint's directories; it counts once it is published. All workers call."""
        checkpoint = Checkpoint(self.root / f"step-{step:08d}", step, metrics, worker.world_size, self._identity)
        if worker.rank == 0:
            self._check_owner()
            (checkpoint.path / _INDEX).unlink(missing_ok=True)  # first, so that no half of an older one counts
            shutil.rmtree(checkpoint.path, ignore_errors=True)
            checkpoint.weights_dir.mkdir(parents=True)
            checkpoint.state_dir.mkdir()
        worker.barrier()
        return checkpoint

    def publish(self, checkpoint: Checkpoint) -> None:
        """Make a checkpoint count, and delete what is no longer to be kept. Rank 0 calls when all files are written."""
        self._check_owner()
        files = [path for path in sorted(checkpoint.path.rglob("*")) if path.is_file() and path.name != _INDEX]
        digests = {str(path.relative_to(checkpoint.path)): _settled_digest(path) for path in files}
        index = {**asdict(checkpoint), "path": None, "files": digests}
        atomic_write_text(checkpoint.path / _INDEX, json.dumps(index, indent=1))
        self._prune(checkpoint)

    def complete(self) -> list[Checkpoint]:
        """Published checkpoints, oldest first. Their digests are not checked; one without a readable index is named."""
        found = self._found()
        others = [checkpoint for checkpoint in found if checkpoint.identity != self._identity]
        if others and not self._told_of_others:
            self._told_of_others = True
            log.warning(
                "%s holds checkpoints of a run with other settings or data (steps %s); they are not used, and deleted "
                "when this run saves its first.",
                self.root,
                ", ".join(str(checkpoint.step) for checkpoint in others),
            )
        return [checkpoint for checkpoint in found if checkpoint.identity == self._identity]

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint whose files all match their digests; a broken one is named in a warning."""
        return self._first_sound(self.complete()[::-1])

    def agreed_newest(self, worker: Worker) -> Checkpoint | None:
        """:meth:`newest` as rank 0 finds it, which alone reads and digests the files. All workers call."""
        mine = self.newest() if worker.rank == 0 else None
        (step,) = worker.sum(float(mine.step) if mine else 0.0)
        if worker.rank == 0 or step == 0:
            return mine
        return next(checkpoint for checkpoint in self.complete() if checkpoint.step == step)

    def best(self) -> Checkpoint | None:
        """The sound checkpoint with the lowest metric; without that metric, the newest."""
        return self._first_sound(sorted(self.complete(), key=self._rank))

    def lineage_id(self) -> str:
        """The run's id: made when first asked for, the same each time that the run is continued."""
        path = self.root / _LINEAGE
        if path.exists():
            noted = json.loads(path.read_text())
            if noted["identity"] == self._identity:
                return str(noted["lineage_id"])
        lineage_id = new_lineage_id()
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, json.dumps({"identity": self._identity, "lineage_id": lineage_id}))
        return lineage_id

    def _check_owner(self) -> None:
        if self._owner is not None and (self.root / _OWNER).read_text() != self._owner:
            raise OutputError(f"{self.root}: the run was started again meanwhile, so this start of it writes no more.")

    def _found(self) -> list[Checkpoint]:
        described = (_described(path) for path in sorted(self.root.glob(f"step-*/{_INDEX}")))
        return [checkpoint for checkpoint in described if checkpoint is not None]

    def _rank(self, checkpoint: Checkpoint) -> tuple[float, int]:
        return checkpoint.metrics.get(self._metric, float("inf")), -checkpoint.step

    def _first_sound(self, candidates: list[Checkpoint]) -> Checkpoint | None:
        for checkpoint in candidates:
            try:
                verify(checkpoint)
            except IntegrityError as error:
                log.warning("checkpoint %s is skipped: %s", checkpoint.path, error)
            else:
                return checkpoint
        return None

    def _prune(self, newest: Checkpoint) -> None:
        found = self._found()
        checkpoints = [checkpoint for checkpoint in found if checkpoint.identity == self._identity]
        others = [checkpoint for checkpoint in found if checkpoint.identity != self._identity]
        protected = {newest.step, checkpoints[-1].step, min(checkpoints, key=self._rank).step}
        spare = [checkpoint for checkpoint in checkpoints if checkpoint.step not in protected]
        for checkpoint in (*others, *spare[: max(0, len(checkpoints) - self._keep)]):
            (checkpoint.path / _INDEX).unlink()
            shutil.rmtree(checkpoint.path)
        for path in self.root.glob("step-*"):
            if path != newest.path and not (path / _INDEX).exists():  # a save that was cut off
                shutil.rmtree(path, ignore_errors=True)


def _settled_digest(path: Path) -> str:
    """Digest of a file that is on the storage, and not only in this machine's memory."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        return sha256_stream(stream)[0]


def _described(index_path: Path) -> Checkpoint | None:
    try:
        index = json.loads(index_path.read_text())
        return Checkpoint(index_path.parent, index["step"], index["metrics"], index["world_size"], index["identity"])
    except (ValueError, KeyError, TypeError) as error:
        log.warning("checkpoint %s is skipped: %s can't be read (%r).", index_path.parent, index_path.name, error)
        return None


def verify(checkpoint: Checkpoint) -> None:
    """Compare every file with its digest.

    Raises:
        IntegrityError: A file is missing or differs.
    """
    index = json.loads((checkpoint.path / _INDEX).read_text())
    for name, expected in index["files"].items():
        path = checkpoint.path / name
        if not path.is_file():
            raise IntegrityError(f"{path} is missing.")
        actual = sha256_file(path)
        if actual != expected:
            raise IntegrityError(f"{path} has SHA-256 {actual[:12]}..., recorded is {expected[:12]}...")
