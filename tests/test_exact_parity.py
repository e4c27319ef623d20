"""Parity LSTM: every string up to 12 bits, in the library's own cell, and what of the gates it depends on."""

import pytest
import torch

from shoal.errors import UserError
from shoal.exact import Gates, bit_strings, cell_states, hard_sigmoid, hard_tanh, parity, parity_cell, soft_gates
from shoal.models import LSTMCell
from shoal.models.lstm import LSTM


def literal(bits):
    """Equations (2) to (9) of the document in plain numbers, weights over [h, x] read from the module."""
    h = C = 0.0
    states = []
    for x in bits:
        f, i, C_new, o = (
            w[0] * h + w[1] * x + b
            for w, b in (
                (parity.W_f, parity.b_f),
                (parity.W_i, parity.b_i),
                (parity.W_C, parity.b_C),
                (parity.W_o, parity.b_o),
            )
        )
        C = (f > 0) * C + (i > 0) * ((C_new > 0) - (C_new < 0))
        h = (o > 0) * ((C > 0) - (C < 0))
        states.append(C)
    return states


def test_every_string_up_to_twelve_bits():
    strings = 0
    for length in range(1, 13):
        bits = bit_strings(length)
        assert len({tuple(row) for row in bits.tolist()}) == 2**length
        counted = torch.tensor([[bin(int(n)).count("1") % 2 for n in prefixes(row)] for row in bits.tolist()])
        assert torch.equal(cell_states(bits), counted.double())
        strings += len(bits)
    assert strings == 8190


def prefixes(row):
    number = 0
    for bit in row:
        number = 2 * number + int(bit)
        yield number


def test_cell_is_the_documents_equations():
    bits = bit_strings(8)
    assert cell_states(bits).tolist() == [literal(row) for row in bits.tolist()]


def test_weights_run_in_the_librarys_cell_and_layer():
    """Order [x, h] in the library, [h, x] in the document; a whole layer gives the same as the steps."""
    cell = parity_cell()
    assert type(cell) is LSTMCell and cell.forget_gate.weight.tolist() == [[-1.0, 0.0]]
    assert [cell.candidate_cell.weight.tolist(), cell.candidate_cell.bias.tolist()] == [[[0.0, -1.0]], [1.0]]
    layer = LSTM(1, 1, num_layers=1).double()
    layer.layers[0] = cell
    bits = bit_strings(9)
    outputs, (h, c) = layer(bits[:, :, None])
    assert torch.equal(outputs[:, :, 0], cell_states(bits))
    assert torch.equal(c[0, :, 0], bits.sum(dim=1) % 2) and torch.equal(h, c)


def test_gates_are_those_of_the_equations():
    x = torch.tensor([-2.0, -0.0, 0.0, 1e-30, 3.0], dtype=torch.float64)
    assert hard_sigmoid(x).tolist() == [0, 0, 0, 1, 1]
    assert hard_tanh(x).tolist() == [-1, 0, 0, 1, 1]


def test_tanh_of_zero_matters_and_sigmoid_of_zero_does_not():
    """No gate is ever asked at 0; the candidate cell is."""
    bits = bit_strings(6)
    right = bits.cumsum(dim=1) % 2

    def at_least(x):
        return (x >= 0).to(x.dtype)

    assert torch.equal(cell_states(bits, parity_cell(Gates(at_least, hard_tanh))), right)
    signs = Gates(hard_sigmoid, lambda x: 2 * at_least(x) - 1)
    assert not torch.equal(cell_states(bits, parity_cell(signs)), right)


def test_soft_gates_become_the_hard_ones():
    bits = bit_strings(12)
    right = bits.cumsum(dim=1) % 2
    shares, errors = [], []
    for scale in (5, 8, 10, 20):
        states = cell_states(bits, parity_cell(soft_gates(scale)))
        shares.append(((states > 0.5) == (right > 0.5)).all(dim=1).double().mean().item())
        errors.append((states - right).abs().max().item())
    assert shares == pytest.approx([0.0186, 0.9988, 1, 1], abs=5e-5)
    assert errors[2:] == pytest.approx([0.1314, 0.001407], abs=5e-5)


def test_usual_gates_are_the_default():
    torch.manual_seed(0)
    cell = LSTMCell(3, 4)
    x, h, c = torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 4)
    theirs = torch.nn.LSTMCell(3, 4)
    gates = (cell.input_gate, cell.forget_gate, cell.candidate_cell, cell.output_gate)
    with torch.no_grad():
        theirs.weight_ih.copy_(torch.cat([gate.weight[:, :3] for gate in gates]))
        theirs.weight_hh.copy_(torch.cat([gate.weight[:, 3:] for gate in gates]))
        theirs.bias_ih.zero_()
        theirs.bias_hh.zero_()
    for ours, expected in zip(cell(x, (h, c)), theirs(x, (h, c)), strict=True):
        assert torch.allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda: bit_strings(0),
        lambda: bit_strings(21),
        lambda: bit_strings(2.5),
        lambda: cell_states(torch.tensor([0.0, 1.0])),
        lambda: cell_states(torch.tensor([[0.0, 0.5]])),
        lambda: cell_states(torch.zeros(0, 3)),
        lambda: soft_gates(0),
        lambda: soft_gates(float("nan")),
    ],
)
def test_mistakes_are_one_line(call):
    with pytest.raises(UserError) as raised:
        call()
    assert "\n" not in str(raised.value)
