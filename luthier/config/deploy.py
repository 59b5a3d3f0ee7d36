"""Where models are kept, and which cluster does the work."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from luthier.config.base import Config


class RegistryConfig(Config):
    """The model registry."""

    uri: str = "registry"
    """Local directory or fsspec URI."""

    alias: str = Field(default="champion", pattern=r"^[a-z][a-z0-9-]{0,62}$")
    """Alias that a passed gate moves to the new version."""


class ClusterConfig(Config):
    """The Ray cluster."""

    address: str | None = None
    """Address of a running cluster; None: start one on this machine and stop it at the end."""

    num_cpus: Annotated[int, Field(ge=1)] | None = None
    """Logical CPUs of a cluster that luthier starts; None: the machine's."""

    allow_unauthenticated: bool | str = False
    """Use a cluster that asks nobody for a token, on which whoever reaches it can run code: the one named here by host and
    port (``local``: one that the run starts), or, with true, any. Otherwise such a cluster is refused."""
