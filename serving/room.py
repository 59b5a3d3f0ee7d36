"""Whether the cluster has room for engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def has_room_beside(engines: Sequence[EngineSpec], running: Mapping[str, int]) -> bool:
    """Whether engines can be replaced by others that start first.

    Ray Serve stops an old replica only when more run than there are to be, so what is missing of these must find room, and
    one more; else both sides would wait for each other.

    Args:
        engines: As they are to be.
        running: Replicas that run now, by model id.
    """
    import ray

    return fits_beside(ray.available_resources(), engines, running)  # type: ignore[no-untyped-call]


def fits_beside(free: Mapping[str, float], engines: Sequence[EngineSpec], running: Mapping[str, int]) -> bool:
    """The same, of resources that are free."""
    for key in {key for spec in engines for key in spec.resources}:
        missing = [max(0, spec.serve.first_replicas - running.get(spec.model_id, 0)) for spec in engines]
        each = [spec.resources.get(key, 0.0) for spec in engines]
        needed = sum(number * amount for number, amount in zip(missing, each, strict=True)) + max(each)
        if needed > free.get(key, 0.0):
            return False
    return True
