"""Kernels of windows against PyTorch's operations and autograd in float64, member by member."""

import math
import sys
from itertools import combinations
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal.fast.build import compiled, kernels
from shoal.fast.kernels import CompiledLibrary
from shoal.fast.program import Arena, Program, Value
from shoal.fast.scorer import unflattened
from shoal.fast.window_kernels import ACTIVATIONS, SOURCE, WindowKernelOps, window_kernels, window_library
from shoal.fast.window_ops import Drop, Recurrence, TorchWindowOps, View
from shoal.keyed import uniform
from shoal.models.norms import LayerNorm, RMSNorm
from shoal.objectives import CONVENTIONS

pytestmark = pytest.mark.skipif(window_kernels().library is None, reason=window_kernels().note)
quick = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**31)
keys = st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3)
OVERWRITTEN = ("x", "added", "logits", "q", "kv")
rates = st.sampled_from([None, 0.1, 0.5, 0.9])


def drawn(seed, R, **shapes):
    """Normal numbers of these shapes for each member: a member's are its own."""
    randoms = [torch.Generator().manual_seed(seed + r) for r in range(R)]
    return {
        name: torch.stack([torch.randn(shape, generator=random) for random in randoms])
        for name, shape in shapes.items()
    }


class Banded(Program):
    """Program every array of which lies between numbers that are none, which no kernel may read or write."""

    BAND = 64

    def take(self, *shape):
        band, n = self.BAND, math.prod(shape)
        whole = torch.full((n + 2 * band,), math.nan)
        self.bands = [*getattr(self, "bands", []), whole[:band], whole[band + n :]]
        return whole[band : band + n].view(shape).zero_()

    def give_back(self, array):
        pass

    def finish(self):
        super().finish()
        self.lay(lambda: all(bool(band.isnan().all()) for band in self.bands) or pytest.fail("written outside"))


def run(build, arrays, d_out, is_copied=True, repeats=1, program_type=Program, products="torch", constants=()):
    """What an operation of kernels gives for arrays, and their gradients, from that of its result.

    ``build`` makes the result of operations and values. Those it is given may be overwritten if ``is_copied``; else
    they are parameters. Those named ``constants`` do not train.
    """
    layout = {name: array.shape[1:] for name, array in arrays.items()}
    theta = torch.cat([array.flatten(1) for array in arrays.values()], 1)
    gradient = torch.zeros_like(theta)
    program = program_type(Arena(), gradient, products=products)
    parts, gradients = unflattened(theta, layout), unflattened(gradient, layout)
    values = {
        name: Value(parts[name], gradients[name], is_parameter=True, is_constant=name in constants) for name in layout
    }
    library = CompiledLibrary(kernels().library)
    ops = WindowKernelOps(library, window_library(), program)
    copied = {name: ops.join([value]) for name, value in values.items() if is_copied and name in OVERWRITTEN}
    out = build(ops, SimpleNamespace(**{**values, **copied}))
    if isinstance(out, Value):
        program.operation(None, lambda: program.add_to_grad(out, d_out))
    program.finish()
    for _ in range(repeats):
        program.forward()
        if not isinstance(out, Value):
            program.d_loss.copy_(d_out)
        results = [tensor.clone() for tensor in ((out.data,) if isinstance(out, Value) else out)]
        program.backward()
    return results, {name: part.clone() for name, part in unflattened(gradient, layout).items()}


def held(build, arrays, seed=0, is_copied=True, tolerance=2e-5, products="torch"):
    """Hold an operation of kernels to PyTorch's and their gradients, in float64, and members to themselves alone."""
    leaves = {name: array.double().requires_grad_() for name, array in arrays.items()}
    expected = build(TorchWindowOps(), SimpleNamespace(**leaves))
    first = expected if isinstance(expected, torch.Tensor) else expected[0]
    R = len(first)
    d_out = drawn(seed + 1, R, d=first.shape[1:])["d"]
    grads = torch.autograd.grad(first, list(leaves.values()), d_out.double(), allow_unused=True)
    results, found = run(build, arrays, d_out, is_copied, repeats=2, products=products)
    for result, wanted in zip(results, [expected] if first is expected else expected, strict=True):
        scale = 1 + float(wanted.detach().abs().max())
        assert float((result.double() - wanted.detach()).abs().max()) <= tolerance * scale
    for (name, grad), wanted in zip(found.items(), grads, strict=True):
        wanted = torch.zeros_like(leaves[name]) if wanted is None else wanted
        scale = 1 + float(wanted.abs().max())
        assert float((grad.double() - wanted).abs().max()) <= tolerance * scale, name
    return results, found, d_out


