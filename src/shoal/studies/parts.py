"""Report sections, figures and tables that several studies share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import polars as pl

from shoal.analysis import time_to
from shoal.errors import UserError
from shoal.measures import EQUATIONS, SPLITS, Measures
from shoal.registry import short
from shoal.report import Figure, Report, Section, Table
from shoal.report.each_run import model_label
from shoal.report.figures import STEPS_NOTE
from shoal.report.gaps import GAP_NOTE
from shoal.report.log_rank import TimesQuestion, logrank_sentences
from shoal.report.means import end_together
from shoal.report.panels import Axis, band_note, curve_panels, summary_panels, times_note
from shoal.report.quantities import Panel, best_panels_of, competing_note, panels_of, quantities_of, symbols_note
from shoal.report.schedule import grid_note
from shoal.report.summary import best_value, cell_of, one_run, provenance, ten_means
from shoal.report.survival import rates_sentence, survival_figure, survival_table
from shoal.report.words import capitalised, counted, listed, setting_text
from shoal.studies.base import Form
from shoal.studies.crossing import crossing
from shoal.studies.results import Results, number_of_runs

assert EQUATIONS.generalised is not None
GENERALISED = EQUATIONS.generalised.threshold
# which of the practical's questions a study asks, by its name
PRACTICAL_QUESTIONS = {
    "sanity": "questions 1 and 2",
    "data-scaling": "question 3",
    "mixed-orders": "question 4",
    "model-scaling": "question 5",
    "compute-scaling": "question 6",
    "regularization": "question 7",
    "attention": "question 8",
}
POINTS_NOTE = "Points: single runs; loss axes are logarithmic."
LEARNING = (
    "how well a model does on the equations that it trains on, and on others, while it trains. Where the curves of "
    "training are at their best long before those of validation, the model first memorised and later generalised."
)
BEST_VALUES = "the best loss and accuracy of each setting, and the steps at which they were first reached."
TIMES = (
    "the share of runs that has generalised by each step, runs that never did included; of two curves the one further "
    "left is of runs that generalise sooner. The log-rank test asks whether the curves differ by more than chance."
)


def finished(
    name: str,
    title: str,
    question: str,
    answers: Sequence[str],
    sections: Sequence[Section],
    results: Results,
    form: Form,
) -> Report:
    """Report of a study: shortcomings and answers first, then its sections and its provenance."""
    asked = f" Source: the practical, problem 4, {PRACTICAL_QUESTIONS[name]}." if name in PRACTICAL_QUESTIONS else ""
    return Report(
        title=form.title(title),
        lead=f"{question}{asked}",
        answers=[*results.shortcomings(), *answers],
        sections=[*sections, provenance(results.records, f"shoal study run {name}{form.flags()}")],
    )


class Waited(Protocol):
    """Thresholds that runs are expected to reach, as a :class:`~shoal.studies.base.Form` has them."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Values of the measure that is shown, on the validation split."""

    @property
    def stay(self) -> int:
        """Number of evaluations in a row at which a run has to be there."""

    @property
    def stayed(self) -> str:
        """Words after ``A_val ≥ 0.9`` where reaching it once is not enough."""


def curves_figure(
    results: Results,
    colour: Axis,
    name: str,
    title: str,
    panels: Sequence[Panel] | None = None,
    over: str = "seeds",
) -> Figure:
    """Figure of all measures on both splits against the step, coloured by a setting.

    Of equations these are L_train, L_val, A_train and A_val. ``over`` names the other settings in which runs differ.
    """
    measures = results.measures
    panels = panels_of(measures) if panels is None else panels
    n = number_of_runs(results.curves, [colour.column])
    caption = (
        f"{title}, coloured by {colour.label}. {_measured(measures)}, on the training and on the validation "
        f"{measures.things}. {STEPS_NOTE} "
        + band_note(n, results.curves[colour.column].n_unique(), over)
        + f" {GAP_NOTE}"
        + (
            ""
            if end_together(results.curves, [colour.column])
            else " Dotted: the mean of the runs that go on after others have ended."
        )
        + "".join(f" {panel.about}." for panel in panels if panel.about)
    )
    return Figure(name, curve_panels(results.curves, colour, title, panels), caption)


