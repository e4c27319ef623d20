"""Gallery: pages that are scripts, compute every number that they print, and check it.

A page is a file ``gallery/plot_NN_name.py`` that imports only ``shoal`` and ``torch``. It runs alone, as a test, and
when the documentation is built; :func:`check` raises where a number is off, and so stops each of the three.
"""

import io
import sys

from shoal.gallery.checks import Check, Off, Recording, check, fresh
from shoal.gallery.columns import add_rows
from shoal.gallery.figures import Choice, PageFigure, Slider, figure
from shoal.gallery.marks import Axis, Layer, Panel, bars, cells, cubes, dots, line, rule, words
from shoal.gallery.pages import PageRun, foreign_imports, run_page
from shoal.gallery.trained import trained

__all__ = [
    "Axis",
    "Check",
    "Choice",
    "Layer",
    "Off",
    "PageFigure",
    "PageRun",
    "Panel",
    "Recording",
    "Slider",
    "add_rows",
    "bars",
    "cells",
    "check",
    "cubes",
    "dots",
    "figure",
    "foreign_imports",
    "fresh",
    "line",
    "rule",
    "run_page",
    "trained",
    "words",
]

# A page prints signs that some encodings lack, such as ≤ in Windows-1252: they are spelled, and do not end the page.
if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
    sys.stdout.reconfigure(errors="backslashreplace")
