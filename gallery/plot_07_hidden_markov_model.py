r"""
A hidden Markov model, and how EM learns its transitions
========================================================

A hidden Markov model is a chain of states that are not seen; EM learns how they follow each other from what is seen.

A hidden Markov model has states :math:`Z_1, \dots, Z_n`, of which each depends on the one before it, and observations
:math:`Y_i`, of which each depends on its own state:

.. math:: p(Z, Y) = \pi_{Z_1} \prod_{i=1}^{n-1} P_{Z_i Z_{i+1}} \prod_{i=1}^{n} p(Y_i \mid Z_i) .

Expectation maximisation (EM) learns :math:`P` from observations alone, by the posterior of the states. Two forms of
that posterior are easily taken for each other, and only one of them makes the update EM. This page computes both with
``shoal.hmm``, and again by their definition, as sums over every path of states.

*Source: exercises on language models, L3, with its questions (a) to (e). What (d) and (e) have wrong is* E10 *of the
errata.*
"""

import torch

import shoal
from shoal.gallery import Axis, Panel, Slider, check, dots, figure, line, trained
from shoal.hmm import (
    HMM,
    Categorical,
    Sequences,
    expected_counts,
    fit,
    log_likelihood,
    messages,
    pairwise_posteriors,
    posterior_transitions,
)
from shoal.tasks.sequences.data import load

f64 = torch.float64
draws = torch.Generator().manual_seed(0)


def tensor(values):
    """Numbers as a tensor of float64."""
    return torch.as_tensor(values, dtype=f64)


def apart(one, other):
    """Largest difference between the entries of two arrays."""
    return (tensor(one) - tensor(other)).abs().max()


# %%
# L3 (a): messages, and the posterior of two neighbours
# -----------------------------------------------------
# With :math:`\ell_i(j) = p(y_i \mid Z_i = j)`, the messages are
#
# .. math::
#
#    \alpha_i(j) &= p(Z_i = j,\ y_1, \dots, y_{i-1}) \\
#    \alpha_1 &= \pi, \qquad \alpha_{i+1}(k) = \sum_j \alpha_i(j)\, \ell_i(j)\, P_{jk} \\
#    \beta_i(j) &= p(y_{i+1}, \dots, y_n \mid Z_i = j) \\
#    \beta_n &= 1, \qquad \beta_i(j) = \sum_k P_{jk}\, \ell_{i+1}(k)\, \beta_{i+1}(k) .
#
# :math:`\alpha_i` leaves out the observation of its own place. Given :math:`Z_i` and :math:`Z_{i+1}`, the observations
# before, at and behind the two places are independent, so the joint probability is a product with one factor for each:
#
# .. math:: p(Z_i = j, Z_{i+1} = k, y) = \alpha_i(j)\, \ell_i(j)\, P_{jk}\, \ell_{i+1}(k)\, \beta_{i+1}(k) .
#
# The sum over :math:`j` and :math:`k` is :math:`p(y) = (\ell_i \odot \alpha_i)^\top P\, (\beta_{i+1} \odot
# \ell_{i+1})`, at every place :math:`i` the same, and the quotient is the *pairwise posterior* :math:`\xi^{(i)}_{jk} =
# p(Z_i = j, Z_{i+1} = k \mid y)`.
#
# The definitions need no recursion: each is a sum over paths. Here are all of them for three states and six
# observations, beside the library's messages.


def joint(start, P, emissions, y, first=0, seen=None):
    """Paths ``(N, n)`` of states, and p(path, y) of each ``(…, N)``, factor by factor.

    Models may have leading axes. ``first`` is the first place of the path in ``y``; without a start (None) the first
    state is given. ``seen`` are the places of the path whose observations count, by default all.
    """
    start, P, emissions = (None if values is None else tensor(values) for values in (start, P, emissions))
    K, n = P.shape[-1], len(y) - first
    paths = torch.cartesian_prod(*[torch.arange(K)] * n).reshape(-1, n)
    p = torch.ones(len(paths), dtype=f64) if start is None else start[..., paths[:, 0]]
    for i in range(n - 1):
        p = p * P[..., paths[:, i], paths[:, i + 1]]
    for i in range(n) if seen is None else seen:
        p = p * emissions[..., paths[:, i], y[first + i]]
    return paths, p


