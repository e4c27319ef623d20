"""Frozen parameters of a stack: held once where its members agree, else with an axis of members."""

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor, nn

from shoal.errors import UserError
from shoal.spec import RunSpec


def tables_agree(specs: Sequence[RunSpec]) -> bool:
    """Return True if runs of a cohort begin with the same tables of embeddings: those of one seed and one task."""
    first = specs[0]
    task = first.task_part.model_dump()
    return all(spec.init_seed == first.init_seed and spec.task_part.model_dump() == task for spec in specs[1:])


def with_one_table(models: Iterable[nn.Module], names: Collection[str]) -> list[nn.Module]:
    """Models that hold the parameters ``names`` once where they are those of the first, from models made one by one."""
    made: list[nn.Module] = []
    for model in models:
        for name in names if made else ():
            table, of_first = model.get_parameter(name), made[0].get_parameter(name)
            if torch.equal(table, of_first):
                table.data = of_first.data
        made.append(model)
    return made


def of_each(models: list[nn.Module], device: torch.device, names: Collection[str]) -> dict[str, Tensor]:
    """Frozen parameters in which members differ, by name, ``(R, *shape)`` each."""
    return {name: torch.stack([model.get_parameter(name).detach() for model in models]).to(device) for name in names}


def shared_by_all(models: list[nn.Module], device: torch.device, may_differ: Collection[str] = ()) -> dict[str, Tensor]:
    """Parameters that do not train and are the same in all models, by name; they are held once for all members.

    Args:
        models: model of each member.
        device: device of the parameters.
        may_differ: names of those in which members may differ, which are left out where they do.

    Raises:
        UserError: they differ between members.
    """
    frozen = {name: p.detach() for name, p in models[0].named_parameters() if not p.requires_grad}
    differing = differing_buffers(models[0])
    shared = {**frozen, **{name: b for name, b in models[0].named_buffers() if name not in differing}}
    for model in models[1:] if shared else []:
        named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, tensor in shared.items():
            is_same = named[name] is tensor or torch.equal(named[name].detach().to(tensor.device), tensor)
            if not is_same and name in may_differ:
                frozen.pop(name, None)
            elif named[name].requires_grad or not is_same:
                raise UserError(
                    f"{name} does not train and is not the same in all runs of a cohort; what is frozen, and every "
                    "buffer, is held once for all: give it the same values whatever the seed"
                )
    return {name: tensor.to(device) for name, tensor in frozen.items()}


def differing_buffers(model: nn.Module) -> list[str]:
    """Names of the buffers that a model's modules declare to be those of one member (``per_member``)."""
    return [
        f"{name}.{buffer}" if name else buffer
        for name, module in model.named_modules()
        for buffer in getattr(module, "per_member", ())
    ]
