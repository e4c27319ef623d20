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

import shoal
from shoal.exact import moments, normalise
from shoal.gallery import Axis, Choice, Panel, add_rows, bars, check, cubes, figure, rule, trained, words
from shoal.models import LayerNorm
from shoal.tasks import get_arithmetic_dataset

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
# Choose the axes that are averaged over: cells of one colour share a mean and a variance. Then choose the divisor. With
# :math:`n - 1` each variance is larger by the factor :math:`n / (n - 1)`, most for the smallest groups, and what is
# normalised by it has a variance below 1.

KINDS = {"batch": (0, 2), "layer": (1, 2), "instance": (2,), "over samples alone": (0,), "over everything": (0, 1, 2)}
DIVISORS = {"n (biased)": False, "n - 1 (unbiased)": True}


def place(sample, channel, feature):
    """Place of a cell in the drawing: samples lie behind each other, to the right and upwards."""
    return {"across": 3 * feature + 0.7 * sample, "up": 0.5 * sample - 2.4 * channel}


def as_text(values, decimals):
    """Numbers as texts."""
    return [f"{value:.{decimals}f}" for value in values]


everywhere = torch.cartesian_prod(*map(torch.arange, x.shape)).tolist()  # in the order of the flat tensor
across, up = ([place(*cell)[name] for cell in everywhere] for name in ("across", "up"))
before, after, means, variances, groups = {}, {}, {}, {}, {}
off_variance, off_after = [], []
for kind, axes in KINDS.items():
    kept = [size if axis not in axes else 1 for axis, size in enumerate(x.shape)]
    group = torch.arange(torch.tensor(kept).prod()).reshape(kept).expand(x.shape)  # number of each cell's group
    mean, biased = (values.flatten() for values in moments(x, axes))
    groups[kind] = int(group.max()) + 1
    check(f"number of groups, {kind}", mean.numel(), groups[kind])
    numbers = range(1, groups[kind] + 1)
    names, colours = [f"group {k}" for k in numbers], [f"group {k + 1}" for k in group.flatten()]
    add_rows(means, kind=kind, group=numbers, value=mean, text=as_text(mean, 2), name=names)
    add_rows(before, kind=kind, across=across, up=up, name=colours, value=as_text(x.flatten(), 0))
    for divisor, unbiased in DIVISORS.items():
        chosen = {"kind": kind, "divisor": divisor}
        variance = moments(x, axes, unbiased).variance.flatten()
        add_rows(variances, **chosen, group=numbers, value=variance, text=as_text(variance, 2), name=names)
        normal = normalise(x, axes, unbiased=unbiased)
        add_rows(after, **chosen, across=across, up=up, name=colours, value=as_text(normal.flatten(), 1))
        n = x.numel() // groups[kind]
        off_variance.append((variance - biased * (n / (n - 1) if unbiased else 1)).abs().max())
        new_mean, new_variance = (values.flatten() for values in moments(normal, axes))
        off_after += [new_mean.abs().max(), (new_variance - biased / (variance + 1e-5)).abs().max()]
check("largest difference of a variance from n / (n - 1) times the biased one", max(off_variance), 0, 1e-12)
check("normalised tensors: largest difference of a mean from 0, or of a variance as above", max(off_after), 0, 1e-12)

edges, labels = {}, {}  # edges between neighbours, so that the cube is seen
for sample in (0, 3):
    for channel in range(2):
        for feature in range(2):
            (x0, y), (x1, _) = (place(sample, channel, feature + k).values() for k in (0, 1))
            add_rows(edges, x0=x0 + 0.5, y0=y, x1=x1 - 0.4, y1=y)
    for feature in range(3):
        (x0, y1), (_, y0) = (place(sample, channel, feature).values() for channel in (0, 1))
        add_rows(edges, x0=x0, y0=y0 + 0.33, x1=x0, y1=y1 - 0.25)
for feature in range(3):
    add_rows(labels, across=3 * feature, up=-3, word=f"feature {feature + 1}")
