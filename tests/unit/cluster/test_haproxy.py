from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from luthier.cluster import haproxy as module
from luthier.cluster.haproxy import environment, haproxy, private

RAYS = """global
    stats socket /tmp/admin.sock mode 666 level admin
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind *:8000
    use_backend one
listen stats
  bind *:8404
  stats enable
"""


def test_statistics_listen_on_private_sockets_and_the_endpoint_where_it_did(tmp_path: Path) -> None:
    changed = private(RAYS, tmp_path)
    assert f"frontend prometheus\n    bind unix@{tmp_path}/stats-9101 mode 600\n" in changed
    assert f"listen stats\n  bind unix@{tmp_path}/stats-8404 mode 600\n" in changed
    assert "frontend http_frontend\n    bind *:8000\n" in changed


def test_a_config_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 listeners for HAProxy's statistics, 2 expected"):
        private(RAYS.replace("listen stats", "listen figures"), tmp_path)


def test_rays_own_template_is_of_that_kind(tmp_path: Path) -> None:
    from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

    text = HAPROXY_CONFIG_TEMPLATE.replace("{{ config.metrics_port }}", "9101")
    assert private(text.replace("{{ config.stats_port }}", "8404"), tmp_path).count("unix@") == 2


def test_the_launcher_becomes_haproxy(tmp_path: Path) -> None:
    told = environment(tmp_path)
    config = tmp_path / "haproxy.cfg"
    config.write_text(RAYS, encoding="utf-8")
    (tmp_path / "real").write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    (tmp_path / "real").chmod(0o700)
    launched = subprocess.run(
        [told["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config), "-sf", "12"],
        env={**os.environ, "LUTHIER_HAPROXY_BINARY": str(tmp_path / "real")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert launched.stdout == f"-db -f {config} -sf 12\n"
    assert config.read_text(encoding="utf-8").count("unix@") == 2


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    before = dict(os.environ)
    with haproxy():
        directory = Path(os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"]).parent
        assert os.environ["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
        assert directory.stat().st_mode & 0o77 == 0
    assert dict(os.environ) == before
    assert not directory.exists()


def test_a_cluster_within_another_ones_environment_has_a_directory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    names = "LUTHIER_HAPROXY_BINARY", "RAY_SERVE_HAPROXY_BINARY_PATH"
    with haproxy():
        real, outer = (os.environ[name] for name in names)
        with haproxy():
            assert os.environ[names[0]] == real != outer
            assert os.environ[names[1]] not in (real, outer)
        assert os.environ[names[1]] == outer


def test_what_the_user_says_and_what_is_not_installed_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    with haproxy():
        assert "RAY_SERVE_HAPROXY_BINARY_PATH" not in os.environ
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with haproxy():
        assert "RAY_SERVE_ENABLE_HA_PROXY" not in os.environ


def test_sockets_have_paths_that_are_short_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(long))
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    with haproxy():
        assert Path(os.environ["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parts[1] == "tmp"


def test_the_launcher_needs_the_standard_library_alone() -> None:
    subprocess.run([sys.executable, "-I", "-S", "-c", f"import runpy; runpy.run_path({module.__file__!r})"], check=True)
