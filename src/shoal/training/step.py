"""Training step and evaluation of every member at once.

Python's work does not grow with ``R``, but with the number of groups in which programs pass over them, where they do.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.func import vmap

from shoal.errors import UserError, nearest
from shoal.rules.updates import clip_scale
from shoal.training.stack import Stack

Metric = Callable[[dict[str, Tensor]], Tensor]


def train_step(stack: Stack) -> None:
    """Train every member for one step."""
    train_steps(stack, 1)


def train_steps(stack: Stack, n: int) -> None:
    """Train every member for ``n`` steps, in as few launches as the device allows.

    A member whose loss, gradient or update is not finite is put back to its last state and stays there; so does a
    member past its last step.
    """
    while n > 0:
        prepared = min(n, stack.sampler.prepare(stack.steps))
        stack.launches.run(stack.step_name, partial(_learn, stack), prepared)
        stack.steps += prepared
        n -= prepared


def _learn(stack: Stack) -> None:
    """Compute one step on the device, in a form that can be recorded: nothing here is read by, allocated on or copied
    from the host, and values that change from step to step change in place."""
    stack.at += 1
    indices, counts = stack.draw()  # (R, B), (R, B)
    scores, gradient = stack.gradient(indices, counts)  # (R, B) each, (R, P)
    with torch.no_grad():
        losses, weights = scores["loss"], scores.get("weight")  # (R, B)
        size = (counts if weights is None else counts * weights).sum(1)  # (R,)
        weighted, counts = (losses, counts) if weights is None else (losses * weights, counts & (weights > 0))
        loss = torch.where(counts, weighted, 0.0).sum(1) / size  # (R,)
        scale, norm = clip_scale(gradient, stack.hyper["clip"])  # (R, 1), (R,)
        learning = stack.alive & (stack.at <= stack.ends)
        finite = (loss < math.inf) & (norm < math.inf)  # neither is negative, and NaN is not less
        finite &= _move(stack, gradient, scale, learning & finite)  # (R,)
        diverges = learning & ~finite
        torch.where(diverges, stack.at, stack.diverged_at, out=stack.diverged_at)
        stack.alive &= ~diverges


def _move(stack: Stack, gradient: Tensor, scale: Tensor, moved: Tensor) -> Tensor:
    """Update the members of a mask, but for those it would make infinite; returns the finite ones, ``(R,)``."""
    theta = stack.theta.detach()
    count = stack.at.to(torch.float64).unsqueeze(1)  # (R, 1)
    hyper = stack.hyper_at(count)
    if stack.fused_update is not None:
        return stack.fused_update(theta, gradient, scale, stack.optimizer_state, hyper, count, moved)
    before = theta.clone()
    stack.update(theta, gradient * scale, stack.optimizer_state, hyper, count, stack.layout)
    finite = theta.sum(1, dtype=torch.float64).isfinite()  # (R,): a sum of finite numbers is, in that type
    torch.where((moved & finite).unsqueeze(1), theta, before, out=theta)
    return finite


@torch.no_grad()
def evaluate(stack: Stack, metrics: Mapping[str, Metric]) -> dict[str, Tensor]:
    """Measures of the task on each split, and every registered metric of the parameters: ``(R,)`` each, on the CPU.

    Splits are scored whole, in passes of ``eval_batch_size`` and of one form; groups of examples are reported, too.
    """
    stack.launches.run("evaluation", partial(_score_splits, stack))
    parameters = stack.parameters()
    out = {**stack.scores, **{name: measure(name, metric, parameters) for name, metric in metrics.items()}}
    return dict(zip(out, torch.stack([column.double() for column in out.values()]).cpu(), strict=True))


def _score_splits(stack: Stack) -> None:
    """Write the scores of each split, and of each group within it, to ``stack.scores``: ``(R,)`` each, float64.

    It may be recorded, as a step may.
    """
    scores = [stack.score(part, form=form) for part, form in stack.passes]
    if not stack.weights:
        stack.weights = _weights(stack)
    whole = {name: torch.cat([score[name] for score in scores], dim=1).double() for name in scores[0]}  # (R, N) each
    for quantity in stack.measured:
        if quantity not in whole:
            task = stack.cohort.shared.task
            raise UserError(f"task {task!r} measures {quantity}, and its objective gives only {' '.join(whole)}")
        values, weights = whole[quantity], whole.get(f"weight_{quantity}", whole.get("weight"))
        for name, inside in stack.weights.items():
            split, _, group = name.partition("/")
            column = f"{split}_{quantity}" + (f"_{group}" if group else "")
            weight = inside if weights is None else inside * weights
            weighted, counts = (values, inside) if weights is None else (values * weights, inside & (weights > 0))
            mean = torch.where(counts, weighted, 0.0).sum(1) / weight.sum(1)
            stack.scores[column] = stack.scores[column].copy_(mean) if column in stack.scores else mean


def measure(name: str, metric: Metric, parameters: Mapping[str, Tensor]) -> Tensor:
    """Registered metric of every member, ``(R,)``.

    Args:
        name: name of the metric.
        metric: function from one member's parameters to a scalar.
        parameters: parameters by name, ``(R, *shape)`` each.

    Raises:
        UserError: the metric returns no scalar tensor, or asks for an unknown parameter.
    """

    def one(of_member: dict[str, Tensor]) -> Tensor:
        value = metric(of_member)
        if not isinstance(value, Tensor):
            raise UserError(f"metric {name!r} must return a scalar tensor, got {type(value).__name__}")
        if value.ndim:
            raise UserError(f"metric {name!r} must return a scalar tensor, got one of shape {tuple(value.shape)}")
        return value

    try:
        return vmap(one)(dict(parameters))
    except KeyError as error:
        asked = str(error.args[0]) if error.args else ""
        if asked in parameters:  # of another dictionary: the metric's own affair
            raise
        raise UserError(
            f"metric {name!r} asks for {asked!r}, which is no parameter: one of {' '.join(parameters)}"
            f"{nearest(asked, parameters)}"
        ) from None


def _weights(stack: Stack) -> dict[str, Tensor]:
    """Masks of the evaluated examples of each split, and of each group within it: ``(R, N)`` bool."""
    weights, before, total = {}, 0, sum(count.shape[1] for count in stack.counts.values())
    for split, counts in stack.counts.items():
        inside = counts.new_zeros(len(counts), total)
        inside[:, before : before + counts.shape[1]] = counts
        weights[split] = inside
        before += counts.shape[1]
    indices = torch.cat([part for part, _ in stack.passes], dim=1)  # (R, N)
    for split in list(weights):
        for group, members in stack.groups.items():
            weights[f"{split}/{group}"] = weights[split] & members.gather(1, indices)
    return weights


def l2_norm(parameters: dict[str, Tensor]) -> Tensor:
    """Norm (ℓ₂) of one member's parameters, a scalar."""
    return torch.stack([p.square().sum() for p in parameters.values()]).sum().sqrt()
