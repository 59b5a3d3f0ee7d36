"""The model registry: immutable versions, aliases that move, and the history of every move.

Layout under the root; nothing in it is ever overwritten::

    <name>/versions/<N>/registration.json   claims the number, by exclusive creation
    <name>/versions/<N>/...                 the artifact's files, evaluation.json and report.html
    <name>/versions/<N>/manifest.json       written last: from now on the version exists
    <name>/served/<N>/<sequence>.json       one measurement of the version where it was served
    <name>/aliases/<sequence>.json          one move of an alias
"""

from __future__ import annotations

import builtins
import getpass
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.digests import canonical_json, sha256_json
from luthier.errors import ConfigError, IntegrityError, RegistryError
from luthier.manifest import MANIFEST_NAME, Manifest, load_manifest, verify
from luthier.paths import cache_dir
from luthier.registry.history import AliasChange, AliasLog, Move, stack_of
from luthier.registry.names import LATEST, check_alias, check_name, parse_reference
from luthier.registry.records import EVALUATION_NAME, REGISTRATION_NAME, REPORT_NAME, ModelVersion
from luthier.registry.served import ServedLog
from luthier.registry.store import open_store
from luthier.registry.transfer import download, read_checked, upload
from luthier.registry.versions import Versions, version_key
from luthier.served_schema import ServedRecord