def ending(paths, p, place, K):
    """Sums of p over the paths that are in each state at a place, ``(…, K)``."""
    return torch.stack([p[..., paths[:, place] == k].sum(-1) for k in range(K)], -1)


def pairs_of_paths(start, P, emissions, y):
    """Pairwise posteriors ``(…, n - 1, K, K)``, and p(y)."""
    paths, p = joint(start, P, emissions, y)
    K, places = tensor(P).shape[-1], range(len(y) - 1)
    sums = [
        [[p[..., (paths[:, i] == j) & (paths[:, i + 1] == k)].sum(-1) for k in range(K)] for j in range(K)]
        for i in places
    ]
    xi = torch.stack([torch.stack([torch.stack(row, -1) for row in place], -2) for place in sums], -3)
    evidence = p.sum(-1)
    return xi / evidence[..., None, None, None], evidence


START = [0.5, 0.2, 0.3]
MOVES = [[0.6, 0.3, 0.1], [0.05, 0.15, 0.8], [0.5, 0.25, 0.25]]  # not symmetric
TABLE = [[0.4, 0.3, 0.2, 0.1], [0.05, 0.15, 0.3, 0.5], [0.25, 0.05, 0.6, 0.1]]
y = [0, 3, 2, 2, 1, 0]
n, K = len(y), len(START)
model, data = HMM([START], [MOVES], Categorical([TABLE])), Sequences(y)
found = messages(model, data)
alpha, beta = tensor(found.log_alpha[0]).exp(), tensor(found.log_beta[0]).exp()  # (n, K)
likely = tensor(TABLE)[:, y].T

by_paths = {"α": [], "β": []}
for i in range(n):
    paths, p = joint(START, MOVES, TABLE, y[: i + 1], seen=range(i))  # without the observation at i
    by_paths["α"].append(ending(paths, p, i, K))
    paths, p = joint(None, MOVES, TABLE, y, first=i, seen=range(1, n - i))
    by_paths["β"].append(ending(paths, p, 0, K))
xi, evidence = pairs_of_paths(START, MOVES, TABLE, y)

check("paths of 3 states over 6 places", len(joint(START, MOVES, TABLE, y)[0]), 3**6)
check("difference of α from the sums over paths", apart(alpha, torch.stack(by_paths["α"])), 0, 1e-15)
check("difference of β from the sums over paths", apart(beta, torch.stack(by_paths["β"])), 0, 1e-14)
check("difference of α_1 from π", apart(alpha[0], START), 0, 1e-15)
check("difference of β_n from 1", apart(beta[-1], torch.ones(K)), 0, 1e-14)
check("log p(y) of the library", log_likelihood(model, data).log_likelihood[0, 0], evidence.log(), 1e-12)
products = [(likely[i] * alpha[i]) @ tensor(MOVES) @ (beta[i + 1] * likely[i + 1]) for i in range(n - 1)]
check("largest difference of p(y) by the product at a place i", apart(products, evidence), 0, 1e-15)
check("difference of ξ from the sums over paths", apart(pairwise_posteriors(model, data)[0], xi), 0, 1e-14)

# %%
# L3 (b): posterior transitions
# -----------------------------
# A conditional probability is the joint one over its sum. In the sum over :math:`k` the factor :math:`\alpha_i(j)\,
# \ell_i(j)` is common, and cancels:
#
# .. math:: \Omega^{(i)}_{jk} = p(Z_{i+1} = k \mid Z_i = j, y) = \frac{\xi^{(i)}_{jk}}{\sum_{k'} \xi^{(i)}_{jk'}}
#    = \frac{P_{jk}\, \ell_{i+1}(k)\, \beta_{i+1}(k)}{\sum_{k'} P_{jk'}\, \ell_{i+1}(k')\, \beta_{i+1}(k')} .
#
# The past has no part in it: given the state, only what comes later says where the chain goes.


def conditional(xi):
    """Posterior transitions of pairwise posteriors: each row over its sum."""
    return xi / xi.sum(-1, keepdim=True)


