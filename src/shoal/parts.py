"""Public names for a task, a model family, an update rule or a study of one's own.

Settings classes are light; names that need ``torch`` are loaded when they are used, so that ``--help`` stays quick::

    from shoal.parts import ModelSettings, setting

The contract of each kind is in the docstring of its class, and :mod:`shoal.testing` tests it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.errors import UserError
    from shoal.measures import Generalised, Measure, Measures
    from shoal.models.dropout import Dropout
    from shoal.models.settings import ModelSettings
    from shoal.objectives import token_losses
    from shoal.registry import MODELS, RULES, TASKS
    from shoal.report import Figure, Report, Section, Table
    from shoal.report.table import Cell
    from shoal.rules.layout import Layout
    from shoal.rules.settings import Rule
    from shoal.rules.updates import Hyper, State, Update
    from shoal.spec import RunSpec
    from shoal.spec.fields import choice, setting
    from shoal.studies import Form, Grid, Results, Study
    from shoal.tasks.base import Batch, Model, NextToken, Objective, Task
    from shoal.tasks.sampling import EpochSampler, RandomSampler, Sampler
    from shoal.tasks.settings import Counts, Sizes, TaskSettings

__all__ = [
    "MODELS",
    "RULES",
    "TASKS",
    "Batch",
    "Cell",
    "Counts",
    "Dropout",
    "EpochSampler",
    "Figure",
    "Form",
    "Generalised",
    "Grid",
    "Hyper",
    "Layout",
    "Measure",
    "Measures",
    "Model",
    "ModelSettings",
    "NextToken",
    "Objective",
    "RandomSampler",
    "Report",
    "Results",
    "Rule",
    "RunSpec",
    "Sampler",
    "Section",
    "Sizes",
    "State",
    "Study",
    "Table",
    "Task",
    "TaskSettings",
    "Update",
    "UserError",
    "choice",
    "setting",
    "token_losses",
]

# module -> names
_HOMES = {
    "errors": ("UserError",),
    "measures": ("Generalised", "Measure", "Measures"),
    "models.dropout": ("Dropout",),
    "models.settings": ("ModelSettings",),
    "objectives": ("token_losses",),
    "registry": ("MODELS", "RULES", "TASKS"),
    "report": ("Figure", "Report", "Section", "Table"),
    "report.table": ("Cell",),
    "rules.layout": ("Layout",),
    "rules.settings": ("Rule",),
    "rules.updates": ("Hyper", "State", "Update"),
    "spec": ("RunSpec",),
    "spec.fields": ("choice", "setting"),
    "studies": ("Form", "Grid", "Results", "Study"),
    "tasks.base": ("Batch", "Model", "NextToken", "Objective", "Task"),
    "tasks.sampling": ("EpochSampler", "RandomSampler", "Sampler"),
    "tasks.settings": ("Counts", "Sizes", "TaskSettings"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"shoal.{module}"), name)
    raise AttributeError(f"module 'shoal.parts' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
