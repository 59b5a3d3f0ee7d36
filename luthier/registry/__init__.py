"""The model registry; see :class:`Registry`."""

from __future__ import annotations

from luthier.registry.history import AliasChange, Canary
from luthier.registry.records import EVALUATION_NAME, ModelVersion, Registration
from luthier.registry.registry import Registry, system_user

__all__ = ["EVALUATION_NAME", "AliasChange", "Canary", "ModelVersion", "Registration", "Registry", "system_user"]
