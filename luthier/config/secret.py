"""A secret by the place where it lies; the secret itself never stands in a config."""

from __future__ import annotations

from pydantic import Field, model_validator

from luthier.config.base import Config


class SecretRef(Config):
    """Where a process finds a secret, on whichever machine it runs: in its environment, or in a file."""

    env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable that holds it."""

    file: str | None = Field(default=None, min_length=1)
    """File that holds it and nothing else; white space around it does not count."""

    @model_validator(mode="after")
    def _one_place(self) -> SecretRef:
        if (self.env is None) == (self.file is None):
            raise ValueError("give one of env and file: the name of a variable, or the path of a file")
        return self

    def __str__(self) -> str:
        return f"environment variable {self.env}" if self.env else f"file {self.file!r}"
