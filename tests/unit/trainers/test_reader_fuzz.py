"""Damaged files of every kind: read, or refused by a DataError; and no whole row before the damage is lost."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.errors import DataError
from luthier.trainers.records import records

pytestmark = pytest.mark.unit

ROWS: list[dict[str, Any]] = [
    {"text": f'straße {number} "x", \\ 𝄞', "label": "ab"[number % 2], "n": [{"f": number / 7, "z": None}]}
    for number in range(12)
]
FLAT = [{"text": row["text"], "label": row["label"]} for row in ROWS]
JSONL = "".join(json.dumps(row, ensure_ascii=number % 2 == 0) + "\n" for number, row in enumerate(ROWS)).encode()
FUZZ = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def contents(directory: Path) -> dict[str, bytes]:
    """A whole file of each kind."""
    table = pa.Table.from_pylist(ROWS)
    for compression in ("none", "zstd"):
        pq.write_table(table, directory / f"{compression}.parquet", compression=compression, row_group_size=5)
    with pa.OSFile(str(directory / "d.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    lines = [f'"{row["text"].replace(chr(34), chr(34) * 2)}"\t{row["label"]}\n' for row in FLAT]
    return {
        "d.jsonl": JSONL,
        "d.json": json.dumps(ROWS, indent=1, ensure_ascii=False).encode(),
        "d.csv": "".join(["text,label\n", *(line.replace("\t", ",") for line in lines)]).encode(),
        "d.tsv": "".join(["text\tlabel\n", *lines]).encode(),
        "none.parquet": (directory / "none.parquet").read_bytes(),
        "zstd.parquet": (directory / "zstd.parquet").read_bytes(),
        "d.jsonl.gz": gzip.compress(JSONL, mtime=0),
        "d.jsonl.zst": pa.compress(JSONL, codec="zstd", asbytes=True),
        "saved": (directory / "d.arrow").read_bytes(),
    }


NAMES = ("d.jsonl", "d.json", "d.csv", "d.tsv", "none.parquet", "zstd.parquet", "d.jsonl.gz", "d.jsonl.zst", "saved")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(tmp_path_factory.mktemp("whole"))


@st.composite
def damage(draw: st.DrawFn) -> list[tuple[str, float, bytes]]:
    """Some edits: what is done, where as a share of the file, and with which bytes."""
    odd = st.sampled_from([b"\xff", b"\x00", b"\n", b'"', b"{", b"}", b"[", b",", b"NaN", b"1e999", b"\\ud800", b"\r"])
    edit = st.tuples(
        st.sampled_from(["cut", "insert", "replace", "remove"]),
        st.floats(0, 1, allow_nan=False),
        st.one_of(st.binary(min_size=1, max_size=8), odd),
    )
    return draw(st.lists(edit, min_size=1, max_size=3))


def damaged(content: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for kind, share, new in edits:
        at = int(share * len(content))
        behind = {"cut": len(content), "insert": at, "replace": at + len(new), "remove": at + len(new)}[kind]
        content = content[:at] + (new if kind in ("insert", "replace") else b"") + content[behind:]
    return content


def read(directory: Path, name: str, content: bytes) -> tuple[list[tuple[int, dict[str, Any]]], DataError | None]:
    place = directory / name
    if name == "saved":
        place.mkdir(exist_ok=True)
        (place / "state.json").write_text(json.dumps({"_data_files": [{"filename": "d.arrow"}]}))
        (place / "d.arrow").write_bytes(content)
    else:
        place.write_bytes(content)
    rows: list[tuple[int, dict[str, Any]]] = []
    try:
        rows.extend(records(str(place), name))
    except DataError as error:
        assert str(error).startswith(name)
        return rows, error
    return rows, None


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_file_is_read(name: str, whole: dict[str, bytes], tmp_path: Path) -> None:
    rows, error = read(tmp_path, name, whole[name])
    assert error is None
    assert [record for _, record in rows] == (FLAT if name in ("d.csv", "d.tsv") else ROWS)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_read_or_refused(name: str, whole: dict[str, bytes], tmp_path: Path) -> None:
    @settings(FUZZ, max_examples=150)
    @given(damage())
    def check(edits: list[tuple[str, float, bytes]]) -> None:
        read(tmp_path, name, damaged(whole[name], edits))

    check()


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.jsonl.zst"])
def test_rows_before_the_damage_are_those_of_the_lines_before_it(name: str, tmp_path: Path) -> None:
    pack = {
        "d.jsonl": bytes,
        "d.jsonl.gz": gzip.compress,
        "d.jsonl.zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    }

    @settings(FUZZ, max_examples=150)
    @given(damage())
    def check(edits: list[tuple[str, float, bytes]]) -> None:
        content = damaged(JSONL, edits)
        limit = min(len(content), len(JSONL))
        same = next((at for at in range(limit) if content[at] != JSONL[at]), limit)
        intact = JSONL[:same].count(b"\n")
        rows, error = read(tmp_path, name, pack[name](content))  # type: ignore[operator]
        assert [record for _, record in rows[:intact]] == ROWS[:intact]
        lines = [line for line in content.split(b"\n") if line.strip()]
        assert error is not None or len(rows) == len(lines)

    check()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("name", ["d.jsonl", "d.json"])
def test_any_json_is_read_as_it_is_or_refused(name: str, tmp_path: Path) -> None:
    @settings(FUZZ, max_examples=150)
    @given(st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=3) | JSON, max_size=4))
    def check(values: list[Any]) -> None:
        texts = [json.dumps(value) for value in values]
        text = "\n".join(texts) if name == "d.jsonl" else f"[{', '.join(texts)}]"
        rows, error = read(tmp_path, name, text.encode())
        assert [record for _, record in rows] == values[: len(rows)]
        bad = [one for one, source in zip(values, texts, strict=True) if not isinstance(one, dict) or _has_nan(source)]
        assert (error is not None) == bool(bad)

    check()


def _has_nan(text: str) -> bool:
    try:
        json.loads(text, parse_constant=lambda name: [][0])
    except IndexError:
        return True
    return False
