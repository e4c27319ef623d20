"""Small runs that the tests share."""

import math
from typing import Any

import torch
from torch import Tensor

from shoal.fast.engine import choose_engine
from shoal.spec import RunSpec, grid
from shoal.training.plan import Cohort, plan
from shoal.training.stack import Stack
from shoal.training.step import train_step

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "p": 5,
    "num_layers": 1,
    "embedding_size": 8,
    "r_train": 0.6,
    "n_steps": 12,
    "eval_first": 3,
    "eval_period": 5,
}


def tiny(**settings: Any) -> RunSpec:
    """A run of a second; with GPT, of two heads."""
    heads = {"num_heads": 2} if settings.get("model") == "gpt" else {}
    return RunSpec(**{**TINY, **heads, **settings})


def tiny_grid(base: dict[str, Any], **values: Any) -> list[RunSpec]:
    """A grid of such runs."""
    return grid(tiny(**base), **values)


def one_cohort(specs: list[RunSpec]) -> Cohort:
    """The cohort of specs that fit together."""
    (cohort,) = plan(specs)
    return cohort


def trained(specs: list[RunSpec], steps: int) -> Stack:
    """A stack after some steps."""
    stack = Stack(one_cohort(specs), CPU)
    for _ in range(steps):
        train_step(stack)
    return stack


def fastest(spec: RunSpec) -> str:
    """The engine that ``train`` chooses here, once the kernels are compiled."""
    return choose_engine(spec, math.inf, CPU).engine


def theta(stack: Stack, index: int) -> Tensor:
    """The parameters of one member, ``(P,)``."""
    return stack.theta.detach()[index].clone()
