"""Versions in a store: claiming a number, and reading what was published under it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import ValidationError

from luthier.digests import sha256_bytes
from luthier.errors import IntegrityError, RegistryError
from luthier.manifest import MANIFEST_NAME, Manifest, parse_manifest
from luthier.registry.history import AliasLog
from luthier.registry.names import LATEST, check_name, parse_version
from luthier.registry.records import EVALUATION_NAME, REGISTRATION_NAME, REPORT_NAME, ModelVersion, Registration
from luthier.registry.store import Store
from luthier.registry.transfer import read_checked


def version_key(name: str, version: int) -> str:
    """The version's directory below the registry's root."""
    return f"{name}/versions/{version}"


class Versions:
    """The versions of every model in a store.

    Args:
        store: The registry's store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def names(self) -> list[str]:
        """Models with at least one directory; what is not a valid name is not ours and is passed over."""
        return [name for name in self._store.children("") if _is_name(name)]

    def numbers(self, name: str) -> list[int]:
        """Published versions, ascending. A claimed number without a manifest is not one."""
        keys = ((number, version_key(name, number)) for number in self._claimed(name))
        return [number for number, key in keys if MANIFEST_NAME in self._store.children(key)]

    def claim(
        self, name: str, manifest: Manifest, described: bytes, companions: Mapping[str, bytes], actor: str
    ) -> int:
        """Take the next number for this writer alone.

        Args:
            name: A checked model name.
            manifest: What will be published.
            described: The manifest's bytes as they will be stored.
            companions: Evaluation and report as they will be stored, by file name; of those that there are.
            actor: Who registers.

        Raises:
            OutputError: The store can't be written.
        """
        digests = {file: sha256_bytes(data) for file, data in companions.items()}
        while True:
            version = max(self._claimed(name), default=0) + 1
            registration = Registration(
                name=name,
                version=version,
                lineage_id=manifest.lineage_id,
                manifest_sha256=sha256_bytes(described),
                evaluation_sha256=digests.get(EVALUATION_NAME),
                report_sha256=digests.get(REPORT_NAME),
                registered_at=datetime.now(UTC).isoformat(timespec="seconds"),
                registered_by=actor,
            )
            data = (registration.model_dump_json(indent=1) + "\n").encode("utf-8")
            try:
                self._store.create(f"{version_key(name, version)}/{REGISTRATION_NAME}", data)
            except FileExistsError:
                continue
            return version

    def load(self, name: str, number: int, aliases: Mapping[str, int]) -> ModelVersion:
        """Read one published version.

        Args:
            name: A checked model name.
            number: The version.
            aliases: The model's alias table.

        Raises:
            RegistryError: It isn't published.
            IntegrityError: Its registration or manifest is damaged.
        """
        key = version_key(name, number)
        try:
            registration = Registration.model_validate_json(self._store.read(f"{key}/{REGISTRATION_NAME}"))
            described = read_checked(self._store, f"{key}/{MANIFEST_NAME}", registration.manifest_sha256)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self.unknown(f"{name}@{number}", name) from error
        except ValidationError as error:
            where = self._store.address(f"{key}/{REGISTRATION_NAME}")
            raise IntegrityError(f"{where}: {error.errors()[0]['msg']}; restore it from a copy.") from error
        return ModelVersion(
            name=name,
            version=number,
            aliases=tuple(sorted(alias for alias, version in aliases.items() if version == number)),
            manifest=parse_manifest(described, self._store.address(f"{key}/{MANIFEST_NAME}")),
            registration=registration,
            uri=self._store.address(key),
        )

    def unknown(self, ref: str, name: str) -> RegistryError:
        """The error for a reference that means nothing here, with what there is."""
        numbers, root = self.numbers(name), self._store.address("")
        if not numbers:
            known = ", ".join(each for each in self.names() if self.numbers(each)) or "none"
            return RegistryError(f"{ref}: no model {name!r} in {root}; models there: {known}.")
        aliases = sorted(AliasLog(self._store, name).aliases())
        have = ", ".join(f"@{each}" for each in [*numbers[-10:], *aliases, LATEST])
        return RegistryError(f"{ref}: not in {root}; {name} has {have}.")

    def _claimed(self, name: str) -> list[int]:
        found = (parse_version(child) for child in self._store.children(f"{name}/versions"))
        return sorted(number for number in found if number is not None)


def _is_name(text: str) -> bool:
    try:
        return bool(check_name(text))
    except RegistryError:
        return False
