"""Figures for Prometheus. Ray exports them on every node, beside its own and vLLM's, under names that begin with ``ray_``."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from luthier.serving.record import Record

_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0]
_TOKEN_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0]


class Metrics:
    """Counts and times of requests, per version of a model."""

    def __init__(self) -> None:
        by_model = ("model", "route")
        self._requests = Counter("luthier_requests", "Requests that have ended.", (*by_model, "status"))
        self._prompt = Counter("luthier_prompt_tokens", "Tokens of prompts.", by_model)
        self._completion = Counter("luthier_completion_tokens", "Tokens of answers.", by_model)
        self._first = Histogram(
            "luthier_time_to_first_token_seconds", "Until the first piece of a stream.", _SECONDS, by_model
        )
        self._token = Histogram(
            "luthier_inter_token_latency_seconds", "From one token of a stream to the next.", _TOKEN_SECONDS, by_model
        )
        self._total = Histogram("luthier_request_seconds", "Until the end of an answer.", _SECONDS, by_model)
        self._inside = Gauge("luthier_requests_in_flight", "Requests that are answered or wait.")

    def count(self, record: Record) -> None:
        """Take up a request that has ended."""
        tags = {"model": record.model, "route": record.route}
        self._requests.inc(1, {**tags, "status": str(record.status)})
        if record.prompt_tokens:
            self._prompt.inc(record.prompt_tokens, tags)
        if record.completion_tokens:
            self._completion.inc(record.completion_tokens, tags)
        if record.status != 200:
            return
        self._total.observe(record.total_s, tags)
        if record.stream and record.first_s is not None:
            self._first.observe(record.first_s, tags)
        if record.token_s is not None:
            self._token.observe(record.token_s, tags)

    def inside(self, number: int) -> None:
        """Set how many requests are answered or wait."""
        self._inside.set(number)


class Captures:
    """Requests that were to be captured, by what became of them."""

    def __init__(self) -> None:
        self._captures = Counter("luthier_captures", "Requests that were to be captured.", ("outcome",))

    def count(self, outcome: str) -> None:
        """Take up a request."""
        self._captures.inc(1, {"outcome": outcome})


class AdapterLoads:
    """Adapters that an engine was asked to load, by how it went."""

    def __init__(self) -> None:
        self._loads = Counter(
            "luthier_adapter_loads", "Adapters that an engine was asked to load.", ("model", "outcome")
        )

    def count(self, model: str, loaded: bool) -> None:
        """Take up a load."""
        self._loads.inc(1, {"model": model, "outcome": "loaded" if loaded else "refused"})
