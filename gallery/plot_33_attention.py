r"""
Attention copies, averages, and wavers
======================================

Attention can copy one value or average several, and an average wavers where the keys are noisy.

A query :math:`q` and keys :math:`k_1, \dots, k_n` give the attention weights and the output

.. math:: \alpha_i = \frac{e^{k_i^\top q}}{\sum_j e^{k_j^\top q}}, \qquad c = \sum_i \alpha_i v_i .

The weights are at least 0 and sum to 1: they are a categorical distribution over the keys, and :math:`c` is the mean of
the values under it (*A.i*).

This page computes with the attention of the library's own models, ``MultiHeadedAttention``. It divides scores by
:math:`\sqrt{d}`, which the formula above does not, so queries are multiplied by :math:`\sqrt{d}` here.

*Source: a homework on attention, A1, with its questions A.i to A.iv, B.i and B.ii.*
"""

import torch

import shoal
from shoal.gallery import Axis, Choice, Panel, check, dots, figure, line, trained
from shoal.models import MultiHeadedAttention
from shoal.tasks import get_arithmetic_dataset


def weights(queries, keys):
    """Attention weights ``(B, H, n)`` of queries ``(B, H, d)`` over the same keys ``(B, n, d)`` in each head."""
    (B, H, d), n = queries.shape, keys.shape[1]
    attention = MultiHeadedAttention(d_model=H * d, num_heads=H, causal=False)
    scaled = (queries * d**0.5).unsqueeze(2)  # (B, H, 1, d)
    return attention.get_attention_weights(scaled, keys.unsqueeze(1).expand(B, H, n, d)).squeeze(2)


def orthonormal(n):
    """Orthogonal vectors of length 1, the means of the exercise's keys, ``(1, n, n)``, float64."""
    return torch.eye(n, dtype=torch.float64).unsqueeze(0)


# %%
# Copying
# -------
# *A.ii, A.iii, A.iv.* Attention copies :math:`v_j` when the score of :math:`k_j` exceeds all others by a large margin
# :math:`s`: its weight is :math:`e^s / (e^s + n - 1)`, and :math:`c \approx v_j`. The query works like a look-up by a
# key. A weight of 0.99 needs the margin :math:`s = \ln(99 (n - 1))`, which grows only with the logarithm of the number
# of keys.

for n, margin in {2: 4.595, 8: 6.541, 64: 8.738, 512: 10.8315}.items():
    keys = orthonormal(n)
    s = torch.tensor(99.0 * (n - 1), dtype=torch.float64).log()
    alpha = weights(s * keys[:, :1], keys)[0, 0]
    check(f"margin for a weight of 0.99 among {n} keys", s, margin, 5e-4)
    check(f"weight of the copied key among {n}", alpha[0], 0.99, 1e-12)
    check(f"sum of the {n} weights", alpha.sum(), 1, 1e-12)

# %%
# Averaging two values
# --------------------
# *B.i.* Let the keys be (almost) their means :math:`\mu_i`, which are orthogonal and of length 1. The query
# :math:`q = s\,(\mu_a + \mu_b)` has the score :math:`s` with two keys and 0 with the others. Each of the two has the
# weight :math:`e^s / (2 e^s + n - 2)`, so :math:`c` approaches :math:`\tfrac12 (v_a + v_b)` as :math:`s` grows.

for s, left, tolerance in ((1, 0.919, 5e-4), (5, 0.173, 5e-4), (10, 0.00141, 5e-6), (20, 6e-8, 5e-9)):
    keys = orthonormal(64)
    alpha = weights(s * (keys[:, :1] + keys[:, 1:2]), keys)[0, 0]
    check(f"weight of all but the two among 64 keys, s = {s}", alpha[2:].sum(), left, tolerance)
    check(f"difference between the two weights, s = {s}", alpha[0] - alpha[1], 0, 1e-12)

# %%
# Wavering
# --------
# *B.ii.* Now the length of one key varies: :math:`k_a = \varepsilon \mu_a` with
# :math:`\varepsilon \sim N(1, \tfrac12)`. With the same query the score of :math:`k_a` is :math:`\varepsilon s`, that
# of :math:`k_b` stays :math:`s`, and :math:`\alpha_a = \sigma(s (\varepsilon - 1))`. Its mean is exactly ½, but its
# variance grows with :math:`s` towards ¼, the variance of a coin: each sample copies :math:`v_a` or :math:`v_b`. The
# large multiple that made the average exact makes it unstable.
#
# Moments are integrals over :math:`\varepsilon`, here sums over 20,001 evenly spaced values, at each of which
# attention is computed.

