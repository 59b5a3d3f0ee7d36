"""Whether the cluster has room for engines."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.errors import ResourceError
from luthier.serving.spec import EngineSpec


def require_room(engines: Sequence[EngineSpec]) -> None:
    """Refuse engines that the running cluster can never hold together: Ray would wait for ever.

    Raises:
        ResourceError: Names what is short, and the remedy.
    """
    import ray

    present: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    asked = {key: 0.0 for spec in engines for key in spec.resources}
    for spec in engines:
        for key, amount in spec.resources.items():
            asked[key] += amount * spec.serve.first_replicas
    for key, amount in asked.items():
        if amount > present.get(key, 0.0):
            raise ResourceError(
                f"the endpoint asks for {amount:g} {key} ({len(engines)} engines: one for each base model with its "
                f"adapters, one for each full model or classifier), the cluster has {present.get(key, 0.0):g}; serve fewer models, "
                "lower serve.num_replicas or serve.num_cpus, or use a larger cluster."
            )


def has_room_beside(engines: Sequence[EngineSpec]) -> bool:
    """Whether one replica of each kind would find room beside all that runs now."""
    import ray

    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return all(amount <= free.get(key, 0.0) for spec in engines for key, amount in spec.resources.items())
