"""Pages of the Python reference, from the documented names of the public modules."""

import importlib
import inspect
from collections.abc import Callable

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
    names = sorted(loaded.__all__, key=str.lower)
    parts = [_title(module), f".. automodule:: {module}\n   :no-members:\n"]
    for name in names:
        value = getattr(loaded, name)
        home = _home(value)
        if home in MODULES and home != module and name in importlib.import_module(home).__all__:
            parts.append(f".. py:currentmodule:: {module}\n\n``{name}``\n   The same as :py:obj:`{home}.{name}`.\n")
        elif inspect.ismodule(value):
            parts.append(f"``{name}``\n   The module :doc:`{value.__name__} <{value.__name__}>`.\n")
        else:
            parts.append(f".. auto{_kind(value)}:: {module}.{name}\n")
    return "\n".join(parts)


def _home(value: object) -> str:
    """Package under which a name is documented: that of its module, without the module itself."""
    module = getattr(value, "__module__", "") or ""
    return ".".join(module.split(".")[:2]) if module.startswith("shoal.") else ""


def _kind(value: object) -> str:
    kinds: dict[str, Callable[[object], bool]] = {"exception": _is_error, "class": inspect.isclass}
    kinds["function"] = inspect.isroutine
    return next((kind for kind, fits in kinds.items() if fits(value)), "data")


def _is_error(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, BaseException)


def _title(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n"