omega = tensor(posterior_transitions(model, data)[0])
check("difference of Ω from the sums over paths", apart(omega, conditional(xi)), 0, 1e-14)
weights = tensor(MOVES) * (likely[1:] * beta[1:])[:, None]  # (n - 1, K, K)
check("difference of Ω from its formula", apart(omega, conditional(weights)), 0, 1e-14)
other_past = Sequences([1, 1, 1, *y[3:]])
differing = apart(posterior_transitions(model, other_past)[0, 2:], omega[2:])
check("change of the last three Ω by another past", differing, 0, 1e-14)

# %%
# L3 (c): are the posterior transitions homogeneous in time?
# ----------------------------------------------------------
# No. The prior's :math:`P` is the same at each place; :math:`\Omega^{(i)}` contains the observations behind :math:`i`.
# Take two states that rarely change, seen through symbols that are rarely wrong, and observations that change once:
#
# .. math:: \pi = (\tfrac12, \tfrac12), \qquad P = E = \begin{pmatrix} 0.9 & 0.1 \\ 0.1 & 0.9 \end{pmatrix}, \qquad
#    y = 0\ 0\ 0\ 1\ 1\ 1 .
#
# From the first place the chain most likely stays in state 1, from the third it most likely leaves it.

EVEN, E, TURN = [0.5, 0.5], [[0.9, 0.1], [0.1, 0.9]], [0, 0, 0, 1, 1, 1]


def sticky(s):
    """Transitions that stay with probability s."""
    return [[s, 1 - s], [1 - s, s]]


def two_states(P):
    """Model of two states with the transitions P."""
    return HMM([EVEN], [P], Categorical([E]))


turn = Sequences(TURN)
omega = posterior_transitions(two_states(E), turn)[0]
for i, rows in ((1, [[0.989, 0.011], [0.525, 0.475]]), (3, [[0.119, 0.881], [0.0017, 0.9983]])):
    for j, row in enumerate(rows):
        for k, expected in enumerate(row):
            digit = 5e-5 if expected in (0.0017, 0.9983) else 5e-4
            check(f"Ω at place {i}, from state {j + 1} to {k + 1}", omega[i - 1, j, k], expected, digit)
of_paths = conditional(pairs_of_paths(EVEN, E, E, TURN)[0])
check("difference of all five from the sums over paths", apart(omega, of_paths), 0, 1e-14)
check("Ω is the same at all places", bool(apart(omega, omega[:1]) < 1e-3), False)

# %%
# It is the observations that make the places differ. Where all are missing, :math:`\Omega^{(i)} = P` everywhere.

unseen = posterior_transitions(two_states(E), Sequences([-1] * 6))[0]
check("difference of Ω from P where nothing is seen", apart(unseen, [E] * 5), 0, 1e-15)

rows = {"stays": [], "place": [], "probability": [], "transition": []}
prior = {"stays": [], "place": [], "probability": []}
STAYS = [round(0.5 + 0.05 * k, 2) for k in range(10)]
for s in STAYS:
    omega = posterior_transitions(two_states(sticky(s)), turn)[0]
    for j, name in ((0, "from state 1 to 2"), (1, "from state 2 to 1")):
        rows["stays"] += [s] * 5
        rows["place"] += range(1, 6)
        rows["probability"] += omega[:, j, 1 - j].tolist()
        rows["transition"] += [name] * 5
    prior["stays"] += [s] * 2
    prior["place"] += [1, 5]
    prior["probability"] += [1 - s] * 2
figure(
    Panel(
        [
            line(prior, "place", "probability", dashed=True),
            line(rows, "place", "probability", "transition"),
            dots(rows, "place", "probability", "transition"),
        ],
        Axis("place i, from i to i + 1", domain=(0.8, 5.2), format="d"),
        Axis("posterior probability of the transition", domain=(0, 1)),
        width=420,
    ),
    move=Slider("stays", "prior probability of staying", 0.9),
    caption="Posterior transitions at each place, for y = 0 0 0 1 1 1; dashed: the prior's, which is the same at all "
    "places. The observations change behind place 3.",
    alternative="With a prior probability of 0.1 for each change, the posterior probability to go from state 1 to "
    f"state 2 is {of_paths[0, 0, 1]:.3f} at the first place, {of_paths[2, 0, 1]:.3f} at the third and "
    f"{of_paths[4, 0, 1]:.3f} at the last; from state 2 to state 1 it is {of_paths[0, 1, 0]:.3f}, "
    f"{of_paths[2, 1, 0]:.4f} and {of_paths[4, 1, 0]:.3f}.",
)