def held_apart(build_for, arrays, stacked, products="torch"):
    """Hold each member alone, and the stack where arrays lie between numbers that are none, to the stack, by bits.

    ``build_for`` makes the operation of some members.
    """
    results, found, d_out = stacked
    for members in [slice(0, len(d_out)), *(slice(r, r + 1) for r in range(len(d_out)))]:
        own = {name: array[members] for name, array in arrays.items()}
        apart, grads = run(build_for(members), own, d_out[members], program_type=Banded, products=products)
        assert all(torch.equal(one, every[members]) for one, every in zip(apart, results, strict=True))
        assert all(torch.equal(grads[name], found[name][members]) for name in found)


def drop_for(p, keys, members):
    return None if p is None else Drop(p, torch.tensor(keys)[members].contiguous())


@quick
@given(
    *(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 40), st.integers(1, 3)),
    *(st.sampled_from(["learned", "fixed", None]), st.sampled_from([None, 3.0]), seeds),
)
def test_embeddings(R, B, S, D, V, kind, scale, seed):
    shapes = {"table": (V, D)} | ({"positions": (S + 2, D)} if kind == "learned" else {})
    arrays, fixed = drawn(seed, R, **shapes), torch.randn(S + 1, D)
    tokens = torch.randint(V, (R, B * S), generator=torch.Generator().manual_seed(seed))

    def build_for(members):
        def build(ops, x):
            rows = x.positions if kind == "learned" else None if kind is None else fixed
            return ops.embed(x.table, tokens[members].contiguous(), S, rows, scale)

        return build

    held_apart(build_for, arrays, held(build_for(slice(0, R)), arrays, seed))


views = st.one_of(
    st.integers(1, 20).map(lambda S: (S, S, True)), st.tuples(st.integers(1, 20), st.integers(1, 40), st.just(False))
)


def hold_attention(R, B, H, size, view, p, is_masked, keys, seed, is_copied=True, factor=None):
    Q, K, causal = view
    D = H * size
    arrays = drawn(seed, R, q=(B * Q, D), kv=(B * K, 2 * D))
    seen = torch.rand(R, B, K, generator=torch.Generator().manual_seed(seed)) < 0.7
    seen[:, 0] = False  # an example without keys

    def build_for(members):
        view = View(B, Q, K, causal, seen[members].contiguous() if is_masked else None)
        drop = drop_for(p, keys, members)
        return lambda ops, x: ops.attention(x.q, x.kv, view, H, drop, factor)

    stacked = held(build_for(slice(0, R)), arrays, seed, is_copied)
    held_apart(build_for, arrays, stacked)
    if is_masked:
        assert not stacked[0][0].reshape(R, B, Q, D)[:, 0].any() and not stacked[1]["q"].reshape(R, B, Q, D)[:, 0].any()


@quick
@given(
    *(st.integers(1, 2), st.integers(1, 2), st.integers(1, 3), st.sampled_from([1, 3, 8, 16, 20, 32, 40]), views),
    *(rates, st.booleans(), keys, seeds, st.booleans()),
)
@example(1, 1, 2, 16, (70, 70, True), 0.1, False, [1, 2, 3], 0, True)
@example(2, 2, 1, 64, (9, 16, False), None, True, [1, 2, 3], 0, True)
def test_attention(R, B, H, size, view, p, is_masked, keys, seed, is_copied):
    hold_attention(R, B, H, size, view, p, is_masked, keys, seed, is_copied)


