"""A version that answers too slowly is kept without its alias, until it is served with more or asked for less."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.config import RunConfig, apply_overrides, dump_yaml
from luthier.ports import free_port
from luthier.registry import Registry


def luthier(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "luthier.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=800)


@pytest.mark.slow  # two endpoints
def test_a_slow_version_is_not_promoted_by_a_run_nor_by_hand_but_once_it_was_served_fast_enough(
    quickstart: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "tune": None,
        "data.max_train_samples": 240,
        "data.max_eval_samples": 32,
        "evaluate.limit": 60,
        "gate.against": ["base"],
        "gate.max_first_token_s": 1e-6,
        "serve.port": free_port(),
        "serve.parity_rows": 4,
        "serve.startup_timeout_s": 400,
    }
    cfg = apply_overrides(quickstart, settings)
    path = tmp_path / "run.yaml"
    path.write_text(dump_yaml(cfg), encoding="utf-8")
    ref, uri = "debian-sections@1", cfg.registry.uri

    ran = luthier("run", str(path), "--json")
    assert ran.returncode == 3, ran.stderr[-4000:]
    assert f"the gate refused {ref}: first_token_s p95" in ran.stderr
    (report,) = tmp_path.glob("runs/*/report.html")
    words = report.read_text(encoding="utf-8")
    assert "gate.max_first_token_s is 1e-06" in words and "size_mb" in words
    registry = Registry(uri)
    version = registry.resolve(ref)
    assert version.aliases == ()
    first = registry.served(version)
    assert first is not None and first.parity.compared == 4 and first.concurrency == 4

    by_hand = luthier("models", "promote", ref, "--registry", uri)
    assert (by_hand.returncode, registry.aliases(cfg.name)) == (3, {})
    assert "gate.max_first_token_s is 1e-06" in by_hand.stderr

    monkeypatch.chdir(tmp_path)
    less = ["gate.max_first_token_s=600", "gate.max_size_mb=1000"]
    again = luthier("evaluate", ref, *less, "--serve", "--promote", "--registry", uri, "--json")
    assert again.returncode == 0, again.stderr[-4000:]
    assert json.loads(again.stdout.splitlines()[-1])["gate_passed"]
    assert registry.aliases(cfg.name) == {"champion": 1}
    second = registry.served(version)
    assert second is not None and second != first
    figures = registry.history(cfg.name)[-1].figures
    assert second.first_token_s is not None and figures["first_token_s p95"] == second.first_token_s.p95
    assert {"parity", "size_mb", "inter_token_ms p50", "macro_f1 tuned-base"} <= figures.keys()
