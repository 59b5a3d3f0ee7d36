"""Requests to a local cluster's job server, without Ray: the keeper and the command line have no need to import it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any

from luthier.cluster.local.settings import Record
from luthier.cluster.token import read_token

_ANSWER_TIMEOUT_S = 5.0
_SETTLE_TIMEOUT_S = 180.0
_POLL_S = 1.0
_UNENDED = ("PENDING", "RUNNING")


def answers(record: Record) -> bool:
    """Whether the job server takes our token and answers."""
    return _get(record, "/api/jobs/") is not None


def settle_jobs(record: Record) -> None:
    """Have a head that was started again find out which jobs have died with the former one.

    The agent that watches over jobs looks at those of its former life when it is first asked for something, such as a
    log; until then their state stays what it was.
    """
    deadline = time.monotonic() + _SETTLE_TIMEOUT_S
    while time.monotonic() < deadline:
        jobs = _get(record, "/api/jobs/")
        if jobs is not None:
            unended = [one["submission_id"] for one in jobs if one["status"] in _UNENDED and one["submission_id"]]
            if all(_get(record, f"/api/jobs/{job_id}/logs") is not None for job_id in unended):
                return
        time.sleep(_POLL_S)


def _get(record: Record, path: str) -> Any:
    """The JSON at a path; None: not to be had now."""
    headers = {"Authorization": f"Bearer {read_token(record.token_file)}"}
    request = urllib.request.Request(f"{record.settings.dashboard_url}{path}", headers=headers)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=_ANSWER_TIMEOUT_S) as reply:
            return json.load(reply)
    except (urllib.error.URLError, OSError, ValueError):
        return None
