"""The manifest: what an artifact directory holds, with the digest of every file.

It is the only thing that passes between stages, and it is written last: a directory without ``manifest.json``
is not an artifact. Weights are safetensors only, because unpickling a file runs code that the file brings.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from luthier import __version__
from luthier.config.objective import ObjectiveName
from luthier.digests import atomic_write_text, sha256_bytes
from luthier.errors import ConfigError, IntegrityError
from luthier.safe_files import FileDigest, Sha256, digest_file, listing
from luthier.stored import Stored

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1
COMPONENTS = ("adapter", "model", "tokenizer")
"""Subdirectories that loaders read whole, so nothing may lie in them that the manifest does not list."""

RESERVED = (MANIFEST_NAME, "registration.json", "evaluation.json", "report.html")
"""Written beside the described files, by us or by the registry, and therefore never among them."""


def _inside(name: str) -> str:
    """A path that can't leave the artifact directory."""
    path = PurePosixPath(name)
    if str(path) != name or name == "." or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"file name {name!r} is not a plain relative path")
    if re.search(r"[\\:\x00-\x1f]", name) or name in RESERVED:
        raise ValueError(f"file name {name!r} holds a reserved character or is a reserved name")
    return name


RelativePath = Annotated[str, AfterValidator(_inside)]


class BaseModelRef(Stored):
    """The model that was fine-tuned."""

    model_name_or_path: str
    """As the config named it; the digest decides, because a path means nothing on another machine."""

    digest: Annotated[str, Field(min_length=1)]
    """Digest over its weights, config and tokenizer."""


class DataFingerprint(Stored):
    """One data file that a split was read from."""

    path: str
    rows: Annotated[int, Field(ge=0)]
    sha256: Sha256


class Manifest(Stored):
    """The content of an artifact directory and where it came from."""

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(min_length=1)]
    """Name of the run; the registry's name may differ."""

    method: Annotated[str, Field(min_length=1)]
    """``lora`` or ``full``."""

    objective: ObjectiveName = "sft"
    """What was learnt; a classifier answers with one of its labels and not with text."""

    base_model: BaseModelRef
    files: dict[RelativePath, FileDigest]
    """Every file but the manifest, by path relative to the directory."""

    chat_template_sha256: Sha256 | None
    """Digest of the tokenizer's chat template text; None: it has none."""

    config_hash: Annotated[str, Field(min_length=1)]
    data: dict[str, tuple[DataFingerprint, ...]]
    metrics: dict[str, float]
    lineage_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """Identifies the training run; see :func:`new_lineage_id`."""

    created_at: str
    """ISO 8601, UTC."""

    luthier_version: str

    @property
    def is_adapter(self) -> bool:
        """Whether the weights are an adapter, which needs its base; else they are a whole model."""
        return any(name.startswith("adapter/") for name in self.files)

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(digest.size_bytes for digest in self.files.values())

    @property
    def content(self) -> tuple[str, dict[str, FileDigest]]:
        """What the model is: the base's digest, and those of weights and tokenizer. Equal content answers alike."""
        parts = {name: digest for name, digest in self.files.items() if name.partition("/")[0] in COMPONENTS}
        return self.base_model.digest, parts


def new_lineage_id() -> str:
    """A fresh id for one training run: a random UUID.

    It is made here, never taken from a user, and says nothing about the data. Two runs of one config differ
    in it; what they share is ``config_hash`` and the data fingerprints.
    """
    return uuid.uuid4().hex


def describe_artifact(
    directory: Path,
    *,
    name: str,
    method: str,
    base_model: BaseModelRef,
    config_hash: str,
    data: Mapping[str, Sequence[DataFingerprint]],
    metrics: Mapping[str, float],
    lineage_id: str | None = None,
    objective: ObjectiveName = "sft",
) -> Manifest:
    """Digest every file of an artifact directory. Nothing is written.

    Args:
        directory: Holds ``adapter/`` or ``model/``, ``tokenizer/`` and ``config.yaml``.
        name: Name of the run.
        method: ``lora`` or ``full``.
        base_model: What was fine-tuned.
        config_hash: Digest of the resolved config.
        data: The files of each split.
        metrics: Finite figures of the chosen checkpoint.
        lineage_id: The run's id where it has one already; None makes one.
        objective: What was learnt.

    Raises:
        IntegrityError: A file is a link, a pickle or a broken safetensors file, or there are no weights.
        ConfigError: A value does not fit the manifest, for instance a metric that is NaN.
    """
    files = {path: digest_file(directory, path) for path in listing(directory) if path not in RESERVED}
    if not any(path.endswith(".safetensors") for path in files):
        raise IntegrityError(
            f"{directory}: no .safetensors file, so there are no weights; write adapter/ or model/ first."
        )
    try:
        return Manifest(
            name=name,
            method=method,
            objective=objective,
            base_model=base_model,
            files=files,
            chat_template_sha256=_chat_template_sha256(directory / "tokenizer"),
            config_hash=config_hash,
            data={split: tuple(prints) for split, prints in data.items()},
            metrics=dict(metrics),
            lineage_id=lineage_id or new_lineage_id(),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            luthier_version=__version__,
        )
    except ValidationError as error:
        raise ConfigError(f"manifest of {directory}: {_first_problem(error)}.") from error