# %%
# L3 (d): the expected log-likelihood of states and observations
# --------------------------------------------------------------
# Let :math:`q` be the posterior of whole paths. Only the transitions of a path depend on :math:`P`, and the expectation
# of a sum is the sum of expectations:
#
# .. math:: \mathbb E_q[\log p(Z, Y)] = \sum_{i=1}^{n-1} \mathbb E_q[\log P_{Z_i Z_{i+1}}] + c
#    = \sum_{i=1}^{n-1} \sum_{j,k} \xi^{(i)}_{jk} \log P_{jk} + c .
#
# The probability that :math:`q` gives to :math:`Z_i = j` *and* :math:`Z_{i+1} = k` is the pairwise posterior. The
# document has :math:`\Omega^{(i)}_{jk}` in its place (E10). The two differ by the factor :math:`p(Z_i = j \mid y)`:
# :math:`\Omega` counts a state that the chain is hardly ever in as much as the one that it is surely in.
#
# Left minus right must be the same :math:`c` for every :math:`P`. Here it is for 1,000 random ones, with the
# expectation as a sum over paths.


def distributions(*shape):
    """Random distributions over the last axis, evenly spread over all."""
    values = torch.empty(*shape, dtype=f64).exponential_(generator=draws)
    return values / values.sum(-1, keepdim=True)


xi = tensor(pairwise_posteriors(two_states(E), turn)[0])  # (5, 2, 2)
_, p = joint(EVEN, E, E, TURN)
q = p / p.sum()
others = distributions(1000, 2, 2)
expectation = (q * joint(EVEN, others, E, TURN)[1].log()).sum(-1)  # (1000,)
rests = {
    name: expectation - (posterior.sum(0) * others.log()).sum((-1, -2))
    for name, posterior in (("ξ", xi), ("Ω", of_paths))
}
check("largest difference of c between any two P, with ξ", rests["ξ"].max() - rests["ξ"].min(), 0, 1e-12)
constant = bool(rests["Ω"].max() - rests["Ω"].min() < 1e-3)
check("with Ω, c is the same for all P", constant, False, document="yes", erratum="E10")

# %%
# L3 (e): the best transitions
# ----------------------------
# Maximise :math:`\sum_{j,k} M_{jk} \log P_{jk}`, where :math:`M_{jk} = \sum_i \xi^{(i)}_{jk}` is the expected number of
# transitions from :math:`j` to :math:`k`, with a Lagrange multiplier :math:`\lambda_j` for the sum of each row. The
# derivative :math:`M_{jk} / P_{jk} - \lambda_j` is 0 where :math:`P_{jk}` is in proportion to :math:`M_{jk}`; that the
# row sums to 1 makes :math:`\lambda_j = \sum_k M_{jk}`, and
#
# .. math:: P^*_{jk} = \frac{M_{jk}}{\sum_{k'} M_{jk'}} .
#
# The logarithm is concave, so this is the maximum. The document's :math:`P^*` has the same form with :math:`N_{jk} =
# \sum_i \Omega^{(i)}_{jk}`, and is the maximum of another function.

M = tensor(expected_counts(two_states(E), turn).pairs[0])
check("difference of M from the sum of ξ over paths", apart(M, pairs_of_paths(EVEN, E, E, TURN)[0].sum(0)), 0, 1e-13)


def updated(P, update, n_updates=1):
    """Fit of the transitions alone."""
    return fit(two_states(P), turn, learn=["transitions"], iterations=n_updates, tolerance=0.0, update=update)


best = tensor(updated(E, "pairwise").model.transitions[0])
check("difference of P* from M over the sums of its rows", apart(best, conditional(M)), 0, 1e-14)
multipliers = M / best
check("difference of M / P* from the sums of the rows", apart(multipliers, M.sum(1, keepdim=True)), 0, 1e-13)
value = (M * best.log()).sum()
check("random P with a higher expectation than P*", ((M * others.log()).sum((-1, -2)) > value).sum(), 0)

