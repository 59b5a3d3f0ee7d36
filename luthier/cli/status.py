"""``luthier status``: the endpoint, and the jobs of the cluster."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import typer

from luthier.cli.options import Address, AsJson, emit
from luthier.errors import ConfigError, LuthierError, ResourceError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from luthier.cluster.jobs import Job

DEFAULT_ENDPOINT = "http://127.0.0.1:8000"
KEY_ENV = "LUTHIER_API_KEY"

_DEADLINE_S = 12.0
"""How long anything may take to answer; each request ends sooner, name resolution may not."""

Answer = TypeVar("Answer")


def status(
    job: Annotated[
        str, typer.Argument(metavar="[JOB]", help="Only this job, by its id or by the name of its run.")
    ] = "",
    endpoint: Annotated[
        str | None, typer.Option(help=f"URL of the endpoint; without one {DEFAULT_ENDPOINT} is looked at.")
    ] = None,
    address: Address = None,
    key_env: Annotated[str, typer.Option("--key-env", help="Environment variable that holds an API key.")] = KEY_ENV,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", help="File that holds an API key, as luthier serve names it.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again and again, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks.")] = 2.0,
    as_json: AsJson = False,
) -> None:
    """The endpoint's versions, load and latencies, and the jobs of the cluster.

    Where an endpoint or an address is named and nothing answers there, the exit code is 2.
    """
    if job:
        return _one_job(job, address, as_json=as_json)
    key = _key(key_env, key_file)

    def look() -> dict[str, Any]:
        return _look(endpoint, address, key, f"--key-file, or the environment variable {key_env}")

    try:
        _show(look, watch=watch, interval_s=interval, as_json=as_json)
    except KeyboardInterrupt:
        return


def _one_job(job: str, address: str | None, *, as_json: bool) -> None:
    from luthier.cli.status_view import jobs_view
    from luthier.cluster import jobs as jobs_api

    found = [_Asked(lambda: jobs_api.status(job, address), "the job server").answer().model_dump(mode="json")]
    emit(found, as_json=as_json, text=jobs_view(found, longest=10_000))


def _key(key_env: str, key_file: Path | None) -> str | None:
    if key_file is None:
        return os.environ.get(key_env)
    try:
        return key_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--key-file: {str(key_file)!r} can't be read; name a file that holds a key.") from error


def _show(look: Callable[[], dict[str, Any]], *, watch: bool, interval_s: float, as_json: bool) -> None:
    from rich.console import Console

    from luthier.cli.status_view import page

    seen = look()
    if watch and not as_json and Console().is_terminal:
        return _follow(look, page(seen), interval_s)
    emit(seen, as_json=as_json, text=page(seen))
    while watch:
        time.sleep(interval_s)
        seen = look()
        emit(seen, as_json=as_json, text=page(seen))


def _follow(look: Callable[[], dict[str, Any]], first: RenderableType, interval_s: float) -> None:
    from rich.live import Live

    with Live(first, screen=True, auto_refresh=False) as live:
        while True:
            live.refresh()
            time.sleep(interval_s)
            live.update(_page_or_error(look))


def _page_or_error(look: Callable[[], dict[str, Any]]) -> RenderableType:
    """An endpoint that is started anew is awaited, not a reason to end."""
    from rich.text import Text

    from luthier.cli.status_view import page

    try:
        return page(look())
    except LuthierError as error:
        return Text(str(error), "red")


def _look(endpoint: str | None, address: str | None, key: str | None, how: str) -> dict[str, Any]:
    """What answers; ``notes`` tell what does not.

    Raises:
        LuthierError: An endpoint or an address was named, and nothing of the kind is there.
    """
    from luthier.serving.remote import endpoint_status

    notes: list[str] = []
    url = endpoint or DEFAULT_ENDPOINT
    asked = _Asked(lambda: endpoint_status(url, key, how, trusted=endpoint is not None), f"the endpoint {url}")
    cluster = _Asked(lambda: _cluster(address), "the job server")
    found = asked.answer_or_note(notes, named=endpoint is not None)
    named = bool(address or os.environ.get("RAY_ADDRESS"))
    jobs, applications = cluster.answer_or_note(notes, named=named) or (None, None)
    return {
        "endpoint": found,
        "applications": applications,
        "jobs": None if jobs is None else [job.model_dump(mode="json") for job in jobs],
        "notes": notes,
    }


def _cluster(address: str | None) -> tuple[tuple[Job, ...], list[dict[str, Any]]]:
    from luthier.cluster import jobs as jobs_api

    return jobs_api.list_jobs(address), jobs_api.applications(address)


class _Asked(Generic[Answer]):
    """A call that runs on a thread, and is waited for no longer than the deadline.

    Args:
        ask: The call.
        what: What is asked, for the message.
    """

    def __init__(self, ask: Callable[[], Answer], what: str) -> None:
        self._ask = ask
        self._what = what
        self._deadline = time.monotonic() + _DEADLINE_S
        self._results: queue.Queue[tuple[Answer, None] | tuple[None, BaseException]] = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()

    def answer(self) -> Answer:
        """What the call returned.

        Raises:
            ResourceError: It takes too long. Whatever the call raised is raised here too.
        """
        try:
            result = self._results.get(timeout=max(0.0, self._deadline - time.monotonic()))
        except queue.Empty:
            message = f"{self._what} did not answer within {_DEADLINE_S:g} s; check its name and the network."
            raise ResourceError(message) from None
        if result[1] is not None:
            raise result[1]
        return result[0]

    def answer_or_note(self, notes: list[str], *, named: bool) -> Answer | None:
        """What the call returned; an error of luthier's is a note, unless the user named what does not answer."""
        try:
            return self.answer()
        except LuthierError as error:
            if named:
                raise
            notes.append(str(error))
            return None

    def _run(self) -> None:
        try:
            self._results.put((self._ask(), None))
        except BaseException as error:
            self._results.put((None, error))
