r"""
LoRA and QLoRA: parameters, products and rounding errors
========================================================

LoRA trains two thin matrices beside a frozen one, and QLoRA keeps the frozen one in few bits.

A linear layer is fine-tuned by a low-rank adapter: its matrix :math:`W` of :math:`d \times d` is frozen, and two
matrices :math:`A` and :math:`B` of :math:`d \times r` are trained,

.. math:: Y = X W + X A B^T .

QLoRA stores the frozen matrices as :math:`m`-bit integers, and multiplies with what they stand for,

.. math:: \widetilde W = \mathrm{quant}(W) = \lfloor W / \Delta \rfloor, \qquad
   \Delta = \frac{\max |W|}{2^{m-1} - 1}, \qquad \mathrm{dequant}(\Delta, \widetilde W) = \Delta \widetilde W .

This page counts the parameters of adapters and the products of a forward pass on the library's own modules, and
measures by how much quantised matrices are off.

*Source: exercises on representations, R4, questions 1 to 4. The document's answers are a student's; where they are
wrong, the row of the errata stands beside the number.*
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

import shoal
from shoal.gallery import Axis, Panel, Slider, check, dots, figure, line, trained, words
from shoal.models import MultiHeadedAttention
from shoal.models.adapters import FrozenLinear, LoRALinear, adapt, adapted_names, freeze, linear_names, stored_bytes
from shoal.models.linear_block import LinearBlock
from shoal.quantisation import quantise_absmax, quantise_blocks
from shoal.quantisation.blocks import LEVELS
from shoal.tasks import get_arithmetic_dataset

torch.manual_seed(0)
d, h, r, n = 512, 8, 8, 128  # width, heads, rank, tokens


def adapted(model, rank, quantise=None):
    """The model with its linear layers frozen, or quantised, and adapters on all but W_O; no adapters of rank 0."""
    names = adapted_names(model)
    freeze(model, quantise)
    if rank:
        adapt(model, names, rank, rank, alpha=rank)
    return model


def trained_parameters(layer):
    """Number of parameters that train."""
    return sum(parameter.numel() for parameter in layer.parameters())


# %%
# R4.1: how they differ
# ---------------------
# Both train the same adapters. :math:`B` begins at 0, so that an adapter changes nothing before its first step. LoRA
# keeps :math:`W` in 32 bits, 4 bytes per number. QLoRA keeps :math:`m` bits and one :math:`\Delta` per matrix. NF4, the
# format of the paper on QLoRA, keeps 4 bits, one of 16 levels, and a scale of 4 bytes for every 64 numbers.

x = torch.randn(1, n, d)
block = LinearBlock(d, h)
with torch.no_grad():
    before = block(x)
    lora = adapted(block, r)
    check("largest change of an output by an adapter that has not been trained", (lora(x) - before).abs().max(), 0)
qlora = adapted(LinearBlock(d, h), r, quantise_absmax)
for name, quantise, expected in (("absmax, 4 bits", quantise_absmax, 0.5), ("NF4", quantise_blocks, 0.5625)):
    stored = stored_bytes(adapted(LinearBlock(d, h), 0, quantise))
    check(f"bytes per frozen number, {name}", stored["bytes"] / stored["parameters"], expected, 1e-4)

# %%
# R4.4 (a): space
# ---------------
# Trained parameters alone are counted. The document's layers are ``LFFN``, one matrix of :math:`d \times d`, and
# ``MHA``, with three such matrices for each of :math:`h` heads and :math:`W^O` of :math:`hd \times d`, which has no
# adapter: :math:`2dr` and :math:`6hdr`, with and without quantisation.

for name, model in (("LoRA", lora), ("QLoRA", qlora)):
    check(f"parameters of LFFN, {name}, 2dr", trained_parameters(model.ffn), 2 * d * r)
    check(f"parameters of MHA, {name}, 6hdr", trained_parameters(model.attention), 6 * h * d * r)
check("share of the frozen numbers, LFFN", trained_parameters(lora.ffn) / d**2, 0.031, 5e-4)
check("share of the frozen numbers, MHA", trained_parameters(lora.attention) / (4 * h * d**2), 0.023, 5e-4)

# %%
# :math:`6hdr` is a property of those wide heads. The heads of a usual GPT have the size :math:`d / h` and are packed in
# one matrix of :math:`d \times d`, so that their number does not count: :math:`6dr`.

packed = adapted(MultiHeadedAttention(d, h, bias=False), r)
check("parameters of packed heads, 6dr", trained_parameters(packed), 6 * d * r, document="6hdr", erratum="E22")

# %%
# R4.4 (a): time
# --------------
# Multiplications of a forward pass, counted by PyTorch as the modules run, against formulas. Each of the three
# projections of a head takes :math:`nd^2 + 2ndr`, the scores and the averages :math:`n^2 d` each, and :math:`W^O` takes
# :math:`nd^2h` for all heads.


def multiplications(layer, tokens):
    """Multiplications in products of matrices, and those of numbers one by one."""

    def by_number(*shapes, out_shape, **options):
        return 2 * out_shape.numel()  # the counter counts an addition with each

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mul: by_number})
    with torch.no_grad(), counter:
        layer(torch.zeros(1, tokens, d))
    counts = {str(kind): count // 2 for kind, count in counter.get_flop_counts()["Global"].items()}
    single = counts.pop("aten.mul", 0)
    return sum(counts.values()), single


for name, model in (("LoRA", lora), ("QLoRA", qlora)):
    ffn, mha = (multiplications(layer, n)[0] for layer in (model.ffn, model.attention))
    check(f"multiplications of LFFN, {name}", ffn, n * d**2 + 2 * n * d * r)
    expected = h * (3 * (n * d**2 + 2 * n * d * r) + 2 * n**2 * d) + n * d**2 * h
    check(f"multiplications of MHA, {name}", mha, expected)

# %%
# *Hint: operands in the same precision.* QLoRA must dequantise before it multiplies, one multiplication by
# :math:`\Delta` per frozen number. :math:`W^O` is frozen and quantised like the others: :math:`3hd^2 + hd^2` in MHA.

frozen = adapted(LinearBlock(d, h), 0, quantise_absmax)
dequantised = multiplications(frozen.attention, n)[1]
check("multiplications to dequantise LFFN", multiplications(frozen.ffn, n)[1], d**2)
check("multiplications to dequantise MHA", dequantised, 3 * h * d**2 + h * d**2, document="3d²", erratum="E22")

# %%
# Dequantising is paid per matrix, and a product per token, so that the former is :math:`1 / n` of the latter. That is
# little for a whole text. A model that generates reads one token at a time, and dequantises as often as it multiplies.

for tokens in (128, 1):
    products, single = multiplications(frozen.ffn, tokens)
    check(f"dequantising over products of LFFN, n = {tokens}", single / products, 1 / tokens)

# %%
# R4.2: the rank
# --------------
# Memory grows in proportion to :math:`r`. At :math:`r = d / 2` an adapter has as many parameters as the matrix. What it
# can change is limited: :math:`AB^T` has a rank of at most :math:`r`. How much a higher rank helps depends on the task,
# and is measured by ``shoal study run adapters``.

half = adapted(LinearBlock(d, 1), d // 2).ffn
check("parameters of an adapter of rank d / 2, over those of its matrix", trained_parameters(half) / d**2, 1)
with torch.no_grad():
    lora.ffn.B.normal_()
    check("rank of what the adapter adds", torch.linalg.matrix_rank(lora.ffn.B @ lora.ffn.A), r)

# %%
# R4.3: speed at inference
# ------------------------
# A trained adapter can be merged, :math:`W + AB^T`, after which a forward pass costs what it did before fine-tuning.
# The merged layer is the same function. With integers, which floating point adds and multiplies without rounding, no
# bit of its outputs differs.


def integers(*shape):
    """Random integers from -3 to 3, as float32."""
    return torch.randint(-3, 4, shape).float()


layer = LoRALinear(FrozenLinear(integers(d, d), None), r, r, alpha=2 * r)
with torch.no_grad():
    layer.A.copy_(integers(r, d))
    layer.B.copy_(integers(d, r))
    whole = integers(n, d)
    difference = (layer(whole) - whole @ layer.weight.T).abs().max()
check("largest difference after merging, integers", difference, 0)
merged = torch.nn.Linear(d, d, bias=False)
check("multiplications of a merged LFFN", multiplications(merged, n)[0], n * d**2)

# %%
# QLoRA's adapter can be merged, too: onto :math:`\Delta \widetilde W`, with which it was trained. That takes 32 bits
# per number again. Merged onto the :math:`W` before quantisation, it gives another function.

W = torch.nn.Linear(d, d, bias=False).weight.detach()
layer = LoRALinear(FrozenLinear(quantise_absmax(W), None), r, r, alpha=r)
with torch.no_grad():
    layer.B.normal_(std=0.01)
    outputs = layer(x)
    onto = {"ΔW̃": layer.weight, "W": W + layer.scale * (layer.B @ layer.A)}
    apart = {name: (outputs - x @ weight.T).abs().max().item() for name, weight in onto.items()}
    long = {name: tensor.double() for name, tensor in (("x", x), ("W", W), ("ΔW̃", layer.frozen.weight))}
    lost = (long["x"] @ (long["ΔW̃"] - long["W"]).T).abs().max()
    whole = (long["x"] @ (long["ΔW̃"] + layer.B.double() @ layer.A.double()).T).abs().max()
check("largest output", outputs.abs().max(), whole, 1e-5)
check("largest difference after merging onto ΔW̃", apart["ΔW̃"], 0, 1e-5)
check("largest difference after merging onto W, that of X(ΔW̃ - W)", apart["W"], lost, 1e-5)
check("merged onto W, the largest difference is more than 1,000 times that", apart["W"] > 1000 * apart["ΔW̃"], True)

# %%
# R4.4: what quantisation loses
# -----------------------------
# The brackets of :math:`\lfloor W / \Delta \rfloor` can mean the nearest integer or the floor (E15). Let the entries of
# :math:`W` be normal, 512 × 512 of them, and the largest 4.73. Errors that are spread evenly over an interval of length
# :math:`\Delta` have a root mean square (RMSE) of :math:`\Delta / \sqrt{12}` around their mean. Rounding to nearest
# has a mean error of 0 and errs by up to :math:`\Delta / 2`. The floor errs by up to :math:`\Delta`; every number
# becomes smaller, by :math:`\Delta / 2` on average, and the RMSE is :math:`\sqrt{\Delta^2 / 12 + \Delta^2 / 4} =
# \Delta / \sqrt 3`: twice as much.
#
# Errors are *not* spread evenly where :math:`\Delta` is wide beside the normal distribution. So the expected RMSE is
# an integral of :math:`(w - \mathrm{level})^2` over the normal density, in closed form.

LARGEST = 4.73
W = torch.randn(512, 512, generator=torch.Generator().manual_seed(0)).clamp(-LARGEST, LARGEST)
W[0, 0] = LARGEST


def by_integral(levels, edges):
    """RMSE where a normal number between two edges ``(*dims, K + 1)`` becomes the level ``(*dims, K)`` there."""
    density = torch.exp(-edges.square() / 2) / (2 * torch.pi) ** 0.5
    mass = torch.special.ndtr(edges).diff()  # of a cell, and the means of w and w² over it
    mean, square = -density.diff(), mass - (edges * density).diff()
    return ((square - 2 * levels * mean + levels**2 * mass).sum(-1) / mass.sum(-1)) ** 0.5


def nearest_edges(levels):
    """Edges half way between levels, and the outermost levels."""
    return torch.cat([levels[..., :1], (levels[..., 1:] + levels[..., :-1]) / 2, levels[..., -1:]], -1)


def levels_of(m):
    """Levels of m bits."""
    half = 2 ** (m - 1) - 1
    return torch.arange(-half, half + 1, dtype=torch.float64) * (LARGEST / half)


rmse, evenly = {}, {"Δ/√12": 12, "Δ/√3": 3}
for m in range(2, 9):
    levels = levels_of(m)
    delta = LARGEST / (2 ** (m - 1) - 1)
    expected = {"nearest": by_integral(levels, nearest_edges(levels)), "floor": by_integral(levels[:-1], levels)}
    near = float(f"{2e-3 * delta:.1g}")
    for rounding, most, even, bias in (("nearest", delta / 2, "Δ/√12", 0), ("floor", delta, "Δ/√3", delta / 2)):
        error = (W - quantise_absmax(W, m, rounding).dequantise()).double()
        rmse[rounding, m] = error.square().mean().sqrt().item()
        if m in (2, 3, 4, 8):
            check(f"largest error, {rounding}, m = {m}", error.abs().max(), most, near)
            check(f"RMSE, {rounding}, m = {m}", rmse[rounding, m], expected[rounding], near, erratum="E15")
            check(f"mean error, {rounding}, m = {m}", error.mean(), bias, near)
            ratio = evenly[even] ** 0.5 / delta
            check(f"RMSE over {even}, m = {m}", rmse[rounding, m] * ratio, expected[rounding] * ratio, 0.01)

# %%
# :math:`m` bits could stand for :math:`2^m` integers. The formula uses :math:`2^m - 1` of them, as many below 0 as
# above. Two bits have three levels, of which normal numbers are nearly all rounded to 0.

grid = torch.linspace(-1, 1, 100_001)
for m in (2, 3, 4, 8):
    check(f"levels used, m = {m}", len(quantise_absmax(grid, m).integers().unique()), 2**m - 1)
zeros = (quantise_absmax(W, 2).integers() == 0).double().mean()
check("share of the entries that become 0, m = 2", zeros, torch.special.erf(torch.tensor(LARGEST / 8**0.5)), 2e-3)

# %%
# *Where the formula has no value.* At :math:`m = 1` its denominator :math:`2^0 - 1` is 0, and the library refuses. A
# matrix of zeros has :math:`\Delta = 0` and :math:`W / \Delta = 0 / 0`; the library takes :math:`\widetilde W = 0`.

try:
    quantise_absmax(W, 1)
except shoal.UserError as error:
    print(error)
zero = torch.zeros(d, d)
delta = zero.abs().max() / 7
check("entries of W / Δ that are no number, W = 0", (zero / delta).isnan().sum(), d**2)
check("largest entry of dequant(quant(W)), W = 0", quantise_absmax(zero, 4).dequantise().abs().max(), 0)

# %%
# NF4 beside it, with 4 bits as well, has less than half the RMSE of the document's 4 bits. Most of this comes from a
# scale for every 64 numbers, instead of one for the matrix, which its largest entry sets: absmax in blocks of 64 comes
# close. NF4's uneven levels, denser near 0, do the rest.

blocks = W.reshape(-1, 64)
scales = blocks.abs().amax(1, keepdim=True).double()  # (4096, 1)
for name, levels, approximation in (
    ("absmax of 4 bits in blocks of 64", levels_of(4) / LARGEST, [quantise_absmax(b, 4).dequantise() for b in blocks]),
    ("NF4", LEVELS["nf4"].double(), list(quantise_blocks(W).dequantise().reshape(-1, 64))),
):
    rmse[name] = (blocks - torch.stack(approximation)).double().square().mean().sqrt().item()
    by_block = by_integral(scales * levels, nearest_edges(scales * levels))
    # the largest of 64 has an error of 0
    check(f"RMSE, {name}", rmse[name], (by_block.square().mean() * 63 / 64).sqrt(), 6e-4)
check("RMSE of NF4 over that of the matrix's absmax, 4 bits", rmse["NF4"] / rmse["nearest", 4], 0.472, 5e-3)
of_blocks = rmse["nearest", 4] - rmse["absmax of 4 bits in blocks of 64"]
check("share of blocks in the difference", of_blocks / (rmse["nearest", 4] - rmse["NF4"]), 0.85, 0.01)

# %%
# What each number becomes, and by how much all are off:

steps = {"w": [], "becomes": [], "rounding": [], "m": []}
errors = {"m": [], "rmse": [], "rounding": []}
even = {"m": [], "rmse": [], "evenly spread": []}
w = torch.linspace(-LARGEST, LARGEST, 301)
for m in range(2, 9):
    for rounding, divisor in (("nearest", 12**0.5), ("floor", 3**0.5)):
        steps["w"] += w.tolist()
        steps["becomes"] += quantise_absmax(w, m, rounding).dequantise().tolist()
        steps["rounding"] += [rounding] * len(w)
        steps["m"] += [m] * len(w)
        errors["m"].append(m)
        errors["rmse"].append(rmse[rounding, m])
        errors["rounding"].append(rounding)
        even["m"].append(m)
        even["rmse"].append(LARGEST / (2 ** (m - 1) - 1) / divisor)
        even["evenly spread"].append(rounding)
chosen = {**errors, "bits": errors["m"]}
nf4 = {"m": [4.5], "rmse": [rmse["NF4"]], "name": ["NF4"]}

figure(
    Panel(
        [line({**steps, "bits": steps["m"]}, "w", "becomes", "rounding")],
        Axis("number w"),
        Axis("what it becomes"),
        title="Rounding",
    ),
    Panel(
        [
            line(even, "m", "rmse", "evenly spread", dashed=True),
            dots(errors, "m", "rmse", "rounding", opacity=0.5),
            dots(chosen, "m", "rmse", "rounding", size=160),
            dots(nf4, "m", "rmse"),
            words(nf4, "m", "rmse", "name", at="below"),
        ],
        Axis("bits per number, scales included", domain=(1.7, 8.3)),
        Axis("RMSE", log=True),
        title="Error",
    ),
    move=Slider("bits", "bits m", 3),
    caption="Left: what a number becomes in m bits, rounded to nearest and down. Right: RMSE of a matrix of 512 × 512 "
    "normal numbers, on a logarithmic axis; dashed: Δ/√12 and Δ/√3, the RMSE of errors that are spread evenly.",
    alternative=f"With 2, 4 and 8 bits the RMSE is {rmse['nearest', 2]:.3g}, {rmse['nearest', 4]:.3g} and "
    f"{rmse['nearest', 8]:.3g} rounded to nearest, and {rmse['floor', 2]:.3g}, {rmse['floor', 4]:.3g} and "
    f"{rmse['floor', 8]:.3g} rounded down; NF4 has {rmse['NF4']:.3g}.",
)

# %%
# On a trained GPT
# ----------------
# Matrices that were trained are not normal numbers. Here are the six of a GPT of one block that has learned addition
# modulo 11, with their errors as the library makes them, and again by the formula in float64. In 8 bits the errors are
# as if they were spread evenly, in two bits they are not.

P = 11
sizes = {"embedding_size": 64, "num_layers": 1, "num_heads": 4}
run = trained(shoal.RunSpec(model="gpt", p=P, r_train=0.7, **sizes, n_steps=300, lr=3e-3, seed=0))
matrices = {name: run.model().get_submodule(name).weight.detach() for name in linear_names(run.model())}
check("matrices of the GPT", len(matrices), 6)


def by_formula(W, m, rounding):
    """Δ and dequant(quant(W)) of a matrix, as in the document, in float64."""
    W, largest, half = W.double(), W.double().abs().max(), 2 ** (m - 1) - 1
    scaled = W * half / largest  # W / Δ, exactly an integer for the largest
    return largest / half, largest / half * (scaled.round() if rounding == "nearest" else scaled.floor())


def by_library(W, m, rounding):
    """The same by the library, which computes in float32."""
    codes = quantise_absmax(W, m, rounding)
    return codes.delta.double(), codes.dequantise().double()


def relative_rmse(quantised, *how):
    """Mean over the matrices of RMSE / Δ."""
    ratios = []
    for W in matrices.values():
        delta, approximation = quantised(W, *how)
        ratios.append((approximation - W.double()).square().mean().sqrt() / delta)
    return sum(ratios) / len(ratios)


of_gpt = {}
for m in (2, 3, 4, 8):
    for rounding, divisor in (("nearest", "Δ/√12"), ("floor", "Δ/√3")):
        of_gpt[rounding, m] = relative_rmse(by_library, m, rounding) * evenly[divisor] ** 0.5
        expected = relative_rmse(by_formula, m, rounding) * evenly[divisor] ** 0.5
        check(f"RMSE over {divisor}, {rounding}, m = {m}, of the GPT", of_gpt[rounding, m], expected, 1e-5)
for m, is_even in ((2, False), (8, True)):
    check(f"within a hundredth of Δ/√12, m = {m}", bool(abs(of_gpt["nearest", m] - 1) < 0.01), is_even)

# %%
# What counts are the answers. The GPT answers all 121 equations with its matrices quantised by the library, and again
# with the formula's numbers in their place. Rounded to nearest, four bits keep nearly all right answers. Rounded down,
# all numbers of a matrix become smaller, which adds up over the terms of a product, and more bits are needed.

parts = [get_arithmetic_dataset(p=P, q=P, operator=sign, r_train=0.7)[0] for sign in ("+", "-")]
additions, subtractions = (
    [torch.cat(both) for both in zip(*(half.tensors for half in of), strict=True)] for of in parts
)


def logits_of(model, equations):
    """Logits of the answers to all equations, ``(121, V)``, and the right answers."""
    inputs, targets, equals, _ = equations
    rows, place = torch.arange(len(inputs)), equals + 1  # of the answer: behind "="
    return model(inputs)[0][rows, place], targets[rows, place]


def right_answers(model, equations):
    """Number of equations that a model answers rightly."""
    with torch.no_grad():
        logits, answers = logits_of(model, equations)
    return (logits.argmax(-1) == answers).sum().item()


def with_matrices(change, dtype=torch.float64):
    """The GPT with other numbers in its matrices; ``change`` takes a matrix and its name."""
    model = run.model().to(dtype)
    with torch.no_grad():
        for name, W in matrices.items():
            model.get_submodule(name).weight.copy_(change(W, name))
    return model


unquantised = right_answers(run.model(), additions)
answered = {"m": [], "right": [], "rounding": []}
for rounding in ("nearest", "floor"):
    for m in range(2, 9):
        quantised = adapted(run.model(), 0, lambda W, m=m, how=rounding: quantise_absmax(W, m, how))
        formula = with_matrices(lambda W, _, m=m, how=rounding: by_formula(W, m, how)[1])
        answered["m"].append(m)
        answered["rounding"].append(rounding)
        answered["right"].append(right_answers(quantised, additions))
        expected = right_answers(formula, additions)
        check(f"right additions, {rounding}, m = {m}", answered["right"][-1], expected)
check("right additions in 32 bits", unquantised, right_answers(run.model().double(), additions))
right = dict(zip(zip(answered["rounding"], answered["m"], strict=True), answered["right"], strict=True))
check("8 bits change the number of right additions by one at most", abs(right["nearest", 8] - unquantised) <= 1, True)
check("4 bits, nearest, keep nine in ten of them", right["nearest", 4] >= 0.9 * unquantised, True)
check("4 bits, floor, keep nine in ten of them", right["floor", 4] >= 0.9 * unquantised, False)

figure(
    Panel(
        [
            line({"m": [2, 8], "right": [unquantised] * 2}, "m", "right", dashed=True),
            line(answered, "m", "right", "rounding"),
            dots(answered, "m", "right", "rounding"),
        ],
        Axis("bits m", domain=(1.8, 8.2), format="d"),
        Axis("right answers, of 121", domain=(0, 121)),
        width=420,
    ),
    caption="Right answers of a GPT with quantised matrices, rounded to nearest and down; dashed: in 32 bits.",
    alternative=f"Of 121 equations the GPT answers {unquantised} in 32 bits; in 4 bits {right['nearest', 4]} rounded "
    f"to nearest and {right['floor', 4]} rounded down, in 8 bits {right['nearest', 8]} and {right['floor', 8]}.",
)

# %%
# Adapters teach the GPT in four bits to subtract, with a sign that it knows as that of addition. Merged onto
# :math:`\Delta \widetilde W`, with which they were trained, the GPT is the same function. Merged onto :math:`W`, it is
# another one.

torch.manual_seed(0)
qlora = adapted(run.model(), r, quantise_absmax)
optimizer = torch.optim.AdamW(qlora.parameters(), lr=5e-3, weight_decay=0.0)
for _ in range(160):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(*logits_of(qlora, subtractions)).backward()
    optimizer.step()


def merged_onto_W(W, name):
    """Matrix before quantisation, with the adapter that it has."""
    layer = qlora.get_submodule(name)
    return W + layer.scale * (layer.B @ layer.A) if isinstance(layer, LoRALinear) else W


def merged_onto_trained(_, name):
    """Matrix that the adapter was trained with, dequant(quant(W)), with the adapter."""
    return qlora.get_submodule(name).weight


def logits_of_all(model):
    """Logits of all subtractions, without a gradient."""
    with torch.no_grad():
        return logits_of(model, subtractions)[0].double()


of_qlora, exact = logits_of_all(qlora), logits_of_all(with_matrices(merged_onto_trained))
onto_W = with_matrices(merged_onto_W, torch.float32), with_matrices(merged_onto_W)
merged = with_matrices(merged_onto_trained, torch.float32)
untrained = right_answers(run.model(), subtractions)
check("right subtractions before fine-tuning", untrained, right_answers(run.model().double(), subtractions))
learned = right_answers(qlora, subtractions)
check("right subtractions after it", learned, right_answers(with_matrices(merged_onto_trained), subtractions))
check("at least five times as many as before", learned >= 5 * untrained, True)
check("largest difference of a logit, merged onto ΔW̃", (logits_of_all(merged) - of_qlora).abs().max(), 0, 1e-3)
check("right subtractions, merged onto ΔW̃", right_answers(merged, subtractions), learned)
difference = (logits_of_all(onto_W[0]) - of_qlora).abs().max()
check("largest difference of a logit, merged onto W", difference, (logits_of_all(onto_W[1]) - exact).abs().max(), 1e-3)
lost = right_answers(onto_W[0], subtractions)
check("right subtractions, merged onto W", lost, right_answers(onto_W[1], subtractions))
check("fewer than before merging", lost < learned, True)

# %%
# R4.4 (b): which to choose
# -------------------------
# *Memory limit: QLoRA for both.* It divides the bytes of the frozen matrices by eight; those of the adapters, with
# their gradients and the optimizer's moments, are the same. *Faster inference: LoRA for both*, merged, without
# dequantising. *Both: QLoRA*, says the document, with "negligible speed loss". That holds while many tokens are read at
# once. For one token at a time dequantising needs as many multiplications as the products, as counted above.

for name, layer, numbers in (("MHA", frozen.attention, 4 * h * d**2), ("LFFN", frozen.ffn, d**2)):
    stored = stored_bytes(layer)
    check(f"bytes in 32 bits over bytes in 4 bits, {name}", 4 * stored["parameters"] / stored["bytes"], 8, 1e-3)
    check(f"frozen numbers of {name}", stored["parameters"], numbers)
