"""Archives of what jobs run, kept by their digest until no ticket needs them."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Set
from pathlib import Path

from luthier.digests import fsync_dir
from luthier.errors import ConfigError

UNUSED_S = 3600.0
"""How long an archive that nobody needs is kept: its ticket may be on the way."""


class Packages:
    """A directory of archives.

    Args:
        directory: Where they lie; made if it is not there.
        limit_bytes: The largest that is taken.
    """

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes
        directory.mkdir(mode=0o700, exist_ok=True)
        for left_over in directory.glob("*.part"):
            left_over.unlink()

    def path(self, sha256: str) -> Path:
        """Where an archive lies, or would lie."""
        return self._directory / f"{sha256}.zip"

    def has(self, sha256: str) -> bool:
        """Whether an archive is there; it stays for a while then."""
        path = self.path(sha256)
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    async def save(self, sha256: str, blocks: AsyncIterator[bytes]) -> int:
        """Keep an archive, whole or not at all.

        Args:
            sha256: Its digest, in hex.
            blocks: Its bytes.

        Returns:
            Its size in bytes.

        Raises:
            ConfigError: It is too large, or not what the digest says.
        """
        digest, num_bytes = hashlib.sha256(), 0
        descriptor, name = tempfile.mkstemp(dir=self._directory, suffix=".part")
        part = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as sink:
                async for block in blocks:
                    num_bytes += len(block)
                    if num_bytes > self._limit_bytes:
                        raise ConfigError(
                            f"the package is larger than {self._limit_bytes} bytes, the most that this queue takes; leave "
                            "data and models out (.rayignore), on storage that the cluster shares."
                        )
                    digest.update(block)
                    sink.write(block)
                sink.flush()
                os.fsync(sink.fileno())
            if digest.hexdigest() != sha256:
                raise ConfigError(f"the package has digest {digest.hexdigest()}, not {sha256}; send it again.")
            part.replace(self.path(sha256))
            fsync_dir(self._directory)
        finally:
            part.unlink(missing_ok=True)
        return num_bytes

    def drop_unused(self, needed: Set[str]) -> None:
        """Delete the archives that no ticket needs and nobody has asked about for a while."""
        for path in self._directory.glob("*.zip"):
            if path.stem not in needed and time.time() - path.stat().st_mtime > UNUSED_S:
                path.unlink(missing_ok=True)
