"""What was measured of a version where it was served: an append-only log beside the versions, which are never written to.

One measurement is one object, ``served/<N>/00000001.json``. The newest counts. Each carries its own digest, and that of
the manifest of the version that was measured.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from luthier.digests import canonical_json, sha256_json
from luthier.errors import IntegrityError
from luthier.registry.records import ModelVersion
from luthier.registry.store import Store
from luthier.served_schema import ServedRecord


class ServedLog:
    """The measurements of one version.

    Args:
        store: The registry's store.
        version: The version.
    """

    def __init__(self, store: Store, version: ModelVersion) -> None:
        self._store = store
        self._version = version
        self._directory = f"{version.name}/served/{version.version}"

    def last(self) -> ServedRecord | None:
        """The newest measurement; None: there is none.

        Raises:
            IntegrityError: It was changed, or is of another version.
        """
        last = self._sequences()[-1:]
        return self._read(self._key(last[0])) if last else None

    def append(self, record: ServedRecord) -> None:
        """Keep a measurement; of writers at the same time each gets a place.

        Raises:
            OutputError: The store can't be written.
        """
        plain = record.model_dump(mode="json")
        data = (canonical_json({"record": plain, "sha256": sha256_json(plain)}) + "\n").encode("utf-8")
        while True:
            try:
                self._store.create(self._key((self._sequences() or [0])[-1] + 1), data)
            except FileExistsError:
                continue
            return

    def _sequences(self) -> list[int]:
        stems = (name.removesuffix(".json") for name in self._store.children(self._directory))
        return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit())

    def _key(self, sequence: int) -> str:
        return f"{self._directory}/{sequence:08d}.json"

    def _read(self, key: str) -> ServedRecord:
        where, remedy = self._store.address(key), "restore it from a copy, or serve the version again."
        try:
            stored: Any = json.loads(self._store.read(key))
            plain, told = stored["record"], stored["sha256"]
            record = ServedRecord.model_validate_json(json.dumps(plain))
        except (ValueError, KeyError, TypeError) as error:
            problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else type(error).__name__
            raise IntegrityError(f"{where}: not a record of a measurement ({problem}); {remedy}") from error
        if (actual := sha256_json(plain)) != told:
            raise IntegrityError(f"{where}: SHA-256 is {actual}, the file says {told}; {remedy}")
        if record.manifest_sha256 != self._version.registration.manifest_sha256:
            raise IntegrityError(f"{where}: measured of another version than {self._version.ref}; {remedy}")
        return record
