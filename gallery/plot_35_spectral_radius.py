r"""
Vanishing and exploding: the spectral radius, and what it leaves out
====================================================================

A linear recurrence shrinks or grows by its largest eigenvalue in the end, and can do the opposite before.

The recurrence :math:`h_t = W^\top h_{t-1}` has the solution

.. math:: h_t = (W^\top)^t \, h_0 .

If :math:`W^\top` has a basis of eigenvectors :math:`v_i` with eigenvalues :math:`\lambda_i`, which are those of
:math:`W`, and :math:`h_0 = \sum_i a_i v_i`, then :math:`h_t = \sum_i a_i \lambda_i^t v_i`: each part grows or shrinks
on its own, and after many steps that with the largest :math:`|\lambda_i|` is left. The largest is the spectral radius
:math:`\rho(W)`: for :math:`\rho < 1` every :math:`h_t` vanishes in the end, for :math:`\rho > 1` almost every one
explodes. Gradients are multiplied by the same powers on their way back. This page shows the rule, and three things that
it leaves out.

*Source: a course on deep learning, T3.5.*
"""

import torch

import shoal
from shoal.analysis import jacobian_products, state_jacobians
from shoal.exact import jordan_block, power_norms, recurrence, spectral_radius
from shoal.gallery import Axis, Panel, Slider, check, dots, figure, line, trained

f64 = torch.float64

# %%
# The rule
# --------
# A matrix that is *normal*, such as a rotation times :math:`\rho`, has :math:`\lVert W^t \rVert = \rho^t` exactly.


def rotation(radius, angle=0.5):
    """Rotation of the plane by an angle in radians, times a radius: the eigenvalues are radius · exp(± i angle)."""
    turn = torch.tensor([0.0, angle], dtype=f64)
    cos, sin = turn.cos()[1], turn.sin()[1]
    return radius * torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])])


for rho, values in ((0.9, {10: 0.3487, 50: 0.00515, 100: 2.66e-5}), (1.1, {10: 2.594, 50: 117.4, 100: 13781.0})):
    norms = power_norms(rotation(rho), 100)
    check(f"spectral radius of the rotation times {rho}", spectral_radius(rotation(rho)), rho, 1e-12)
    for t, expected in values.items():
        check(f"norm of W^{t} for ρ = {rho}", norms[t], expected, 2e-3 * expected)

h_0 = torch.tensor([0.6, 0.8], dtype=f64)
states = recurrence(rotation(0.9), h_0, 100)
direct = torch.linalg.matrix_power(rotation(0.9).T, 100) @ h_0
check("largest difference of h_100 from (Wᵀ)^100 h_0", (states[100] - direct).abs().max(), 0, 1e-15)

# %%
# An eigenvalue that stands twice
# -------------------------------
# Without a basis of eigenvectors there are factors of :math:`t` beside :math:`\lambda^t`. The Jordan block
# :math:`\begin{pmatrix} 1 & 1 \\ 0 & 1 \end{pmatrix}` has :math:`\rho = 1` and neither keeps nor loses: its powers grow
# like :math:`t`, without end.

norms = power_norms(jordan_block(1, 2), 100)
check("norm of the 10th power of the block with ρ = 1", norms[10], 10.099, 5e-4)
check("norm of its 100th power", norms[100], 100.01, 5e-3)

# %%
# Shrinking comes late
# --------------------
# With :math:`\rho < 1` all powers vanish *in the end*. Before, they may grow: the matrix :math:`\begin{pmatrix} 0.9 &
# 10 \\ 0 & 0.9 \end{pmatrix}` has :math:`\rho = 0.9`, and its powers grow to 38.75 at :math:`t = 9` and are below 1
# only from :math:`t = 63`. A Jordan block of size 8 with the same radius reaches 1.6 million. Such matrices are
# *non-normal*: their eigenvectors are nearly parallel, and parts that cancelled each other in :math:`h_0` shrink or
# turn at different speeds.

sheared = torch.tensor([[0.9, 10], [0, 0.9]], dtype=f64)
for name, W, steps, peak, digit, at, below in (
    ("[[0.9, 10], [0, 0.9]]", sheared, 100, 38.75, 5e-3, 9, 63),
    ("8 × 8 Jordan block of 0.9", jordan_block(0.9, 8), 400, 1.586e6, 500, 69, 306),
):
    norms = power_norms(W, steps)
    check(f"largest norm of a power of {name}", norms.max(), peak, digit)
    check(f"power at which it is reached, {name}", norms.argmax(), at)
    check(f"power from which all are below 1, {name}", (norms >= 1).nonzero().max() + 1, below)

# %%
# Where the state starts
# ----------------------
# :math:`\rho > 1` explodes only what has a part in the direction of a large eigenvalue. With eigenvalues 1.2 and 0.5,
# an :math:`h_0` along the eigenvector of 0.5 vanishes, in exact arithmetic. (Rounding adds a part of the other one
# sooner or later, and a random :math:`h_0` has it from the start. So this is no way to keep gradients small.)

