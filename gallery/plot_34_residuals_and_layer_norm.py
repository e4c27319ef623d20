r"""
Residuals and LayerNorm keep gradients in bounds
================================================

Gradients through many layers vanish or explode; residual connections and LayerNorm hold both in check.

A network of :math:`L` layers maps :math:`h_0` to :math:`h_L` through :math:`h_{\ell+1} = F_\ell(h_\ell)`. A small
change of :math:`h_0`, and a gradient on its way back, is multiplied by the product of the layers' Jacobians,

.. math:: \frac{dh_L}{dh_0} = J_{L-1} J_{L-2} \cdots J_0, \qquad J_\ell = \frac{dh_{\ell+1}}{dh_\ell} .

The singular values of this product say by how much it stretches in each direction; the largest is its operator norm
:math:`\lVert \cdot \rVert`. This page computes them with ``shoal.analysis``, for small networks and for models that it
trains.

*Source: a homework on language models, L2, with its questions (a) to (c).*
"""

import torch

import shoal
from shoal.analysis import block_jacobians, jacobian, jacobian_products, layer_jacobians, singular_values
from shoal.gallery import Axis, Choice, Panel, Slider, add_rows, check, dots, figure, line, rule, trained
from shoal.models import LayerNorm
from shoal.tasks import get_arithmetic_dataset

d = 32
draws = torch.Generator().manual_seed(0)


def rotations(n):
    """Random matrices whose singular values are all 1, ``(n, d, d)``."""
    q, r = torch.linalg.qr(torch.randn(n, d, d, dtype=torch.float64, generator=draws))
    return q * r.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)


def depths(layers, h):
    """Singular values of dh_l / dh_0 after each layer, ``(L, d)``, the largest first."""
    return singular_values(jacobian_products(layer_jacobians(layers, h)))


# %%
# L2 (a): without residuals, the worst case is c to the power of L
# ----------------------------------------------------------------
# Let :math:`h_{\ell+1} = \mathrm{ReLU}(W_\ell h_\ell)` with :math:`\lVert W_\ell \rVert = c`. ReLU stretches nothing,
# so each layer stretches by at most :math:`c` and all of them by at most :math:`c^L`. The bound is attained: with
# :math:`W_\ell = c I` and an :math:`h_0` without negative entries ReLU does nothing, and activations and gradients are
# both multiplied by exactly :math:`c^L`.

c, L = 1.5, 20
h_0 = torch.randn(d, dtype=torch.float64, generator=draws).abs()
h_L = h_0
for _ in range(L):
    h_L = torch.relu(c * h_L)
check("growth of the activations, c = 1.5, L = 20", h_L.norm() / h_0.norm(), 3325.26, 5e-3)
values = depths([lambda h: torch.relu(c * h)] * L, h_0)[-1]
check("growth of the gradient: largest singular value", values[0], 3325.26, 5e-3)
check("smallest singular value", values[-1], 3325.26, 5e-3)

# %%
# The worst case is not the typical one. Let :math:`W_\ell = c\,U` with random rotations :math:`U`. Then
# :math:`U h / \lVert h \rVert` is a random direction, and a layer multiplies :math:`\lVert h \rVert^2` by
# :math:`c^2 X`, where :math:`X` is the share of the squares of a random vector that belongs to its positive entries.
# These shares are independent and have the mean ½, so the *root mean square* of the growth is exactly
# :math:`(c / \sqrt 2)^L`. The *median* is lower, and the lower the narrower the network: few
# networks that grow much make most of the mean square.


def growths(n):
    """Growth of the activations in each of ``n`` random networks of ``L`` layers."""
    h = h_0.expand(n, d)
    for _ in range(L):
        h = torch.relu(c * rotations(n) @ h.unsqueeze(2)).squeeze(2)
    return h.norm(dim=1) / h_0.norm()


