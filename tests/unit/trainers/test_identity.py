"""Which changes make another run of a run, and which let it continue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.config import RunConfig
from luthier.config.load import apply_overrides
from luthier.trainers.accounts import SplitAccount
from luthier.trainers.blocks import Block
from luthier.trainers.identity import run_identity


def block(name: str) -> Block:
    return Block(Path("/cache") / name, SplitAccount(1, 1, 0, 0, 9, 3, 9), (), reused=False)


TRAIN, VALIDATION = block("train-a.arrow"), block("validation-a.arrow")


@pytest.mark.parametrize(
    "values",
    [
        {"train.learning_rate": 3e-5},
        {"train.lora_r": 4},
        {"train.num_workers": 3},
        {"train.lr_scheduler_type": "linear"},
        {"seed": 7},
    ],
)
def test_what_changes_a_step_changes_the_run(values: dict[str, Any], quickstart: RunConfig) -> None:
    changed = apply_overrides(quickstart, values)
    assert run_identity(changed, TRAIN, VALIDATION) != run_identity(quickstart, TRAIN, VALIDATION)


@pytest.mark.parametrize(
    "values",
    [
        {"train.max_steps": 3},
        {"train.save_total_limit": 7},
        {"train.max_failures": 5},
        {"serve.port": 9000},
        {"evaluate.few_shot_k": 1},
        {"storage_path": "elsewhere"},
        {"name": "renamed"},
        {"tune": None},
    ],
)
def test_what_leaves_the_steps_alone_leaves_the_run_alone(values: dict[str, Any], quickstart: RunConfig) -> None:
    changed = apply_overrides(quickstart, values)
    assert run_identity(changed, TRAIN, VALIDATION) == run_identity(quickstart, TRAIN, VALIDATION)


def test_other_data_make_another_run(quickstart: RunConfig) -> None:
    same = run_identity(quickstart, TRAIN, VALIDATION)
    assert run_identity(quickstart, block("train-b.arrow"), VALIDATION) != same
    assert run_identity(quickstart, TRAIN, block("validation-b.arrow")) != same
    assert run_identity(quickstart, TRAIN, None) != same
