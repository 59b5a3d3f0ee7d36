"""Attention over a flat sequence of rows, and which models can do with it.

Shape legend: T tokens of the flat sequence, H query heads, G key and value heads, D size of a head, S a segment's
tokens, K keys that they see.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from luthier.trainers.flat import Group, Layout, VarlenIndex, lay_out, varlen_index
from luthier.trainers.tokens import IGNORE, Encoded
from luthier.trainers.verdicts import remembered

NAME = "luthier_flat"
"""What the attention is called in transformers' list; it has no mask function there, so none is built."""


class FlatAttention:
    """Attends within the segments of one micro-batch; every layer is given the same one.

    Args:
        layout: Where the rows lie.
        device: Where the tensors are.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self._layout = layout
        self._lengths = [end - start for start, end, _, _ in layout.segments]
        self._masks: dict[tuple[int, int], torch.Tensor] = {}
        self._varlen: VarlenIndex | None = varlen_index(layout, device) if device.type == "cuda" else None

    def __call__(self, q_HTD: torch.Tensor, k_GTD: torch.Tensor, v_GTD: torch.Tensor, scale: float) -> torch.Tensor:
        """Attended values (T, H, D)."""
        if self._varlen is not None and q_HTD.dtype in (torch.bfloat16, torch.float16):
            return self._by_kernel(self._varlen, q_HTD, k_GTD, v_GTD, scale)
        if q_HTD.device.type == "cpu":
            # torch's kernel for CPUs takes two to three times as long in bfloat16 for rows of some 100 tokens.
            with torch.autocast("cpu", enabled=False):
                return self._by_segment(q_HTD.float(), k_GTD.float(), v_GTD.float(), scale).to(q_HTD.dtype)
        return self._by_segment(q_HTD, k_GTD, v_GTD, scale)

    def _by_kernel(
        self, index: VarlenIndex, q_HTD: torch.Tensor, k_GTD: torch.Tensor, v_GTD: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """One call of the flash kernel that torch has for sequences of unlike lengths; causal from the last key back."""
        from torch.nn.attention.varlen import varlen_attn

        q_THD, k_TGD, v_TGD = (x.transpose(0, 1) for x in (q_HTD, k_GTD, v_GTD))
        if index.keys.numel() > q_THD.shape[0]:  # some keys are seen by several rows
            k_TGD, v_TGD = k_TGD[index.keys], v_TGD[index.keys]
        out: Any = varlen_attn(
            q_THD.contiguous(),
            k_TGD.contiguous(),
            v_TGD.contiguous(),
            index.cu_q,
            index.cu_k,
            index.max_q,
            index.max_k,
            scale=scale,
            window_size=(-1, 0),
            enable_gqa=q_HTD.shape[0] != k_GTD.shape[0],
        )
        return out  # type: ignore[no-any-return]

    def _by_segment(self, q_HTD: torch.Tensor, k_GTD: torch.Tensor, v_GTD: torch.Tensor, scale: float) -> torch.Tensor:
        """Segment by segment: no work is spent on pairs of tokens of unlike rows."""
        # One split and one concatenation: slices would each add a gradient as large as the whole.
        q_s, k_s, v_s = (torch.split(x, self._lengths, dim=1) for x in (q_HTD, k_GTD, v_GTD))
        starts = {start: number for number, (start, _, _, _) in enumerate(self._layout.segments)}
        outs = []
        for number, (_, _, first, last) in enumerate(self._layout.segments):
            k, v, mask = k_s[number], v_s[number], None
            if last > first:
                beginning = starts[first]
                k, v = torch.cat([k_s[beginning], k], dim=1), torch.cat([v_s[beginning], v], dim=1)
                mask = self._mask(q_s[number].shape[1], k.shape[1], q_HTD)
            out = functional.scaled_dot_product_attention(
                q_s[number][None],
                k[None],
                v[None],
                attn_mask=mask,
                is_causal=mask is None,
                scale=scale,
                enable_gqa=q_HTD.shape[0] != k_GTD.shape[0],
            )
            outs.append(out[0].transpose(0, 1))
        return torch.cat(outs)

    def _mask(self, num_queries: int, num_keys: int, like: torch.Tensor) -> torch.Tensor:
        """Which of K keys each of S queries sees, where the last query is at the last key; kept for the other layers."""
        size = (num_queries, num_keys)
        if size not in self._masks:
            seen_SK = torch.ones(size, dtype=torch.bool, device=like.device)
            self._masks[size] = seen_SK.tril(num_keys - num_queries)
        return self._masks[size]


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    flat: FlatAttention | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: (1, H, T, D) to (1, T, H, D). Without a layout, all tokens are one row's."""
    del module, kwargs
    if query.shape[0] != 1 or attention_mask is not None or dropout:
        raise RuntimeError("attention over flat rows was called with padded rows, a mask or dropout")
    flat = flat or FlatAttention(Layout((Group(0, (query.shape[2],)),)), query.device)
    return flat(query[0], key[0], value[0], scaling or query.shape[-1] ** -0.5)[None], None


