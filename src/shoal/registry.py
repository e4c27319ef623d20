"""Registry of the parts of a run by name: a short one, or the place ``module:Name`` of a class outside of shoal.

A part is found without loading the others: shoal's own parts are listed by their places, a package can offer short
names as entry points (groups ``shoal.tasks``, ``shoal.models``, ``shoal.rules``), and a class can be registered where
it is defined. A part from outside is recorded by its place, by which another process finds it, too.
"""

import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

from shoal.errors import UserError, nearest

T = TypeVar("T")
_PLACE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_forgetting: list[Callable[[], None]] = []


class Registry(Generic[T]):
    """Registry of the classes of one kind by name.

    Args:
        kind: their kind, which is the setting that names one: ``task``, ``model`` or ``optimizer``.
        base: place of the class that each must be derived from.
        shipped: places by short name.
    """

    def __init__(self, kind: str, base: str, shipped: Mapping[str, str]) -> None:
        self.kind, self.base = kind, base
        self._shipped = dict(shipped)
        self._registered: dict[str, type[T]] = {}
        self._found: dict[str, type[T]] = {}

    def register(self, part: type[T]) -> type[T]:
        """Register a class under its ``name`` in this process; a decorator.

        Raises:
            UserError: shoal has a part of this name.
        """
        name = getattr(part, "name", "")
        if name in self._shipped or not str(name).isidentifier():
            raise UserError(
                f"a {self.kind} cannot be registered as {name!r}: it must be a word, and not one of "
                f"{' '.join(self._shipped)}"
            )
        self._registered[name] = part
        self._found.clear()  # a class that is defined anew is meant by its name, and by its place, from now on
        for forget in _forgetting:
            forget()
        return part

    def names(self) -> list[str]:
        """Short names: of shoal's own parts, then of registered ones and those of installed packages."""
        return list(dict.fromkeys([*self._shipped, *self._registered, *offered(self.kind)]))

    def shipped(self) -> Iterator[type[T]]:
        """Classes that shoal ships."""
        return (self[name] for name in self._shipped)

    def name_of(self, name: str) -> str:
        """Recorded name of a part that was asked for by this name: its place, where it is not shoal's own."""
        if name in self._shipped:
            return name
        part = self[name]
        if part.__module__ == "__main__" or "." in part.__qualname__:
            raise UserError(f"{self.kind} {name!r} must stand in a module that other processes can import, at its top")
        return f"{part.__module__}:{part.__qualname__}"

    def is_outside(self, name: str) -> bool:
        """Return True if shoal does not ship the part of this name."""
        return name not in self._shipped

    def __getitem__(self, name: str) -> type[T]:
        """Class of this name.

        Raises:
            UserError: there is none, it cannot be imported, or it is of another kind.
        """
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def _find(self, name: str) -> type[T]:
        if name in self._registered:
            return self._registered[name]
        place = self._shipped.get(name) or offered(self.kind).get(name) or name
        if not isinstance(place, str) or not _PLACE.fullmatch(place):
            known = self.names()
            raise UserError(
                f"unknown {self.kind} {name!r}: one of {' '.join(known)}, or the place of your own, such as "
                f"package.module:Class{nearest(str(name), known)}"
            )
        return self._checked(place, name)

    def _checked(self, place: str, name: str) -> type[T]:
        part, base = at_place(place, f"{self.kind} {name!r}"), load(self.base)
        if not (isinstance(part, type) and issubclass(part, base)):
            raise UserError(f"{name!r} is no {self.kind}: it must be a class derived from {self.base}")
        return cast(type[T], part)


def is_place(name: str) -> bool:
    """Return True if a name is a place: ``package.module:Name``."""
    return _PLACE.fullmatch(name) is not None


