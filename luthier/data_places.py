"""Where data lies: local files, directories of ``datasets.save_to_disk``, and whatever fsspec reaches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec  # type: ignore[import-untyped]
from fsspec.core import url_to_fs  # type: ignore[import-untyped]

from luthier.digests import sha256_json, sha256_stream
from luthier.errors import DataError
from luthier.paths import is_uri


def located(name: str, root: Path = Path()) -> str:
    """The place that a name of the config stands for: a URI as it is, a path below ``root`` unless it is absolute."""
    return name if is_uri(name) else str(root / Path(name).expanduser())


def open_place(place: str) -> BinaryIO:
    """A file's bytes, seekable.

    Raises:
        DataError: Nothing here knows the URI's scheme.
        OSError: The file can't be read.
    """
    if not is_uri(place):
        return Path(place).open("rb")
    fs, path = _resolve(place)
    return cast(BinaryIO, fs.open(path, "rb"))


def is_directory(place: str) -> bool:
    """Whether the place is a directory."""
    fs, path = _resolve(place)
    return bool(fs.isdir(path))


def exists(place: str) -> bool:
    """Whether the place is a file or a directory with a saved dataset.

    Raises:
        DataError: Nothing here knows the URI's scheme.
        OSError: Its store can't be asked.
    """
    fs, path = _resolve(place)
    return bool(fs.isfile(path) or fs.isfile(f"{path}/state.json") or fs.isfile(f"{path}/dataset_dict.json"))


def arrow_files(place: str) -> list[str]:
    """The data files of a directory that ``datasets.save_to_disk`` made, in the order of their rows.

    Raises:
        DataError: The directory is none of that kind, or holds several splits.
        OSError: It can't be read.
    """
    place = place.rstrip("/")
    fs, path = _resolve(place)
    if fs.isfile(f"{path}/dataset_dict.json"):
        raise DataError(f"{place}: is a saved DatasetDict; name the directory of one of its splits below it.")
    try:
        state = json.loads(fs.cat_file(f"{path}/state.json"))
        names = [Path(one["filename"]).name for one in state["_data_files"]]
    except FileNotFoundError as error:
        raise DataError(f"{place}: is a directory without state.json; name a file, or save it anew.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{place}/state.json: lists no data files; save the dataset anew.") from error
    if state.get("_indices_data_files"):
        raise DataError(f"{place}: is saved with an index of its rows; call flatten_indices() and save it anew.")
    return [f"{place}/{name}" for name in names]


def size_bytes(place: str) -> int:
    """Size of a file, or of a saved dataset's data files.

    Raises:
        DataError: As :func:`arrow_files`.
        OSError: It can't be read.
    """
    if is_directory(place):
        return sum(size_bytes(one) for one in arrow_files(place))
    fs, path = _resolve(place)
    return int(fs.size(path))


def digest(place: str) -> str:
    """SHA-256 of a file's content; of a saved dataset, that of its files' digests in order.

    Raises:
        DataError: As :func:`arrow_files`.
        OSError: It can't be read.
    """
    if is_directory(place):
        return sha256_json([digest(one) for one in arrow_files(place)])
    with open_place(place) as stream:
        return sha256_stream(stream)[0]


def _resolve(place: str) -> tuple[Any, str]:
    if not is_uri(place):
        return fsspec.filesystem("file"), place
    try:
        fs, path = url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"{place}: no fsspec package for this scheme is here; install it or correct the scheme."
        ) from error
    return fs, str(path)
