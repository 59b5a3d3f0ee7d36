"""Rows laid out flat, behind shared beginnings and in packs, against the same rows one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from luthier.rows import Message, Row
from luthier.trainers.batches import collate, collate_flat
from luthier.trainers.flat import Group, Layout, lay_out, varlen_index
from luthier.trainers.flat_attention import why_not_flat
from luthier.trainers.loss import SumLoss
from luthier.trainers.packing import PackedPlan, best_fit_decreasing
from luthier.trainers.tokens import IGNORE, ChatTokenizer, Encoded

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def tiny() -> Any:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, initializer_range=0.5))
    assert why_not_flat(model) is None
    return model


def row(name: str, ids: list[int], answer: int) -> Encoded:
    """A row whose last ``answer`` tokens carry loss."""
    return Encoded(name, tuple(ids), (*[IGNORE] * (len(ids) - answer), *ids[len(ids) - answer :]))


def random_ids(length: int, seed: int) -> list[int]:
    return torch.randint(1, 64, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


BEGIN, OTHER = random_ids(12, 100), random_ids(9, 101)
ROWS = [
    row("a", BEGIN + random_ids(5, 1), 2),
    row("b", OTHER + random_ids(3, 2), 2),
    row("c", BEGIN + random_ids(11, 3), 4),
    row("d", random_ids(30, 4), 30),
    row("e", BEGIN + random_ids(1, 5), 1),
    row("f", OTHER + random_ids(8, 6), 1),
    row("g", random_ids(3, 7), 1),
    row("h", BEGIN, 1),
]


def losses(model: Any, rows: list[Encoded]) -> dict[str, float]:
    """Each row's loss when it is alone in a plain forward pass, without any of our attention."""
    found = {}
    for one in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([one.input_ids])).logits[0, :-1].float()
        targets = torch.tensor(one.labels[1:])
        found[one.row_id] = float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
    return found


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


def test_rows_that_begin_alike_lie_behind_one_beginning() -> None:
    flat = lay_out(ROWS, share=True)
    assert [one.row_id for one in flat.rows] == ["a", "c", "e", "h", "b", "f", "d", "g"]
    # "h" ends with the beginning, and its last token carries loss, so one token less is shared by its group.
    assert flat.layout.groups == (Group(10, (7, 13, 3, 2)), Group(9, (3, 8)), Group(0, (30,)), Group(0, (3,)))
    assert flat.layout.num_tokens == sum(len(one.input_ids) for one in ROWS)
    assert len(flat.input_ids) == flat.layout.num_computed == flat.layout.num_tokens - 3 * 10 - 9
    spans = dict(zip((one.row_id for one in flat.rows), flat.layout.row_spans, strict=True))
    for one in flat.rows:
        start, end = spans[one.row_id]
        assert flat.input_ids[start:end] == list(one.input_ids[len(one.input_ids) - (end - start) :])
        assert flat.position_ids[end - 1] == len(one.input_ids) - 1
    assert [flat.position_ids[start] for start, _, first, last in flat.layout.segments if first == last] == [0] * 4


def test_nothing_is_shared_where_it_would_be_wrong_or_was_not_asked_for() -> None:
    learnt = [row("a", BEGIN + random_ids(4, 1), 16), row("b", BEGIN + random_ids(4, 2), 16)]
    assert [group.shared for group in lay_out(learnt, share=True).layout.groups] == [0, 0]
    assert [group.shared for group in lay_out(ROWS, share=False).layout.groups] == [0] * len(ROWS)


@pytest.mark.parametrize("share", [True, False])
def test_each_row_of_a_flat_batch_has_the_loss_and_the_gradient_that_it_has_alone(share: bool, tiny: Any) -> None:
    alone = LlamaForCausalLM(LlamaConfig(**SHAPE))
    alone.load_state_dict(tiny.state_dict())
    expected = losses(alone, ROWS)
    batch, loss = collate_flat(ROWS, 0, share=share), SumLoss(tiny)
    with torch.no_grad():
        found = dict(zip(batch.row_ids, loss.row_losses(batch), strict=True))
    assert {name: count for name, (_, count) in found.items()} == {one.row_id: one.num_loss_tokens for one in ROWS}
    assert {name: nll for name, (nll, _) in found.items()} == pytest.approx(expected, rel=1e-5)
    total = loss(batch)
    total.backward()
    assert float(total.detach()) == pytest.approx(sum(expected.values()), rel=1e-6)
    ours = gradients(tiny)
    SumLoss(alone)(collate(ROWS, 0)).backward()
    for name, gradient in gradients(alone).items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-4, msg=name)


