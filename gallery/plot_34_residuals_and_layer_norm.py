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
from shoal.gallery import Axis, Choice, Panel, check, figure, line, trained
from shoal.models import LayerNorm
from shoal.tasks import get_arithmetic_dataset

d = 32
draws = torch.Generator().manual_seed(0)


def rotation():
    """Random matrix of full rank whose singular values are all 1."""
    q, r = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=draws))
    return q * r.diagonal().sign()


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
# The worst case is not the typical one. With :math:`W_\ell = c\,U` for random rotations :math:`U`, about half of the
# entries become 0 in each layer: the *mean* of :math:`\lVert h_L \rVert^2` grows by :math:`c^2 / 2` per layer, so
# typical activations grow by :math:`(c / \sqrt 2)^L` instead of :math:`c^L`.

growths = []
for _ in range(400):
    h = h_0
    for _ in range(L):
        h = torch.relu(c * rotation() @ h)
    growths.append(h.norm() / h_0.norm())
growth = torch.stack(growths)
check("typical growth (c / √2)^L", (c / 2**0.5) ** L, 3.25, 5e-3)
check("root mean square growth of 400 random networks", growth.square().mean().sqrt(), (c / 2**0.5) ** L, 0.5)
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

epsilon = 0.1
for L, low, high, digits in ((20, 0.122, 6.73, (5e-4, 5e-3)), (50, 0.00515, 117.4, (5e-6, 5e-2))):
    shrinking, growing = (depths([lambda h, e=e: h + e * h] * L, h_0)[-1, 0] for e in (-epsilon, epsilon))
    check(f"lower bound (1 - ε)^{L}, attained by f = -ε h", shrinking, low, digits[0])
    check(f"upper bound (1 + ε)^{L}, attained by f = +ε h", growing, high, digits[1])
    fs = [lambda h, U=U: epsilon * torch.tanh(U @ h) for U in [rotation() for _ in range(L)]]
    blocks = [lambda h, f=f: h + f(h) for f in fs]
    values = depths(blocks, h_0)[-1]
    print(f"random blocks, L = {L}: singular values from {values[-1]:.3f} to {values[0]:.3f}")
    is_outside = (values < (1 - epsilon) ** L) | (values > (1 + epsilon) ** L)
    check(f"singular values of random blocks outside the bounds, L = {L}", is_outside.sum(), 0)

J = jacobian(blocks[0], h_0)
E = jacobian(fs[0], h_0)
check("largest difference between the block's Jacobian and I + E", (J - torch.eye(d) - E).abs().max(), 0, 1e-15)
check("norm of E is at most ε", bool(singular_values(E)[0] <= epsilon), True)


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
# Three networks of 30 layers
# ---------------------------
# The same random rotations, scaled by :math:`c`, in each of the three ways: plain (a), with a residual (b), and with a
# residual around LayerNorm (c). At :math:`c = 0.5` the plain network's gradients vanish; at :math:`c = 2` those of the
# first two explode.

matrices = [rotation() for _ in range(30)]
f = {c: [lambda h, W=c * U: torch.relu(W @ h) for U in matrices] for c in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)}
kinds = {
    "plain": lambda f: f,
    "residual": lambda f: lambda h: h + f(h),
    "residual around LayerNorm": lambda f: lambda h: h + f(usual(h)),
}
rows = {"c": [], "layer": [], "norm": [], "network": []}
bounds = {"c": [], "layer": [], "norm": [], "bound": []}
largest = {}
for c, layers in f.items():
    for kind, around in kinds.items():
        norms = depths([around(layer) for layer in layers], h_0)[:, 0].clamp(min=1e-30)
        largest[kind, c] = norms[-1].item()
        rows["c"] += [c] * 30
        rows["layer"] += list(range(1, 31))
        rows["norm"] += norms.tolist()
        rows["network"] += [kind] * 30
    for base, name in ((c, "c^l"), (1 + c, "(1 + c)^l")):
        bounds["c"] += [c] * 30
        bounds["layer"] += list(range(1, 31))
        bounds["norm"] += [base**depth for depth in range(1, 31)]
        bounds["bound"] += [name] * 30
        bound_of = {"c^l": "plain", "(1 + c)^l": "residual"}[name]
        is_within = largest[bound_of, c] <= base**30 * (1 + 1e-9)
        check(f"{bound_of} network within {name} at layer 30, c = {c:g}", is_within, True)
