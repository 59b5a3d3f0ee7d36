"""The loss against a plain computation over all logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from luthier.rows import Message, Row
from luthier.trainers.batches import collate
from luthier.trainers.loss import SumLoss
from luthier.trainers.tokens import IGNORE, ChatTokenizer, Encoded


@pytest.fixture(scope="module")
def tiny() -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, num_key_value_heads=2, attn_implementation="eager", **shape))


def rows_of(lengths: list[tuple[int, int]]) -> list[Encoded]:
    """Random rows, given as (tokens, tokens of the answer at the end)."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(1, 64, (length,), generator=generator).tolist() for length, _ in lengths]
    return [
        Encoded(f"r{i}", tuple(row), tuple([IGNORE] * (len(row) - answer) + row[len(row) - answer :]))
        for i, (row, (_, answer)) in enumerate(zip(ids, lengths, strict=True))
    ]


def plain(model: Any, row: Encoded) -> torch.Tensor:
    """Summed negative log-likelihood of one unpadded row, from every position's logits."""
    ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
    logits = model(input_ids=ids).logits.float()
    return functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum", ignore_index=IGNORE)


UNEVEN = [(5, 1), (17, 4), (9, 8), (12, 12), (30, 2)]


def test_the_loss_is_that_of_the_unpadded_rows(tiny: Any) -> None:
    rows = rows_of(UNEVEN)
    loss = SumLoss(tiny)
    with torch.no_grad():
        expected = [float(plain(tiny, row)) for row in rows]
        assert float(loss(collate(rows, 0))) == pytest.approx(sum(expected), rel=1e-5)
        by_row = loss.row_losses(collate(rows, 0))
    assert [nll for nll, _ in by_row] == pytest.approx(expected, rel=1e-5)
    assert [count for _, count in by_row] == [row.num_loss_tokens for row in rows]


def test_the_loss_of_the_real_model_is_that_of_all_its_logits(base_model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base_model_dir, dtype=torch.float32, attn_implementation="eager")
    tokenizer = ChatTokenizer(base_model_dir)
    talks = [("A mail reader?", "mail"), ("A very much longer question about a chess engine?", "games, of course")]
    rows = [
        tokenizer.encode(
            Row("r", (Message("user", q), Message("assistant", a))), max_length=99, assistant_only_loss=True
        )
        for q, a in talks
    ]
    num_tokens = sum(row.num_loss_tokens for row in rows)
    with torch.no_grad():
        expected = sum(float(plain(model, row)) for row in rows) / num_tokens
        assert float(SumLoss(model)(collate(rows, tokenizer.pad_id))) / num_tokens == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("sizes", [[1, 4], [2, 3], [1, 1, 1, 1, 1], [5, 0]])
def test_uneven_micro_batches_give_the_gradient_of_one_big_batch(sizes: list[int], tiny: Any) -> None:
    rows = rows_of(UNEVEN)
    num_tokens = sum(row.num_loss_tokens for row in rows)
    loss = SumLoss(tiny)
    tiny.zero_grad()
    whole: Any = torch.stack([plain(tiny, row) for row in rows]).sum() / num_tokens
    whole.backward()
    expected = {name: p.grad.clone() for name, p in tiny.named_parameters()}
    tiny.zero_grad()
    start = 0
    for size in sizes:
        (loss(collate(rows[start : start + size], 0)) / num_tokens).backward()
        start += size
    for name, parameter in tiny.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4, msg=name)


def test_a_batch_without_rows_has_no_loss_but_a_gradient(tiny: Any) -> None:
    tiny.zero_grad()
    loss: torch.Tensor = SumLoss(tiny)(collate([], 0))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in tiny.parameters())
