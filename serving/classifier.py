"""A trained classifier, as transformers computes it. Imported where it runs only.

Shape legend: B texts, S tokens of the longest, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from luthier.precision import Dtype
from luthier.serving.names import Refused
from luthier.serving.replies import Failure

Ids = tuple[int, ...]

_MOST_PADDING = 0.2
"""Share of a batch's tokens that may be padding, which is computed like any other."""

_MOST_TOKENS = 8192
"""Tokens of a batch, padding included, unless a single text has more: what bounds the memory for it."""


class Classifier:
    """A model with its labels and its tokenizer.

    Args:
        model_dir: Config and safetensors of a model for sequence classification.
        tokenizer_dir: Its tokenizer.
        max_length: Tokens that it reads of a text.
        dtype: Type of all its weights, and what it computes in.
        device: Where it runs.

    Attributes:
        labels: The classes, by index.
    """

    def __init__(self, model_dir: Path, tokenizer_dir: Path, max_length: int, dtype: Dtype, device: str) -> None:
        logging.disable_progress_bar()
        self._tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir, trust_remote_code=False)
        model = AutoModelForSequenceClassification.from_pretrained(
            model_dir, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False
        )
        self._model = model.to(device).eval()
        self._max_length = max_length
        self._device = device
        self._pad_id = next(
            one for one in (model.config.pad_token_id, self._tokenizer.pad_token_id, 0) if one is not None
        )
        self.labels = tuple(label for _, label in sorted(model.config.id2label.items()))

    def encode(self, texts: Sequence[str], cut_to: int | None = None) -> list[Ids]:
        """Tokens of each text, with the special ones that the model puts around it.

        Args:
            texts: What is to be classified.
            cut_to: Tokens that are kept of a text, -1: as many as the model reads; None: no text is cut.

        Raises:
            Refused: A text has more tokens than the model reads, or none at all.
        """
        if (cut_to or 0) > self._max_length:
            message = f"truncate_prompt_tokens: {cut_to} tokens; this model reads {self._max_length}."
            raise Refused(Failure(400, message, param="truncate_prompt_tokens"))
        if cut_to is None:
            encoded = self._tokenizer(list(texts), verbose=False)["input_ids"]
        else:
            length = self._max_length if cut_to == -1 else cut_to
            encoded = self._cut(texts, length)
        for place, ids in enumerate(encoded):
            if not 0 < len(ids) <= self._max_length:
                problem = f"{len(ids)} tokens; this model reads 1 to {self._max_length}"
                remedy = "" if not ids else "; set truncate_prompt_tokens to have it cut"
                raise Refused(Failure(400, f"input.{place}: {problem}{remedy}.", param="input"))
        return [tuple(ids) for ids in encoded]

    @torch.inference_mode()
    def score(self, texts: Sequence[Ids]) -> list[list[float]]:
        """Probability of each class, for each tokenised text."""
        found: list[list[float]] = [[]] * len(texts)
        for places in batches([len(ids) for ids in texts]):
            for place, probabilities in zip(places, self._score([texts[place] for place in places]), strict=True):
                found[place] = probabilities
        return found

    def _score(self, batch: Sequence[Ids]) -> list[list[float]]:
        longest = max(map(len, batch))
        input_ids_BS = torch.tensor([[*ids, *[self._pad_id] * (longest - len(ids))] for ids in batch])
        attention_mask_BS = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in batch])
        logits_BC: torch.Tensor = self._model(
            input_ids=input_ids_BS.to(self._device), attention_mask=attention_mask_BS.to(self._device)
        ).logits
        probabilities: list[list[float]] = logits_BC.float().softmax(dim=1).tolist()
        return probabilities

    def _cut(self, texts: Sequence[str], length: int) -> list[list[int]]:
        """Tokens of texts that are cut, special tokens left whole.

        Raises:
            Refused: There is no room for a token beside these.
        """
        special = self._tokenizer.num_special_tokens_to_add()
        if length <= special:
            message = f"truncate_prompt_tokens: {length} tokens, of which the model puts {special} around each text."
            raise Refused(Failure(400, message, param="truncate_prompt_tokens"))
        cut: list[list[int]] = self._tokenizer(list(texts), truncation=True, max_length=length)["input_ids"]
        return cut


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of texts that are computed together: of like length, so that little is padded.

    Args:
        lengths: Tokens of each text.
    """
    batch: list[int] = []
    tokens = 0
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        padded = (len(batch) + 1) * lengths[place]
        if batch and (padded > _MOST_TOKENS or padded - tokens - lengths[place] > _MOST_PADDING * padded):
            yield batch
            batch, tokens = [], 0
        batch.append(place)
        tokens += lengths[place]
    if batch:
        yield batch