def drawn_growths(n, d):
    """Growths in networks of width ``d``, without the networks: products of independent shares ``X``."""
    squares = torch.randn(n, L, d, dtype=torch.float64, generator=draws)
    X = squares.clamp(min=0).square().sum(-1) / squares.square().sum(-1)
    return c**L * X.prod(1).sqrt()


check("root mean square growth (c / √2)^L", (c / 2**0.5) ** L, 3.25, 5e-3)
growth, shares = growths(400), drawn_growths(20_000, d)
check("root mean square growth of 400 random networks", growth.square().mean().sqrt(), (c / 2**0.5) ** L, 0.5)
check("root mean square of products of independent shares", shares.square().mean().sqrt(), (c / 2**0.5) ** L, 0.15)
check("median growth of 400 random networks", growth.median(), shares.median(), 0.25)
share, expected = ((sample < (c / 2**0.5) ** L).double().mean() for sample in (growth, shares))
check("share of random networks that grow less than the root mean square", share, expected, 0.07)
check("median growth of narrower networks, d = 16", drawn_growths(20_000, 16).median(), 1.08, 0.1)
check("random networks of which the worst case is reached", (growth > 3325).sum(), 0)

# %%
# L2 (b): with residuals, a product of matrices near the identity
# ---------------------------------------------------------------
# Now :math:`h_{\ell+1} = h_\ell + f_\ell(h_\ell)`, where each Jacobian of :math:`f_\ell` has a norm of at most
# :math:`\varepsilon`. The derivative of :math:`h` with respect to itself is :math:`I`, so a layer has the Jacobian
# :math:`I + E_\ell` with :math:`\lVert E_\ell \rVert \le \varepsilon`, and the network has the product of these. Each
# factor stretches by at least :math:`1 - \varepsilon` and at most :math:`1 + \varepsilon`, so *all* singular values of
# the product lie between :math:`(1 - \varepsilon)^L` and :math:`(1 + \varepsilon)^L`: for small :math:`\varepsilon`
# nothing explodes, and, unlike in (a), nothing vanishes either.
#
# The bounds are attained by :math:`f(h) = \pm \varepsilon h`. Random blocks stay far inside, because their
# :math:`E_\ell` partly cancel: the logarithms of the singular values are nearly the eigenvalues of the symmetric part
# of :math:`\sum_\ell E_\ell`, which fill a semicircle of radius :math:`r` with :math:`r^2 = \tfrac2d \sum_\ell
# \lVert E_\ell \rVert_F^2` and have the standard deviation :math:`r / 2`. So they spread like :math:`\sqrt L`, not
# like :math:`L`.

epsilon = 0.1
for L, low, high, digits in ((20, 0.122, 6.73, (5e-4, 5e-3)), (50, 0.00515, 117.4, (5e-6, 5e-2))):
    shrinking, growing = (depths([lambda h, e=e: h + e * h] * L, h_0)[-1, 0] for e in (-epsilon, epsilon))
    check(f"lower bound (1 - ε)^{L}, attained by f = -ε h", shrinking, low, digits[0])
    check(f"upper bound (1 + ε)^{L}, attained by f = +ε h", growing, high, digits[1])
    fs = [lambda h, U=U: epsilon * torch.tanh(U @ h) for U in rotations(L)]
    blocks = [lambda h, f=f: h + f(h) for f in fs]
    E = layer_jacobians(blocks, h_0) - torch.eye(d)  # (L, d, d)
    values = depths(blocks, h_0)[-1]
    is_outside = (values < (1 - epsilon) ** L) | (values > (1 + epsilon) ** L)
    check(f"singular values of random blocks outside the bounds, L = {L}", is_outside.sum(), 0)
    r = (2 * E.square().sum() / d).sqrt()
    spread = values.log().std(correction=0)
    check(f"standard deviation of their logarithms over r / 2, L = {L}", spread / (r / 2), 1, 0.15)

E_0 = jacobian(fs[0], h_0)
check("largest difference between a block's Jacobian and I + E", (E[0] - E_0).abs().max(), 0, 1e-15)
check("norm of E is at most ε", bool(singular_values(E_0)[0] <= epsilon), True)


