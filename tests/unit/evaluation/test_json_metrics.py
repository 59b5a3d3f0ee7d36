"""JSON answers: what counts as JSON, what fits a schema, and which schemas are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import ConfigError
from luthier.trainers.evaluation import Prediction
from luthier.trainers.evaluation.json_metrics import MAX_SCHEMA_BYTES, json_metrics

SCHEMA = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/name"}},
    "required": ["city"],
    "$defs": {"name": {"type": "string", "minLength": 2}},
}


def write(directory: Path, schema: Any) -> str:
    path = directory / "schema.json"
    path.write_text(schema if isinstance(schema, str) else json.dumps(schema), encoding="utf-8")
    return str(path)


def measured(schema: str | None, *answers: str) -> dict[str, list[float]]:
    rows = [Prediction(f"r{n}", "{}", answer) for n, answer in enumerate(answers)]
    return {one.name: list(one.measure(rows)) for one in json_metrics(schema, ["{}"])}  # type: ignore[arg-type]


def test_the_whole_answer_must_be_json_that_fits(tmp_path: Path) -> None:
    answers = ('{"city": "Rom"}', '{"city": "R"}', "{}", "Rome", '```json\n{"city": "Rom"}\n```', "NaN", "[" * 100_000)
    found = measured(write(tmp_path, SCHEMA), *answers)
    assert found["json_valid"] == [1, 1, 1, 0, 0, 0, 0]
    assert found["json_schema_valid"] == [1, 0, 0, 0, 0, 0, 0]


def test_without_a_schema_the_references_decide() -> None:
    assert measured(None, "[1]", "x") == {"json_valid": [1, 0]}
    assert json_metrics(None, ["{}", "no JSON"]) == ()
    assert json_metrics(None, ["1", "2"]) == ()


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("{", "is not JSON"),
        ({"type": "nonsense"}, r"\$\.type"),
        ({"$ref": "https://example.com/s.json"}, "refers to 'https://example.com/s.json'; only references within"),
        ({"properties": {"a": {"$ref": "other.json#/x"}}}, "refers to 'other.json#/x'"),
        ("[" + " " * MAX_SCHEMA_BYTES + "]", f"at most {MAX_SCHEMA_BYTES} are read"),
    ],
)
def test_schemas_that_are_refused(tmp_path: Path, schema: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        json_metrics(write(tmp_path, schema), [])


def test_a_reference_that_leads_nowhere_or_in_circles(tmp_path: Path) -> None:
    for schema in ({"$ref": "#/$defs/absent"}, {"$ref": "#"}):
        with pytest.raises(ConfigError, match="a reference that leads nowhere"):
            measured(write(tmp_path, schema), "{}")
    with pytest.raises(ConfigError, match=r"absent\.json can't be read"):
        json_metrics(str(tmp_path / "absent.json"), [])
