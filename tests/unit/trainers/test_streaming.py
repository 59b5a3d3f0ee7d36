"""Reading a data file takes no more memory for many rows than for few; a reader that holds them all is caught."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.config.data import DatasetConfig
from luthier.trainers import records, tokenise
from luthier.trainers.tokenise import Source, row_tables
from tests.memory import peak_bytes

FEW, MANY = 400, 3_200
"""Rows of some 600 bytes as JSON: four blocks and 32, as they are here."""

pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of which a small file has many."""
    monkeypatch.setattr(tokenise, "BLOCK_BYTES", 65_536)
    monkeypatch.setattr(records, "_PARQUET_BUFFER_BYTES", 16_384)


Stream = Callable[[Source], Iterable[pa.Table]]


def record(number: int) -> dict[str, Any]:
    return {"prompt": f"{number} " + "how " * 40, "completion": f"{number} " + "so " * 40}


def write(path: Path, count: int) -> None:
    rows = [record(number) for number in range(count)]
    if path.suffix == ".parquet":
        table = pa.Table.from_pylist(rows)
        pages: dict[str, int] = {"data_page_size": 16_384, "write_batch_size": 64}
        pq.write_table(table, path, compression="none", use_dictionary=False, **pages)  # one row group
    elif path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["prompt", "completion"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in rows))


def peak_of(read: Stream, suffix: str, count: int, directory: Path) -> int:
    """The most bytes held at a time while all tables of a file are read."""
    path = directory / f"{count}{suffix}"
    write(path, count)
    source = Source(DatasetConfig(train=str(path)), "train", "sft", Path())

    def read_all() -> None:
        assert sum(table.num_rows for table in read(source)) == count

    return peak_bytes(read_all)


def hold_all(source: Source) -> Iterator[pa.Table]:
    """The reader that the test must be able to refuse."""
    yield from list(row_tables(source))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_file_eight_times_as_long_takes_no_more_memory(suffix: str, tmp_path: Path) -> None:
    few, many = (peak_of(row_tables, suffix, count, tmp_path) for count in (FEW, MANY))
    assert many < 2 * few, (few, many)


def test_control_a_reader_that_holds_all_rows_takes_more_for_more(tmp_path: Path) -> None:
    few, many = (peak_of(hold_all, ".jsonl", count, tmp_path) for count in (FEW, MANY))
    assert many > 3 * few


def test_tables_are_of_about_a_block_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenise, "BLOCK_BYTES", 2_000)
    path = tmp_path / "d.jsonl"
    write(path, 30)
    tables = list(row_tables(Source(DatasetConfig(train=path.name), "train", "sft", tmp_path)))
    texts = [text for table in tables for text in table["row"].to_pylist()]
    assert [json.loads(text)["row_id"] for text in texts] == [f"d.jsonl:{line}" for line in range(1, 31)]
    assert len(tables) > 5
    assert all(sum(map(len, table["row"].to_pylist())) < 2_600 for table in tables)
