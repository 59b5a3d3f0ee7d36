"""How models are served: the endpoint, what it admits, and who may ask it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from luthier.config.base import Config
from luthier.config.capture import CaptureConfig
from luthier.config.checks import Redaction

ReplicaCount = Annotated[
    Annotated[int, Field(ge=1), Tag("number")] | Annotated[tuple[int, int], Tag("range")],
    Discriminator(lambda value: "range" if isinstance(value, list | tuple) else "number"),
]


class LimitsConfig(Config):
    """The most that one request may ask for."""

    max_body_bytes: Annotated[int, Field(ge=1024)] = 1 << 20
    """Size of a request's body."""

    max_messages: Annotated[int, Field(ge=1)] = 256
    """Messages of a conversation."""

    max_prompts: Annotated[int, Field(ge=1)] = 16
    """Texts of one completion, embedding or classification request."""

    max_n: Annotated[int, Field(ge=1)] = 8
    """Answers to one prompt; no more than ``serve.max_num_seqs``."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens of an answer, also of one whose request names no number. None: as many as ``serve.max_model_len`` leaves."""

    max_logprobs: Annotated[int, Field(ge=0, le=20)] = 20
    """Alternatives told for each token."""

    max_stop: Annotated[int, Field(ge=1)] = 4
    """Stop sequences."""

    max_tools: Annotated[int, Field(ge=1)] = 32
    """Tools that a request describes."""

    max_schema_bytes: Annotated[int, Field(ge=64)] = 16384
    """JSON schemas of a request, of the answer and of tools together, written as JSON."""


class CanaryConfig(Config):
    """When a canary is ended by the endpoint itself; its share is set with ``luthier models canary``."""

    min_requests: Annotated[int, Field(ge=1)] = 20
    """Requests to a version before it is judged."""

    window_requests: Annotated[int, Field(ge=1)] = 200
    """Its last requests that count."""

    max_error_rate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """By how much more of its requests than of the other version's may fail."""

    max_latency_ratio: Annotated[float, Field(ge=1.0)] = 2.0
    """How many times as long as the other version's the first piece of its answers may take, by the median."""


class AutoscaleConfig(Config):
    """When engines are added and taken away, where ``serve.num_replicas`` is a pair."""

    target_ongoing_requests: Annotated[float, Field(gt=0.0)] | None = None
    """Requests that each engine should have, those that wait for it included. None: ``serve.max_num_seqs``, as many as it
    decodes together."""

    look_back_s: Annotated[float, Field(gt=10.0)] = 15.0
    """Over how long the requests are averaged; Ray counts them every 10 s."""

    upscale_delay_s: Annotated[float, Field(ge=0.0)] = 5.0
    """For how long there must be too many before an engine is added."""

    downscale_delay_s: Annotated[float, Field(ge=0.0)] = 300.0
    """For how long there must be too few before one is taken away."""


