"""Every fast engine against the model as it is written, and members against their neighbours on it."""

import math
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers import CPU, gradients, one_cohort, scattered, shapes, theta, tiny, tiny_grid
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.fast import build
from shoal.fast.build import kernels
from shoal.fast.engine import available, choose_engine
from shoal.fast.kernels import CompiledLibrary, KernelOps
from shoal.fast.prefixes import Prefixes, pick
from shoal.fast.program import Arena, Program, Value
from shoal.spec import RunSpec
from shoal.training.stack import Stack
from shoal.training.step import evaluate, train_step

FAST = ["prefixes", "compiled"]


@pytest.fixture(autouse=True)
def _needs_the_kernels(request):
    if "compiled" in str(request.node.name) and kernels().library is None:
        pytest.skip(kernels().note)


@pytest.mark.parametrize("engine", FAST)
@settings(max_examples=40, deadline=None)
@given(shape=shapes, r_train=st.lists(st.sampled_from([0.4, 0.6]), min_size=1, max_size=2, unique=True))
def test_loss_accuracy_and_gradient_equal_those_of_the_model(engine, shape, r_train):
    specs = tiny_grid(shape, r_train=r_train, seed=[0, 1])
    slow, fast = scattered(specs, "plain"), scattered(specs, engine)
    assert fast.scorer is not None and slow.scorer is None
    (expected, expected_gradient), (found, gradient) = gradients(slow), gradients(fast)
    torch.testing.assert_close(found["loss"], expected["loss"], atol=2e-5, rtol=1e-5)
    assert torch.equal(found["accuracy"], expected["accuracy"])
    scale = expected_gradient.abs().amax(1, keepdim=True)
    torch.testing.assert_close(gradient / scale, expected_gradient / scale, atol=5e-4, rtol=0)


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize("position", ["pre", "post"])
def test_a_layernorm_without_a_shift_is_no_rmsnorm(engine, position):
    specs = [tiny(model="gpt", bias_norm=False, norm_position=position)]
    slow, fast = scattered(specs, "plain"), scattered(specs, engine)
    assert fast.scorer is not None
    (expected, expected_gradient), (found, gradient) = gradients(slow), gradients(fast)
    torch.testing.assert_close(found["loss"], expected["loss"], atol=2e-5, rtol=1e-5)
    scale = expected_gradient.abs().amax(1, keepdim=True)
    torch.testing.assert_close(gradient / scale, expected_gradient / scale, atol=5e-4, rtol=0)


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize("model", ["lstm", "gpt"])
@pytest.mark.parametrize(("form", "first"), [("full", 4), ("eos", 4), ("infix", 3), ("operands", 2)])
def test_members_of_different_operators_are_scored_where_their_results_are(engine, model, form, first):
    base = {"model": model, "p": 7, "train_batch_size": 16, "equation_format": form}
    specs = tiny_grid(base, operator=["+", "/", "x^3+xy^2+y"])
    slow, fast = scattered(specs, "plain"), scattered(specs, engine)
    assert fast.scorer is not None and fast.scorer.first == first
    (expected, expected_gradient), (found, gradient) = gradients(slow), gradients(fast)
    torch.testing.assert_close(found["loss"], expected["loss"], atol=2e-5, rtol=1e-5)
    assert torch.equal(found["accuracy"], expected["accuracy"])
    scale = expected_gradient.abs().amax(1, keepdim=True)
    torch.testing.assert_close(gradient / scale, expected_gradient / scale, atol=5e-4, rtol=0)


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_a_smoothed_loss_equals_that_of_the_model_and_is_for_training_alone(engine, model):
    smoothed, sharp = (tiny(model=model, operation_orders=(2, 3), p=3, label_smoothing=e) for e in (0.3, 0.0))
    slow, fast, without = scattered([smoothed], "plain"), scattered([smoothed], engine), scattered([sharp], engine)
    expected, found = (stack.score(stack.scored["train"], training=True)["loss"] for stack in (slow, fast))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), slow.theta)
    (gradient,) = torch.autograd.grad(found.sum(), fast.theta)
    torch.testing.assert_close(gradient, expected_gradient, atol=5e-4 * float(expected_gradient.abs().max()), rtol=0)
    (reported, _), (plain, _), (known, _) = (gradients(stack) for stack in (fast, slow, without))
    assert torch.equal(reported["loss"], known["loss"])
    torch.testing.assert_close(plain["loss"], known["loss"], atol=2e-5, rtol=1e-5)
    assert (found - reported["loss"]).abs().max() > 0.01