W = torch.tensor([[1.2, 0.0], [0.0, 0.5]], dtype=f64)
check("spectral radius", spectral_radius(W), 1.2, 1e-12)
check("norm of h_50 from the direction of 0.5", recurrence(W, torch.tensor([0.0, 1.0]), 50)[50].norm(), 0.5**50, 1e-20)
check("norm of h_50 from a random direction, over 1.2^50", recurrence(W, h_0, 50)[50].norm() / 1.2**50, 0.6, 1e-12)

# %%
# Three matrices of the same spectral radius
# ------------------------------------------

steps = 120
radii = [0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1]
curves = {"radius": [], "t": [], "norm": [], "matrix": []}
eigenvalues = {"radius": [], "real": [], "imaginary": [], "matrix": []}
crossing = {}
for radius in radii:
    upper = torch.tensor([[radius, 10], [0, radius]], dtype=f64)
    block = jordan_block(radius, 8)
    for name, W, values in (
        ("rotation (normal)", rotation(radius), torch.linalg.eigvals(rotation(radius))),
        ("2 × 2, off-diagonal 10", upper, torch.tensor([radius], dtype=torch.complex128)),
        ("8 × 8 Jordan block", block, torch.tensor([radius], dtype=torch.complex128)),
    ):
        norms = power_norms(W, steps)
        crossing[name, radius] = norms[-1].item()
        curves["radius"] += [radius] * (steps + 1)
        curves["t"] += list(range(steps + 1))
        curves["norm"] += norms.tolist()
        curves["matrix"] += [name] * (steps + 1)
        eigenvalues["radius"] += [radius] * len(values)
        eigenvalues["real"] += values.real.tolist()
        eigenvalues["imaginary"] += values.imag.tolist()
        eigenvalues["matrix"] += [name] * len(values)
turn = torch.linspace(0, 6.2832, 121, dtype=f64)
top, bottom = turn[:61].cos(), turn[60:].cos()
circle = {"real": top, "imaginary": turn[:61].sin()}
lower = {"real": bottom, "imaginary": turn[60:].sin()}
one = {"t": [0, steps], "norm": [1, 1]}

figure(
    Panel(
        [
            line(circle, "real", "imaginary"),
            line(lower, "real", "imaginary"),
            dots(eigenvalues, "real", "imaginary", "matrix", size=80),
        ],
        Axis("real part", domain=(-1.2, 1.2)),
        Axis("imaginary part", domain=(-1.2, 1.2)),
        title="Eigenvalues, and the unit circle",
        width=260,
        height=260,
    ),
    Panel(
        [line(one, "t", "norm", dashed=True), line(curves, "t", "norm", "matrix")],
        Axis("steps t", format="d"),
        Axis("norm of W^t", log=True, format="~e"),
        title="Norms of powers",
        height=260,
    ),
    move=Slider("radius", "spectral radius", 0.9),
    caption="Three matrices whose eigenvalues have the same absolute value, and the norms of their powers on a "
    "logarithmic axis. Only for the normal one is this a straight line from the start; the others grow first. Each of "
    "these two has one eigenvalue, the radius, so that their dots coincide.",
    alternative="At a radius of 0.9 the norm of the rotation falls from 1 to 3e-6 in 120 steps, that of the 2 × 2 "
    f"matrix rises to 38.75 and falls to {crossing['2 × 2, off-diagonal 10', 0.9]:.2g}, that of the Jordan block rises "
    f"to 1.6e6 and is {crossing['8 × 8 Jordan block', 0.9]:.2g} at the end.",
)

# %%
# In a trained LSTM
# -----------------
# An LSTM is no linear recurrence, but it becomes one near a state that a step does not change. Here an LSTM that has
# learned addition modulo 7 reads the same token over and over. Its state settles, the Jacobian :math:`J` of a step
# settles with it, and from then on a gradient over one more step is multiplied by :math:`\rho(J)`.

run = trained(
    shoal.RunSpec(model="lstm", p=7, r_train=0.7, embedding_size=16, hidden_size=16, num_layers=1, n_steps=200, lr=3e-3)
)
steps = state_jacobians(run.model(), torch.full((240,), 3))
norms = torch.linalg.matrix_norm(jacobian_products(steps), ord=2)
radius = spectral_radius(steps[-1])
check("change of the step's Jacobian at the end", (steps[-1] - steps[-2]).abs().max(), 0, 1e-6)
check("growth per step over the last 40 steps", (norms[239] / norms[199]) ** (1 / 40), radius, 1e-3)
print(f"spectral radius of a step {radius:.4f}; norm of a step {torch.linalg.matrix_norm(steps[-1], ord=2):.3f}")
