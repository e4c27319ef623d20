"""The fused operations as compiled kernels with their own backwards, for float32 on the CPU.

Equal to :class:`~shoal.fast.ops.TorchOps` but for rounding; ``kernels.c`` says what each kernel computes.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from shoal.fast.ops import Norm, linear
from shoal.fast.prefixes import Nodes


class Library:
    """Calls into the compiled kernels: tensors become pointers, None becomes NULL, integers and floats stay."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def call(self, name: str, *arguments: Tensor | int | float | None) -> None:
        """Run a kernel. Tensors are the callers' to keep alive and contiguous where the kernel asks for it."""
        converted: list[Any] = []
        for argument in arguments:
            if isinstance(argument, Tensor):
                converted.append(ctypes.c_void_p(argument.data_ptr()))
            elif isinstance(argument, float):
                converted.append(ctypes.c_float(argument))
            else:
                converted.append(ctypes.c_void_p() if argument is None else ctypes.c_int64(argument))
        getattr(self._library, name)(*converted)


class KernelOps:
    """See :class:`~shoal.fast.ops.Ops`; on contiguous float32 tensors of the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = Library(library)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """See :class:`~shoal.fast.ops.Ops`."""
        return linear(x, weight, bias)

    def lstm_layer(self, x: Tensor, rows: Tensor | None, recurrent: Tensor, nodes: Nodes) -> Tensor:
        """See :class:`~shoal.fast.ops.Ops`."""
        return _apply(_LSTMLayer, x.contiguous(), recurrent, rows, nodes, self.library)

    def attend(self, q: Tensor, q_rows: Tensor | None, kv: Tensor, paths: Tensor, lengths: Tensor, H: int) -> Tensor:
        """See :class:`~shoal.fast.ops.Ops`."""
        return _apply(_Attend, q.contiguous(), kv.contiguous(), q_rows, paths, lengths, H, self.library)

    def add_norm(self, x: Tensor, rows: Tensor | None, added: Tensor, bias: Tensor | None, norm: Norm) -> Tensor:
        """See :class:`~shoal.fast.ops.Ops`."""
        weight, shift = (part.contiguous() for part in norm)
        bias = None if bias is None else bias.contiguous()
        return _apply(_AddNorm, x.contiguous(), added.contiguous(), bias, weight, shift, rows, self.library)


def _apply(function: type[Function], *arguments: Any) -> Tensor:
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


class _LSTMLayer(Function):
    """A layer over the whole tree: a product and a kernel per level forwards, and back; one product for the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, recurrent: Tensor, rows: Tensor | None, nodes: Nodes, library: Library) -> Tensor:
        R, X, D, M = x.shape[0], x.shape[1], recurrent.shape[2], nodes.starts[-1]
        gates, h, c = x.new_empty(R, M, 4 * D), x.new_empty(R, M, D), x.new_empty(R, M, D)
        rows = None if rows is None else rows.contiguous()
        for t, parents in enumerate(nodes.parents):
            at, n = nodes.level(t), nodes.sizes[t]
            projected = before = None
            if t:
                before = nodes.level(t - 1)
                projected = torch.bmm(h[:, before], recurrent.transpose(1, 2))  # (R, n_(t-1), 4 D)
            library.call(
                *("lstm_forward", R, n, D, x if rows is not None else x[:, at], X * 4 * D),
                *(None if rows is None else rows[:, at], M, projected, nodes.sizes[t - 1] * 4 * D),
                *(None if before is None else c[:, before], M * D, parents, n),
                *(gates[:, at], M * 4 * D, h[:, at], c[:, at], M * D),
            )
        ctx.save_for_backward(recurrent, rows, gates, h, c)
        ctx.nodes, ctx.library, ctx.X = nodes, library, X
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_h: Tensor) -> tuple[Tensor | None, ...]:
        recurrent, rows, gates, h, c = ctx.saved_tensors
        nodes, library = ctx.nodes, ctx.library
        R, M, D = h.shape
        d_h = d_h.clone(memory_format=torch.contiguous_format)
        d_c, d_pre = torch.zeros_like(c), torch.empty_like(gates)
        d_x = d_pre if rows is None else gates.new_zeros(R, ctx.X, 4 * D)
        shared = nodes.starts[nodes.n_shared]  # nodes whose children are elsewhere than right under them
        d_shared = gates.new_zeros(R, shared, 4 * D)  # gradient of their projections
        for t in range(len(nodes.parents) - 1, -1, -1):
            at, n, parents = nodes.level(t), nodes.sizes[t], nodes.parents[t]
            before = nodes.level(t - 1) if t else None
            d_projected = None if parents is None else d_shared[:, before]
            library.call(
                *("lstm_backward", R, n, D, gates[:, at], M * 4 * D, c[:, at], d_h[:, at], d_c[:, at], M * D),
                *((None, None) if before is None else (c[:, before], d_c[:, before])),
                *(M * D, parents, n, d_projected, shared * 4 * D),
                *(d_x, ctx.X * 4 * D, None if rows is None else rows[:, at], M, d_pre[:, at]),
            )
            if before is not None:
                d_h[:, before].baddbmm_(d_pre[:, at] if d_projected is None else d_projected, recurrent)
        parents_of_one = slice(shared, nodes.starts[-2])  # the others that have a child, in the order of those
        d_children = d_pre[:, M - (nodes.starts[-2] - shared) :]
        d_recurrent = torch.bmm(d_children.transpose(1, 2), h[:, parents_of_one])
        if shared == 1:  # a product over one row is rounded otherwise in a stack than alone
            d_recurrent.addcmul_(d_shared.transpose(1, 2), h[:, :1])
        else:
            d_recurrent.baddbmm_(d_shared.transpose(1, 2), h[:, :shared])
        return d_x, d_recurrent, None, None, None


