"""LSTM layers over windows of tokens, and what moves their states.

Kernels that multiply themselves compute layers of most widths (:mod:`shoal.fast.window_steps`). For others, and with
PyTorch's products, there are a product and a kernel for each time step; what does not wait for the state before leaves
the recurrence: the inputs of all positions are projected in one product, and the gradients of weights, biases and
inputs are one product or sum over all positions.

``R`` members, ``B`` examples, ``S`` positions, ``D`` width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from shoal.fast import matmul
from shoal.fast.kernels import Argument, KernelOps, Library
from shoal.fast.panels import right_matrix
from shoal.fast.program import Program, Value
from shoal.fast.window_arguments import all_constant, member_stride
from shoal.fast.window_ops import Recurrence
from shoal.fast.window_steps import Layer, State, has_steps, lay_backward, lay_forward


class RecurrentKernelOps(KernelOps):
    """Operations of :class:`~shoal.fast.window_ops.WindowOps` on recurrent states.

    Args:
        library: the kernels on trees.
        windows: the kernels of windows.
        program: program that records the operations.
    """

    def __init__(self, library: Library, windows: Library, program: Program) -> None:
        super().__init__(library, program)
        self.windows = windows
        self._read: set[Value] = set()  # by the backward pass of some operation

    def _is_free(self, x: Value) -> bool:
        """Return True if a value may be changed in place."""
        return not x.is_parameter and x.whole is None and x not in self._read and x.data.is_contiguous()

    def _lay_window(self, name: str, *arguments: Argument) -> None:
        self.program.lay(self.windows.bound(name, *arguments))

    def lstm(
        self,
        x: Value,
        weight: Value,
        bias: Value | None,
        over: Recurrence,
        before: State | None,
        rows: Tensor | None = None,
    ) -> tuple[Value, State]:
        """See :class:`~shoal.fast.window_ops.WindowOps`."""
        program, R, D, B = self.program, x.data.shape[0], weight.data.shape[1] // 4, over.B
        n, last = over.S * B, over.rows(over.order[-1])
        h, gates, c = program.value(R, n, D), program.take(R, n, 4 * D), program.take(R, n, D)
        ends = Value(h.data[:, last]), Value(c[:, last])  # whose memory is that of all states
        is_constant = all_constant(x, weight, bias, *(before or ()))
        h.is_constant = ends[0].is_constant = ends[1].is_constant = is_constant
        self._read |= {x, weight, h, *ends, *(before or ())}
        layer = Layer(program, self._lay_window, x, rows, weight, bias, over, before, h, gates, c)
        if has_steps(program, D):
            lay_forward(layer)
        else:
            self._lay_inputs(layer)
            self._lay_steps(layer.of_state.transpose(1, 2), over, before, h.data, gates, c)

        def lay_layer_backward() -> None:
            d_h, d_c = program.zeroed_grad(h), _gradient_of_cells(program, ends[1])
            if ends[0].grad is not None:
                program.lay(d_h[:, last].add_, ends[0].grad)
            if has_steps(program, D):
                lay_backward(layer, d_h, d_c)
            else:
                self._lay_steps_back(layer, d_h, d_c)
                self._lay_gradients(layer)
            for array in (ends[0].grad, d_c):
                if array is not None:
                    program.give_back(array)

        program.operation(h, lay_layer_backward, gates, c)
        return h, ends

    def _lay_inputs(self, layer: Layer) -> None:
        """Record the projection of the inputs, or of the table, from which each place takes its row."""
        program, x, gates = self.program, layer.x.data, layer.gates
        of_input, bias = layer.of_input.transpose(1, 2), None if layer.bias is None else layer.bias.data
        if layer.rows is None:
            program.multiply(gates, x, of_input, bias)
            return
        table = program.take(*x.shape[:2], gates.shape[2])
        program.multiply(table, x, of_input, bias)
        self._lay_window("embed_forward", *gates.shape, 1, table, table.stride(0), layer.rows, 1.0, None, 0, gates)
        program.give_back(table)

    def _lay_steps(
        self, of_state: Tensor, over: Recurrence, before: State | None, h: Tensor, gates: Tensor, c: Tensor
    ) -> None:
        """Record the forward pass through time, from the projected inputs in ``gates``."""
        program, (R, n, D) = self.program, h.shape
        first_h, first_c = (None, None) if before is None else (value.data for value in before)
        states = [first_h, *(h[:, over.rows(t)] for t in over.order[:-1])]
        cells = [first_c, *(c[:, over.rows(t)] for t in over.order[:-1])]
        if program.products == "own":
            matrix = right_matrix(program, of_state, over.S)
            products = [
                matrix.added(gates[:, over.rows(t)], state)
                for t, state in zip(over.order, states, strict=True)
                if state is not None
            ]
            self._lay_window(
                *("lstm_steps", *matmul.several(products, program.precision)),
                *(R, over.S, over.B, D, int(over.is_backward), gates),
                *(_seen(over, 0)[0], *member_stride(first_h), *member_stride(first_c), h, c),
            )
            matrix.give_back()
            return
        for t, state, cell in zip(over.order, states, cells, strict=True):
            now = over.rows(t)
            if state is not None:
                program.multiply(gates[:, now], state, of_state, add=True)
            self._lay_window(
                *("lstm_step", R, over.B, D, gates[:, now], 4 * n * D, *_seen(over, t)),
                *(*member_stride(state), *member_stride(cell), h[:, now], c[:, now], n * D),
            )

    def _lay_steps_back(self, layer: Layer, d_h: Tensor, d_c: Tensor) -> None:
        """Record the backward pass through time: gates become their gradients; d_h and d_c are overwritten."""
        program, over, before, gates, c = self.program, layer.over, layer.before, layer.gates, layer.c
        (R, n, D), of_state = d_h.shape, layer.of_state
        d_first = None if before is None else program.zeroed_grad(before[0])
        first_c = None if before is None else before[1].data
        order, previous = over.order[::-1], over.order[-2::-1]
        d_states = [*(d_h[:, over.rows(t)] for t in previous), d_first]
        cells = [*(c[:, over.rows(t)] for t in previous), first_c]
        if program.products == "own":
            matrix = right_matrix(program, of_state, over.S)
            products = [
                matrix.added(d_state, gates[:, over.rows(t)])
                for t, d_state in zip(order, d_states, strict=True)
                if d_state is not None
            ]
            self._lay_window(
                *("lstm_steps_backward", *matmul.several(products, program.precision)),
                *(R, over.S, over.B, D, int(over.is_backward), gates),
                *(_seen(over, 0)[0], *member_stride(first_c), c, d_h, *member_stride(d_first), d_c),
            )
            matrix.give_back()
        else:
            for t, d_state, cell in zip(order, d_states, cells, strict=True):
                now = over.rows(t)
                self._lay_window(
                    *("lstm_step_backward", R, over.B, D, gates[:, now], 4 * n * D, *_seen(over, t)),
                    *(*member_stride(cell), c[:, now], d_h[:, now], n * D, *member_stride(d_state), d_c),
                )
                if d_state is not None:
                    program.multiply(d_state, gates[:, now], of_state, add=True)
        if before is not None:
            program.add_to_grad(before[1], d_c)

    def _lay_gradients(self, layer: Layer) -> None:
        """Record the gradients of weight, bias and inputs from those of the gates, all positions at once."""
        program, gates, over, x, bias = self.program, layer.gates, layer.over, layer.x, layer.bias
        (R, n, D), B, d_inputs = layer.h.data.shape, over.B, gates
        if layer.rows is not None:
            d_inputs = program.take(R, x.data.shape[1], 4 * D)
            program.lay(d_inputs.zero_)
            self._lay_window(
                *("embed_backward", R, n, 4 * D, 1, layer.rows, 1.0, gates, d_inputs, d_inputs.stride(0), None, 0)
            )
        if not layer.weight.is_constant:
            d_weight, is_sum = program.grad(layer.weight)
            assert not is_sum  # the weight is this layer's alone
            program.multiply(d_weight[:, :, :-D], d_inputs.transpose(1, 2), x.data)
            behind, ahead = (slice(0, n - B), slice(B, n)) if over.is_backward else (slice(B, n), slice(0, n - B))
            program.multiply(d_weight[:, :, -D:], gates[:, behind].transpose(1, 2), layer.h.data[:, ahead])
            if layer.before is not None:
                first = over.rows(over.order[0])
                program.multiply(d_weight[:, :, -D:], gates[:, first].transpose(1, 2), layer.before[0].data, add=True)
        if bias is not None:
            program.write_grad(bias, torch.sum, d_inputs, 1)
        program.multiply_grad(x, d_inputs, layer.of_input)
        if layer.rows is not None:
            program.give_back(d_inputs)

    def by_example(self, x: Value, S: int) -> Value:
        """See :class:`~shoal.fast.window_ops.WindowOps`."""
        program, (R, n, D) = self.program, x.data.shape
        y = program.value(R, n, D)
        y.is_constant = x.is_constant
        program.lay(y.data.view(R, n // S, S, D).copy_, x.data.view(R, S, n // S, D).transpose(1, 2))

        def lay_backward() -> None:
            d_y, (d_x, add) = program.grad(y)[0].view(R, n // S, S, D).transpose(1, 2), program.grad(x)
            whole = d_x.view(R, S, n // S, D)
            program.lay(whole.add_ if add else whole.copy_, d_y)

        program.operation(y, lay_backward)
        return y

    def beside(self, values: Sequence[Value]) -> Value:
        """See :class:`~shoal.fast.window_ops.WindowOps`."""
        program, widths = self.program, [value.data.shape[2] for value in values]
        out = program.value(*values[0].data.shape[:2], sum(widths))
        out.is_constant = all(value.is_constant for value in values)
        for value, part in zip(values, torch.split(out.data, widths, -1), strict=True):
            program.lay(part.copy_, value.data)

        def lay_backward() -> None:
            for value, part in zip(values, torch.split(program.zeroed_grad(out), widths, -1), strict=True):
                program.add_to_grad(value, part)

        program.operation(out, lay_backward)
        return out


def _seen(over: Recurrence, t: int) -> tuple[Tensor | None, int]:
    """Mask of a position as a kernel takes it: from one example to the next are so many numbers."""
    if over.seen is None:
        return None, 0
    assert over.seen.is_contiguous()
    return over.seen[:, :, t], over.S


def _gradient_of_cells(program: Program, end: Value) -> Tensor:
    """Gradient of the last cells, zeros where nothing reads them; ``(R, B, D)``, to be given back."""
    if end.grad is not None:
        return end.grad
    d_c = program.take(*end.data.shape)
    program.lay(d_c.zero_)
    return d_c
