"""Compressed data files, unpacked as they are read."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from luthier.errors import DataError

COMPRESSIONS = (".gz", ".zst")

Reader = Callable[[BinaryIO, str], Iterator[tuple[int, Any]]]


def unpacked(stream: BinaryIO, ending: str, name: str, reader: Reader) -> Iterator[tuple[int, Any]]:
    """What a reader finds in a compressed stream, one record at a time.

    Args:
        stream: The compressed bytes.
        ending: One of :data:`COMPRESSIONS`.
        name: What messages call the file.
        reader: Reads the unpacked bytes.

    Raises:
        DataError: The file is cut or damaged; the message names the last line that was read. Or as ``reader``.
    """
    last = 0
    try:
        with _unpacking(stream, ending) as plain:
            for line, record in reader(plain, name):
                last = line
                yield line, record
    except (EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(
            f"{name}: is no whole {ending} file: it can't be unpacked further behind line {last}; copy it again."
        ) from error


def _unpacking(stream: BinaryIO, ending: str) -> BinaryIO:
    if ending == ".gz":
        return cast(BinaryIO, gzip.open(stream, "rb"))
    import pyarrow as pa

    return cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")))