def _measured(measures: Measures) -> str:
    """Description of the panels of curves: ``L_train and L_val: loss (nats, logarithmic); …``."""
    descriptions = []
    for measure in measures.recorded:
        notes = [measure.about or measure.unit] if measure.about or measure.unit else []
        notes += ["logarithmic"] * measure.is_log
        both = " and ".join(measure.symbol_of(split) for split in SPLITS)
        descriptions.append(f"{both}: {measure.words}" + (f" ({'; '.join(notes)})" if notes else ""))
    return "; ".join(descriptions)


def summary_figure(
    results: Results,
    x: Axis,
    colour: Axis,
    name: str,
    title: str,
    extrema: pl.DataFrame | None = None,
    over: str = "seeds",
) -> Figure:
    """Figure of the best values and their steps against a setting; ``over`` as in :func:`curves_figure`."""
    measures = results.measures
    shown = results.extrema if extrema is None else extrema
    n = number_of_runs(shown, list(dict.fromkeys(["model", x.column, colour.column])))
    by = f"the {colour.title}" if colour.names else colour.label
    best = listed([measure.words for measure in measures.recorded])
    is_log = any(measure.is_log for measure in measures.recorded)
    caption = (
        f"{title}: best values against {x.title}, coloured by {by}. Best values: best {best} of a run, and t_f, the "
        f"first evaluated step of each. {band_note(n, over=over)} {POINTS_NOTE if is_log else 'Points: single runs.'} "
        f"{times_note(measures)} {grid_note(results.specs.values())}"
    )
    return Figure(name, summary_panels(shown, x, colour, title, best_panels_of(measures)), caption)


def times_of(results: Results, form: Waited, threshold: float, column: str | None = None) -> pl.DataFrame:
    """Times at which each run reached a threshold, and stayed as the form asks, with its settings, and ``followed``.

    Without a ``column``, of the most telling measure of these runs, on the validation split.

    Raises:
        UserError: runs that end some steps after generalising are asked to stay, which they cannot show.
    """
    if form.stay > 1 and results.runs["stop_after_generalizing"].is_not_null().any():
        raise UserError(
            f"--stay {form.stay} cannot be measured on runs that end some steps after A_val ≥ {GENERALISED} "
            "(stop_after_generalizing); take --stay 1"
        )
    states = results.runs.select("run", "state", "step")
    shown = results.measures.shown if column is None else results.measures[column]
    watched = f"valid_{shown.name}" if column is None else column
    direction: Literal["at least", "at most"] = "at least" if shown.higher_is_better else "at most"
    times = time_to(results.curves, watched, threshold, direction, states, form.stay)
    for more in (results.runs.select(pl.exclude("state", "step")), results.followed):
        times = times.join(more, on="run", how="left", maintain_order="left")
    return times


@dataclass(frozen=True)
class TimesAnswer:
    """Sentence about the times of some runs.

    Attributes:
        who: the runs and the threshold, in words.
        answer: the sentence, or the question that it will answer.
        rates: sentence on the number of runs that reached the threshold, and their times; empty where unknown.
        nobody: True if none of them reached it.
    """

    who: str
    answer: str | TimesQuestion
    rates: str = ""
    nobody: bool = False


def times_sections(results: Results, axes: Mapping[str, Axis], form: Waited) -> list[Section]:
    """Sections on the times to generalise, by each setting and threshold; runs that never did are censored.

    Args:
        results: the runs.
        axes: the settings by what to add to the title and the names of figures; ``""`` for nothing.
        form: form of the study, with the thresholds.

    Returns:
        One section per setting; all their log-rank tests are corrected together.
    """
    answers = times_answers({by: (axis, results) for by, axis in axes.items()}, form)
    return [
        replace(section, paragraphs=[f"{one.who}: {one.answer}" for one in sentences]) for section, sentences in answers
    ]


def times_answers(axes: Mapping[str, tuple[Axis, Results]], form: Waited) -> list[tuple[Section, list[TimesAnswer]]]:
    """Sections of :func:`times_sections` without their sentences, and these sentences, of each setting and runs."""
    drafts = [_times(results, axis, form, by) for by, (axis, results) in axes.items()]
    questions = [one.answer for _, words in drafts for one in words if not isinstance(one.answer, str)]
    answers = iter(logrank_sentences(questions))
    return [
        (section, [one if isinstance(one.answer, str) else replace(one, answer=next(answers)) for one in words])
        for section, words in drafts
    ]


