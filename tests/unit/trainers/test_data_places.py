"""Data that is compressed, saved by datasets, or lies behind a URI gives the rows of the plain file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import fsspec
import pyarrow as pa
import pytest

from luthier.config.data import DatasetConfig
from luthier.data_places import size_bytes
from luthier.errors import DataError
from luthier.rows import Row
from luthier.trainers.files import file_digest, read_rows

pytestmark = pytest.mark.unit

RECORDS = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(2_000)]
PLAIN = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
PACKERS = {".gz": gzip.compress, ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True)}


def read(place: str | Path) -> list[Row]:
    return read_rows(DatasetConfig(train=str(place)), "train")


def same(rows: list[Row]) -> bool:
    return [(row.text, row.label) for row in rows] == [(record["text"], record["label"]) for record in RECORDS]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".tsv"])
def test_a_compressed_file_gives_the_rows_of_the_plain_one(kind: str, ending: str, tmp_path: Path) -> None:
    tsv = "text\tlabel\n" + "".join(f"{record['text']}\t{record['label']}\n" for record in RECORDS)
    plain = {".jsonl": PLAIN, ".json": json.dumps(RECORDS).encode(), ".tsv": tsv.encode()}[kind]
    path = tmp_path / f"d{kind}{ending}"
    path.write_bytes(PACKERS[ending](plain))
    assert same(read(path))


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_cut_or_damaged_compressed_file_is_refused(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"d.jsonl{ending}"
    whole = PACKERS[ending](PLAIN)
    for content in (whole[:-9], whole[: len(whole) // 2], b"plain", whole[:40] + b"\xff" * 40 + whole[80:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"d\.jsonl{ending}"):
            read(path)


def test_a_compressed_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.parquet.gz").write_bytes(b"x")
    with pytest.raises(DataError, match="unpack the file"):
        read(tmp_path / "d.parquet.gz")


def test_a_directory_saved_by_datasets_is_read(tmp_path: Path) -> None:
    saved = datasets.Dataset.from_list(RECORDS)
    saved.save_to_disk(tmp_path / "saved", num_shards=3)
    assert same(read(tmp_path / "saved"))
    assert size_bytes(str(tmp_path / "saved")) == sum(
        one.stat().st_size for one in (tmp_path / "saved").glob("*.arrow")
    )
    before = file_digest(DatasetConfig(train=str(tmp_path / "saved")), "train")
    saved.select(range(5)).flatten_indices().save_to_disk(tmp_path / "few")
    assert file_digest(DatasetConfig(train=str(tmp_path / "few")), "train") != before
    datasets.DatasetDict(train=saved).save_to_disk(tmp_path / "splits")
    with pytest.raises(DataError, match="name the directory of one of its splits"):
        read(tmp_path / "splits")
    shard = sorted((tmp_path / "saved").glob("*.arrow"))[1]
    shard.write_bytes(shard.read_bytes()[:400])
    with pytest.raises(DataError, match="not a valid Arrow file"):
        read(tmp_path / "saved")


def test_data_behind_a_uri_is_read(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(PLAIN)
    local = DatasetConfig(train=str(tmp_path / "d.jsonl"))
    with fsspec.open("memory://read/d.jsonl", "wb") as stream:
        stream.write(PLAIN)
    for uri in (f"file://{tmp_path}/d.jsonl", "memory://read/d.jsonl"):
        assert read(uri) == read(tmp_path / "d.jsonl")
        assert file_digest(DatasetConfig(train=uri), "train") == file_digest(local, "train")
        assert size_bytes(uri) == len(PLAIN)


@pytest.mark.parametrize(
    ("uri", "expected"), [("memory://read/none.jsonl", "does not exist"), ("nosuch://d.jsonl", "no fsspec package")]
)
def test_a_uri_without_data_is_refused(uri: str, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        read(uri)