class Registry:
    """A registry at a local directory or any fsspec URI.

    Args:
        uri: Local directory or fsspec URI; made on the first registration.
        default_alias: Alias that a bare model name stands for.

    Raises:
        ConfigError: The URI can't be used.
        RegistryError: The alias isn't valid.
    """

    def __init__(self, uri: str, default_alias: str = "champion") -> None:
        self.uri = uri
        self._store = open_store(uri)
        self._versions = Versions(self._store)
        self._default_alias = check_alias(default_alias)

    @property
    def location(self) -> str:
        """Path or URI that means this registry in any process, whatever its working directory."""
        return self._store.address("")

    def register(
        self,
        artifact_dir: Path,
        name: str,
        evaluation: Mapping[str, Any] | None = None,
        actor: str | None = None,
        report: bytes | None = None,
    ) -> ModelVersion:
        """Store an artifact as the next version of a model. No alias moves.

        A process killed on the way leaves a number that is never used again, and nothing to resolve.

        Args:
            artifact_dir: A directory with a manifest; the files that it lists are copied.
            name: Model name.
            evaluation: Test-set figures; None takes ``evaluation.json`` of the directory where there is one.
            actor: Who registers; None: the system's user.
            report: A page of HTML about the evaluation, for everyone who may ask the model.

        Raises:
            RegistryError: The name isn't valid.
            ConfigError: No manifest, or the evaluation is not plain JSON.
            IntegrityError: A file differs from the manifest, or is not safe to load.
            OutputError: The registry can't be written.
        """
        check_name(name)
        manifest = load_manifest(artifact_dir)
        verify(artifact_dir, manifest)
        found = {EVALUATION_NAME: _evaluation_bytes(artifact_dir, evaluation), REPORT_NAME: report}
        companions = {file: data for file, data in found.items() if data is not None}
        described = (manifest.model_dump_json(indent=1) + "\n").encode("utf-8")
        version = self._versions.claim(name, manifest, described, companions, actor or system_user())
        key = version_key(name, version)
        upload(self._store, key, artifact_dir, manifest)
        for file, data in companions.items():
            self._store.create(f"{key}/{file}", data)
        self._store.create(f"{key}/{MANIFEST_NAME}", described)
        return self._load(name, version)

    def list(self, name: str | None = None) -> builtins.list[ModelVersion]:
        """Every version of one model or of all, by name and number; empty if there are none.

        Raises:
            IntegrityError: A version's manifest or registration is damaged.
        """
        names = self._versions.names() if name is None else [check_name(name)]
        return [self._load(each, number) for each in names for number in self._versions.numbers(each)]

    def find(self, name: str, manifest: Manifest) -> ModelVersion | None:
        """The newest version of a model with the very weights, tokenizer and base of a manifest, if there is one."""
        alike = [version for version in self.list(name) if version.manifest.content == manifest.content]
        return alike[-1] if alike else None

    def check_writable(self) -> None:
        """Find out before any work whether versions can be stored; nothing is left behind.

        Raises:
            OutputError: A local directory can't be written, or a remote store does not answer.
        """
        self._store.check_writable()

    def resolve(self, ref: str) -> ModelVersion:
        """The version that a reference means.

        Args:
            ref: ``name@3``, ``name@champion``, ``name@latest`` (the newest), or ``name`` (the default alias).

        Raises:
            RegistryError: There is no such model, version or alias.
            IntegrityError: Its manifest or registration is damaged.
        """
        reference = parse_reference(ref)
        if isinstance(reference.selector, int):
            return self._load(reference.name, reference.selector)
        if reference.selector == LATEST:
            numbers = self._versions.numbers(reference.name)
            if not numbers:
                raise self._versions.unknown(ref, reference.name)
            return self._load(reference.name, numbers[-1])
        version = self.aliases(reference.name).get(reference.selector or self._default_alias)
        if version is None:
            raise self._versions.unknown(ref, reference.name)
        return self._load(reference.name, version)

    def fetch(self, ref: str, dest: Path | None = None) -> Path:
        """A local directory with the version's files, every digest checked.

        Args:
            ref: As :meth:`resolve` takes it.
            dest: Where to copy it; None: a local registry's own directory in place, otherwise the cache.

        Raises:
            RegistryError: There is no such version.
            IntegrityError: Names the file that is missing or changed.
            OutputError: ``dest`` holds something else or can't be written.
        """
        version = self.resolve(ref)
        key = version_key(version.name, version.version)
        if dest is None:
            if (in_place := self._store.local_path(key)) is not None:
                verify(in_place, version.manifest)
                return in_place
            # With the manifest's digest, a registry wiped and filled anew can't be taken for the old one.
            marker = sha256_json([self._store.address(""), version.registration.manifest_sha256])[:16]
            dest = cache_dir() / "registry" / f"{version.name}-{version.version}-{marker}"
        return download(self._store, key, version, dest)

    def read(self, version: ModelVersion, file: str) -> bytes:
        """One file of a version, checked against its manifest, without fetching the others.

        Args:
            version: A registered version.
            file: A file that its manifest lists.

        Raises:
            RegistryError: The manifest lists no such file.
            IntegrityError: It is missing or was changed.
        """
        if (expected := version.manifest.files.get(file)) is None:
            raise RegistryError(f"{version.ref} holds no file {file}.")
        key = f"{version_key(version.name, version.version)}/{file}"
        return self._read_checked(key, expected.sha256, MANIFEST_NAME)

    def names(self) -> builtins.list[str]:
        """Names of all models."""
        return self._versions.names()

    def numbers(self, name: str) -> builtins.list[int]:
        """A model's version numbers, ascending."""
        return self._versions.numbers(check_name(name))

    def get_evaluation(self, ref: str) -> dict[str, Any]:
        """The evaluation that was stored with a version.

        Raises:
            RegistryError: There is no such version, or it was registered without one.
            IntegrityError: It was changed.
        """
        lack = "an evaluation; evaluate it first."
        evaluation: dict[str, Any] = json.loads(self._companion(ref, EVALUATION_NAME, lack))
        return evaluation

    def get_report(self, ref: str) -> bytes:
        """The page of HTML that was stored with a version.

        Raises:
            RegistryError: There is no such version, or it was registered without one.
            IntegrityError: It was changed.
        """
        return self._companion(ref, REPORT_NAME, "a report.")

    def add_served(self, version: ModelVersion, record: ServedRecord) -> None:
        """Keep what was measured of a version where it was served.

        Raises:
            OutputError: The registry can't be written.
        """
        ServedLog(self._store, version).append(record)

    def served(self, version: ModelVersion) -> ServedRecord | None:
        """What was measured of a version last; None: it was never measured.

        Raises:
            IntegrityError: The record was changed, or is of another version.
        """
        return ServedLog(self._store, version).last()

    def aliases(self, name: str) -> dict[str, int]:
        """Alias to version; empty if the model has none."""
        return AliasLog(self._store, check_name(name)).aliases()

    def set_alias(
        self,
        name: str,
        alias: str,
        version: int,
        actor: str,
        reason: str,
        figures: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
        forced: bool = False,
    ) -> ModelVersion:
        """Point an alias at a version and record the move. A canary of the alias ends.

        Args:
            name: Model name.
            alias: Made if it doesn't exist.
            version: An existing version.
            actor: Who decides.
            reason: Why, for the history.
            figures: What the decision rests on, as plain JSON.
            expected_version: Move only from this version (0: only if the alias is new); None: from any.
            forced: Whether the gate was passed over, for the history.

        Raises:
            RegistryError: No such version, or the alias is not at ``expected_version`` any more.
            ConfigError: The figures are not plain JSON.
        """
        check_alias(alias)
        self._load(check_name(name), version)
        move = Move(
            alias=alias,
            action="set",
            version=version,
            actor=actor,
            reason=reason,
            figures=_plain(figures or {}, "figures"),
            forced=forced,
        )

        def decide(last: AliasChange | None) -> Move:
            _expect(name, alias, last, expected_version)
            return move

        AliasLog(self._store, name).append(decide)
        return self._load(name, version)

    def rollback(
        self,
        name: str,
        alias: str,
        actor: str | None = None,
        reason: str = "rollback",
        expected_version: int | None = None,
    ) -> ModelVersion:
        """Move an alias back to the version it stood at before; a second rollback goes one further back.

        Args:
            name: Model name.
            alias: An existing alias.
            actor: Who decides; None: the system's user.
            reason: Why, for the history.
            expected_version: Roll back only from this version: two people who press at once go back once.

        Raises:
            RegistryError: The alias has no earlier version, or is not at ``expected_version`` any more.
        """
        log = AliasLog(self._store, check_name(name))
        check_alias(alias)

        def decide(last: AliasChange | None) -> Move:
            _expect(name, alias, last, expected_version)
            return Move(
                alias=alias,
                action="rollback",
                version=self.earlier(name, alias).version,
                actor=actor or system_user(),
                reason=reason,
                figures={},
            )

        return self._load(name, log.append(decide).version)

    def begin_canary(
        self,
        name: str,
        alias: str,
        version: int,
        weight: float,
        actor: str,
        reason: str,
        figures: Mapping[str, Any] | None = None,
        forced: bool = False,
    ) -> ModelVersion:
        """Let a version answer a share of an alias's requests. An earlier canary of the alias ends.

        Args:
            name: Model name.
            alias: An existing alias.
            version: An existing version, another than the alias's.
            weight: The share, between 0 and 1.
            actor: Who decides.
            reason: Why, for the history.
            figures: What the decision rests on, as plain JSON.
            forced: Whether the gate was passed over, for the history.

        Raises:
            RegistryError: There is no such version or alias, or the alias is at that version.
            ConfigError: The weight is not between 0 and 1, or the figures are not plain JSON.
        """
        if not 0.0 < weight < 1.0:
            raise ConfigError(f"weight: {weight:g}; give the share of requests, above 0 and below 1.")
        log, canary = AliasLog(self._store, check_name(name)), self._load(name, version)
        move = Move(
            alias=check_alias(alias),
            action="canary",
            version=version,
            actor=actor,
            reason=reason,
            figures=_plain(figures or {}, "figures"),
            forced=forced,
            weight=weight,
        )

        def decide(last: AliasChange | None) -> Move:
            stable = last.aliases.get(alias) if last else None
            if stable is None:
                raise RegistryError(f"{name}@{alias} does not exist: promote a version to it first.")
            if stable == version:
                raise RegistryError(f"{canary.ref} is {name}@{alias} already; a canary is another version.")
            return move

        log.append(decide)
        return canary

    def end_canary(
        self, name: str, alias: str, actor: str, reason: str, figures: Mapping[str, Any] | None = None
    ) -> ModelVersion:
        """Give all of an alias's requests back to its version.

        Args:
            name: Model name.
            alias: An alias with a canary.
            actor: Who decides.
            reason: Why, for the history.
            figures: What the decision rests on, as plain JSON.

        Returns:
            The version that was the canary.

        Raises:
            RegistryError: The alias has no canary.
        """
        told = _plain(figures or {}, "figures")
        check_alias(alias)

        def decide(last: AliasChange | None) -> Move:
            canary = last.canaries.get(alias) if last else None
            if canary is None:
                raise RegistryError(f"{name}@{alias} has no canary.")
            return Move(
                alias=alias, action="canary-end", version=canary.version, actor=actor, reason=reason, figures=told
            )

        return self._load(name, AliasLog(self._store, check_name(name)).append(decide).version)

    def standing(self, name: str) -> AliasChange | None:
        """The newest move of a model's aliases, with its aliases and canaries as they stand; None: there was none."""
        return AliasLog(self._store, check_name(name)).last()

    def earlier(self, name: str, alias: str) -> ModelVersion:
        """Where a rollback would take the alias.

        Raises:
            RegistryError: The alias has no earlier version.
        """
        stack = stack_of(AliasLog(self._store, check_name(name)).records(), check_alias(alias))
        if len(stack) < 2:
            raise RegistryError(f"{name}@{alias} has no earlier version to go back to; set the alias instead.")
        return self._load(name, stack[-2])

    def history(self, name: str) -> builtins.list[AliasChange]:
        """Every move of the model's aliases, oldest first.

        Raises:
            IntegrityError: A record is missing or damaged.
        """
        return AliasLog(self._store, check_name(name)).records()

    def _companion(self, ref: str, file: str, lack: str) -> bytes:
        version = self.resolve(ref)
        if (sha256 := version.registration.companions.get(file)) is None:
            raise RegistryError(f"{version.ref} was registered without {lack}")
        return self._read_checked(f"{version_key(version.name, version.version)}/{file}", sha256, REGISTRATION_NAME)

    def _read_checked(self, key: str, sha256: str, told_by: str) -> bytes:
        try:
            return read_checked(self._store, key, sha256, told_by)
        except FileNotFoundError as error:
            raise IntegrityError(f"{self._store.address(key)}: missing; restore it from a copy.") from error

    def _load(self, name: str, number: int) -> ModelVersion:
        return self._versions.load(name, number, self.aliases(name))


