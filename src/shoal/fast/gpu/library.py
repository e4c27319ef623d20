"""Fused kernels on a GPU, with the names and arguments of ``kernels.c``, launched by Triton.

Triton comes with PyTorch where that is built for a GPU, and compiles a kernel for the GPU at hand when it is first
launched. Without a GPU it can run kernels in Python, one program after the other (``TRITON_INTERPRET=1``): slowly, for
tests.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from shoal.fast.program import Program

Call = Callable[[], object]
BLOCK = 1024  # numbers that a program works on at once
PLACES, COLUMNS = 64, 32  # a block where rows are added up


class GPUKernels:
    """See :class:`shoal.fast.kernels.Library`.

    Args:
        program: program that receives the calls, where they need temporary memory or sort places by row; None where
            they do neither.
    """

    def __init__(self, program: Program | None = None) -> None:
        self._program = program
        self._sorted: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}

    def bound(self, name: str, *arguments: Any) -> Call:
        """See :class:`shoal.fast.kernels.Library`."""
        return partial(_one_after_the_other, getattr(self, f"_{name}")(*arguments))

    # Each of the following takes what its kernel takes in C and returns the launches that do the same.

    def _gelu(self, n: int, x: Tensor, y: Tensor) -> list[Call]:
        return [_launch("gelu", (_parts(n, BLOCK),), n, x, y, K=BLOCK)]

    def _lstm_forward(
        self, R: int, M: int, D: int, start: int, n: int, before: int, gates: Tensor, fresh: int, *rest: Any
    ) -> list[Call]:
        N, K = _block(D)
        x, *_, c = rest
        is_fresh, c_parents = bool(fresh and x is not None), None if before < 0 else c[:, before:]
        grid = _parts(n, N), R
        return [_launch("lstm_forward", grid, M, D, start, n, gates, is_fresh, *rest, c_parents, N=N, K=K)]

    def _lstm_backward(
        self, R: int, M: int, D: int, start: int, n: int, before: int, gates: Tensor, c: Tensor, *rest: Any
    ) -> list[Call]:
        """Launches of one level; sums for the whole layer, which C makes at every level, follow after level 0."""
        d_h, d_c, parents, n_parents, d_projected, projected_stride, d_x, x_stride, x_rows, d_bias = rest
        N, K = _block(D)
        of_parents = (None, None) if before < 0 else (c[:, before:], d_c[:, before:])
        at = M, D, start, n, gates, c, d_h, d_c, parents, *of_parents
        calls = [_launch("lstm_backward", (_parts(n, N), R), *at, N=N, K=K)]
        if parents is not None:
            by_parent, nodes = (parents, n_parents), slice(start, start + n)
            to = d_projected[:, before:], projected_stride
            calls.append(self._sum_rows(d_c[:, nodes], M * D, D, *by_parent, d_c[:, before:], M * D))
            calls.append(self._sum_rows(gates[:, nodes], M * 4 * D, 4 * D, *by_parent, *to))
        if start == 0 and d_x is not None:
            calls.append(self._sum_rows(gates, M * 4 * D, 4 * D, x_rows, x_stride // (4 * D), d_x, x_stride))
        if start == 0 and d_bias is not None:
            calls.append(partial(torch.sum, gates, 1, out=d_bias))
        return calls

    def _attend_forward(self, R: int, n: int, S: int, H: int, E: int, *rest: Any) -> list[Call]:
        N, J, K = _attention_block(S, E)
        grid, scale = (_parts(n, N), H, R), 1 / math.sqrt(E)
        return [_launch("attend_forward", grid, n, S, H, E, scale, *rest, N=N, J=J, K=K)]

    def _attend_backward(self, R: int, n: int, S: int, H: int, E: int, *rest: Any) -> list[Call]:
        """Launches for scores and queries, then keys and values, then the rows of a table of queries."""
        q, q_ld, q_stride, q_rows, k, v, kv_ld, kv_stride, kv_rows, lengths, weights, d_context, d_q, d_k, d_v = rest
        assert self._program is not None
        N, J, K = _attention_block(S, E)
        Y = kv_stride // kv_ld
        d_scores = self._program.take(R, n, H, S)
        of_each_query = d_q if q_rows is None else self._program.take(R, n, q_ld)  # of each query
        read, scores = (k, v, kv_ld, kv_stride, kv_rows, lengths), (weights, d_context, d_scores)
        order = self._order(kv_rows, Y, lengths)
        grid, scale = (_parts(n, N), H, R), 1 / math.sqrt(E)
        of_queries = *read, *scores, of_each_query, of_each_query.stride(0), q_rows is None
        of_keys = q, q_ld, q_stride, q_rows, *scores, *order, Y, d_k, d_v, kv_ld, kv_stride
        calls = [
            _launch("attend_backward", grid, n, S, H, E, scale, *of_queries, N=N, J=J, K=K),
            _launch("attend_keys", (Y, H, R), n, S, H, E, *of_keys, N=max(1, 2 * BLOCK // K), K=K),
        ]
        if q_rows is not None:
            calls.append(self._sum_rows(of_each_query, n * q_ld, q_ld, q_rows, q_stride // q_ld, d_q, q_stride))
            self._program.give_back(of_each_query)
        self._program.give_back(d_scores)
        return calls

    def _add_norm_forward(self, R: int, n: int, D: int, *rest: Any) -> list[Call]:
        N, K = _block(D)
        return [_launch("add_norm_forward", (_parts(n, N), R), n, D, *rest, N=N, K=K)]

    def _add_norm_backward(self, R: int, n: int, D: int, *rest: Any) -> list[Call]:
        """Launches for rows, then columns, then the rows of the table that x is."""
        normal, inverse, weight, ld, d_y, d_sum, d_weight, d_shift, d_bias, d_ld, d_x, x_stride, x_rows, add_x = rest
        N, K = _block(D)
        rows = normal, inverse, weight, ld, d_y, d_sum, d_x if x_rows is None else None, x_stride, bool(add_x)
        columns = normal, d_y, d_sum, d_weight, d_shift, d_bias, d_ld
        calls = [
            _launch("add_norm_backward", (_parts(n, N), R), n, D, *rows, N=N, K=K),
            _launch("add_norm_columns", (_parts(D, COLUMNS), R), n, D, *columns, N=PLACES, K=COLUMNS),
        ]
        if x_rows is not None:
            calls.append(self._sum_rows(d_sum, n * D, D, x_rows, x_stride // D, d_x, x_stride))
        return calls

    def _score(self, R: int, n: int, B: int, V: int, *rest: Any) -> list[Call]:
        return [_launch("score", (B, R), n, B, V, *rest, K=_power(V), num_warps=1)]

    def _adam(self, R: int, P: int, theta: Tensor, *rest: Any) -> list[Call]:
        *tensors, per_parameter, decoupled, finite = rest
        blocks, moves = _parts(P, BLOCK), finite.view(torch.uint8)
        infinite = torch.empty(R, blocks, dtype=torch.int8, device=theta.device)
        how = bool(per_parameter), bool(decoupled)
        return [
            _launch("adam", (blocks, R), P, theta, *tensors, *how, moves, infinite, K=BLOCK),
            lambda: finite.logical_and_(~infinite.any(1)),
        ]

    def _sum_rows(
        self, values: Tensor, stride: int, size: int, rows: Tensor, X: int, out: Tensor, out_stride: int
    ) -> Call:
        """Add each member's values, ``(n, size)``, to those rows of its table, ``(X, size)``, that ``rows`` name."""
        R, n = rows.shape
        grid, order = (X, _parts(size, COLUMNS), R), self._order(rows, X)
        return _launch("sum_rows", grid, values, stride, size, *order, n, X, out, out_stride, N=PLACES, K=COLUMNS)

    def _order(self, rows: Tensor, X: int, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Places sorted by their rows, ``(R, n)``, and the bounds of those of each row, ``(R, X + 1)``.

        Args:
            rows: rows of a table, ``(R, n)``, or with lengths ``(R, n, S)``.
            X: number of rows of the table.
            lengths: number of each ``S`` that count, ``(n,)``; the others are last, in no row.
        """
        assert self._program is not None

        def counted() -> Tensor:
            if lengths is None:
                return rows
            places = torch.arange(rows.shape[2], device=rows.device)
            return torch.where(places < lengths.unsqueeze(-1), rows, X).flatten(1)

        key = rows.data_ptr(), rows.shape[1], X
        if key not in self._sorted:
            order = self._program.prepared(lambda: counted().to(torch.int32).argsort(dim=1, stable=True))
            starts = self._program.prepared(lambda: _starts(counted(), X))
            self._sorted[key] = order, starts
        return self._sorted[key]


def _starts(rows: Tensor, X: int) -> Tensor:
    """Number of places that belong to rows before each, ``(R, X + 1)``."""
    counts = torch.zeros(len(rows), X + 2, dtype=torch.int64, device=rows.device)
    return counts.scatter_add_(1, rows + 1, torch.ones_like(rows)).cumsum(1)[:, : X + 1]


def _one_after_the_other(calls: list[Call]) -> None:
    for call in calls:
        call()


def _launch(name: str, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> Call:
    # products and sums are fused as nvcc does; Triton asks that this is said
    return partial(kernel(name)[grid], *arguments, **constants, enable_fp_fusion=True)


def kernel(name: str) -> Any:
    """Kernel of this name."""
    from shoal.fast.gpu import layers, rows  # Triton is not everywhere

    return getattr(layers if hasattr(layers, name) else rows, name)


def _parts(n: int, size: int) -> int:
    return -(-n // size)


def _power(n: int) -> int:
    """Smallest power of two that is at least ``n``."""
    return 1 << (n - 1).bit_length()


def _block(D: int) -> tuple[int, int]:
    """Number of rows of ``D`` numbers that a program works on, and ``D`` as a power of two."""
    K = _power(D)
    return max(1, BLOCK // K), K


def _attention_block(S: int, E: int) -> tuple[int, int, int]:
    """Numbers of queries, of keys of each and of elements of a head that a program works on."""
    J, K = _power(S), _power(E)
    return max(1, 2 * BLOCK // (J * K)), J, K
