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
from shoal.gallery import Axis, Choice, Panel, Slider, add_rows, check, dots, figure, line, trained
from shoal.models import MultiHeadedAttention
from shoal.tasks import get_arithmetic_dataset


def weights(queries, keys):
    """Attention weights ``(B, H, n)`` of queries ``(B, H, d)`` over keys ``(B, H, n, d)``, or ``(B, n, d)`` for all."""
    (B, H, d), n = queries.shape, keys.shape[-2]
    keys = keys if keys.ndim == 4 else keys.unsqueeze(1).expand(B, H, n, d)
    attention = MultiHeadedAttention(d_model=H * d, num_heads=H, causal=False)
    scaled = (queries * d**0.5).unsqueeze(2)  # (B, H, 1, d)
    return attention.get_attention_weights(scaled, keys).squeeze(2)


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


def share_of_a(s, n, heads, lengths=epsilon):
    """Weight of the value ``v_a``, the mean over the heads, ``(B,)``; several heads look for a and for b in turns.

    ``lengths`` of the key are ``(B,)``, or ``(B, H)`` where each head sees one of its own.
    """
    keys = orthonormal(n).unsqueeze(0).repeat(len(lengths), heads, 1, 1)  # (B, H, n, n)
    keys[:, :, 0] *= lengths.view(len(lengths), -1, 1)
    a, b = orthonormal(n)[0, :2]
    queries = (a + b).unsqueeze(0) if heads == 1 else torch.stack([a, b] * heads)[:heads]  # (H, n)
    return weights((s * queries).expand(len(lengths), heads, n), keys)[:, :, 0].mean(1)


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
# From two heads to eight
# -----------------------
# Let :math:`H` heads look for :math:`a` and :math:`b` in turns: :math:`A = \lceil H / 2 \rceil` of them look for
# :math:`a`. If all of these see the same :math:`\varepsilon`, they are right or wrong together: the variance is
# :math:`(A / H)^2\, V`, where :math:`V` is that of :math:`\sigma(s \varepsilon)`, the weight in one such head. More
# heads then gain nothing over two, and an odd number of heads leans towards :math:`v_a`.
#
# Heads average noise away only where it differs between them, as when each sees the key through a projection of its
# own. With an independent :math:`\varepsilon` in each head the variance is :math:`A V / H^2`, which falls like
# :math:`1 / H`. Here this is the variance of 20,000 drawn samples.

draws = torch.Generator().manual_seed(0)
own = 1 + 0.5**0.5 * torch.randn(20_000, 8, generator=draws, dtype=torch.float64)  # a length for each head
of_one, V = moments(torch.sigmoid(10 * epsilon))  # of a head that looks for a, s = 10
to_b = torch.sigmoid(torch.tensor(-10.0, dtype=torch.float64))  # weight of a in a head that looks for b
off_mean, off_shared, off_own = [], [], []
for H in range(2, 9):
    A = (H + 1) // 2
    share, shared = moments(share_of_a(10, 2, H))
    off_mean.append(abs(share - (A * of_one + (H - A) * to_b) / H))
    off_shared.append(abs(shared / ((A / H) ** 2 * V) - 1))
    off_own.append(abs(share_of_a(10, 2, H, own[:, :H]).var() / (A / H**2 * V) - 1))
check("2 to 8 heads: largest difference of the share of v_a from its formula", max(off_mean), 0, 1e-12)
check("2 to 8 heads that share the key: largest relative error of (A / H)² V", max(off_shared), 0, 1e-9)
check("2 to 8 heads with a key each: largest relative error of A V / H²", max(off_own), 0, 0.08)
check("variance with eight heads that share the key, n = 2, s = 10", moments(share_of_a(10, 2, 8))[1], variance, 1e-12)
check("share of v_a with three heads, n = 2, s = 10", moments(share_of_a(10, 2, 3))[0], 2 / 3 * of_one, 1e-4)

# %%
# The same in a picture, for 40 samples of the lengths. Move :math:`s`: with one head the outputs part, with two most
# stay. Move the number of heads: the outputs draw together only where each head has a length of its own.

ONE, SHARED, EACH = "one head", "H heads, one length", "H heads, a length each"
spread = torch.linspace(-0.3, 0.3, 40)  # so that dots do not cover each other
outputs, curve, moved_outputs, moved_curves, ends = {}, {}, {}, {}, {}
for s in sharpness:
    ends[ONE] = moments(share_of_a(s, 2, 1))[1].item()
    add_rows(outputs, s=s, place=1 - share_of_a(s, 2, 1, own[:40, 0]), row=2 + spread, heads=ONE)
    add_rows(curve, at=s, variance=ends[ONE], heads=ONE)
    for H in range(1, 9):
        shared, each = share_of_a(s, 2, H, own[:40, 0]), share_of_a(s, 2, H, own[:, :H])
        ends[SHARED, H], ends[EACH, H] = moments(share_of_a(s, 2, H))[1].item(), each.var().item()
        for row, heads, share in ((1, SHARED, shared), (0, EACH, each[:40])):
            add_rows(moved_outputs, s=s, H=H, place=1 - share, row=row + spread, heads=heads)
            add_rows(moved_curves, H=H, at=s, variance=ends[heads, H], heads=heads)
