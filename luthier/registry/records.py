"""What the registry says about one version."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from luthier.manifest import Manifest
from luthier.safe_files import Sha256

REGISTRATION_NAME = "registration.json"
EVALUATION_NAME = "evaluation.json"
REPORT_NAME = "report.html"


class Registration(BaseModel):
    """Claims a version number; written before anything else of the version, and never changed.

    It holds the digests of the files that the manifest can't vouch for: the manifest, the evaluation and the report.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    schema_version: Literal[1] = 1
    name: str
    version: Annotated[int, Field(ge=1)]
    lineage_id: str
    manifest_sha256: Sha256
    evaluation_sha256: Sha256 | None
    """None: registered without an evaluation."""

    report_sha256: Sha256 | None = None
    """None: registered without a report."""

    registered_at: str
    """ISO 8601, UTC."""

    registered_by: str

    @property
    def companions(self) -> dict[str, Sha256]:
        """Files beside those that the manifest lists, but for the manifest and this one, with their digests."""
        found = {EVALUATION_NAME: self.evaluation_sha256, REPORT_NAME: self.report_sha256}
        return {name: sha256 for name, sha256 in found.items() if sha256 is not None}


class ModelVersion(BaseModel):
    """A registered, immutable version and the aliases that stand at it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    version: int
    aliases: tuple[str, ...]
    """As they stood when this was read, sorted."""

    manifest: Manifest
    registration: Registration
    uri: str
    """Path or URI of the version's directory."""

    @property
    def ref(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"