def network(h):
    """All blocks one after the other."""
    for block in blocks:
        h = block(h)
    return h


product = jacobian_products(layer_jacobians(blocks, h_0))[-1]
difference = (product - jacobian(network, h_0)).abs().max()
check("difference between the product and the network's Jacobian", difference, 0, 1e-12)

# %%
# L2 (c): LayerNorm
# -----------------
# :math:`\mathrm{LN}(h) = (h - \mu) / \sigma`. The mean of the result is :math:`(\mu - \mu) / \sigma = 0`, and its
# variance is the mean of :math:`(h_i - \mu)^2 / \sigma^2`, which is 1.

norm = LayerNorm(d, eps=0).double()
with torch.no_grad():
    normed = norm(3 * h_0 + 2)
check("mean of LN(h)", normed.mean(), 0, 1e-12)
check("variance of LN(h)", normed.var(correction=0), 1, 1e-12)

# %%
# "For every h" is not true. A constant :math:`h` has :math:`\sigma = 0`, and the quotient is 0 / 0. Implementations add
# a small :math:`\varepsilon` (here :math:`10^{-5}`) to the variance, after which the result has the variance
# :math:`\sigma^2 / (\sigma^2 + \varepsilon)`: less than 1 for every :math:`h`, and 0 for a constant one. With :math:`d
# = 2`, LayerNorm keeps nothing of :math:`h` but which entry is larger.

standard = (h_0 - h_0.mean()) / h_0.std(correction=0)
usual = LayerNorm(d).double()
for variance, expected in ((1e-4, 0.909), (1e-5, 0.5), (0.0, 0.0)):
    with torch.no_grad():
        after = usual(variance**0.5 * standard + 1).var(correction=0)
    check(f"variance of LN(h) where h has {variance:g}, ε = 1e-5", after, expected, 5e-4, document="1", erratum="E19")
with torch.no_grad():
    lost = norm(torch.ones(d)).isnan().sum()
    check("entries of LN(h) that are no number, constant h", lost, d, document="0", erratum="E19")
    two = LayerNorm(2, eps=0).double()(torch.tensor([[0.0, 1], [-5, 100]]))
check("LN of (0, 1) and of (-5, 100): difference", (two[0] - two[1]).abs().max(), 0, 1e-15)

# %%
# *Why are the Jacobians of blocks less likely to become large?* Because what enters :math:`f_\ell` has the same length,
# :math:`\sqrt d`, however long :math:`h_\ell` has become: :math:`f_\ell` never sees inputs on which it is steeper than
# on those. And LayerNorm's own Jacobian has :math:`d - 2` singular values of exactly :math:`1 / \sigma(h)`, and two of
# 0, for a shift and a scaling of :math:`h` change nothing. So a block's Jacobian is :math:`I + J_f \cdot O(1 /
# \sigma)`: the longer the stream :math:`h_\ell` grows, the less a block can add to it.
#
# It is no bound: a *short* :math:`h` is stretched by :math:`1 / \sigma`, which has no limit.

for scale in (0.01, 1.0, 100.0):
    values = singular_values(jacobian(norm, scale * standard))
    inner = values[: d - 2]
    check(f"σ times the {d - 2} largest singular values, at most, σ = {scale:g}", (scale * inner).max(), 1, 1e-9)
    check(f"σ times the {d - 2} largest singular values, at least, σ = {scale:g}", (scale * inner).min(), 1, 1e-9)
    check(f"the two others, times σ, σ = {scale:g}", (scale * values[d - 2 :]).max(), 0, 1e-6)

