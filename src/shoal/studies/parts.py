"""Report sections, figures and tables that several studies share."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from shoal.analysis import time_to
from shoal.errors import UserError
from shoal.measures import EQUATIONS
from shoal.report import Figure, Report, Section, Table
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
    return Report(
        title=form.title(title),
        lead=question,
        answers=[*results.shortcomings(), *answers],
        sections=[*sections, provenance(results.records, f"shoal study run {name}{form.flags()}")],
    )


def curves_figure(results: Results, colour: Axis, name: str, title: str, panels: Sequence[Panel] = CURVES) -> Figure:
    """Figure of L_train, L_val, A_train and A_val against the step, coloured by a setting."""
    n = number_of_runs(results.curves, [colour.column])
    what = (
        "L_train and L_val: loss (nats per scored token, logarithmic); A_train and A_val: accuracy (share of equations"
    )
    caption = (
        f"{title}. {what} answered whole), on the training and on the validation equations, against the training step "
        f"(logarithmic, from step 1), coloured by {colour.label}. "
        + band_note(n, results.curves[colour.column].n_unique())
        + f" {GAP_NOTE}"
        + ("" if end_together(results.curves, [colour.column]) else " Dotted: the mean of the runs that train longer.")
        + "".join(f" {panel.about}." for panel in panels if panel.about)
    )
    return Figure(name, curve_panels(results.curves, colour, title, panels), caption)


def summary_figure(
    results: Results, x: Axis, colour: Axis, name: str, title: str, extrema: pl.DataFrame | None = None
) -> Figure:
    """Figure of the four best values and their steps against a setting."""
    shown = results.extrema if extrema is None else extrema
    n = number_of_runs(shown, list(dict.fromkeys(["model", x.column, colour.column])))
    by = "the model" if colour.names else colour.label
    caption = (
        f"{title}: best loss and accuracy of a run and t_f, the first evaluated step of each, against {x.title}, "
        f"coloured by {by}. {band_note(n)} Points: runs. Loss axes are logarithmic. {TIMES_NOTE} "
        + grid_note(results.specs.values())
    )
    return Figure(name, summary_panels(shown, x, colour, title), caption)


def times_of(results: Results, form: Form, threshold: float, column: str = "valid_accuracy") -> pl.DataFrame:
    """Times at which each run reached a threshold, and stayed as the form asks, with its settings, and ``followed``.

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
    """Sections on the times to generalise, by each setting and threshold; runs that never did are censored.

    Args:
        results: the runs.
        axes: the settings by what to add to the title and the names of figures; ``""`` for nothing.
        form: form of the study, with the thresholds.

    Returns:
        One section per setting; all their log-rank tests are corrected together.
    """
    drafts = {by: _times(results, axis, form, by) for by, axis in axes.items()}
    sentences = iter(
        logrank_sentences([word for _, words in drafts.values() for _, word in words if not isinstance(word, str)])
    )
    sections = []
    for section, words in drafts.values():
        paragraphs = [f"{who}: {word if isinstance(word, str) else next(sentences)}" for who, word in words]
        sections.append(replace(section, paragraphs=paragraphs))
    return sections


def _times(results: Results, axis: Axis, form: Form, by: str) -> tuple[Section, list[tuple[str, str | TimesQuestion]]]:
    """Section without its sentences; and for each sentence its subject, with its text or the question to answer."""
    figures, tables = [], []
    words: list[tuple[str, str | TimesQuestion]] = []
    prefix = "-".join(["times", *by.split()])
    stopped = results.runs["stop_after_generalizing"].is_not_null().any()
    for threshold in form.thresholds:
        if stopped and (threshold > GENERALISED or form.stay > 1):
            note = (
                f"cannot be told, because runs end some steps after A_val ≥ {GENERALISED} "
                "(stop_after_generalizing), so that the soonest are seen for the shortest."
            )
            words.append((f"A_val ≥ {threshold:g}{form.stayed}", note))
            continue
        reached = f"validation accuracy {threshold:g}{form.stayed}"
        times = times_of(results, form, threshold)
        by_model = [(model, times.filter(model=model)) for model in results.models]
        groups = (
            [("", "both models", times)]
            if axis.names
            else [(f"-{m}", MODELS[m], times_of_group) for m, times_of_group in by_model]
        )
        for suffix, name, times_of_group in groups:
            tag = f"{threshold:g}".replace(".", "") + suffix
            unit, within = crossing(times_of_group, axis.column)
            named = (
                times_of_group.with_columns(pl.col(axis.column).replace(dict(axis.names)))
                if axis.names
                else times_of_group
            )
            named = named.rename({axis.column: axis.title})
            who = f"{capitalised(name)}, A_val ≥ {threshold:g}{form.stayed}"
            tables.append(survival_table(f"{prefix}-{tag}", named, axis.title, f"{reached} ({name})"))
            if not named["observed"].any():
                words.append((who, none_got_there(named)))
                continue
            title = f"{capitalised(name)}: reached A_val ≥ {threshold:g}{form.stayed}"
            figures.append(survival_figure(f"{prefix}-{tag}", named, axis.title, title, reached, log_x=True))
            words.append((who, TimesQuestion(named, axis.title, unit, within)))
    return Section(f"Time to generalise{', ' * bool(by)}{by}", [], figures, tables), words


def none_got_there(times: pl.DataFrame) -> str:
    """Sentence in place of a figure of times where no run has one."""
    return f"none of {counted(len(times), 'run')} got there, so that there is no figure of when."


def summary_table(results: Results, settings: Sequence[Axis], name: str) -> Table:
    """Table of ten figures per combination of settings, mean ± std over seeds, the best per column and model bold."""
    by = ["model", *(axis.column for axis in settings if axis.column != "model")]
    groups = ten_means(results.extrema, by).sort(by)
    best = {
        (q.column, model): best_value(of_model, q)
        for (model,), of_model in groups.group_by("model")
        for q in QUANTITIES
    }
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
