"""Sections that several studies share."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from shoal.analysis import time_to
from shoal.errors import UserError
from shoal.measures import EQUATIONS
from shoal.report import Figure, Report, Section, Table
from shoal.report.figures import STEPS_NOTE
from shoal.report.gaps import GAP_NOTE
from shoal.report.log_rank import TimesQuestion, logrank_sentences
from shoal.report.means import end_together
from shoal.report.panels import CURVES, MODELS, TIMES_NOTE, Axis, band_note, curve_panels, summary_panels
from shoal.report.quantities import COMPETING, QUANTITIES, SYMBOLS, Panel
from shoal.report.schedule import grid_note
from shoal.report.summary import best_value, cell_of, one_run, provenance, ten_means
from shoal.report.survival import survival_figure, survival_table
from shoal.report.words import capitalised, counted
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
    "the share of runs that has generalised by each step, runs that never did included; a curve that rises further to "
    "the left is of sooner runs. The log-rank test asks whether the curves differ by more than chance."
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
    """A study's report: its answers first, what is missing before them, then its sections and how it was made."""
    asked = f" Source: the practical, problem 4, {PRACTICAL_QUESTIONS[name]}." if name in PRACTICAL_QUESTIONS else ""
    return Report(
        title=form.title(title),
        lead=f"{question}{asked}",
        answers=[*results.shortcomings(), *answers],
        sections=[*sections, provenance(results.records, f"shoal study run {name}{form.flags()}")],
    )


def curves_figure(results: Results, colour: Axis, name: str, title: str, panels: Sequence[Panel] = CURVES) -> Figure:
    """L_train, L_val, A_train and A_val against the step, coloured by a setting."""
    n = number_of_runs(results.curves, [colour.column])
    caption = (
        f"{title}, coloured by {colour.label}. L_train and L_val: loss on the training and on the validation "
        "equations (nats per scored token, logarithmic). A_train and A_val: accuracy on the same equations (share of "
        f"them answered whole). {STEPS_NOTE} "
        + band_note(n, results.curves[colour.column].n_unique())
        + f" {GAP_NOTE}"
        + (
            ""
            if end_together(results.curves, [colour.column])
            else " Dotted: the mean of the runs that go on after others have ended."
        )
        + "".join(f" {panel.about}." for panel in panels if panel.about)
    )
    return Figure(name, curve_panels(results.curves, colour, title, panels), caption)


def summary_figure(
    results: Results, x: Axis, colour: Axis, name: str, title: str, extrema: pl.DataFrame | None = None
) -> Figure:
    """The four best values and the steps of each against a setting."""
    shown = results.extrema if extrema is None else extrema
    n = number_of_runs(shown, list(dict.fromkeys(["model", x.column, colour.column])))
    by = "the model" if colour.names else colour.label
    caption = (
        f"{title}: best values against {x.title}, coloured by {by}. Best values: the smallest loss and the largest "
        f"accuracy of a run, and t_f, the first evaluated step of each. {band_note(n)} {POINTS_NOTE} {TIMES_NOTE} "
        + grid_note(results.specs.values())
    )
    return Figure(name, summary_panels(shown, x, colour, title), caption)


def times_of(results: Results, form: Form, threshold: float, column: str = "valid_accuracy") -> pl.DataFrame:
    """When each run reached a threshold, and stayed there as the form asks, beside its settings, and ``followed``.

    Raises:
        UserError: runs that end some steps after generalising are asked to stay, which they cannot show.
    """
    if form.stay > 1 and results.runs["stop_after_generalizing"].is_not_null().any():
        raise UserError(
            f"--stay {form.stay} cannot be told of runs that end some steps after A_val ≥ {GENERALISED} "
            "(stop_after_generalizing); take --stay 1"
        )
    states = results.runs.select("run", "state", "step")
    times = time_to(results.curves, column, threshold, states=states, stay=form.stay)
    for more in (results.runs.select(pl.exclude("state", "step")), results.followed):
        times = times.join(more, on="run", how="left", maintain_order="left")
    return times


