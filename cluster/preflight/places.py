"""Whether a directory or URI can be written, and whether two machines mean the same place by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.cluster.preflight.findings import DRIVER
from luthier.paths import absent, is_uri, remove_empty


@dataclass(frozen=True)
class Place:
    """Somewhere that a run reads and writes.

    Attributes:
        key: The setting that names it.
        where: Absolute path or fsspec URI.
        token: Part of the names of the files by which machines recognise the place; new for each preflight.
        for_workers: Whether only nodes on which workers may run need it.
        made: Whether the driver could write there, so that its file is to be found.
    """

    key: str
    where: str
    token: str
    for_workers: bool = False
    made: bool = False

    @property
    def is_local(self) -> bool:
        """Whether it is a path."""
        return not is_uri(self.where)


@dataclass(frozen=True)
class Seen:
    """What one machine found at a place.

    Attributes:
        error: Why it can't be read and written; None: it can.
        same: Whether the driver's file is there.
        free_bytes: Free disk; None where that has no meaning.
        unknown_scheme: Whether fsspec can't open such a URI here.
    """

    error: str | None = None
    same: bool = True
    free_bytes: int | None = None
    unknown_scheme: bool = False


def try_place(place: Place, who: str) -> Seen:
    """Read and write a place, and look for the driver's file.

    The file that is written stays, for the driver to find, if the place is the driver's.

    Args:
        place: The place.
        who: Name of the writer.
    """
    name = _file(place, who)
    try:
        filesystem, root = _opened(place)
    except (ImportError, ValueError) as error:
        return Seen(error=str(error), unknown_scheme=True)
    try:
        if place.is_local and not Path(root).is_dir():
            return Seen(error="does not exist there", same=False)
        filesystem.pipe_file(f"{root}/{name}", who.encode())
        if filesystem.cat_file(f"{root}/{name}") != who.encode():
            return Seen(error="gives back something else than was written", same=False)
        same = not place.made or who == DRIVER or _holds(filesystem, root, place, DRIVER)
        if not same:
            filesystem.rm_file(f"{root}/{name}")
    except Exception as error:  # each backend of fsspec has its own
        return Seen(error=_told(error))
    return Seen(same=same, free_bytes=_free_bytes(place))


def reaches_driver(place: Place, who: str) -> bool:
    """Whether the file that another machine wrote has come to this one."""
    filesystem, root = _opened(place)
    return _holds(filesystem, root, place, who)


@contextmanager
def tried_here(places: Sequence[Place]) -> Iterator[tuple[tuple[Place, ...], dict[str, Seen]]]:
    """Try places as the driver; at the end every file and directory that was made for it is gone.

    Yields:
        The places, with ``made`` set where the driver's file lies, and what was seen by key.
    """
    left: dict[str, list[Path]] = {}
    tried: list[Place] = []
    seen: dict[str, Seen] = {}
    try:
        for place in places:
            if place.is_local:
                left[place.key] = absent(Path(place.where))
            seen[place.key] = _make(place) or try_place(place, DRIVER)
            tried.append(replace(place, made=seen[place.key].error is None))
        yield tuple(tried), seen
    finally:
        for place in tried:
            _clean(place)
            remove_empty(left.get(place.key, []))


def _make(place: Place) -> Seen | None:
    """Make a directory; only the driver does: on a node, one that is missing is a mount that is missing."""
    try:
        if place.is_local:
            Path(place.where).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return Seen(error=_told(error))
    return None


def _clean(place: Place) -> None:
    with suppress(Exception):  # as above; what can't be removed was told as an error or is a few bytes
        filesystem, root = _opened(place)
        for path in filesystem.glob(f"{root}/{_file(place, '*')}"):
            filesystem.rm_file(path)


def _opened(place: Place) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    filesystem, root = url_to_fs(place.where)
    return filesystem, str(root).rstrip("/")


def _file(place: Place, who: str) -> str:
    return f".luthier-preflight-{place.token}-{who}"


def _holds(filesystem: Any, root: str, place: Place, who: str) -> bool:
    """By the file's name and not by a listing, which network file systems keep for a while."""
    try:
        return bool(filesystem.cat_file(f"{root}/{_file(place, who)}") == who.encode())
    except FileNotFoundError:
        return False


def _free_bytes(place: Place) -> int | None:
    import shutil

    return shutil.disk_usage(place.where).free if place.is_local else None


def _told(error: Exception) -> str:
    text = getattr(error, "strerror", None) or f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return f"can't be written ({text})"
