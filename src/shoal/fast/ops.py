"""Operations of a fast path, and their reference in PyTorch, for any device, with which kernels are compared.

``R`` members, ``M`` nodes (see :mod:`shoal.fast.prefixes`), ``D`` width, ``X`` rows of a table. ``rows`` hold the row
of its table at each node; without them node ``i`` has row ``i``.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from shoal.fast.prefixes import Nodes
from shoal.objectives import token_losses

Array = TypeVar("Array")  # a value: a tensor, or its place in a program
# Weight and bias of a LayerNorm, (R, D) each; an RMSNorm has no bias, and no norm is None. A third entry, "layernorm"
# or "rmsnorm", tells a LayerNorm without a bias from an RMSNorm.
Norm = tuple[Array, Array | None] | tuple[Array, Array | None, str] | None


class Ops(Protocol[Array]):
    """Operations of a fast path. ``x`` of ``gelu`` and ``added`` of ``add_norm`` may be overwritten."""

    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        """Linear layer of each member: ``(R, n, D), (R, E, D), (R, E) -> (R, n, E)``."""

    def gelu(self, x: Array) -> Array:
        """GELU with the exact normal distribution function, of any shape."""

    def lstm_layer(self, x: Array, rows: Tensor | None, weight: Array, bias: Array | None, nodes: Nodes) -> Array:
        """LSTM layer over the tree.

        Args:
            x: inputs, ``(R, X, D_in)``.
            rows: the row of ``x`` at each node, ``(R, M)``.
            weight: weights of the gates as in ``LSTMCell.fused``, ``(R, 4 D, D_in + D)``.
            bias: ``(R, 4 D)``.
            nodes: the tree.

        Returns:
            States ``h``, ``(R, M, D)``.
        """

    def attend(self, q: Array, q_rows: Tensor | None, kv: Array, paths: Tensor, lengths: Tensor, H: int) -> Array:
        """Attention of each query to the keys along its path.

        Args:
            q: ``(R, X, D)``.
            q_rows: ``(R, n)``.
            kv: keys, then values, ``(R, Y, 2 D)``.
            paths: rows of ``kv`` along each path, ``(R, n, S)``.
            lengths: number of them that each query sees, ``(n,)``.
            H: heads.

        Returns:
            ``(R, n, D)``.
        """

    def add_norm(self, x: Array, rows: Tensor | None, added: Array, bias: Array | None, norm: Norm[Array]) -> Array:
        """Norm of ``x + added + bias``: ``(R, X, D)``, ``(R, n)``, ``(R, n, D)``, ``(R, D)`` -> ``(R, n, D)``."""

    def norm(self, x: Array, norm: Norm[Array]) -> Array:
        """Normalised rows of ``x``, ``(R, n, D)``."""

    def score(self, logits: Array, targets: Tensor, scored: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of examples as :func:`shoal.objectives.get_loss_and_accuracy`, ``(R, B)`` each.

        Args:
            logits: level by level, ``(R, n B, V)``.
            targets: ``(R, n B)``.
            scored: mask of those that count, ``(R, n, B)``.
            label_smoothing: share of the target that is spread over all tokens.
        """

    def pairs(self, x: Array, y: Tensor) -> Array:
        """Sums of every row of y and every row of x, ``(R, V, D), (S, D or 1) -> (R, S V, D)``."""

    def join(self, values: Sequence[Array]) -> Array:
        """Concatenation along the second axis, ``(R, n_i, *dims) -> (R, sum n_i, *dims)``."""

    def tail(self, x: Array, start: int) -> Array:
        """Rows from ``start`` on, ``(R, n, D) -> (R, n - start, D)``."""

    def apply(self, function: Callable[..., Tensor], *values: Array) -> Array:
        """Result of a differentiable function of tensors."""

    def prepared(self, compute: Callable[[], Tensor]) -> Tensor:
        """Value that depends on the batch alone, from a function that computes it."""


