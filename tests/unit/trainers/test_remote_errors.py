"""Errors of ours come out of whatever Ray puts around them."""

from __future__ import annotations

import pickle

import pytest
from ray.exceptions import RayTaskError, UserCodeException
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError

from luthier.errors import DataError, LuthierError, TrainingDiverged
from luthier.trainers.remote_errors import unwrap

OURS = TrainingDiverged("step 3: the loss is nan.")


def in_task(cause: Exception) -> RayTaskError:
    return RayTaskError("f", "traceback", cause, proctitle="p", pid=1, ip="127.0.0.1")


def caused(outer: Exception, by: Exception) -> Exception:
    outer.__cause__ = by
    return outer


@pytest.mark.parametrize(
    "error",
    [
        OURS,
        in_task(OURS),
        in_task(OURS).as_instanceof_cause(),
        pickle.loads(pickle.dumps(in_task(OURS))),
        caused(UserCodeException(), in_task(OURS).as_instanceof_cause()),
        WorkerGroupError("two workers", {0: RuntimeError("connection closed"), 1: OURS}),
        WorkerGroupError("one worker", {1: caused(RuntimeError("wrapped"), OURS)}),
        ControllerError(OURS),
        caused(RuntimeError("x"), ControllerError(in_task(OURS).as_instanceof_cause())),
    ],
)
def test_the_error_is_found_and_is_of_its_own_class_alone(error: Exception) -> None:
    found = unwrap(error)
    assert type(found) is TrainingDiverged
    assert found.args == OURS.args


def test_other_errors_are_none_of_ours() -> None:
    loop = RuntimeError("a circle")
    loop.__cause__ = caused(ValueError(), loop)
    errors: list[Exception] = [loop, in_task(KeyError("x")), WorkerGroupError("m", {0: OSError()}), ValueError()]
    assert [unwrap(error) for error in errors] == [None] * 4


def test_the_first_of_several_is_taken() -> None:
    error: TrainingFailedError = WorkerGroupError("both", {0: DataError("first"), 1: OURS})
    found: LuthierError | None = unwrap(error)
    assert str(found) == "first"
