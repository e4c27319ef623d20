r"""
A bidirectional RNN, and its gradients by hand
==============================================

A bidirectional recurrent network reads a sequence from both ends; this page derives its gradients by hand.

.. math::

   h_t^{(f)} &= \tanh(W^{(f)} x_t + U^{(f)} h_{t-1}^{(f)}) \\
   h_t^{(b)} &= \tanh(W^{(b)} x_t + U^{(b)} h_{t+1}^{(b)}) \\
   y_t &= V^{(f)} h_t^{(f)} + V^{(b)} h_t^{(b)}, \qquad L = \sum_t \lVert z_t - y_t \rVert^2

One direction reads from the left, the other from the right, and the output at each step sees the whole sequence.
``shoal.exact.BidirectionalRNN`` computes the gradients of :math:`L` by the formulas below, in plain arrays and without
automatic differentiation; this page compares them with it.

*Source: a course on representation learning, R3, with its questions 1, 2 (a), 2 (b) and 3.*
"""

import torch

from shoal.exact import BidirectionalRNN, state_jacobian
from shoal.gallery import Axis, Panel, Slider, check, figure, line

f64 = torch.float64
draws = torch.Generator().manual_seed(0)

# %%
# R3.1: what depends on what
# --------------------------
# Unrolled over three steps, :math:`h_1^{(f)} \to h_2^{(f)} \to h_3^{(f)}` along :math:`U^{(f)}` and :math:`h_3^{(b)}
# \to h_2^{(b)} \to h_1^{(b)}` along :math:`U^{(b)}`, with initial states :math:`h_0^{(f)}` and :math:`h_4^{(b)}`. Each
# :math:`x_t` enters both states of its step along :math:`W`, and both enter :math:`y_t` along :math:`V`. The gradients
# of the graph show it: a loss at step 1 alone reaches all inputs, but of the forward states only the first.

rnn = BidirectionalRNN.random(input_size=3, hidden_size=4, output_size=2, seed=0)
x = torch.randn(1, 3, 3, dtype=f64, generator=draws)
z = torch.tensor(rnn.forward(x).outputs)
z[0, 0] += 1  # the other steps have no loss
gradients = rnn.gradients(x, z)
check("inputs that a loss at step 1 reaches", (abs(gradients.x[0]).max(axis=1) > 0).sum(), 3)
check("forward states that it reaches", (abs(gradients.states_f[0]).max(axis=1) > 0).sum(), 1)
check("backward states that it reaches", (abs(gradients.states_b[0]).max(axis=1) > 0).sum(), 3)

# %%
# R3.2 (a), (b): the recursion
# ----------------------------
# With :math:`e_t = 2 (y_t - z_t)`, the loss of one step has the gradients :math:`\nabla_{h_t} L_t = V^\top e_t`, with
# the direction's own :math:`V`. A state acts on the next one through tanh, whose derivative is :math:`1 - \tanh^2`:
#
# .. math:: \left(\frac{\partial h_{t+1}}{\partial h_t}\right)_{ij} = (1 - h_{t+1,i}^2)\, U_{ij}, \qquad
#    \frac{\partial h_{t+1}}{\partial h_t} = \mathrm{diag}(1 - h_{t+1}^2)\, U,
#
# and for the backward direction the same with :math:`t - 1` for :math:`t + 1`. So
#
# .. math:: \nabla_{h_t} L = V^\top e_t + U^\top \bigl((1 - h_{t+1}^2) \odot \nabla_{h_{t+1}} L\bigr).

h = torch.tensor(rnn.forward(x).forward[0])
U = torch.tensor(rnn.U_f)
by_autograd = torch.autograd.functional.jacobian(
    lambda before: torch.tanh(torch.tensor(rnn.W_f) @ x[0, 1] + U @ before), h[0]
)
difference = abs(torch.tensor(state_jacobian(rnn.U_f, h[1])) - by_autograd).max()
check("difference of ∂h_2 / ∂h_1 from automatic differentiation", difference, 0, 1e-14)

