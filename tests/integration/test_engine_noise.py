"""Where transformers and vLLM disagree about the same weights and prompt tokens, is it rounding or a fault?

The base model's log-probabilities of the first answer token, by both engines in both types. Float32 of transformers is
the reference. A fault of an engine would show in float32 too; rounding shows in bfloat16 only, in both engines alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from luthier.precision import ENGINE_NOISE, Dtype

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

NUM_BEST = 20
PLAIN_QUESTIONS = ("What is the capital of France?", "Name a prime number above ten.", "Why is the sky blue?")
VLLM_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}

Rated = list[dict[int, float]]
"""For each prompt the log-probabilities of its tokens."""


@ray.remote(num_cpus=1, max_calls=1)  # type: ignore[untyped-decorator]
def by_transformers(base_model_dir: Path, prompts: list[list[int]], dtype: Dtype) -> Rated:
    """Of every token in the vocabulary."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base_model_dir, dtype=getattr(torch, dtype)).eval()
    with torch.inference_mode():
        logits = [model(input_ids=torch.tensor([ids]), logits_to_keep=1).logits[0, -1] for ids in prompts]
    return [dict(enumerate(torch.log_softmax(one.float(), dim=-1).tolist())) for one in logits]


@ray.remote(num_cpus=1, max_calls=1, runtime_env={"env_vars": VLLM_SETTINGS})  # type: ignore[untyped-decorator]
def by_vllm(base_model_dir: Path, prompts: list[list[int]], dtype: Dtype) -> Rated:
    """Of the likeliest tokens."""
    from vllm import LLM, SamplingParams

    llm = LLM(str(base_model_dir), dtype=dtype, enforce_eager=True, max_model_len=256, max_num_seqs=4)
    asked = SamplingParams(temperature=0.0, max_tokens=1, logprobs=NUM_BEST)
    replies = llm.generate([{"prompt_token_ids": ids} for ids in prompts], asked, use_tqdm=False)
    return [{token: one.logprob for token, one in reply.outputs[0].logprobs[0].items()} for reply in replies]


def prompts_of(base_model_dir: Path, examples: Path) -> Iterator[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model_dir)
    rows = (examples / "test.jsonl").read_text(encoding="utf-8").splitlines()[:12]
    for text in (*PLAIN_QUESTIONS, *(json.loads(row)["text"] for row in rows)):
        turn = [{"role": "user", "content": text}]
        yield tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)


def apart(rated: Rated, reference: Rated) -> list[float]:
    """For each prompt the largest difference over the likeliest tokens of ``rated``, in nats."""
    return [
        max(abs(one[token] - other[token]) for token in best(one)) for one, other in zip(rated, reference, strict=True)
    ]


def best(one: dict[int, float], count: int = NUM_BEST) -> list[int]:
    return sorted(one, key=one.__getitem__, reverse=True)[:count]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_float32_agrees_and_bfloat16_parts_only_where_the_trainer_all_but_ties(base_model_dir: Path) -> None:
    prompts = list(prompts_of(base_model_dir, Path(__file__).parents[2] / "examples" / "debian-sections"))

    def rate(dtype: Dtype) -> tuple[Rated, Rated]:
        ours = ray.get(by_transformers.remote(base_model_dir, prompts, dtype))
        return ours, ray.get(by_vllm.remote(base_model_dir, prompts, dtype))

    reference, served32 = rate("float32")
    ours16, served16 = rate("bfloat16")
    noise16 = apart(served16, ours16)
    print(
        f"float32: {max(apart(served32, reference)):.1e}; bfloat16 from float32: transformers "
        f"{mean(apart(ours16, reference)):.2f}, vLLM {mean(apart(served16, reference)):.2f}; between them {max(noise16):.2f}"
    )
    assert max(apart(served32, reference)) < ENGINE_NOISE["float32"]
    assert mean(apart(served16, reference)) < 1.5 * mean(apart(ours16, reference))
    assert max(noise16) < ENGINE_NOISE["bfloat16"]
    for ours, served in zip(ours16, served16, strict=True):
        first, second = best(ours, 2)
        assert best(served, 1) == [first] or ours[first] - ours[second] < ENGINE_NOISE["bfloat16"]