def at_place(place: str, what: str) -> Any:
    """Object at a place outside of shoal.

    Args:
        place: ``package.module:Name``.
        what: description of the object, for messages.

    Raises:
        UserError: it cannot be imported.
    """
    module, _, attribute = place.partition(":")
    if module.partition(".")[0] in sys.stdlib_module_names:  # a lab may be someone else's
        raise UserError(f"{what} cannot be imported: {module} is no package of parts")
    attribute_value: Any = getattr(_imported(module, what), attribute, None)
    if attribute_value is None:
        raise UserError(f"{what} cannot be imported: {module} has no {attribute}")
    return attribute_value


def when_registered(forget: Callable[[], None]) -> None:
    """Call a function whenever a class is registered, so that it clears what it cached by names."""
    _forgetting.append(forget)


@cache
def offered(kind: str) -> Mapping[str, str]:
    """Places of the parts of a kind that installed packages offer, by short name."""
    group = {"optimizer": "shoal.rules", "study": "shoal.studies"}.get(kind, f"shoal.{kind}s")
    return {entry.name: entry.value for entry in entry_points(group=group)}


def short(name: str) -> str:
    """Name of a part for readers: the class of one that is named by its place.

    >>> short("package.module:Reverse"), short("gpt")
    ('Reverse', 'gpt')
    """
    return name.rpartition(":")[2]


def load(place: str) -> type:
    """Class at a place of shoal's own."""
    module, _, name = place.partition(":")
    part: type = getattr(importlib.import_module(module), name)
    return part


def _imported(module: str, what: str) -> object:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever a module of someone else does
        lacks = isinstance(error, ModuleNotFoundError) and module.startswith(str(error.name))
        advice = "; install its package, or name its folder in PYTHONPATH" if lacks else ""
        reason = " ".join(f"{type(error).__name__}: {error}".split()) if not lacks else str(error)
        raise UserError(f"{what} cannot be imported: {reason}{advice}") from error


TASKS: Registry[Any] = Registry(
    "task",
    "shoal.tasks.settings:TaskSettings",
    {
        "arithmetic": "shoal.tasks.arithmetic.settings:Arithmetic",
        "text": "shoal.tasks.text.settings:Text",
        "translation": "shoal.tasks.translation.settings:Translation",
        "pig_latin": "shoal.tasks.pig_latin.settings:PigLatin",
        "sorting": "shoal.tasks.sorting.settings:Sorting",
        "sequences": "shoal.tasks.sequences.settings:SequencesSettings",
    },
)
MODELS: Registry[Any] = Registry(
    "model",
    "shoal.models.settings:ModelSettings",
    {
        "lstm": "shoal.models.settings:LSTMSettings",
        "gpt": "shoal.models.settings:GPTSettings",
        "encoder_decoder": "shoal.models.pair_settings:EncoderDecoderSettings",
        "encoder_translator": "shoal.models.pair_settings:EncoderTranslatorSettings",
        "lstm_encoder_decoder": "shoal.models.pair_settings:LSTMEncoderDecoderSettings",
        "non_autoregressive": "shoal.models.pair_settings:NonAutoregressiveSettings",
        "hmm": "shoal.models.hmm_settings:HMMSettings",
        "finetuned": "shoal.models.adapter_settings:FineTunedSettings",
    },
)
RULES: Registry[Any] = Registry(
    "optimizer",
    "shoal.rules.settings:UpdateRule",
    {
        "sgd": "shoal.rules.settings:SGD",
        "momentum": "shoal.rules.settings:Momentum",
        "adam": "shoal.rules.settings:Adam",
        "adamw": "shoal.rules.settings:AdamW",
        "lion": "shoal.rules.settings:Lion",
        "muon": "shoal.rules.settings:Muon",
        "em": "shoal.rules.settings:EM",
    },
)
KINDS: Mapping[str, Registry[Any]] = {"task": TASKS, "model": MODELS, "optimizer": RULES}
USUAL: Mapping[str, str] = {"task": "arithmetic", "model": "lstm", "optimizer": "adamw"}
