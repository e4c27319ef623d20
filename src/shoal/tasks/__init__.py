"""Tasks: data, vocabulary, splits and objective of what a run learns; a folder per task."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.tasks.arithmetic.data import get_arithmetic_dataset
    from shoal.tasks.arithmetic.tokenizer import Tokenizer
    from shoal.tasks.base import Task
    from shoal.tasks.settings import Counts, Sizes, TaskSettings

__all__ = ["Counts", "Sizes", "Task", "TaskSettings", "Tokenizer", "get_arithmetic_dataset"]

# loaded when asked for: settings are read without torch
_HOMES = {
    "Counts": "settings",
    "Sizes": "settings",
    "Task": "base",
    "TaskSettings": "settings",
    "Tokenizer": "arithmetic.tokenizer",
    "get_arithmetic_dataset": "arithmetic.data",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'shoal.tasks' has no attribute {name!r}")
    return getattr(importlib.import_module(f"shoal.tasks.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
