r"""
An LSTM that computes the parity
================================

The parity of a string of bits is 1 if the number of its ones is odd. An LSTM with one hidden unit and hand-set weights
keeps the parity of the bits read so far in its cell state :math:`C_t`. Its gates are hard: :math:`\sigma(x) = 1` for
:math:`x > 0`, else 0, and :math:`\tanh(x)` is the sign of :math:`x`, with :math:`\tanh(0) = 0`.

*Source: a course on deep learning, T3.3. Its "bit parity problem mentioned in Question 1" does not exist (E24); this
page takes the parity of the bits read so far, after every bit.*
"""

import torch

from shoal.exact import (
    HARD,
    Gates,
    bit_strings,
    cell_states,
    hard_sigmoid,
    hard_tanh,
    parities,
    parity_cell,
    soft_gates,
)
from shoal.gallery import Axis, Choice, Panel, check, dots, figure, line
from shoal.models import LSTMCell

# %%
# T3.3: the weights
# -----------------
# XOR of the parity so far and the next bit is :math:`(C \wedge \bar x) \vee (\bar C \wedge x)`, which has the form of
# :math:`C_t = f_t C_{t-1} + i_t \tilde C_t`: forget if the bit is 1, and then write the opposite of the state before.
# The weights act on :math:`[h_{t-1}, x_t]`:
#
# .. math::
#
#    W_f &= (0, -1) & \qquad b_f &= \tfrac12 & \qquad f_t &= \bar x_t \\
#    W_i &= (0, 1) & \qquad b_i &= -\tfrac12 & \qquad i_t &= x_t \\
#    W_C &= (-1, 0) & \qquad b_C &= 1 & \qquad \tilde C_t &= \overline{h_{t-1}} \\
#    W_o &= (0, 0) & \qquad b_o &= \tfrac12 & \qquad o_t &= 1, \quad h_t = \tanh(C_t) = C_t
#
# *Assumptions*: the string begins with :math:`h_0 = C_0 = 0`, the parity of no bits; bits are 0 and 1; and
# :math:`\tanh(0) = 0`, which :math:`\tilde C_t` and :math:`h_t` need. :math:`\sigma` is never asked at 0, so whether it
# has 1 there, as the neurons of :doc:`plot_08_threshold_neurons`, makes no difference.

cell = parity_cell()
check("class of the cell", type(cell).__name__, LSTMCell.__name__)
for name, gate, expected in (
    ("f", cell.forget_gate, "(0, -1), 0.5"),
    ("i", cell.input_gate, "(0, 1), -0.5"),
    ("C", cell.candidate_cell, "(-1, 0), 1"),
    ("o", cell.output_gate, "(0, 0), 0.5"),
):
    (of_x, of_h), bias = gate.weight[0].tolist(), gate.bias.item()
    check(f"W_{name} and b_{name}", f"({of_h:g}, {of_x:g}), {bias:g}", expected)

# %%
# All 8,190 strings of up to 12 bits, the cell state after every bit against counting the ones:

strings = wrong = 0
for length in range(1, 13):
    bits = bit_strings(length)
    strings += len(bits)
    wrong += (cell_states(bits) != parities(bits)).sum().item()
check("strings", strings, 8190)
check("cell states that are not the parity", wrong, 0)
check("parity of 1101, counted", parities(torch.tensor([[1, 1, 0, 1]]))[0, -1], 1)

# %%
# Which of the two values at 0 matters, by changing each:

bits = bit_strings(8)


def at_least(x):
    """Threshold as in eq. (1) of the source: 1 for x ≥ 0."""
    return (x >= 0).to(x.dtype)


with_1_at_0 = cell_states(bits, parity_cell(Gates(at_least, hard_tanh)))
check("wrong states with σ(0) = 1", (with_1_at_0 != parities(bits)).sum(), 0)
signs = cell_states(bits, parity_cell(Gates(hard_sigmoid, lambda x: 2 * at_least(x) - 1)))
check("some states are wrong with tanh(0) = 1", bool((signs != parities(bits)).any()), True)

# %%
# A layer of the library
# ----------------------
# The weights run in the library's own ``LSTMCell``; put into its ``LSTM`` layer, which reads whole sequences, they give
# the same.

over, (h, C) = cell.over(bits.unsqueeze(-1), (torch.zeros(256, 1).double(), torch.zeros(256, 1).double()))
check("differences of the layer's outputs from the parity", (over.squeeze(-1) != parities(bits)).sum(), 0)
check("differences of its last cell state", (C.squeeze(-1) != parities(bits)[:, -1]).sum(), 0)

# %%
# Soft gates
# ----------
# With the usual :math:`\sigma` and :math:`\tanh` of :math:`a` times their argument, the gates are a little open where
# they should be closed. The larger :math:`a`, the better; a state counts as right if it lies on the right side of ½. Of
# the 4,096 strings of 12 bits:

bits = bit_strings(12)
right = parities(bits)
check("strings of 12 bits", len(bits), 4096)
for a, share, digit in ((5, 0.019, 5e-4), (8, 0.999, 5e-4), (10, 1.0, 0.0)):
    states = cell_states(bits, parity_cell(soft_gates(a)))
    check(
        f"strings right after every bit, a = {a}",
        ((states > 0.5) == (right > 0.5)).all(1).double().mean(),
        share,
        digit,
    )
for a, error, digit in ((10, 0.13, 5e-3), (20, 0.0014, 5e-5)):
    states = cell_states(bits, parity_cell(soft_gates(a)))
    check(f"largest error of a cell state, a = {a}", (states - right).abs().max(), error, digit)

string = torch.tensor([[1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 0]], dtype=torch.float64)
rows = {"a": [], "bit": [], "state": [], "which": []}
marks = {"bit": list(range(1, 13)), "state": parities(string)[0].tolist(), "which": ["parity"] * 12}
final = {}
for a in (2, 3, 4, 5, 6, 7, 8, 10, 12, 20, "hard"):
    gates = HARD if a == "hard" else soft_gates(a)
    states = cell_states(string, parity_cell(gates))[0]
    final[a] = (states - parities(string)[0]).abs().max().item()
    rows["a"] += [str(a)] * 12
    rows["bit"] += list(range(1, 13))
    rows["state"] += states.tolist()
    rows["which"] += ["cell state"] * 12

figure(
    Panel(
        [dots(marks, "bit", "state", "which", size=90), line(rows, "bit", "state", "which")],
        Axis("bits read, of 1 0 1 1 0 0 1 1 1 0 1 0", domain=(0.7, 12.3), format="d"),
        Axis("parity, and cell state", domain=(-0.2, 1.2)),
        width=420,
    ),
    move=Choice("a", "sharpness a of the gates", "5"),
    caption="Cell state after each bit of one string, beside the parity. Soft gates of little sharpness forget; from "
    "about 8 on they keep up, and hard gates are exact.",
    alternative=f"The largest error over the twelve bits is {final[5]:.2f} at a = 5, {final[10]:.3f} at a = 10, "
    f"{final[20]:.4f} at a = 20 and {final['hard']:g} with hard gates.",
)
