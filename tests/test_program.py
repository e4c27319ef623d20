"""Programs against autograd: the same operations on the same parameters, laid out once and run again."""

import gc
import weakref

import pytest
import torch
from helpers import CPU, one_cohort, tiny, tiny_grid
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal.fast.build import kernels
from shoal.fast.kernels import CompiledLibrary, KernelOps
from shoal.fast.ops import TorchOps
from shoal.fast.passes import CACHE, GROUPS, group_size
from shoal.fast.program import Arena, Program, Value
from shoal.fast.scorer import unflattened
from shoal.training.stack import Stack
from shoal.training.step import evaluate, train_step

D = 16  # so that no row that is normalised is all but constant
LAYOUT = {
    "x": torch.Size([5, D]),
    "y": torch.Size([3, D]),
    "weight": torch.Size([D, D]),
    "other": torch.Size([D, D]),
    "bias": torch.Size([D]),
    "scale": torch.Size([D]),
    "shift": torch.Size([D]),
    "unused": torch.Size([2]),
}
KINDS = ("linear", "gelu", "add_norm", "norm", "tail", "join", "apply", "square")

pytestmark = pytest.mark.skipif(kernels().library is None, reason=kernels().note)


def rows(value):
    return (value.data if isinstance(value, Value) else value).shape[1]


def built(ops, parameters, steps):
    """What a list of steps makes of the parameters: each step a kind, two values by number, and a choice of weights."""
    values = [parameters["x"], parameters["y"]]
    norm = (parameters["scale"], parameters["shift"])
    for kind, one, two, biased in steps:
        x, y = values[one % len(values)], values[two % len(values)]
        weight, bias = parameters["weight" if biased else "other"], parameters["bias"] if biased else None
        if kind == "linear":
            values.append(ops.linear(x, weight, bias))
        elif kind == "gelu":
            values.append(ops.gelu(ops.linear(x, weight, bias)))
        elif kind == "add_norm":
            values.append(ops.add_norm(x, None, ops.linear(x, weight), bias, norm))
        elif kind == "norm":
            values.append(ops.norm(x, norm if biased else (norm[0], None)))
        elif kind == "tail" and rows(x) > 1:
            values.append(ops.linear(ops.tail(x, 1), weight))
        elif kind == "join":
            values.append(ops.join([x, y]) if biased else ops.pairs(x, torch.linspace(-1, 1, 2 * D).reshape(2, D)))
        elif kind == "apply" and rows(x) == rows(y):
            values.append(ops.apply(lambda x, y: x * y.tanh(), x, y))
        elif kind == "square":
            values.append(ops.apply(lambda x: x * x.sigmoid(), x))
    return ops.join(values)


steps = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 9), st.integers(0, 9), st.booleans()), min_size=1, max_size=9
)


@settings(max_examples=150, deadline=None)
@given(steps=steps, R=st.integers(1, 3), seed=st.integers(0, 99))
@example(
    steps=[("gelu", 0, 0, True), ("linear", 8, 0, True), *[("linear", i, 0, i > 2) for i in (0, 0, 1, 3)]], R=1, seed=2
)
def test_a_program_has_the_values_and_gradients_of_autograd_every_time_it_runs(steps, R, seed):
    random = torch.Generator().manual_seed(seed)
    theta = torch.empty(R, sum(shape.numel() for shape in LAYOUT.values()))
    arena, programs = Arena(), []
    for _ in range(2):  # in the same memory, one after the other
        gradient = torch.zeros_like(theta)
        data, gradients = unflattened(theta, LAYOUT), unflattened(gradient, LAYOUT)
        program = Program(arena, gradient)
        values = {name: Value(data[name], gradients[name], is_parameter=True) for name in LAYOUT}
        out = built(KernelOps(CompiledLibrary(kernels().library), program), values, steps)
        weights = torch.randn(out.data.shape, generator=random)
        program.operation(None, lambda out=out, weights=weights, own=program: own.add_to_grad(out, weights))
        program.finish()
        programs.append((program, out, weights))
    for program, out, weights in (*programs, *programs):
        theta.copy_(torch.randn(theta.shape, generator=random))
        leaf = theta.clone().requires_grad_()
        expected = built(TorchOps(), unflattened(leaf, LAYOUT), steps)
        (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), leaf)
        program.forward()
        largest = float(expected.detach().abs().max())  # what is small may be a difference of what is not
        torch.testing.assert_close(out.data, expected, atol=1e-5 + 1e-6 * largest, rtol=0)
        found, scale = program.backward(), 1 + float(expected_gradient.abs().max())
        torch.testing.assert_close(found, expected_gradient, atol=2e-5 * scale, rtol=0)


def test_memory_is_taken_from_the_smallest_free_block_that_fits_and_is_not_twice_too_large():
    program = Program(Arena(), torch.zeros(1, 1))
    forty, ten, fourteen, nothing = (program.take(n) for n in (40, 10, 14, 0))
    for array in (forty, ten, fourteen, nothing):
        program.give_back(array)
    wanted = {9: ten, 11: fourteen, 20: forty}
    assert all(program.take(n).data_ptr() == array.data_ptr() for n, array in wanted.items())
    program.give_back(forty)
    assert program.take(3, 0).shape == (3, 0) and len(program.arena.blocks) == 4
    program.take(19)
    assert len(program.arena.blocks) == 5