def times_sections(results: Results, axes: Mapping[str, Axis], form: Form) -> list[Section]:
    """When runs generalised, by each setting and for each threshold: those that never did are censored, not dropped.

    Args:
        results: the runs.
        axes: the settings by what to add to the title and the names of figures; ``""`` for nothing.
        form: with the thresholds.

    Returns:
        A section for each setting; all their log-rank tests are corrected together.
    """
    drafts = {by: _times(results, axis, form, by) for by, axis in axes.items()}
    told = iter(
        logrank_sentences([word for _, words in drafts.values() for _, word in words if not isinstance(word, str)])
    )
    sections = []
    for section, words in drafts.values():
        paragraphs = [f"{who}: {word if isinstance(word, str) else next(told)}" for who, word in words]
        sections.append(replace(section, paragraphs=paragraphs))
    return sections


def _times(results: Results, axis: Axis, form: Form, by: str) -> tuple[Section, list[tuple[str, str | TimesQuestion]]]:
    """A section without its sentences; and of whom each is, with the sentence or what it has to answer."""
    figures, tables = [], []
    words: list[tuple[str, str | TimesQuestion]] = []
    prefix = "-".join(["times", *by.split()])
    stopped = results.runs["stop_after_generalizing"].is_not_null().any()
    for threshold in form.thresholds:
        if stopped and (threshold > GENERALISED or form.stay > 1):
            told = (
                f"cannot be told, because runs end some steps after A_val ≥ {GENERALISED} "
                "(stop_after_generalizing), so that the soonest are seen for the shortest."
            )
            words.append((f"A_val ≥ {threshold:g}{form.stayed}", told))
            continue
        reached = f"validation accuracy {threshold:g}{form.stayed}"
        times = times_of(results, form, threshold)
        by_model = [(model, times.filter(model=model)) for model in results.models]
        groups = [("", "both models", times)] if axis.names else [(f"-{m}", MODELS[m], own) for m, own in by_model]
        for suffix, name, own in groups:
            tag = f"{threshold:g}".replace(".", "") + suffix
            unit, within = crossing(own, axis.column)
            named = own.with_columns(pl.col(axis.column).replace(dict(axis.names))) if axis.names else own
            named = named.rename({axis.column: axis.title})
            who = f"{capitalised(name)}, A_val ≥ {threshold:g}{form.stayed}"
            whose = name if axis.names else f"{name}, by {axis.title}"
            tables.append(survival_table(f"{prefix}-{tag}", named, axis.title, f"{reached} ({whose})"))
            if not named["observed"].any():
                words.append((who, none_got_there(named)))
                continue
            title = f"{capitalised(name)}: reached A_val ≥ {threshold:g}{form.stayed}"
            figures.append(survival_figure(f"{prefix}-{tag}", named, axis.title, title, reached, log_x=True))
            words.append((who, TimesQuestion(named, axis.title, unit, within)))
    return Section(f"Time to generalise{', ' * bool(by)}{by}", [], figures, tables, TIMES), words


def none_got_there(times: pl.DataFrame) -> str:
    """What stands instead of a figure of times that nobody has."""
    return f"none of {counted(len(times), 'run')} got there, so that there is no figure of when."


def summary_table(results: Results, settings: Sequence[Axis], name: str) -> Table:
    """Ten figures per combination of settings, mean ± std over seeds, the best of each column and model in bold."""
    by = ["model", *(axis.column for axis in settings if axis.column != "model")]
    groups = ten_means(results.extrema, by).sort(by)
    best = {(q.column, model): best_value(own, q) for (model,), own in groups.group_by("model") for q in QUANTITIES}
    rows = []
    for row in groups.iter_rows(named=True):
        label = ", ".join([MODELS[row["model"]], *(f"{c} {row[c]:g}" for c in by[1:])])
        cells = [cell_of(row, q, best[q.column, row["model"]]) for q in QUANTITIES]
        rows.append((f"{label} (N = {row['N']})", cells))
    caption = (
        f"Mean ± population standard deviation over seeds{one_run(groups)}; N: runs; the best of each column in bold, "
        "for each model whose runs were all trained for as many steps, none where all that compete are equal. "
        f"{COMPETING} {SYMBOLS}"
    )
    return Table(name, ["setting", *(q.symbol for q in QUANTITIES)], rows, caption, groups)
