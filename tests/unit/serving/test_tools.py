"""Which chat templates show tools, and which requests with tools are refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from luthier.serving.names import Refused
from luthier.serving.replies import Failure
from luthier.serving.tools import NOT_PARSED, NOT_SHOWN, refuse_tools, shows_tools

TURNS = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
NAMED = {"type": "function", "function": {"name": "f"}}


def tokenizer(base_model_dir: Path, directory: Path, template: str | None, extra: str | None = None) -> str:
    for path in (path for path in base_model_dir.iterdir() if path.suffix != ".safetensors"):
        shutil.copyfile(path, directory / path.name)
    (directory / "chat_template.jinja").unlink()
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)
    if extra is not None:
        (directory / "additional_chat_templates").mkdir()
        (directory / "additional_chat_templates" / "tool_use.jinja").write_text(extra)
    return str(directory)


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        (TURNS, False),
        (None, False),
        ("{# tools #}{{ 'tools' }}" + TURNS, False),
        ("{% if tools %}{{ tools | tojson }}{% endif %}" + TURNS, True),
        # As Llama 3.1's: the variable is given a value where it has none.
        ("{% if not tools is defined %}{% set tools = none %}{% endif %}{% if tools %}x{% endif %}" + TURNS, True),
        ("{% macro f(tools) %}{{ tools }}{% endmacro %}" + TURNS, False),  # the macro's own
        ("{% for m in messages %}{% generation %}{{ m }}{% endgeneration %}{% endfor %}{{ tools }}", True),
    ],
)
def test_a_template_shows_tools_where_it_reads_them(
    base_model_dir: Path, tmp_path: Path, template: str | None, shown: bool
) -> None:
    assert shows_tools(tokenizer(base_model_dir, tmp_path, template)) == shown


def test_a_template_for_tools_beside_the_usual_one_counts(base_model_dir: Path, tmp_path: Path) -> None:
    assert shows_tools(tokenizer(base_model_dir, tmp_path, TURNS, "{{ tools }}" + TURNS))


@pytest.mark.parametrize(
    ("choice", "shown", "parsed", "failure"),
    [
        ({}, False, True, NOT_SHOWN),
        ({"tool_choice": "none"}, False, True, NOT_SHOWN),
        ({"tool_choice": NAMED}, False, True, NOT_SHOWN),
        ({}, True, False, NOT_PARSED),
        ({"tool_choice": "auto"}, True, False, NOT_PARSED),
        ({"tool_choice": "auto"}, True, True, None),
        ({"tool_choice": "required"}, True, False, None),
        ({"tool_choice": "none"}, True, False, None),
        ({"tool_choice": NAMED}, True, False, None),
    ],
)
def test_tools_are_refused_where_they_would_come_to_nothing(
    choice: dict[str, Any], shown: bool, parsed: bool, failure: Failure | None
) -> None:
    refuse_tools({"messages": []}, shown=shown, parsed=parsed)
    body = {"tools": [NAMED], **choice}
    if failure is None:
        refuse_tools(body, shown=shown, parsed=parsed)
        return
    with pytest.raises(Refused) as raised:
        refuse_tools(body, shown=shown, parsed=parsed)
    assert raised.value.failure == failure