def write_manifest(
    directory: Path,
    *,
    name: str,
    method: str,
    base_model: BaseModelRef,
    config_hash: str,
    data: Mapping[str, Sequence[DataFingerprint]],
    metrics: Mapping[str, float],
    lineage_id: str | None = None,
    objective: ObjectiveName = "sft",
) -> Manifest:
    """:func:`describe_artifact`, then write ``manifest.json`` atomically.

    Call it when every other file is in place.

    Raises:
        IntegrityError, ConfigError: As :func:`describe_artifact`; no manifest is written then.
    """
    manifest = describe_artifact(
        directory,
        name=name,
        method=method,
        base_model=base_model,
        config_hash=config_hash,
        data=data,
        metrics=metrics,
        lineage_id=lineage_id,
        objective=objective,
    )
    atomic_write_text(directory / MANIFEST_NAME, manifest.model_dump_json(indent=1) + "\n")
    return manifest


def load_manifest(directory: Path) -> Manifest:
    """Read an artifact directory's manifest. The files are not checked; see :func:`verify`.

    Raises:
        ConfigError: There is no manifest, or a newer luthier wrote it.
        IntegrityError: It is not a manifest.
    """
    path = directory / MANIFEST_NAME
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: can't be read ({error.strerror}); name a directory that a finished training run wrote."
        ) from error
    return parse_manifest(text, str(path))


def parse_manifest(data: bytes, where: str) -> Manifest:
    """A manifest from its bytes.

    Args:
        data: UTF-8 JSON.
        where: Path or URI, for messages.

    Raises:
        ConfigError: Its schema version is not the one this luthier reads.
        IntegrityError: It is not JSON, or not a manifest.
    """
    remedy = "restore the file from a copy or make the artifact again"
    try:
        raw = json.loads(data)
    except ValueError as error:
        raise IntegrityError(f"{where}: not valid JSON ({error}); {remedy}.") from error
    if not isinstance(raw, dict):
        raise IntegrityError(f"{where}: holds a {type(raw).__name__} where an object belongs; {remedy}.")
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise ConfigError(
            f"{where}: schema_version is {raw.get('schema_version')!r}; luthier {__version__} reads "
            f"{SCHEMA_VERSION}; use the luthier version that wrote it, or make the artifact again."
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise IntegrityError(f"{where}: {_first_problem(error)}; {remedy}.") from error


def verify(directory: Path, manifest: Manifest) -> None:
    """Check every listed file's digest, and that no unlisted one lies where loaders would pick it up.

    Raises:
        IntegrityError: Names the first bad file, with the expected and the actual digest.
    """
    for name, expected in manifest.files.items():
        actual = digest_file(directory, name)
        if actual != expected:
            raise IntegrityError(mismatch(str(directory / name), expected, actual))
    for component in COMPONENTS:
        for name in listing(directory, component):
            if name not in manifest.files:
                raise IntegrityError(f"{directory / name}: not listed in {MANIFEST_NAME}; remove it.")


def mismatch(where: str, expected: FileDigest, actual: FileDigest) -> str:
    """The message for a file that is not what its manifest says."""
    return (
        f"{where}: SHA-256 is {actual.sha256} ({actual.size_bytes} bytes), the manifest says "
        f"{expected.sha256} ({expected.size_bytes} bytes); "
        "restore the file from a copy or make the artifact again."
    )


def _chat_template_sha256(tokenizer_dir: Path) -> str | None:
    template, settings = tokenizer_dir / "chat_template.jinja", tokenizer_dir / "tokenizer_config.json"
    if template.is_file():
        return sha256_bytes(template.read_bytes())
    if not settings.is_file():
        return None
    try:
        text = json.loads(settings.read_bytes()).get("chat_template")
    except (ValueError, AttributeError) as error:
        raise IntegrityError(f"{settings}: not a JSON object ({error}); save the tokenizer again.") from error
    return sha256_bytes(text.encode("utf-8")) if isinstance(text, str) else None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
