"""Accuracy and loss side by side, as the practical's ``plot_loss_accs`` draws them."""

from dataclasses import replace
from typing import Any

import altair as alt
import polars as pl

from shoal.errors import UserError
from shoal.measures import LOSS_AND_ACCURACY, Measures
from shoal.report.figures import learning_curves, lines_note, styled
from shoal.report.plots import Plot

FIGSIZE = (6.0, 4.0)  # inches of a panel
LINEWIDTH = 2.0
FONTSIZE = 12.0
_PIXELS = 64  # of an inch: a panel of FIGSIZE is about as large as those of pages


def loss_accs(
    curves: pl.DataFrame,
    log_x: bool = False,
    log_y: bool = False,
    figsize: tuple[float, float] = FIGSIZE,
    linewidth: float = LINEWIDTH,
    fontsize: float = FONTSIZE,
) -> Plot:
    """Figure of two panels of :func:`shoal.report.figures.learning_curves`.

    Args:
        curves: ``run``, ``step``, and loss and accuracy on both splits, one row per evaluation.
        log_x: a logarithmic axis of steps, from step 1.
        log_y: a logarithmic axis of losses.
        figsize: inches of each panel.
        linewidth: of the mean; that of other lines follows.
        fontsize: of the titles of axes, in points.

    Raises:
        UserError: a size is no number above 0.
    """
    sizes = figsize if isinstance(figsize, tuple | list) and len(figsize) == 2 else (None,)
    for name, value in (*(("figsize", size) for size in sizes), ("linewidth", linewidth), ("fontsize", fontsize)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1000:
            what = "two numbers of inches" if name == "figsize" else "a number"
            raise UserError(f"{name} must be {what} above 0, got {figsize if name == 'figsize' else value!r}")
    loss, accuracy = LOSS_AND_ACCURACY.recorded
    measures = Measures((replace(loss, is_log=log_y), accuracy), LOSS_AND_ACCURACY.generalised)
    width, height = (size * _PIXELS for size in figsize)
    panels, descriptions = [], []
    for measure in (accuracy, loss):
        chart = learning_curves(curves, measure.name, measure.words.capitalize(), measures, log_x)
        descriptions.append(str(chart.description))
        chart.config = chart.description = alt.Undefined  # they are of the whole figure
        panels.append(chart.properties(width=width, height=height))
    spec = styled(alt.concat(*panels, columns=2), " ".join(descriptions)).to_dict()
    spec["config"]["axis"]["titleFontSize"] = fontsize
    caption = f"Accuracy and loss on both splits against the training step. {lines_note(curves['run'].n_unique())}"
    return Plot("loss-accs", alt.ConcatChart.from_dict(_widened(spec, linewidth / LINEWIDTH)), caption)


def _widened(spec: Any, factor: float) -> Any:
    """Specification with all lines made wider by a factor."""
    if isinstance(spec, list):
        return [_widened(part, factor) for part in spec]
    if not isinstance(spec, dict):
        return spec
    return {name: part * factor if name == "strokeWidth" else _widened(part, factor) for name, part in spec.items()}