def test_gradients_are_kept_in_memory_that_values_no_longer_need():
    layers, arena = 30, Arena()
    theta, gradient = torch.randn(1, 64 * 64 + 500 * 64), torch.zeros(1, 64 * 64 + 500 * 64)
    layout = {"weight": torch.Size([64, 64]), "x": torch.Size([500, 64])}
    program, data, gradients = Program(arena, gradient), unflattened(theta, layout), unflattened(gradient, layout)
    ops, value = (
        KernelOps(CompiledLibrary(kernels().library), program),
        Value(data["x"], gradients["x"], is_parameter=True),
    )
    weight = Value(data["weight"], gradients["weight"], is_parameter=True)
    for _ in range(layers):
        value = ops.linear(value, weight)
    program.operation(None, lambda: program.add_to_grad(value, torch.ones_like(value.data)))
    before = sum(block.numel() for block in arena.blocks)
    program.finish()
    after = sum(block.numel() for block in arena.blocks)
    assert before == layers * 500 * 64 and after <= before + 2 * 500 * 64 + 64 * 64


@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_evaluating_uses_the_memory_of_training(model):
    stack = Stack(
        one_cohort(tiny_grid({"model": model, "p": 31, "train_batch_size": 512}, seed=[0, 1])), CPU, "compiled"
    )
    train_step(stack)
    trained = sum(block.numel() for block in stack.scorer.arena.blocks)
    for _ in range(2):
        evaluate(stack, {})
        train_step(stack)
    assert sum(block.numel() for block in stack.scorer.arena.blocks) < 1.1 * trained


def test_values_that_another_pass_has_overwritten_are_not_gone_back_over():
    stack = Stack(one_cohort([tiny()]), CPU, "compiled")
    examples = stack.scored["train"]
    first = stack.score(examples)["loss"]
    second = stack.score(examples)["loss"]
    with pytest.raises(RuntimeError, match="another pass"):
        torch.autograd.grad(first.sum(), stack.theta)
    torch.autograd.grad(second.sum(), stack.theta, retain_graph=True)
    with pytest.raises(RuntimeError, match="another pass"):
        torch.autograd.grad(second.sum(), stack.theta)
    third = stack.score(examples)["loss"]
    with torch.no_grad():
        stack.theta *= 2
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(third.sum(), stack.theta)


def test_logits_that_overflow_score_as_they_do_in_pytorch():
    logits = torch.tensor([[[-3e38, -3e38, -3e38, 0.0], [0.0, -torch.inf, 1.0, 2.0], [torch.inf, 0.0, 0.0, 0.0]]])
    targets, scored = torch.tensor([[3, 2, 1]]), torch.ones(1, 1, 3, dtype=torch.bool)
    expected, right = TorchOps().score(logits, targets, scored, 0.0)
    program = Program(Arena(), torch.zeros(1, 1))
    loss, accuracy = KernelOps(CompiledLibrary(kernels().library), program).score(
        Value(logits.clone()), targets, scored, 0.0
    )
    program.forward()
    torch.testing.assert_close(loss, expected, equal_nan=True)
    assert torch.equal(accuracy, right)


@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_many_examples_are_scored_in_parts_as_they_are_at_once(model):
    stack = Stack(one_cohort([tiny(model=model, p=37, train_batch_size=16)]), CPU, "compiled")
    every = torch.arange(37 * 37).unsqueeze(0)
    at_once = stack.score(every)
    with torch.no_grad():
        in_parts = stack.score(every)
    assert list(stack.scorer.passes) == [(1369, 0.0, True), (457, 0.0, False), (456, 0.0, False)]
    for name, expected in at_once.items():
        torch.testing.assert_close(in_parts[name], expected.detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_a_stack_that_is_dropped_gives_its_memory_back_at_once(model):
    gc.collect()
    gc.disable()
    try:
        stack = Stack(one_cohort([tiny(model=model)]), CPU, "compiled")
        evaluate(stack, {})
        train_step(stack)
        stack.score(stack.scored["valid"])  # with a backward that is never made
        arena = weakref.ref(stack.scorer.arena)
        del stack
        assert arena() is None
    finally:
        gc.enable()


def test_evaluating_keeps_nothing_for_a_backward():
    stack = Stack(one_cohort([tiny(model="gpt", positions="rotary", norm="rmsnorm")]), CPU, "compiled")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        evaluate(stack, {})
        assert not kept
        train_step(stack)
        assert kept


@given(n_bytes=st.integers(0, 2**34), threads=st.integers(1, 64), members=st.integers(1, 2000))
def test_groups_are_few_and_fill_the_caches_of_the_threads(n_bytes, threads, members):
    size = group_size(n_bytes, threads, members)
    assert 1 <= size <= members and -(-members // size) <= GROUPS
    assert size == members or size >= threads
    assert size <= max(threads, -(-members // GROUPS)) or size * n_bytes <= threads * CACHE
