"""Axes, thresholds and quantities of a page over any runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from shoal.analysis.blocks import crossed
from shoal.errors import UserError
from shoal.measures import Measures
from shoal.report.by import check_axes, differing_settings, setting_axis
from shoal.report.panels import Axis
from shoal.report.words import counted, listed, setting_text
from shoal.spec.fields import Part, extra
from shoal.spec.known import known_settings
from shoal.studies.crossing import SEED_AXES, SOURCES
from shoal.studies.results import Results

SIZE = "parameters"  # the number of parameters, which is made of settings


@dataclass(frozen=True)
class Thresholds:
    """Values that runs are waited for to reach.

    Attributes:
        thresholds: values of the measure that is shown, on the validation split.
        stay: at how many evaluations in a row a run has to be there, of which the first is its time.
    """

    thresholds: tuple[float, ...]
    stay: int = 1

    @property
    def stayed(self) -> str:
        """Words after ``A_val ≥ 0.9`` where reaching it once is not enough."""
        return f" at {self.stay} evaluations in a row" if self.stay > 1 else ""

    @classmethod
    def of(cls, measures: Measures, asked: Sequence[float] | None, stay: int | None) -> "Thresholds":
        """Thresholds that are asked for; else those of a task that says what generalising is, and none of others.

        Raises:
            UserError: a threshold is named twice, or is no value that the measure can take above its worst; or
                ``stay`` is no number of evaluations.
        """
        shown, what = measures.shown, f"validation {measures.shown.words}"
        low, high = shown.bounds or (-float("inf"), float("inf"))
        for threshold in asked or ():
            if not low <= threshold <= high or threshold in (low if shown.higher_is_better else high, float("inf")):
                raise UserError(
                    f"--threshold must be a value of the {what} from {low:g} to {high:g}, got {threshold:g}"
                )
        if asked and len(set(asked)) < len(asked):
            twice = next(threshold for threshold in asked if list(asked).count(threshold) > 1)
            raise UserError(f"--threshold was given {twice:g} twice")
        if stay is not None and stay < 1:
            raise UserError(f"--stay must be a whole number of evaluations of at least 1, got {stay}")
        meant = measures.generalised
        usual = () if meant is None else shown.thresholds or (meant.threshold,)
        return cls(tuple(asked or usual), stay or 1)


@dataclass(frozen=True)
class Grid:
    """Runs and the settings by which they are asked about.

    Attributes:
        results: the runs, names in place of values where an axis is of names.
        axes: the settings.
        waited: thresholds.
        unlike: a sentence on settings beside the axes in which the runs differ; empty where there are none.
    """

    results: Results
    axes: tuple[Axis, ...]
    waited: Thresholds
    unlike: str = ""

    def of(self, axis: Axis) -> Results:
        """The runs that tell of an axis. One that is in several labs or forms tells once of other settings: counted
        twice it would make a trend of two runs look like one of four."""
        return self.results if axis.column in SOURCES else self.results.once()

    def others(self, axis: Axis) -> list[str]:
        """Columns of whose values each has figures of its own for an axis: the model, and the other axes."""
        several = ["model"] * (len(self.results.models) > 1)
        return [name for name in dict.fromkeys([*several, *(a.column for a in self.axes)]) if name != axis.column]


def own_grid(results: Results, by: Sequence[str], thresholds: Sequence[float] | None, stay: int | None) -> Grid:
    """The runs with their axes.

    Args:
        results: the runs.
        by: names of settings, or ``lab`` and ``form`` of results that were joined.
        thresholds: to be reached; those of the task when not given.
        stay: at how many evaluations in a row; 1 when not given.

    Raises:
        UserError: there is no such setting, all runs have one value of it, or it is named twice; or as of
            :meth:`Thresholds.of`.
    """
    names = check_axes(results.runs, by)
    waited = Thresholds.of(results.measures, thresholds, stay)
    axes, renamed = [], []
    for name in names:
        axis, column = setting_axis(results.runs, [name])
        axes.append(axis)
        renamed.append(column)
    alike, unlike = _alike(results, names)
    return Grid(alike.renamed(renamed), tuple(axes), waited, unlike)


def _alike(results: Results, names: Sequence[str]) -> tuple[Results, str]:
    """The runs that have a partner, which differs in an axis and in no setting but axes and seeds, and a sentence.

    A mean over others would take what these settings do for what the axis does. Where none has a partner it is of all.
    """
    frame = results.evaluated
    made_of = made_of_size(results) if SIZE in names else ()
    asked = [name for name in names if name not in SOURCES]
    settings = [name for name in results.settings if name not in (*SEED_AXES, *SOURCES)]
    others = crossed(frame, [*names, *made_of], settings)
    if not others or not asked:
        return results, ""
    text = f"Runs also differ in {listed(_told(frame, others, [*names, *made_of, 'q']))}"
    alike = frame.filter(pl.struct(asked).n_unique().over(others) > 1)
    if alike.is_empty():
        return results, f"{text}, and no two in {listed(asked)} alone: the means below are of runs that are not alike."
    left = len(frame) - len(alike)
    partner = f"that have a partner which differs in {listed(asked)} alone"
    which = f"the {counted(len(alike), 'run')} {partner}" if left else "all"
    value = alike[others[0]].drop_nulls().mode().sort().first()
    flag = "" if value is None else f" --{others[0].replace('_', '-')} {setting_text(value)} narrows the choice."
    out = f", {left} {'is' if left == 1 else 'are'} left out" if left else ""
    return results.only(alike["run"]) if left else results, f"{text}; means and rates are over {which}{out}.{flag}"


def _told(frame: pl.DataFrame, others: Sequence[str], apart: Sequence[str]) -> list[str]:
    """Settings in which runs differ, also those that go with others, but for those that follow from them."""
    known = known_settings()
    varying = [name for name in differing_settings(frame) if name in known]
    of_shoal = [name for name in varying if name not in (*apart, *SEED_AXES) and not follows(known[name][0], name)]
    return [*(name for name in others if name not in known), *of_shoal] or [*others]


def made_of_size(results: Results) -> tuple[str, ...]:
    """Settings of the model that vary, of which the number of parameters is made."""
    settings = type(results.spec().model_part).model_fields
    return tuple(name for name in settings if name in results.runs.columns and results.runs[name].n_unique() > 1)


def follows(part: type[Part], name: str) -> bool:
    """Return True if a setting is decided by another where it is left open, or changes nothing of what is trained."""
    known = extra(part, name)
    return bool(known["follows"] or known["operational"] or known["derived"]) or name == "hidden_size"


def asked_of(measures: Measures) -> list[tuple[str, str, bool | None]]:
    """Quantities that a page asks of its runs: columns of best values with their symbols, and whether small is good.

    Of equations these are those of the studies: log₁₀ L_val, A_val and the first steps of both. A loss of a task in
    which nothing generalises moves little, and is compared as it is.
    """
    out: list[tuple[str, str, bool | None]] = []
    for measure in measures.recorded:
        column, symbol = f"valid_{measure.name}", measure.symbol_of("valid")
        if measure.name == "loss" and measures.generalised is not None:
            column, symbol = f"log_{column}", f"log₁₀ {symbol}"
        out.append((column, symbol, not measure.higher_is_better))
    if measures.generalised is not None:
        out += [
            (f"t_valid_{measure.name}", f"t_f({measure.symbol_of('valid')})", None) for measure in measures.recorded
        ]
    return out
