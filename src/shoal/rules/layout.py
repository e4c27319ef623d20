"""Layout of the flat parameters of a member: place and role of each parameter, and the parameters that train."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ROLES = ("table", "head", "matrix", "vector")


@dataclass(frozen=True)
class Slot:
    """Place of one parameter in the flat parameters.

    Attributes:
        name: name in the model's state dict.
        shape: shape of one member's parameter.
        start: index of its first number in the flat parameters.
        role: one of :data:`ROLES`: a table of embeddings, the head that gives logits, a hidden matrix, or a vector.
    """

    name: str
    shape: torch.Size
    start: int
    role: str

    @property
    def size(self) -> int:
        """Number of its elements."""
        return self.shape.numel()


@dataclass(frozen=True)
class Matrices:
    """Hidden matrices of one shape, and the index in the flat parameters at which each starts."""

    shape: tuple[int, int]
    starts: tuple[int, ...]

    def take(self, flat: Tensor) -> Tensor:
        """Copy of the matrices, ``(R, P) -> (R, k, m, n)``."""
        return torch.stack([part.reshape(-1, *self.shape) for part in self._parts(flat)], 1)

    def subtract(self, flat: Tensor, values: Tensor) -> None:
        """Subtract ``(R, k, m, n)`` from the matrices in ``(R, P)``, in place."""
        for part, value in zip(self._parts(flat), values.flatten(2).unbind(1), strict=True):
            part.sub_(value)

    def replace(self, flat: Tensor, values: Tensor) -> None:
        """Write ``(R, k, m, n)`` into the matrices in ``(R, P)``, in place."""
        for part, value in zip(self._parts(flat), values.flatten(2).unbind(1), strict=True):
            part.copy_(value)

    def _parts(self, flat: Tensor) -> list[Tensor]:
        size = self.shape[0] * self.shape[1]
        return [flat[:, start : start + size] for start in self.starts]


class Layout:
    """Order of the trained parameters, one after the other in ``theta``, ``(R, P)``.

    Its tensors are put on the device once: a step that is recorded for a GPU copies nothing from the host.

    Attributes:
        hidden: the hidden matrices, shape by shape; a parameter of role matrix without two dimensions is not one.
        rest: indices of all other parameters, ``(P',)`` int64.
        decayed: 1 for parameters of at least two dimensions (matrices, tables), 0 for biases and norms, ``(1, P)``.

    Args:
        slots: the parameters, in order.
        device: device of the indices.
    """

    def __init__(self, slots: Sequence[Slot], device: torch.device | None = None) -> None:
        self.slots = tuple(slots)
        starts: dict[tuple[int, int], list[int]] = {}
        rest, decayed = [torch.arange(0)], [torch.zeros(0)]
        for slot in self.slots:
            if _is_hidden(slot):
                starts.setdefault((slot.shape[0], slot.shape[1]), []).append(slot.start)
            else:
                rest.append(torch.arange(slot.start, slot.start + slot.size))
            decayed.append(torch.full((slot.size,), float(len(slot.shape) > 1)))
        self.hidden = tuple(Matrices(shape, tuple(places)) for shape, places in starts.items())
        self.rest = torch.cat(rest).to(device)
        self.decayed = torch.cat(decayed).unsqueeze(0).to(device)

    @classmethod
    def of(cls, model: nn.Module, roles: Mapping[str, str], device: torch.device | None = None) -> "Layout":
        """Layout of a model's parameters that require their gradient; ``roles`` are those of its family."""
        slots, start = [], 0
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                if roles.get(name) not in ROLES:
                    raise ValueError(f"parameter {name} has role {roles.get(name)!r}; it must be one of {ROLES}")
                slots.append(Slot(name, parameter.shape, start, roles[name]))
                start += parameter.numel()
        return cls(slots, device)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.slots)

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shape of each parameter, by name, in order."""
        return {slot.name: slot.shape for slot in self.slots}

    @property
    def size(self) -> int:
        """Number of trained parameters, ``P``."""
        return sum(slot.size for slot in self.slots)


def tied_names(model: nn.Module) -> dict[str, str]:
    """Further names of tied parameters, with the name under which ``named_parameters`` lists each."""
    first = {parameter: name for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {name: first[parameter] for name, parameter in every if name != first[parameter]}


def _is_hidden(slot: Slot) -> bool:
    return slot.role == "matrix" and len(slot.shape) == 2