def _times(results: Results, axis: Axis, form: Waited, by: str) -> tuple[Section, list[TimesAnswer]]:
    """Section without its sentences; and for each sentence its subject, with its text or the question to answer."""
    figures, tables = [], []
    words: list[TimesAnswer] = []
    shown = results.measures.shown
    prefix = "-".join(["times", *by.split()])
    stopped = results.runs["stop_after_generalizing"].is_not_null().any()
    for threshold in form.thresholds:
        if stopped and (threshold > GENERALISED or form.stay > 1):
            note = (
                f"cannot be measured, because runs end some steps after A_val ≥ {GENERALISED} "
                "(stop_after_generalizing), so that the runs that generalise soonest are followed for the "
                "shortest time."
            )
            words.append(TimesAnswer(f"A_val ≥ {threshold:g}{form.stayed}", note))
            continue
        there = f"{shown.symbol_of('valid')} {shown.side} {threshold:g}{form.stayed}"
        reached = f"validation {shown.words} {threshold:g}{form.stayed}"
        times = times_of(results, form, threshold)
        by_model = [(model, times.filter(model=model)) for model in results.models]
        every = "both models" if len(results.models) == 2 else "all models"
        groups = [
            (f"-{short(m)}", model_label(m), times_of_group) for m, times_of_group in by_model if len(times_of_group)
        ]
        for suffix, name, times_of_group in [("", every, times)] if axis.column == "model" else groups:
            tag = f"{threshold:g}".replace(".", "") + suffix
            unit, within = crossing(times_of_group, axis.column, more=results.settings)
            named = (
                times_of_group.with_columns(pl.col(axis.column).replace(dict(axis.names)))
                if axis.names
                else times_of_group
            )
            named = named.rename({axis.column: axis.title})
            who = f"{capitalised(name)}, {there}"
            whose = name if axis.column == "model" else f"{name}, by {axis.title}"
            tables.append(survival_table(f"{prefix}-{tag}", named, axis.title, f"{reached} ({whose})"))
            if not named["observed"].any():
                words.append(TimesAnswer(who, none_got_there(named), rates_sentence(named, axis.title), nobody=True))
                continue
            title = f"{capitalised(name)}: reached {there}"
            figures.append(survival_figure(f"{prefix}-{tag}", named, axis.title, title, reached, log_x=True))
            rates = rates_sentence(named, axis.title)
            words.append(TimesAnswer(who, TimesQuestion(named, axis.title, unit, within), rates))
    title = "Time to generalise" if results.measures.generalised else f"Time to reach {shown.symbol_of('valid')}"
    return Section(f"{title}{', ' * bool(by)}{by}", [], figures, tables, TIMES), words


def none_got_there(times: pl.DataFrame) -> str:
    """Sentence in place of a figure of times where no run has one."""
    return f"none of {counted(len(times), 'run')} reached it, so there is no figure of times."


def summary_table(results: Results, settings: Sequence[Axis], name: str, over: str = "seeds") -> Table:
    """Table of the figures per combination of settings, mean ± std over seeds, the best per column and model bold.

    Of loss and accuracy these are ten.
    """
    measures = results.measures
    quantities = quantities_of(measures)
    by = ["model", *(axis.column for axis in settings if axis.column != "model")]
    groups = ten_means(results.extrema, by, measures).sort(by)
    best = {
        (q.column, model): best_value(of_model, q)
        for (model,), of_model in groups.group_by("model")
        for q in quantities
    }
    rows = []
    for row in groups.iter_rows(named=True):
        label = ", ".join([model_label(row["model"]), *(f"{c} {setting_text(row[c])}" for c in by[1:])])
        cells = [cell_of(row, q, best[q.column, row["model"]]) for q in quantities]
        rows.append((f"{label} (N = {row['N']})", cells))
    caption = (
        f"Mean ± population standard deviation over {over}{one_run(groups)}. N: runs. The best of each column is in "
        "bold, for each model whose runs were all trained for as many steps, none where all that compete are equal. "
        f"{competing_note(measures)} {symbols_note(measures)}"
    )
    return Table(name, ["setting", *(q.symbol for q in quantities)], rows, caption, groups)
