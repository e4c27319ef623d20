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
from shoal.gallery import Axis, Choice, Panel, Slider, add_rows, check, dots, figure, line, trained

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
# Non-normality
# -------------
# Let a matrix have :math:`\rho` on its diagonal, :math:`a` above it and 0 elsewhere. Its eigenvalues do not depend on
# :math:`a`; its *departure from normality*, :math:`\sqrt{\lVert W \rVert_F^2 - \sum_i |\lambda_i|^2}`, is
# :math:`a \sqrt{n - 1}`. For :math:`n = 2` the norms of the powers are
#
# .. math:: \lVert W^t \rVert = \tfrac12 (y + \sqrt{y^2 + 4 x^2}), \qquad x = \rho^t, \quad y = a\, t\, \rho^{t-1} ,
#
# and for any :math:`n` the powers have the entries :math:`\binom{t}{k} \rho^{t-k} a^k` on the diagonal :math:`k` places
# above the main one. Their norm lies between the largest entry and the Frobenius norm.
#
# Eigenvalues of a matrix that is far from normal are also sensitive: an error :math:`\delta` in the lower left corner
# moves them to a circle of radius :math:`(\delta a^{n-1})^{1/n}` around :math:`\rho`.


def triangular(rho, a, n):
    """Matrix with ρ on its diagonal and a above it, ``(n, n)``."""
    return rho * torch.eye(n, dtype=f64) + a * jordan_block(0, n)


def entries(rho, a, n, t):
    """Entries of the powers ``t`` on the n diagonals from the main one upwards, ``(T, n)``, by the formula."""
    t, k = t.double().unsqueeze(1), torch.arange(n, dtype=f64)
    binomials = torch.exp(torch.lgamma(t + 1) - torch.lgamma(k + 1) - torch.lgamma((t - k).clamp(min=0) + 1))
    return torch.where(k <= t, binomials * rho ** (t - k) * a**k, 0)


SIZES = {"2 × 2, a above ρ": 2, "8 × 8, a above ρ": 8}
radii, offs, steps, delta = [0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1], [0, 0.1, 0.3, 1, 3, 10], 120, 1e-8
t = torch.arange(steps + 1)
settings = [(rho, a, name, n) for rho in radii for a in offs for name, n in SIZES.items()]
norms, moved, outside = {}, {}, 0  # norms of powers and eigenvalues with the error, by setting
off_norm, off_departure, off_circle = [], [], []
for rho, a, name, n in settings:
    W = triangular(rho, a, n)
    norm = norms[rho, a, name] = power_norms(W, steps)
    by_formula = entries(rho, a, n, t)
    frobenius = (by_formula.square() * torch.arange(n, 0, -1)).sum(1).sqrt()  # diagonal k has n - k entries
    outside += ((norm < by_formula.amax(1) * (1 - 1e-9)) | (norm > frobenius * (1 + 1e-9))).sum()
    if n == 2:
        x, y = by_formula.unbind(1)
        off_norm.append((norm / ((y + (y**2 + 4 * x**2).sqrt()) / 2) - 1).abs().max())
    departure = (W.square().sum() - n * rho**2).clamp(min=0).sqrt()
    off_departure.append(abs(departure - a * (n - 1) ** 0.5))
    W[-1, 0] += delta
    values = moved[rho, a, name] = torch.linalg.eigvals(W)
    off_circle.append(((values - rho).abs() - (delta * a ** (n - 1)) ** (1 / n)).abs().max())
check("2 × 2: largest relative error of the formula", max(off_norm), 0, 1e-9)
check("powers whose norm is not between largest entry and Frobenius norm", outside, 0)
check("largest difference of the departure from normality from its formula", max(off_departure), 0, 1e-6)
check("largest difference of a moved eigenvalue from its circle", max(off_circle), 0, 1e-6)
distance = (moved[0.9, 1, "8 × 8, a above ρ"] - 0.9).abs().max()
check("8 × 8, a = 1: how far an error of 1e-8 moves an eigenvalue", distance, 0.1, 1e-6)

# %%
# Move the radius, and move :math:`a`: the eigenvalues stay, the norms do not.

NORMAL, TWO, EIGHT = "rotation (normal)", *SIZES
curves, points, moved_curves, moved_points = {}, {}, {}, {}
every = t[::2]  # shown steps
for rho in radii:
    norm = norms[rho, NORMAL] = power_norms(rotation(rho), steps)
    values = torch.linalg.eigvals(rotation(rho))
    add_rows(curves, radius=rho, t=every, norm=norm[every], matrix=NORMAL)
    add_rows(points, radius=rho, real=values.real, imaginary=values.imag, matrix=NORMAL)
for rho, a, name, _ in settings:
    norm, values = norms[rho, a, name], moved[rho, a, name]
    add_rows(moved_curves, radius=rho, a=a, t=every, norm=norm[every], matrix=name)
    add_rows(moved_points, radius=rho, a=a, real=values.real, imaginary=values.imag, matrix=name)
turn = torch.linspace(0, 6.2832, 121, dtype=f64)
upper, lower = ({"real": arc.cos(), "imaginary": arc.sin()} for arc in (turn[:61], turn[60:]))
one = {"t": [0, steps], "norm": [1, 1]}
exact = {"radius": radii, "real": radii, "imaginary": [0] * len(radii)}

figure(
    Panel(
        [
            *(line(arc, "real", "imaginary") for arc in (upper, lower)),
            dots(points, "real", "imaginary", "matrix", size=80),
            dots(moved_points, "real", "imaginary", "matrix", size=50),
            dots(exact, "real", "imaginary", size=14, opacity=1),
        ],
        Axis("real part", domain=(-1.9, 1.9)),
        Axis("imaginary part", domain=(-1.9, 1.9)),
        title="Eigenvalues, and the unit circle",
        width=260,
        height=260,
    ),
    Panel(
        [
            line(one, "t", "norm", dashed=True),
            *(line(rows, "t", "norm", "matrix") for rows in (curves, moved_curves)),
        ],
        Axis("steps t", format="d"),
        Axis("norm of W^t", log=True, domain=(1e-6, 1e15), format="~e"),
        title="Norms of powers",
        height=260,
    ),
    move=[Slider("radius", "spectral radius", 0.9), Choice("a", "non-normality: entry a above the diagonal", 1)],
    caption="Right: norms of the powers of three matrices of the same spectral radius, on a logarithmic axis. For the "
    "normal one this is a straight line from the start; the others grow first, the more the larger a. Left: their "
    f"eigenvalues. Those of the triangular ones lie at the dark dot, whatever a; around it is where an error of "
    f"{delta:g} in the lower left corner moves them.",
    alternative=f"At a radius of 0.9 the norm of the rotation falls from 1 to {norms[0.9, NORMAL][-1]:.1g} in {steps} "
    f"steps. With a = 10 that of the 2 × 2 matrix rises to {norms[0.9, 10, TWO].max():.2f} and falls to "
    f"{norms[0.9, 10, TWO][-1]:.2g}. With a = 1 that of the 8 × 8 matrix rises to {norms[0.9, 1, EIGHT].max():,.0f} "
    f"and is {norms[0.9, 1, EIGHT][-1]:,.0f} at the end.",
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
norm = torch.linalg.matrix_norm(steps[-1], ord=2)
check("norm of a step, from the eigenvalues of Jᵀ J", norm, spectral_radius(steps[-1].T @ steps[-1]) ** 0.5, 1e-9)
check("the norm of a step is above 1", bool(norm > 1), True)
check("its spectral radius is below 1", radius < 1, True)
