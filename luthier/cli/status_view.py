"""How ``luthier status`` looks in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

_LONGEST_MESSAGE = 160
_WIDEST_NAME = 40

_STYLES = {
    **dict.fromkeys(("RUNNING", "HEALTHY", "SUCCEEDED"), "green"),
    **dict.fromkeys(("FAILED", "UNHEALTHY", "DEPLOY_FAILED"), "bold red"),
    **dict.fromkeys(("STOPPED",), "dim"),
}


def page(seen: Mapping[str, Any]) -> RenderableType:
    """Everything that was seen."""
    sections: list[RenderableType] = []
    endpoint = seen["endpoint"]
    if endpoint:
        sections += [_headline(endpoint), Group(models_table(endpoint), *_problems(endpoint))]
    if endpoint and endpoint.get("deployments"):
        sections.append(deployments_table(endpoint["deployments"]))
    elif seen["applications"]:
        sections.append(applications_table(seen["applications"]))
    if seen["jobs"] is not None:
        sections.append(jobs_view(seen["jobs"]) if seen["jobs"] else Text("No jobs.", "dim"))
    sections += [Text(f"{note[:1].upper()}{note[1:]}", "dim") for note in seen["notes"]]
    return Group(*(part for section in sections for part in (section, "")))


def _headline(endpoint: Mapping[str, Any]) -> RenderableType:
    lines = Text.assemble((f"Endpoint {endpoint['url']}", "bold"), f"  up {_duration(endpoint['up_s'])}")
    load = endpoint.get("load")
    if load:
        waiting = max(0, load["in_flight"] - load["decoding_most"])
        lines.append(f"\n{load['in_flight'] - waiting} of {load['decoding_most']} places taken")
        room = load["in_flight_most"] - load["decoding_most"]
        lines.append(f", {waiting} of {room} waiting", "yellow" if waiting else "")
    return lines


def models_table(endpoint: Mapping[str, Any]) -> Table:
    """Versions that have a name, are held, or were asked for; the others are counted."""
    shown = [one for one in endpoint["models"] if _is_shown(one)]
    table = _table(f"versions, last {_duration(endpoint['window_s'])}; p50 and p95 of the time to the first token")
    table.add_column("version", overflow="fold", min_width=_width(one["model"] for one in shown))
    table.add_column("aliases", overflow="fold")
    for heading in ("requests", "failed", "tok/s", "p50", "p95"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True, min_width=len("loaded"))
    for one in shown:
        failed = f"{one['error_rate']:.1%}" if one["requests"] else "-"
        table.add_row(
            escape(one["model"]),
            _aliases(one),
            str(one["requests"]),
            Text(failed, "bold red" if one["failed"] else ""),
            f"{one['tokens_per_s']:.1f}",
            _seconds(one["ttft_p50_s"]),
            _seconds(one["ttft_p95_s"]),
            _state(one),
        )
    if left := len(endpoint["models"]) - len(shown):
        table.caption = f"and {left} registered {'version' if left == 1 else 'versions'} that nobody asked for"
        table.caption_justify = "left"
    return table


def _aliases(one: Mapping[str, Any]) -> Text:
    """What else leads to a version, without its name, each on a line; the bare name is ``default``."""
    told = [Text(name.partition("@")[2] or "default") for name in one["names"]]
    told += [Text(f"canary {weight:.0%}", "yellow") for weight in sorted(set(one["canary_of"].values()))]
    return Text("\n").join(told)


def _is_shown(one: Mapping[str, Any]) -> bool:
    return bool(one["requests"] or one["loaded"] or one["names"] or one["canary_of"])


def _state(one: Mapping[str, Any]) -> Text:
    if one["loaded"]:
        return Text("loaded", "green")
    return Text("idle", "dim") if one["adapter"] else Text("down", "bold red")


def _problems(endpoint: Mapping[str, Any]) -> list[RenderableType]:
    return [Text.assemble((f"{name} can't be served: ", "red"), why) for name, why in endpoint["problems"].items()]


def deployments_table(deployments: Sequence[Mapping[str, Any]]) -> Table:
    """Deployments with their replicas, and what these hold."""
    table = _table("deployments")
    for heading in ("deployment", "status", "replicas", "adapters held"):
        table.add_column(heading, overflow="fold")
    for one in deployments:
        held = ", ".join(one.get("adapters", ())) or one["message"]
        table.add_row(escape(one["deployment"]), _styled(one["status"]), _replicas(one["replicas"]), escape(held))
    return table


def applications_table(applications: Sequence[Mapping[str, Any]]) -> Table:
    """What Ray Serve runs on a cluster, as its dashboard tells."""
    table = _table("Ray Serve on the cluster")
    for heading in ("application", "deployment", "status", "replicas", "message"):
        table.add_column(heading, overflow="fold")
    for application in applications:
        table.add_row(
            escape(application["name"]), "", _styled(application["status"]), "", escape(application["message"])
        )
        for one in application["deployments"]:
            replicas = _replicas(one["replicas"])
            table.add_row("", escape(one["deployment"]), _styled(one["status"]), replicas, escape(one["message"]))
    return table


def jobs_view(jobs: Sequence[Mapping[str, Any]], longest: int = _LONGEST_MESSAGE) -> RenderableType:
    """Jobs, the newest first, and what is said of those that failed.

    Args:
        jobs: The jobs.
        longest: Characters at which a message is cut off; the job's log has the rest.
    """
    table = _table("jobs")
    table.add_column("job", overflow="fold", min_width=_width(job["job_id"] for job in jobs))
    for heading in ("status", "exit code", "started"):
        table.add_column(heading, overflow="fold")
    for job in jobs:
        code, started = job["exit_code"], job["started_s"]
        table.add_row(
            escape(job["job_id"]),
            _styled(job["status"]),
            "" if code is None else str(code),
            "" if started is None else datetime.fromtimestamp(started, UTC).astimezone().strftime("%Y-%m-%d %H:%M"),
        )
    failed = [job for job in jobs if job["status"] == "FAILED" and job["message"]]
    told = [(job["job_id"], " ".join(job["message"].split())) for job in failed]
    lines = [
        Text.assemble((f"{job}: ", "red"), text if len(text) <= longest else f"{text[:longest]} ...")
        for job, text in told
    ]
    return Group(table, *lines)


def _width(texts: Iterable[str]) -> int:
    """Columns that names need so as not to be broken, up to a limit."""
    return min(max(map(len, texts), default=0), _WIDEST_NAME)


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="italic", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )


def _styled(status: str) -> Text:
    return Text(status.lower(), _STYLES.get(status, "yellow"))


def _replicas(states: Mapping[str, int]) -> Text:
    told = Text()
    for number, (state, count) in enumerate(sorted(states.items())):
        told.append(", " if number else "")
        told.append(f"{count} {state.lower()}", _STYLES.get(state, "yellow"))
    return told


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _duration(seconds: float) -> str:
    """The two largest units: 3 h 12 min."""
    whole = int(seconds)
    units = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s"))
    first = next((place for place, (number, _) in enumerate(units) if number), len(units) - 1)
    return " ".join(f"{number} {unit}" for number, unit in units[first : first + 2] if number) or "0 s"