for channel in range(2):
    add_rows(labels, across=-1.3, up=-2.4 * channel, word=f"channel {channel + 1}")
for sample in range(4):
    add_rows(labels, across=7.4 + 0.7 * sample, up=0.5 * sample - 2.4, word=f"sample {sample + 1}")


def cube(rows, title):
    """Panel with the tensor as a cube."""
    layers = [rule(edges, "x0", "y0", "x1", "y1"), words(labels, "across", "up", "word")]
    layers += [cubes(rows, "across", "up", "name", size=440), words(rows, "across", "up", "value")]
    hidden = (Axis(hidden=True, domain=(-2, 10.2)), Axis(hidden=True, domain=(-3.2, 2.1)))
    return Panel(layers, *hidden, title=title, width=370, height=260)


def groupwise(rows, title):
    """Panel with a bar for each group."""
    layers = [bars(rows, "group", "value", "name"), words(rows, "group", "value", "text", at="above")]
    return Panel(layers, Axis("group", domain=(0.4, 8.6)), Axis(domain=(0, 5)), title=title, width=370, height=140)


figure(
    cube(before, "Cells of one colour are averaged together"),
    cube(after, "The tensor after normalisation"),
    groupwise(means, "Mean of each group"),
    groupwise(variances, "Variance of each group"),
    move=[
        Choice("kind", "normalisation", "batch"),
        Choice("divisor", "sum of squares divided by", "n (biased)"),
    ],
    caption="The tensor of the exercise: four samples behind each other, with two channels and three features. 'Over "
    "samples alone' is what the document's answer calls batch normalisation.",
    alternative="Groups that are averaged: "
    + "; ".join(
        f"{kind}, {groups[kind]} of {x.numel() // groups[kind]} numbers" for kind in ("batch", "layer", "instance")
    ),
)

# %%
# In a trained model
# ------------------
# A GPT learns addition modulo 7. Of each of its LayerNorms the inputs and outputs are kept while it reads all
# equations, ``(B, S, D)``. Before scale and shift, the *features of each position* have the mean 0 and the variance
# :math:`\sigma^2 / (\sigma^2 + \varepsilon)`. Over sentences and positions a feature has another mean than 0. And what
# a LayerNorm gives for a sentence does not depend on those beside it.

_, tokenizer, _, _ = get_arithmetic_dataset(p=7, q=7, operator="+", r_train=0.7)
equations = torch.stack([tokenizer.encode(f"BOS {a} + {b} =") for a in range(7) for b in range(7)])
common = {"model": "gpt", "p": 7, "r_train": 0.7, "embedding_size": 16, "num_layers": 2, "num_heads": 2}
model = trained(shoal.RunSpec(**common, n_steps=150, lr=3e-3, seed=0)).model().double()
norms = [module for module in model.modules() if isinstance(module, LayerNorm)]
kept = []
for norm in norms:
    norm.register_forward_hook(
        lambda norm, inputs, output: kept.append((inputs[0], (output - norm.bias) / norm.weight))
    )
with torch.no_grad():
    model(equations)
    together, kept = kept, []
    model(equations[:1])
off_mean, off_variance, off_feature, off_alone = [], [], [], []
for (h, z), (_, alone) in zip(together, kept, strict=True):
    of_position, entering = moments(z, (2,)), moments(h, (2,)).variance
    off_mean.append(of_position.mean.abs().max())
    off_variance.append(((1 - of_position.variance) * (entering + 1e-5) / 1e-5 - 1).abs().max())
    off_feature.append(moments(z, (0, 1)).mean.abs().max())
    off_alone.append((z[:1] - alone).abs().max())
check("LayerNorms of the trained GPT", len(norms), 4)
check("largest mean of the features of a position", max(off_mean), 0, 1e-12)
check("largest relative error of ε / (σ² + ε), by which their variance is below 1", max(off_variance), 0, 1e-6)
check(
    "each LayerNorm: a feature with a mean above 0.2 over sentences and positions", bool(min(off_feature) > 0.2), True
)
check("largest change of a sentence's features without the other sentences", max(off_alone), 0, 1e-12)
