"""Figures and tables of runs for Python and notebooks: the charts of pages, behind :meth:`shoal.lab.Records.plot`."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from shoal.errors import LabError, UserError, nearest
from shoal.lab import Records
from shoal.lab.files import write
from shoal.measures import SPLITS, Measures
from shoal.report.by import is_seed, setting_axis
from shoal.report.each_run import per_run_table, varying_settings
from shoal.report.figures import COLOURS, Figure, learning_curves, lines_note
from shoal.report.page import FIGURE_FILES, check_drawing, drawn
from shoal.report.panels import Axis, band_note, curve_panels
from shoal.report.quantities import OPEN, Panel, panels_of
from shoal.report.survival import survival_figure
from shoal.report.table import with_subscripts
from shoal.report.words import capitalised, counted, listed, setting_text

TIMES = "time_to_generalise"
MOST_ROWS = 40  # of a table in a notebook
_SHARPNESS = 1.5  # pixels of a picture in a notebook, whose file holds it, for each that it takes
_MOST_NAMES = len(COLOURS)  # each with its colour
_FEW = 2  # panels, which may be larger than those of pages
_SIZE = {"width": 340, "height": 215}  # of one of a few panels
_MOST_SETTINGS = 8  # of a table, model and seed among them


@dataclass(frozen=True, repr=False)
class Plot(Figure):
    """Figure that a notebook shows, and that ``save`` writes to a file.

    ``chart`` is the altair chart, which can be changed or combined with others; ``caption`` explains lines and bands.
    """

    def __repr__(self) -> str:
        return f"<Plot: {self.alt}>"

    def save(self, path: str | Path) -> Path:
        """Write the figure to a file with the suffix ``.png``, ``.svg`` or ``.pdf``, and return the path of the file.

        Raises:
            UserError: the suffix is another, or the file cannot be written.
        """
        place = Path(path)
        kind = place.suffix[1:].lower()
        if kind not in FIGURE_FILES:
            raise UserError(f"a figure is written as {' '.join(FIGURE_FILES)}, got {str(path)!r}")
        check_drawing()
        content = drawn(self, [kind])[kind]
        try:
            write(place, content)
        except OSError as error:
            raise UserError(str(error)) from None
        return place

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        """Picture for IPython, and the size at which it is shown, which is smaller than its number of pixels."""
        import vl_convert

        check_drawing()
        content = bytes(vl_convert.svg_to_png(drawn(self, ["svg"])["svg"].decode(), scale=_SHARPNESS))
        width, height = struct.unpack(">II", content[16:24])  # of the header of a PNG
        return content, {"width": round(width / _SHARPNESS), "height": round(height / _SHARPNESS), "alt": self.alt}


def plot_runs(
    records: Records,
    quantity: str | Sequence[str] | None = None,
    by: str | Sequence[str] | None = None,
    title: str | None = None,
) -> Plot:
    """Figure of :meth:`shoal.lab.Records.plot`.

    Raises:
        UserError: there is no such quantity or setting, or the runs do not differ in it, or in too many values.
        LabError: every run is damaged, or none has been evaluated yet.
    """
    if not len(records):
        raise UserError("there are no runs to plot")
    records, damage = records.snapshot().whole()
    measures = records.measures()
    symbols = {m.symbol_of(split): f"{split}_{m.name}" for m in measures.recorded for split in SPLITS}
    names = [symbols.get(name, name) for name in _names("quantity", quantity)] or [measures.shown.name]
    asked = _names("by", by)
    if names == [TIMES]:
        return _times(records, asked, title)
    curves = records.curves()
    if curves.is_empty():
        raise LabError("none of these runs has been evaluated yet")
    panels = [panel for name in names for panel in _panels(name, curves, measures)]
    single = [measure for measure in measures.recorded if names == [measure.name]]
    if single and not asked and not _few_differ(records):
        title = title or f"{capitalised(single[0].words)} of {counted(len(records), 'run')}"
        chart = learning_curves(curves, single[0].name, title, measures)
        caption = f"{capitalised(single[0].words)} on both splits against the training step. {lines_note(len(records))}"
        if pooled := _differing(records):
            caption += f" The runs differ in more than their seeds: in {listed(pooled)}."
        return _described(Plot(names[0], chart, caption + _left_out(damage)), len(records))
    labelled, axis = colour_axis(records, asked)
    curves = curves.select("run", "step", *(panel.column for panel in panels)).join(labelled, on="run")
    words = listed([panel.title for panel in panels])
    title = title or f"{_in_words(names, measures)} by {axis.title}"
    per_value = sorted(labelled.group_by(axis.column).len()["len"])
    runs = " to ".join(dict.fromkeys(map(str, (per_value[0], per_value[-1]))))
    bands = band_note(runs, len(per_value)) if per_value[-1] > 1 else "One run each."
    caption = f"{words} against the training step, one colour per {axis.title}. {bands}"
    name = "-".join([*names, *(["by", *asked] if asked else [])])
    chart = curve_panels(curves, axis, title, panels)
    if len(panels) <= _FEW:
        chart.concat = [panel.properties(**_SIZE) for panel in chart.concat]
    return _described(Plot(name, chart, caption + _left_out(damage)), per_value[-1])


def _described(plot: Plot, runs: int) -> Plot:
    """The plot with the meaning of its bands under its title, since a picture may go where its caption does not."""
    if runs > 1:
        plot.chart.title = alt.TitleParams(
            plot.chart.title, subtitle="thick: mean of runs; shaded: ± one standard deviation", fontWeight="bold"
        )
    return plot


def _few_differ(records: Records) -> bool:
    """Return True if runs differ in more than seeds, and in no more combinations than there are colours."""
    settings = _differing(records)
    return bool(settings) and len(records.runs().select(settings).unique()) <= _MOST_NAMES


def _times(records: Records, by: Sequence[str], title: str | None) -> Plot:
    """Share of runs that have generalised against the step, one curve per setting."""
    times, measures = records.times(), records.measures()
    settings = [*by] or _differing(records)
    table = records.runs()
    for name in by:
        _check_setting(records, table, name)
    if len(settings) == 1:
        labelled, which = table.select("run", pl.col(settings).alias("label")), settings[0]
    elif settings:
        labelled, axis = colour_axis(records, settings)
        labelled, which = labelled.rename({axis.column: "label"}), axis.title
    else:
        labelled, which = table.select("run", label=pl.lit("all")), "runs"
    times = times.join(labelled, on="run", maintain_order="left").rename({"label": which})
    title = title or f"{measures.arrived} by {which}"
    figure = survival_figure(TIMES, times, which, title, measures.reached, log_x=True)
    if not times["observed"].any():  # the figure has no line that rises, which could be taken for a missing one
        figure.chart.title = alt.TitleParams(title, subtitle=f"reached by none of {counted(len(times), 'run')}")
    return Plot(figure.name, figure.chart, figure.caption)


def _names(what: str, given: str | Sequence[str] | None) -> list[str]:
    if given is None:
        return []
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{what} must be a name or several, got {given!r}")
    return list(dict.fromkeys(names))


def _panels(name: str, curves: pl.DataFrame, measures: Measures) -> list[Panel]:
    """Panels of a quantity: both splits of a measure, or one column."""
    known = {panel.column: panel for panel in panels_of(measures)}
    if name in [measure.name for measure in measures.recorded]:
        return [known[f"{split}_{name}"] for split in SPLITS]
    if name in known:
        return [known[name]]
    others = [
        column
        for column, kind in curves.schema.items()
        if kind.is_float() and column not in known and column in _recorded(curves)
    ]
    if name in others:
        return [Panel(name, name)]
    allowed = [*(measure.name for measure in measures.recorded), *known, *others, TIMES]
    raise UserError(f"unknown quantity {name!r}: one of {' '.join(allowed)}{nearest(name, allowed)}")


def _recorded(curves: pl.DataFrame) -> list[str]:
    """Columns of measured quantities, which stand before those of settings."""
    return curves.columns[: curves.columns.index("model")]


def _in_words(names: Sequence[str], measures: Measures) -> str:
    """Quantities in the words of a title, such as ``Validation accuracy``."""
    splits = {"train": "training", "valid": "validation"}
    words = {measure.name: measure.words for measure in measures.recorded}
    words |= {f"{split}_{name}": f"{splits[split]} {phrase}" for split in SPLITS for name, phrase in words.items()}
    text = listed([words.get(name, name) for name in names])
    return capitalised(text) if names[0] in words else text


def colour_axis(records: Records, by: Sequence[str] = ()) -> tuple[pl.DataFrame, Axis]:
    """Axis of the colours in which the curves of runs are drawn, and the place of each run on it.

    One setting of numbers is a colour bar; names, seeds and combinations of settings have colours of their own.

    Args:
        records: the runs.
        by: the settings, or ``run``; where none is named, the settings in which the runs differ besides their seeds, or
            else the run.

    Returns:
        ``run`` and the column of the axis.

    Raises:
        UserError: there is no such setting, the runs do not differ in it, or their values are more than there are
            colours.
    """
    table = records.runs()
    settings = [*by] or _differing(records) or ["run"]
    for name in by:
        _check_setting(records, table, name)
    axis, column = setting_axis(table, settings, in_legend=True)
    if len(axis.names) > _MOST_NAMES:
        raise UserError(
            f"{listed(settings)}: {len(axis.names)} different {_values(settings)}, and a figure has {_MOST_NAMES} "
            "colours for them; plot some of the runs, chosen with where(...), or by another setting"
        )
    return table.select("run", column), axis


def _values(settings: Sequence[str]) -> str:
    return "values" if len(settings) == 1 else "combinations of values"


def _differing(records: Records) -> list[str]:
    """Settings in which the runs differ, seeds excepted."""
    table = records.runs()
    return [name for name in varying_settings(records) if table[name].n_unique() > 1 and not is_seed(name)]


def _check_setting(records: Records, table: pl.DataFrame, name: str) -> None:
    known = [column for column in table.columns if column not in ("state", "step")]
    if name not in known:
        raise UserError(f"these runs have no setting {name!r}{nearest(name, known)}")
    if table[name].n_unique() < 2:
        several = [column for column in _differing(records) if column in known]
        several += ["seed"] * (table["seed"].n_unique() > 1)
        instead = f"they differ in {' '.join(several)}" if several else "they differ in no setting"
        raise UserError(f"all of these runs have {name} {setting_text(table[name][0])}; {instead}")


def _left_out(damage: Mapping[str, str]) -> str:
    return f" Left out as damaged or of another version: {counted(len(damage), 'run')}." if damage else ""


def html_table(records: Records) -> str:
    """Table of ``shoal runs`` as HTML, with the first 40 runs of many."""
    if not len(records):
        return "<p>no runs</p>"
    shown = records[:MOST_ROWS]
    damage = shown.damage()
    settings = varying_settings(records)
    table = per_run_table(shown, settings[:_MOST_SETTINGS], damage)
    rows = [(label[:8], cells) for label, cells in table.rows]
    notes = [
        f"{counted(len(records), 'run')}{f', of which the first {MOST_ROWS}' if len(records) > MOST_ROWS else ''}."
    ]
    if rest := settings[_MOST_SETTINGS:]:
        notes.append(f"They differ in more settings: {', '.join(rest)}.")
    if any(OPEN in cell.text for _, cells in rows for cell in cells):
        notes.append(f"{OPEN}: the best value is the last that was evaluated, and might have become better still.")
    if damage:
        notes.append(f"{counted(len(damage), 'run')} damaged: {next(iter(damage.values()))}.")
    body = replace(table, rows=rows).to_html()
    return f'<div style="overflow-x: auto">{body}</div>\n<p>{with_subscripts(" ".join(notes))}</p>'