# %%
# Three networks of 50 layers
# ---------------------------
# The same random rotations in each of the three ways: plain with :math:`f(h) = \mathrm{ReLU}(c\,U h)` (a), with a
# residual around :math:`f(h) = \mathrm{ReLU}(\varepsilon\,U h)` (b), and with a residual around
# :math:`f(\mathrm{LN}(h))` (c). The spectrum of the first is at most :math:`c^\ell`, and after one layer it is 0 for
# each entry that ReLU has made 0. That of the second lies between :math:`(1 \pm \varepsilon)^\ell`. In the third each
# layer has a bound of its own, :math:`1 \pm \varepsilon / \sigma(h_\ell)`: wider than that of the second where
# :math:`h_\ell` is short, and narrower where it has grown.

matrices, layers = rotations(50), torch.arange(1, 51)
QUANTILES = ("largest", "upper quarter", "median", "lower quarter", "smallest")
PLAIN, RESIDUAL, NORMED = "plain", "residual", "residual around LayerNorm"
curves, spectra, bounds = ({name: {} for name in (PLAIN, RESIDUAL, NORMED)} for _ in range(3))
ends = {}  # largest singular value after 50 layers


def powers(base):
    """Powers of a number from 1 to 50, ``(50,)``."""
    return torch.full((50,), base, dtype=torch.float64).cumprod(0)


def add_network(name, factor, parameter, network, low, high):
    """Add a network's spectra to the figure and hold them to bounds ``(50,)``; ``factor`` is its c or ε."""
    values = depths(network, h_0)  # (50, d)
    is_outside = (values < low.unsqueeze(1) * (1 - 1e-9)) | (values > high.unsqueeze(1) * (1 + 1e-9))
    check(f"singular values outside the bounds, {name}, {parameter} = {factor}", is_outside.sum(), 0)
    ends[name, factor] = values[-1, 0].item()
    values = values.clamp(min=1e-30)  # 0 has no place on a logarithmic axis
    five = dict(zip(QUANTILES, values.quantile(torch.tensor([1, 0.75, 0.5, 0.25, 0]).double(), dim=1), strict=True))
    add_rows(curves[name], **{parameter: factor}, layer=layers, **five, network=name)
    add_rows(bounds[name], **{parameter: factor}, layer=layers, low=low.clamp(min=1e-30), high=high)
    for depth in range(5, 51, 5):
        at = {parameter: factor, "L": depth}
        add_rows(spectra[name], **at, rank=torch.arange(1, d + 1), value=values[depth - 1], network=name)


for c in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0):
    network = [lambda h, W=c * U: torch.relu(W @ h) for U in matrices]
    add_network(PLAIN, c, "c", network, powers(0), powers(c))
zeros = (depths(network[:1], h_0) < 1e-12).sum()
check("singular values of 0 after one plain layer", zeros, (matrices[0] @ h_0 <= 0).sum())

for epsilon in (0.1, 0.2, 0.3, 0.4, 0.5):
    fs = [lambda h, W=epsilon * U: torch.relu(W @ h) for U in matrices]
    network = [lambda h, f=f: h + f(h) for f in fs]
    add_network(RESIDUAL, epsilon, "ε", network, powers(1 - epsilon), powers(1 + epsilon))
    h, deviations = h_0, []
    for f in fs:
        deviations.append(h.std(correction=0))
        with torch.no_grad():
            h = h + f(norm(h))
    stretch = epsilon / torch.stack(deviations)  # largest norm of the Jacobian of f(LN(h)), (50,)
    network = [lambda h, f=f: h + f(norm(h)) for f in fs]
    add_network(NORMED, epsilon, "ε", network, (1 - stretch).clamp(min=0).cumprod(0), (1 + stretch).cumprod(0))