ratio = largest["residual", 2.0] / largest["residual around LayerNorm", 2.0]
check("growth at c = 2 without LayerNorm is a million times larger", ratio > 1e6, True)
print(f"largest singular value at layer 30, c = 2: {largest['residual', 2.0]:.3g} with a residual alone,")
print(f"{largest['residual around LayerNorm', 2.0]:.3g} around LayerNorm")

figure(
    Panel(
        [
            line(rows, "layer", "norm", "network"),
            line(bounds, "layer", "norm", "bound", dashed=True),
        ],
        Axis("layer l"),
        Axis("largest singular value of dh_l / dh_0", log=True, format="~e"),
        width=420,
        height=300,
    ),
    move=Choice("c", "scale c of the weights", 1.0),
    caption="How much the steepest direction is stretched from the input to each layer, on a logarithmic axis. "
    "Dashed: what networks without residuals (c^l) and with them ((1 + c)^l) cannot exceed. With residuals alone "
    "growth is exponential, a straight line here; around LayerNorm it slows down, because h_l gets longer.",
    alternative=f"At c = 2 and layer 30 the largest singular value is {largest['residual', 2.0]:.2g} with residuals "
    f"alone and {largest['residual around LayerNorm', 2.0]:.2g} around LayerNorm; at c = 0.5 the plain network has "
    f"{largest['plain', 0.5]:.2g}.",
)

# %%
# In trained models
# -----------------
# Two GPTs of four blocks learn addition modulo 7: one with LayerNorm before attention and feed-forward, one without any
# norm. At the position of "=" of an equation, the product of their blocks' Jacobians is the derivative of the last
# hidden state with respect to the embedding. One model of each kind is an illustration, and no comparison of the two
# kinds.

(_, _), tokenizer, _, _ = get_arithmetic_dataset(p=7, q=7, operator="+", r_train=0.7)
equations = [tokenizer.encode(f"BOS {a} + {b} =") for a in range(0, 7, 2) for b in range(0, 7, 3)]
common = {"model": "gpt", "p": 7, "r_train": 0.7, "embedding_size": 16, "num_layers": 4, "num_heads": 2}
schedule = {"n_steps": 150, "lr": 3e-3, "seed": 0}
spectra = {"block": [], "value": [], "which": [], "model": []}
for name, form in (("LayerNorm before each layer", {"norm_position": "pre"}), ("no norm", {"norm": "none"})):
    model = trained(shoal.RunSpec(**common, **schedule, **form)).model()
    by_depth = torch.stack([singular_values(jacobian_products(block_jacobians(model, x))) for x in equations])
    medians = by_depth.median(dim=0).values  # (L, d), of the twelve equations
    for which, column in (("largest", 0), ("smallest", -1)):
        spectra["block"] += [1, 2, 3, 4]
        spectra["value"] += medians[:, column].tolist()
        spectra["which"] += [which] * 4
        spectra["model"] += [name] * 4
    print(f"{name}: largest {medians[-1, 0]:.3g}, smallest {medians[-1, -1]:.3g} after four blocks")
    # the determinant of a product is that of its factors; an independent way to the same volume
    factors = torch.linalg.slogdet(block_jacobians(model, equations[0])).logabsdet.sum()
    check(f"log of the volume's growth, by factors, {name}", factors, by_depth[0, -1].log().sum(), 1e-9)

figure(
    Panel(
        [line(spectra, "block", "value", "model")],
        Axis("block", domain=(0.8, 4.2), names=["", "1", "2", "3", "4"]),
        Axis("singular value of dh_l / dh_0", log=True),
        width=420,
    ),
    move=Choice("which", "singular value", "largest"),
    caption="The same in two trained GPTs: largest and smallest singular value up to each block, the median of twelve "
    "equations. Choose which of the two is shown.",
    alternative=f"After four blocks the largest singular values are {spectra['value'][3]:.2g} with LayerNorm and "
    f"{spectra['value'][11]:.2g} without a norm.",
)
