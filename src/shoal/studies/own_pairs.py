"""Values of a setting beside one of them, paired by what else the runs share: seeds and other settings.

A pair agrees in its seeds and in every other setting that varies. Several pairs of one seed, at several values of these
settings, share what the seed decides: their differences are averaged, so that each seed counts once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from shoal.analysis import Metric, compare
from shoal.analysis.correction import holm
from shoal.registry import USUAL, short
from shoal.report import Section
from shoal.report.by import value_name
from shoal.report.comparison import comparison_figure, comparison_notes, comparison_sentence, comparison_table
from shoal.report.each_run import model_label
from shoal.report.panels import Axis
from shoal.report.words import listed
from shoal.spec import RunSpec
from shoal.spec.identity import defaults
from shoal.studies.answers import with_logs
from shoal.studies.crossing import SEED_AXES, crossing
from shoal.studies.parts import GENERALISED, Waited, times_of
from shoal.studies.results import Results

MOST_VALUES = 6  # numbers that are each compared with the first


@dataclass(frozen=True)
class Pairing:
    """The values of a setting beside its baseline, of the runs of one model or of all.

    Attributes:
        axis: the setting.
        who: the runs, in words.
        key: part of the names of figures and tables, and of the metrics.
        baseline: the value with which the others are compared, as a name.
        pairs: what the runs of a pair share, in words.
        left_out: a sentence on values that are not compared, empty where all are.
        comparison: as from :func:`shoal.analysis.compare`, its metrics with the key before them.
    """

    axis: Axis
    who: str
    key: str
    baseline: str
    pairs: str
    left_out: str
    comparison: pl.DataFrame


def paired(
    axes: Sequence[tuple[Axis, Results]], asked: Sequence[tuple[str, str, bool]], form: Waited
) -> tuple[list[Pairing], pl.DataFrame]:
    """Every axis but seeds: of names, and of up to six numbers, each value beside the baseline.

    Of more numbers it is the largest beside the smallest: each further comparison makes all p values larger.

    Args:
        axes: settings, with the runs of each.
        asked: best values to compare: column, symbol, and whether small is good.
        form: thresholds; times to reach them are compared, too.

    Returns:
        What shares seeds; and all of it in one frame, p values corrected for their number (Holm).
    """
    pairings = []
    for axis, results in axes:
        if axis.column in SEED_AXES or axis.column == "parameters":
            continue
        frame, metrics = _measured(results, asked, form)
        models = [None] if axis.column == "model" or len(results.models) == 1 else results.models
        for model in models:
            runs = frame if model is None else frame.filter(model=model)
            if (one := _pairing(results, runs, axis, model, metrics)) is not None:
                pairings.append(one)
    if not pairings:
        return [], pl.DataFrame()
    every = pl.concat([one.comparison for one in pairings], how="vertical_relaxed")
    every = every.with_columns(pl.Series("p_holm", holm(every["p"].to_list()), dtype=pl.Float64))
    return pairings, every


def pairs_section(pairing: Pairing, every: pl.DataFrame, labels: Mapping[str, str]) -> tuple[str, Section]:
    """A sentence, and a section with the share of pairs in which each value is better, and the table of differences.

    Args:
        pairing: what is compared.
        every: all that the page compares.
        labels: of the metrics, by column.
    """
    metrics = {f"{pairing.key}:{column}": label for column, label in labels.items()}
    base = pairing.baseline
    title = f"Beside {base}, {pairing.who}"
    shown = every.filter(pl.col("metric").is_in(list(metrics)))
    figure = comparison_figure(
        f"pairs-{pairing.key}", every, title, base, "superiority", metrics, f"one for each {pairing.pairs}"
    )
    table = comparison_table(f"pairs-{pairing.key}", every, base, metrics, f"runs of the same {pairing.pairs}")
    sentence = comparison_sentence(every, base, metrics, pairing.pairs)
    about = "differences between runs that agree in all else, with intervals and tests."
    notes = [*[pairing.left_out] * bool(pairing.left_out), *comparison_notes(shown, metrics)]
    return f"{pairing.who}, {sentence}{pairing.left_out and ' '}{pairing.left_out}", Section(
        title, notes, [figure], [table], about
    )


def metric_labels(results: Results, asked: Sequence[tuple[str, str, bool]], form: Waited) -> dict[str, str]:
    """Labels of the compared metrics by column: the best values, and times to the thresholds."""
    shown = results.measures.shown
    there = f"{shown.symbol_of('valid')} {shown.side}"
    times = {_time(at): f"time to {there} {at:g}{form.stayed}" for at in _thresholds(results, form)}
    return {column: symbol for column, symbol, _ in asked} | times


def _thresholds(results: Results, form: Waited) -> list[float]:
    """Those to which every run is followed; a run that ends after generalising is not followed beyond that."""
    if not results.runs["stop_after_generalizing"].is_not_null().any():
        return list(form.thresholds)
    return [] if form.stay > 1 else [at for at in form.thresholds if at <= GENERALISED]


def _time(threshold: float) -> str:
    return f"time_{threshold:g}"


def _measured(
    results: Results, asked: Sequence[tuple[str, str, bool]], form: Waited
) -> tuple[pl.DataFrame, list[Metric]]:
    """Frame of the compared metrics, one row per evaluated run, and these metrics."""
    states = results.runs.select("run", "state")
    frame = with_logs(results.extrema).join(states, on="run", how="left", maintain_order="left")
    metrics = [Metric(column, larger_is_better=not small) for column, _, small in asked]
    for threshold in _thresholds(results, form):
        name = _time(threshold)
        times = times_of(results, form, threshold).select(
            "run", pl.col("time").alias(name), pl.col("observed").alias(f"{name}_observed")
        )
        frame = frame.join(times, on="run", how="left", maintain_order="left")
        metrics.append(Metric(name, larger_is_better=False, observed=f"{name}_observed"))
    return frame, metrics


def _pairing(
    results: Results, frame: pl.DataFrame, axis: Axis, model: str | None, metrics: Sequence[Metric]
) -> Pairing | None:
    """The comparison of one axis; None where no two of its runs share a seed and all other settings."""
    unit, within = crossing(frame, axis.column, more=results.settings)
    values = [key for key, _ in axis.names] if axis.names else sorted(frame[axis.column].unique().to_list())
    values = [value for value in values if value in frame[axis.column]]
    if len(values) < 2:
        return None
    left_out = ""
    if not axis.names and len(values) > MOST_VALUES:
        left_out = (
            f"Of {len(values)} values of {axis.title} the largest is compared with the smallest alone: a comparison of "
            f"each of the {len(values) - 2} between would make every corrected p larger. Trends and figures are of all."
        )
        values = [values[0], values[-1]]
    baseline = _baseline(next(iter(results.specs.values())), axis, values)
    names = dict(axis.names) or {value: value_name(axis.column, value) for value in values}
    if axis.column != "model":  # whose names say what they are
        names = {value: f"{axis.title} {name}" for value, name in names.items()}
    order = {value: place for place, value in enumerate(values)}
    runs = (
        frame.filter(pl.col(axis.column).is_in(values))
        .sort(pl.col(axis.column).replace_strict(order, return_dtype=pl.Int64), maintain_order=True)
        .with_columns(
            pl.concat_str([pl.col(name).cast(pl.String).fill_null("none") for name in unit], separator=" ").alias(
                "_unit"
            ),
            pl.col(axis.column).replace_strict(names, return_dtype=pl.String).alias("_value"),
        )
    )
    settings = [pl.concat_str(pl.lit(f", {name} "), pl.col(name).cast(pl.String).fill_null("none")) for name in within]
    runs = runs.with_columns(pl.concat_str("_unit", *settings).alias("_pair"))
    if runs.select("_value", "_pair").is_duplicated().any():  # as of an outside part in two versions
        return None
    # of times that nobody has every pair is a tie, which would only weaken the other tests
    metrics = [metric for metric in metrics if metric.observed is None or runs[metric.observed].any()]
    comparison = compare(runs, metrics, "_value", names[baseline], "_pair", unit="_unit" if within else None)
    if not comparison["n"].sum():
        return None
    key = "-".join([axis.column, *([] if model is None else [short(model)])])
    pairs = listed(unit) + (f" and {listed(within)}, averaged over {listed(within)}" if within else "")
    who = model_label(model or results.models[0]) if model or len(results.models) == 1 else "All models"
    comparison = comparison.with_columns(pl.concat_str(pl.lit(f"{key}:"), "metric").alias("metric"))
    return Pairing(axis, who, key, names[baseline], pairs, left_out, comparison)


def _baseline(spec: RunSpec, axis: Axis, values: Sequence[Any]) -> Any:
    """The value that holds where none is given, if it is one of them; else the first."""
    if not axis.names:
        return values[0]
    usual, _ = defaults(spec.task, spec.model, spec.optimizer)
    name = axis.column
    usual_value = USUAL[name] if name in USUAL else value_name(name, usual.get(name)) if name in usual else None
    return usual_value if usual_value in values else values[0]
