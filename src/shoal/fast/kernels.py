"""The fused operations as compiled kernels with their own backwards, for float32 on the CPU.

Equal to :class:`~shoal.fast.ops.TorchOps` but for rounding; ``kernels.c`` says what each kernel computes.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from shoal.fast.ops import Norm, add_norm, linear
from shoal.fast.prefixes import Nodes


class Library:
    """Calls into the compiled kernels: tensors become pointers, None becomes NULL, integers and floats stay."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def call(self, name: str, *arguments: Tensor | int | float | None) -> None:
        """Run a kernel. Tensors are the callers' to keep alive and contiguous where the kernel asks for it."""
        function = getattr(self._library, name)
        if function.argtypes is None:  # once, as converting each argument here at every call is slow
            kinds = {int: ctypes.c_int64, float: ctypes.c_float}
            function.argtypes = [kinds.get(type(argument), ctypes.c_void_p) for argument in arguments]
            function.restype = None
        function(*[argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments])


class KernelOps:
    """See :class:`~shoal.fast.ops.Ops`; on contiguous float32 tensors of the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = Library(library)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """See :class:`~shoal.fast.ops.Ops`."""
        return _apply(_Linear, x, weight, bias)

    def gelu(self, x: Tensor) -> Tensor:
        """See :class:`~shoal.fast.ops.Ops`."""
        return _apply(_GELU, x.contiguous(), self.library)

    def lstm_layer(self, x: Tensor, rows: Tensor | None, weight: Tensor, bias: Tensor | None, nodes: Nodes) -> Tensor:
        """See :class:`~shoal.fast.ops.Ops`."""
        return _apply(_LSTMLayer, x.contiguous(), weight, bias, rows, nodes, self.library)

    def attend(self, q: Tensor, q_rows: Tensor | None, kv: Tensor, paths: Tensor, lengths: Tensor, H: int) -> Tensor:
        """See :class:`~shoal.fast.ops.Ops`."""
        return _apply(_Attend, q.contiguous(), kv.contiguous(), q_rows, paths, lengths, H, self.library)

    def add_norm(self, x: Tensor, rows: Tensor | None, added: Tensor, bias: Tensor | None, norm: Norm) -> Tensor:
        """See :class:`~shoal.fast.ops.Ops`."""
        if norm is None or norm[1] is None:  # the kernel is LayerNorm's
            return add_norm(x, rows, added, bias, norm)
        weight, shift = norm[0].contiguous(), norm[1].contiguous()
        bias = None if bias is None else bias.contiguous()
        return _apply(_AddNorm, x.contiguous(), added.contiguous(), bias, weight, shift, rows, self.library)

    def cross_entropy(self, logits: Tensor, targets: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
        """See :class:`~shoal.fast.ops.Ops`."""
        losses, right = _apply(_CrossEntropy, logits.contiguous(), targets.contiguous(), label_smoothing, self.library)
        return losses, right


def _apply(function: type[Function], *arguments: Any) -> Tensor:
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


class _Linear(Function):
    """As PyTorch's own but that the gradient of the weight comes out in the weight's order, not transposed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        d_bias = d_out.sum(1) if ctx.biased else None
        return torch.bmm(d_out, weight), torch.bmm(d_out.transpose(1, 2), x), d_bias


class _GELU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, library: Library) -> Tensor:
        y, slope = torch.empty_like(x), torch.empty_like(x) if ctx.needs_input_grad[0] else None
        library.call("gelu", x.numel(), x, y, slope)
        ctx.save_for_backward(slope)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return d_y * slope, None


