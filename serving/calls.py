"""How vLLM tells calls of tools from what a model writes. Imported by the engine's process only."""

from __future__ import annotations

from typing import Any

from vllm.entrypoints.generate.base.protocol import DeltaMessage, ExtractedToolCallInformation
from vllm.tool_parsers import ToolParser, ToolParserManager

SCHEMA_ONLY = "luthier_schema_only"


class SchemaOnly(ToolParser):
    """For calls that a request demands: vLLM binds the whole answer to the tools' schemas, so nothing is left to tell.

    vLLM takes no request with tools without a parser. This one finds no call in a free answer; requests that leave the
    choice to the model are refused before they come here.
    """

    def extract_tool_calls(self, model_output: str, request: Any) -> ExtractedToolCallInformation:
        """Called by vLLM with a whole free answer."""
        return ExtractedToolCallInformation(tools_called=False, tool_calls=[], content=model_output)

    def extract_tool_calls_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Any,
        current_token_ids: Any,
        delta_token_ids: Any,
        request: Any,
    ) -> DeltaMessage | None:
        """Called by vLLM with each piece of a free answer."""
        return DeltaMessage(content=delta_text)


def tool_kwargs(parser: str | None) -> dict[str, Any]:
    """vLLM's settings for a model whose template shows tools.

    Args:
        parser: ``serve.tool_call_parser``.

    Raises:
        ValueError: This vLLM has no such parser; names those that it has.
    """
    known = [name for name in ToolParserManager.list_registered() if name != SCHEMA_ONLY]
    if parser is None:
        ToolParserManager.register_module(SCHEMA_ONLY, module=SchemaOnly)
    elif parser not in known:
        raise ValueError(f"serve.tool_call_parser: {parser!r} is none of vLLM's, which are {', '.join(sorted(known))}.")
    return {
        "enable_auto_tool_choice": True,
        "tool_call_parser": parser or SCHEMA_ONLY,
        # Small models seldom keep to a schema by themselves, whether the request says "strict" or not.
        "tool_strict_level": "parameter",
    }
