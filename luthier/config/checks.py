"""What is looked for in the rows before anything is trained on them, and what of it is taken out."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from luthier.config.base import Config
from luthier.config.personal_data import PersonalDataConfig, Region
from luthier.pii import KINDS, Kind, Way


class ChecksConfig(Config):
    """What ``luthier data check`` and ``luthier run`` look for in the rows. Nothing of it changes a row."""

    near_duplicates: Annotated[float, Field(ge=0.5, lt=1.0)] | None = 0.8
    """How much alike two rows must be to count as near duplicates: the share of their runs of three words that both have
    (Jaccard), estimated by MinHash. None: they are not looked for."""

    languages: bool = True
    """Tell the language of each row by its first 200 characters."""

    pii: tuple[Kind, ...] = KINDS
    """Personal data and secrets that are looked for: secret, email, iban, card, ip, phone; none: ``[]``."""

    phone_regions: tuple[Region, ...] = ("US",)
    """Countries (ISO 3166) whose telephone numbers are found as they are written there; numbers with ``+`` and country code
    always are."""

    max_leakage: Annotated[float, Field(ge=0.0, le=1.0)] | None = 0.01
    """Share of the validation rows, and of the test rows, whose prompt may stand in a training row too; more is an error,
    because figures of rows that were learned tell nothing. None: it is only reported."""


class RedactionConfig(PersonalDataConfig):
    """What is taken out of each row before it is tokenised; labels stay."""

    way: Way = "mask"
    """What stands in the place of what is found: ``mask`` ``<EMAIL>``; ``hash`` ``<EMAIL:3f2a9c01b7de>``, the same for the
    same value; ``drop`` nothing."""

    hash_key_env: Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")] | None = None
    """Environment variable with the key of the digests of ``hash``, which needs one: with it the same value has the same
    digest in every split, every run and at an endpoint; without it nobody can tell which value a digest is of."""

    @model_validator(mode="after")
    def _hash_has_a_key(self) -> RedactionConfig:
        if (self.way == "hash") != (self.hash_key_env is not None):
            raise ValueError(
                f"way is {self.way} and hash_key_env is {self.hash_key_env}; give both, way: hash and hash_key_env with the "
                "name of a variable, or neither"
            )
        return self


def _with_way(value: Any) -> Any:
    return {"way": value} if isinstance(value, str) else value


Redaction = Annotated[RedactionConfig, BeforeValidator(_with_way, json_schema_input_type=Way | RedactionConfig)]
"""``mask`` or ``drop`` alone, or what is in :class:`RedactionConfig`."""