class _LSTMLayer(Function):
    """A layer over the whole tree: a product and a kernel per level forwards, and back; few products for the weight.

    Everything between the products happens in place, in one array of gates; the backward leaves gradients in it, and
    so can run once.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, nodes: Nodes, library: Library
    ) -> Tensor:
        R, M, D = x.shape[0], nodes.starts[-1], weight.shape[1] // 4
        of_input, of_state = weight[:, :, :-D].transpose(1, 2), weight[:, :, -D:].transpose(1, 2)
        table = None
        if rows is None:
            gates = torch.bmm(x, of_input)  # (R, M, 4 D)
        else:
            table = linear(x, weight[:, :, :-D], bias)  # (R, X, 4 D)
            gates, bias = x.new_empty(R, M, 4 * D), None
        h, c = x.new_empty(R, M, D), x.new_empty(R, M, D)
        for t, (parents, n) in enumerate(zip(nodes.parents, nodes.sizes, strict=True)):
            before = nodes.level(t - 1) if t else None
            projected = None
            if before is not None and parents is None:
                gates[:, nodes.level(t)].baddbmm_(h[:, before], of_state, beta=0 if rows is not None else 1)
            elif before is not None:
                projected = torch.bmm(h[:, before], of_state)  # (R, n_(t-1), 4 D), before it goes to the children
            library.call(
                *("lstm_forward", R, M, D, nodes.starts[t], n, -1 if before is None else before.start),
                *(gates, int(t <= nodes.n_shared), table, x.shape[1] * 4 * D, rows, bias),
                *(projected, 0 if projected is None else projected[0].numel(), parents, h, c),
            )
        ctx.save_for_backward(x, weight, rows, h, c)
        ctx.gates, ctx.nodes, ctx.library, ctx.biased = gates, nodes, library, bias is not None
        ctx.needs_bias = ctx.needs_input_grad[2]
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_h: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rows, h, c = ctx.saved_tensors
        gates, nodes, library = ctx.gates, ctx.nodes, ctx.library
        (R, M, D), S, sizes = h.shape, len(nodes.parents), nodes.sizes
        d_h, d_c = d_h.clone(memory_format=torch.contiguous_format), torch.zeros_like(c)
        d_table = None if rows is None else x.new_zeros(R, x.shape[1], 4 * D)
        d_bias = x.new_zeros(R, 4 * D) if ctx.biased else None
        shared = nodes.starts[nodes.n_shared]  # nodes whose children are elsewhere than right under them
        d_shared = x.new_zeros(R, shared, 4 * D)  # gradient of their projections
        for t in range(S - 1, -1, -1):
            parents, before = nodes.parents[t], nodes.level(t - 1) if t else None
            library.call(
                *("lstm_backward", R, M, D, nodes.starts[t], sizes[t], -1 if before is None else before.start),
                *(gates, c, d_h, d_c, parents, sizes[t - 1], None if parents is None else d_shared, shared * 4 * D),
                *(d_table, x.shape[1] * 4 * D, rows, d_bias),
            )
            if before is not None:
                d_projected = gates[:, nodes.level(t)] if parents is None else d_shared[:, before]
                d_h[:, before].baddbmm_(d_projected, weight[:, :, -D:])
        d_inputs = gates if d_table is None else d_table
        d_weight = torch.empty_like(weight)
        d_weight[:, :, :-D].baddbmm_(d_inputs.transpose(1, 2), x, beta=0)
        _sum_states(d_weight[:, :, -D:], gates, d_shared, h, nodes)
        if ctx.needs_bias and d_bias is None:
            d_bias = d_inputs.sum(1)
        return torch.bmm(d_inputs, weight[:, :, :-D]), d_weight, d_bias, None, None, None


def _sum_states(out: Tensor, d_gates: Tensor, d_shared: Tensor, h: Tensor, nodes: Nodes) -> None:
    """Write the gradient of the states' weight, ``(R, 4 D, D)``, from those of the gates and of shared projections."""
    shared, last = d_shared.shape[1], nodes.starts[-2]
    d_children = d_gates[:, d_gates.shape[1] - (last - shared) :]  # of nodes that have their parent to themselves
    out.baddbmm_(d_children.transpose(1, 2), h[:, shared:last], beta=0)
    out.baddbmm_(d_shared.transpose(1, 2), h[:, :shared])


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


class _CrossEntropy(Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, label_smoothing: float, library: Library
    ) -> tuple[Tensor, Tensor]:
        losses, right = logits.new_empty(targets.shape), torch.empty_like(targets, dtype=torch.bool)
        d_logits = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        library.call(
            *("cross_entropy", targets.numel(), logits.shape[2], logits, targets, float(label_smoothing)),
            *(losses, right, d_logits),
        )
        ctx.save_for_backward(d_logits)
        ctx.mark_non_differentiable(right)
        return losses, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_losses: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (d_logits,) = ctx.saved_tensors
        return d_logits * d_losses.unsqueeze(2), None, None, None