SHAPES = [
    {"hidden_size": 12, "num_layers": 2},
    {"model": "gpt"},
    {"model": "gpt", "non_linearity": "relu", "multiplier": 2},
]
TRAINED = [  # each pair of a shape, a rule and what decays; the rest of the cross with the slow proofs
    pytest.param(changes, optimizer, decay_all, marks=() if (i + j + decay_all) % 2 else pytest.mark.slow)
    for i, changes in enumerate(SHAPES)
    for j, optimizer in enumerate(["adamw", "adam", "momentum", "sgd"])
    for decay_all in (True, False)
]


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize(("changes", "optimizer", "decay_all"), TRAINED)
def test_training_equals_training_of_the_model(engine, changes, optimizer, decay_all, steps=15):
    base = {"optimizer": optimizer, "weight_decay": 0.3, "decay_all": decay_all, "clip": 0.5, **changes}
    specs = tiny_grid({**base, "p": 7, "train_batch_size": 9}, lr=[1e-3, 3e-3], seed=[0, 1])
    stacks = [Stack(one_cohort(specs), CPU, name) for name in ("plain", engine)]
    for _ in range(steps):
        for stack in stacks:
            train_step(stack)
    expected, found = (evaluate(stack, {}) for stack in stacks)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=2e-5, rtol=0)
    slow, fast = ({k: v for k, v in stack.member(1).items() if "W_K.bias" not in k} for stack in stacks)
    for name, tensor in slow.items():
        torch.testing.assert_close(fast[name], tensor, atol=5e-5, rtol=0)


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize("model", ["lstm", "gpt"])
@pytest.mark.parametrize("size", [8, 20, 36])
@pytest.mark.parametrize("batch", [8, 64])  # of 29 equations
def test_a_member_does_not_notice_its_neighbours_by_one_bit(engine, model, size, batch):
    specs = tiny_grid(
        {"model": model, "embedding_size": size, "p": 7, "train_batch_size": batch}, lr=[1e-3, 3e-3], seed=[0, 1, 2]
    )
    with threads(1):
        together = Stack(one_cohort(specs), CPU, engine)
        alone = [Stack(one_cohort([spec]), CPU, engine) for spec in specs]
        for _ in range(8):
            for stack in (together, *alone):
                train_step(stack)
    for index, stack in enumerate(alone):
        assert torch.equal(theta(together, index), theta(stack, 0)), index


@contextmanager
def threads(number: int):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def with_gradients(operation, tensors):
    """What an operation of the kernels leaves, and the gradients of a weighted sum of it."""
    program = Program(Arena(), torch.zeros(1, 1))
    values = [None if tensor is None else Value(tensor.clone()) for tensor in tensors]
    found = operation(KernelOps(CompiledLibrary(kernels().library), program), *values)
    weights = torch.linspace(-1, 1, found.data.numel()).reshape(found.data.shape)
    program.operation(None, lambda: program.add_to_grad(found, weights))
    program.finish()
    program.forward()
    data = found.data.clone()
    program.backward()
    return [data, *(value.grad for value in values if value is not None)]


