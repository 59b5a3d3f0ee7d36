"""Moving an alias by hand, on the figures that are stored with the versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.config import load_config
from luthier.config.judge import GateConfig
from luthier.errors import GateRefused, RegistryError
from luthier.evaluation_schema import Evaluation
from luthier.gate import INCUMBENT, GateCheck, GateDecision, decide, hold_against_stored
from luthier.limits import served_checks, size_check

if TYPE_CHECKING:
    from luthier.registry import ModelVersion, Registry


def check_promotion(registry: Registry, version: ModelVersion, alias: str) -> dict[str, float]:
    """Ask the gate of the version's own config about what is stored with it: its evaluation, its files, and how it
    answered where it was served.

    The incumbent of that evaluation may have been replaced since, so the version is held against the one at the alias
    now as well, by what is stored of both.

    Args:
        registry: Holds the versions.
        version: The candidate.
        alias: Where it is to go.

    Returns:
        The figures that passed, for the audit record.

    Raises:
        GateRefused: They do not pass.
        RegistryError: There is no evaluation.
        IntegrityError: A record was changed.
    """
    evaluation = _stored(registry, version)
    if evaluation is None:
        raise RegistryError(f"{version.ref} was registered without an evaluation; {_remedy(version)}")
    gate = _gate_of(registry, version)
    decision = _decide_stored(registry, version, evaluation, gate).also(
        _against_present(registry, version, alias, evaluation, gate)
    )
    if not decision.passed:
        refused = "; ".join(check.reason for check in decision.checks if not check.passed)
        raise GateRefused(f"{version.ref}: {refused} To compare them anew, {_remedy(version)}")
    return decision.figures


def known_figures(registry: Registry, version: ModelVersion) -> dict[str, float]:
    """What the gate would have looked at, for the audit record of a move that passes it over.

    Raises:
        IntegrityError: A record was changed.
    """
    gate = _gate_of(registry, version) if "config.yaml" in version.manifest.files else GateConfig()
    return _decide_stored(registry, version, _stored(registry, version), gate).figures


def _gate_of(registry: Registry, version: ModelVersion) -> GateConfig:
    return load_config(registry.fetch(version.ref) / "config.yaml").gate


def _decide_stored(
    registry: Registry, version: ModelVersion, evaluation: Evaluation | None, gate: GateConfig
) -> GateDecision:
    """By everything that is stored with a version."""
    judged = decide(evaluation, gate) if evaluation else GateDecision(passed=True, checks=())
    return judged.also(
        [size_check(version.manifest, gate), *served_checks(registry.served(version), gate, version.ref)]
    )


def _against_present(
    registry: Registry, version: ModelVersion, alias: str, evaluation: Evaluation, gate: GateConfig
) -> list[GateCheck]:
    number = registry.aliases(version.name).get(alias)
    if INCUMBENT not in gate.against or number in (None, version.version):
        return []
    present = registry.resolve(f"{version.name}@{number}")
    stored = _stored(registry, present)
    if stored is None:
        raise GateRefused(f"{present.ref}, the incumbent, has no stored evaluation; {_remedy(version)}")
    return [hold_against_stored(evaluation, stored, gate)]


def _stored(registry: Registry, version: ModelVersion) -> Evaluation | None:
    if version.registration.evaluation_sha256 is None:
        return None
    return Evaluation.model_validate(registry.get_evaluation(version.ref))


def _remedy(version: ModelVersion) -> str:
    return f"run luthier evaluate {version.ref} --promote."
