"""Batches of several forms: the check that members of a stack agree in them, and passes of one form each.

``R`` members, ``N`` examples.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from shoal.errors import UserError
from shoal.registry import short
from shoal.tasks.base import Task
from shoal.tasks.sampling import Form


def check_forms(name: str, tasks: Sequence[Task]) -> None:
    """Raise :class:`UserError` where the batches of members cannot have the same form at every step and in every pass.

    Args:
        name: name of the task.
        tasks: task of each member.
    """
    if tasks[0].forms is None:
        return
    known = _forms(tasks[0])
    for task in tasks[1:]:
        if task is tasks[0] or (task.forms is tasks[0].forms and _same_examples(task, tasks[0])):
            continue
        forms = _forms(task)
        if task.forms is None or task.forms.each != tasks[0].forms.each or not all(map(torch.equal, forms, known)):
            raise UserError(
                f"task {short(name)} makes batches of several forms, which must be the same for all runs of a cohort "
                "at every step, and those of these runs are not: give the runs the same split_seed"
            )


def _same_examples(one: Task, other: Task) -> bool:
    return one.drawn is other.drawn and all(one.scored[name] is other.scored[name] for name in one.scored)


def _forms(task: Task) -> list[Tensor]:
    """Forms of the drawn examples, and of the scored ones in the order of passes."""
    if task.forms is None:
        return []
    drawn = torch.arange(task.drawn) if isinstance(task.drawn, int) else task.drawn
    return [task.forms.of[drawn], *(task.forms.of[in_order(task, indices)] for indices in task.scored.values())]


def in_order(task: Task, indices: Tensor) -> Tensor:
    """Indices of examples ``(n,)`` in the order in which they are scored: by their forms, where there are any."""
    return indices if task.forms is None else indices[task.forms.of[indices].argsort(stable=True)]


def passes_of(task: Task, scored: Mapping[str, Tensor], size: int) -> list[tuple[Tensor, Form | None]]:
    """Passes in which examples are scored, split after split: indices ``(R, B)`` and their form.

    Args:
        task: task of any member.
        scored: examples of each split, ``(R, n)``; by their forms, where there are any.
        size: largest ``B``.
    """
    if task.forms is None:
        return [(part, None) for part in torch.split(torch.cat(list(scored.values()), dim=1), size, dim=1)]
    parts: list[tuple[Tensor, Form | None]] = []
    for indices in scored.values():
        counts = task.forms.of[indices[0].cpu()].bincount(minlength=len(task.forms.each)).tolist()
        for form, block in zip(task.forms.each, torch.split(indices, counts, dim=1), strict=True):
            parts += [(part, form) for part in torch.split(block, size, dim=1) if part.shape[1]]
    return parts
