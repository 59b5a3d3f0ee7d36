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
from luthier.trainers.records import MAX_ROW_BYTES

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
        ("d.jsonl", GOOD + b'{"body": "x"}\n', ":2: columns are body; a row needs"),
        ("d.jsonl", GOOD + b'{"text": "x", "label": ""}\n', ":2: label is ''"),
        ("d.jsonl", b'\n{"messages": [{"role": "user", "content": "x"}]}\n', ":2: no assistant turn"),
        ("d.jsonl", GOOD + b'{"text": NaN, "label": "a"}\n', ":2: NaN is no JSON value"),
        ("d.jsonl", GOOD + b'{"text": "x", "n": 1e999}\n', ":2: a number (1e999) is larger than a 64-bit float"),
        ("d.jsonl", GOOD + b'{"n": {"a": 1, "a": 1}}\n', ":2: key 'a' is twice in one object"),
        ("d.jsonl", GOOD + b'{"n": ' + b"[" * 200_000 + b"\n", ":2: nested too deeply"),
        ("d.jsonl", GOOD + b'{"n": ' + b"9" * 5_000 + b"}\n", ":2: an integer has too many digits"),
        ("d.jsonl", GOOD + GOOD[:-5], ":2: the file ends in the middle of a record"),
        ("d.jsonl", GOOD + b'{"n": {}', ":2: the file ends in the middle of a record"),
        ("d.jsonl", GOOD + b'{"text": "\xc3', ":2: the file ends in the middle of a record"),
        ("d.jsonl", GOOD + b'{"text": "' + b"x" * MAX_ROW_BYTES + b'"}\n', ":2: the line is longer than 16777216"),
        ("d.jsonl", GOOD + b'{"messages": 1}\n', ":2: the row's format is messages, that of line 1 is text_label"),
        ("d.json", b'[{"text": "x", "label": "a"},\n{"a": 1, "a": 2}]', ":2: key 'a' is twice in one object"),
        ("d.json", b'[{"text": "x", "label": "a"},\n{"text": "y', ":2: the file ends in the middle of a record"),
        ("d.json", b'[{"text": "x", "label": "a"}', ":1: the file ends in the middle of a record"),
        ("d.json", b'[{"text": "x", "label": "a"}] 1', ":1: not valid JSON at column 31: Extra data"),
        ("d.json", b'[{"text": "x", "label": "a"},]', ":1: not valid JSON at column 30"),
        ("d.json", b'[{"text": "' + b"x" * MAX_ROW_BYTES + b'"}]', ":1: a row is longer than 16777216"),
        ("d.json", b'[\n{"text": }' + b" " * MAX_ROW_BYTES + b"]", ":2: not valid JSON at column 10"),
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
        ("d.csv", b"text,label,text\nx,a,b\n", ":1: column 'text' is there twice"),
        ("d.csv", b"text,label\n" + b"x" * (MAX_ROW_BYTES + 1), ":2: the line is longer than"),
        ("d.csv", b'text,label\n"' + (b"x" * 99 + b"\n") * 170_000, "not valid CSV: field larger than field limit"),
        ("d.parquet", b"not parquet", ": not a valid Parquet file"),
        ("d.txt", b"x", ": ending '.txt' is not known; use .csv, .json, .jsonl, .ndjson, .parquet, .tsv, or"),
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


@pytest.mark.parametrize("offset", [2, 60, -6])
def test_a_damaged_parquet_file_is_refused(offset: int, tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    write(path)
    content = bytearray(path.read_bytes())
    content[offset : offset + 4 or None] = b"\xff" * len(content[offset : offset + 4 or None])
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"d\.parquet(:\d+)?: "):
        read_rows(DatasetConfig(train=str(path)), "train")


def test_a_long_field_of_a_csv_file_and_a_list_of_many_chunks_are_read(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label\n" + "x" * 200_000 + ",a\n")
    assert len(read_rows(DatasetConfig(train=str(tmp_path / "d.csv")), "train")[0].question) == 200_000
    rows = [{"text": "ä" * length, "label": "a"} for length in (1, 70_000, 3, 500_000, *range(1, 2_000))]
    (tmp_path / "d.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    assert [row.question for row in read_rows(DatasetConfig(train=str(tmp_path / "d.json")), "train")] == [
        row["text"] for row in rows
    ]
