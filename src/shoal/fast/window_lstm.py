"""LSTM layers over windows of tokens as a product and a kernel for each time step, and what moves their states.

What does not wait for the state before leaves the recurrence: the inputs of all positions are projected in one product,
and the gradients of weights, biases and inputs are one product or sum over all positions.

``R`` members, ``B`` examples, ``S`` positions, ``D`` width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from shoal.fast import matmul
from shoal.fast.kernels import Argument, KernelOps, Library
from shoal.fast.panels import right_matrix
from shoal.fast.program import Program, Value
from shoal.fast.window_ops import Recurrence

State = tuple[Value, Value]  # h and c


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
        self, x: Value, weight: Value, bias: Value | None, over: Recurrence, before: State | None
    ) -> tuple[Value, State]:
        """See :class:`~shoal.fast.window_ops.WindowOps`."""
        program, R, D, B = self.program, x.data.shape[0], weight.data.shape[1] // 4, over.B
        n, of_state = over.S * B, weight.data[:, :, -D:].transpose(1, 2)
        ends = program.value(R, B, D), program.value(R, B, D)
        h, gates, c = program.value(R, n, D), program.take(R, n, 4 * D), program.take(R, n, D)
        is_constant = all(value is None or value.is_constant for value in (x, weight, bias, *(before or ())))
        h.is_constant = ends[0].is_constant = ends[1].is_constant = is_constant
        self._read |= {x, weight, h, *ends, *(before or ())}
        of_input = weight.data[:, :, :-D].transpose(1, 2)
        program.multiply(gates, x.data, of_input, None if bias is None else bias.data)
        self._lay_steps(of_state, over, before, h.data, gates, c)
        for end, states in zip(ends, (h.data, c), strict=True):
            program.lay(end.data.copy_, states[:, over.rows(over.order[-1])])
            program.operation(end, lambda: None)  # its gradient is read by the layer's, and its memory is free after

        def lay_backward() -> None:
            self._lay_steps_back(weight, over, before, ends, h, gates, c)
            self._lay_gradients(x, weight, bias, over, before, h, gates)

        program.operation(h, lay_backward, gates, c)
        return h, ends

    def _lay_steps(
        self, of_state: Tensor, over: Recurrence, before: State | None, h: Tensor, gates: Tensor, c: Tensor
    ) -> None:
        """Record the forward pass through time, from the projected inputs in ``gates``."""
        program, (R, n, D) = self.program, h.shape
        first_h, first_c, first_stride = _first(before)
        states = [first_h, *(h[:, over.rows(t)] for t in over.order[:-1])]
        cells = [first_c, *(c[:, over.rows(t)] for t in over.order[:-1])]
        if program.products == "own":
            matrix = right_matrix(program, of_state, over.S)
            products = [
                matrix.operands(gates[:, over.rows(t)], state)
                for t, state in zip(over.order, states, strict=True)
                if state is not None
            ]
            self._lay_window(
                *("lstm_steps", *_several(products), R, over.S, over.B, D, int(over.is_backward), gates),
                *(_seen(over, 0)[0], first_h, first_c, first_stride, h, c),
            )
            matrix.give_back()
            return
        for t, state, cell in zip(over.order, states, cells, strict=True):
            now = over.rows(t)
            if state is not None:
                program.multiply(gates[:, now], state, of_state, add=True)
            self._lay_window(
                *("lstm_step", R, over.B, D, gates[:, now], 4 * n * D, *_seen(over, t), state, cell),
                *(0 if cell is None else cell.stride(0), h[:, now], c[:, now], n * D),
            )

    def _lay_steps_back(
        self,
        weight: Value,
        over: Recurrence,
        before: State | None,
        ends: State,
        h: Value,
        gates: Tensor,
        c: Tensor,
    ) -> None:
        """Record the backward pass through time: gates become their gradients, and those of h and c are overwritten."""
        program, (R, n, D), of_state = self.program, h.data.shape, weight.data[:, :, -h.data.shape[2] :]
        d_h, d_h_end, d_c = program.zeroed_grad(h), program.zeroed_grad(ends[0]), program.zeroed_grad(ends[1])
        d_first = None if before is None else program.zeroed_grad(before[0])
        _, first_c, first_stride = _first(before)
        order, previous = over.order[::-1], over.order[-2::-1]
        d_states = [*(d_h[:, over.rows(t)] for t in previous), d_first]
        cells = [*(c[:, over.rows(t)] for t in previous), first_c]
        program.lay(d_h[:, over.rows(order[0])].add_, d_h_end)
        if program.products == "own":
            matrix = right_matrix(program, of_state, over.S)
            products = [
                matrix.operands(d_state, gates[:, over.rows(t)])
                for t, d_state in zip(order, d_states, strict=True)
                if d_state is not None
            ]
            self._lay_window(
                *("lstm_steps_backward", *_several(products), R, over.S, over.B, D, int(over.is_backward), gates),
                *(_seen(over, 0)[0], first_c, first_stride, c, d_h, d_first),
                *(0 if d_first is None else d_first.stride(0), d_c),
            )
            matrix.give_back()
        else:
            for t, d_state, cell in zip(order, d_states, cells, strict=True):
                now = over.rows(t)
                self._lay_window(
                    *("lstm_step_backward", R, over.B, D, gates[:, now], 4 * n * D, *_seen(over, t), cell),
                    *(0 if cell is None else cell.stride(0), c[:, now], d_h[:, now], n * D, d_state),
                    *(0 if d_state is None else d_state.stride(0), d_c),
                )
                if d_state is not None:
                    program.multiply(d_state, gates[:, now], of_state, add=True)
        if before is not None:
            program.add_to_grad(before[1], d_c)

    def _lay_gradients(
        self,
        x: Value,
        weight: Value,
        bias: Value | None,
        over: Recurrence,
        before: State | None,
        h: Value,
        gates: Tensor,
    ) -> None:
        """Record the gradients of weight, bias and inputs from those of the gates, all positions at once."""
        program, (_, n, D), B = self.program, h.data.shape, over.B
        if not weight.is_constant:
            d_weight, is_sum = program.grad(weight)
            assert not is_sum  # the weight is this layer's alone
            program.multiply(d_weight[:, :, :-D], gates.transpose(1, 2), x.data)
            behind, ahead = (slice(0, n - B), slice(B, n)) if over.is_backward else (slice(B, n), slice(0, n - B))
            program.multiply(d_weight[:, :, -D:], gates[:, behind].transpose(1, 2), h.data[:, ahead])
            if before is not None:
                first = over.rows(over.order[0])
                program.multiply(d_weight[:, :, -D:], gates[:, first].transpose(1, 2), before[0].data, add=True)
        if bias is not None:
            program.write_grad(bias, torch.sum, gates, 1)
        program.multiply_grad(x, gates, weight.data[:, :, :-D])

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


def _first(before: State | None) -> tuple[Tensor | None, Tensor | None, int]:
    """First ``h`` and ``c``, and the stride from one member to the next that both have."""
    if before is None:
        return None, None, 0
    h, c = (value.data for value in before)
    assert h.stride() == c.stride()
    return h, c, h.stride(0)


def _several(products: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[int, Tensor, int]:
    """Products that are added to their results, as a kernel calls them one after the other."""
    return matmul.several([matmul.product(out, a, b, accumulate=True) for out, a, b in products])


def _seen(over: Recurrence, t: int) -> tuple[Tensor | None, int]:
    """Mask of a position as a kernel takes it: from one example to the next are so many numbers."""
    if over.seen is None:
        return None, 0
    assert over.seen.is_contiguous()
    return over.seen[:, :, t], over.S
