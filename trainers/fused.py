"""Layers of a model in fewer passes over memory, with fewer tensors kept for the backward pass; the same mathematics.

Each replacement is an autograd function of the very products that the layer makes, with sums done in place and cheap
activations computed again. Which modules get one is decided by what they are; a module that deviates keeps its own
forward pass.

Shape legend: T tokens, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_GATED = {"gate_proj", "up_proj", "down_proj", "act_fn"}


def fuse_layers(model: nn.Module) -> int:
    """Replace the forward passes of plain LoRA layers and of SiLU-gated layers; returns how many."""
    from peft.tuners.lora import Linear as LoraLinear

    fused = 0
    for module in model.modules():
        if type(module) is LoraLinear and plain_lora(module):
            module.forward = types.MethodType(_lora_forward, module)  # type: ignore[method-assign]
            fused += 1
        elif _is_gated(module):
            module.forward = types.MethodType(_gated_forward, module)
            fused += 1
    return fused


def plain_lora(layer: Any) -> bool:
    """One adapter of two matrices without bias, dropout or DoRA, on a frozen linear layer."""
    if len(layer.lora_A) != 1 or list(layer.active_adapters) != list(layer.lora_A) or layer.merged:
        return False
    (name,) = layer.lora_A
    parts = (layer.lora_A[name], layer.lora_B[name], layer.get_base_layer())
    return (
        all(type(part) is nn.Linear for part in parts)
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and not getattr(layer, "lora_variant", {})
        and not layer.get_base_layer().weight.requires_grad
    )


def _is_gated(module: nn.Module) -> bool:
    """``down(silu(gate(x)) * up(x))``, as Llama, Qwen, Mistral and SmolLM have it."""
    parts = dict(module.named_children())
    if set(parts) != _GATED or type(parts["act_fn"]).__name__ not in ("SiLU", "SiLUActivation"):
        return False
    code = type(module).forward.__code__
    return code.co_argcount == 2 and set(code.co_names) == _GATED  # it calls these parts and does nothing else


def _lora_forward(layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if args or kwargs or not _usable_lora(layer):
        return type(layer).forward(layer, x, *args, **kwargs)  # type: ignore[no-any-return]
    weight_OI, bias_O, a_RI, b_OR = _lora_weights(layer)
    return lora_linear(x, weight_OI, bias_O, a_RI, b_OR, _scale(layer))  # type: ignore[arg-type]


def _usable_lora(layer: Any) -> bool:
    """Whether the layer is to use its one adapter, and its weights are here: ZeRO-3 and FSDP2 divide them."""
    if layer.disable_adapters or layer.merged or not torch.is_grad_enabled():
        return False
    return all(weight is None or _whole(weight) for weight in _lora_weights(layer))


def _whole(weight: torch.Tensor) -> bool:
    return type(weight) in (nn.Parameter, torch.Tensor) and not hasattr(weight, "ds_id")


def _lora_weights(layer: Any) -> tuple[torch.Tensor | None, ...]:
    (name,) = layer.lora_A
    base = layer.get_base_layer()
    return base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight


def _scale(layer: Any) -> float:
    (name,) = layer.lora_A
    return float(layer.scaling[name])


def computable(*tensors: torch.Tensor | None) -> list[torch.Tensor | None]:
    """Tensors in the type that autocast would multiply them in."""
    device = next(tensor.device.type for tensor in tensors if tensor is not None)
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    compute = torch.get_autocast_dtype(device)
    return [None if tensor is None else tensor.to(compute) for tensor in tensors]


def lora_linear(
    x: torch.Tensor,
    weight_OI: torch.Tensor,
    bias_O: torch.Tensor | None,
    a_RI: torch.Tensor,
    b_OR: torch.Tensor,
    scale: float | torch.Tensor,
) -> torch.Tensor:
    """``x W^T + b + s (x A^T) B^T`` (Hu et al. 2021).

    Args:
        x: Inputs; all but the last dimension are tokens.
        weight_OI: Frozen.
        bias_O: Frozen, or None.
        a_RI: A.
        b_OR: B.
        scale: s; or T x R of them, one for each token and rank, in the type that is computed in.
    """
    out: torch.Tensor = _LoraLinear.apply(*computable(x, weight_OI, bias_O, a_RI, b_OR), scale)  # type: ignore[no-untyped-call]
    return out


class _LoraLinear(torch.autograd.Function):
    """See :func:`lora_linear`; no intermediate of the output's size is made."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight_OI: torch.Tensor,
        bias_O: torch.Tensor | None,
        a_RI: torch.Tensor,
        b_OR: torch.Tensor,
        scale: float | torch.Tensor,
    ) -> torch.Tensor:
        x_TI = x.reshape(-1, x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            out_TO = functional.linear(x_TI, weight_OI, bias_O)
            down_TR = (x_TI @ a_RI.t()).mul_(scale)
            out_TO.addmm_(down_TR, b_OR.t())
        ctx.save_for_backward(x_TI, weight_OI, a_RI, b_OR, down_TR)
        ctx.scale, ctx.shape = scale, x.shape
        return out_TO.view(*x.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_TI, weight_OI, a_RI, b_OR, down_TR = ctx.saved_tensors
        d_out_TO = d_out.reshape(-1, d_out.shape[-1])
        d_down_TR = (d_out_TO @ b_OR).mul_(ctx.scale)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = (d_out_TO @ weight_OI).addmm_(d_down_TR, a_RI).view(ctx.shape)
        return d_x, None, None, d_down_TR.t() @ x_TI, d_out_TO.t() @ down_TR, None


def _gated_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    if not torch.is_grad_enabled():
        return type(layer).forward(layer, x)  # type: ignore[no-any-return]
    gated: torch.Tensor = _Gated.apply(layer.gate_proj(x), layer.up_proj(x))  # type: ignore[no-untyped-call]
    out: torch.Tensor = layer.down_proj(gated)
    return out


class _Gated(torch.autograd.Function):
    """``silu(gate) * up`` (Shazeer 2020), which keeps its two inputs and nothing between."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        return _gated_gradients(d_out, gate, up, functional.silu(gate))


def _gated_gradients(
    d_out: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, active: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of both factors; ``active`` is silu(gate), and is overwritten."""
    d_up = active.mul_(d_out)
    return torch.ops.aten.silu_backward(d_out * up, gate), d_up
