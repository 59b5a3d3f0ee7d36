"""Errors of ours that come back from another process, inside whatever Ray wrapped around them."""

from __future__ import annotations

from collections.abc import Iterator

from luthier.errors import LuthierError


def unwrap(error: BaseException) -> LuthierError | None:
    """The error of ours that a Ray error was caused by, as it was raised over there; None where it was none of ours.

    Args:
        error: What a Ray call raised: a task's or actor's error, or Ray Train's with the failures of its workers.
    """
    from ray.exceptions import RayError

    for inner in _within(error, set()):
        # What ray.get raises for a task is both a Ray error and of the cause's class; its cause is the thing itself.
        if isinstance(inner, LuthierError) and not isinstance(inner, RayError):
            return type(inner)(*inner.args)
    return None


def _within(error: object, seen: set[int]) -> Iterator[BaseException]:
    """An error, then all that it names as its cause, each once."""
    if not isinstance(error, BaseException) or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    failures = getattr(error, "worker_failures", None) or {}
    named = (getattr(error, name, None) for name in ("cause", "controller_failure", "__cause__"))
    for inner in (*named, *failures.values()):
        yield from _within(inner, seen)
