r"""
AND, OR, and why XOR needs two layers
=====================================

One neuron with a threshold computes AND and OR, and none computes XOR: two layers do.

A linear threshold neuron computes :math:`f(x) = 1` if :math:`w^\top x + b \ge 0`, else 0, of inputs :math:`x` in
:math:`\{0, 1\}^2`. Its line :math:`w^\top x + b = 0` cuts the plane in two; the neuron says 1 on one side, and on the
line.

*Source: a course on deep learning, T2, with its questions 1 and 2.*
"""

import torch

from shoal.exact import AND, NAND, OR, XOR, ThresholdNeuron, certify, inputs, separable_functions
from shoal.gallery import Axis, Choice, Panel, check, dots, figure, rule, words

# %%
# T2.1: weights for AND and OR
# ----------------------------
# AND: :math:`w = (1, 1)`, :math:`b = -1.5`: only :math:`1 + 1` is enough. OR: :math:`w = (1, 1)`, :math:`b = -0.5`: one
# 1 is enough.

for name, neuron, weights, table in (
    ("AND", AND, (1, 1, -1.5), (0, 0, 0, 1)),
    ("OR", OR, (1, 1, -0.5), (0, 1, 1, 1)),
    ("NAND", NAND, (-1, -1, 1.5), (1, 1, 1, 0)),
):
    for unknown, value, expected in zip(("w1", "w2", "b"), (*neuron.w, neuron.b), weights, strict=True):
        check(f"{unknown} of {name}", value, expected)
    for x, expected in zip(inputs(2), table, strict=True):
        check(f"{name} of {x[0]} and {x[1]}", neuron(x), expected)

# %%
# T2.2: XOR has no such neuron
# ----------------------------
# A neuron for XOR would satisfy one inequality for each of the four inputs:
#
# .. math:: b < 0, \qquad w_2 + b \ge 0, \qquad w_1 + b \ge 0, \qquad w_1 + w_2 + b < 0 .
#
# Add the two in the middle: :math:`w_1 + w_2 + 2b \ge 0`. Add the first and the last: :math:`w_1 + w_2 + 2b < 0`. The
# same number would be at least 0 and below 0, so there is none. The proof is a list of *multipliers*, one per
# inequality, here 1, 1, 1, 1; by a theorem of Farkas every set of such inequalities has either a solution or
# multipliers of this kind. ``certify`` returns one or the other, and checks it in exact fractions.

proof = certify(XOR)
print(proof.contradiction())
for x, y in zip(inputs(2), proof.multipliers, strict=True):
    check(f"multiplier of the inequality of {x[0]}{x[1]}", y, 1)
signs = [1 if value else -1 for value in XOR]
rows = [(*x, 1) for x in inputs(2)]
for k, unknown in enumerate(("w1", "w2", "b")):
    total = sum(y * sign * row[k] for y, sign, row in zip(proof.multipliers, signs, rows, strict=True))
    check(f"what is left of {unknown} between the two sides", total, 0)
check("the proof holds in exact fractions", proof.holds(), True)

# %%
# How many functions have one
# ---------------------------
# Of the :math:`2^{2^n}` Boolean functions of :math:`n` inputs, the library finds a neuron or a proof for each. Of two
# inputs all but XOR and its negation have a neuron. The share falls quickly with the number of inputs.

for n, count in ((1, 4), (2, 14), (3, 104)):
    check(f"functions of {n} input{'s' * (n > 1)} with a neuron, of {2**2**n}", len(separable_functions(n)), count)
most = max(sum(a == b for a, b in zip(table, XOR, strict=True)) for table in separable_functions(2))
check("inputs of XOR that the best neuron gets right, of 4", most, 3)

# %%
# Two layers
# ----------
# XOR is "OR, but not AND": a neuron of neurons computes it. Drawn in the plane of the hidden values (OR, NAND), the
# four inputs fall on three points, which a line does separate. The same idea in an LSTM is in
# :doc:`plot_09_parity_lstm`.

for x, expected in zip(inputs(2), XOR, strict=True):
    check(f"AND of (OR, NAND) of {x[0]} and {x[1]}", AND((OR(x), NAND(x))), expected)

# %%
# All functions of two inputs
# ---------------------------

NAMES = {
    (0, 0, 0, 1): "AND",
    (0, 1, 1, 1): "OR",
    (0, 1, 1, 0): "XOR",
    (1, 1, 1, 0): "NAND",
    (1, 0, 0, 0): "NOR",
    (1, 0, 0, 1): "XNOR",
    (0, 0, 1, 0): "x1 and not x2",
    (0, 0, 1, 1): "x1",
}


def ends(neuron, low=-0.4, high=1.4):
    """Ends of the neuron's line within a square, a list of two points."""
    (w1, w2), b = map(float, neuron.w), float(neuron.b)
    points = [(x1, -(b + w1 * x1) / w2) for x1 in (low, high) if w2] + [
        (-(b + w2 * x2) / w1, x2) for x2 in (low, high) if w1
    ]
    inside = [point for point in points if all(low - 1e-9 <= value <= high + 1e-9 for value in point)]
    return [min(inside), max(inside)]


corners = {"function": [], "x1": [], "x2": [], "value": []}
lines = {"function": [], "x1": [], "x2": [], "to_x1": [], "to_x2": []}
texts = {"function": [], "x1": [], "x2": [], "text": []}
for table, name in NAMES.items():
    found = {"AND": AND, "OR": OR, "NAND": NAND}.get(name) or certify(table)
    for x, value in zip(inputs(2), table, strict=True):
        corners["function"].append(name)
        corners["x1"].append(x[0])
        corners["x2"].append(x[1])
        corners["value"].append(f"value {value}")
    texts["function"].append(name)
    texts["x1"].append(0.5)
    texts["x2"].append(1.28)
    if isinstance(found, ThresholdNeuron):
        (a, b), (c, d) = ends(found)
        for column, value in zip(lines, (name, a, b, c, d), strict=True):
            lines[column].append(value)
        texts["text"].append(f"w = ({found.w[0]}, {found.w[1]}), b = {found.b}")
        above = torch.tensor([float(found.pre_activation(x)) for x in inputs(2)]) >= 0
        check(f"corners on the side of their value, {name}", (above == torch.tensor(table)).sum(), 4)
    else:
        texts["text"].append("no line separates the two colours")
        check(f"multipliers of {name} prove it", found.holds(), True)

figure(
    Panel(
        [
            rule(lines, "x1", "x2", "to_x1", "to_x2"),
            dots(corners, "x1", "x2", "value", size=260),
            words(texts, "x1", "x2", "text"),
        ],
        Axis("first input", domain=(-0.4, 1.4), names=["0", "1"]),
        Axis("second input", domain=(-0.4, 1.4), names=["0", "1"]),
        width=320,
        height=320,
    ),
    move=Choice("function", "function", "XOR"),
    caption="The four inputs, coloured by the value of a function, and the line of a threshold neuron that computes "
    "it, where there is one.",
    alternative="For AND the line runs between (1, 1) and the other three inputs, for OR between (0, 0) and the "
    "others. For XOR the values 1 lie at opposite corners and there is no line.",
)
