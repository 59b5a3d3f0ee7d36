"""The largest micro-batch of a run, as memory sees it."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from luthier.cluster.planning.rowcount import RowLength, row_lengths
from luthier.cluster.planning.tokenscale import scale_for
from luthier.config import RunConfig
from luthier.config.train import TrainConfig

GROUPED_STEPS = 50
"""Steps' worth of rows that ``train.group_by_length`` sorts together; as in ``trainers/batches.py``."""

MIN_SHARED_TOKENS = 8
"""A shorter common beginning is not computed apart; as in ``trainers/flat.py``."""


class MicroBatch(BaseModel):
    """Tokens of one worker's micro-step.

    Attributes:
        tokens: That pass through the model: with padding, or laid out flat, where a common beginning counts once.
        key_tokens: Keys that attention reads, row by row: in flat rows each row reads the common beginning again.
        loss_tokens: Tokens with loss, for which logits are made.
        flat: Rows lie one behind the other instead of being padded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int
    key_tokens: int
    loss_tokens: int
    flat: bool


def lies_flat(train: TrainConfig) -> bool:
    """Whether rows are laid out without padding; models whose attention does not allow it are padded all the same."""
    return train.learns_tokens and train.padding_free is not False


def of_length(train: TrainConfig, sequence_tokens: int) -> MicroBatch:
    """A micro-batch of rows of one length that share nothing, with loss on every token: the most that can be."""
    conversations = 2 if train.objective == "dpo" else 1  # a pair is two
    tokens = train.per_device_train_batch_size * conversations * sequence_tokens
    return MicroBatch(tokens=tokens, key_tokens=tokens, loss_tokens=tokens, flat=lies_flat(train))


def rows_of(cfg: RunConfig) -> list[RowLength] | None:
    """Lengths of a training's rows, by the model's tokenizer where it is at hand; None where a file can't be read."""
    chat = cfg.train.objective in ("sft", "dpo")
    return row_lengths(
        cfg.datasets,
        max_length=cfg.data.max_length,
        objective=cfg.train.objective,
        answers_only=cfg.data.assistant_only_loss,
        scale=scale_for(cfg.model, chat=chat),
    )


def largest_micro_batch(cfg: RunConfig, lengths: Sequence[RowLength] | None) -> MicroBatch:
    """The largest micro-batch that a worker gets.

    Args:
        cfg: The run's config.
        lengths: Of the training rows; None: unknown, and all are taken as long as ``data.max_length`` allows.
    """
    train = cfg.train
    if not lengths:
        return of_length(train, cfg.data.max_length)
    if train.packing:
        tokens = train.per_device_train_batch_size * cfg.data.max_length
        learnt = sum(one.loss_tokens for one in lengths) / max(1, sum(one.tokens for one in lengths))
        return MicroBatch(tokens=tokens, key_tokens=tokens, loss_tokens=round(tokens * learnt), flat=True)
    rows = _longest_together(cfg, lengths)
    loss = sum(one.loss_tokens for one in rows)
    if not lies_flat(train):
        conversations = 2 if train.objective == "dpo" else 1
        tokens = len(rows) * max(one.tokens for one in rows) * conversations
        return MicroBatch(tokens=tokens, key_tokens=tokens, loss_tokens=loss, flat=False)
    total = sum(one.tokens for one in rows)
    once = 0 if train.lora_dropout else _saved_by_sharing(rows)
    return MicroBatch(tokens=total - once, key_tokens=total, loss_tokens=loss, flat=True)


def _longest_together(cfg: RunConfig, lengths: Sequence[RowLength]) -> list[RowLength]:
    """The rows of the longest micro-batch.

    Sorted by length, the longest step's rows are dealt out over workers and micro-steps; unsorted, chance could bring
    the longest of all together. Of rows that are drawn, or sorted in several stretches, every so manieth is taken.
    """
    train = cfg.train
    slots = train.max_workers * train.gradient_accumulation_steps
    step_rows = slots * train.per_device_train_batch_size
    ordered = sorted(lengths, key=lambda one: one.tokens, reverse=True)
    used = min(len(ordered), cfg.data.max_train_samples or len(ordered))
    if not train.group_by_length:
        return ordered[:: max(1, len(ordered) // used)][: train.per_device_train_batch_size]
    stretch = min(used, GROUPED_STEPS * step_rows)
    return ordered[:: max(1, len(ordered) // stretch)][:step_rows][::slots]


def _saved_by_sharing(rows: Sequence[RowLength]) -> int:
    """Tokens that are not computed again, because rows of a dataset begin alike."""
    saved = 0
    for dataset in {one.dataset for one in rows}:
        shared = [one.shared_tokens for one in rows if one.dataset == dataset]
        if min(shared) >= MIN_SHARED_TOKENS:
            saved += min(shared) * (len(shared) - 1)
    return saved
