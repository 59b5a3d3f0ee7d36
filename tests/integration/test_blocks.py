"""Tokenised splits, made by Ray Data and read back row by row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.config.data import DataConfig, DatasetConfig
from luthier.errors import DataError
from luthier.trainers import tokenise
from luthier.trainers.accounts import SplitAccount
from luthier.trainers.block_file import read_table
from luthier.trainers.blocks import Block, prepare_blocks
from luthier.trainers.files import SPLITS, Split, iter_split
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
    """The blocks of both datasets, tokenised by two processes in blocks of some four rows; and found again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(tokenise, "BYTES_PER_PROCESS", 1000)
        patch.setattr(tokenise, "BLOCK_BYTES", 1000)
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
            for row in iter_split(datasets, split)
        ]
        kept = [row for row in encoded if row.num_loss_tokens]
        assert [(row.row_id, row.input_ids, row.labels) for row in block.read()] == [
            (row.row_id, row.input_ids, row.labels) for row in kept
        ]
        assert block.account == account_for(encoded, kept, split)
        table = read_table(block.path)
        assert len(table["row_id"].chunks) > 2  # it was written as it came
    assert (made["train"].account.dropped, made["train"].account.truncated) == (1, 2)
    assert [mark.rows for mark in made["train"].fingerprints] == [12, 3]


def account_for(encoded: list[Encoded], kept: list[Encoded], split: Split) -> SplitAccount:
    dropped = len(encoded) - len(kept)
    return SplitAccount(
        rows=len(encoded),
        kept=len(kept),
        truncated=sum(row.truncated for row in encoded),
        dropped=dropped,
        tokens=sum(len(row.input_ids) for row in kept),
        loss_tokens=sum(row.num_loss_tokens for row in kept),
        longest=max(len(row.input_ids) for row in kept),
        cut_tokens=sum(row.num_cut for row in encoded),
        reasons={"no answer token within data.max_length": dropped} if dropped else {},
        datasets={"data": 12, "other": 3} if split == "train" else {"data": 5},
        limits={
            "data.max_length": 64,
            "data.max_dropped_fraction": 0.5,
            "data.max_train_samples" if split == "train" else "data.max_eval_samples": None,
        },
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


def test_every_row_knows_its_dataset_also_in_a_part_of_them(made: Made) -> None:
    rows = made["train"].read()
    assert rows.datasets() == ["data"] * 12 + ["other"] * 2
    assert rows[11:13].datasets() == ["data", "other"]
    assert rows[::-1].datasets()[:3] == ["other", "other", "data"]


def test_a_sample_shows_in_the_account_of_the_same_file(
    made: Made, datasets: list[DatasetConfig], base_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(made["train"].path.parents[1]))
    few = DATA.model_copy(update={"max_train_samples": 10, "max_eval_samples": 5})
    sampled = prepare_blocks(datasets, few, base_model_dir, SPLITS)
    assert [block.reused for block in sampled.values()] == [True, True]
    assert [block.account.not_drawn for block in sampled.values()] == [4, 0]
    assert sampled["train"].account.limits["data.max_train_samples"] == 10


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            '{"prompt": "a", "completion": "b"}\n' * 3 + '{"prompt": "a"\n',
            r"train\.jsonl:4: not valid JSON at column .*\.",
        ),
        ("", r"datasets\[\]\.train: 'train\.jsonl' holds no rows; give a file with at least one\."),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line_and_nothing_is_kept(
    content: str,
    expected: str,
    base_model_dir: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # the reading process has another directory
    Path("train.jsonl").write_text(content)
    with pytest.raises(DataError, match=f"^{expected}$") as caught:
        prepare_blocks([DatasetConfig(train="train.jsonl")], DATA, base_model_dir, SPLITS)
    assert type(caught.value) is DataError
    assert "Traceback" not in "".join(capfd.readouterr())
    assert not list(cache.glob("blocks/*"))


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
