"""Requests that texts are sent in to be embedded or classified, as OpenAI and vLLM define them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from luthier.config.serve import LimitsConfig
from luthier.serving.fields import Label, RequestPart, Text, TokenId, is_batch, require

Prompt = Annotated[list[TokenId], Field(min_length=1)]
Length = Annotated[int, Field(ge=1, le=1 << 24)]


class TextsRequest(RequestPart):
    """What both understand."""

    model: str
    """A name that ``GET /v1/models`` lists."""

    input: Any
    user: Label | None = None
    """Whose request it is, to the client; decides which version of a canary answers."""

    truncate_prompt_tokens: Literal[-1] | Length | None = None
    """Tokens that are read of each text, as vLLM has it; -1: as many as the model reads. Without it, a text of more tokens
    than the model reads is refused."""


class EmbeddingRequest(TextsRequest):
    """``POST /v1/embeddings``"""

    input: Text | Annotated[list[Text], Field(min_length=1)] | Prompt | Annotated[list[Prompt], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=1 << 16)] | None = None
    """Length of the vectors, of models that were trained for several."""


class ClassifyRequest(TextsRequest):
    """``POST /v1/classify``"""

    input: Text | Annotated[list[Text], Field(min_length=1)]


def checked_texts(request: TextsRequest, limits: LimitsConfig) -> dict[str, Any]:
    """The fields as the engine takes them; those without a value are left out.

    Raises:
        Refused: It has too many texts.
    """
    require(len(request.input) if is_batch(request.input) else 1, limits.max_prompts, "input", "texts")
    return request.model_dump(mode="json", exclude_none=True)
