"""Training on packs and on rows without padding: the same losses as with padding, and the same run when continued."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.config import RunConfig
from luthier.trainers.inprocess import train_in_process
from luthier.trainers.metrics_stream import FILE_NAME, Metrics, read_metrics

pytestmark = pytest.mark.usefixtures("ray_session")

MakeConfig = Callable[..., RunConfig]


def run(cfg: RunConfig, base_model_dir: Path, workdir: Path) -> list[Metrics]:
    train_in_process(cfg, base_model_dir=base_model_dir, workdir=workdir, report=lambda row, path: None)
    return read_metrics(workdir / FILE_NAME)


def figures(rows: list[Metrics]) -> list[tuple[float, ...]]:
    names = ("step", "loss", "grad_norm", "tokens", "loss_tokens", "rows", "rows_seen")
    return [tuple(row[name] for name in names) for row in rows]


def test_rows_without_padding_are_learnt_as_padded_ones_are(
    make_config: MakeConfig, shallow_base_dir: Path, tmp_path: Path
) -> None:
    flat = run(make_config(padding_free=True), shallow_base_dir, tmp_path / "flat")
    padded = run(make_config(padding_free=False), shallow_base_dir, tmp_path / "padded")
    assert [row["tokens"] for row in flat] == [row["tokens"] for row in padded]
    assert [row["loss"] for row in flat] == pytest.approx([row["loss"] for row in padded], abs=2e-4)
    assert [row["grad_norm"] for row in flat] == pytest.approx([row["grad_norm"] for row in padded], rel=1e-3)
    assert flat[-1]["eval_loss"] == pytest.approx(padded[-1]["eval_loss"], abs=2e-4)


def test_a_packed_run_sees_every_row_once_and_continues_bit_for_bit(
    make_config: MakeConfig, shallow_base_dir: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "packing": True,
        "per_device_train_batch_size": 1,
        "num_train_epochs": 2,
        "eval_steps": 2,
    }
    whole = run(make_config(**settings), shallow_base_dir, tmp_path / "whole")
    by_rows = run(make_config(per_device_train_batch_size=12), shallow_base_dir, tmp_path / "rows")
    epoch = whole[: len(whole) // 2]
    assert len(epoch) > 2  # packs of at most 96 tokens
    assert max(row["tokens"] for row in epoch) <= 96
    for name in ("tokens", "loss_tokens"):
        assert sum(row[name] for row in epoch) == by_rows[0][name]
    run(make_config(**settings, max_steps=2), shallow_base_dir, tmp_path / "cut")
    assert figures(run(make_config(**settings), shallow_base_dir, tmp_path / "cut")) == figures(whole)