class TorchOps:
    """Reference operations in PyTorch, for any device.

    Args:
        products: type in which products are computed, where it is not that of the parameters, to which they are cast
            back.
    """

    def __init__(self, products: torch.dtype | None = None) -> None:
        self.products = products

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """See :class:`Ops`."""
        if self.products is None:
            return linear(x, weight, bias)
        product = linear(x.to(self.products), weight.to(self.products)).to(x.dtype)
        return product if bias is None else product + bias.unsqueeze(1)

    def gelu(self, x: Tensor) -> Tensor:
        """See :class:`Ops`."""
        return F.gelu(x)

    def lstm_layer(self, x: Tensor, rows: Tensor | None, weight: Tensor, bias: Tensor | None, nodes: Nodes) -> Tensor:
        """See :class:`Ops`."""
        D = weight.shape[1] // 4
        inputs = self.linear(x, weight[:, :, :-D], bias)  # (R, X, 4 D)
        states: list[Tensor] = []
        h = c = None
        for t, parents in enumerate(nodes.parents):
            at = nodes.level(t)
            gates = inputs[:, at] if rows is None else take(inputs, rows[:, at])  # (R, n_t, 4 D)
            if h is not None and c is not None:
                projected = self.linear(h, weight[:, :, -D:])  # of the parents, before their children
                gates = gates + (projected if parents is None else take(projected, parents))
                c = c if parents is None else take(c, parents)
            f, i, o, c_tilde = gates.chunk(4, dim=-1)
            remembered = 0.0 if c is None else f.sigmoid() * c
            c = remembered + i.sigmoid() * c_tilde.tanh()  # (R, n_t, D)
            h = o.sigmoid() * c.tanh()
            states.append(h)
        return torch.cat(states, 1)

    def attend(self, q: Tensor, q_rows: Tensor | None, kv: Tensor, paths: Tensor, lengths: Tensor, H: int) -> Tensor:
        """See :class:`Ops`."""
        R, n, S = paths.shape
        q = q if q_rows is None else take(q, q_rows)  # (R, n, D)
        D = q.shape[-1]
        heads = q.reshape(R, n, 1, H, D // H)
        k, v = take(kv, paths.reshape(R, -1)).reshape(R, n, S, 2, H, D // H).unbind(3)  # (R, n, S, H, D / H) each
        hidden = torch.arange(S, device=q.device) >= lengths.unsqueeze(-1)  # (n, S)
        scores = (heads * k).sum(-1) / math.sqrt(D // H)  # (R, n, S, H)
        weights = scores.masked_fill(hidden.unsqueeze(-1), -math.inf).softmax(2)
        return (weights.unsqueeze(-1) * v).sum(2).reshape(R, n, D)

    def add_norm(
        self, x: Tensor, rows: Tensor | None, added: Tensor, bias: Tensor | None, norm: Norm[Tensor]
    ) -> Tensor:
        """See :class:`Ops`."""
        return add_norm(x, rows, added, bias, norm)

    def norm(self, x: Tensor, norm: Norm[Tensor]) -> Tensor:
        """See :class:`Ops`."""
        return normalised(x, norm)

    def score(self, logits: Tensor, targets: Tensor, scored: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
        """See :class:`Ops`."""
        losses = token_losses(logits, targets, label_smoothing).reshape(scored.shape)  # (R, n, B)
        right = (logits.argmax(-1) == targets).reshape(scored.shape) | ~scored
        loss = torch.where(scored, losses, 0.0).sum(1) / scored.sum(1).clamp(min=1)
        return loss, right.all(1).to(loss.dtype)

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        """See :class:`Ops`."""
        return (x.unsqueeze(1) + y.unsqueeze(1)).flatten(1, 2)

    def join(self, values: Sequence[Tensor]) -> Tensor:
        """See :class:`Ops`."""
        return torch.cat(list(values), 1)

    def tail(self, x: Tensor, start: int) -> Tensor:
        """See :class:`Ops`."""
        return x[:, start:]

    def apply(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """See :class:`Ops`."""
        return function(*values)

    def prepared(self, compute: Callable[[], Tensor]) -> Tensor:
        """See :class:`Ops`."""
        return compute()


def add_norm(x: Tensor, rows: Tensor | None, added: Tensor, bias: Tensor | None, norm: Norm[Tensor]) -> Tensor:
    """See :class:`Ops`."""
    x = (x if rows is None else take(x, rows)) + added
    return normalised(x if bias is None else x + bias.unsqueeze(1), norm)


def normalised(x: Tensor, norm: Norm[Tensor]) -> Tensor:
    """Normalised rows of ``x``, ``(R, n, D)``."""
    if norm is None:
        return x
    weight, shift = norm[0], norm[1]
    if is_rms_norm(norm):
        return F.rms_norm(x, x.shape[-1:], eps=1e-5) * weight.unsqueeze(1)
    normal = F.layer_norm(x, x.shape[-1:]) * weight.unsqueeze(1)
    return normal if shift is None else normal + shift.unsqueeze(1)


def is_rms_norm(norm: Norm[Array]) -> bool:
    """Return True for an RMSNorm."""
    return norm is not None and (norm[2] == "rmsnorm" if len(norm) == 3 else norm[1] is None)


def take(table: Tensor, rows: Tensor) -> Tensor:
    """Rows of each member's table: ``(R, X, D), (R, n) -> (R, n, D)``."""
    R, X, D = table.shape
    offsets = X * torch.arange(R, device=rows.device).unsqueeze(1)
    return F.embedding(rows + offsets, table.reshape(R * X, D))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear layer of each member: ``(R, n, D), (R, E, D), (R, E) -> (R, n, E)``."""
    if bias is None:
        return torch.bmm(x, weight.transpose(1, 2))
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