epsilon = torch.linspace(1 - 9 * 0.5**0.5, 1 + 9 * 0.5**0.5, 20_001, dtype=torch.float64)
density = torch.exp(-((epsilon - 1) ** 2))  # of N(1, 1/2), up to a factor
density /= density.sum()


def share_of_a(s, n, heads):
    """Weight of the value ``v_a``, the mean over the heads, ``(20001,)``; heads look for a and b in turns."""
    keys = orthonormal(n).repeat(len(epsilon), 1, 1)
    keys[:, 0] *= epsilon.unsqueeze(1)
    a, b = orthonormal(n)[0, :2]
    queries = (a + b).unsqueeze(0) if heads == 1 else torch.stack([a, b]).repeat(heads // 2, 1)  # (H, n)
    return weights((s * queries).expand(len(epsilon), heads, n), keys)[:, :, 0].mean(1)


def moments(w):
    """Mean and variance over the lengths of the key."""
    mean = (density * w).sum()
    return mean, (density * (w - mean) ** 2).sum()


sharpness = [0, 1, 2, 5, 10, 20, 50]
for s, expected in zip(sharpness, [0, 0.0254, 0.0684, 0.1490, 0.1953, 0.2220, 0.2387], strict=True):
    mean, variance = moments(share_of_a(s, 2, 1))
    check(f"mean weight of the key that varies, s = {s}", mean, 0.5, 1e-9)
    check(f"variance of this weight, s = {s}", variance, expected, 5e-5)

w = share_of_a(10, 2, 1)
check("share of samples between 0.1 and 0.9, s = 10", density[(w > 0.1) & (w < 0.9)].sum(), 0.244, 5e-4)

# %%
# Two heads help, and are no full remedy
# --------------------------------------
# Give :math:`\mu_a` and :math:`\mu_b` a head each, :math:`q_1 = s \mu_a` and :math:`q_2 = s \mu_b`, and average their
# outputs. In the first head :math:`\varepsilon s` now competes with the score 0 of the other keys, and the weight of
# two keys is :math:`\sigma(s \varepsilon)`. That fails only where :math:`\varepsilon < 0`, where the key points away
# from the query, which has probability :math:`\Phi(-\sqrt 2)`. The variance falls and does not vanish, and the mean is
# no longer ½.

check("probability of a negative length", density[epsilon < 0].sum(), 0.0786, 5e-5)
share, variance = moments(share_of_a(10, 2, 2))
check("share of v_a with two heads, n = 2, s = 10", share, 0.457, 5e-4)
check("variance with two heads, n = 2, s = 10", variance, 0.0142, 5e-5)
check("variance with one head over that with two, n = 2, s = 10", moments(w)[1] / variance, 13.8, 0.05)

one, two = (moments(share_of_a(20, 64, heads))[1] for heads in (1, 2))
check("variance with one head over that with two, n = 64, s = 20", one / two, 8.9, 0.05)

# %%
# More heads for the same two keys change nothing: all heads that look for :math:`a` see the same :math:`\varepsilon`.
# Heads average the noise away only where it differs between them, as when each has a projection of its own.

check("variance with eight heads that share the key, n = 2, s = 10", moments(share_of_a(10, 2, 8))[1], variance, 1e-12)

# %%
# The same in a picture, for 60 samples of the length. Move :math:`s`: with one head the outputs part, with two most
# stay.

shown = 1 + 0.5**0.5 * torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
nearest = (epsilon.unsqueeze(0) - shown.unsqueeze(1)).abs().argmin(1)  # (60,): the sample's place among the lengths
outputs = {"moved": [], "place": [], "row": [], "heads": []}
curves = {"s": [], "variance": [], "heads": [], "moved": []}
for s in sharpness:
    for row, heads in enumerate(("one head", "two heads")):
        w = share_of_a(s, 2, row + 1)
        outputs["moved"] += [s] * len(shown)
        outputs["place"] += (1 - w[nearest]).tolist()
        outputs["row"] += (row + torch.linspace(-0.3, 0.3, len(shown))).tolist()
        outputs["heads"] += [heads] * len(shown)
        curves["moved"].append(s)
        curves["s"].append(s)
        curves["variance"].append(moments(w)[1].item())
        curves["heads"].append(heads)
whole = {name: values for name, values in curves.items() if name != "moved"}
ends = dict(zip(curves["heads"][-2:], curves["variance"][-2:], strict=True))

figure(
    Panel(
        [dots(outputs, "place", "row", "heads", opacity=0.6)],
        Axis("output c, from v_a (0) to v_b (1)", domain=(-0.02, 1.02)),
        Axis(names=["one head", "two heads"]),
        title="60 samples of the output",
    ),
    Panel(
        [line(whole, "s", "variance", "heads"), dots(curves, "s", "variance", size=80)],
        Axis("multiple s of the query"),
        Axis("variance of the weight of v_a", domain=(0, 0.25)),
        title="Variance; that of a coin is 0.25",
    ),
    move=Choice("moved", "multiple s of the query", 10),
    caption="Left: outputs for 60 lengths of one key, on the line between the two values. Right: variance of the "
    "weight of v_a over all lengths; dots mark the chosen s. With one head a large s turns the average into a coin. "
    "With two heads most outputs stay in the middle, and those of negative lengths lie at v_b.",
    alternative="At s = 0 every output is the mean of the two values. As s grows to 50, the variance of the weight "
    f"rises to {ends['one head']:.3f} with one head and to {ends['two heads']:.3f} with two.",
)

# %%
# In a trained model
# ------------------
# The bounds hold in each head of every model: a key whose score exceeds each other by at least :math:`s` has a weight
# of at least :math:`1 / (1 + (n - 1) e^{-s})`, and of at most :math:`1 / (1 + e^{-s})`, which it has against a single
# rival. Here a GPT of two layers and four heads learns addition modulo 11. The margins of its scores are read from its
# weights: :math:`s = \ln(\alpha_{(1)} / \alpha_{(2)})` for the two largest.

spec = shoal.RunSpec(model="gpt", p=11, r_train=0.7, embedding_size=32, num_heads=4, n_steps=600, lr=3e-3, seed=0)
_, tokenizer, _, _ = get_arithmetic_dataset(p=11, q=11, operator="+", r_train=0.7)
equations = torch.stack([tokenizer.encode(f"BOS {a} + {b} =") for a in range(11) for b in range(11)])
with torch.no_grad():
    _, (_, attentions) = trained(spec).model()(equations)

last = attentions[:, :, :, -1].double()  # (B, L, H, n): the weights with which "=" looks at all tokens
n, (first, second) = last.shape[-1], last.topk(2, dim=-1).values.unbind(-1)
margin = (first / second).log()
low, high = 1 / (1 + (n - 1) * torch.exp(-margin)), 1 / (1 + torch.exp(-margin))
outside = ((first < low - 1e-6) | (first > high + 1e-6)).sum()
check("weights of the trained GPT outside the bounds", outside, 0)

s = torch.linspace(0, margin.max().item(), 60)
bounds = {
    "s": s.tolist() * 2,
    "weight": (1 / (1 + (n - 1) * torch.exp(-s))).tolist() + (1 / (1 + torch.exp(-s))).tolist(),
    "bound": [f"bound for {n - 1} rivals"] * 60 + ["bound for one rival"] * 60,
}
L, H = last.shape[1:3]
rows = {
    "layer": [f"{layer + 1}" for layer in range(L) for _ in range(len(equations) * H)],
    "s": margin.transpose(0, 1).flatten(),
    "weight": first.transpose(0, 1).flatten(),
}
figure(
    Panel(
        [line(bounds, "s", "weight", "bound"), dots(rows, "s", "weight", size=14, opacity=0.35)],
        Axis("margin s of the largest score"),
        Axis("weight of its key", domain=(0, 1)),
        width=420,
    ),
    move=Choice("layer", "layer", "1"),
    caption="Each dot is a head of the chosen layer at the position of = in one of "
    f"{len(equations)} equations. Dots near the upper curve have one rival, those near the lower one as many as there "
    "are other tokens.",
    alternative=f"All {last.shape[0] * L * H} weights lie between the two curves; the largest margin is "
    f"{margin.max().item():.2f}, where the weight is {first.flatten()[margin.argmax()].item():.3f}.",
)