def test_the_comparison_finds_out_rows_that_see_each_other(tiny: Any) -> None:
    batch = collate_flat(ROWS, 0, share=False)
    as_one_row = replace(batch, layout=Layout((Group(0, (batch.input_ids_BS.shape[1],)),)))
    with torch.no_grad():
        apart, together = float(SumLoss(tiny)(batch)), float(SumLoss(tiny)(as_one_row))
    assert abs(together - apart) > 0.01 * apart


def test_the_rows_of_a_pack_of_real_rows_have_the_losses_that_they_have_alone(base_model_dir: Path) -> None:
    tokenizer = ChatTokenizer(base_model_dir)
    model = AutoModelForCausalLM.from_pretrained(base_model_dir, dtype=torch.float32)
    turns = [("A mail reader?", "mail"), ("A longer question, about a chess engine?", "games"), ("And sound?", "sound")]
    rows = [
        tokenizer.encode(Row(q, (Message("user", q), Message("assistant", a))), max_length=99, assistant_only_loss=True)
        for q, a in turns
    ]
    expected = losses(model, rows)
    assert why_not_flat(model) is None
    batch = collate_flat(rows, tokenizer.pad_id, share=True)
    assert batch.input_ids_BS.shape[1] < batch.num_tokens  # the default system message is shared
    with torch.no_grad():
        found = dict(zip(batch.row_ids, (nll for nll, _ in SumLoss(model).row_losses(batch)), strict=True))
    assert found == pytest.approx(expected, abs=2e-4)


def test_a_batch_without_rows_has_no_loss_but_a_gradient(tiny: Any) -> None:
    batch = collate_flat([], 0, share=True)
    assert (batch.row_ids, batch.num_loss_tokens, batch.num_tokens) == ((), 0, 1)
    SumLoss(tiny)(batch).backward()
    assert all(not gradient.any() for gradient in gradients(tiny).values())


def test_gradient_checkpointing_changes_nothing(tiny: Any) -> None:
    batch, loss = collate_flat(ROWS, 0, share=True), SumLoss(tiny.train())
    loss(batch).backward()
    expected = gradients(tiny)
    tiny.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    loss(batch).backward()
    for name, gradient in gradients(tiny).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def test_models_that_mix_tokens_otherwise_are_told_apart() -> None:
    sliding = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8))
    assert why_not_flat(sliding) == "its attention slides over a window"
    assert why_not_flat(MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None))) is None
    capped = Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=8, layer_types=["full_attention"] * 2))
    assert why_not_flat(capped) == "it caps its attention scores"
    state_space = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4))
    assert why_not_flat(state_space) is not None
    dropping = LlamaForCausalLM(LlamaConfig(**SHAPE, attention_dropout=0.1))
    assert why_not_flat(dropping) == "it has attention_dropout=0.1"


def test_the_index_for_gpu_kernels_names_the_keys_of_every_segment() -> None:
    layout = lay_out(ROWS, share=True).layout
    index = varlen_index(layout, torch.device("cpu"))
    assert index.cu_q.tolist()[-1] == layout.num_computed
    for number, (start, end, first, last) in enumerate(layout.segments):
        keys = index.keys[index.cu_k[number] : index.cu_k[number + 1]].tolist()
        assert keys == [*range(first, last), *range(start, end)]
    assert (index.max_q, index.max_k) == (30, 30)


def test_packs_are_full_and_hold_each_row_once() -> None:
    lengths = torch.randint(8, 500, (2000,), generator=torch.Generator().manual_seed(3)).tolist()
    plan = PackedPlan(lengths, 512, world_size=2, micro_batch=2, accumulation=2, seed=7)
    assert sorted(row for pack in plan.packs for row in pack) == list(range(2000))
    filled = [sum(lengths[row] for row in pack) for pack in plan.packs]
    assert max(filled) <= 512
    assert sum(filled) / (512 * len(filled)) > 0.98
    seen = [
        row
        for step in range(plan.steps_per_epoch)
        for rank in range(2)
        for part in plan.micro_batches(step, rank)
        for row in part
    ]
    assert sorted(seen) == list(range(2000))
    again = PackedPlan(lengths, 512, world_size=2, micro_batch=2, accumulation=2, seed=7)
    assert again.packs == plan.packs
    assert again.micro_batches(5, 1) == plan.micro_batches(5, 1)
    assert PackedPlan(lengths, 512, 2, 2, 2, seed=8).packs != plan.packs


def test_best_fit_puts_a_row_where_the_least_room_is_left() -> None:
    assert best_fit_decreasing([4, 7, 3, 6, 2, 8], 10) == [[5, 4], [1, 2], [3, 0]]
    assert best_fit_decreasing([], 10) == []
    assert best_fit_decreasing([10, 10], 10) == [[0], [1]]
