"""Every error that luthier raises on purpose.

One root, and each error is also the stdlib error that a caller would expect. A message is one sentence or two that
name what was wrong (file, line or key), the value, the limit and the remedy. All of them pickle, because Ray carries
them between processes.
"""

from __future__ import annotations


class LuthierError(Exception):
    """Root of luthier's errors.

    Attributes:
        exit_code: What the command line exits with: 1 failure, 2 bad input, 3 gate refused.
    """

    exit_code: int = 1


class ConfigError(LuthierError, ValueError):
    """The configuration is wrong; nothing was started."""

    exit_code = 2


class DataError(LuthierError, ValueError):
    """A data file is missing, malformed, or holds nothing to learn from."""

    exit_code = 2


class ModelError(LuthierError, ValueError):
    """A model can't be found or isn't usable here."""

    exit_code = 2


class ResourceError(LuthierError, RuntimeError):
    """The cluster can never give what the config asks for."""

    exit_code = 2


class OutputError(LuthierError, OSError):
    """A place to write results can't be written."""

    exit_code = 2


class RegistryError(LuthierError, LookupError):
    """A model name, version or alias doesn't exist or isn't valid."""

    exit_code = 2


class GateRefused(LuthierError, RuntimeError):
    """A candidate did not pass the gate; the alias stays where it was."""

    exit_code = 3


class TrainingDiverged(LuthierError, ArithmeticError):
    """The loss became NaN or infinite."""


class TrainingFailed(LuthierError, RuntimeError):
    """A training run ended without a usable checkpoint."""


class OutOfMemory(LuthierError, MemoryError):
    """A worker ran out of memory."""


class IntegrityError(LuthierError, ValueError):
    """A stored file does not match the digest recorded for it."""


class ServingError(LuthierError, RuntimeError):
    """The endpoint could not be started or does not serve what was trained."""
