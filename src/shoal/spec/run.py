"""Spec of a run: the settings of all its parts as one value, with an id."""

from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from shoal.errors import UserError
from shoal.registry import KINDS, USUAL, when_registered
from shoal.spec.differing import differing
from shoal.spec.fields import Part, extra, one_line, read_value
from shoal.spec.identity import canonical, identify
from shoal.spec.names import check_parts_fit, named_parts, not_there, refuse_unnamed
from shoal.spec.training import ALWAYS, check_together
from shoal.spec.windows import check_precision

if TYPE_CHECKING:
    from shoal.models.settings import ModelSettings
    from shoal.rules.settings import Rule
    from shoal.tasks.settings import Sizes, TaskSettings

_TAKEN = ("run", "state", "step", "parameters", "parts", "names")  # of columns of tables, and of what a spec has
_NAMES = (*KINDS, "training", "seeds")  # of a run's parts, in their order


class RunSpec:
    """One run: a task, a model, an optimizer, how it trains and its seeds, all settings by flat names.

    Settings that are left open take the value that fits the others (``hidden_size`` that of ``embedding_size``, the
    seeds that of ``seed``, ``weight_decay`` 1 for AdamW). A setting that none of the chosen parts has is refused with
    those that have it. A task, a model or an optimizer that stands outside of shoal is named by its place.
    ``dir(spec)`` lists the settings, ``spec.dump()`` their values, ``shoal train --help`` their meanings.

    >>> RunSpec(model="gpt", seed=0).num_heads
    4
    >>> RunSpec(seed=0) == RunSpec(seed=0, weight_decay=1.0)
    True
    """

    parts: Mapping[str, Part]
    names: Mapping[str, str]
    if TYPE_CHECKING:  # of the parts that every run has; those of others are what they are
        task: str
        model: str
        optimizer: str
        train_batch_size: int
        eval_batch_size: int
        n_steps: int
        stop_after_generalizing: int | None
        patience: int | None
        keep_best: bool
        precision: str
        eval_first: int
        eval_period: int
        save_model_step: int | None
        save_statistic_step: int | None
        seed: int
        init_seed: int
        split_seed: int
        order_seed: int
        clip: float
        lr: float
        weight_decay: float

    def __init__(self, *unnamed: Any, **settings: Any) -> None:
        refuse_unnamed(unnamed)
        self._read(settings)
        for part in self.parts.values():  # what was trained before this was refused is what it is: see restored
            part.check_new()

    def _read(self, given: Mapping[str, Any]) -> None:
        names = named_parts(given)
        classes = classes_of(**names)
        assigned = _assigned(given, names, classes)
        suggested = _suggested(assigned, classes)
        parts = {}
        for role, kind in classes.items():
            asked = {**{k: v for k, v in suggested.items() if k in kind.model_fields}, **assigned[role]}
            parts[role] = _made(kind, asked)
        self.__dict__["parts"] = MappingProxyType(parts)
        self.__dict__["names"] = MappingProxyType(names)
        # None is kept as such: the task may suggest another value than the default
        settings = {name: value is None for values in assigned.values() for name, value in values.items()}
        self.__dict__["_asked"] = {n: n not in names and settings[n] for n in given if n in names or n in settings}
        self._check_together()

    def _check_together(self) -> None:
        """Raise :class:`UserError` for settings of several parts that do not go together."""
        warmup = (self.get("warmup_steps", 0), self.get("warmup_from_zero", False))
        check_together(*warmup, self.n_steps)
        check_precision(self)
        try:
            generalised = self.task_part.measures().generalised
        except Exception as error:  # whatever a task of someone else does
            raise UserError(f"task {self.task!r} does not say what it measures: {error}") from error
        if generalised is None and self.stop_after_generalizing is not None:
            raise UserError(
                f"stop_after_generalizing={self.stop_after_generalizing} does not apply to task {self.task!r}, which "
                "does not say when a run has generalised"
            )
        check_parts_fit(self.names, self.task_part, self.model_part, self.rule)
        self.task_part.check_model(self)
        self.model_part.check_run(self)

    def __getattr__(self, name: str) -> Any:
        attributes = self.__dict__
        if name in attributes.get("names", ()):
            return attributes["names"][name]
        if "parts" in attributes and name in (roles := _roles(**attributes["names"])):
            return getattr(attributes["parts"][roles[name]], name)
        is_made = "names" in attributes and not name.startswith("_")
        raise AttributeError(not_there(name, None, self.names, map(type, self.parts.values())) if is_made else name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a RunSpec does not change; replace({name}=...) gives another")

    def __reduce__(self) -> tuple[Any, ...]:
        return RunSpec.restored, (self.dump(),)

    def __repr__(self) -> str:
        """``<RunSpec 477d12fa0f2d8966: model='lstm', seed=0>``: id, model and what differs from the defaults."""
        settings = differing(self.names, self.parts)
        return f"<RunSpec {self.id}: {', '.join(f'{name}={value!r}' for name, value in settings.items())}>"

    # its parts, with what each can do

    @property
    def task_part(self) -> "TaskSettings":
        """The settings of its task."""
        return self.parts["task"]  # type: ignore[return-value]

    @property
    def model_part(self) -> "ModelSettings":
        """The settings of its model."""
        return self.parts["model"]  # type: ignore[return-value]

    @property
    def rule(self) -> "Rule":
        """The settings of its optimizer."""
        return self.parts["optimizer"]  # type: ignore[return-value]

    def sizes(self) -> "Sizes":
        """Sizes of the task by which the model is built; source and target are joined where it reads them as one."""
        sizes = self.task_part.sizes()
        is_one = self.model_part.reads == "sequence" and sizes.source_length is not None
        return sizes.joined() if is_one else sizes

    # its settings

    def __iter__(self) -> Iterator[str]:
        """Names of all its settings."""
        for role, part in self.parts.items():
            if role in self.names:
                yield role
            yield from type(part).model_fields

    def get(self, name: str, default: Any = None) -> Any:
        """Value of a setting, or the default where none of its parts has it."""
        return getattr(self, name) if name in self.names or name in _roles(**self.names) else default

    @cached_property
    def id(self) -> str:
        """Name of the run: 16 hexadecimal digits, a hash of the canonical form."""
        return identify(self.dump())

    def dump(self) -> dict[str, Any]:
        """Every setting by name, as JSON."""
        out: dict[str, Any] = {}
        for role, part in self.parts.items():
            out |= {**({role: self.names[role]} if role in self.names else {}), **part.as_json}
        return out

    def replace(self, **changes: Any) -> "RunSpec":
        """Another run with some settings changed; settings that follow others follow them again.

        >>> RunSpec(seed=0).replace(seed=9, n_steps=500)
        <RunSpec 44fa5efbf528bb68: model='lstm', n_steps=500, seed=9>
        """
        return RunSpec(**{**self.given(), **changes})

    def canonical(self) -> dict[str, Any]:
        """Settings that identify the run: every one that differs from the default of its task, model and optimizer.

        Defaults are left out so that a setting added later does not rename the runs made before it. Of a part from
        outside of shoal, whose defaults a reader of the record may not have, all settings are included.
        """
        return canonical(self.dump())

    def given(self) -> dict[str, Any]:
        """The settings that were asked for, as they were asked for; the rest are defaults."""
        return {name: None if is_open else getattr(self, name) for name, is_open in self._asked.items()}

    @classmethod
    def restored(cls, dump: Mapping[str, Any]) -> "RunSpec":
        """The spec of a :meth:`dump`; settings that were derived from others are derived again.

        So a grid over a spec from a lab varies the seeds that follow ``seed``, as it would have at first. A run on
        record can be read, also where it would be refused as a new one: equations that contradict each other, or
        numbers that float32 does not hold. No file is read for it: settings that were derived from files are on record,
        too. They are derived again for the runs that are made from it, as are those that its task suggested.

        Raises:
            UserError: a part cannot be imported, or does not have these settings or not with these values.
        """
        spec = cls.__new__(cls)
        classes = classes_of(**{kind: dump.get(kind, usual) for kind, usual in USUAL.items()})
        source = {name: extra(kind, name)["follows"] for kind in classes.values() for name in kind.model_fields}
        for name, part in ((name, kind) for kind in classes.values() for name in kind.having("derived")):
            # one with a default of its own is of files that a run need not have
            if dump.get(name) is None and part.model_fields[name].default is None:
                raise UserError(f"{name} is not on record")
        given = {k: v for k, v in dump.items() if not source.get(k) or v != dump.get(source[k])}
        spec._read(given)
        again = {*_as_suggested(given, classes), *(name for part in spec.parts.values() for name in part.derived())}
        spec.__dict__["_asked"] = {name: is_open for name, is_open in spec._asked.items() if name not in again}
        return spec

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunSpec) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)