def _expect(name: str, alias: str, last: AliasChange | None, expected: int | None) -> None:
    present = last.aliases.get(alias, 0) if last else 0
    if expected is not None and present != expected:
        raise RegistryError(
            f"{name}@{alias} is at {present or 'no version'}, not at {expected or 'no version'} any more: "
            "someone moved it meanwhile; look at the history and decide again."
        )


def _evaluation_bytes(artifact_dir: Path, evaluation: Mapping[str, Any] | None) -> bytes | None:
    path = artifact_dir / EVALUATION_NAME
    if evaluation is None:
        if not path.is_file():
            return None
        try:
            evaluation = json.loads(path.read_bytes())
        except ValueError as error:
            raise ConfigError(f"{path}: not valid JSON ({error}); evaluate again or remove it.") from error
    if not isinstance(evaluation, Mapping):
        raise ConfigError(
            f"{path}: holds a {type(evaluation).__name__} where an object belongs; evaluate again or remove it."
        )
    return (canonical_json(_plain(evaluation, "evaluation")) + "\n").encode("utf-8")


def _plain(value: Mapping[str, Any], what: str) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(canonical_json(dict(value)))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{what} is not plain JSON ({error}); pass finite numbers, strings, lists and objects."
        ) from error
    return plain


def system_user() -> str:
    """Name of the user that this process runs as; "unknown" where the system has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without an entry in passwd
        return "unknown"
