"""What the ingress is told when it is started."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.config.serve import ServeConfig
from luthier.serving.catalog import Catalog
from luthier.serving.watch import Watch


@dataclass(frozen=True)
class Front:
    """What the ingress is told.

    Attributes:
        serve: Limits, and who may call.
        catalog: The engines, and what they hold from the start.
        registry_uri: Where further versions and aliases are found.
        default_alias: Alias that a bare name stands for.
        created_s: When the endpoint was started, in seconds since 1970.
        root: Path below which the endpoint lies, without a slash at the end.
        started_serve: Whether Ray Serve was started for the endpoint, and ends with it.
    """

    serve: ServeConfig
    catalog: Catalog
    registry_uri: str
    default_alias: str
    created_s: int
    root: str
    started_serve: bool

    @property
    def decoding(self) -> int:
        """Requests that all engines together decode at a time."""
        return self.serve.max_num_seqs * self.serve.max_replicas * len(self.catalog.engines)

    @property
    def capacity(self) -> int:
        """Requests that are answered or wait at a time."""
        return self.decoding + self.serve.max_queued_requests

    def watch(self) -> Watch:
        """What tells the endpoint's names."""
        return Watch(self.catalog, self.registry_uri, self.default_alias, self.created_s)