@cache
def classes_of(task: str, model: str, optimizer: str) -> Mapping[str, type[Part]]:
    """The class of each part of a run with these names, in order.

    Raises:
        UserError: a name is unknown, or two parts have a setting of one name.
    """
    named = {"task": task, "model": model, "optimizer": optimizer}
    classes: list[type[Part]] = [*(KINDS[kind][name] for kind, name in named.items()), *ALWAYS]
    owner: dict[str, type[Part]] = {}
    for kind in classes:
        for name in kind.model_fields:
            other = owner.setdefault(name, kind)
            if other is not kind or name in KINDS or name in _TAKEN or hasattr(RunSpec, name):
                whose = other.__name__ if other is not kind else "shoal"
                raise UserError(f"setting {name!r} of {kind.__name__} is also one of {whose}: it needs another name")
    return MappingProxyType(dict(zip(_NAMES, classes, strict=True)))


@cache
def _roles(task: str, model: str, optimizer: str) -> Mapping[str, str]:
    """Role of the part that has each setting, of a run with parts of these names."""
    return {name: role for role, kind in classes_of(task, model, optimizer).items() for name in kind.model_fields}


when_registered(classes_of.cache_clear)
when_registered(_roles.cache_clear)


def _assigned(
    given: Mapping[str, Any], names: Mapping[str, str], classes: Mapping[str, type[Part]]
) -> dict[str, dict[str, Any]]:
    """Given settings by the role of the part that has them."""
    by_role: dict[str, dict[str, Any]] = {role: {} for role in classes}
    roles = _roles(**names)
    for name, value in given.items():
        if name in names:
            continue
        role = roles.get(name)
        if role is None:
            if value is not None:
                raise UserError(not_there(name, value, names, classes.values()))
        elif value is not None or not extra(classes[role], name)["may_be_open"]:
            by_role[role][name] = value
    return by_role


