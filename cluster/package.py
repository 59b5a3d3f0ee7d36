"""The archive that travels with a job: the current directory, and luthier itself where that does not bring it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

import luthier
from luthier.cluster.sending import files_to_send
from luthier.digests import sha256_file
from luthier.errors import ConfigError

MIB = 2**20

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The zip format's first moment; files carry no other, so that the same content is the same archive."""

_NUM_NAMED = 3


class Package(BaseModel):
    """An archive of what a job needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """The zip file."""
    sha256: str
    num_files: int
    size_bytes: int
    """Of the zip file."""

    def __str__(self) -> str:
        return f"{self.num_files:,} files, {self.size_bytes / MIB:.1f} MiB"


def pack(root: Path, directory: Path) -> Package:
    """Pack a working directory; the same content gives the same bytes.

    Args:
        root: The working directory.
        directory: Where the archive is made.

    Raises:
        ConfigError: The archive is larger than Ray takes, or ``luthier`` names something else in the directory.
    """
    target = directory / "package.zip"
    files = [*files_to_send(root), *_luthier_files(root)]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path, name in files:
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if path.stat().st_mode & 0o100 else 0o644) << 16
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as sink:
                while block := source.read(MIB):
                    sink.write(block)
    size_bytes = target.stat().st_size
    _refuse_large(size_bytes, files, root)
    return Package(path=str(target), sha256=sha256_file(target), num_files=len(files), size_bytes=size_bytes)


def _luthier_files(root: Path) -> Iterator[tuple[Path, str]]:
    package = Path(luthier.__file__).resolve().parent
    if package.parent == root.resolve():
        return
    if (root / package.name).exists():
        raise ConfigError(
            f"{str(root / package.name)!r} hides the luthier package that the job runs; rename it, or submit from "
            "another directory."
        )
    for path, name in files_to_send(package):
        yield path, f"{package.name}/{name}"


def _refuse_large(size_bytes: int, files: list[tuple[Path, str]], root: Path) -> None:
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    if size_bytes < GCS_STORAGE_MAX_SIZE:
        return
    largest = sorted(files, key=lambda file: file[0].stat().st_size, reverse=True)[:_NUM_NAMED]
    named = ", ".join(f"{name} ({path.stat().st_size / MIB:.0f} MiB)" for path, name in largest)
    raise ConfigError(
        f"what would be sent from {str(root)!r} takes {size_bytes / MIB:.0f} MiB, Ray takes less than "
        f"{GCS_STORAGE_MAX_SIZE / MIB:.0f}; the largest are {named}: name them in .rayignore, and put data and models on "
        "storage that the cluster shares."
    )
