"""Learning-rate schedules: the factor of each member's learning rate at each of its steps.

The factor rises to 1 in equal parts over ``warmup_steps``, from one part at the first step, or with
``warmup_from_zero`` from 0 there; then it stays, or falls to 0, or to ``lr_floor``, at ``n_steps``, also in a run that
ends earlier by ``stop_after_generalizing``, or falls with the inverse square root of the step, whatever ``n_steps`` is.

Source: ``torch.optim.lr_scheduler`` (``LinearLR``, ``CosineAnnealingLR``; Loshchilov & Hutter 2017 without restarts).
From zero it rises as in the code of Power et al. 2022 and Nanda et al. 2023, ``LambdaLR(lambda n: min(n / warmup, 1))``
with ``n`` the updates made before. The inverse square root is that of Vaswani et al. 2017
(https://arxiv.org/abs/1706.03762), section 5.3, in units of its highest rate, as fairseq's ``inverse_sqrt`` has it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shoal.spec import RunSpec

# name -> factor at a share of the way from the end of the warm-up to the last step, in [0, 1]
TO_THE_LAST_STEP: Mapping[str, Callable[[Tensor], Tensor]] = {
    "constant": torch.ones_like,
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + torch.cos(math.pi * progress)) / 2,
}
SCHEDULES = (*TO_THE_LAST_STEP, "inverse_sqrt")


@dataclass(frozen=True)
class Schedule:
    """Learning-rate schedule of a cohort.

    Attributes:
        name: one of :data:`SCHEDULES`.
        warmup_steps: warm-up steps of each member, ``(R, 1)`` float64.
        n_steps: steps of each member, ``(R, 1)`` float64.
        at_zero: steps at learning rate 0 before it rises, ``(R, 1)`` float64.
        floor: share to which the learning rate falls, ``(R, 1)`` float64; None where that is 0 for all.
    """

    name: str
    warmup_steps: Tensor
    n_steps: Tensor
    at_zero: Tensor
    floor: Tensor | None = None

    def __call__(self, step: Tensor) -> Tensor:
        """Factors at each member's current step, counted from 1: ``(R, 1) -> (R, 1)``, float64."""
        rise = ((step - self.at_zero) / self.warmup_steps.clamp(min=1)).clamp(max=1)
        if self.name == "inverse_sqrt":
            return rise * (self.warmup_steps / (step - self.at_zero).maximum(self.warmup_steps)).sqrt()
        left = (self.n_steps - self.warmup_steps).clamp(min=1)
        fall = TO_THE_LAST_STEP[self.name](((step - self.warmup_steps) / left).clamp(0, 1))
        return rise * (fall if self.floor is None else self.floor + (1 - self.floor) * fall)


def schedule_of(members: Sequence[RunSpec], device: torch.device) -> Schedule | None:
    """Schedule of members that share ``lr_schedule``; None where every learning rate is constant."""
    name = members[0].lr_schedule
    if name == "constant" and all(spec.warmup_steps == 0 for spec in members):
        return None
    steps = [[spec.warmup_steps, spec.n_steps, spec.warmup_from_zero] for spec in members]
    columns = torch.tensor(steps, dtype=torch.float64, device=device)  # (R, 3)
    floors = torch.tensor([[spec.lr_floor] for spec in members], dtype=torch.float64, device=device)  # (R, 1)
    return Schedule(name, columns[:, :1], columns[:, 1:2], columns[:, 2:], floors if floors.any() else None)
