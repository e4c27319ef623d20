"""Operations on batches of token windows, and their reference in PyTorch, with which kernels are compared.

A batch is a rectangle of tokens, ``B`` examples of ``S`` positions. Its rows lie example by example: row ``b S + s`` is
position ``s`` of example ``b``; where an operation says *position by position*, row ``s B + b``.

``R`` members, ``n`` rows, ``D`` width, ``H`` heads, ``V`` vocabulary. What is computed for a member depends
on that member alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from shoal.fast.ops import Array, Norm, Ops, TorchOps, normalised, take
from shoal.keyed import uniform
from shoal.models.positions import rotary_angles, rotate
from shoal.objectives import smoothed_losses


@dataclass(frozen=True)
class Drop:
    """Dropout at one place of a model, as :class:`shoal.models.dropout.Dropout` computes it from a key.

    Attributes:
        p: probability of a zero.
        key: key of each member, ``(R,)`` int64; the same tensor at every step, whose content changes.
    """

    p: float
    key: Tensor

    def of_members(self, members: slice) -> "Drop":
        """View of the dropout of some members."""
        return Drop(self.p, self.key[members])


@dataclass(frozen=True)
class Adapter(Generic[Array]):
    """Low-rank adapter of a linear layer from ``D`` to ``E`` numbers; see :class:`shoal.models.adapters.LoRALinear`.

    Attributes:
        A: ``(R, r, D)``.
        B: ``(R, E, r)``.
        scale: factor of each member, ``(R,)``.
    """

    A: Array
    B: Array
    scale: Tensor


@dataclass(frozen=True)
class View:
    """Keys that queries may see, in one attention of a batch.

    Attributes:
        B: number of examples.
        Q: number of queries of an example.
        K: number of its keys.
        causal: true where a query sees no key behind its own position; then ``Q`` is ``K``.
        seen: mask of the keys that count, ``(R, B, K)`` bool; all when None. The same tensor at every step, whose
            content changes.
    """

    B: int
    Q: int
    K: int
    causal: bool
    seen: Tensor | None = None


@dataclass(frozen=True)
class Recurrence:
    """Order in which an LSTM layer takes the positions of a batch, whose rows lie position by position.

    Attributes:
        B: number of examples.
        S: number of positions.
        seen: mask of the tokens that count, ``(R, B, S)`` bool; elsewhere the state of an example does not change. All
            count when None. The same tensor at every step, whose content changes.
        is_backward: true where the last position is taken first.
    """

    B: int
    S: int
    seen: Tensor | None = None
    is_backward: bool = False

    @property
    def order(self) -> range:
        """Positions in the order in which they are taken."""
        return range(self.S - 1, -1, -1) if self.is_backward else range(self.S)

    def rows(self, t: int) -> slice:
        """Rows of a position."""
        return slice(t * self.B, (t + 1) * self.B)


class WindowOps(Ops[Array], Protocol[Array]):
    """Operations of the engine ``windows``, besides those on trees."""

    def embed(
        self, table: Array, tokens: Tensor, S: int, positions: Array | Tensor | None, scale: float | None
    ) -> Array:
        """Embeddings: rows of a table times ``scale``, plus the row of each position.

        Args:
            table: ``(R, V, D)``.
            tokens: ``(R, n)`` int64; the same tensor at every step, whose content changes.
            S: number of positions of an example.
            positions: positions that the model learns, ``(R, X, D)``, or fixed ones, ``(X, D)``, with ``X >= S``.
            scale: factor of the token's row.

        Returns:
            ``(R, n, D)``.
        """

    def attention(
        self, q: Array, kv: Array, view: View, H: int, drop: Drop | None = None, factor: float | None = None
    ) -> Array:
        """Attention of queries ``(R, B Q, D)`` to keys, then values, ``(R, B K, 2 D)``: ``(R, B Q, D)``.

        A query that sees no key gets 0. ``drop`` acts on the weights, whose places are counted over ``(B, H, Q, K)``.
        ``factor`` is that of the scores, above 0; ``1 / sqrt(D / H)`` when not given.
        """

    def low_rank(self, y: Array, x: Array, adapter: Adapter[Array], place: int) -> Array:
        """Outputs of linear layers with ``scale (x A^T) B^T`` added to those of one: ``(R, n, W) -> (R, n, W)``.

        Args:
            y: outputs of the layers side by side, ``E`` numbers each, which may be overwritten.
            x: inputs of the adapter, ``(R, n, D)``.
            adapter: the adapter.
            place: number of its layer among those.
        """

    def merged(self, weight: Array, adapter: Adapter[Array] | None) -> Array:
        """Weight ``W + scale B A`` of each member, ``(R, E, D)``, from one that does not train; ``W`` without adapter.

        For layers that are computed from their weights, not called.
        """

    def lstm(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        over: Recurrence,
        before: tuple[Array, Array] | None,
        rows: Tensor | None = None,
    ) -> tuple[Array, tuple[Array, Array]]:
        """LSTM layer over windows, in one direction.

        Args:
            x: inputs position by position, ``(R, S B, D_in)``; with ``rows`` a table of inputs, ``(R, X, D_in)``.
            weight: weights of the gates as in ``LSTMCell.fused``, ``(R, 4 D, D_in + D)``.
            bias: ``(R, 4 D)``.
            over: order of the positions, and which tokens count.
            before: first ``(h, c)``, each ``(R, B, D)``; zeros when None.
            rows: row of the table at each place, ``(R, S B)`` int64; the same tensor at every step, whose content
                changes.

        Returns:
            States ``h`` position by position, ``(R, S B, D)``, and ``(h, c)`` behind the position that was taken last,
            each ``(R, B, D)``.
        """

    def by_example(self, x: Array, S: int) -> Array:
        """Rows example by example, from rows position by position, ``S`` positions: ``(R, S B, D) -> (R, B S, D)``."""

    def beside(self, values: Sequence[Array]) -> Array:
        """Concatenation along the last axis, ``(R, n, D_i) -> (R, n, sum D_i)``."""

    def rotated(self, x: Array, S: int, H: int, width: int) -> Array:
        """Rotary positions on the first ``width`` numbers of each row, ``H`` heads: ``(R, n, W) -> (R, n, W)``.

        ``x`` may be overwritten.
        """

    def activation(self, x: Array, kind: str) -> Array:
        """``gelu``, ``relu``, ``tanh``, ``gelu_new``, which is GELU approximated by tanh, or ``swiglu``.

        ``swiglu`` is ``silu(gate) up`` of both halves: ``(R, n, 2 E) -> (R, n, E)``.

        ``x`` may be overwritten.
        """

    def dropout(self, x: Array, drop: Drop, positions_first: int | None = None) -> Array:
        """Dropout of ``x``, ``(R, n, D)``; with ``positions_first`` its rows lie position by position, so many of them.

        Places are counted example by example in either case. ``x`` may be overwritten.
        """

    def residual(self, x: Array, added: Array, bias: Array | None, drop: Drop | None, norm: Norm[Array]) -> Array:
        """Norm of ``x + drop(added + bias)``: ``(R, n, D)``, ``(R, n, D)``, ``(R, D)`` -> ``(R, n, D)``.

        ``added`` may be overwritten. Without a norm the sum itself.
        """

    def token_scores(
        self, logits: Array, targets: Tensor, label_smoothing: float, convention: str
    ) -> tuple[Tensor, Tensor]:
        """Loss of every token, in nats, and 1 where the likeliest token is the target: ``(R, n)`` each.

        Logits ``(R, n, V)`` are overwritten; where there is a backward pass, by their gradient.

        Args:
            logits: ``(R, n, V)``.
            targets: ``(R, n)`` int64; the same tensor at every step, whose content changes.
            label_smoothing: see :func:`shoal.objectives.smoothed_losses`.
            convention: see there.
        """


class TorchWindowOps(TorchOps):
    """Reference operations in PyTorch."""

    def embed(self, table: Tensor, tokens: Tensor, S: int, positions: Tensor | None, scale: float | None) -> Tensor:
        """See :class:`WindowOps`."""
        x = take(table, tokens)  # (R, n, D)
        x = x if scale is None else x * scale
        if positions is None:
            return x
        R, n, D = x.shape
        return (x.view(R, n // S, S, D) + positions[..., None, :S, :]).view(R, n, D)

    def attention(
        self, q: Tensor, kv: Tensor, view: View, H: int, drop: Drop | None = None, factor: float | None = None
    ) -> Tensor:
        """See :class:`WindowOps`."""
        k, v = kv.chunk(2, -1)
        queries, keys, values = (_heads(x, view.B, H) for x in (q, k, v))  # (R, B, H, Q or K, D / H)
        scores = queries @ keys.transpose(-2, -1)  # (R, B, H, Q, K)
        scores = scores / math.sqrt(queries.shape[-1]) if factor is None else scores * factor
        hidden = torch.zeros(view.Q, view.K, dtype=torch.bool)
        if view.causal:
            hidden = ~torch.ones_like(hidden).tril()
        if view.seen is not None:
            hidden = hidden | ~view.seen[:, :, None, None, :]  # (R, B, 1, Q, K)
        weights = scores.masked_fill(hidden, -math.inf).softmax(-1).nan_to_num()  # of a row without keys: 0
        weights = weights if drop is None else _dropped(weights, drop)
        return (weights @ values).transpose(2, 3).reshape(q.shape)

    def low_rank(self, y: Tensor, x: Tensor, adapter: Adapter[Tensor], place: int) -> Tensor:
        """See :class:`WindowOps`."""
        E = adapter.B.shape[1]
        added = self.linear(self.linear(x, adapter.A) * adapter.scale.view(-1, 1, 1), adapter.B)  # (R, n, E)
        return y + F.pad(added, (place * E, y.shape[-1] - (place + 1) * E))

    def merged(self, weight: Tensor, adapter: Adapter[Tensor] | None) -> Tensor:
        """See :class:`WindowOps`."""
        if adapter is None:
            return weight
        return weight + adapter.scale.view(-1, 1, 1) * (adapter.B @ adapter.A)

    def lstm(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        over: Recurrence,
        before: tuple[Tensor, Tensor] | None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """See :class:`WindowOps`."""
        x = x if rows is None else take(x, rows)
        zeros = x.new_zeros(len(x), over.B, weight.shape[1] // 4)
        h, c = before or (zeros, zeros)
        states: dict[int, Tensor] = {}
        for t in over.order:
            gates = self.linear(torch.cat([x[:, over.rows(t)], h], -1), weight, bias)  # (R, B, 4 D)
            forget, into, out, candidate = gates.chunk(4, -1)
            cell = forget.sigmoid() * c + into.sigmoid() * candidate.tanh()
            state = out.sigmoid() * cell.tanh()
            if over.seen is not None:
                counts = over.seen[:, :, t, None]  # (R, B, 1)
                state, cell = torch.where(counts, state, h), torch.where(counts, cell, c)
            h, c = states[t], _ = state, cell
        return torch.cat([states[t] for t in range(over.S)], 1), (h, c)

    def by_example(self, x: Tensor, S: int) -> Tensor:
        """See :class:`WindowOps`."""
        R, n, D = x.shape
        return x.view(R, S, n // S, D).transpose(1, 2).reshape(R, n, D)

    def beside(self, values: Sequence[Tensor]) -> Tensor:
        """See :class:`WindowOps`."""
        return torch.cat(list(values), -1)

    def rotated(self, x: Tensor, S: int, H: int, width: int) -> Tensor:
        """See :class:`WindowOps`."""
        R, n, _ = x.shape
        heads = _heads(x[..., :width], n // S, H)  # (R, B, H, S, width / H)
        turned = rotate(heads, rotary_angles(torch.arange(S), width // H))
        return torch.cat([turned.transpose(2, 3).reshape(R, n, width), x[..., width:]], -1)

    def activation(self, x: Tensor, kind: str) -> Tensor:
        """See :class:`WindowOps`."""
        if kind == "swiglu":
            gate, up = x.chunk(2, -1)
            return F.silu(gate) * up
        if kind == "tanh":
            return x.tanh()
        if kind == "gelu_new":
            return F.gelu(x, approximate="tanh")
        return F.gelu(x) if kind == "gelu" else F.relu(x)

    def dropout(self, x: Tensor, drop: Drop, positions_first: int | None = None) -> Tensor:
        """See :class:`WindowOps`."""
        if positions_first is None:
            return _dropped(x, drop)
        R, n, D = x.shape
        rows = x.view(R, positions_first, -1, D).transpose(1, 2)  # (R, B, S, D)
        return _dropped(rows, drop).transpose(1, 2).reshape(R, n, D)

    def residual(self, x: Tensor, added: Tensor, bias: Tensor | None, drop: Drop | None, norm: Norm[Tensor]) -> Tensor:
        """See :class:`WindowOps`."""
        added = added if bias is None else added + bias.unsqueeze(1)
        return normalised(x + (added if drop is None else _dropped(added, drop)), norm)

    def token_scores(
        self, logits: Tensor, targets: Tensor, label_smoothing: float, convention: str
    ) -> tuple[Tensor, Tensor]:
        """See :class:`WindowOps`."""
        losses = smoothed_losses(logits, targets, label_smoothing, convention)
        return losses, (logits.argmax(-1) == targets).to(losses.dtype)


def _heads(x: Tensor, B: int, H: int) -> Tensor:
    """Heads of every example: ``(R, B S, D) -> (R, B, H, S, D / H)``."""
    R, n, D = x.shape
    return x.view(R, B, n // B, H, D // H).transpose(2, 3)


def _dropped(x: Tensor, drop: Drop) -> Tensor:
    """Dropout of each member's array by its key, ``(R, *dims)``."""
    mask = uniform(drop.key, math.prod(x.shape[1:])).view(x.shape) >= drop.p
    return x * mask / (1 - drop.p)
