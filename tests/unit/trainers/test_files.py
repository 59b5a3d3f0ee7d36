"""Dataset files: the formats that are read, and the place that each bad one is refused at."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.config.data import DatasetConfig
from luthier.errors import DataError
from luthier.trainers.files import file_digest, iter_split, read_rows

RECORDS = [{"text": "straße, 1", "label": "a"}, {"text": 'say "x"', "label": "b"}, {"text": "z", "label": "a"}]


def write(path: Path) -> None:
    """The same three records in the format that the file's ending names."""
    if path.suffix == ".json":
        path.write_text(json.dumps(RECORDS), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(RECORDS), path)
    elif path.suffix == ".csv":
        path.write_text('text,label\n"straße, 1",a\n"say ""x""",b\nz,a\n', encoding="utf-8")
    else:
        path.write_text("\n".join(json.dumps(record) for record in RECORDS), encoding="utf-8")


@pytest.mark.parametrize("name", ["d.jsonl", "d.ndjson", "d.JSONL", "d.json", "d.csv", "d.parquet"])
def test_every_format_gives_the_same_rows_in_order(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write(path)
    rows = read_rows(DatasetConfig(train=str(path)), "train")
    assert [(row.prompt[-1].content, row.label) for row in rows] == [(r["text"], r["label"]) for r in RECORDS]
    first_line = 2 if path.suffix == ".csv" else 1
    assert [row.row_id for row in rows] == [f"{name}:{first_line + number}" for number in range(3)]


def test_a_csv_may_start_with_a_byte_order_mark_and_hold_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text('text,label\r\n"one\r\ntwo",a\r\nz,b\r\n', encoding="utf-8-sig", newline="")
    rows = read_rows(DatasetConfig(train=str(path)), "train")
    assert [(row.row_id, row.prompt[-1].content) for row in rows] == [("d.csv:3", "one\r\ntwo"), ("d.csv:4", "z")]


def test_blank_lines_do_not_shift_the_lines_that_rows_are_named_by(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("\n" + json.dumps(RECORDS[0]) + "\n\n" + json.dumps(RECORDS[1]) + "\n\n")
    assert [row.row_id for row in read_rows(DatasetConfig(train=str(path)), "train")] == ["d.jsonl:2", "d.jsonl:4"]


GOOD = json.dumps(RECORDS[0]).encode() + b"\n"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("d.jsonl", GOOD + b'{"text": "x", \n', ":2: not valid JSON at column "),
        ("d.jsonl", GOOD + GOOD + b'{"text": "\xff", "label": "a"}\n', ":3: byte 11 is not UTF-8"),
        ("d.jsonl", GOOD + b"[1]\n", ":2: holds list; each row must be an object"),
        ("d.jsonl", GOOD + b'{"text": "x"}\n', ":2: columns are text; a row needs"),
        ("d.jsonl", GOOD + b'{"text": "x", "label": ""}\n', ":2: label is ''"),
        ("d.jsonl", GOOD + b'{"messages": [{"role": "user", "content": "x"}]}\n', ":2: no assistant turn"),
        ("d.jsonl", GOOD + b'{"text": NaN, "label": "a"}\n', ":2: text is nan"),
        ("d.json", b'[\n{"text": "x",\n "label": }\n]', ":3: not valid JSON at column "),
        ("d.json", b'{"text": "x"}', ": holds dict; a .json file must be a list of rows"),
        ("d.json", b'[{"text": "x", "label": "a"}, 1]', ":2: holds int; each row must be an object"),
        ("d.json", b'["\xff"]', ": byte 3 is not UTF-8"),
        ("d.csv", b"text,label\nx,a\ny\n", ":3: the number of columns differs from the header's"),
        ("d.csv", b"text,label\nx,a\ny,b,c\n", ":3: the number of columns differs from the header's"),
        ("d.csv", b"text,label\nx,a\ny,\n", ":3: label is ''"),
        ("d.csv", b'text,label\nx,a\n"y,b\n', ":3: not valid CSV: unexpected end of data"),
        ("d.csv", b"text,label\nx\xff,a\n", ":2: byte 2 is not UTF-8"),
        ("d.csv", b"body,label\nx,a\n", ":2: columns are body, label; a row needs"),
        ("d.parquet", b"not parquet", ": not a valid Parquet file"),
        ("d.txt", b"x", ": ending '.txt' is not known; use .csv, .json, .jsonl, .ndjson, .parquet"),
    ],
)
def test_a_bad_file_is_refused_by_its_line(name: str, content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_rows(DatasetConfig(train=str(path)), "train")
    assert str(caught.value).startswith(str(path))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [("d.jsonl", b""), ("d.jsonl", b"\n \n"), ("d.json", b"[]"), ("d.csv", b""), ("d.csv", b"text,label\n")],
)
def test_a_file_without_rows_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"datasets\[\]\.test: .*d\..* holds no rows"):
        read_rows(DatasetConfig(train="t.jsonl", test=str(path)), "test")


def test_a_missing_file_or_split_is_refused(tmp_path: Path) -> None:
    dataset = DatasetConfig(train=str(tmp_path / "no.jsonl"))
    with pytest.raises(DataError, match=r"datasets\[\]\.train: file .*no\.jsonl' does not exist"):
        read_rows(dataset, "train")
    with pytest.raises(DataError, match="dataset 'data' has no validation file"):
        read_rows(dataset, "validation")


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    dataset = DatasetConfig(train=str(path))
    path.write_bytes(GOOD)
    before = file_digest(dataset, "train")
    path.write_bytes(GOOD.replace(b"1", b"2"))
    assert file_digest(dataset, "train") != before


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    # The kernel refuses to read this one even to root, as it does a file without permission to others.
    (tmp_path / "d.jsonl").symlink_to("/proc/self/mem")
    dataset = DatasetConfig(train=str(tmp_path / "d.jsonl"))
    with pytest.raises(DataError, match=r"datasets\[\]\.train: file .*d\.jsonl' can't be read \(Input/output error\)"):
        read_rows(dataset, "train")
    with pytest.raises(DataError, match="can't be read"):
        file_digest(dataset, "train")


def test_rows_of_several_datasets_have_ids_of_their_own(tmp_path: Path) -> None:
    datasets = []
    for name in ("data", "one", "two"):
        path = tmp_path / name / "train.jsonl"
        path.parent.mkdir()
        write(path)
        datasets.append(DatasetConfig(name=name, train=str(path)))
    ids = [row.row_id for row in iter_split(datasets, "train")]
    assert ids[::3] == ["train.jsonl:1", "one/train.jsonl:1", "two/train.jsonl:1"]
    assert len(set(ids)) == len(ids) == 9
    assert list(iter_split(datasets, "validation")) == []
