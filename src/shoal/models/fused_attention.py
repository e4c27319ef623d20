"""Causal attention as one operation, which makes no map of weights; members of a stack are more rows of its batch.

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
    """Softmax of ``q k^T / sqrt(head_size)`` over a query's own place and those before, times the values.

    It rounds otherwise than the explicit products.

    Args:
        queries: ``(B, H, S, head_size)``.
        keys: likewise; as many as queries.
        values: likewise.

    Returns:
        Context ``(B, H, S, head_size)``.
    """
    if torch._C._are_functorch_transforms_active():  # as torch.autograd.Function asks itself; there is no public way
        context: Tensor = _Lifted.apply(queries, keys, values)  # type: ignore[no-untyped-call]
        return context
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)


class _Lifted(torch.autograd.Function):
    """The same under ``torch.func``: lifted over ``R`` members it is one call for all of them."""

    @staticmethod
    def forward(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See :func:`fused_attention`."""
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep what the backward computes again."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """For ``torch.func.grad`` alone: of what is only lifted, PyTorch goes back over its own operation."""
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
