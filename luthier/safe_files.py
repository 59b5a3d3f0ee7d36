"""Files that an artifact may hold: no links, and nothing whose loading runs code.

Unpickling executes what the file says, so weights are safetensors only; see
https://docs.python.org/3/library/pickle.html and https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from luthier.digests import sha256_stream
from luthier.errors import IntegrityError

_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5"}
# A pickle of protocol 2 to 5 starts with 0x80 and the protocol; torch.save since 1.6 writes a zip.
_PICKLE_MAGIC = re.compile(rb"\x80[\x02-\x05]|PK\x03\x04")
_SAFETENSORS_HEADER_LIMIT_BYTES = 100_000_000  # the format's own limit

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A digest in hexadecimal."""


class FileDigest(BaseModel):
    """What identifies one file's content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


def digest_file(directory: Path, name: str) -> FileDigest:
    """Digest of one file of an artifact, refused if it is missing, a link, or could run code when loaded.

    Args:
        directory: The artifact directory.
        name: Path below it.

    Raises:
        IntegrityError: Names the file.
    """
    path = directory / name
    below = [
        directory.joinpath(*PurePosixPath(name).parts[: depth + 1]) for depth in range(len(PurePosixPath(name).parts))
    ]
    if any(part.is_symlink() for part in below):
        raise IntegrityError(f"{path}: is or lies behind a symbolic link; put the file itself there.")
    try:
        with path.open("rb") as stream:
            _refuse_unsafe(path, stream.read(9), path.stat().st_size)
            stream.seek(0)
            sha256, size_bytes = sha256_stream(stream)
    except OSError as error:
        raise IntegrityError(
            f"{path}: can't be read ({error.strerror}); restore it or make the artifact again."
        ) from error
    return FileDigest(sha256=sha256, size_bytes=size_bytes)


def listing(directory: Path, below: str = ".") -> list[str]:
    """Paths of all files and links under a subdirectory, relative to ``directory``, sorted."""
    found = (path for path in (directory / below).rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(directory).as_posix() for path in found)


def _refuse_unsafe(path: Path, head: bytes, size_bytes: int) -> None:
    if path.suffix == ".safetensors":
        # Eight bytes of little-endian header length, then a JSON object.
        length = struct.unpack("<Q", head[:8])[0] if len(head) == 9 else 0
        if head[8:] != b"{" or not 2 <= length <= min(size_bytes - 8, _SAFETENSORS_HEADER_LIMIT_BYTES):
            raise IntegrityError(f"{path}: not a safetensors file; save the weights with safetensors.")
    elif path.suffix.lower() in _PICKLE_SUFFIXES or _PICKLE_MAGIC.match(head):
        raise IntegrityError(
            f"{path}: weights may be safetensors only, and a pickle can run code; convert or remove it."
        )
