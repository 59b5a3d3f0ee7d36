"""Requests as the OpenAI API defines them, with vLLM's additions to sampling. Fields that are not here are refused, among
them templates and whatever else would let a request choose what the engine runs.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from luthier.config.serve import LimitsConfig
from luthier.serving.fields import MAX_INT64, Label, RequestPart, Text, TokenId, is_batch, require
from luthier.serving.text_requests import ClassifyRequest, EmbeddingRequest, TextsRequest, checked_texts

Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class TextPart(RequestPart):
    """A piece of a message; only text is understood."""

    type: Literal["text"]
    text: Text


class CalledFunction(RequestPart):
    """What a tool was called with."""

    name: Name
    arguments: Text


class ToolCall(RequestPart):
    """A tool that the model called."""

    id: Label
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(RequestPart):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart] | None = None
    name: Label | None = None
    tool_calls: list[ToolCall] | None = None
    """An assistant's."""

    tool_call_id: Label | None = None
    """Of a tool's answer: the call."""

    @model_validator(mode="after")
    def _says_something(self) -> ChatMessage:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError("content is missing")
        return self


class Function(RequestPart):
    """A tool."""

    name: Name
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of its arguments."""

    strict: bool | None = None


class Tool(RequestPart):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class ChosenFunction(RequestPart):
    """The name of a tool."""

    name: Name


class ChosenTool(RequestPart):
    """A tool that the model has to call."""

    type: Literal["function"]
    function: ChosenFunction


class JsonSchema(RequestPart):
    """What the answer must conform to."""

    name: Name
    description: Text | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(RequestPart):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    """With ``json_schema`` alone."""

    @model_validator(mode="after")
    def _schema_where_it_belongs(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with the type json_schema, and that type needs it")
        return self


class StreamOptions(RequestPart):
    """What a stream tells."""

    include_usage: bool | None = None
    """End with an event that counts tokens."""

    include_obfuscation: bool | None = None
    """Accepted and ignored."""


class _Generation(RequestPart):
    """What both kinds of text generation understand."""

    model: str
    """A name that ``GET /v1/models`` lists."""

    n: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: Annotated[str, Field(min_length=1, max_length=256)] | (
        list[Annotated[str, Field(min_length=1, max_length=256)]] | None
    ) = None
    seed: Annotated[int, Field(ge=-MAX_INT64 - 1, le=MAX_INT64)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,7}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=1024),
        ]
        | None
    ) = None
    response_format: ResponseFormat | None = None
    user: Label | None = None
    """Whose request it is, to the client; decides which version of a canary answers."""

    metadata: dict[Label, Label] | None = None
    """Accepted and ignored, like the next four."""

    store: Literal[False] | None = None
    service_tier: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None

    top_k: Annotated[int, Field(ge=-1, le=1 << 20)] | None = None
    """vLLM's, as are the following."""

    min_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0.0, le=2.0)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> _Generation:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options goes with stream: true")
        return self


class ChatRequest(_Generation):
    """``POST /v1/chat/completions``"""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The newer name of ``max_tokens``."""

    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(min_length=1)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs goes with logprobs: true")
        if self.tool_choice not in (None, "none") and not self.tools:
            raise ValueError("tool_choice goes with tools")
        return self


class CompletionRequest(_Generation):
    """``POST /v1/completions``"""

    prompt: Text | list[Text] | list[TokenId] | list[list[TokenId]]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


REQUESTS: dict[str, type[_Generation] | type[TextsRequest]] = {
    "chat": ChatRequest,
    "completions": CompletionRequest,
    "embeddings": EmbeddingRequest,
    "classify": ClassifyRequest,
}
"""What a request to each route must be."""


def checked(route: str, body: dict[str, Any], limits: LimitsConfig, max_num_seqs: int) -> dict[str, Any]:
    """A request's fields as the engine takes them: checked, those without a value left out.

    Args:
        route: What is asked for.
        body: The request.
        limits: The most that it may ask for.
        max_num_seqs: Answers that the engine can write at a time.

    Raises:
        ValidationError: A field is wrong or unknown.
        Refused: It asks for too much.
    """
    request = REQUESTS[route].model_validate(body)
    if isinstance(request, TextsRequest):
        return checked_texts(request, limits)
    if isinstance(request, ChatRequest):
        require(len(request.messages), limits.max_messages, "messages", "messages")
        require(len(request.tools or ()), limits.max_tools, "tools", "tools")
        require(request.top_logprobs or 0, limits.max_logprobs, "top_logprobs", "alternatives")
        require(request.max_completion_tokens or 0, limits.max_tokens, "max_completion_tokens", "tokens")
    elif isinstance(request, CompletionRequest):
        prompts = len(request.prompt) if is_batch(request.prompt) else 1
        require(prompts, limits.max_prompts, "prompt", "prompts")
        require(request.logprobs or 0, limits.max_logprobs, "logprobs", "alternatives")
    require((request.n or 1), min(limits.max_n, max_num_seqs), "n", "answers")
    require(request.max_tokens or 0, limits.max_tokens, "max_tokens", "tokens")
    require(len(request.stop) if isinstance(request.stop, list) else 0, limits.max_stop, "stop", "sequences")
    require(_schema_bytes(request), limits.max_schema_bytes, "response_format", "bytes of JSON schema")
    fields = request.model_dump(mode="json", by_alias=True, exclude_none=True)
    if limits.max_tokens is not None and not fields.keys() & {"max_tokens", "max_completion_tokens"}:
        fields["max_tokens"] = limits.max_tokens
    return fields


def _schema_bytes(request: _Generation) -> int:
    schemas: list[Any] = []
    if request.response_format and request.response_format.json_schema:
        schemas.append(request.response_format.json_schema.schema_)
    if isinstance(request, ChatRequest):
        schemas += [tool.function.parameters for tool in request.tools or () if tool.function.parameters]
    return sum(len(json.dumps(schema)) for schema in schemas)
