"""From a data file to its tokenised split: the process that writes it holds no more of a long file than of a short one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from luthier.config.data import DataConfig, DatasetConfig
from luthier.config.train import TrainConfig
from luthier.trainers import tokenise
from luthier.trainers.blocks import Block, prepare_blocks
from tests.memory import peak_bytes
from tests.tokenising import tokenised_here

FEW, MANY = 200, 1_600
"""Rows of some 600 bytes: two blocks and 15, as they are here."""


STAGES = {"here": tokenised_here, "ray": tokenise.tokenised}


@pytest.fixture(autouse=True)
def small_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, and blocks of which a small file has many."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tokenise, "BLOCK_BYTES", 65_536)


def make(count: int, base_model_dir: Path, directory: Path) -> Block:
    path = directory / f"{count}.jsonl"
    with path.open("w") as stream:
        stream.writelines(json.dumps({"text": f"{number} " + "so it goes, " * 50}) + "\n" for number in range(count))
    dataset, pretraining = DatasetConfig(train=str(path)), TrainConfig(objective="pretraining")
    block = prepare_blocks([dataset], DataConfig(), base_model_dir, ["train"], pretraining)["train"]
    assert (block.reused, block.account.rows, len(block.read())) == (False, count, count)
    return block


@pytest.mark.parametrize("stage", ["here", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_file_eight_times_as_long_takes_no_more_memory_unless_its_tables_are_gathered(
    stage: str, request: pytest.FixtureRequest, base_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stage == "ray":
        request.getfixturevalue("ray_session")
    tables_of = STAGES[stage]
    monkeypatch.setattr(tokenise, "tokenised", tables_of)
    make(FEW - 1, base_model_dir, tmp_path)  # what is loaded once is loaded here
    few, many = (peak_bytes(partial(make, count, base_model_dir, tmp_path)) for count in (FEW, MANY))

    def gathered(*where: Any) -> Iterator[pa.Table]:
        yield pa.concat_tables(list(tables_of(*where)))

    monkeypatch.setattr(tokenise, "tokenised", gathered)
    control = peak_bytes(partial(make, MANY + 1, base_model_dir, tmp_path))
    written = max(path.stat().st_size for path in (tmp_path / "cache" / "blocks").glob("*.arrow"))
    assert many - few < written / 4, (few, many, control, written)
    assert control - few > written / 2, (few, many, control, written)
