"""Tensors of models in which members of a stack agree, and buffers in which they may differ."""

import torch
from torch import Tensor, nn

from shoal.errors import UserError


def differing_buffers(model: nn.Module) -> list[str]:
    """Names of the buffers that a model's modules declare to be those of one member (``per_member``)."""
    return [
        f"{name}.{buffer}" if name else buffer
        for name, module in model.named_modules()
        for buffer in getattr(module, "per_member", ())
    ]


def shared_by_all(models: list[nn.Module], device: torch.device) -> dict[str, Tensor]:
    """Parameters that do not train, by name; they are held once for all members.

    Raises:
        UserError: they differ between members.
    """
    frozen = {name: p.detach() for name, p in models[0].named_parameters() if not p.requires_grad}
    differing = differing_buffers(models[0])
    shared = {**frozen, **{name: b for name, b in models[0].named_buffers() if name not in differing}}
    for model in models[1:] if shared else []:
        named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, tensor in shared.items():
            if named[name] is tensor:
                continue
            if named[name].requires_grad or not torch.equal(named[name].detach().to(tensor.device), tensor):
                raise UserError(
                    f"{name} does not train and is not the same in all runs of a cohort; what is frozen, and every "
                    "buffer, is held once for all: give it the same values whatever the seed"
                )
    return {name: tensor.to(device) for name, tensor in frozen.items()}
