"""From a spec to the things it names: the task's data and a freshly initialised model."""

import torch
from torch import nn

from shoal.equations import count_tokens, split_sizes
from shoal.models.families import FAMILIES, build
from shoal.spec import RunSpec
from shoal.tasks.arithmetic import ArithmeticData, arithmetic_data, arithmetic_task
from shoal.tasks.base import Task


def build_data(spec: RunSpec) -> ArithmeticData:
    """The run's equations and their split."""
    assert spec.q is not None and spec.split_seed is not None
    return arithmetic_data(
        spec.p,
        spec.q,
        spec.operator,
        spec.r_train,
        spec.operation_orders,
        is_symmetric=spec.is_symmetric,
        seed=spec.split_seed,
        per_order=spec.split_per_order,
        equation_format=spec.equation_format,
        zero_operands=spec.zero_operands,
        unused_tokens=spec.unused_tokens,
        split_shuffle=spec.split_shuffle,
    )


def build_task(spec: RunSpec) -> Task:
    """The run's data as the engine takes it."""
    return arithmetic_task(build_data(spec), spec.label_smoothing)


def build_model(spec: RunSpec, task: Task) -> nn.Module:
    """The run's model with its initial parameters, on the CPU; the global generator is left as it was.

    Parameters are drawn on the CPU whatever the device, so that a run starts from the same point everywhere.
    """
    assert spec.init_seed is not None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(spec.init_seed)  # torch.manual_seed would touch those of devices, too
        return build(spec, task.vocabulary_size, task.sequence_length, task.padding_index)


def count_run_parameters(spec: RunSpec) -> int:
    """P of the run's model in closed form: learnable parameters without embeddings.

    >>> count_run_parameters(RunSpec(model="gpt"))
    399908
    """
    return FAMILIES[spec.model].count(spec, count_run_tokens(spec))


def count_run_tokens(spec: RunSpec) -> int:
    """V of the run's model in closed form.

    >>> count_run_tokens(RunSpec()), count_run_tokens(RunSpec(p=97, operator="/", equation_format="eos"))
    (36, 100)
    """
    assert spec.q is not None
    form = (spec.equation_format, spec.unused_tokens)
    return count_tokens(spec.p, spec.q, spec.operator, spec.operation_orders, *form)


def count_examples(spec: RunSpec) -> tuple[int, int]:
    """Training equations of the run and all of them, in closed form."""
    n_train, n_valid = split_sizes(
        spec.p,
        spec.operator,
        spec.r_train,
        spec.operation_orders,
        spec.is_symmetric,
        spec.split_per_order,
        spec.zero_operands,
    )
    return n_train, n_train + n_valid
