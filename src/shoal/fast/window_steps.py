"""LSTM layers over windows by kernels that multiply themselves, of widths that are a multiple of 32.

One call is the whole forward pass of a layer. The backward pass goes in chunks of positions: a chunk has as many rows
as stay in the second cache from the steps that make their gradients to the products that read them, which are the
gradients of weights, biases and inputs.

``R`` members, ``B`` examples, ``S`` positions, ``D`` width, ``X`` rows of a table.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from shoal.fast.program import Program, Value
from shoal.fast.window_arguments import member_stride, stride, strides
from shoal.fast.window_ops import Recurrence

State = tuple[Value, Value]  # h and c
ROWS = 256  # of a chunk
COLUMNS = 32  # of which the width must be a multiple: two of the widest vectors


@dataclass(frozen=True)
class Layer:
    """Layer whose passes are recorded, and its arrays.

    Attributes:
        program: program that records them.
        lay: function that records a kernel by its name and arguments.
        x: inputs position by position, ``(R, S B, D_in)``, or a table of them, ``(R, X, D_in)``.
        rows: row of the table at each place, ``(R, S B)``; None where there is no table.
        weight, bias: of the gates, ``(R, 4 D, D_in + D)`` and ``(R, 4 D)``.
        over: order of the positions, and which tokens count.
        before: first states, or None for zeros.
        h: states, ``(R, S B, D)``.
        gates, c: gates, later their gradients, ``(R, S B, 4 D)``, and cells, ``(R, S B, D)``.
    """

    program: Program
    lay: Callable[..., None]
    x: Value
    rows: Tensor | None
    weight: Value
    bias: Value | None
    over: Recurrence
    before: State | None
    h: Value
    gates: Tensor
    c: Tensor

    @property
    def of_input(self) -> Tensor:
        """Weight of the inputs, ``(R, 4 D, D_in)``."""
        return self.weight.data[:, :, : -self.h.data.shape[2]]

    @property
    def of_state(self) -> Tensor:
        """Weight of the states, ``(R, 4 D, D)``."""
        return self.weight.data[:, :, -self.h.data.shape[2] :]

    @property
    def chunks(self) -> list[range]:
        """Positions of each chunk in the order in which they are taken."""
        order, n = self.over.order, max(1, ROWS // self.over.B)
        return [order[start : start + n] for start in range(0, self.over.S, n)]

    def rows_of(self, chunk: range) -> slice:
        """Rows of a chunk of positions."""
        return slice(min(chunk) * self.over.B, (max(chunk) + 1) * self.over.B)

    def before_of(self, t: int) -> tuple[Tensor | None, Tensor | None]:
        """States ``h`` and ``c`` before a position, ``(R, B, D)`` each; None for zeros."""
        if t != self.over.order[0]:
            rows = self.over.rows(t - self.over.order.step)
            return self.h.data[:, rows], self.c[:, rows]
        return (None, None) if self.before is None else (self.before[0].data, self.before[1].data)


def has_steps(program: Program, D: int) -> bool:
    """Return True if the kernels of this module compute layers of a width with the products of a program."""
    return program.products == "own" and program.precision == "float32" and D % COLUMNS == 0


def lay_forward(layer: Layer) -> None:
    """Record the forward pass of a layer: gates, cells and states."""
    program, over, h, x = layer.program, layer.over, layer.h.data, layer.x.data
    assert all(array is None or array.is_contiguous() for array in (layer.rows, over.seen))
    (R, _, D), E, table = h.shape, x.shape[2], None if layer.bias is None else layer.bias.data
    weight = layer.weight.data if layer.rows is None else layer.of_state
    if layer.rows is not None:  # each row of the table is projected once
        table = program.take(*x.shape[:2], 4 * D)
        program.multiply(table, x, layer.of_input.transpose(1, 2), None if layer.bias is None else layer.bias.data)
    panels = program.take(R, weight.shape[2], 4 * D)
    layer.lay("pack_gates", R, D, weight.shape[2], weight, *strides(weight), panels)
    inputs = (None, 0, 0) if layer.rows is not None else (x, E, stride(x))
    layer.lay(
        *("lstm_forwards", R, over.B, D, over.S, over.order.step, panels, *inputs),
        *(*member_stride(table), layer.rows, over.seen),
        *(part for state in layer.before_of(over.order[0]) for part in member_stride(state)),
        *(layer.gates, h, layer.c),
    )
    program.give_back(panels)
    if layer.rows is not None and table is not None:
        program.give_back(table)


def lay_backward(layer: Layer, d_h: Tensor, d_c: Tensor) -> None:
    """Record the backward pass: gradients of weight, bias, inputs and first states; gates become their gradients.

    Args:
        layer: the layer.
        d_h: gradient of the states, ``(R, S B, D)``, which is overwritten.
        d_c: gradient of the last cells, ``(R, B, D)``, which becomes that of the first.
    """
    program, over, gates = layer.program, layer.over, layer.gates
    R, _, D = layer.h.data.shape
    d_first = None if layer.before is None else program.zeroed_grad(layer.before[0])
    d_weight, is_sum = (None, False) if layer.weight.is_constant else program.grad(layer.weight)
    assert not is_sum  # the weight is this layer's alone
    sums, panels, of_state = _sums(layer), program.take(R, D, 4 * D), layer.of_state
    layer.lay("pack_columns", R, D, D, of_state, *strides(of_state), panels)
    is_computed = layer.rows is None and not layer.x.is_constant
    d_x, adds_x = program.grad(layer.x) if is_computed else (None, False)
    after: Tensor | None = None
    for number, chunk in enumerate(reversed(layer.chunks)):
        back, rows = chunk[::-1], layer.rows_of(chunk)
        is_last = back[-1] == over.order[0]
        d_last = d_first if is_last else d_h[:, over.rows(back[-1] + back.step)]
        layer.lay(
            *("lstm_backwards", R, over.B, D, over.S, len(chunk), back[0], back.step, panels, gates, over.seen, after),
            *(layer.c, *member_stride(layer.before_of(back[-1])[1]), d_h, *member_stride(d_last), d_c),
        )
        after = gates[:, over.rows(back[-1])]
        if d_weight is not None:
            _lay_state_gradient(layer, d_weight[:, :, -D:], chunk, add=number > 0)
        tokens = None if layer.rows is None else layer.rows[:, rows]
        if sums is not None:
            layer.lay(
                *("add_rows", R, rows.stop - rows.start, 4 * D, gates[:, rows], gates.stride(0)),
                *(*member_stride(tokens), *member_stride(sums)),
            )
        if layer.rows is None and d_weight is not None:
            _lay_weight_gradient(layer, d_weight[:, :, :-D], gates[:, rows], layer.x.data[:, rows], add=number > 0)
        if d_x is not None:
            program.multiply(d_x[:, rows], gates[:, rows], layer.of_input, add=adds_x)
    program.give_back(panels)
    if layer.before is not None and d_first is not None and after is not None:
        program.multiply(d_first, after, layer.of_state, add=True)
        program.add_to_grad(layer.before[1], d_c)
    if layer.rows is not None and sums is not None:
        _lay_table(layer, sums, d_weight)


def _sums(layer: Layer) -> Tensor | None:
    """Array to which the gates' gradients are added: those of the table's rows, or of a bias that trains; or None."""
    program = layer.program
    if layer.rows is None:
        return None if layer.bias is None or layer.bias.is_constant else program.zeroed_grad(layer.bias)
    sums = program.take(len(layer.gates), layer.x.data.shape[1], layer.gates.shape[2])
    program.lay(sums.zero_)
    return sums


def _lay_table(layer: Layer, d_table: Tensor, d_weight: Tensor | None) -> None:
    """Record the gradients of bias, weight and rows from that of the projected table, which is given back."""
    program, D = layer.program, layer.h.data.shape[2]
    if d_weight is not None:
        program.multiply(d_weight[:, :, :-D], d_table.transpose(1, 2), layer.x.data)
    program.multiply_grad(layer.x, d_table, layer.of_input)
    if layer.bias is not None and not layer.bias.is_constant:
        d_bias = program.zeroed_grad(layer.bias)
        layer.lay("add_rows", *d_table.shape, *member_stride(d_table), None, 0, *member_stride(d_bias))
    program.give_back(d_table)


def _lay_state_gradient(layer: Layer, d_weight: Tensor, chunk: range, add: bool) -> None:
    """Record the part of the gradient of the states' weight that a chunk gives."""
    program, over, B = layer.program, layer.over, layer.over.B
    inner = chunk if chunk[0] != over.order[0] else chunk[1:]
    if len(inner):
        rows = layer.rows_of(inner)
        shift = B * over.order.step
        ahead = layer.h.data[:, rows.start - shift : rows.stop - shift]
        _lay_weight_gradient(layer, d_weight, layer.gates[:, rows], ahead, add)
    elif not add:
        program.lay(d_weight.zero_)
    if chunk[0] == over.order[0] and layer.before is not None:
        _lay_weight_gradient(layer, d_weight, layer.gates[:, over.rows(chunk[0])], layer.before[0].data, add=True)


def _lay_weight_gradient(layer: Layer, d_weight: Tensor, d_gates: Tensor, x: Tensor, add: bool) -> None:
    """Record the gradient of a weight ``(R, 4 D, E)`` from those of gates ``(R, n, 4 D)`` and inputs ``(R, n, E)``."""
    if x.shape[2] % COLUMNS:
        layer.program.multiply(d_weight, d_gates.transpose(1, 2), x, add=add)
        return
    places = (part for matrix in (d_gates, x, d_weight) for part in (matrix, *strides(matrix)))
    R, M, N = d_weight.shape
    layer.lay("weight_gradient", R, M, N, x.shape[1], *places, int(add))