def test_attention_where_a_tile_has_more_rows_than_a_vector_numbers(tmp_path, monkeypatch):
    """As compiled for aarch64: 4 numbers and 8 rows."""
    header, text = SOURCE.with_name("vectors.h").read_text(), SOURCE.read_text()
    for there in ("__AVX512F__", "__AVX__"):
        header, text = (of.replace(f"defined({there})", "defined(NONE)") for of in (header, text))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "vectors.h").write_text(header)
    (tmp_path / SOURCE.name).write_text(text.replace("defined(__aarch64__)", "defined(__GNUC__)"))
    library = compiled(tmp_path / SOURCE.name).library
    monkeypatch.setattr(sys.modules[__name__], "window_library", lambda: CompiledLibrary(library))
    for K in (3, 10):
        hold_attention(1, 2, 2, 8, (5, K, False), 0.1, False, [1, 2, 3], 0)
        hold_attention(1, 2, 2, 8, (K, K, True), None, True, [1, 2, 3], 0)
    hold_lstm(2, 7, 3, 32, 32, True, "any", False, True, 0, "own")


def test_attention_with_scores_of_another_factor():
    hold_attention(2, 3, 1, 24, (5, 7, False), 0.5, True, [1, 2, 3], 0, factor=1.0)


def hold_lstm(R, B, S, E, D, is_biased, mask, is_backward, has_before, seed, products, X=None):
    """Hold an LSTM layer, its states and the last of them, to PyTorch's operations; with ``X``, of a table's rows."""
    arrays = drawn(seed, R, x=(X or S * B, E), weight=(4 * D, E + D), bias=(4 * D,), h=(B, D), c=(B, D))
    rows = None if X is None else torch.randint(X, (R, S * B), generator=torch.Generator().manual_seed(seed))
    arrays["weight"] /= math.sqrt(E + D)
    seen = torch.rand(R, B, S, generator=torch.Generator().manual_seed(seed)) < 0.6
    if mask == "padding":
        seen = torch.arange(S) < torch.randint(S + 1, (R, B, 1), generator=torch.Generator().manual_seed(seed))

    def build_for(members):
        over = Recurrence(B, S, seen[members].contiguous() if mask else None, is_backward)

        def build(ops, x):
            bias, before = x.bias if is_biased else None, (x.h, x.c) if has_before else None
            h, ends = ops.lstm(x.x, x.weight, bias, over, before, None if rows is None else rows[members].contiguous())
            return ops.join([h, *ends])

        return build

    stacked = held(build_for(slice(0, R)), arrays, seed, products=products)
    held_apart(build_for, arrays, stacked, products)
    if mask == "padding" and not is_backward:
        h = stacked[0][0][:, : S * B].view(R, S, B, D)
        first = arrays["h"] if has_before else torch.zeros(R, B, D)
        for r, b in [(r, b) for r in range(R) for b in range(B)]:
            n = int(seen[r, b].sum())
            assert bool((h[r, n:, b] == (h[r, n - 1, b] if n else first[r, b])).all())


widths = st.integers(2, 40)  # a product with one column is rounded otherwise in a stack of one by PyTorch's library
masks = st.sampled_from([None, "padding", "any"])
directions = (st.booleans(), st.booleans(), seeds, st.sampled_from(["torch", "own"]))


@quick
@given(
    *(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), widths, st.integers(1, 20)),
    *(st.booleans(), masks, *directions),
)
@example(2, 3, 4, 8, 16, True, "padding", True, True, 0, "own")
@example(2, 3, 4, 8, 16, True, "any", False, False, 0, "own")
@example(2, 3, 1, 8, 16, True, None, False, False, 0, "own")
@example(2, 3, 9, 8, 32, True, "padding", True, True, 0, "own")
def test_lstm_layers(R, B, S, E, D, is_biased, mask, is_backward, has_before, seed, products):
    hold_lstm(R, B, S, E, D, is_biased, mask, is_backward, has_before, seed, products)


def hold_in_chunks(case):
    """Hold an LSTM layer whose steps come in chunks of so many rows, the last argument."""
    *layer, rows = case
    with mock.patch("shoal.fast.window_steps.ROWS", rows):
        hold_lstm(*layer)


tables = st.sampled_from([None, 1, 5, 40])
of_steps = (
    *(st.integers(1, 3), st.integers(1, 15), st.integers(1, 5)),
    *(st.sampled_from([3, 32, 72]), st.sampled_from([32, 96])),
    *(st.booleans(), masks, st.booleans(), st.booleans(), seeds, st.sampled_from(["own", "own", "torch"]), tables),
)


