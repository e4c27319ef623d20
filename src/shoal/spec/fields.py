"""Declaration of settings, and errors for those that are wrong or do not apply."""

import math
from collections.abc import Iterable
from functools import cache, cached_property
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from shoal.errors import UserError, nearest

SEED: dict[str, Any] = {"allowed": "an integer in [0, 2**32)", "ge": 0, "lt": 2**32}
LARGEST = 2**31 - 1  # of a count: steps are counted in 64 bits, and some are multiplied
SHARE: dict[str, Any] = {"allowed": "in [0, 1)", "ge": 0, "lt": 1}
# of float32, in which runs are computed; smaller ones are denormal and count as 0
SMALLEST_FLOAT, LARGEST_FLOAT, LARGEST_SHARE = 2.0**-126, (2 - 2.0**-23) * 2.0**127, 1 - 2.0**-24
ROUNDING = 2.0**-25  # the largest number that float32 does not see beside 1


class Part(BaseModel):
    """Settings of one concern, which a run is composed of, beside what they configure; light to import.

    A class declares what no other has to know: its label in figures and, of a part from outside of shoal, everything
    that the base class of its kind asks for.

    Attributes:
        name: short name, of those that have one.
        label: name in figures.
        trajectory: version of a task, a model or a rule, raised where the same settings would give another trajectory
            than before.
        reads_files: true where its settings depend on files, too, and so are derived anew whenever it is made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    name: ClassVar[str] = ""
    label: ClassVar[str] = ""
    trajectory: ClassVar[int] = 1
    reads_files: ClassVar[bool] = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        check_choices(self)
        check_counts(self)
        self.fill()
        self.check()

    def fill(self) -> None:
        """Give settings that were left open the values that fit the others."""

    def check(self) -> None:
        """Raise :class:`UserError` for settings that do not go together."""

    def check_new(self) -> None:
        """Raise :class:`UserError` for settings that are refused in a new run but read in one on record."""
        check_float32(self, type(self).having("in_float32"))

    def derived(self) -> list[str]:
        """Names of the settings that the part derives from files, and derives again for another run.

        A run on record has their values, and needs no file for them.
        """
        return type(self).having("derived")

    @cached_property
    def as_json(self) -> dict[str, Any]:
        """Every setting, as JSON; not to be changed."""
        return self.model_dump(mode="json")

    @classmethod
    def usual(cls) -> dict[str, Any]:
        """Default of every setting, as JSON."""
        part = cls.model_construct()
        part.fill()
        return part.model_dump(mode="json")

    @classmethod
    def having(cls, mark: str) -> list[str]:
        """Names of the settings with a mark of :func:`setting`, such as ``member``."""
        return list(_having(cls, mark))


def setting(
    default: Any,
    description: str,
    allowed: str,
    choices: Iterable[str] = (),
    *,
    member: bool = False,
    operational: bool = False,
    in_float32: bool = False,
    follows: str = "",
    derived: bool = False,
    may_be_open: bool = False,
    **limits: Any,
) -> Any:
    """Field of a setting, which states in words the values that it allows.

    Args:
        default: value where none is given.
        description: meaning, in words.
        allowed: allowed values, in words.
        choices: its values, where they are names.
        member: members of a cohort may differ in it: a value, never a shape or code.
        operational: it changes neither the trajectory nor the record of a finished run, nor so its id.
        in_float32: training computes with it in float32, and what that would take for 0, 1 or infinite is refused.
        follows: the setting of the same part whose value it takes where it is left open.
        derived: it is derived from files, and not asked for; see :meth:`Part.derived`.
        may_be_open: None is the default, too.
        limits: as pydantic's ``Field`` takes them.
    """
    marks: dict[str, Any] = {"member": member, "operational": operational, "in_float32": in_float32}
    marks |= {"follows": follows, "derived": derived}
    return Field(
        default,
        description=f"{description} ({allowed})",
        json_schema_extra={"allowed": allowed, "choices": list(choices), "may_be_open": may_be_open, **marks},
        **limits,
    )


def choice(default: str | None, description: str, choices: Iterable[str], **marks: Any) -> Any:
    """Field of a setting whose values are names."""
    return setting(default, description, f"one of {' '.join(choices)}", choices, **marks)


def set_default(settings: BaseModel, name: str, value: Any) -> None:
    """Give a setting that was left open its value; the class is frozen for everyone else."""
    if getattr(settings, name) is None:
        object.__setattr__(settings, name, value)


def check_choices(settings: BaseModel) -> None:
    """Raise :class:`UserError` for a name that is not one of those its setting allows."""
    for name in type(settings).model_fields:
        check_choice(type(settings), name, getattr(settings, name))


def check_choice(kind: type[BaseModel], name: str, value: Any) -> None:
    """Raise :class:`UserError` where a setting allows certain names alone and the value is none of them."""
    known = extra(kind, name)
    if known["choices"] and value is not None and value not in known["choices"]:
        raise UserError(f"unknown {name} {value!r}: {known['allowed']}{nearest(value, known['choices'])}")


def check_counts(settings: BaseModel) -> None:
    """Raise :class:`UserError` for an integer, other than a seed, above :data:`LARGEST`."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, int) and value > LARGEST and extra(type(settings), name)["allowed"] != SEED["allowed"]:
            raise UserError(f"{name} must be at most {LARGEST:,}, got {value}")


