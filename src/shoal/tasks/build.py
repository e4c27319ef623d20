"""Construction of a run's task and of its freshly initialised model from its spec."""

from typing import Any, cast

import torch
from torch import nn

from shoal.errors import LabError, UserError
from shoal.registry import short
from shoal.spec import RunSpec
from shoal.tasks.base import Task
from shoal.tasks.sampling import FormSampler
from shoal.tasks.settings import Counts


def build_task(spec: RunSpec) -> Task:
    """Task of the run for the engine."""
    return spec.task_part.build_for(spec.model_part.reads, spec.split_seed)


def form_period(spec: RunSpec) -> int:
    """Number of steps after which the forms of a run's batches repeat; 1 where its task has none."""
    task = build_task(spec)
    if task.forms is None:
        return 1
    sampler = task.sampler(torch.zeros(1, dtype=torch.int64), torch.tensor([task.n_drawn]), spec.train_batch_size)
    return cast(FormSampler, sampler).period


def build_model(spec: RunSpec) -> nn.Module:
    """Model of the run with the parameters that it draws, on the CPU; the global generator is left unchanged.

    It reads no file, so that a kept model is loaded without its data. Parameters are drawn on the CPU whatever the
    device, so that a run starts from the same parameters everywhere.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(spec.init_seed)  # torch.manual_seed would touch those of devices, too
        model = spec.model_part.build(spec.sizes())
    for name in spec.task_part.frozen_tables(spec):
        model.get_parameter(name).requires_grad_(False)
    return model


def initial_model(spec: RunSpec) -> nn.Module:
    """Model of the run as training begins with it: as :func:`build_model`, with the tables that its task reads."""
    model = build_model(spec)
    with torch.no_grad():
        for name, values in spec.task_part.initial_tables(spec, model).items():
            model.get_parameter(name).copy_(values)
    return model


def calling(spec: RunSpec) -> dict[str, Any]:
    """Keyword arguments of the call of the run's model where only its logits are used.

    Attention in one operation has another rounding than explicit products, so only tasks that ask for it get it.
    """
    fusing = spec.model_part.fusing if spec.task_part.fuses else {}
    return {**spec.model_part.calling, **fusing}


def count_run_parameters(spec: RunSpec) -> int:
    """Number of learnable parameters P of the run's model, without embeddings.

    >>> count_run_parameters(RunSpec(model="gpt"))
    399908
    """
    return spec.model_part.count(spec.sizes())


def count_frozen(spec: RunSpec) -> int:
    """Number of parameters of the run's model that do not train: of its frozen tables."""
    names = spec.task_part.frozen_tables(spec)
    if not names:
        return 0
    with torch.device("meta"):
        model = spec.model_part.build(spec.sizes())
    return sum(model.get_parameter(name).numel() for name in names)


def count_examples(spec: RunSpec) -> tuple[int, int]:
    """Numbers of examples that training draws from, and that an evaluation scores; for equations all of them."""
    counts = counts_of(spec)
    return counts.drawn, counts.scored


def counts_of(spec: RunSpec) -> Counts:
    """Amounts of data of a run.

    Raises:
        UserError: its data are missing; or the task is a foreign one and cannot count them.
    """
    try:
        return spec.task_part.counts()
    except (UserError, LabError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"task {short(spec.task)} cannot count its data: {type(error).__name__}: {reason}") from error