@settings(max_examples=12, deadline=None)
@given(st.tuples(*of_steps, st.sampled_from([1, 20, 256])))
@example((2, 8, 4, 32, 64, True, None, False, False, 0, "own", None, 20))
@example((1, 3, 5, 32, 32, True, "any", True, True, 0, "own", 5, 1))
@example((1, 3, 2, 8, 12, False, None, True, False, 0, "torch", 5, 256))
def test_lstm_layers_of_whole_tiles_in_chunks_and_of_tables(case):
    hold_in_chunks(case)


def test_the_number_of_threads_changes_no_bit_of_a_layer_of_whole_tiles():
    arrays = drawn(3, 2, table=(7, 64), weight=(4 * 64, 128), above=(4 * 64, 128), bias=(4 * 64,))
    tokens, over = torch.randint(7, (2, 13 * 9)), Recurrence(13, 9)

    def build(ops, x):
        h, ends = ops.lstm(x.table, x.weight, x.bias, over, None, tokens)
        return ops.lstm(h, x.above, x.bias, Recurrence(13, 9, is_backward=True), ends)[0]

    d_out, before, runs = drawn(2, 2, d=(13 * 9, 64))["d"], torch.get_num_threads(), []
    try:
        for n in (1, 2, 3, 5):
            torch.set_num_threads(n)
            runs.append(run(build, {name: array * 0.2 for name, array in arrays.items()}, d_out, products="own"))
    finally:
        torch.set_num_threads(before)
    for results, found in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results, runs[0][0], strict=True))
        assert all(torch.equal(found[name], runs[0][1][name]) for name in found)


def test_gates_that_are_saturated_and_what_is_no_number_and_stays_in_its_example():
    arrays = drawn(0, 1, x=(6, 32), weight=(128, 64), bias=(128,))
    arrays["x"][0, 0] *= 1e4
    arrays["x"][0, 2] *= 50.0
    arrays["x"][0, 3] = math.nan  # of example 1 of 2, at position 1 of 3

    def build(ops, x):
        return ops.lstm(x.x, x.weight, x.bias, Recurrence(2, 3), None)[0]

    (h,), _ = run(build, arrays, torch.ones(1, 6, 32), products="own")
    expected = build(TorchWindowOps(), SimpleNamespace(**{name: array.double() for name, array in arrays.items()}))
    torch.testing.assert_close(h.double(), expected, equal_nan=True, atol=2e-5, rtol=0)
    assert torch.equal(h[0].isnan().any(1), torch.tensor([0, 0, 0, 1, 0, 1]) > 0)


def test_a_final_state_has_the_gradients_of_all_its_readers_and_one_that_is_not_read_none():
    def build(ops, x):
        over = Recurrence(2, 3)
        h, (last, _) = ops.lstm(x.x, ops.join([x.weight]), None, over, None)
        above, _ = ops.lstm(h, ops.join([x.weight]), None, over, (last, last))
        again, _ = ops.lstm(above, ops.join([x.weight]), None, over, (last, ops.join([x.c])))
        return ops.by_example(ops.beside([again, h]), 3)

    held(build, drawn(0, 2, x=(6, 8), weight=(32, 16), c=(2, 8)))


def test_gradients_of_attention_are_added_to_those_of_other_readers():
    def build(ops, x):
        context = ops.attention(x.q, x.kv, View(2, 9, 9, True), 2)
        return ops.join([context, x.q, ops.apply(lambda kv: kv[..., :40] * kv[..., 40:], x.kv)])

    held(build, drawn(0, 2, q=(18, 40), kv=(18, 80)))


@quick
@given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 5), st.integers(1, 2), st.integers(1, 9), st.booleans(), seeds
)
def test_rotary_positions(R, B, S, H, half, is_copied, seed):
    arrays = drawn(seed, R, x=(B * S, 2 * half * H + 3))
    build = lambda ops, x: ops.rotated(x.x, S, H, 2 * half * H)  # noqa: E731
    held_apart(lambda members: build, arrays, held(build, arrays, seed, is_copied))


