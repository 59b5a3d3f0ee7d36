"""Direct preference optimisation (Rafailov et al. 2023): make one answer likelier than another.

The reference is the frozen base, reached by switching the adapter off, so there is no second copy of the model.

Shape legend: P pairs, R = 2P rows, the chosen ones first, K positions kept, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from luthier.config.objective import DpoConfig
from luthier.errors import DataError
from luthier.rows import Message, Row
from luthier.trainers.batches import Batch, collate
from luthier.trainers.loss import SumLoss, inputs_of, targets_of
from luthier.trainers.objectives.base import Tally
from luthier.trainers.tokens import IGNORE, ChatTokenizer, Encoded


class Dpo:
    """Preference loss over pairs of answers to one prompt.

    A pair is one encoded row: the chosen conversation's tokens, then the rejected one's. Only the two last answers
    carry labels, so the second conversation begins where labels end for the first time.

    Args:
        base_model_dir: The pretrained model.
        max_length: Tokens kept of each conversation.
        settings: The loss.
    """

    unit = "pairs"
    classes: tuple[str, ...] = ()
    why_dropped = "an answer lies behind data.max_length"

    def __init__(self, base_model_dir: Path, max_length: int, settings: DpoConfig) -> None:
        self._base_model_dir = base_model_dir
        self._max_length = max_length
        self._settings = settings
        self.tally = Tally("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins")

    @cached_property
    def tokenizer(self) -> ChatTokenizer:
        """See :class:`Objective`."""
        return ChatTokenizer(self._base_model_dir)

    def encode(self, row: Row) -> Sequence[Encoded]:
        """See :class:`Objective`. A pair of which an answer lies wholly behind ``max_length`` is left without labels."""
        chosen = self._half(row)
        # The test split may hold plain conversations: there is nothing to prefer, but lengths can be accounted for.
        if row.rejected is None:
            return [chosen]
        other = replace(row, messages=(*row.prompt, Message("assistant", row.rejected)))
        rejected = self._half(other)
        labels = (*chosen.labels, *rejected.labels)
        if not (chosen.num_loss_tokens and rejected.num_loss_tokens):
            labels = (IGNORE,) * len(labels)
        num_cut = chosen.num_cut + rejected.num_cut
        return [Encoded(row.row_id, (*chosen.input_ids, *rejected.input_ids), labels, num_cut)]

    def _half(self, row: Row) -> Encoded:
        prompt, answer = self.tokenizer.answer_ids(row)
        ids, labels = (*prompt, *answer), (*[IGNORE] * len(prompt), *answer)
        limit = self._max_length
        return Encoded(row.row_id, ids[:limit], labels[:limit], max(len(ids) - limit, 0))

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """See :class:`Objective`. The batch has a row for each chosen answer, then one for each rejected."""
        halves = [_halves(row) for row in rows]
        batch = collate([half for place in (0, 1) for half in (pair[place] for pair in halves)], self.tokenizer.pad_id)
        return replace(batch, row_ids=tuple(row.row_id for row in rows))

    def num_items(self, batch: Batch) -> int:
        """See :class:`Objective`."""
        return len(batch.row_ids)

    def loss(self, model: nn.Module) -> SumLoss:
        """See :class:`Objective`."""
        return DpoLoss(model, self._settings, self.tally)


def _halves(pair: Encoded) -> tuple[Encoded, Encoded]:
    """A pair's chosen and rejected conversation."""
    labelled = [label != IGNORE for label in pair.labels]
    if True not in labelled or False not in labelled[labelled.index(True) :]:
        raise DataError(f"{pair.row_id}: holds no two answers; train.objective: dpo learns from pairs.")
    border = labelled.index(False, labelled.index(True))
    first, second = (
        Encoded(pair.row_id, pair.input_ids[part], pair.labels[part]) for part in (slice(border), slice(border, None))
    )
    return first, second


class DpoLoss(SumLoss):
    """A model with an adapter that returns the summed preference loss of a batch.

    Args:
        model: A peft model; its base with the adapter off is the reference.
        settings: Which loss.
        tally: Takes the sums of rewards, of pairs put in the right order, and of margins.
    """

    def __init__(self, model: nn.Module, settings: DpoConfig, tally: Tally) -> None:
        super().__init__(model)
        self._settings = settings
        self._tally = tally

    def forward(self, batch: Batch) -> torch.Tensor:
        """Sum over pairs of the loss; a float32 scalar."""
        # The reference first: switching the adapter off and on in between would touch what the backward pass needs.
        with torch.no_grad(), _without_adapter(self.model):
            reference_R, _ = self._answer_logprobs(batch)
        policy_R, lengths_R = self._answer_logprobs(batch)
        if not batch.row_ids:
            # A zero that still depends on the weights, so that backward and its collectives run on every worker.
            return policy_R.sum() * 0.0
        ratios_R = policy_R - reference_R
        self._note(ratios_R.detach())
        return pair_losses(ratios_R, lengths_R, self._settings).sum()

    def _answer_logprobs(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Per row the summed log-probability of its answer's tokens, in nats, and how many they are."""
        targets_RK, kept_K = targets_of(batch)
        logits_RKV = self.model(**inputs_of(batch, kept_K)).logits
        nll_RK = functional.cross_entropy(
            logits_RKV.float().flatten(0, 1), targets_RK.flatten(), ignore_index=IGNORE, reduction="none"
        ).view_as(targets_RK)
        return -nll_RK.sum(dim=1), (targets_RK != IGNORE).sum(dim=1)

    def _note(self, ratios_R: torch.Tensor) -> None:
        chosen_P, rejected_P = (self._settings.beta * ratios_R).chunk(2)
        margins_P = chosen_P - rejected_P
        sums = (chosen_P.sum(), rejected_P.sum(), (margins_P > 0).sum(), margins_P.sum())
        self._tally.add(dict(zip(self._tally.names, sums, strict=True)))


def pair_losses(ratios_R: torch.Tensor, lengths_R: torch.Tensor, settings: DpoConfig) -> torch.Tensor:
    """The loss of each pair, P of them.

    Args:
        ratios_R: Per answer, log of how much likelier the policy finds it than the reference does.
        lengths_R: Tokens of each answer.
        settings: Which loss.
    """
    if settings.loss_type == "ipo":
        # Averaged by token, as the authors of the paper do; sums would grow with the answers' lengths.
        chosen_P, rejected_P = (ratios_R / lengths_R).chunk(2)
        return (chosen_P - rejected_P - 1 / (2 * settings.beta)) ** 2  # Azar et al. 2023, equation 17
    chosen_P, rejected_P = ratios_R.chunk(2)
    logits_P = settings.beta * (chosen_P - rejected_P)
    smoothing = settings.label_smoothing
    # Rafailov et al. 2023, equation 7; with smoothing Mitchell 2023, equation 3.
    return -(1 - smoothing) * functional.logsigmoid(logits_P) - smoothing * functional.logsigmoid(-logits_P)


def _without_adapter(model: Any) -> Any:
    """The context in which a peft model is its base."""
    return model.disable_adapter()
