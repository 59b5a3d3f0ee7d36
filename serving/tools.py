"""Whether a request with tools can be answered: the chat template has to show them, and a call that the model is free to
make has to be told from its text. Imported by the engine's process only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.serving.names import Refused
from luthier.serving.replies import Failure

NOT_SHOWN = Failure(
    400,
    "tools: the chat template of this model does not show tools to it, so it could not use them; ask without tools, or ask a "
    "model whose template has them.",
    param="tools",
    code="tools_not_supported",
)
NOT_PARSED = Failure(
    400,
    'tool_choice: "auto", which is also the default, takes serve.tool_call_parser, and this endpoint was started without; '
    'name a tool, or ask for "required" or "none".',
    param="tool_choice",
    code="tools_not_supported",
)


def shows_tools(tokenizer_dir: str) -> bool:
    """Whether the chat template that a tokenizer uses for requests with tools reads them.

    Args:
        tokenizer_dir: Directory of tokenizer and chat template.
    """
    from transformers import AutoTokenizer
    from transformers.utils.chat_template_utils import _get_template_variables

    try:
        template = AutoTokenizer.from_pretrained(tokenizer_dir).get_chat_template(tools=[{}])
    except ValueError:  # it has none
        return False
    return "tools" in _get_template_variables(template)


def refuse_tools(body: Mapping[str, Any], *, shown: bool, parsed: bool) -> None:
    """Refuse a chat request whose tools would come to nothing.

    Args:
        body: The request.
        shown: Whether the chat template shows tools.
        parsed: Whether calls are told from text.

    Raises:
        Refused: It has tools, and they would.
    """
    if not body.get("tools"):
        return
    if not shown:
        raise Refused(NOT_SHOWN)
    if not parsed and body.get("tool_choice", "auto") == "auto":
        raise Refused(NOT_PARSED)