@quick
@given(
    *(st.integers(1, 3), st.integers(1, 70), st.integers(1, 20), st.sampled_from(ACTIVATIONS)),
    *(st.booleans(), seeds),
)
def test_activations(R, n, E, kind, is_copied, seed):
    arrays = drawn(seed, R, x=(n, 2 * E if kind == "swiglu" else E))
    build = lambda ops, x: ops.activation(x.x, kind)  # noqa: E731
    held_apart(lambda members: build, arrays, held(build, arrays, seed, is_copied))


@quick
@given(
    *(st.integers(1, 3), st.integers(1, 4), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.0, 0.1, 0.75])),
    *(st.booleans(), st.booleans(), keys, seeds),
)
def test_dropout(R, B, S, D, p, by_position, is_copied, keys, seed):
    arrays = drawn(seed, R, x=(B * S, D))

    def build_for(members):
        drop = drop_for(p, keys, members)
        return lambda ops, x: ops.dropout(x.x, drop, S if by_position else None)

    stacked = held(build_for(slice(0, R)), arrays, seed, is_copied)
    held_apart(build_for, arrays, stacked)
    for r in range(R):
        mask = (uniform(torch.tensor(keys[r]), B * S * D) >= p).reshape(B, S, D)
        rows = mask.transpose(0, 1) if by_position else mask
        assert torch.equal(stacked[0][0][r] != 0, rows.reshape(B * S, D))


@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize("k", [0, 11, 35])
def test_dropout_of_the_least_number_that_is_kept(is_kept, k):
    key = torch.tensor([5])
    own = uniform(key, 40)[0, k]
    p = float(own if is_kept else torch.nextafter(own, torch.tensor(1.0)))
    assert 0 < p < 0.5  # where there are numbers between two that are drawn
    results, _, _ = held(lambda ops, x: ops.dropout(x.x, Drop(p, key)), drawn(0, 1, x=(5, 8)))
    assert bool(results[0].flatten()[k] != 0) == is_kept
    arrays = drawn(0, 1, q=(4, 2), kv=(10, 4))
    held(lambda ops, x: ops.attention(x.q, x.kv, View(1, 4, 10, False), 1, Drop(p, key)), arrays)


@quick
@given(
    *(st.integers(1, 3), st.sampled_from([1, 5, 70, 130]), st.integers(12, 40), st.booleans(), rates),
    *(st.sampled_from(["layernorm", "unshifted", "rmsnorm", None]), st.booleans(), keys, seeds),
)
def test_residual_connections_and_norms(R, n, D, is_biased, p, kind, is_copied, keys, seed):
    arrays = drawn(seed, R, x=(n, D), added=(n, D), bias=(D,), scale=(D,), shift=(D,))

    def build_for(members):
        def build(ops, x):
            total = ops.residual(
                x.x, x.added, x.bias if is_biased else None, drop_for(p, keys, members), norm_of(x, kind)
            )
            return ops.norm(total, norm_of(x, kind))

        return build

    held_apart(build_for, arrays, held(build_for(slice(0, R)), arrays, seed, is_copied, tolerance=1e-4))


def norm_of(x, kind):
    """Norm of a kind."""
    whole = {"layernorm": (x.scale, x.shift), "rmsnorm": (x.scale, None), "unshifted": (x.scale, None, "layernorm")}
    return whole.get(kind)


@pytest.mark.parametrize("kind", ["layernorm", "unshifted", "rmsnorm"])
def test_norms_are_those_of_the_models(kind):
    arrays = drawn(0, 2, x=(7, 24), scale=(24,), shift=(24,))
    results, _ = run(lambda ops, x: ops.norm(x.x, norm_of(x, kind)), arrays, torch.ones(2, 7, 24))
    for r in range(2):
        module = RMSNorm(24) if kind == "rmsnorm" else LayerNorm(24, bias=kind == "layernorm")
        parameters = {"weight": arrays["scale"][r], "bias": arrays["shift"][r]}
        named = {name: parameters[name] for name, _ in module.named_parameters()}
        expected = torch.func.functional_call(module, named, (arrays["x"][r],))
        torch.testing.assert_close(results[0][r], expected, atol=1e-5, rtol=1e-5)


