"""Registered versions as the API tells them: aliases, lineage, evaluation and report of those that a key opens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from luthier.errors import IntegrityError, RegistryError
from luthier.evaluation_schema import Evaluation
from luthier.registry import ModelVersion, Registry
from luthier.registry.history import AliasChange
from luthier.registry.names import parse_reference
from luthier.serving.adapters import DAMAGED
from luthier.serving.keys import ApiKey
from luthier.serving.names import Names, Refused
from luthier.serving.replies import Failure
from luthier.serving.spec import base_name

# A report is a file that someone registered: no script of it runs, and it counts as of no origin.
_REPORT_HEADERS = {
    "content-security-policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}

logger = logging.getLogger("ray.serve")


def version_routes(registry: Registry | None, names: Callable[[], Names]) -> list[Route]:
    """Routes that tell of versions. The registry is read in threads, as files and object stores make callers wait.

    Args:
        registry: Where the versions are; None: there are none.
        names: Tells which of them are served.
    """
    known = RegisteredVersions(registry)

    async def versions(request: Request) -> Response:
        found = await asyncio.to_thread(known.listed, request.state.key)
        return JSONResponse({"object": "list", "data": [_with_service(one, names()) for one in found]})

    async def version(request: Request) -> Response:
        found = await asyncio.to_thread(known.described, request.path_params["version"], request.state.key)
        return JSONResponse(_with_service(found, names()))

    async def report(request: Request) -> Response:
        page = await asyncio.to_thread(known.report, request.path_params["version"], request.state.key)
        return Response(page, media_type="text/html", headers=_REPORT_HEADERS)

    return [
        Route("/v1/versions", versions),
        Route("/v1/versions/{version}", version),
        Route("/v1/versions/{version}/report", report),
    ]


def _with_service(facts: dict[str, Any], names: Names) -> dict[str, Any]:
    problem = facts["problem"] or names.problems.get(facts["id"])
    return {**facts, "served": facts["id"] in names.canonical, "problem": problem}


class RegisteredVersions:
    """Versions of a registry, for keys that open some of them. A damaged version is told as such and harms no other.

    Args:
        registry: Where they are; None: there are none.
    """

    def __init__(self, registry: Registry | None) -> None:
        self._registry = registry
        self._whole: dict[str, ModelVersion] = {}  # what never changes is read once
        self._told: set[str] = set()

    def listed(self, key: ApiKey) -> list[dict[str, Any]]:
        """Every version that the key opens: by name, the newest first."""
        found: list[dict[str, Any]] = []
        if self._registry is None:
            return found
        for name in self._registry.names():
            numbers = [one for one in self._registry.numbers(name) if key.admits(f"{name}@{one}")]
            standing = self._standing(name) if numbers else None
            found += [self._facts(name, number, standing) for number in reversed(numbers)]
        return found

    def described(self, ref: str, key: ApiKey) -> dict[str, Any]:
        """One version with its stored evaluation.

        Raises:
            Refused: 403 where the key does not open it, 404 where there is none.
        """
        registry, name, number = self._found(ref, key)
        facts = self._facts(name, number, self._standing(name))
        evaluation, problem = None, None
        if facts["has_evaluation"]:
            try:
                evaluation = Evaluation.model_validate(registry.get_evaluation(ref)).model_dump(mode="json")
            except IntegrityError as error:
                problem = self._damage(ref, error)
            except ValidationError:
                problem = "its evaluation was stored in a form that this endpoint does not know"
        return {**facts, "evaluation": evaluation, "evaluation_problem": problem}

    def report(self, ref: str, key: ApiKey) -> bytes:
        """The report that was stored with a version.

        Raises:
            Refused: As :meth:`described`; 404 where the version has none; 422 where it was changed.
        """
        registry, _, _ = self._found(ref, key)
        try:
            return registry.get_report(ref)
        except IntegrityError as error:
            message = f"the report of {ref} can't be shown: {self._damage(ref, error)}"
            raise Refused(Failure(422, message, param="version", code="version_damaged")) from error
        except RegistryError as error:
            raise Refused(_missing(f"{ref} was registered without a report")) from error

    def _found(self, ref: str, key: ApiKey) -> tuple[Registry, str, int]:
        """A version that is there and that the key opens."""
        try:
            reference = parse_reference(ref)
        except RegistryError as error:
            raise Refused(_missing("name a version as NAME@NUMBER; GET /v1/versions lists them")) from error
        if not key.admits(ref):
            message = f"the key {key.name!r} does not open {ref!r}"
            raise Refused(Failure(403, message, "permission_error", "version", "model_not_allowed"))
        number = reference.selector
        if (
            self._registry is None
            or not isinstance(number, int)
            or number not in self._registry.numbers(reference.name)
        ):
            raise Refused(_missing(f"there is no version {ref!r}; GET /v1/versions lists them"))
        return self._registry, reference.name, number

    def _facts(self, name: str, number: int, standing: AliasChange | None) -> dict[str, Any]:
        """What is told of every version; names of people and places of files stay private."""
        ref = f"{name}@{number}"
        aliases = standing.aliases if standing else {}
        canaries = standing.canaries if standing else {}
        facts: dict[str, Any] = {
            "id": ref,
            "object": "version",
            "name": name,
            "version": number,
            "aliases": sorted(alias for alias, at in aliases.items() if at == number),
            "canary_of": {alias: canary.weight for alias, canary in canaries.items() if canary.version == number},
        }
        try:
            return {**facts, **_of_manifest(self._version(ref)), "problem": None}
        except IntegrityError as error:
            return {**facts, **_UNKNOWN, "problem": self._damage(ref, error)}

    def _version(self, ref: str) -> ModelVersion:
        assert self._registry is not None
        if ref not in self._whole:
            self._whole[ref] = self._registry.resolve(ref)
        return self._whole[ref]

    def _standing(self, name: str) -> AliasChange | None:
        assert self._registry is not None
        try:
            return self._registry.standing(name)
        except IntegrityError as error:
            self._damage(name, error)
            return None

    def _damage(self, ref: str, error: IntegrityError) -> str:
        """What is told of damage; the log tells more, once."""
        if str(error) not in self._told:
            self._told.add(str(error))
            logger.error("%s is damaged: %s", ref, error)
        return DAMAGED


def _of_manifest(version: ModelVersion) -> dict[str, Any]:
    manifest, registration = version.manifest, version.registration
    return {
        "method": manifest.method,
        "objective": manifest.objective,
        "base_model": base_name(manifest.base_model.model_name_or_path),
        "made_at": manifest.created_at,
        "registered_at": registration.registered_at,
        "lineage_id": manifest.lineage_id,
        "has_evaluation": registration.evaluation_sha256 is not None,
        "has_report": registration.report_sha256 is not None,
    }


_UNKNOWN = {
    **dict.fromkeys(("method", "objective", "base_model", "made_at", "registered_at", "lineage_id")),
    **dict.fromkeys(("has_evaluation", "has_report"), False),
}
"""What stands in a damaged version's place of :func:`_of_manifest`."""


def _missing(message: str) -> Failure:
    return Failure(404, message, param="version", code="version_not_found")