class ServeConfig(Config):
    """The OpenAI-compatible endpoint."""

    host: str = "127.0.0.1"
    """Address to listen on; the default is reachable from this machine only."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """TCP port."""

    api_key_env: str = Field(default="LUTHIER_API_KEY", pattern=r"^[A-Z_][A-Z0-9_]*$")
    """Environment variable that holds the key to every model; the key itself never stands in a config."""

    keys_file: str | None = None
    """File of further keys, made by ``luthier keys``: each for some models, at a rate. Read anew when it changes; every
    node that runs the ingress must see it."""

    allowed_hosts: tuple[str, ...] = ()
    """Names and addresses by which clients may call the endpoint, besides ``serve.host``, this machine's name and
    localhost. A request to another Host is refused, so that no web page can reach the endpoint by a name of its own."""

    allowed_origins: tuple[str, ...] = ()
    """Web pages of other origins whose scripts may call the endpoint, such as ``https://chat.example.com``."""

    limits: LimitsConfig = LimitsConfig()
    """The most that one request may ask for."""

    canary: CanaryConfig = CanaryConfig()
    """When a canary is ended."""

    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """What the engine computes in. ``auto``: bfloat16 where its processor multiplies in it, else float32."""

    max_model_len: Annotated[int, Field(ge=16)] = 1024
    """Longest prompt plus answer in tokens."""

    max_num_seqs: Annotated[int, Field(ge=1)] = 16
    """Requests that the engine decodes together."""

    tool_call_parser: str | None = Field(default=None, pattern=r"^[a-z0-9_]+$")
    """vLLM's name of the form in which the model writes calls of tools, such as ``hermes``; needed where a request leaves
    it to the model whether to call one (``tool_choice: "auto"``). It holds for every engine whose chat template shows
    tools."""

    request_log: str | None = None
    """File to which a JSON object is written for each request: who asked which version, how long it took, how many tokens;
    never what was said. None: the ingress's log, which Ray keeps."""

    capture: CaptureConfig = CaptureConfig()
    """A sample of requests and answers that is kept; off by default."""

    redact_requests: Redaction | None = None
    """Personal data and secrets that are taken out of each request before a model sees it: ``mask`` or ``drop``, or ``way``
    and ``kinds``, as in ``data.redact``, which a model is best trained with too. None: requests stay as they are."""

    adapters: Literal["listed", "registered"] = "registered"
    """Adapters that are served: those named at the start, or every one that is registered for the base model, also later,
    by ``name``, ``name@version`` and ``name@alias``."""

    refresh_s: Annotated[float, Field(gt=0.0, le=60.0)] = 0.3
    """How often the endpoint looks for new versions and moved aliases."""

    max_loras: Annotated[int, Field(ge=1)] = 16
    """Adapters that the engine computes with at a time; requests for a further one wait until one of these is done. Each
    takes an adapter's memory, padded to the largest rank, on the engine's device, whether it is used or not."""

    max_cpu_loras: Annotated[int, Field(ge=1)] = 64
    """Adapters that an engine keeps in main memory, at least ``max_loras``; the one used longest ago makes room, and is
    fetched from the registry when it is asked for again."""

    max_lora_rank: Annotated[int, Field(ge=1, le=512)] = 64
    """Largest rank of an adapter that can be served; the engine is sized for the largest that is registered when it
    starts, and 8 at least."""

    num_replicas: ReplicaCount = 1
    """Engines of a model. A pair, as ``[1, 4]``: as many as the requests need, within these limits. From 0 on, as ``[0, 2]``,
    an unused model holds nothing, and the first request waits for an engine to start."""

    autoscale: AutoscaleConfig = AutoscaleConfig()
    """How fast the number of engines follows the requests."""

    num_cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPUs that each engine reserves, and threads that it computes with; an engine with a GPU reserves that instead."""

    cpu_kvcache_gb: Annotated[int, Field(ge=1)] = 1
    """Key-value cache of a CPU engine in GiB."""

    max_queued_requests: Annotated[int, Field(ge=1)] = 128
    """Requests that may wait; further ones are refused with 429 and told when to come again."""

    startup_timeout_s: float = Field(default=300.0, gt=0.0)
    """How long the endpoint may take to come up."""

    request_timeout_s: float = Field(default=120.0, gt=0.0)
    """How long one request may take, and therefore how long an engine that is stopped or replaced may take to end those
    that it has begun."""

    parity_rows: Annotated[int, Field(ge=1)] = 20
    """Test rows whose served answers, or labels, are compared with the trainer's before the endpoint counts as live."""

    parity_tolerance: float | None = Field(default=None, gt=0.0)
    """Largest gap between the two best log-probabilities, in nats, at which a differing token is a near-tie. None: 0.01
    where trainer and engine compute in float32, else 0.5. Of a classifier, the largest difference of a label's probability;
    None: 0.001, else 0.05."""

    @field_validator("num_replicas", mode="after")
    @classmethod
    def _ordered(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(value, tuple) and not 0 <= value[0] <= value[1] > 0:
            raise ValueError(f"[{value[0]}, {value[1]}] must be [fewest, most], the most 1 or more")
        return value

    @property
    def held_loras(self) -> int:
        """Adapters that an engine holds, computed with or not."""
        return max(self.max_loras, self.max_cpu_loras)

    @property
    def min_replicas(self) -> int:
        """Engines of a model that are always there."""
        return self.num_replicas[0] if isinstance(self.num_replicas, tuple) else self.num_replicas

    @property
    def first_replicas(self) -> int:
        """Engines of a model that are there when the endpoint has come up: one at least, so that it has been tried."""
        return max(1, self.min_replicas)

    @property
    def max_replicas(self) -> int:
        """Engines of a model that there may be."""
        return self.num_replicas[1] if isinstance(self.num_replicas, tuple) else self.num_replicas