def hold_scores(R, n, V, smoothing, convention, seed):
    arrays = {"logits": 3 * drawn(seed, R, logits=(n, V))["logits"]}
    random = torch.Generator().manual_seed(seed)
    arrays["logits"] = torch.where(
        torch.rand(R, n, 1, generator=random) < 0.5, arrays["logits"].round(), arrays["logits"]
    )
    targets = torch.randint(V, (R, n), generator=random)
    likeliest = arrays["logits"].argmax(-1)
    targets = torch.where(torch.rand(R, n, generator=random) < 0.5, likeliest, targets)  # ties among them

    def build_for(members):
        return lambda ops, x: ops.token_scores(x.logits, targets[members].contiguous(), smoothing, convention)

    stacked = held(build_for(slice(0, R)), arrays, seed)
    held_apart(build_for, arrays, stacked)


@quick
@given(
    *(st.integers(1, 2), st.integers(1, 9), st.integers(3, 70), st.sampled_from([0.0, 0.1, 0.6])),
    *(st.sampled_from(CONVENTIONS), seeds),
)
def test_scores_of_tokens(R, n, V, smoothing, convention, seed):
    hold_scores(R, n, V, smoothing, convention, seed)


D, S, B = 8, 3, 2
DROP = Drop(0.3, torch.tensor([1, 2]))
NORMS = ("layernorm", None, "rmsnorm", "unshifted")
KINDS = ("linear", "dropout", "activation", "residual", "norm", "rotated", "attention", "sum", "join", "lstm", "beside")
steps = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 9), st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=8
)


def made(ops, x, kind, a, b, choice):
    """A new value, of a kind, from two others."""
    drop = DROP if choice > 1 else None
    if kind == "linear":
        return ops.linear(a, x.weight, x.bias if choice else None)
    if kind == "activation":
        return ops.activation(
            ops.linear(a, x.wide if choice == 2 else x.weight), ["gelu", "relu", "swiglu", "tanh"][choice]
        )
    if kind == "residual":
        added = ops.linear(b, x.weight) if choice % 2 else ops.join([b])
        return ops.residual(a, added, x.bias if choice else None, drop, norm_of(x, NORMS[choice]))
    if kind == "norm":
        return ops.norm(a, norm_of(x, NORMS[choice] or "layernorm"))
    if kind == "attention":
        return ops.attention(a, ops.linear(b, x.wide), View(B, S, S, choice % 2 == 0), 2, drop)
    if kind == "lstm":
        gates, over = ops.join([x.gates]), Recurrence(B, S, is_backward=choice > 1)
        h, ends = ops.lstm(a, gates, None, over, None)
        return ops.lstm(h, ops.join([x.gates]), None, over, ends)[0] if choice % 2 else h
    if kind == "beside":
        return ops.by_example(ops.linear(ops.beside([a, b]), x.narrow), S)
    return ops.apply(lambda a, b: a + b.tanh(), a, b) if kind == "sum" else ops.join([a])


def composed(ops, x, steps):
    """Values that a list of steps makes, each of a kind, from two values by number; what is overwritten is replaced."""
    values = [x.x]
    for kind, one, two, choice in steps:
        i, j = one % len(values), two % len(values)
        if kind == "dropout":
            values[i] = ops.dropout(values[i], DROP, S if choice % 2 else None)
        elif kind == "rotated":
            values[i] = ops.rotated(values[i], S, 2, D)
        else:
            values.append(made(ops, x, kind, values[i], values[j], choice))
    return ops.join(values)


def hold_composed(steps, is_copied, seed):
    shapes = {"x": (B * S, D), "weight": (D, D), "wide": (2 * D, D), "bias": (D,), "scale": (D,), "shift": (D,)}
    arrays = drawn(seed, 2, **shapes, gates=(4 * D, 2 * D), narrow=(D, 2 * D))
    for name in ("weight", "wide", "gates", "narrow"):
        arrays[name] *= 0.3
    held(lambda ops, x: composed(ops, x, steps), arrays, seed, is_copied, tolerance=2e-4)


@settings(max_examples=25, deadline=None)
@given(steps, st.booleans(), seeds)
@example([("linear", 0, 0, 0), ("attention", 1, 0, 0), ("dropout", 1, 0, 0)], True, 0)
def test_operations_in_any_order(steps, is_copied, seed):
    hold_composed(steps, is_copied, seed)


