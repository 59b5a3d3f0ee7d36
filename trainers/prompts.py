"""Batches of prompts for generation, whose common beginning is computed once.

A task's prompts mostly begin alike: the system message, and in a few-shot prompt all the solved examples. Keys and
values of these tokens are the same for every row, so one row computes them and the batch shares them.

Shape legend: B rows, S tokens of the longest prompt, P tokens of the common beginning, A tokens of the longest answer,
T generated tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from luthier.trainers.loss import row_losses
from luthier.trainers.tokens import IGNORE, ChatTokenizer

MIN_SHARED_TOKENS = 8
"""Below this a pass of its own costs more than it saves."""


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of one batch. What follows the common beginning is padded on the left, so that all end together.

    Attributes:
        input_ids_BS: Token ids: the common beginning, padding, the rest.
        attention_mask_BS: 1 for tokens, 0 for padding.
    """

    input_ids_BS: torch.Tensor
    attention_mask_BS: torch.Tensor

    def row(self, index: int) -> tuple[int, ...]:
        """One prompt without padding."""
        return tuple(self.input_ids_BS[index][self.attention_mask_BS[index].bool()].tolist())

    def to(self, device: torch.device) -> PromptBatch:
        """The same batch on another device."""
        return PromptBatch(self.input_ids_BS.to(device), self.attention_mask_BS.to(device))


def common_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with, at least one left over for each; 0 where sharing them does not pay."""
    if len(prompts) < 2:
        return 0
    first, limit = prompts[0], min(map(len, prompts)) - 1
    length = next((i for i in range(limit) if any(prompt[i] != first[i] for prompt in prompts)), limit)
    return length if length >= MIN_SHARED_TOKENS else 0


def by_length(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Indices of prompts, batch by batch; those of like length together."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def batch_prompts(prompts: Sequence[Sequence[int]], num_shared: int, pad_id: int) -> PromptBatch:
    """Line up prompts that share their first ``num_shared`` tokens."""
    longest = max(map(len, prompts))
    ids, mask = [], []
    for prompt in prompts:
        padding = longest - len(prompt)
        ids.append([*prompt[:num_shared], *([pad_id] * padding), *prompt[num_shared:]])
        mask.append([1] * num_shared + [0] * padding + [1] * (len(prompt) - num_shared))
    return PromptBatch(torch.tensor(ids), torch.tensor(mask))


def plain_cache(model: Any) -> Any:
    """An empty key-value cache that can be shared and cut back, or None where the model needs another kind.

    Sliding windows and recurrent states forget, so they can't be cut back to where a prompt ended.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache(config=model.config)
    return cache if all(type(layer) is DynamicLayer for layer in cache.layers) else None


def prefill(model: Any, cache: Any, token_ids: Sequence[int], device: torch.device) -> None:
    """Compute the common beginning's keys and values into an empty cache of one row."""
    ids_1P = torch.tensor([list(token_ids)], device=device)
    model(input_ids=ids_1P, attention_mask=torch.ones_like(ids_1P), past_key_values=cache, logits_to_keep=1)


def widened(cache: Any, num_rows: int) -> Any:
    """A copy of a one-row cache for a batch; the original stays as it is."""
    copied = copy.deepcopy(cache)
    if copied.get_seq_length():
        copied.batch_repeat_interleave(num_rows)
    return copied


def answer_greedily(
    model: Any,
    tokenizer: ChatTokenizer,
    prompts: PromptBatch,
    cache: Any,
    max_new_tokens: int,
    witnesses: Sequence[Any] = (),
) -> torch.Tensor:
    """Token ids (B, T) that the model answers prompts with, each row padded after its end.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Tells the tokens that end an answer, and what to pad with.
        prompts: The prompts.
        cache: Holds the prompts' common beginning and is filled up; None: nothing is shared.
        max_new_tokens: Longest answer.
        witnesses: Logits processors.
    """
    from transformers import GenerationConfig

    tokens: torch.Tensor = model.generate(
        input_ids=prompts.input_ids_BS,
        attention_mask=prompts.attention_mask_BS,
        logits_processor=list(witnesses),
        generation_config=GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=list(tokenizer.stop_ids),
            pad_token_id=tokenizer.pad_id,
        ),
        **({} if cache is None else {"past_key_values": cache}),
    )
    return tokens[:, prompts.input_ids_BS.shape[1] :]


def continue_with(
    model: Any, cache: Any, prompts: PromptBatch, answers: Sequence[Sequence[int]], pad_id: int
) -> list[tuple[float, int]]:
    """How likely given answers are after prompts whose keys and values a cache holds.

    Args:
        model: A causal language model.
        cache: Holds the prompts, and perhaps tokens after them, which are dropped.
        prompts: The prompts.
        answers: Token ids of each row's answer; none is empty.
        pad_id: Token to pad with.

    Returns:
        Per row the summed -log p of the answer's tokens, in nats, and how many they are.
    """
    num_rows, prompt_length = prompts.input_ids_BS.shape
    longest = max(map(len, answers))
    targets_BA = torch.full((num_rows, longest), IGNORE)
    for index, answer in enumerate(answers):
        targets_BA[index, : len(answer)] = torch.tensor(list(answer))
    targets_BA = targets_BA.to(prompts.input_ids_BS.device)
    # The prompt's last token predicts the answer's first, so it is fed again.
    cache.crop(prompt_length - 1 - cache.get_seq_length())
    fed_BA = torch.cat([prompts.input_ids_BS[:, -1:], targets_BA[:, :-1]], dim=1)
    present_BA = (targets_BA != IGNORE).to(prompts.attention_mask_BS.dtype)
    mask_BS = torch.cat([prompts.attention_mask_BS[:, :-1], present_BA], dim=1)
    logits_BAV = model(
        input_ids=fed_BA.where(fed_BA != IGNORE, pad_id),
        attention_mask=mask_BS,
        position_ids=(mask_BS.cumsum(dim=1) - 1)[:, -longest:],
        past_key_values=cache,
    ).logits
    return row_losses(logits_BAV, targets_BA)
