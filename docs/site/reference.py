"""Pages of the Python reference, from the documented names of the public modules."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import cache

from shoal.registry import Registry

MODULES = {
    "shoal": "runs, grids, training and records",
    "shoal.parts": "what a task, a model, an update rule or a study of one's own is made of",
    "shoal.models": "models and their parts",
    "shoal.tasks": "tasks and data",
    "shoal.training": "training",
    "shoal.lab": "the lab and its records",
    "shoal.analysis": "analysis of curves and results",
    "shoal.decoding": "greedy, beam and exhaustive search, sampling",
    "shoal.hmm": "hidden Markov models",
    "shoal.exact": "small exact models, and exact computations about models",
    "shoal.tuning": "search for settings within a budget",
    "shoal.quantisation": "weights in few bits",
    "shoal.report": "figures, tables and pages",
    "shoal.studies": "studies",
    "shoal.gallery": "pages of the gallery",
    "shoal.practical": "the practical's functions under their own names",
    "shoal.testing": "contract suites for parts of one's own",
}


def reference_pages() -> dict[str, str]:
    """ReStructuredText of each module's page, by its name, and of the list of modules as ``index``."""
    rows = "\n".join(f"* :doc:`{name} <{name}>`: {about}" for name, about in MODULES.items())
    names = "\n".join(f"   {name}" for name in MODULES)
    index = (
        f"{_title('Python reference')}\nNames that a program may import; all others may change.\n\n{rows}\n\n"
        f".. toctree::\n   :hidden:\n\n{names}\n"
    )
    return {"index": index, **{name: _page(name) for name in MODULES}}


def _page(module: str) -> str:
    loaded = importlib.import_module(module)
    parts = [_title(module), f".. automodule:: {module}\n   :no-members:\n"]
    for name in sorted(loaded.__all__, key=str.lower):
        value = getattr(loaded, name)
        home = _home(module, name)
        if inspect.ismodule(value):
            parts.append(f"``{name}``\n   The module :doc:`{value.__name__} <{value.__name__}>`.\n")
        elif home != module:
            parts.append(f"``{name}``\n   The same as :py:obj:`{home}.{name}`.\n")
        elif kind := _kind(value):
            parts.append(f".. auto{kind}:: {module}.{name}\n")
        else:
            parts.append(_data(module, name, value))
    return "\n".join(parts)


def _home(module: str, name: str) -> str:
    """Module that documents a name: of those that have the same object, its package's or else the first of the list."""
    value = getattr(importlib.import_module(module), name)
    having = [other for other in MODULES if getattr(_public(other).get(name), "obj", None) is value] or [module]
    package = ".".join((getattr(value, "__module__", "") or "").split(".")[:2])
    return package if package in having else having[0]


class _Held:
    """Holder of an object, whatever it is, so that None is not taken for a missing name."""

    def __init__(self, obj: object) -> None:
        self.obj = obj


@cache
def _public(module: str) -> dict[str, _Held]:
    loaded = importlib.import_module(module)
    return {name: _Held(getattr(loaded, name)) for name in loaded.__all__}


def _data(module: str, name: str, value: object) -> str:
    """Entry of a constant, with the meaning of each key where it has them, or of a type."""
    entry = f".. py:data:: {module}.{name}\n"
    if isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values()):
        return entry + "".join(f"\n   ``{key}``\n      {_plain(text)}\n" for key, text in value.items())
    if isinstance(value, Mapping):
        return f"{entry}\n   Names: {', '.join(f'``{key}``' for key in value)}\n"
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        fields = ", ".join(f"{key}={getattr(part, '__name__', part)}" for key, part in value._asdict().items())
        return f"{entry}\n   ``{type(value).__name__}({fields})``\n"
    if isinstance(value, Registry):
        return f"{entry}\n   Registry of the classes of a kind; names in shoal: {', '.join(value.names())}.\n"
    return f"{entry}\n   ``{_plain(str(value)).replace('`', '')}``\n"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("*", "\\*")


def _kind(value: object) -> str:
    kinds: dict[str, Callable[[object], bool]] = {"exception": _is_error, "class": inspect.isclass}
    kinds["function"] = inspect.isroutine
    return next((kind for kind, fits in kinds.items() if fits(value)), "")


def _is_error(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, BaseException)


def _title(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n"