def everything(ops, x):
    """A step with every operation."""
    drop = Drop(0.2, torch.tensor([3, 4]))
    y = ops.dropout(ops.embed(x.table, TOKENS, 16, x.positions, 2.0), drop)
    q, kv = (ops.rotated(ops.linear(y, weight), 16, 2, 16) for weight in (x.weight, x.wide))
    y = ops.residual(
        y, ops.attention(q, kv, View(20, 16, 16, False, SEEN), 2, drop), x.bias, drop, norm_of(x, "layernorm")
    )
    y = ops.residual(y, ops.linear(ops.activation(ops.linear(y, x.wide), "swiglu"), x.weight), None, drop, None)
    for kind in ("gelu", "relu"):
        y = ops.residual(
            y, ops.activation(ops.linear(ops.norm(y, norm_of(x, "rmsnorm")), x.weight), kind), None, None, None
        )
    return ops.token_scores(ops.linear(y, x.table), TOKENS, 0.1, "fairseq")


TOKENS = torch.randint(40, (2, 320), generator=torch.Generator().manual_seed(0))
SEEN = torch.rand(2, 20, 16, generator=torch.Generator().manual_seed(0)) < 0.8


def all_arrays():
    """Arrays of :func:`everything`."""
    arrays = drawn(0, 2, table=(40, 16), positions=(16, 16), weight=(16, 16), wide=(32, 16), bias=(16,))
    return {name: 0.4 * array for name, array in {**arrays, **drawn(9, 2, scale=(16,), shift=(16,))}.items()}


def test_a_step_of_every_operation():
    held(everything, all_arrays(), tolerance=1e-3)


def test_the_number_of_threads_changes_no_bit_of_the_kernels():
    arrays = drawn(
        1, 1, x=(320, 48), kv=(320, 96), bias=(48,), scale=(48,), shift=(48,), table=(40, 48), wide=(320, 96)
    )
    arrays |= {"gates": 0.1 * drawn(2, 1, gates=(192, 96))["gates"]}
    drop, seen = Drop(0.2, torch.tensor([3])), SEEN[:1].contiguous()

    def build(ops, x):
        y = ops.residual(x.x, ops.embed(x.table, TOKENS[:1], 16, None, None), x.bias, drop, norm_of(x, "layernorm"))
        y = ops.attention(ops.rotated(y, 16, 3, 48), x.kv, View(20, 16, 16, False, seen), 3, drop)
        y = ops.residual(ops.dropout(y, drop), ops.activation(x.wide, "swiglu"), x.bias, drop, norm_of(x, "rmsnorm"))
        y, _ = ops.lstm(ops.activation(y, "tanh"), x.gates, None, Recurrence(20, 16, seen), None)
        return ops.token_scores(ops.activation(y, "gelu"), TOKENS[:1], 0.1, "torch")

    d_out, before, runs = drawn(2, 1, d=(320,))["d"], torch.get_num_threads(), []
    try:
        for n in (1, 2, 2, 3):
            torch.set_num_threads(n)
            runs.append(run(build, arrays, d_out))
    finally:
        torch.set_num_threads(before)
    for results, found in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results, runs[0][0], strict=True))
        assert all(torch.equal(found[name], runs[0][1][name]) for name in found)


def test_what_is_no_number_stays_none_and_in_its_member():
    for name in ("table", "positions", "weight", "wide", "bias", "scale", "shift"):
        arrays = all_arrays()
        arrays[name][0].flatten()[3] = math.nan
        (losses, _), grads = run(everything, arrays, torch.ones(2, 320))
        assert losses[0].isnan().any() and losses[1].isfinite().all()
        assert all(grad[0].isnan().any() and grad[1].isfinite().all() for grad in grads.values())


