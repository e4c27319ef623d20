"""Fused operations as kernels with their own backward passes, for float32, recorded in a program.

Equal to :class:`~shoal.fast.ops.TorchOps` but for rounding; ``kernels.c`` describes each kernel.
"""

import ctypes
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from shoal.fast.ops import Norm, add_norm, normalised
from shoal.fast.panels import right_matrix
from shoal.fast.prefixes import Nodes
from shoal.fast.program import Program, Value

Argument = Tensor | int | float | None


class Library(Protocol):
    """Library of kernels by name. The caller keeps tensors contiguous where the kernel needs it."""

    def bound(self, name: str, *arguments: Argument) -> Callable[[], Any]:
        """Call of a kernel, to be made later; the tensors must stay in their memory until then."""


class CompiledLibrary:
    """Library in C, for the CPU: tensors become pointers, None becomes NULL, integers and floats stay."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def bound(self, name: str, *arguments: Argument) -> Callable[[], Any]:
        """See :class:`Library`."""
        function = self._library[name]
        function.restype = None
        converted = [_converted(argument) for argument in arguments]

        def call(held: Any = arguments) -> None:
            function(*converted)

        return call


def _converted(argument: Argument) -> Any:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if argument is None:
        return ctypes.c_void_p(None)
    return ctypes.c_int64(argument) if isinstance(argument, int) else ctypes.c_float(argument)


class KernelOps:
    """See :class:`~shoal.fast.ops.Ops`.

    Args:
        library: the kernels.
        program: program that records the operations.
    """

    def __init__(self, library: Library, program: Program) -> None:
        self.library, self.program = library, program
        self.join, self.tail, self.apply, self.prepared = program.join, program.tail, program.apply, program.prepared

    def _lay(self, name: str, *arguments: Argument) -> None:
        self.program.lay(self.library.bound(name, *arguments))

    def linear(self, x: Value, weight: Value, bias: Value | None = None) -> Value:
        """See :class:`~shoal.fast.ops.Ops`. The gradient of the weight comes out in the weight's order."""
        program = self.program
        y = program.value(*x.data.shape[:2], weight.data.shape[1])
        y.is_constant = all(value is None or value.is_constant for value in (x, weight, bias))
        with program.held(weight) as matrix:
            program.multiply(y.data, x.data, matrix.transpose(1, 2), None if bias is None else bias.data)

        def lay_backward() -> None:
            d_y, _ = program.grad(y)
            if bias is not None:
                program.write_grad(bias, torch.sum, d_y, 1)
            program.multiply_grad(weight, d_y.transpose(1, 2), x.data)
            if not x.is_constant:
                with program.held(weight) as matrix:
                    program.multiply_grad(x, d_y, matrix)

        program.operation(y, lay_backward)
        return y

    def pairs(self, x: Value, y: Tensor) -> Value:
        """See :class:`~shoal.fast.ops.Ops`."""
        program, (R, V, D), S = self.program, x.data.shape, len(y)
        out = program.value(R, S * V, D)
        program.lay(torch.add, x.data.unsqueeze(1), y.unsqueeze(1), out=out.data.view(R, S, V, D))
        program.operation(out, lambda: program.write_grad(x, torch.sum, program.grad(out)[0].view(R, S, V, D), 1))
        return out

    def gelu(self, x: Value) -> Value:
        """See :class:`~shoal.fast.ops.Ops`. It overwrites ``x``."""
        program, y = self.program, self.program.value(*x.data.shape)
        self._lay("gelu", x.data.numel(), x.data, y.data)
        program.operation(y, lambda: program.write_grad(x, torch.mul, program.grad(y)[0], x.data))
        return y

    def lstm_layer(self, x: Value, rows: Tensor | None, weight: Value, bias: Value | None, nodes: Nodes) -> Value:
        """See :class:`~shoal.fast.ops.Ops`.

        One product and one kernel per level forwards, and back; few products for the weight. Everything between the
        products happens in place, in one array of gates.
        """
        program, (R, X, _), M, D = self.program, x.data.shape, nodes.starts[-1], weight.data.shape[1] // 4
        of_input, of_state = weight.data[:, :, :-D].transpose(1, 2), weight.data[:, :, -D:].transpose(1, 2)
        h, gates, c = program.value(R, M, D), program.take(R, M, 4 * D), program.take(R, M, D)
        h.is_constant = all(value is None or value.is_constant for value in (x, weight, bias))
        table, added = None, None if bias is None else bias.data.contiguous()  # also where it is one for all members
        if rows is None:
            program.multiply(gates, x.data, of_input)
        else:
            table = program.take(R, X, 4 * D)  # of the inputs, projected
            program.multiply(table, x.data, of_input, added)
            added = None
        state = right_matrix(program, of_state, len(nodes.parents))
        for t, (parents, n) in enumerate(zip(nodes.parents, nodes.sizes, strict=True)):
            projected, before = None, nodes.level(t - 1).start if t else -1
            if t and parents is None:
                state.multiply(gates[:, nodes.level(t)], h.data[:, nodes.level(t - 1)], add=rows is None)
            elif t:
                projected = program.take(R, nodes.sizes[t - 1], 4 * D)  # before it goes to the children
                state.multiply(projected, h.data[:, nodes.level(t - 1)])
            self._lay(
                *("lstm_forward", R, M, D, nodes.starts[t], n, before, gates, int(t <= nodes.n_shared)),
                *(table, X * 4 * D, rows, added, projected, 0 if projected is None else projected[0].numel()),
                *(parents, h.data, c),
            )
        state.give_back()
        program.operation(h, lambda: self._lstm_backward(x, rows, weight, bias, nodes, h, gates, c), gates, c)
        return h

    def _lstm_backward(
        self,
        x: Value,
        rows: Tensor | None,
        weight: Value,
        bias: Value | None,
        nodes: Nodes,
        h: Value,
        gates: Tensor,
        c: Tensor,
    ) -> None:
        """Record the backward pass of a layer: gates become their gradients, and the gradient of h is overwritten."""
        program, (R, M, D), X = self.program, h.data.shape, x.data.shape[1]
        shared = nodes.starts[nodes.n_shared]  # nodes whose children are not at their own places of the next level
        d_h, d_c = program.zeroed_grad(h), program.take(R, M, D)
        d_shared = program.take(R, shared, 4 * D)  # gradient of their projections
        d_table = None if rows is None else program.take(R, X, 4 * D)
        trains = bias is not None and not bias.is_constant
        d_bias = program.take(R, 4 * D) if trains and rows is None else None
        for sums in (d_c, d_shared, d_table, d_bias):
            if sums is not None:
                program.lay(sums.zero_)
        state = right_matrix(program, weight.data[:, :, -D:], len(nodes.parents))
        for t in range(len(nodes.parents) - 1, -1, -1):
            parents, before = nodes.parents[t], nodes.level(t - 1) if t else None
            self._lay(
                *("lstm_backward", R, M, D, nodes.starts[t], nodes.sizes[t], -1 if before is None else before.start),
                *(gates, c, h.grad, d_c, parents, nodes.sizes[t - 1], None if parents is None else d_shared),
                *(shared * 4 * D, d_table, X * 4 * D, rows, d_bias),
            )
            if before is not None:
                d_projected = gates[:, nodes.level(t)] if parents is None else d_shared[:, before]
                state.multiply(d_h[:, before], d_projected, add=True)
        state.give_back()
        d_inputs = gates if d_table is None else d_table
        if not weight.is_constant:
            d_weight, is_sum = program.grad(weight)
            assert not is_sum  # the weight is this layer's alone
            program.multiply(d_weight[:, :, :-D], d_inputs.transpose(1, 2), x.data)
            _lay_sum_of_states(program, d_weight[:, :, -D:], gates, d_shared, h.data, nodes)
        if bias is not None and d_bias is None:
            program.write_grad(bias, torch.sum, d_inputs, 1)
        elif bias is not None and d_bias is not None:
            program.add_to_grad(bias, d_bias)
        program.multiply_grad(x, d_inputs, weight.data[:, :, :-D])
        for array in (d_c, d_shared, d_table, d_bias):
            if array is not None:
                program.give_back(array)

    def attend(self, q: Value, q_rows: Tensor | None, kv: Value, paths: Tensor, lengths: Tensor, H: int) -> Value:
        """See :class:`~shoal.fast.ops.Ops`."""
        program, (R, n, S), (_, X, D) = self.program, paths.shape, q.data.shape
        context, weights, stride = program.value(R, n, D), program.take(R, n, H, S), kv.data.shape[1] * 2 * D
        k, v = kv.data, kv.data[:, :, D:]
        where = *(R, n, S, H, D // H, q.data, D, X * D, q_rows), *(k, v, 2 * D, stride, paths, lengths, weights)
        self._lay("attend_forward", *where, context.data)

        def lay_backward() -> None:
            d_context, _ = program.grad(context)
            d_q, d_kv = program.zeroed_grad(q), program.zeroed_grad(kv)
            self._lay("attend_backward", *where, d_context, d_q, d_kv, d_kv[:, :, D:])

        program.operation(context, lay_backward, weights)
        return context

    def add_norm(self, x: Value, rows: Tensor | None, added: Value, bias: Value | None, norm: Norm[Value]) -> Value:
        """See :class:`~shoal.fast.ops.Ops`. It overwrites ``added``."""
        program, (R, n, D) = self.program, added.data.shape
        if norm is None or norm[1] is None:  # the kernel is LayerNorm's
            others = [value for value in (bias, norm and norm[0]) if value is not None]

            def function(x: Tensor, added: Tensor, *rest: Tensor) -> Tensor:
                own_bias = rest[0] if bias is not None else None
                return add_norm(x, rows, added, own_bias, None if norm is None else (rest[-1], None, *norm[2:]))

            return program.apply(function, x, added, *others)
        vectors = [value for value in (norm[0], norm[1], bias) if value is not None]
        weight, shift, *shifted = (value.data for value in vectors)
        y, inverse = program.value(R, n, D), program.take(R, n)
        self._lay(
            *("add_norm_forward", R, n, D, x.data, x.data.stride(0), rows, added.data, shifted[0] if shifted else None),
            *(weight, shift, _stride(weight, shift, *shifted), 1e-5, inverse, y.data),
        )

        def lay_backward() -> None:
            d_y, (d_added, is_sum) = program.grad(y)[0], program.grad(added)
            assert not is_sum  # what is added is used here alone
            d_weight, d_shift, *d_shifted = (program.zeroed_grad(value) for value in vectors)
            d_x, is_sum = (program.zeroed_grad(x), True) if rows is not None else program.grad(x)
            self._lay(
                *("add_norm_backward", R, n, D, added.data, inverse, weight, _stride(weight), d_y, d_added, d_weight),
                *(d_shift, d_shifted[0] if shifted else None, _stride(d_weight, d_shift, *d_shifted), d_x),
                *(d_x.stride(0), rows, int(is_sum)),
            )

        program.operation(y, lay_backward, inverse)
        return y

    def norm(self, x: Value, norm: Norm[Value]) -> Value:
        """See :class:`~shoal.fast.ops.Ops`."""
        if norm is None:
            return x
        weight, shift = norm[0], norm[1]
        if shift is None:
            return self.program.apply(lambda x, weight: normalised(x, (weight, None, *norm[2:])), x, weight)
        return self.program.apply(lambda x, weight, shift: normalised(x, (weight, shift)), x, weight, shift)

    def score(self, logits: Value, targets: Tensor, scored: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
        """See :class:`~shoal.fast.ops.Ops`. The backward starts from ``program.d_loss``."""
        program, (R, n, B), V = self.program, scored.shape, logits.data.shape[2]
        share = program.prepared(lambda: scored / scored.sum(1, keepdim=True).clamp(min=1))  # of the loss, (R, n, B)
        program.loss, program.accuracy, program.d_loss = (share.new_zeros(R, B) for _ in range(3))
        d_logits = program.take(*logits.data.shape)
        self._lay(
            *("score", R, n, B, V, logits.data, targets, share, float(label_smoothing)),
            *(program.loss, program.accuracy, d_logits),
        )

        def lay_backward() -> None:
            logits.grad, logits.is_written = d_logits, True
            weights = torch.empty_like(share)
            program.lay(torch.mul, share, program.d_loss.unsqueeze(1), out=weights)
            program.lay(d_logits.mul_, weights.view(R, n * B, 1))

        program.operation(None, lay_backward)
        return program.loss, program.accuracy


def _stride(*vectors: Tensor) -> int:
    """Stride from one member to the next in vectors ``(R, D)`` of one layout: parameters, or separate arrays."""
    strides = {vector.stride(0) for vector in vectors}
    assert len(strides) == 1 and all(vector.stride(1) == 1 for vector in vectors)
    return strides.pop()


def _lay_sum_of_states(
    program: Program, out: Tensor, d_gates: Tensor, d_shared: Tensor, h: Tensor, nodes: Nodes
) -> None:
    """Record the gradient of the states' weight, ``(R, 4 D, D)``, from those of gates and shared projections."""
    shared, last = d_shared.shape[1], nodes.starts[-2]
    d_children = d_gates[:, d_gates.shape[1] - (last - shared) :]  # of nodes that have their parent to themselves
    program.multiply(out, d_children.transpose(1, 2), h[:, shared:last])
    program.multiply(out, d_shared.transpose(1, 2), h[:, :shared], add=True)
