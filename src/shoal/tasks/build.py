"""From a spec to the things it names: the task's data and a freshly initialised model."""

import torch
from torch import nn

from shoal.errors import LabError, UserError
from shoal.registry import short
from shoal.spec import RunSpec
from shoal.tasks.base import Task
from shoal.tasks.settings import Counts


def build_task(spec: RunSpec) -> Task:
    """The run's data as the engine takes it."""
    return spec.task_part.build_for(spec.model_part.reads, spec.split_seed)


def build_model(spec: RunSpec) -> nn.Module:
    """The run's model with its initial parameters, on the CPU; the global generator is left as it was.

    Parameters are drawn on the CPU whatever the device, so that a run starts from the same point everywhere.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(spec.init_seed)  # torch.manual_seed would touch those of devices, too
        return spec.model_part.build(spec.sizes())


def count_run_parameters(spec: RunSpec) -> int:
    """P of the run's model: learnable parameters without embeddings.

    >>> count_run_parameters(RunSpec(model="gpt"))
    399908
    """
    return spec.model_part.count(spec.sizes())


def count_examples(spec: RunSpec) -> tuple[int, int]:
    """Examples that training draws from, and those that an evaluation scores; for equations all of them."""
    counts = counts_of(spec)
    return counts.drawn, counts.scored


def counts_of(spec: RunSpec) -> Counts:
    """How much data a run has.

    Raises:
        UserError: its data are not there; or the task is someone else's and does not say it.
    """
    try:
        return spec.task_part.counts()
    except (UserError, LabError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise UserError(f"task {short(spec.task)} cannot count its data: {type(error).__name__}: {said}") from error