class _Attend(Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, kv: Tensor, q_rows: Tensor | None, paths: Tensor, lengths: Tensor, H: int, library: Library
    ) -> Tensor:
        R, n, S = paths.shape
        D = q.shape[2]
        q_rows = None if q_rows is None else q_rows.contiguous()
        paths, lengths = paths.contiguous(), lengths.contiguous()
        weights, context = q.new_empty(R, n, H, S), q.new_empty(R, n, D)
        ctx.layout = (R, n, S, H, D // H), (D, q.shape[1] * D), (2 * D, kv.shape[1] * 2 * D)
        sizes, q_layout, kv_layout = ctx.layout
        library.call(
            *("attend_forward", *sizes, q, *q_layout, q_rows),
            *(kv, kv[:, :, D:], *kv_layout, paths, lengths, weights, context),
        )
        ctx.save_for_backward(q, kv, q_rows, paths, lengths, weights)
        ctx.library = library
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_context: Tensor) -> tuple[Tensor | None, ...]:
        q, kv, q_rows, paths, lengths, weights = ctx.saved_tensors
        sizes, q_layout, kv_layout = ctx.layout
        D = q.shape[2]
        d_q, d_kv = torch.zeros_like(q), torch.zeros_like(kv)
        ctx.library.call(
            *("attend_backward", *sizes, q, *q_layout, q_rows, kv, kv[:, :, D:], *kv_layout, paths, lengths),
            *(weights, d_context.contiguous(), d_q, d_kv, d_kv[:, :, D:]),
        )
        return d_q, d_kv, None, None, None, None, None


class _AddNorm(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        added: Tensor,
        bias: Tensor | None,
        weight: Tensor,
        shift: Tensor,
        rows: Tensor | None,
        library: Library,
    ) -> Tensor:
        R, n, D = added.shape
        rows = None if rows is None else rows.contiguous()
        normal, inverse, y = torch.empty_like(added), added.new_empty(R, n), torch.empty_like(added)
        library.call(
            *("add_norm_forward", R, n, D, x, x.shape[1] * D, rows),
            *(added, bias, weight, shift, 1e-5, normal, inverse, y),
        )
        ctx.save_for_backward(normal, inverse, weight, rows)
        ctx.library, ctx.x_shape, ctx.has_bias = library, x.shape, bias is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        normal, inverse, weight, rows = ctx.saved_tensors
        R, n, D = normal.shape
        d_sum, d_weight, d_shift = torch.empty_like(normal), torch.zeros_like(weight), torch.zeros_like(weight)
        d_bias = torch.zeros_like(weight) if ctx.has_bias else None
        d_x = d_sum if rows is None else normal.new_zeros(ctx.x_shape)
        ctx.library.call(
            *("add_norm_backward", R, n, D, normal, inverse, weight, d_y.contiguous()),
            *(d_sum, d_weight, d_shift, d_bias, d_x, ctx.x_shape[1] * D, rows),
        )
        return d_x, d_sum, d_bias, d_weight, d_shift, None, None