def test_the_likeliest_token_is_that_of_argmax_with_infinite_logits_and_none():
    logits = torch.tensor([[1.0, 2, 2], [2, math.nan, math.nan], [math.inf, 1, math.inf], [-math.inf, 0, -math.inf]])
    every = logits.repeat_interleave(3, 0)[None]
    targets = torch.arange(3).repeat(4)[None]
    (losses, right), grads = run(
        lambda ops, x: ops.token_scores(x.logits, targets, 0.0, "torch"), {"logits": every}, torch.ones(1, 12)
    )
    assert torch.equal(right > 0, every.argmax(-1) == targets)
    assert torch.equal(losses.isnan(), torch.tensor([[0, 1, 1, 0]]).repeat_interleave(3, 1) > 0)
    assert (
        torch.equal(losses[0, 9:], torch.tensor([math.inf, 0.0, math.inf])) and grads["logits"][0, 9:].isfinite().all()
    )


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    *(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 2, 7, 16, 24, 32, 64, 65, 128])),
    st.one_of(
        st.integers(1, 150).map(lambda S: (S, S, True)),
        st.tuples(st.integers(1, 150), st.integers(1, 300), st.just(False)),
    ),
    *(rates, st.booleans(), keys, seeds, st.booleans()),
)
def test_attention_of_many_shapes(R, B, H, size, view, p, is_masked, keys, seed, is_copied):
    hold_attention(R, B, H, size, view, p, is_masked, keys, seed, is_copied)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    *(st.integers(1, 3), st.integers(1, 70), st.integers(1, 9), widths, st.integers(1, 70)),
    *(st.booleans(), masks, *directions),
)
def test_lstm_layers_of_many_shapes(R, B, S, E, D, is_biased, mask, is_backward, has_before, seed, products):
    hold_lstm(R, B, S, E, D, is_biased, mask, is_backward, has_before, seed, products)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.tuples(*of_steps, st.sampled_from([1, 7, 20, 256])))
def test_lstm_layers_of_whole_tiles_of_many_shapes(case):
    hold_in_chunks(case)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(1, 9),
    st.integers(71, 30000),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from(CONVENTIONS),
    seeds,
)
def test_scores_of_tokens_of_large_vocabularies(R, n, V, smoothing, convention, seed):
    hold_scores(R, n, V, smoothing, convention, seed)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(steps, st.booleans(), seeds)
def test_many_operations_in_any_order(steps, is_copied, seed):
    hold_composed(steps, is_copied, seed)


CONSTANT = {
    "sum": lambda ops, x: ops.residual(x.x, ops.linear(x.y, x.wide), x.bias, None, None),
    "norm of a sum": lambda ops, x: ops.residual(x.x, ops.linear(x.y, x.wide), x.bias, None, (x.weight, x.shift)),
    "norm": lambda ops, x: ops.norm(ops.linear(x.y, x.wide), (x.weight, x.shift)),
    "activation": lambda ops, x: ops.activation(ops.linear(x.y, x.wide), "gelu"),
    "beside": lambda ops, x: ops.by_example(ops.beside([ops.linear(x.y, x.wide), x.x]), 3),
    "attention": lambda ops, x: ops.attention(
        ops.linear(x.y, x.wide), ops.linear(x.x, ops.join([x.wide, x.other])), View(2, 3, 3, causal=True), 2
    ),
    "lstm": lambda ops, x: ops.lstm(ops.linear(x.y, x.wide), x.gates, None, Recurrence(2, 3), None)[0],
}


USED = {
    "sum": "x y wide bias",
    "norm of a sum": "x y wide bias weight shift",
    "norm": "y wide weight shift",
    "activation": "y wide",
    "beside": "x y wide",
    "attention": "x y wide other",
    "lstm": "y wide gates",
}


@pytest.mark.parametrize("name", CONSTANT)
def test_constants_have_no_gradient_and_change_no_bit_of_others(name):
    shapes = {"x": (6, 4 if name == "attention" else 8), "y": (6, 4), "wide": (8, 4), "other": (8, 4), "bias": (8,)}
    shapes |= {"weight": (8,), "shift": (8,), "gates": (32, 16)}
    arrays = drawn(0, 2, **{key: shape for key, shape in shapes.items() if key in USED[name].split()})
    width = {"beside": 16}.get(name, 8)
    d_out = drawn(1, 2, d=(6, width))["d"]
    results, every = run(CONSTANT[name], arrays, d_out)
    for n in range(1, len(arrays)):
        for constants in combinations(arrays, n):
            again, gradients = run(CONSTANT[name], arrays, d_out, repeats=2, constants=constants)
            assert torch.equal(again[0], results[0])
            for key in arrays:
                expected = torch.zeros_like(every[key]) if key in constants else every[key]
                assert torch.equal(gradients[key], expected), (constants, key)
