"""How it is shown: figures, tables, one offline page."""

from shoal.report.figures import Figure, learning_curves
from shoal.report.page import Report, Section, write_report
from shoal.report.table import Cell, Table

__all__ = ["Cell", "Figure", "Report", "Section", "Table", "learning_curves", "write_report"]
