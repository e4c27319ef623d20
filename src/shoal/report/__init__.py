"""Reports of runs: figures, tables, and one page that needs no network."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.report.beam import beam_tree
    from shoal.report.comparison import comparison_figure, comparison_notes, comparison_table, forest
    from shoal.report.factorial import factorial_figure, factorial_notes, factorial_table, variance_shares
    from shoal.report.figures import Figure, learning_curves
    from shoal.report.log_rank import TimesQuestion, logrank_sentences
    from shoal.report.page import Report, Section, check_drawing, write_report
    from shoal.report.plots import Plot
    from shoal.report.survival import survival_curves, survival_figure, survival_table
    from shoal.report.table import Cell, Table

__all__ = [
    "Cell",
    "Figure",
    "Plot",
    "Report",
    "Section",
    "Table",
    "TimesQuestion",
    "beam_tree",
    "check_drawing",
    "comparison_figure",
    "comparison_notes",
    "comparison_table",
    "factorial_figure",
    "factorial_notes",
    "factorial_table",
    "forest",
    "learning_curves",
    "logrank_sentences",
    "survival_curves",
    "survival_figure",
    "survival_table",
    "variance_shares",
    "write_report",
]

# module -> names; loaded when asked for: a table on the terminal needs no altair, and few pages need scipy.stats
_HOMES = {
    "beam": ("beam_tree",),
    "comparison": ("comparison_figure", "comparison_notes", "comparison_table", "forest"),
    "factorial": ("factorial_figure", "factorial_notes", "factorial_table", "variance_shares"),
    "figures": ("Figure", "learning_curves"),
    "log_rank": ("TimesQuestion", "logrank_sentences"),
    "page": ("Report", "Section", "check_drawing", "write_report"),
    "plots": ("Plot",),
    "survival": ("survival_curves", "survival_figure", "survival_table"),
    "table": ("Cell", "Table"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"shoal.report.{module}"), name)
    raise AttributeError(f"module 'shoal.report' has no attribute {name!r}")
