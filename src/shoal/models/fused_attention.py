"""Causal attention as one operation, which stores no weights; members of a stack are more rows of its batch.

Source: PyTorch's ``scaled_dot_product_attention`` (Dao et al. 2022), which ``torch.func.vmap`` would call once for each
member.

Shapes: ``R`` members, ``B`` batch, ``H`` heads, ``S`` sequence.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def fused_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention: softmax of ``q k^T / sqrt(head_size)`` over own and earlier positions, times the values.

    Its rounding differs from that of the explicit products.

    Args:
        queries: ``(B, H, S, head_size)``.
        keys: ``(B, H, S, head_size)``.
        values: ``(B, H, S, head_size)``.

    Returns:
        Context ``(B, H, S, head_size)``.
    """
    if torch._C._are_functorch_transforms_active():  # as torch.autograd.Function asks itself; there is no public way
        context: Tensor = _Lifted.apply(queries, keys, values)  # type: ignore[no-untyped-call]
        return context
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)


class _Lifted(torch.autograd.Function):
    """Fused attention under ``torch.func``: lifted over ``R`` members it is one call for all of them."""

    @staticmethod
    def forward(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See :func:`fused_attention`."""
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Save the inputs, from which the backward pass computes the weights again."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradients for ``torch.func.grad``; under ``vmap`` alone PyTorch differentiates its own operation."""
        gradients: tuple[Tensor, ...] = torch.func.vjp(_explicit, *ctx.saved_tensors)[1](gradient)
        return gradients

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], queries: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, int]:
        """Fold the members into the batch, ``(R, B, H, S, head_size) -> (R B, H, S, head_size)``, and back."""
        R = info.batch_size
        every = [
            tensor.expand(R, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip((queries, keys, values), in_dims, strict=True)
        ]
        context = fused_attention(*(tensor.flatten(0, 1) for tensor in every))  # (R B, H, S, head_size)
        return context.reshape(every[0].shape), 0


def _explicit(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])  # (B, H, S, S)
    unseen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)  # (S, S)
    return scores.masked_fill(unseen, -math.inf).softmax(-1) @ values
