r"""
Batch, layer and instance normalisation
=======================================

Batch, layer and instance normalisation differ in the numbers over which they take a mean and a variance.

A normalisation layer subtracts a mean :math:`\mu` and divides by a standard deviation :math:`\sigma`. The kinds differ
only in the numbers that are averaged. Of a tensor of the size :math:`(N, C, F)`, samples by channels by features,
PyTorch averages

* in *batch* normalisation, for each channel, over samples and features;
* in *layer* normalisation, for each sample, over channels and features;
* in *instance* normalisation, for each sample and channel, over features.

*Source: a course on representation learning, R1. Its answers use the names in other meanings (E11), and some of the
printed numbers are not those of their own code (E20); this page has both beside the right ones.*
"""

import torch

from shoal.exact import moments, normalise
from shoal.gallery import Axis, Choice, Panel, check, dots, figure, words
from shoal.models import LayerNorm

x = torch.tensor(
    [
        [[2, 5, 1], [4, 3, 4]],
        [[1, 2, 4], [1, 2, 2]],
        [[3, 1, 2], [3, 2, 4]],
        [[3, 4, 3], [5, 2, 3]],
    ],
    dtype=torch.float64,
)


def compare(kind, what, values, expected, printed=None):
    """Check all numbers of a kind; ``printed`` are those of the document's answer where it has as many."""
    for i, (value, right) in enumerate(zip(values.flatten(), expected, strict=True)):
        name = f"{kind} {what} {i + 1}"
        if printed is None or abs(printed[i] - right) < 6e-3:
            check(name, value, right, 5e-6)
        else:
            check(name, value, right, 5e-6, document=f"{printed[i]:.2f}", erratum="E20")


# %%
# Batch: per channel
# ------------------
# Two channels, so two means and two variances, each of :math:`4 \cdot 3 = 12` numbers. (The document's answer has six,
# one per channel and feature: averages over samples alone.)

batch = moments(x, "batch")
compare("batch", "mean of channel", batch.mean, [31 / 12, 35 / 12])
compare("batch", "variance of channel", batch.variance, [1.576389, 1.243056])
check("batch: numbers in the mean", batch.mean.numel(), 2, document="6", erratum="E11")

# %%
# Layer: per sample
# -----------------
# Four samples, so four means, each of 6 numbers. The document calls this *instance* normalisation. Its means are right,
# three of its four variances are not.

layer = moments(x, "layer")
compare("layer", "mean of sample", layer.mean, [19 / 6, 2, 2.5, 10 / 3], [3.17, 2.00, 2.50, 3.33])
variances = [1.805556, 1, 0.916667, 0.888889]
compare("layer", "variance of sample", layer.variance, variances, [2.14, 1.11, 0.92, 2.22])

# %%
# Instance: per sample and channel
# --------------------------------
# Eight means, each of 3 numbers. The document calls this *layer* normalisation; the last of its eight means and
# variances are wrong.

instance = moments(x, "instance")
compare(
    "instance",
    "mean",
    instance.mean,
    [8 / 3, 11 / 3, 7 / 3, 5 / 3, 2, 3, 10 / 3, 10 / 3],
    [2.67, 3.67, 2.33, 1.67, 2.00, 3.00, 3.33, 3.00],
)
compare(
    "instance",
    "variance",
    instance.variance,
    [26 / 9, 2 / 9, 14 / 9, 2 / 9, 2 / 3, 2 / 3, 2 / 9, 14 / 9],
    [2.89, 0.22, 1.56, 0.22, 0.67, 0.67, 0.22, 2.00],
)

# %%
# Divided by n, or by n − 1?
# --------------------------
# Layers divide the sum of squares by the number :math:`n` of values (the *biased* variance). Divided by :math:`n - 1`
# it is an unbiased estimate; ``BatchNorm`` keeps a running average of *that* for use after training, though it
# normalises with the other one.