check("growth at ε = 0.5 without LayerNorm is 100 times larger", ends[RESIDUAL, 0.5] / ends[NORMED, 0.5] > 100, True)
depth = {"L": range(5, 51, 5), "l": range(5, 51, 5), "from": [1e-8] * 10, "to": [1e8] * 10}
stretch = Axis("singular value of dh_l / dh_0", log=True, domain=(1e-8, 1e8), format="~e")
figure(
    *(
        Panel(
            [
                *(line(bounds[name], "layer", bound, dashed=True) for bound in ("low", "high")),
                *(line(curves[name], "layer", quantile, "network") for quantile in QUANTILES),
                rule(depth, "l", "from", "l", "to"),
            ],
            Axis("layer l"),
            stretch,
            title=name,
        )
        for name in (PLAIN, RESIDUAL, NORMED)
    ),
    Panel(
        [line(spectra[name], "rank", "value", "network") for name in (PLAIN, RESIDUAL, NORMED)],
        Axis("rank of the singular value", domain=(1, d)),
        stretch,
        title="All singular values at layer L",
    ),
    move=[
        Slider("c", "scale c (plain)", 1.5),
        Slider("ε", "norm ε of a block (residual)", 0.1),
        Slider("L", "layer L", 20),
    ],
    caption="Spectra of the Jacobian up to each layer, on a logarithmic axis: largest, upper quarter, median, lower "
    f"quarter and smallest of {d} singular values. Dashed: the bounds; without residuals there is none below. Values "
    "of 0 lie below the axis. With residuals the spectrum is a band around 1, whose upper end grows exponentially for "
    "large ε, and more slowly around LayerNorm, because h_l gets longer.",
    alternative=f"After 50 layers at c = 0.5 the plain network has a largest singular value of {ends[PLAIN, 0.5]:.1g}, "
    f"at c = 2 of {ends[PLAIN, 2.0]:.1g}. With residuals it is {ends[RESIDUAL, 0.1]:.1f} at ε = 0.1 and "
    f"{ends[RESIDUAL, 0.5]:,.0f} at ε = 0.5; around LayerNorm it is {ends[NORMED, 0.1]:.1f} and "
    f"{ends[NORMED, 0.5]:.0f}.",
)

# %%
# In trained models
# -----------------
# Two GPTs of four blocks learn addition modulo 7: one with LayerNorm before attention and feed-forward, one without any
# norm. A block has two residual paths, :math:`h + f(h)` with attention for :math:`f` and then with the feed-forward
# layer. At the position of "=", :math:`\varepsilon` of each is measured: the norm of the Jacobian :math:`E` of
# :math:`f` alone. The spectrum comes from the whole blocks: the product of their Jacobians is the derivative of the
# last hidden state with respect to the embedding. If each block is :math:`(I + E_2)(I + E_1)`, the spectrum lies
# between the products of :math:`1 - \varepsilon` (or 0, where :math:`\varepsilon > 1`) and of :math:`1 + \varepsilon`.
# One model of each kind is an illustration, and no comparison of the two kinds.


def branches(model, tokens):
    """Jacobians E of attention and feed-forward of each block alone, at the last position, ``(L, 2, d, d)``."""
    with torch.no_grad():
        _, (hidden_states, _) = model(tokens.unsqueeze(0))
    jacobians = []
    for block, states in zip(model.decoder.blocks, hidden_states[0], strict=False):  # the last enters no block

        def attend(h, block=block, before=states[:-1]):
            x = block.self_attn_norm(torch.cat([before, h.unsqueeze(0)]).unsqueeze(0))  # (1, S, d)
            return block.self_attn(x, x, x)[0][0, -1]

        def feed(h, block=block):
            return block.ffn(block.ffn_norm(h))

        h = states[-1]
        jacobians.append(torch.stack([jacobian(attend, h), jacobian(feed, h + attend(h).detach())]))
    return torch.stack(jacobians)


