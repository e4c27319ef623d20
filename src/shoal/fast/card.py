"""The fused kernels on a card: under the names and with the arguments of ``kernels.c``, launched as Triton's.

Triton comes with PyTorch where that is built for a card, and compiles a kernel for the card at hand when it is first
launched. Without a card it can run kernels in Python, one program after the other (``TRITON_INTERPRET=1``): slowly, to
see what they compute.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from shoal.fast.program import Program

Call = Callable[[], object]
BLOCK = 1024  # numbers that a program works on at once
PLACES, COLUMNS = 64, 32  # of those, where it adds up rows


class CardKernels:
    """See :class:`shoal.fast.kernels.Library`.

    Args:
        program: what the calls are laid into, where they need memory of their own or sort places by row; None where
            they do neither.
    """

    def __init__(self, program: Program | None = None) -> None:
        self._program = program
        self._sorted: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}

    def bound(self, name: str, *arguments: Any) -> Call:
        """See :class:`shoal.fast.kernels.Library`."""
        return partial(_one_after_the_other, getattr(self, f"_{name}")(*arguments))

    def _gelu(self, n: int, x: Tensor, y: Tensor) -> list[Call]:
        return [_launch("gelu", (_parts(n, BLOCK),), n, x, y, K=BLOCK)]

    def _lstm_forward(
        self,
        R: int,
        M: int,
        D: int,
        start: int,
        n: int,
        before: int,
        gates: Tensor,
        fresh: int,
        x: Tensor | None,
        x_stride: int,
        x_rows: Tensor | None,
        bias: Tensor | None,
        projected: Tensor | None,
        projected_stride: int,
        parents: Tensor | None,
        h: Tensor,
        c: Tensor,
    ) -> list[Call]:
        N, K = _block(D)
        into = gates, bool(fresh and x is not None), x, x_stride, x_rows, bias, projected, projected_stride, parents
        c_parents = None if before < 0 else c[:, before:]
        grid = _parts(n, N), R
        return [_launch("lstm_forward", grid, M, D, start, n, *into, h, c, c_parents, N=N, K=K)]

    def _lstm_backward(
        self,
        R: int,
        M: int,
        D: int,
        start: int,
        n: int,
        before: int,
        gates: Tensor,
        c: Tensor,
        d_h: Tensor,
        d_c: Tensor,
        parents: Tensor | None,
        n_parents: int,
        d_projected: Tensor | None,
        projected_stride: int,
        d_x: Tensor | None,
        x_stride: int,
        x_rows: Tensor | None,
        d_bias: Tensor | None,
    ) -> list[Call]:
        """What C adds up at every level for the whole layer is added up here once, after the last: level 0."""
        N, K = _block(D)
        of_parents = (None, None) if before < 0 else (c[:, before:], d_c[:, before:])
        at = M, D, start, n, gates, c, d_h, d_c, parents, *of_parents
        calls = [_launch("lstm_backward", (_parts(n, N), R), *at, N=N, K=K)]
        if parents is not None:
            assert d_projected is not None
            children, of_gates = slice(start, start + n), (projected_stride, 4 * D)
            calls.append(self._sum_rows(d_c[:, children], M * D, D, parents, n_parents, d_c[:, before:], M * D))
            calls.append(
                self._sum_rows(gates[:, children], M * 4 * D, 4 * D, parents, n_parents, d_projected[:, before:], of_gates[0])
            )
        if start == 0 and d_x is not None:
            assert x_rows is not None
            calls.append(self._sum_rows(gates, M * 4 * D, 4 * D, x_rows, x_stride // (4 * D), d_x, x_stride))
        if start == 0 and d_bias is not None:
            calls.append(partial(torch.sum, gates, 1, out=d_bias))
        return calls

    def _attend_forward(
        self,
        R: int,
        n: int,
        S: int,
        H: int,
        E: int,
        q: Tensor,
        q_ld: int,
        q_stride: int,
        q_rows: Tensor | None,
        k: Tensor,
        v: Tensor,
        kv_ld: int,
        kv_stride: int,
        kv_rows: Tensor,
        lengths: Tensor,
        weights: Tensor,
        context: Tensor,
    ) -> list[Call]:
        N, J, K = _attention_block(S, E)
        queries, keys = (q, q_ld, q_stride, q_rows), (k, v, kv_ld, kv_stride, kv_rows, lengths)
        grid, scale = (_parts(n, N), H, R), 1 / math.sqrt(E)
        return [_launch("attend_forward", grid, n, S, H, E, scale, *queries, *keys, weights, context, N=N, J=J, K=K)]

    def _attend_backward(
        self,
        R: int,
        n: int,
        S: int,
        H: int,
        E: int,
        q: Tensor,
        q_ld: int,
        q_stride: int,
        q_rows: Tensor | None,
        k: Tensor,
        v: Tensor,
        kv_ld: int,
        kv_stride: int,
        kv_rows: Tensor,
        lengths: Tensor,
        weights: Tensor,
        d_context: Tensor,
        d_q: Tensor,
        d_k: Tensor,
        d_v: Tensor,
    ) -> list[Call]:
        assert self._program is not None
        N, J, K = _attention_block(S, E)
        d_scores = self._program.take(R, n, H, S)
        own = d_q if q_rows is None else self._program.take(R, n, q_ld)  # before those of one row are added up
        keys = k, v, kv_ld, kv_stride, kv_rows, lengths
        back = weights, d_context, d_scores, own, own.stride(0), q_rows is None
        grid, scale = (_parts(n, N), H, R), 1 / math.sqrt(E)
        calls = [_launch("attend_backward", grid, n, S, H, E, scale, *keys, *back, N=N, J=J, K=K)]
        Y = kv_stride // kv_ld
        of_entries = weights, d_context, d_scores, *self._order(kv_rows, Y, lengths), Y
        grid = Y, H, R
        calls.append(
            _launch(
                *("attend_keys", grid, n, S, H, E, q, q_ld, q_stride, q_rows, *of_entries, d_k, d_v, kv_ld, kv_stride),
                N=PLACES,
                K=K,
            )
        )
        if q_rows is not None:
            calls.append(self._sum_rows(own, n * q_ld, q_ld, q_rows, q_stride // q_ld, d_q, q_stride))
            self._program.give_back(own)
        self._program.give_back(d_scores)
        return calls

    def _add_norm_forward(
        self,
        R: int,
        n: int,
        D: int,
        x: Tensor,
        x_stride: int,
        x_rows: Tensor | None,
        a: Tensor,
        bias: Tensor | None,
        weight: Tensor,
        shift: Tensor,
        eps: float,
        inverse: Tensor,
        y: Tensor,
    ) -> list[Call]:
        N, K = _block(D)
        inputs = x, x_stride, x_rows, a, bias, weight, shift, eps
        return [_launch("add_norm_forward", (_parts(n, N), R), n, D, *inputs, inverse, y, N=N, K=K)]

    def _add_norm_backward(
        self,
        R: int,
        n: int,
        D: int,
        normal: Tensor,
        inverse: Tensor,
        weight: Tensor,
        d_y: Tensor,
        d_sum: Tensor,
        d_weight: Tensor,
        d_shift: Tensor,
        d_bias: Tensor | None,
        d_x: Tensor,
        x_stride: int,
        x_rows: Tensor | None,
        add_x: int,
    ) -> list[Call]:
        N, K = _block(D)
        to = (d_x if x_rows is None else None), x_stride, bool(add_x)
        sums = normal, d_y, d_sum, d_weight, d_shift, d_bias
        calls = [
            _launch("add_norm_backward", (_parts(n, N), R), n, D, normal, inverse, weight, d_y, d_sum, *to, N=N, K=K),
            _launch("add_norm_columns", (_parts(D, COLUMNS), R), n, D, *sums, N=PLACES, K=COLUMNS),
        ]
        if x_rows is not None:
            calls.append(self._sum_rows(d_sum, n * D, D, x_rows, x_stride // D, d_x, x_stride))
        return calls

    def _score(
        self,
        R: int,
        n: int,
        B: int,
        V: int,
        logits: Tensor,
        targets: Tensor,
        share: Tensor,
        smoothing: float,
        loss: Tensor,
        accuracy: Tensor,
        d_logits: Tensor,
    ) -> list[Call]:
        out = loss, accuracy, d_logits
        return [_launch("score", (B, R), n, B, V, logits, targets, share, smoothing, *out, K=_power(V), num_warps=1)]

    def _adam(
        self,
        R: int,
        P: int,
        theta: Tensor,
        before: Tensor,
        gradient: Tensor,
        m: Tensor,
        v: Tensor,
        scale: Tensor,
        lr: Tensor,
        beta1: Tensor,
        beta2: Tensor,
        eps: Tensor,
        count: Tensor,
        decay: Tensor,
        per_parameter: int,
        decoupled: int,
        finite: Tensor,
    ) -> list[Call]:
        blocks, moves = _parts(P, BLOCK), finite.view(torch.uint8)
        odd = torch.empty(R, blocks, dtype=torch.int8, device=theta.device)
        state, settings = (theta, before, gradient, m, v, scale), (lr, beta1, beta2, eps, count, decay)
        how = bool(per_parameter), bool(decoupled)
        return [
            _launch("adam", (blocks, R), P, *state, *settings, *how, moves, odd, K=BLOCK),
            lambda: finite.logical_and_(~odd.any(1)),
        ]

    def _sum_rows(
        self, values: Tensor, stride: int, size: int, rows: Tensor, X: int, out: Tensor, out_stride: int
    ) -> Call:
        """Add each member's values ``(n, size)`` to those rows of a table ``(X, size)`` that ``rows`` ``(R, n)`` name."""
        R, n = rows.shape
        grid = X, _parts(size, COLUMNS), R
        order, starts = self._order(rows, X)
        return _launch("sum_rows", grid, values, stride, size, order, starts, n, X, out, out_stride, N=PLACES, K=COLUMNS)

    def _order(self, rows: Tensor, X: int, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The places sorted by their rows, ``(R, n)``, and where those of each row begin and end, ``(R, X + 1)``.

        Args:
            rows: of a table of ``X`` rows, ``(R, n)``, or with lengths ``(R, n, S)``.
            X: the table's.
            lengths: how many of each ``S`` count, ``(n,)``; the others are last, in no row.
        """
        assert self._program is not None

        def counted() -> Tensor:
            if lengths is None:
                return rows
            places = torch.arange(rows.shape[2], device=rows.device)
            return torch.where(places < lengths.unsqueeze(-1), rows, X).flatten(1)

        key = rows.data_ptr(), rows.shape[1], X
        if key not in self._sorted:
            order = self._program.prepared(lambda: counted().argsort(dim=1, stable=True))
            starts = self._program.prepared(lambda: _starts(counted(), X))
            self._sorted[key] = order, starts
        return self._sorted[key]


def _starts(rows: Tensor, X: int) -> Tensor:
    """How many places belong to rows before each, ``(R, X + 1)``."""
    counts = torch.zeros(len(rows), X + 2, dtype=torch.int64, device=rows.device)
    return counts.scatter_add_(1, rows + 1, torch.ones_like(rows)).cumsum(1)[:, : X + 1]


def _one_after_the_other(calls: list[Call]) -> None:
    for call in calls:
        call()


def _launch(name: str, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> Call:
    from shoal.fast import card_kernels  # Triton is not everywhere

    return partial(getattr(card_kernels, name)[grid], *arguments, **constants)


def _parts(n: int, size: int) -> int:
    return -(-n // size)


@cache
def _power(n: int) -> int:
    """The least power of two that is no less."""
    return 1 << (n - 1).bit_length()


def _block(D: int) -> tuple[int, int]:
    """How many rows of ``D`` numbers, and numbers of each, a program works on."""
    K = _power(D)
    return max(1, BLOCK // K), K


def _attention_block(S: int, E: int) -> tuple[int, int, int]:
    """Queries, keys of each and numbers of a head's keys that a program works on."""
    J, K = _power(S), _power(E)
    return max(1, 2 * BLOCK // (J * K)), J, K
