"""LSTM with given weights whose cell state is the parity of the bits read so far.

Source: the deep learning course, problem 3.3. The weights act on ``[h_{t-1}, x_t]``, with one hidden unit::

    W_f = (0, −1)   b_f = ½       f_t = 1 if x_t = 0, else 0:    a 0 keeps the parity
    W_i = (0, 1)    b_i = −½      i_t = 1 if x_t = 1, else 0:    a 1 replaces it
    W_C = (−1, 0)   b_C = 1       C̃_t = 1 if h_{t-1} = 0, else 0: by its opposite
    W_o = (0, 0)    b_o = ½       o_t = 1:                       h_t = tanh(C_t) = C_t

so that eq. (5), ``C_t = f_t C_{t-1} + i_t C̃_t``, is ``(x̄ ∧ C) ∨ (x ∧ C̄)``. It needs σ(0) = 0 of eq. (8) nowhere, and
tanh(0) = 0 of eq. (9) at C̃ and at h. A string begins with h_0 = C_0 = 0, the parity of no bits. The weights run in the
library's :class:`~shoal.models.LSTMCell`, whose order is ``[x, h]``.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from shoal.errors import UserError
from shoal.models.lstm import LSTMCell, NonLinearity

# weights over [h_{t-1}, x_t], and biases, by the letters of the source
W_f, b_f = (0.0, -1.0), 0.5
W_i, b_i = (0.0, 1.0), -0.5
W_C, b_C = (-1.0, 0.0), 1.0
W_o, b_o = (0.0, 0.0), 0.5

_MOST_BITS = 20


def hard_sigmoid(x: Tensor) -> Tensor:
    """σ(x) of eq. (8): 1 if x > 0, otherwise 0. A threshold neuron, eq. (1), has 1 at x = 0 as well."""
    return (x > 0).to(x.dtype)


def hard_tanh(x: Tensor) -> Tensor:
    """tanh(x) of eq. (9): the sign of x, and 0 at 0."""
    return x.sign()


class Gates(NamedTuple):
    """Non-linearities of an LSTM: σ of its three gates, and tanh of the candidate cell and the output."""

    sigmoid: NonLinearity
    tanh: NonLinearity


HARD = Gates(hard_sigmoid, hard_tanh)


def soft_gates(scale: float) -> Gates:
    """The usual σ and tanh of ``scale`` times their argument; they approach :data:`HARD` as the scale grows.

    Raises:
        UserError: the scale is not a positive number.
    """
    if not 0 < scale < float("inf"):
        raise UserError(f"scale is {scale!r}: it must be a positive number")
    return Gates(lambda x: torch.sigmoid(scale * x), lambda x: torch.tanh(scale * x))


def parity_cell(gates: Gates = HARD) -> LSTMCell:
    """Cell of one input and one hidden unit with the weights of this module, in float64."""
    cell = LSTMCell(1, 1, sigmoid=gates.sigmoid, tanh=gates.tanh).double().requires_grad_(False)
    weights = {
        cell.forget_gate: (W_f, b_f),
        cell.input_gate: (W_i, b_i),
        cell.candidate_cell: (W_C, b_C),
        cell.output_gate: (W_o, b_o),
    }
    for gate, ((of_h, of_x), bias) in weights.items():
        gate.weight.copy_(torch.tensor([[of_x, of_h]]))
        gate.bias.fill_(bias)
    return cell


def bit_strings(length: int) -> Tensor:
    """All strings of a length, ``(2^length, length)``, float64, in the order of the numbers that they write.

    Raises:
        UserError: the length is not from 1 to 20.
    """
    if length not in range(1, _MOST_BITS + 1):
        raise UserError(f"length is {length!r}: it is from 1 to {_MOST_BITS}")
    places = torch.arange(length - 1, -1, -1)
    return (torch.arange(2**length)[:, None] >> places & 1).double()


def parities(bits: Tensor) -> Tensor:
    """Parity of the bits read so far, by counting: ``(B, S) -> (B, S)``."""
    return bits.cumsum(dim=1) % 2


def cell_states(bits: Tensor, cell: LSTMCell | None = None) -> Tensor:
    """Cell state C_t after each bit.

    Args:
        bits: strings of 0 and 1, ``(B, S)``.
        cell: a cell of one input and one hidden unit; :func:`parity_cell` when not given.

    Returns:
        ``(B, S)``, in the type of the cell.

    Raises:
        UserError: there are no strings of bits.
    """
    if bits.ndim != 2 or bits.numel() == 0 or not ((bits == 0) | (bits == 1)).all():
        raise UserError(f"bits has the shape {tuple(bits.shape)}: it must be (strings, bits), each bit 0 or 1")
    cell = parity_cell() if cell is None else cell
    bits = bits.to(cell.forget_gate.weight)
    h = C = bits.new_zeros(len(bits), 1)  # (B, 1)
    states = []
    for x in bits.unbind(dim=1):
        h, C = cell(x[:, None], (h, C))
        states.append(C)
    return torch.cat(states, dim=1)  # (B, S)