# %%
# R3.3: gradients of the weights
# ------------------------------
# A weight acts at every step, so its gradient is a sum over the steps. With :math:`a_t = (1 - h_t^2) \odot \nabla_{h_t}
# L`,
#
# .. math:: \nabla_{W^{(b)}} L = \sum_t a_t^{(b)} x_t^\top, \qquad
#    \nabla_{U^{(f)}} L = \sum_t a_t^{(f)} \bigl(h_{t-1}^{(f)}\bigr)^\top,
#
# and likewise for the other matrices; :math:`\nabla_{x_t} L` collects :math:`W^\top a_t` of both directions, and the
# initial states get :math:`U^\top a` of the first step that reads them. In a batch of sequences of different lengths,
# the backward direction starts at each sequence's own end. All of this is compared with automatic differentiation of
# the equations, written out step by step.

lengths = [7, 1, 4]
x = torch.randn(3, 7, 3, dtype=f64, generator=draws)
z = torch.randn(3, 7, 2, dtype=f64, generator=draws)
start_f, start_b = torch.randn(2, 3, 4, dtype=f64, generator=draws).tanh()
gradients = rnn.gradients(x, z, lengths, start_f, start_b)

names = ("W_f", "U_f", "V_f", "W_b", "U_b", "V_b")
leaves = [torch.tensor(getattr(rnn, name), requires_grad=True) for name in names]
leaves += [value.clone().requires_grad_() for value in (x, start_f, start_b)]
W_f, U_f, V_f, W_b, U_b, V_b, inputs, first_f, first_b = leaves
loss = torch.zeros((), dtype=f64)
for row, T in enumerate(lengths):
    forward, backward = [first_f[row]], [first_b[row]]
    for t in range(T):
        forward.append(torch.tanh(W_f @ inputs[row, t] + U_f @ forward[-1]))
        backward.append(torch.tanh(W_b @ inputs[row, T - 1 - t] + U_b @ backward[-1]))
    for t in range(T):
        y = V_f @ forward[1 + t] + V_b @ backward[T - t]
        loss = loss + (z[row, t] - y).square().sum()
check("loss by the equations, minus the library's", loss.detach() - rnn.loss(x, z, lengths, start_f, start_b), 0, 1e-12)
for name, expected in zip((*names, "x", "start_f", "start_b"), torch.autograd.grad(loss, leaves), strict=True):
    check(
        f"difference of the gradient of {name}",
        (torch.tensor(getattr(gradients, name)) - expected).abs().max(),
        0,
        1e-10,
    )

# %%
# How far a loss reaches
# ----------------------
# Let the loss stand at one step :math:`k` of 20. Its gradient with respect to the forward states is not 0 up to step
# :math:`k` and 0 after it, and that of the backward states from :math:`k` on: the past is learned through one
# direction, the future through the other. On its way the gradient shrinks at every step, by a factor that is
# the subject of :doc:`plot_35_spectral_radius`.

T = 20
wide = BidirectionalRNN.random(input_size=3, hidden_size=16, output_size=2, seed=1)
x = torch.randn(1, T, 3, dtype=f64, generator=draws)
rows = {"k": [], "step": [], "norm": [], "direction": []}
for k in range(1, T + 1):
    z = torch.tensor(wide.forward(x).outputs)
    z[0, k - 1] -= 0.5
    gradients = wide.gradients(x, z)
    for direction, values in (("forward", gradients.states_f), ("backward", gradients.states_b)):
        norms = torch.tensor(values[0]).norm(dim=1)
        seen = range(1, k + 1) if direction == "forward" else range(k, T + 1)
        zero = norms.clone()
        zero[seen.start - 1 : seen.stop - 1] = 0
        if k in (1, 10, 20):
            check(f"{direction} gradient outside its reach, loss at step {k}", zero.max(), 0)
        rows["k"] += [k] * len(seen)
        rows["step"] += list(seen)
        rows["norm"] += norms[seen.start - 1 : seen.stop - 1].tolist()
        rows["direction"] += [direction] * len(seen)