def _suggested(assigned: Mapping[str, Mapping[str, Any]], classes: Mapping[str, type[Part]]) -> Mapping[str, Any]:
    """Settings that the task suggests beside the given ones, which ``assigned`` holds by the role of their part."""
    task: Any = classes["task"]
    if not task.suggests:
        return {}
    given = {}
    for role, values in assigned.items():
        for name, value in values.items():
            try:
                given[name] = None if value is None else read_value(classes[role], name, value)
            except ValidationError:  # told where the part is made
                continue
    suggested: Mapping[str, Any] = task.suggest({name: value for name, value in given.items() if value is not None})
    return suggested


def _as_suggested(given: Mapping[str, Any], classes: Mapping[str, type[Part]]) -> list[str]:
    """Names of given settings whose values the task would suggest if they were not given."""
    roles = {name: role for role, kind in classes.items() for name in kind.model_fields}

    def suggested(several: Mapping[str, Any]) -> Mapping[str, Any]:
        by_role: dict[str, dict[str, Any]] = {role: {} for role in classes}
        for name, value in several.items():
            if name in roles:
                by_role[roles[name]][name] = value
        return _suggested(by_role, classes)

    same = {name: value for name, value in suggested(given).items() if name in given and given[name] == value}
    again = suggested({name: value for name, value in given.items() if name not in same})
    return list(same) if all(name in again and again[name] == value for name, value in same.items()) else []


def _made(kind: type[Part], asked: Mapping[str, Any]) -> Part:
    """A part; the runs of a grid share those in which they do not differ, unless it depends on files."""
    if kind.reads_files:
        return _new(kind, asked)
    key = (kind, *((name, type(value), value) for name, value in asked.items()))  # 1, 1.0 and True are equal
    try:
        known = _MADE.get(key)
    except TypeError:  # a list
        known, key = None, ()
    if known is None:
        known = _new(kind, asked)
        if key:
            _MADE[key] = known
            if len(_MADE) > _MOST_MADE:
                _MADE.pop(next(iter(_MADE)), None)  # another thread may just have removed it
    return known


def _new(kind: type[Part], asked: Mapping[str, Any]) -> Part:
    try:
        return kind(**asked)
    except ValidationError as error:
        raise UserError(one_line(error, kind)) from None


_MOST_MADE = 1024
_MADE: dict[tuple[Any, ...], Part] = {}
