"""Rounds of several runs on one base; runs join and leave between them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from luthier.config.run import RunConfig
from luthier.config.shared_base import refuse_group
from luthier.errors import ConfigError, TrainingDiverged
from luthier.trainers.inprocess import make_job
from luthier.trainers.metrics_stream import Metrics
from luthier.trainers.together.member import Member
from luthier.trainers.together.shared_base import SharedBase


@dataclass(frozen=True)
class Told:
    """What a round tells of a member.

    Attributes:
        member: Its number.
        metrics: Those of a step that ended with a validation, or of its last; None: it failed.
        error: Why it failed.
        is_last: Whether there is nothing more to come: the member has left.
    """

    member: int
    metrics: Metrics | None
    error: TrainingDiverged | None = None
    is_last: bool = False


class Together:
    """Runs with one copy of the base. Each learns what it would alone; what differs is the order of sums.

    Any thread may call.

    Args:
        base_model_dir: The pretrained model.
        cfg: Any of the runs, or what they were made from: its ``model``, compute type and device are all runs'.

    Raises:
        ConfigError: The model or the settings do not allow it.
    """

    def __init__(self, base_model_dir: Path, cfg: RunConfig) -> None:
        self._base_model_dir = base_model_dir
        self._cfg = cfg
        self._base = SharedBase(base_model_dir, cfg)
        self._members: dict[int, Member] = {}
        self._num_joined = 0
        self._lock = threading.Lock()

    @property
    def bf16(self) -> bool:
        """Whether the base computes in bfloat16."""
        return self._base.bf16

    @property
    def members(self) -> Mapping[int, Member]:
        """Those that train, by number."""
        return dict(self._members)

    def join(self, cfg: RunConfig, workdir: Path) -> int:
        """Take a run in, from the next round on.

        Args:
            cfg: The run. A checkpoint of it is neither read nor written.
            workdir: Where its metrics go.

        Returns:
            Its number.

        Raises:
            ConfigError: It can't be trained with the others.
        """
        refuse_group(cfg)
        self._refuse_other_base(cfg)
        workdir.mkdir(parents=True, exist_ok=True)
        job = make_job(cfg, self._base_model_dir, workdir)
        with self._lock:
            member = Member(job, self._base, self._base.new_adapter(cfg))
            self._num_joined += 1
            self._members[self._num_joined] = member
            return self._num_joined

    def leave(self, number: int) -> None:
        """Let a run go, wherever it is; nothing happens if it is gone."""
        with self._lock:
            self._drop(number)

    def round(self) -> list[Told]:
        """One micro-batch of every member through the base together; optimizer steps where they are due.

        Returns:
            What there is to tell; a member that is done or failed has left.
        """
        with self._lock:
            members = list(self._members.items())
            if not members:
                return []
            losses = self._base.learn([member.next_share() for _, member in members])
            ends = [self._end(number, loss) for (number, _), loss in zip(members, losses, strict=True)]
            return [told for told in ends if told is not None]

    def _end(self, number: int, loss: torch.Tensor) -> Told | None:
        member = self._members[number]
        try:
            metrics = member.end_round(loss)
        except TrainingDiverged as error:
            self._drop(number)
            return Told(number, None, error, is_last=True)
        if metrics is None:
            return None
        if member.is_done:
            self._drop(number)
        return Told(number, metrics, is_last=member.is_done)

    def _drop(self, number: int) -> None:
        member = self._members.pop(number, None)
        if member is not None:
            member.close()

    def _refuse_other_base(self, cfg: RunConfig) -> None:
        """A run that needs the base otherwise than it is here."""
        for key, wanted, here in (
            ("model", cfg.model, self._cfg.model),
            ("train.bf16", cfg.train.bf16, self._cfg.train.bf16),
            ("train.fused_layers", cfg.train.fused_layers, self._cfg.train.fused_layers),
            ("train.resources_per_worker", cfg.train.resources_per_worker, self._cfg.train.resources_per_worker),
        ):
            if wanted != here:
                raise ConfigError(
                    f"{key} is {wanted}, and the trials that share the base have {here}; let all have one."
                )