def why_not_flat(model: Any) -> str | None:
    """Why a causal language model can't run over flat rows; None where it can, and is set to from here on.

    What its config tells is read first. Then a flat pair of rows is compared with the same rows alone, so that an
    architecture which mixes tokens otherwise than by attention (a state space, a convolution) is found out.

    Args:
        model: A transformers (or peft) causal language model with its weights at hand.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    told = _told_by_config(causal) or _not_at_hand(causal)
    if told is None:
        told = remembered("flat rows", model, lambda: _why_they_differ(model, causal))
    if told is None:
        _set_flat(causal)
    return told


def _set_flat(causal: Any) -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attend)
    causal.set_attn_implementation(NAME)


def _why_they_differ(model: Any, causal: Any) -> str | None:
    before = causal.config._attn_implementation
    rows = _probe_rows(causal.config.get_text_config().vocab_size)
    alone = [_last_logits(model, row) for row in rows]
    try:
        _set_flat(causal)
        together = _flat_logits(model, rows)
    except (RuntimeError, TypeError, ValueError) as error:
        return f"its attention does not take another implementation ({error})"
    finally:
        causal.set_attn_implementation(before)
    noise = 0.05 if causal.dtype == torch.bfloat16 else 1e-3
    close = all(
        torch.allclose(mine, theirs, rtol=0.0, atol=noise * float(theirs.abs().max()))
        for mine, theirs in zip(together, alone, strict=True)
    )
    return None if close else "rows laid out flat get other logits than alone"


def _told_by_config(causal: Any) -> str | None:
    config = causal.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {"full_attention"}:
        return f"it has layers of {', '.join(sorted(kinds - {'full_attention'}))}"
    if not kinds and getattr(config, "sliding_window", None):
        return "its attention slides over a window"
    if getattr(config, "attn_logit_softcapping", None):
        return "it caps its attention scores"
    for name in ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob"):
        if getattr(config, name, 0.0):
            return f"it has {name}={getattr(config, name)}"
    if not getattr(causal, "_supports_attention_backend", False):
        return "it has its own way of attention"
    return None


def _not_at_hand(causal: Any) -> str | None:
    divided = any(p.is_meta or hasattr(p, "ds_id") or p.numel() == 0 for p in causal.parameters())
    return "its weights are divided among the workers before it can be tried" if divided else None


def _probe_rows(vocab_size: int) -> list[Encoded]:
    ids = [(17 * place + 3) % vocab_size for place in range(24)]
    rows = [tuple(ids), (*ids[:12], *ids[:4]), tuple(ids[5:11])]
    return [Encoded("probe", row, (IGNORE,) * len(row)) for row in rows]


@torch.no_grad()
def _last_logits(model: Any, row: Encoded) -> torch.Tensor:
    ids = torch.tensor([row.input_ids], device=model.device)
    with _evaluating(model):
        logits: torch.Tensor = model(input_ids=ids, logits_to_keep=1, use_cache=False).logits
    return logits[0, -1].float()


@torch.no_grad()
def _flat_logits(model: Any, rows: list[Encoded]) -> list[torch.Tensor]:
    laid = lay_out(rows, share=True)
    ends = torch.tensor([end - 1 for _, end in laid.layout.row_spans], device=model.device)
    with _evaluating(model):
        logits_NV: torch.Tensor = model(
            input_ids=torch.tensor([laid.input_ids], device=model.device),
            position_ids=torch.tensor([laid.position_ids], device=model.device),
            flat=FlatAttention(laid.layout, model.device),
            logits_to_keep=ends,
            use_cache=False,
        ).logits[0]
    by_row = dict(zip(map(id, laid.rows), logits_NV.float(), strict=True))
    return [by_row[id(row)] for row in rows]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Run a model without dropout and in its compute type, and leave it as it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=model.dtype == torch.bfloat16):
            yield
    finally:
        model.train(was_training)
