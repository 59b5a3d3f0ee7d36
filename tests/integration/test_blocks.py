"""Tokenised splits, made by Ray Data and read back row by row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.config.data import DataConfig, DatasetConfig
from luthier.errors import DataError
from luthier.trainers import blocks
from luthier.trainers.blocks import Block, SplitAccount, prepare_blocks
from luthier.trainers.files import SPLITS, Split, read_split
from luthier.trainers.tokens import ChatTokenizer, Encoded

pytestmark = pytest.mark.usefixtures("ray_session")

DATA = DataConfig(max_length=64, max_dropped_fraction=0.5)


Made = dict[Split, Block]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def datasets(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[DatasetConfig]:
    """The small data, and a second task with a row that is too long for its answer and one that is cut in it."""
    long = [("word " * 100, "lost"), ("short", "kept"), ("short", "cut " * 60)]
    other = tmp_path_factory.mktemp("other") / "train.jsonl"
    other.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in long))
    first = {split: str(small_data / f"{split}.jsonl") for split in ("train", "validation")}
    return [DatasetConfig.model_validate(first), DatasetConfig(name="other", train=str(other))]


@pytest.fixture(scope="module")
def made(
    datasets: list[DatasetConfig], base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Made]:
    """The blocks of both datasets, tokenised in two parts of which one holds rows of both splits; and found again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(blocks, "_ROWS_PER_PROCESS", 12)
        first = prepare_blocks(datasets, DATA, base_model_dir, SPLITS)
        again = prepare_blocks(datasets, DATA, base_model_dir, SPLITS)
    assert [block.reused for block in (*first.values(), *again.values())] == [False, False, True, True]
    assert [block.account for block in first.values()] == [block.account for block in again.values()]
    yield again


def test_all_splits_are_tokenised_in_order_and_every_row_is_accounted_for(
    made: Made, datasets: list[DatasetConfig], base_model_dir: Path
) -> None:
    tokenizer = ChatTokenizer(base_model_dir)
    assert list(made) == ["train", "validation"]
    for split, block in made.items():
        encoded = [
            tokenizer.encode(row, max_length=DATA.max_length, assistant_only_loss=True)
            for row in read_split(datasets, split)
        ]
        kept = [row for row in encoded if row.num_loss_tokens]
        assert [(row.row_id, row.input_ids, row.labels) for row in block.read()] == [
            (row.row_id, row.input_ids, row.labels) for row in kept
        ]
        assert block.account == account_for(encoded, kept)
    assert (made["train"].account.dropped, made["train"].account.truncated) == (1, 2)


def account_for(encoded: list[Encoded], kept: list[Encoded]) -> SplitAccount:
    return SplitAccount(
        rows=len(encoded),
        kept=len(kept),
        truncated=sum(row.truncated for row in encoded),
        dropped=len(encoded) - len(kept),
        tokens=sum(len(row.input_ids) for row in kept),
        loss_tokens=sum(row.num_loss_tokens for row in kept),
        longest=max(len(row.input_ids) for row in kept),
    )


def test_rows_are_read_by_position_and_by_slice(made: Made) -> None:
    rows = made["validation"].read()
    names = [f"validation.jsonl:{line}" for line in range(1, 6)]
    assert len(rows) == 5
    assert [row.row_id for row in rows] == names
    assert [row.row_id for row in rows[1::2]] == names[1::2]
    assert [row.row_id for row in rows[1::2][1:]] == names[3:4]
    assert (rows[-1].row_id, rows[1::2][-1].row_id) == (names[-1], names[3])
    with pytest.raises(IndexError):
        rows[5]


def test_rows_that_are_too_long_are_refused_and_nothing_of_the_split_is_kept(
    datasets: list[DatasetConfig], base_model_dir: Path, cache: Path
) -> None:
    with pytest.raises(DataError, match=r"train: 2 rows are longer than .* the first at other/train\.jsonl:1"):
        prepare_blocks(datasets[1:], DataConfig(max_length=64, truncation=False), base_model_dir, SPLITS)
    assert not list(cache.glob("blocks/*"))


def test_a_row_that_the_template_refuses_is_named_though_it_was_met_in_another_process(
    datasets: list[DatasetConfig], base_model_dir: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(base_model_dir, base, ignore=shutil.ignore_patterns("*.safetensors"))
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system, please') }}{% endif %}"
    (base / "chat_template.jinja").write_text(refusing + (base / "chat_template.jinja").read_text())
    dataset = datasets[1].model_copy(update={"system": "Be brief."})
    with pytest.raises(
        DataError, match=r"^other/train\.jsonl:1: .*refuses .*system, user.*no system, please"
    ) as caught:
        prepare_blocks([dataset], DATA, base, SPLITS)
    assert type(caught.value) is DataError