def check_float32(settings: BaseModel, names: Iterable[str]) -> None:
    """Raise :class:`UserError` for a number that would be another kind of number in float32: 0, 1 or infinite."""
    for name in names:
        value = getattr(settings, name)
        if value is None or value == 0 or math.isinf(value):
            continue
        is_share = extra(type(settings), name)["allowed"] == SHARE["allowed"]  # a small one may as well be 0
        if value < SMALLEST_FLOAT and not is_share:
            limit, instead = f"at least {SMALLEST_FLOAT:.3g}", "takes less for 0"
        elif value > LARGEST_FLOAT:
            limit, instead = f"at most {LARGEST_FLOAT:.3g}", "takes more for infinite"
        elif is_share and 1 - value <= ROUNDING:
            limit, instead = f"at most {LARGEST_SHARE:.8f}", "takes more for 1"
        else:
            continue
        raise UserError(f"{name} must be {limit}, got {value!r}: float32, in which runs are computed, {instead}")


def one_line(error: ValidationError, kind: type[BaseModel]) -> str:
    """First error that pydantic reports, as one line."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return f"unknown setting {name!r}{nearest(name, kind.model_fields)}"
    if name not in kind.model_fields:
        return str(first["msg"]).removeprefix("Value error, ")
    listed = isinstance(first["input"], str) and "," in first["input"]
    advice = "; values of a grid are separated by spaces" if listed and first["type"].endswith("_parsing") else ""
    return f"{name} must be {extra(kind, name)['allowed']}, got {first['input']!r}{advice}"


def extra(kind: type[BaseModel], name: str) -> dict[str, Any]:
    """Marks that :func:`setting` left on a field; defaults of them for a field that was declared without it."""
    info = kind.model_fields[name]
    noted = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    return {"allowed": info.description or "a value of its type", **_UNSAID, **noted}


def read_value(kind: type[BaseModel], name: str, value: Any) -> Any:
    """A value of a setting as a part would hold it, such as the number of a text.

    Raises:
        pydantic.ValidationError: it is of another type, or beyond its limits.
    """
    return _adapter(kind, name).validate_python(value)


@cache
def _adapter(kind: type[BaseModel], name: str) -> TypeAdapter[Any]:
    info = kind.model_fields[name]
    read: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    return TypeAdapter(read)


@cache
def _having(kind: type[Part], mark: str) -> tuple[str, ...]:
    return tuple(name for name in kind.model_fields if extra(kind, name)[mark])


_UNSAID: dict[str, Any] = {
    "choices": [],
    "may_be_open": False,
    "member": False,
    "operational": False,
    "in_float32": False,
    "follows": "",
    "derived": False,
}


def _orders(value: Any) -> Any:
    """Sorted tuple of orders given as ``2``, ``"2,3"`` or ``[3, 2]``."""
    if isinstance(value, str):
        value = value.split(",")
    orders = list(value) if isinstance(value, Iterable) else [value]
    if not all(str(order).strip() in ("2", "3") for order in orders):
        raise ValueError
    return tuple(sorted({int(order) for order in orders}))


def _period(value: Any) -> Any:
    """Period of steps; None for infinity, which the practical uses for "never"."""
    return None if value in (math.inf, "inf") else value


Orders = Annotated[tuple[int, ...], BeforeValidator(_orders)]
Period = Annotated[int | None, BeforeValidator(_period)]