# %%
# The likelihood under both updates
# ---------------------------------
# EM computes the posterior, goes to the maximum, and begins again. No update lowers :math:`p(y)`: as a function of
# :math:`P`, the difference of :math:`\log p(y)` and the expectation is smallest at the :math:`P` that :math:`q` was
# made from, so that a :math:`P` of a higher expectation has a higher :math:`p(y)` as well. The document's update raises
# another function, and :math:`p(y)` is free to fall. From the model above it does, at every update but the first.

N_UPDATES = 30
EM = [-3.77998, -3.00962, -2.98830, -2.98449]
DOCUMENT = [-3.77998, -3.28318, -3.69885, -3.91308]
history = {kind: updated(E, kind, N_UPDATES).history[:, 0] for kind in ("pairwise", "conditional")}
for kind, name, expected in (("pairwise", "EM", EM), ("conditional", "the document's update", DOCUMENT)):
    for step, value in enumerate(expected):
        check(f"log p(y) after {step} updates, {name}", history[kind][step], value, 5e-6)
    P, differences = tensor(E), []
    for value in history[kind]:
        of_step, evidence = pairs_of_paths(EVEN, P, E, TURN)
        differences.append(abs(value - evidence.log()))
        P = conditional((of_step if kind == "pairwise" else conditional(of_step)).sum(0))
    check(f"difference of the curve from the sums over paths, {name}", max(differences), 0, 1e-12)
rises = {kind: torch.diff(tensor(values)) for kind, values in history.items()}
check("updates of EM that lower it, of 30", (rises["pairwise"] < -1e-12).sum(), 0)
check("updates of the document that lower it, of 30", (rises["conditional"] < 0).sum(), 29, document="0", erratum="E10")

# %%
# EM ends at the highest likelihood of any :math:`P`, as a search over a grid finds: one that stays in state 2 for ever.
# The document's update ends where both rows are :math:`(\tfrac38, \tfrac58)`, so that a state says nothing about the
# next one. There the observations are independent, and :math:`p(y)` is a product: :math:`\tfrac12 \cdot 0.4^2 \cdot
# 0.6^3`.

grid = torch.linspace(0, 1, 1001, dtype=f64)
leave = torch.stack([grid, torch.zeros_like(grid)], -1)
coarse = torch.cartesian_prod(grid[::20], grid[::20])
search = torch.cat([leave, coarse])  # from state 1 to 2, from state 2 to 1
all_P = torch.stack(
    [torch.stack([1 - search[:, 0], search[:, 0]], -1), torch.stack([search[:, 1], 1 - search[:, 1]], -1)], 1
)
highest = joint(EVEN, all_P, E, TURN)[1].sum(-1).log().max()
check("log p(y) where EM ends", history["pairwise"][-1], highest, 5e-6)
ends = updated(E, "conditional", 100)
product = torch.tensor(0.5 * 0.4**2 * 0.6**3, dtype=f64).log()
check("log p(y) where the document's update ends", ends.log_likelihood[0], product, 1e-9)
check("its probability from state 1 to 1", ends.model.transitions[0, 0, 0], 3 / 8, 1e-9)
check("its probability from state 2 to 1", ends.model.transitions[0, 1, 0], 3 / 8, 1e-9)

# %%
# Other beginnings and other models
# ---------------------------------
# Move the probability of staying that both begin with. EM ends at the same place; the document's update leaves it, or
# never comes near.

curves = {"stays": [], "update": [], "log_p": [], "kind": []}
last = {}
for s in STAYS:
    for kind, name in (
        ("pairwise", "EM, pairwise posterior"),
        ("conditional", "the document's, conditional posterior"),
    ):
        values = updated(sticky(s), kind, N_UPDATES).history[:, 0].tolist()
        last[s, kind] = values[-1]
        curves["stays"] += [s] * len(values)
        curves["update"] += range(len(values))
        curves["log_p"] += values
        curves["kind"] += [name] * len(values)
    check(f"log p(y) where EM ends, from {s}", last[s, "pairwise"], highest, 5e-6)
