"""How a version answered where it was served: measured on a live endpoint, kept with the version, read by the gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from luthier.precision import Dtype
from luthier.safe_files import Sha256
from luthier.stored import Count, Stored

Nonnegative = Annotated[float, Field(ge=0.0)]


class ParityCounts(Stored):
    """How the endpoint's answers compared with the trainer's."""

    same: Count
    """Answers that are alike, token for token."""

    near_tie: Count
    """Answers that part where two tokens are as good as each other."""

    mismatch: Count
    """Answers that part elsewhere."""

    other_prompt: Count
    """Answers to a prompt that the endpoint rendered to other tokens."""

    tolerance: Nonnegative
    """Largest gap of a near-tie, in nats."""

    @property
    def different(self) -> int:
        """Answers that the trained model would not have given."""
        return self.mismatch + self.other_prompt

    @property
    def compared(self) -> int:
        """All answers."""
        return self.same + self.near_tie + self.different


class Percentiles(Stored):
    """Of one figure over all answers; the nearest that was measured."""

    p50: Nonnegative
    p95: Nonnegative

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles:
        """Those of at least one value."""
        ordered = sorted(values)
        return cls(**{f"p{share}": ordered[math.ceil(share * len(ordered) / 100) - 1] for share in (50, 95)})


class ServedRecord(Stored):
    """One measurement."""

    schema_version: Literal[1] = 1
    """Version of this layout."""

    manifest_sha256: Sha256
    """Digest of the manifest of the version that was measured."""

    parity: ParityCounts
    first_token_s: Percentiles | None
    """Seconds to the first token; None: a classifier's answers have none."""

    inter_token_ms: Percentiles | None
    """Milliseconds from one token to the next, on average over an answer; None: no answer had two."""

    concurrency: Annotated[int, Field(ge=1)]
    """Requests at a time."""

    dtype: Dtype
    """What the engine computed in."""

    device: Literal["cpu", "gpu"]
    """What it computed on."""

    measured_at: str
    """ISO 8601, UTC."""

    measured_by: str