chosen = [{"s": columns["at"], **columns} for columns in (curve, moved_curves)]  # dots at the chosen s

figure(
    Panel(
        [dots(rows, "place", "row", "heads", opacity=0.6) for rows in (outputs, moved_outputs)],
        Axis("output c, from v_a (0) to v_b (1)", domain=(-0.02, 1.02)),
        Axis(names=[EACH, SHARED, ONE]),
        title="40 samples of the output",
    ),
    Panel(
        [
            *(line(rows, "at", "variance", "heads") for rows in (curve, moved_curves)),
            *(dots(rows, "at", "variance", "heads", size=80) for rows in chosen),
        ],
        Axis("multiple s of the query"),
        Axis("variance of the weight of v_a", domain=(0, 0.25)),
        title="Variance; that of a coin is 0.25",
    ),
    move=[Choice("s", "multiple s of the query", 10), Slider("H", "heads H", 2)],
    caption="Left: outputs for 40 samples, on the line between the two values. Right: variance of the weight of v_a; "
    "dots mark the chosen s. With one head a large s turns the average into a coin. With two most outputs stay in "
    "the middle, and those of negative lengths lie at v_b. More heads help where each has a length of its own; an odd "
    "number of heads leans to v_a.",
    alternative="At s = 0 every output is the mean of the two values. As s grows to 50, the variance of the weight "
    f"rises to {ends[ONE]:.3f} with one head and to {ends[SHARED, 2]:.3f} with two. Eight heads have "
    f"{ends[SHARED, 8]:.3f} if they see one length, and {ends[EACH, 8]:.4f} if each sees its own.",
)

# %%
# In a trained model
# ------------------
# Here a GPT of two layers and four heads learns addition modulo 11. Its queries and keys are read behind its own
# projections. The formula above, with scores divided by :math:`\sqrt d`, then says which weights it must have used,
# where each token looks at itself and those before.

spec = shoal.RunSpec(model="gpt", p=11, r_train=0.7, embedding_size=32, num_heads=4, n_steps=600, lr=3e-3, seed=0)
_, tokenizer, _, _ = get_arithmetic_dataset(p=11, q=11, operator="+", r_train=0.7)
equations = torch.stack([tokenizer.encode(f"BOS {a} + {b} =") for a in range(11) for b in range(11)])
model = trained(spec).model().double()
with torch.no_grad():
    _, (hidden_states, attentions) = model(equations)  # (B, L + 1, S, D) and (B, L, H, S, S)
    scores = []
    for block, x in zip(model.decoder.blocks, hidden_states.unbind(1), strict=False):  # the last state enters no block
        attention = block.self_attn
        q, k = attention.split_heads(attention.W_Q(x)), attention.split_heads(attention.W_K(x))  # (B, H, S, d)
        scores.append(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5)
scores = torch.stack(scores, dim=1)  # (B, L, H, S, S)
numerators = scores.exp().tril()
predicted = numerators / numerators.sum(-1, keepdim=True)
difference = (attentions - predicted).abs().max()
check("largest difference of the trained GPT's weights from the formula", difference, 0, 1e-12)
check("its weights of keys that come later", attentions.triu(1).abs().max(), 0)

# %%
# So a key whose score exceeds each other by at least :math:`s` has a weight of at least
# :math:`1 / (1 + (n - 1) e^{-s})`, and of at most :math:`1 / (1 + e^{-s})`, which it has against a single rival. At the
# position of "=", the margins come from the scores and the weights from the model. For a weight of 0.99 a margin of
# :math:`\ln(99 (n - 1))` is enough and one of :math:`\ln 99` is needed; for 0.9, 9 stands in place of 99.

n = equations.shape[1]
(first, second), weight = scores[..., -1, :].topk(2, dim=-1).values.unbind(-1), attentions[..., -1, :].amax(-1)
margin = first - second  # (B, L, H)
low, high = 1 / (1 + (n - 1) * torch.exp(-margin)), 1 / (1 + torch.exp(-margin))
check("weights of the trained GPT outside the bounds", ((weight < low - 1e-12) | (weight > high + 1e-12)).sum(), 0)
for least, odds in ((0.9, 9.0), (0.99, 99.0)):
    enough, needed = torch.tensor([odds * (n - 1), odds], dtype=torch.float64).log()
    check(f"weights below {least} with a margin that is enough", (weight[margin >= enough] < least).sum(), 0)
    check(f"weights of at least {least} without the margin needed", (weight[margin < needed] >= least).sum(), 0)
check("some heads of the trained GPT copy: weights of 0.9 or more", bool((weight >= 0.9).any()), True)

s = torch.linspace(0, margin.max().item(), 60)
bounds, rows = {}, {}
for rivals, name in ((n - 1, f"bound for {n - 1} rivals"), (1, "bound for one rival")):
    add_rows(bounds, s=s, weight=1 / (1 + rivals * torch.exp(-s)), bound=name)
for layer in range(margin.shape[1]):
    add_rows(rows, layer=f"{layer + 1}", s=margin[:, layer].flatten(), weight=weight[:, layer].flatten())
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
    alternative=f"All {weight.numel()} weights lie between the two curves; the largest margin is "
    f"{margin.max().item():.2f}, where the weight is {weight.flatten()[margin.argmax()].item():.3f}.",
)