figure(
    Panel(
        [line(curves, "update", "log_p", "kind")],
        Axis("updates", format="d"),
        Axis("log p(y) (nats)"),
        width=420,
    ),
    move=Slider("stays", "probability of staying at the start", 0.9),
    caption="Log-likelihood of y = 0 0 0 1 1 1 after each update of the transitions, from the chosen ones.",
    alternative=f"From 0.9, EM rises from {history['pairwise'][0]:.3f} to {history['pairwise'][-1]:.3f} without a "
    f"fall; the document's update rises to {history['conditional'][1]:.3f} at once and then falls to "
    f"{history['conditional'][-1]:.3f}.",
)

# %%
# Is the example a rare one? One update of each of 2,000 random models of two states, on the same observations, counted
# by the library and again by sums over paths:

R = 2000
random = distributions(R, 2), distributions(R, 2, 2), distributions(R, 2, 2)  # π, P, E
xi, evidence = pairs_of_paths(*random, TURN)
for kind, name in (("pairwise", "EM"), ("conditional", "the document's update")):
    stack = HMM(random[0], random[1], Categorical(random[2]))
    fitted = fit(stack, turn, learn=["transitions"], iterations=1, tolerance=0.0, update=kind)
    fell = fitted.history[1] - fitted.history[0] < -1e-9
    new = conditional((xi if kind == "pairwise" else conditional(xi)).sum(1))
    change = (joint(random[0], new, random[2], TURN)[1].sum(-1) / evidence).log()
    check(f"models whose likelihood falls, {name}, of 2,000", fell.sum(), (change < -1e-9).sum())
    if kind == "pairwise":
        check("largest fall by EM (nats)", (-change).max().clamp(min=0), 0, 1e-12)

# %%
# A model that shoal trained
# --------------------------
# 90 sequences of 100 symbols train a model of three states, as ``shoal train --task sequences`` does, by EM of all
# parameters until an update gains less than :math:`10^{-8}` nats. Its loss never rises, and its :math:`P` is where EM
# stands still: :math:`P = P^*`. One update as in the document leaves that place and makes the sequences less likely, by
# as many nats as a plain recursion over :math:`\alpha_i` finds.

spec = shoal.RunSpec(task="sequences", drawn_states=3, num_states=3, n_steps=600, tolerance=1e-8, seed=4)
run = trained(spec)
model, observations = run.model(), load(spec.task_part, None)
blocks = Sequences(observations.values, observations.lengths)
data = blocks.subset([k for k, is_valid in enumerate(observations.is_valid) if not is_valid])
check("sequences that train", len(data.lengths), 90)
losses = tensor(run.curve()["train_loss"].to_list())
check("evaluations at which the training loss has risen", (torch.diff(losses) > 0).sum(), 0)

parts = [tensor(part[0]) for part in (model.start, model.transitions, model.emissions.probabilities)]
start = data.values[:6]
xi, _ = pairs_of_paths(*parts, start)
check("difference of ξ from the sums over paths", apart(pairwise_posteriors(model, Sequences(start))[0], xi), 0, 1e-13)
best = conditional(tensor(expected_counts(model, data).pairs[0]))
check("difference of P* from P", apart(best, parts[1]), 0, 1e-6)


def forward(start, P, emissions):
    """Log-likelihood of all training sequences, in nats, by the recursion over α, scaled."""
    symbols = torch.as_tensor(data.values).reshape(90, 100).long()
    alpha, total = start.expand(90, -1), 0.0  # (90, K)
    for i in range(100):
        seen = alpha * emissions[:, symbols[:, i]].T
        total = total + seen.sum(1).log().sum()
        alpha = seen / seen.sum(1, keepdim=True) @ P
    return total


N = conditional(tensor(posterior_transitions(model, data)[0]).sum(0))
steps = {
    kind: fit(model, data, learn=["transitions"], iterations=1, tolerance=0.0, update=kind)
    for kind in ("pairwise", "conditional")
}
gains = {kind: fitted.history[1, 0] - fitted.history[0, 0] for kind, fitted in steps.items()}
check("gain of one more update of EM (nats)", gains["pairwise"], 0, 1e-8)
loss = forward(parts[0], N, parts[2]) - forward(*parts)
check("gain of one update of the document (nats)", gains["conditional"], loss, 1e-7)
check("the document's update lowers the likelihood of the trained model", bool(gains["conditional"] < -1), True)