figure(
    Panel(
        [line(rows, "step", "norm", "direction")],
        Axis("step t", domain=(1, T), format="d"),
        Axis("norm of the gradient of the state", log=True, format="~e"),
        width=420,
    ),
    move=Slider("k", "step k of the loss", 10),
    caption="Norms of the gradients of the states of both directions for a loss at step k alone. The forward direction "
    "carries it to the steps before, the backward direction to those after.",
    alternative="For a loss at step 10 of 20, the forward gradient is not zero at steps 1 to 10 and the backward "
    "gradient at steps 10 to 20; both fall with the distance.",
)

# %%
# Learning by these gradients
# ---------------------------
# A task that needs both directions: :math:`z_t = x_{t-1} + x_{t+1}`, the sum of the neighbours. Gradient descent with
# momentum by the formulas above learns it. A network whose backward direction is held at 0 sees no future: it cannot
# know :math:`x_{t+1}`, whose variance here is ¼, and its error stays there. Both are trained again by automatic
# differentiation, from the same matrices, and end at the same error.

T, B = 6, 512
x = 0.5 * torch.randn(B, T, 1, dtype=f64, generator=draws)
x /= 2 * x.square().mean().sqrt()  # of a mean square of exactly 1/4
z = torch.zeros_like(x)
z[:, 1:] += x[:, :-1]
z[:, :-1] += x[:, 1:]
unknown = (x[:, 1:].square().sum() / (B * T)).item()  # mean square of x_{t+1}, 0 at the last step

RATE, MOMENTUM, N_STEPS = 0.05 / (B * T), 0.95, 300


def loss_by_equations(W_f, U_f, V_f, W_b, U_b, V_b):
    """Loss of the batch, by the equations of this page."""
    forward, backward = [torch.zeros(B, 6, dtype=f64)], [torch.zeros(B, 6, dtype=f64)]
    for t in range(T):
        forward.append(torch.tanh(x[:, t] @ W_f.T + forward[-1] @ U_f.T))
        backward.append(torch.tanh(x[:, T - 1 - t] @ W_b.T + backward[-1] @ U_b.T))
    backward = backward[:0:-1]  # in the order of the steps
    return (z - torch.stack(forward[1:], 1) @ V_f.T - torch.stack(backward, 1) @ V_b.T).square().sum()


def error_by_autograd(matrices, trained):
    """Mean squared error after as many steps of the same descent, by automatic differentiation."""
    leaves = {name: torch.tensor(value, requires_grad=name in trained) for name, value in matrices.items()}
    optimizer = torch.optim.SGD([leaves[name] for name in trained], lr=RATE, momentum=MOMENTUM)
    for _ in range(N_STEPS):
        optimizer.zero_grad()
        loss_by_equations(**leaves).backward()
        optimizer.step()
    with torch.no_grad():
        return loss_by_equations(**leaves) / (B * T)


errors = {}
for kind, trained in (("both directions", names), ("forward alone", names[:3])):
    learner = BidirectionalRNN.random(input_size=1, hidden_size=6, output_size=1, seed=2)
    matrices = {name: getattr(learner, name) * (name in trained) for name in names}
    expected = error_by_autograd(matrices, trained)
    speed = dict.fromkeys(names, 0.0)
    for _ in range(N_STEPS):
        gradients = BidirectionalRNN(**matrices).gradients(x, z)
        for name in trained:
            speed[name] = MOMENTUM * speed[name] - RATE * getattr(gradients, name)
            matrices[name] = matrices[name] + speed[name]
    errors[kind] = BidirectionalRNN(**matrices).loss(x, z) / (B * T)
    check(f"mean squared error, {kind}", errors[kind], expected, 1e-9)
check("error with both directions is below 0.02", errors["both directions"] < 0.02, True)
check("error of the forward direction, over the unknown", errors["forward alone"] / unknown, 1, 0.01)