@st.composite
def operations(draw):
    """An operation of the kernels and its tensors, large enough for threads; few rows or many."""
    R, n, H = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 3, 5, 16, 67])), draw(st.sampled_from([1, 2, 3]))
    D = H * (8192 // (R * n * H) + draw(st.integers(1, 3)))
    random = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    X = draw(st.integers(1, n))
    shared, biased = draw(st.booleans()), draw(st.booleans())  # rows of a table, or its own row for each place
    rows = torch.randint(X, (R, n), generator=random) if shared else None
    x, y, kv, *vectors = (
        torch.randn(shape, generator=random)
        for shape in ((R, X if shared else n, D), (R, n, D), (R, X, 2 * D), (R, D), (R, D), (R, D))
    )
    name = draw(st.sampled_from(["gelu", "add_norm", "attend"]))
    if name == "gelu":
        return KernelOps.gelu, [y]
    if name == "attend":
        paths, lengths = torch.randint(X, (R, n, 3), generator=random), torch.randint(1, 4, (n,), generator=random)
        return lambda ops, q, kv: ops.attend(q, rows, kv, paths, lengths, H), [x, kv]
    tensors = [x, y, vectors[0] if biased else None, *vectors[1:]]
    return lambda ops, x, y, bias, *norm: ops.add_norm(x, rows, y, bias, norm), tensors


@settings(max_examples=60, deadline=None)
@given(operation=operations(), number=st.sampled_from([2, 3]))
def test_compiled_operations_on_threads_equal_those_on_one_and_repeat_to_the_bit(operation, number):
    with threads(1):
        expected = with_gradients(*operation)
    with threads(number):
        found, again = with_gradients(*operation), with_gradients(*operation)
    assert torch.equal(found[0], expected[0])  # rows are computed alone; only sums over rows are divided
    for one, other, same in zip(expected, found, again, strict=True):
        # terms of order 1 that cancel in a sum leave a rounding of float32 each, whatever is left of the sum
        terms = max(1.0, 3 * expected[0].numel() / one.numel())
        torch.testing.assert_close(other, one, atol=1e-5 * float(one.abs().max()) + 2.4e-7 * terms, rtol=0)
        assert torch.equal(other, same)


@pytest.mark.parametrize("engine", ["compiled"])
@pytest.mark.parametrize("model", ["lstm", "gpt"])
@pytest.mark.parametrize(("members", "number"), [(1, 2), (1, 3), (2, 2), (2, 3)])
def test_training_on_threads_equals_that_on_one_and_repeats_to_the_bit(engine, model, members, number):
    settings = {"model": model, "embedding_size": 48, "num_layers": 2, "p": 19}
    found = []
    for count in (1, number, number):
        with threads(count):
            stack = scattered(tiny_grid(settings, seed=range(members)), engine)
            _, gradient = gradients(stack)
            gradient = gradient.clone()
            for _ in range(3):
                train_step(stack)
        found.append((gradient, stack.theta.detach()))
    (expected, _), one, other = found
    scale = expected.abs().amax(1, keepdim=True)
    torch.testing.assert_close(one[0] / scale, expected / scale, atol=1e-4, rtol=0)
    assert all(map(torch.equal, one, other))


RUNTIMES = """
from pathlib import Path
from shoal.fast import build
from shoal.fast.build import kernels
assert kernels().library is not None
files = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
print(sum(Path(name).name.startswith(("libgomp", "libomp", "libiomp")) for name in files))
"""
KEEP = """
import resource, torch
from shoal.fast.memory import keep_freed_memory
keep_freed_memory()
pages = []
for _ in range(9):
    filled, only_taken = torch.ones(12 * 2**20), torch.empty(3 * 2**28)  # 48 MiB, 3 GiB
    del filled, only_taken
    pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(pages[-1] - pages[-2])  # the first passes look for a place
"""


def printed(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="not Linux")
def test_compiled_kernels_bring_no_second_set_of_threads():
    assert printed(RUNTIMES) == "1"


@pytest.mark.skipif(os.confstr_names.get("CS_GNU_LIBC_VERSION") is None, reason="not glibc")
def test_large_blocks_are_kept_when_they_are_freed():
    assert int(printed(KEEP)) < 1000  # of 12,288 pages that each pass fills


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion", "muon"])
def test_a_diverging_member_is_put_back_and_its_neighbours_do_not_change(engine, optimizer):
    specs = tiny_grid({"model": "gpt", "optimizer": optimizer}, seed=[0, 1, 2])
    healthy, ill = (Stack(one_cohort(specs), CPU, engine) for _ in range(2))
    for step in range(1, 9):
        if step == 4:
            with torch.no_grad():
                ill.theta[1, -1] = math.inf
            frozen = theta(ill, 1)
        if step == 6:  # an update, and not a gradient, that is too large
            ill.hyper["lr"][2] = 1e39
            frozen_late = theta(ill, 2)
        train_step(healthy)
        train_step(ill)
    assert ill.diverged_at.tolist() == [-1, 4, 6]
    assert torch.equal(theta(ill, 0), theta(healthy, 0))
    torch.testing.assert_close(theta(ill, 1), frozen, atol=0, rtol=0, equal_nan=True)
    assert torch.equal(theta(ill, 2), frozen_late)


@settings(max_examples=40, deadline=None)
@given(
    inputs=st.integers(1, 3).flatmap(
        lambda R: st.lists(
            st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=5, max_size=5),
            min_size=R,
            max_size=R,
        )
    ),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_the_nodes_of_a_batch_are_its_prefixes(inputs, batch_size, seed):
    tokens = torch.tensor(inputs)  # (R, 5, 4)
    R, N, S = tokens.shape
    indices = torch.randint(N, (R, 3), generator=torch.Generator().manual_seed(seed))
    prefixes = Prefixes(tokens, batch_size, last_shared=S - 1)
    nodes = prefixes.nodes(indices)
    examples = pick(tokens, indices)  # (R, B, S)
    assert nodes.n_shared < S and nodes.starts[-1] == nodes.tokens.shape[1]
    for r in range(R):
        for e in range(3):
            last = nodes.starts[S - 1] + e  # this example's own node at the last level
            path = nodes.paths[r, last]
            assert nodes.tokens[r, path].tolist() == examples[r, e].tolist()
        for t in range(S):
            for i, node in enumerate(range(nodes.starts[t], nodes.starts[t + 1])):
                own = nodes.paths[r, node]
                assert own[t] == node and (own[t:] == node).all() and nodes.lengths[node] == t + 1
                parents = nodes.parents[t]
                if t:
                    parent = nodes.starts[t - 1] + (i if parents is None else int(parents[r, i]))
                    assert own[:t].tolist() == nodes.paths[r, parent, :t].tolist()


def test_shared_prefixes_are_computed_once():
    stack = Stack(one_cohort([RunSpec(embedding_size=8)]), CPU, "prefixes")
    assert stack.scorer is not None
    nodes = stack.scorer.prefixes.nodes(stack.scored["train"])
    assert nodes.sizes == [1, 31, 31, 480, 480, 480]  # BOS, BOS a, BOS a +, and what each of 480 equations has alone


def test_prefixes_are_shared_from_the_first_operand_on_where_nothing_stands_before_it():
    spec = RunSpec(embedding_size=8, equation_format="operands")
    stack = Stack(one_cohort([spec]), CPU, "prefixes")
    assert stack.scorer is not None
    assert stack.scorer.prefixes.nodes(stack.scored["train"]).sizes == [31, 480, 480]


def test_the_choice_of_an_engine_says_why():
    spec = tiny()
    assert choose_engine(tiny(num_layers=2, dropout=0.5), math.inf, CPU).engine == "plain"
    assert "unequal states" in choose_engine(tiny(num_layers=2, dropout=0.5), math.inf, CPU, "compiled").why
    assert choose_engine(spec, math.inf, torch.device("cuda")).engine == "prefixes"
    rounded = tiny(precision="bfloat16")
    assert choose_engine(rounded, math.inf, CPU).engine == "compiled"
    assert choose_engine(rounded, math.inf, torch.device("cuda")).engine == "prefixes"
    assert choose_engine(spec, math.inf, CPU, "plain").engine == "plain"
    engine, why = available("compiled", torch.device("cuda"))  # which tests do not let it have
    assert engine == "prefixes" and why.startswith("TRITON_INTERPRET is set")
    assert available("prefixes", CPU)[0] == "prefixes"


@pytest.fixture
def untried(tmp_path, monkeypatch):
    """A machine on which nothing has been compiled, with a cache folder of its own."""
    cached = (build.kernels, build.compiled)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def choice(seconds, **environment):
    """Engine for a run of the practical's defaults, and why, as a new process chooses it."""
    build.kernels.cache_clear()
    build.compiled.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        chosen = choose_engine(RunSpec(), seconds, CPU)
    return f"{chosen.engine} | {chosen.why}"


CHOOSE = """
import torch
from shoal.fast.engine import choose_engine
from shoal.spec import RunSpec
choice = choose_engine(RunSpec(), float("{}"), torch.device("cpu"))
print(choice.engine, "|", choice.why)
"""


def test_without_a_compiler_the_engine_falls_back_and_says_so(untried):
    assert choice(1000, CC="no-such-compiler") == "prefixes | CC=no-such-compiler is no program"
    assert choice(1000, CC="gcc '") == "prefixes | CC=gcc ' is no program"
    assert choice(1000, PATH="") == "prefixes | there is no C compiler on this machine"
    assert choice(1000, SHOAL_NO_KERNELS="1") == "prefixes | SHOAL_NO_KERNELS is set"
    assert choice(1000, CC="false").startswith("prefixes | false did not compile the kernels")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no compiler")
def test_a_short_training_does_not_wait_for_the_compiler(untried, tmp_path):
    assert choice(1) == "prefixes | about 1 s of training are not worth 3 s of compiling"
    assert choice(1000).startswith("compiled | kernels compiled by")
    assert printed(CHOOSE.format(1)).startswith("compiled")  # they are there now, for other processes too
    kept = sorted(path.name.partition("-")[0] for path in (tmp_path / "shoal").iterdir())
    assert kept == ["kernels", "matmul", "products"]  # the last is which products are faster here


@pytest.mark.skipif(shutil.which("cc") is None, reason="no compiler")
@pytest.mark.parametrize("why", ["no home", "not ours", "a file"])
def test_where_nothing_can_be_kept_kernels_are_compiled_for_one_process(untried, tmp_path, monkeypatch, why):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    (tmp_path / "cache").write_text("") if why == "a file" else (tmp_path / "cache").mkdir()
    (tmp_path / "one.c").write_text("int one(void) { return 1; }\n")
    monkeypatch.setattr(build, "SOURCE", tmp_path / "one.c")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if why == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", no_home)
    if why == "not ours":
        monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert not build.is_compiled()
    found = build.kernels()
    assert found.note.startswith("kernels compiled by") and "for this process alone" in found.note
    assert found.library is not None and found.library.one() == 1
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="no compiler")
def test_a_damaged_library_is_made_again(untried, tmp_path):
    assert printed(CHOOSE.format(1000)).startswith("compiled | kernels compiled by")
    library = next((tmp_path / "shoal").glob("kernels-*.so"))
    whole = library.read_bytes()
    for damaged in (whole[: len(whole) // 3], b""):  # loading the first ends a process by SIGBUS
        library.write_bytes(damaged)
        assert printed(CHOOSE.format(1000)).startswith("compiled | kernels compiled by")
        assert whole in [path.read_bytes() for path in (tmp_path / "shoal").iterdir()]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_the_compiler_may_be_named_with_arguments(untried, tmp_path, monkeypatch):
    (tmp_path / "one.c").write_text("int one(void) { return ONE; }\n")
    monkeypatch.setattr(build, "SOURCE", tmp_path / "one.c")
    monkeypatch.setenv("CC", "gcc -DONE=2")
    assert build.kernels().note == "kernels compiled by gcc"
    assert build.kernels().library.one() == 2


@pytest.mark.skipif(shutil.which("cc") is None, reason="no compiler")
def test_a_header_that_has_changed_makes_another_library(untried, tmp_path, monkeypatch):
    (tmp_path / "one.c").write_text('#include <stdint.h>\n#include "one.h"\nint64_t one(void) { return ONE; }\n')
    (tmp_path / "one.h").write_text('#include "inner.h"\n')
    monkeypatch.setattr(build, "SOURCE", tmp_path / "one.c")
    keys = set()
    for value in (1, 2):
        (tmp_path / "inner.h").write_text(f"#define ONE {value}\n")
        for cached in (build.kernels, build.compiled, build._key):
            cached.cache_clear()
        assert not build.is_compiled()
        assert build.kernels().library.one() == value
        keys.add(build.kernels().key)
    assert len(keys) == 2


@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_bfloat16_rounds_products_and_nothing_else(model):
    exact, rounded = (scattered([tiny(model=model, precision=name)], "prefixes") for name in ("float32", "bfloat16"))
    (expected, _), (found, gradient) = gradients(exact), gradients(rounded)
    difference = (found["loss"] - expected["loss"]).abs()
    assert 0 < difference.max() < 0.1
    assert found["loss"].dtype == gradient.dtype == torch.float32


@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_groups_of_members_change_no_bit(model, monkeypatch):
    specs = tiny_grid({"model": model, "p": 7, "embedding_size": 12, "train_batch_size": 20}, seed=[0, 1, 2])
    with threads(1):
        stacks = []
        for cache in (2**30, 1):
            monkeypatch.setattr("shoal.fast.passes.CACHE", cache)
            stacks.append(Stack(one_cohort(specs), CPU, "compiled"))
            for _ in range(3):  # the last batch of a pass is a smaller one
                train_step(stacks[-1])
    assert [{len(passes.groups) for passes, _ in stack.scorer.passes.values()} for stack in stacks] == [{1}, {3}]
    for one, other in zip(stacks[0].state().values(), stacks[1].state().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_the_gradient_of_a_step_counts_the_examples_that_count(model):
    specs = tiny_grid({"model": model, "p": 7, "embedding_size": 12, "train_batch_size": 20}, seed=[0, 1])
    found = []
    for engine in ("plain", "compiled"):
        stack = Stack(one_cohort(specs), CPU, engine)
        stack.sampler.prepare(stack.steps)
        stack.at += 1
        indices, counts = stack.draw()
        counts = counts & (torch.arange(20) < torch.tensor([[20], [7]]))
        found.append(stack.gradient(indices, counts)[1].clone())
    slow = Stack(one_cohort(specs), CPU, "plain")
    losses = slow.score(indices, training=True)["loss"]  # (R, B)
    (expected,) = torch.autograd.grad(losses[0].mean() + losses[1, :7].mean(), slow.theta)
    for gradient in found:
        torch.testing.assert_close(gradient, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("rows", ["own", "shared", "of one", "turned"])
def test_rows_at_indices_are_those_of_each_member(rows):
    R = 1 if rows == "of one" else 3
    table = torch.randint(9, (R, 5, 2, 4))
    if rows == "shared":
        table = table[:1].expand(R, 5, 2, 4)
    elif rows == "turned":
        table = table.transpose(2, 3)
    indices = torch.randint(5, (R, 7))
    picked = pick(table, indices)
    assert torch.equal(picked, torch.stack([table[r][indices[r]] for r in range(R)]))
    assert torch.equal(pick(table > 4, indices), picked > 4)
