"""A local cluster's record, token, budget of restarts and command line; no process is started."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from luthier.cli.app import app
from luthier.cluster.local import control
from luthier.cluster.local.head import command, variables
from luthier.cluster.local.restarts import Restarts
from luthier.cluster.local.settings import Keeper, Record, Settings, read_record, write_record
from luthier.cluster.loopback import LOOPBACK_VARIABLE, keep_loopback
from luthier.cluster.token import ensure_token, token_path
from luthier.errors import ConfigError


def record(directory: Path, keeper: Keeper | None = None) -> Record:
    return Record(
        settings=Settings(), runtime_dir=directory, agent_ports=(1, 2, 3), token_file=directory / "token", keeper=keeper
    )


def test_restarts_within_the_window_are_bounded_and_old_ones_are_forgotten() -> None:
    restarts = Restarts(limit=2, window_s=10)
    assert [restarts.allowed(now) for now in (0, 1, 2, 10.5, 10.6)] == [True, True, False, True, False]


def test_a_token_is_made_once_for_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "below" / "token"))
    path = token_path()
    assert path is not None
    ensure_token(path)
    made = path.read_text()
    assert (path.stat().st_mode & 0o777, len(made)) == (0o600, 64)
    path.chmod(0o644)
    ensure_token(path)
    assert (path.stat().st_mode & 0o777, path.read_text()) == (0o600, made)
    path.write_text(" \n")
    with pytest.raises(ConfigError, match="is empty"):
        ensure_token(path)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    assert token_path() is None


def test_a_record_is_read_as_written_and_a_damaged_one_refused(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    written = record(tmp_path, Keeper(pid=7, started_at=1.5))
    write_record(tmp_path, written)
    assert read_record(tmp_path) == written
    (tmp_path / "cluster.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"cluster\.json"):
        read_record(tmp_path)


def test_a_process_id_that_is_another_process_by_now_is_no_keeper(tmp_path: Path) -> None:
    started_at = psutil.Process().create_time()
    for keeper, state in ((Keeper(pid=os.getpid(), started_at=started_at - 60), "stopped"), (None, "stopped")):
        write_record(tmp_path, record(tmp_path, keeper))
        facts = control.status(tmp_path)
        assert facts is not None
        assert (facts.state, facts.keeper_pid) == (state, None)
    write_record(tmp_path, record(tmp_path, Keeper(pid=os.getpid(), started_at=started_at)))
    facts = control.status(tmp_path)
    assert facts is not None
    assert facts.keeper_pid == os.getpid()


def test_the_default_listens_on_this_machine_and_asks_for_a_token(tmp_path: Path) -> None:
    found = variables(tmp_path, tmp_path / "token", is_local=True)
    assert found["RAY_AUTH_MODE"] == "token"
    assert (found["RAY_gcs_storage"], found["RAY_gcs_storage_path"]) == ("rocksdb", str(tmp_path / "gcs"))
    assert found[LOOPBACK_VARIABLE] == "0"
    assert {"--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"} <= set(command(Settings(), tmp_path))
    everywhere = command(Settings(host="0.0.0.0"), tmp_path)
    assert "--dashboard-host=0.0.0.0" in everywhere
    assert not [part for part in everywhere if part.startswith("--node-ip-address")]
    assert LOOPBACK_VARIABLE not in variables(tmp_path, None, is_local=False)


def test_a_dry_run_and_a_taken_port_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    place = tmp_path / "cluster"
    arguments = ["cluster", "up", "--directory", str(place), "--json"]
    done = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert (done.exit_code, json.loads(done.stdout)["directory"]) == (0, str(place))
    assert not place.exists()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, [*arguments, "--port", str(port)])
    assert isinstance(done.exception, ConfigError)
    assert f"--port: 127.0.0.1:{port} can't be listened on" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_what_never_ran_is_stopped_already(tmp_path: Path) -> None:
    for verb, code in (("status", 1), ("down", 0)):
        done = CliRunner().invoke(app, ["cluster", verb, "--directory", str(tmp_path / "none"), "--json"])
        assert done.exit_code == code
    assert list(tmp_path.iterdir()) == []


def test_an_address_is_kept_only_where_nothing_listens_on_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOOPBACK_VARIABLE, "set so that it is put back")
    for bound, address in (("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "10.1.2.3")):
        monkeypatch.delenv(LOOPBACK_VARIABLE, raising=False)
        with socket.socket() as server:
            server.bind((bound, 0))
            server.listen()
            keep_loopback(f"{address}:{server.getsockname()[1]}")
        kept = bound == address == "127.0.0.1"
        assert os.environ.get(LOOPBACK_VARIABLE) == ("0" if kept else None), (bound, address)
