"""One training step of every member at once, and one evaluation. No Python work grows with ``R``."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import vmap

from shoal.training.optimizers import clip_by_norm
from shoal.training.stack import Stack

Metric = Callable[[dict[str, Tensor]], Tensor]


def train_step(stack: Stack, step: int) -> None:
    """Move every member from step ``step - 1`` to ``step``.

    A member whose loss, gradient or update is not finite is put back to where it was and stays there; so does a member
    past its last step.
    """
    positions, counts = stack.sampler(step)  # (R, B), (R, B)
    batch = stack.batch(stack.splits["train"].gather(1, positions))
    losses = stack.forward(batch, step)["loss"]  # (R, B)
    loss = torch.where(counts, losses, 0.0).sum(1) / counts.sum(1)  # (R,)
    (gradient,) = torch.autograd.grad(loss.sum(), stack.theta)  # (R, P): members do not share parameters
    with torch.no_grad():
        gradient, norm = clip_by_norm(gradient, stack.hyper["clip"])
        theta = stack.theta.detach()
        before = theta.clone()
        count = torch.tensor(float(step), dtype=torch.float64, device=stack.device)
        stack.optimizer.update(theta, gradient, stack.optimizer_state, stack.hyper, count)
        finite = loss.isfinite() & norm.squeeze(1).isfinite() & theta.isfinite().all(1)  # (R,)
        learning = stack.alive & (stack.n_steps >= step)
        stack.diverged_at.masked_fill_(learning & ~finite, step)
        stack.alive &= finite | ~learning
        moved = (learning & finite).unsqueeze(1)  # (R, 1)
        theta.copy_(torch.where(moved, theta, before))


@torch.no_grad()
def evaluate(stack: Stack, metrics: Mapping[str, Metric]) -> dict[str, Tensor]:
    """Loss and accuracy on each split, and every registered quantity of the parameters: ``(R,)`` each, on the CPU.

    Splits are scored whole, in passes of ``eval_batch_size``; groups of examples are reported apart.
    """
    indices = torch.cat(list(stack.splits.values()), dim=1)  # (R, N)
    passes = torch.split(indices, stack.cohort.shared.eval_batch_size, dim=1)
    scores = [stack.forward(stack.batch(part)) for part in passes]
    weights = _weights(stack)  # name -> (R, N)
    out = {}
    for quantity in scores[0]:
        values = torch.cat([score[quantity] for score in scores], dim=1).double()  # (R, N)
        for name, weight in weights.items():
            split, _, group = name.partition("/")
            column = f"{split}_{quantity}" + (f"_{group}" if group else "")
            out[column] = torch.where(weight, values, 0.0).sum(1) / weight.sum(1)
    parameters = stack.parameters()
    out.update({name: vmap(metric)(parameters) for name, metric in metrics.items()})
    names = list(out)
    return dict(zip(names, torch.stack([out[name].double() for name in names]).cpu(), strict=True))


def _weights(stack: Stack) -> dict[str, Tensor]:
    """Which evaluated examples belong to each split, and to each group within it: ``(R, N)`` bool."""
    weights, before, total = {}, 0, sum(count.shape[1] for count in stack.counts.values())
    for split, counts in stack.counts.items():
        inside = counts.new_zeros(len(counts), total)
        inside[:, before : before + counts.shape[1]] = counts
        weights[split] = inside
        before += counts.shape[1]
    indices = torch.cat(list(stack.splits.values()), dim=1)  # (R, N)
    for split in list(weights):
        for group, members in stack.groups.items():
            weights[f"{split}/{group}"] = weights[split] & members.gather(1, indices)
    return weights


def l2_norm(parameters: dict[str, Tensor]) -> Tensor:
    """ℓ₂ norm of one member's parameters, a scalar."""
    return torch.stack([p.square().sum() for p in parameters.values()]).sum().sqrt()
