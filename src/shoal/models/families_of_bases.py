"""Families of bases by their descriptions: those of shoal, and GPT-2's, which is read but not trained from scratch."""

import json
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

from shoal.errors import UserError
from shoal.models.settings import NON_LINEARITIES, GPTSettings, ModelSettings
from shoal.registry import MODELS, load
from shoal.spec.fields import choice

if TYPE_CHECKING:
    from shoal.tasks.settings import Sizes


class GPT2Settings(GPTSettings):
    """Settings of GPT-2: those of the GPT, with the approximation of its activation by tanh."""

    name: ClassVar[str] = "gpt2"
    label: ClassVar[str] = "GPT-2"

    non_linearity: str = choice("gelu_new", "activation", (*NON_LINEARITIES, "gelu_new"))


def part_of(described: str) -> "tuple[ModelSettings, Sizes]":
    """Settings of a base's family, and the sizes that it was built for.

    Raises:
        UserError: the description is of no family that is there.
    """
    try:
        content: dict[str, Any] = json.loads(described)
        kind: Any = GPT2Settings if content["model"] == GPT2Settings.name else MODELS[content["model"]]
        sizes: dict[str, Any] = content["sizes"]
        if wrong := [name for name, value in sizes.items() if value is not None and not is_size(value)]:
            raise ValueError(f"{wrong[0]} is {sizes[wrong[0]]!r}")
        return kind(**content["settings"]), sizes_of(**sizes)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the description of a base is damaged: {' '.join(str(error).split())}") from None


def is_size(value: Any) -> TypeGuard[int]:
    """Return True for an integer of at least 0, and no boolean."""
    return type(value) is int and value >= 0


def sizes_of(**sizes: int | None) -> "Sizes":
    """Sizes that a base was built for, of the class of a task's sizes, which is loaded by its place."""
    made: Sizes = load("shoal.tasks.settings:Sizes")(**sizes)
    return made
