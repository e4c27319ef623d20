"""Stacks of engine ``windows`` beside the model as it is written, in float32 and in float64."""

from collections.abc import Callable, Sequence

import torch
from helpers import CPU

from shoal.fast.windows import WindowScorer
from shoal.spec import RunSpec
from shoal.training.plan import Cohort
from shoal.training.stack import Stack


def moved_stack(specs: Sequence[RunSpec], engine: str = "windows", products: str | None = None) -> Stack:
    """A stack away from its initial values, so that biases and norms matter."""
    stack = Stack(Cohort(tuple(specs)), CPU, engine, products)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        stack.theta += 0.2 * torch.randn(stack.theta.shape[1], generator=noise)
    return stack


def found_by(stack: Stack) -> list[torch.Tensor]:
    """Scores and gradients of two training batches and an evaluation's, and the scores of the last scored part."""
    found = []
    for training in (False, True):
        stack.sampler.prepare(stack.steps)
        stack.at += 1
        stack.steps += 1
        indices, counts = stack.draw()
        if training:  # as a step does whose batch is not full, and otherwise as PyTorch is asked
            counts = counts & (torch.arange(counts.shape[1]) < max(1, counts.shape[1] - 1))
            scores, gradient = stack.gradient(indices, counts)
        else:
            scores = stack.score(indices, form=stack.form)
            (gradient,) = torch.autograd.grad((scores["loss"] * counts).sum(), stack.theta)
        found += [*(value.detach() for value in scores.values()), (gradient / gradient.abs().max()).clone()]
    with torch.no_grad():
        part, form = stack.passes[-1]
        found += stack.score(part, form=form).values()
    return found


def in_float64(stack: Stack) -> Stack:
    """A stack of engine ``plain`` with its parameters, buffers and data in float64."""
    stack.theta = stack.theta.detach().double().requires_grad_()
    stack.model.double()
    for tensors in (stack.frozen, stack.frozen_each, stack.per_member, stack.tensors):
        tensors |= {name: value.double() for name, value in tensors.items() if value.is_floating_point()}
    return stack


def rounded_otherwise(stack: Stack, seed: int) -> Stack:
    """A stack whose parameters are off by about their last bit; of seed 0 as they are."""
    if seed:
        last_bit = 6e-8 * torch.randn(stack.theta.shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            stack.theta.mul_(1 + last_bit)
    return stack


def assert_the_models(stack_of: Callable[[str], Stack], without_kernels: bool = False) -> None:
    """Hold scores and gradients to those of the model in float64, as near as float32 comes with the model itself.

    Variants without norms, or with norms over few numbers, multiply rounding by thousands, by how much is chance: the
    model is therefore computed from its parameters, and from two neighbours of them in float32.
    """
    fast = stack_of("windows")
    if without_kernels:
        fast.scorer = WindowScorer(fast.scorer.members, None)
    exact_model = found_by(in_float64(stack_of("plain")))
    roundings = [found_by(rounded_otherwise(stack_of("plain"), seed)) for seed in range(3)]
    for found, exact, *rounded in zip(found_by(fast), exact_model, *roundings, strict=True):
        seen = max(float((one - exact).abs().max()) for one in rounded)
        atol = 3e-5 * max(1.0, float(exact.abs().max())) + 4 * seen
        torch.testing.assert_close(found.double(), exact.double(), atol=atol, rtol=0)