unbiased = moments(x, "batch", unbiased=True).variance
compare("unbiased batch", "variance of channel", unbiased, [1.719697, 1.356061])
theirs = torch.nn.BatchNorm1d(2, momentum=1.0, dtype=torch.float64)
theirs(x)
check("difference from what PyTorch's BatchNorm keeps", (theirs.running_var - unbiased).abs().max(), 0, 1e-12)

# %%
# The library's LayerNorm
# -----------------------
# A transformer's LayerNorm takes the features of *one position* as the sample: it normalises the last dimension. Of
# this tensor with channels and features laid out in one row, that is layer normalisation as above; of the tensor as it
# is, it is instance normalisation. In a batch of sentences :math:`(B, S, D)`, every token is normalised by itself, and
# nothing of it depends on the other tokens, on the other sentences or on the size of the batch.

with torch.no_grad():
    rows = LayerNorm(6).double()(x.reshape(4, 6)).reshape(4, 2, 3)
    last_axis = LayerNorm(3).double()(x)
check("LayerNorm of each row of 6 is layer normalisation", (rows - normalise(x, "layer")).abs().max(), 0, 1e-12)
check(
    "LayerNorm of the last axis is instance normalisation", (last_axis - normalise(x, "instance")).abs().max(), 0, 1e-12
)
moved = x.clone()
moved[1:] *= 10
with torch.no_grad():
    after = LayerNorm(6).double()(moved.reshape(4, 6))[0]
check("change of sample 1 by other samples, LayerNorm", (after - rows[0].flatten()).abs().max(), 0)
change = (normalise(moved, "batch")[0] - normalise(x, "batch")[0]).abs().max()
check("change of sample 1 by other samples, batch: above 1/2", bool(change > 0.5), True)

# %%
# Which numbers are averaged
# --------------------------

KINDS = {"batch": (0, 2), "layer": (1, 2), "instance": (2,), "over samples alone": (0,), "over everything": (0, 1, 2)}
table = {"kind": [], "row": [], "column": [], "group": [], "before": [], "after": []}
groups = {}
for kind, axes in KINDS.items():
    kept = [size if axis not in axes else 1 for axis, size in enumerate(x.shape)]
    group = torch.arange(1, torch.tensor(kept).prod() + 1).reshape(kept).expand(x.shape)
    groups[kind] = group.max().item()
    check(f"number of groups, {kind}", moments(x, axes).mean.numel(), groups[kind])
    normal = normalise(x, axes)
    check(f"mean of the normalised tensor, {kind}", normal.mean(), 0, 1e-12)
    for n, c, f in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        table["kind"].append(kind)
        table["row"].append(4 - n)
        table["column"].append(c * 4 + f)
        table["group"].append(f"group {group[n, c, f]}")
        table["before"].append(f"{x[n, c, f]:.0f}")
        table["after"].append(f"{normal[n, c, f]:.1f}")

features = Axis("features of channel 1, features of channel 2", names=["1", "2", "3", "", "1", "2", "3"])
samples = Axis("sample", names=["", "4", "3", "2", "1"], domain=(0.5, 4.5))
figure(
    Panel(
        [dots(table, "column", "row", "group", size=900, opacity=0.35), words(table, "column", "row", "before")],
        features,
        samples,
        title="Numbers of one group share a mean",
    ),
    Panel(
        [dots(table, "column", "row", "group", size=900, opacity=0.35), words(table, "column", "row", "after")],
        features,
        samples,
        title="The tensor after normalisation",
    ),
    move=Choice("kind", "normalisation", "batch"),
    caption="Left: the tensor of the exercise; cells of one colour are averaged together. Right: what becomes of it. "
    "'Over samples alone' is what the document's answer calls batch normalisation.",
    alternative=f"Batch normalisation averages {groups['batch']} groups of 12 numbers, layer normalisation "
    f"{groups['layer']} of 6, instance normalisation {groups['instance']} of 3.",
)