(_, _), tokenizer, _, _ = get_arithmetic_dataset(p=7, q=7, operator="+", r_train=0.7)
equations = [tokenizer.encode(f"BOS {a} + {b} =") for a, b in ((1, 2), (3, 4), (6, 6))]
common = {"model": "gpt", "p": 7, "r_train": 0.7, "embedding_size": 16, "num_layers": 4, "num_heads": 2}
forms = {"LayerNorm before": {"norm_position": "pre"}, "no norm": {"norm": "none"}}
BLOCKS, BRANCHES = ["1", "2", "3", "4"], ["a1", "f1", "a2", "f2", "a3", "f3", "a4", "f4"]
identity = torch.eye(16, dtype=torch.float64)
curves, bounds, norms, ends = {}, {}, {}, {}
for kind, form in forms.items():
    for steps in (1, 150):
        model = trained(shoal.RunSpec(**common, **form, n_steps=steps, lr=3e-3, seed=0)).model().double()
        E_1, E_2 = torch.stack([branches(model, x) for x in equations]).unbind(2)  # (3, L, d, d) each
        J = torch.stack([block_jacobians(model, x) for x in equations])  # (3, L, d, d)
        off = (J - (identity + E_2) @ (identity + E_1)).abs().max()
        check(f"difference of blocks from (I + E_2)(I + E_1), {kind}, training steps: {steps}", off, 0, 1e-11)
        epsilon = torch.linalg.matrix_norm(torch.stack([E_1, E_2], dim=2), ord=2)  # (3, L, 2)
        low, high = (1 - epsilon).clamp(min=0).prod(-1).cumprod(1), (1 + epsilon).prod(-1).cumprod(1)  # (3, L)
        values = torch.stack([singular_values(jacobian_products(factors)) for factors in J])  # (3, L, d)
        is_outside = (values < low.unsqueeze(-1)) | (values > high.unsqueeze(-1))
        check(f"singular values outside the bounds, {kind}, training steps: {steps}", is_outside.sum(), 0)
        ends[kind, steps] = epsilon.max().item()
        # the determinant of a product is that of its factors; an independent way to the same volume
        factors = torch.linalg.slogdet(J[0]).logabsdet.sum()
        check(f"log of the volume's growth, {kind}, training steps: {steps}", factors, values[0, -1].log().sum(), 1e-8)

        chosen, typical = {"model": kind, "steps": steps}, values.median(0).values  # (L, d)
        low, high = low.median(0).values.clamp(min=1e-30), high.median(0).values
        add_rows(bounds, **chosen, block=range(4), low=low, high=high)
        for name, rank in (("largest", 0), ("median", 8), ("smallest", -1)):
            add_rows(curves, **chosen, block=range(4), value=typical[:, rank], which=name)
        add_rows(norms, **chosen, branch=range(8), norm=epsilon.median(0).values.flatten())
    check(f"largest ε of a branch after one step is below 1, {kind}", ends[kind, 1] < 1, True)
    check(f"largest ε of a branch after 150 steps is above 1, {kind}", ends[kind, 150] > 1, True)

figure(
    Panel(
        [
            *(line(bounds, "block", bound, dashed=True) for bound in ("low", "high")),
            line(curves, "block", "value", "which"),
        ],
        Axis("block", names=BLOCKS),
        Axis("singular value of dh_l / dh_0", log=True, domain=(1e-3, 1e3), format="~g"),
        title="Spectrum up to each block",
    ),
    Panel(
        [line({"branch": [-0.5, 7.5], "one": [1, 1]}, "branch", "one", dashed=True), dots(norms, "branch", "norm")],
        Axis("attention (a) and feed-forward (f) of each block", names=BRANCHES),
        Axis("norm ε of the Jacobian of f", log=True, domain=(0.01, 10), format="~g"),
        title="What the bounds are made of",
    ),
    move=[Choice("model", "model", "LayerNorm before"), Choice("steps", "training steps", 1)],
    caption="Left: singular values up to each block at the position of =, medians of three equations. Dashed: the "
    "bounds from ε. Right: ε of each branch. At the start all are below 1. In training some exceed 1, and from there "
    "on the lower bound is 0: residual connections keep gradients in bounds only as long as what they go around is "
    "small.",
    alternative="The largest ε of a branch is "
    + ", ".join(f"{ends[key]:.2g} ({key[0]}, training steps: {key[1]})" for key in ends)
    + "; all singular values lie between the bounds.",
)
