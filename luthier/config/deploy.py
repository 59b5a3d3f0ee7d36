"""Where models are kept, how they are served, and which cluster does the work."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.config.base import Config


class RegistryConfig(Config):
    """The model registry."""

    uri: str = "registry"
    """Local directory or fsspec URI."""

    alias: str = Field(default="champion", pattern=r"^[a-z][a-z0-9-]{0,62}$")
    """Alias that a passed gate moves to the new version."""


class ServeConfig(Config):
    """The OpenAI-compatible endpoint."""

    host: str = "127.0.0.1"
    """Address to listen on; the default is reachable from this machine only."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """TCP port."""

    api_key_env: str = Field(default="LUTHIER_API_KEY", pattern=r"^[A-Z_][A-Z0-9_]*$")
    """Environment variable that holds the API key; the key itself never stands in a config."""

    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """What the engine computes in. ``auto``: bfloat16 where its processor multiplies in it, else float32."""

    max_model_len: Annotated[int, Field(ge=16)] = 1024
    """Longest prompt plus answer in tokens."""

    max_num_seqs: Annotated[int, Field(ge=1)] = 16
    """Requests that the engine decodes together."""

    max_loras: Annotated[int, Field(ge=1)] = 4
    """Adapters held by the engine at a time; no more than are served."""

    max_lora_rank: Annotated[int, Field(ge=1, le=512)] = 64
    """Largest rank of an adapter that can be served; the engine is sized for the ranks that are."""

    num_replicas: Annotated[int, Field(ge=1)] = 1
    """Engines."""

    num_cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPUs that each engine reserves, and threads that it computes with; an engine with a GPU reserves that instead."""

    cpu_kvcache_gb: Annotated[int, Field(ge=1)] = 1
    """Key-value cache of a CPU engine in GiB."""

    max_queued_requests: Annotated[int, Field(ge=1)] = 128
    """Waiting requests before new ones are refused with 429 or 503."""

    startup_timeout_s: float = Field(default=300.0, gt=0.0)
    """How long the endpoint may take to come up."""

    request_timeout_s: float = Field(default=120.0, gt=0.0)
    """How long one request may take."""

    parity_rows: Annotated[int, Field(ge=1)] = 20
    """Test rows whose served answers are compared with the trainer's before the endpoint counts as live."""

    parity_tolerance: float | None = Field(default=None, gt=0.0)
    """Largest gap between the two best log-probabilities, in nats, at which a differing token is a near-tie. None: 0.01
    where trainer and engine compute in float32, else 0.5."""


class ClusterConfig(Config):
    """The Ray cluster."""

    address: str | None = None
    """Address of a running cluster; None: start one on this machine and stop it at the end."""

    num_cpus: Annotated[int, Field(ge=1)] | None = None
    """Logical CPUs of a cluster that luthier starts; None: the machine's."""
