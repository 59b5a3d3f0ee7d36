"""Tasks of lm-evaluation-harness, as a check that fine-tuning did not cost what the base model could do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from luthier.config.base import Config


class HarnessConfig(Config):
    """What the base and the tuned model are measured on besides the test split. A list of names is the tasks alone.

    Needs ``pip install luthier[harness]``. Most tasks fetch their data from a hub; with ``offline: true`` they must be
    cached, or lie in ``include_path``.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    """Names of tasks or groups."""

    include_path: str | None = None
    """Directory with task files of your own (YAML), which every node must see. They may name Python functions, which are
    run."""

    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Solved examples in each prompt; None: as the task says."""

    limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first rows of each task; None: all."""

    chat_template: bool = False
    """Whether prompts are put as turns of a conversation."""

    @model_validator(mode="before")
    @classmethod
    def _names_alone(cls, raw: Any) -> Any:
        return {"tasks": raw} if isinstance(raw, Sequence) and not isinstance(raw, str) else raw
