"""Search space of a tuning: a range or a list of values for each searched setting of a run."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from shoal.errors import UserError, nearest
from shoal.spec import RunSpec
from shoal.spec.training import SEEDS

SCALES = ("log", "linear")
DIGITS = 4  # significant digits of a proposed number, so that it can be typed again
# settings of which trials cannot be compared, or which are the tuning's own affair
_FIXED: Mapping[str, str] = {
    "task": "trials of several tasks cannot be compared",
    "n_steps": "it is the length of a trial; halving gives worse settings fewer steps",
    **dict.fromkeys(("seed", *SEEDS), "the best of several seeds is luck, not a setting"),
    **dict.fromkeys(
        ("eval_first", "eval_period", "eval_batch_size", "save_model_step", "save_statistic_step"),
        "it changes what is recorded, not how a run learns",
    ),
}
FORMS = "log:LOW:HIGH, linear:LOW:HIGH or a list VALUE,VALUE"


@dataclass(frozen=True)
class Axis:
    """Values of one setting: a list, or the range between two numbers.

    Attributes:
        name: name of the setting.
        text: the values as they were typed.
        choices: values of a list; empty for a range.
        low, high: ends of a range, both of which can be proposed.
        is_log: true where the logarithm of a value is uniform.
        is_integer: true where values of the range are integers.
    """

    name: str
    text: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    is_integer: bool = False

    @property
    def count(self) -> float:
        """Number of different values; infinite for a range of real numbers."""
        if self.choices:
            return len(self.choices)
        return self.high - self.low + 1 if self.is_integer else math.inf

    def holds(self, value: Any) -> bool:
        """Return True for a value that can be proposed."""
        if self.choices:
            return any(type(value) is type(choice) and value == choice for choice in self.choices)
        return type(value) in ((int,) if self.is_integer else (int, float)) and self.low <= value <= self.high

    def rounded(self, value: Any) -> Any:
        """A proposed value with few digits, within the range."""
        if self.choices or self.is_integer:
            return value
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True)
class Space:
    """Search space: one axis for each searched setting, in the order of the request."""

    axes: tuple[Axis, ...]

    @property
    def names(self) -> list[str]:
        """Names of the searched settings."""
        return [axis.name for axis in self.axes]

    @property
    def count(self) -> float:
        """Number of different settings; infinite where an axis is a range of real numbers."""
        return math.prod(axis.count for axis in self.axes)

    @property
    def texts(self) -> list[str]:
        """The axes as they were typed."""
        return [f"{axis.name}={axis.text}" for axis in self.axes]


def read_space(base: RunSpec, search: Iterable[str]) -> Space:
    """Search space of words such as ``lr=log:1e-4:3e-3`` and ``weight_decay=0,0.1,1``.

    Args:
        base: the run whose other settings are fixed.
        search: one word for each searched setting.

    Raises:
        UserError: a word is malformed, a setting is unknown, fixed or searched twice, or a value is not allowed.
    """
    axes: dict[str, Axis] = {}
    for word in search:
        name, is_split, text = word.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not is_split or not name:
            raise UserError(f"search {word!r} must be NAME=VALUES, with values {FORMS}")
        _check_name(base, name)
        if name in axes:
            raise UserError(f"{name} is searched twice: {axes[name].text!r} and {text!r}; give all its values at once")
        axes[name] = _axis(base, name, text.strip())
    if not axes:
        raise UserError(f"there is nothing to search: name a setting, NAME=VALUES, with values {FORMS}")
    return Space(tuple(axes.values()))


def _check_name(base: RunSpec, name: str) -> None:
    known = [setting for setting in base if setting not in _FIXED and setting not in base.task_part.derived()]
    if name in _FIXED:
        raise UserError(f"{name} cannot be searched: {_FIXED[name]}")
    if name not in known:
        near = nearest(name, known) or f": one of {' '.join(known)}"
        raise UserError(f"unknown setting {name!r} in the search space{near}")
    if name in base.given():
        raise UserError(f"{name} is searched and has a fixed value, {base.given()[name]}; leave one of them out")


def _axis(base: RunSpec, name: str, text: str) -> Axis:
    scale, is_range, _ = text.partition(":")
    if is_range and scale.isalpha():
        axis = _range(base, name, text)
    else:
        words = [word.strip() for word in text.split(",")]
        if not text or not all(words):
            raise UserError(f"{name} has an empty value in {text!r}; its values are {FORMS}")
        values = [_checked(base, name, None if word.lower() == "none" else word).get(name) for word in words]
        if twice := [value for place, value in enumerate(values) if value in values[:place]]:
            raise UserError(f"{name} has the value {twice[0]} twice in {text!r}")
        axis = Axis(name, text, tuple(values))
    if axis.count < 2:
        raise UserError(f"{name}={text} has one value, so that there is nothing to search; give it as a fixed setting")
    return axis


def _range(base: RunSpec, name: str, text: str) -> Axis:
    scale, *ends = text.split(":")
    if scale not in SCALES:
        raise UserError(f"{name} has an unknown scale {scale!r}: one of {' '.join(SCALES)}{nearest(scale, SCALES)}")
    types = _types(base, name)
    if not types & {int, float} or bool in types:
        raise UserError(f"{name} takes no range, got {text!r}: its values are no numbers; give them one by one")
    try:
        low, high = map(float, ends)
    except ValueError:
        raise UserError(f"{name} must be {scale}:LOW:HIGH with two numbers, got {text!r}") from None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{name} must have finite ends, got {text!r}")
    if low > high:
        raise UserError(f"{name}={text} is empty, because it ends before it begins; {scale}:{ends[1]}:{ends[0]} is not")
    if scale == "log" and low <= 0:
        raise UserError(f"{name}={text} begins at {ends[0]}, which has no logarithm: begin above 0, or use linear:")
    is_integer = float not in types
    if is_integer and not (low.is_integer() and high.is_integer()):
        raise UserError(f"{name} must be an integer, got {text!r}")
    for end in (low, high):
        _checked(base, name, int(end) if is_integer else end)
    single = low == high
    if single:
        raise UserError(f"{name}={text} has one value, so that there is nothing to search; give it as a fixed setting")
    return Axis(name, text, (), low, high, scale == "log", is_integer)


def _checked(base: RunSpec, name: str, value: Any) -> RunSpec:
    """The run with a value of a searched setting.

    Raises:
        UserError: the value is not allowed, or changes what a run is scored on, so that trials cannot be compared.
    """
    spec = base.replace(**{name: value})
    if name in type(spec.task_part).model_fields and _scored(spec) != _scored(base):
        raise UserError(f"{name} cannot be searched: it changes what is scored, so that its losses cannot be compared")
    return spec


def _scored(spec: RunSpec) -> Sequence[Any]:
    return spec.task_part.sizes(), spec.task_part.counts()


def _types(base: RunSpec, name: str) -> set[Any]:
    part = next((type(part) for part in base.parts.values() if name in type(part).model_fields), None)
    return set() if part is None else _members(part.model_fields[name].annotation)


def _members(annotation: Any) -> set[Any]:
    """Types that an annotation allows: of ``int | None`` both, of ``Annotated[float, …]`` that one."""
    args = get_args(annotation)
    if getattr(annotation, "__metadata__", None):
        return _members(args[0])
    return {kind for arg in args for kind in _members(arg)} if args else {annotation}
