"""A report of a fitted scaling law."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from shoal.analysis.bootstrap import LEVEL
from shoal.analysis.scaling import Estimate, ScalingFit
from shoal.report import scaling_figures as figures
from shoal.report.page import Report, Section
from shoal.report.table import Cell, Table

_SYMBOLS = {"alpha": "α", "beta": "β"}
_BEYOND = 1000.0  # times the largest compute of the runs, up to which budgets are shown
_MOST_BUDGETS = 9
_FORM = "L(N, D) = E + A N^(−α) + B D^(−β)"


def report_scaling(fit: ScalingFit, source: Mapping[str, Any], budgets: Sequence[float] | None = None) -> Report:
    """Everything there is to say about a fit.

    Args:
        fit: the fit.
        source: ``command``, ``file``, ``sha256``, ``columns``, ``notes``, ``resamples``, ``seed``, ``seconds`` and
            ``versions``: where the numbers come from.
        budgets: of the table of best use, in floating-point operations; powers of ten when not given.
    """
    budgets = sorted(budgets) if budgets else default_budgets(fit.runs["flop"])
    largest = float(fit.runs["flop"].to_numpy().max())
    resamples = source["resamples"]
    extrapolation = figures.held_out(fit)
    law = fit.chosen.law
    outliers = int(fit.runs["outlier"].sum())
    lead = (
        f"{_FORM}, fitted to {fit.chosen.runs} of {len(fit.runs)} runs of {source['file']}: E = {short(law.E)}, "
        f"A = {short(law.A)}, B = {short(law.B)}, α = {short(law.alpha)}, β = {short(law.beta)}; the best number of "
        f"parameters grows as C^{short(law.a)}."
    )
    best_use = figures.best_use(fit, budgets, resamples)
    no_best = "The law names no best use of a budget: the loss does not fall with both parameters and tokens."
    warnings = [f"Warning: {warning}." for warning in fit.warnings]
    sections = [
        Section("The law", warnings, tables=[estimates_table(fit, resamples)]),
        Section("Fit", figures=[figures.loss_against_parameters(fit), figures.residuals(fit)]),
        Section(
            "Best use of a budget",
            [] if best_use else [no_best],
            figures=[best_use] if best_use else [],
            tables=[optimum_table(fit.chosen, budgets, largest, resamples)],
        ),
    ]
    if fit.held_out is not None and extrapolation is not None:
        sections.append(Section("Held-out error", figures=[extrapolation], tables=[held_out_table(fit)]))
    if outliers:
        sections.append(Section("Outliers", tables=[outlier_table(fit)]))
    return Report("Scaling law", lead, [*sections, _provenance(fit, source)])


def default_budgets(flop: pl.Series) -> list[float]:
    """Powers of ten from the smallest compute of the runs to a thousand times the largest."""
    first, last = math.ceil(math.log10(flop.to_numpy().min())), math.floor(math.log10(flop.to_numpy().max() * _BEYOND))
    step = math.ceil((last - first + 1) / _MOST_BUDGETS)
    return [10.0**power for power in range(first, last + 1, step)]


def estimates_table(fit: ScalingFit, resamples: int) -> Table:
    """The parameters with their intervals, from all runs and without the outliers."""
    shown: dict[str, Estimate] = {f"all {fit.every.runs} runs": fit.every}
    if fit.without is not None:
        shown[f"without outliers, {fit.without.runs} runs"] = fit.without
    frames = {label: estimate.estimates() for label, estimate in shown.items()}
    rows = []
    for place, name in enumerate(fit.every.estimates()["quantity"]):
        cells = []
        for frame in frames.values():
            row = frame.row(place, named=True)
            cells += [Cell(short(row["estimate"])), Cell(_range(row["low"], row["high"]))]
        rows.append((_SYMBOLS.get(name, name), cells))
    objectives = [[Cell(f"{estimate.objective:.6f}"), Cell("")] for estimate in shown.values()]
    rows.append(("objective", [cell for pair in objectives for cell in pair]))
    header = ["", *(text for label in shown for text in (label, f"{LEVEL:.0%} interval"))]
    concluded = (
        ""
        if fit.without is None
        else (
            " Which runs are outliers is held fixed over the resamples, so the intervals without them are rather too "
            f"narrow. Figures and budgets are by the law of the {fit.chosen.runs} runs."
        )
    )
    caption = (
        f"{_FORM}: N parameters, D training tokens, L loss. a = β/(α+β) and b = α/(α+β): the best N grows as C^a, the "
        f"best D as C^b, with C = 6 N D. Intervals: percentile bootstrap, {resamples:,} resamples of the runs. "
        f"Objective: the sum of the Huber losses (delta 0.001) of the log residuals.{concluded}"
    )
    data = pl.concat(frame.with_columns(fitted_to=pl.lit(label)) for label, frame in frames.items())
    return Table("estimates", header, rows, caption, data)


def optimum_table(estimate: Estimate, budgets: Sequence[float], largest: float, resamples: int) -> Table:
    """The best parameters and tokens for budgets."""
    rows = []
    for row in estimate.optimum(list(budgets)).iter_rows(named=True):
        beyond = row["flop"] / largest
        cells = [
            short(row["parameters"]),
            _range(row["parameters_low"], row["parameters_high"]),
            short(row["tokens"]),
            _range(row["tokens_low"], row["tokens_high"]),
            short(row["tokens"] / row["parameters"] if row["parameters"] else math.nan),
            short(row["loss"]),
            "" if beyond <= 1 else f"{beyond:,.3g}×",
        ]
        rows.append((short(row["flop"]), [Cell(text) for text in cells]))
    header = ["C (FLOP)", "N", f"N, {LEVEL:.0%}", "D", f"D, {LEVEL:.0%}", "D / N", "L", "beyond the runs"]
    caption = (
        f"The parameters N and tokens D of the smallest loss L for a budget C = 6 N D, by the law fitted to "
        f"{estimate.runs} runs; {LEVEL:.0%}: percentile interval over {resamples:,} bootstrap resamples; beyond the "
        "runs: how many times the largest compute of the runs the budget is."
    )
    data = estimate.optimum(list(budgets)).with_columns((pl.col("flop") / largest).alias("beyond"))
    return Table("best-use", header, rows, caption, data)


def held_out_table(fit: ScalingFit) -> Table:
    """Root mean square errors inside and beyond the fitted compute."""
    held_out = fit.held_out
    assert held_out is not None
    names = held_out.errors["predictor"].to_list()
    rows = []
    for column, label in (
        ("fitted", f"{held_out.fitted} runs fitted"),
        ("held_out", f"{held_out.held_out} runs held out"),
    ):
        values = held_out.errors[column].to_list()
        rows.append((label, [Cell(f"{value:.4f}", value == min(values)) for value in values]))
    caption = (
        f"Root mean square error of log loss. Each predictor was fitted to the runs of at most "
        f"{short(held_out.flop)} FLOP and predicts those of more: {_FORM}; a power law of loss in compute; the mean of "
        "log loss. The best of each row in bold."
    )
    return Table("held-out", ["", *names], rows, caption, held_out.errors)


def outlier_table(fit: ScalingFit) -> Table:
    """The runs that the law of the others does not describe."""
    rows = []
    for row in fit.runs.filter("outlier").iter_rows(named=True):
        cells = [short(row[name]) for name in ("parameters", "tokens", "flop", "loss", "predicted")]
        cells.append(f"{row['score']:+.1f}".replace("-", "−"))
        rows.append((str(row["row"]), [Cell(text) for text in cells]))
    caption = (
        "Runs that the law of the others does not describe. Row: counted from 1 below the header of the file. "
        f"Predicted: by the law of {fit.chosen.runs} runs. Score: log residual under the law of the others, less the "
        "median, over 1.4826 times the median absolute deviation; an outlier is beyond ±5. The law is fitted again "
        "without outliers and all runs are judged again until nothing changes, because outliers hide each other."
    )
    return Table(
        "outliers", ["row", "N", "D", "C (FLOP)", "L", "predicted", "score"], rows, caption, fit.runs.filter("outlier")
    )


def numbers(fit: ScalingFit) -> dict[str, Any]:
    """The numbers of the fit as plain values for a JSON file; what is not finite is null."""

    def of(estimate: Estimate | None) -> dict[str, Any] | None:
        if estimate is None:
            return None
        rows = {row.pop("quantity"): row for row in estimate.estimates().to_dicts()}
        finite = {name: {key: _finite(value) for key, value in row.items()} for name, row in rows.items()}
        return {"runs": estimate.runs, "objective": estimate.objective, "estimates": finite}

    errors = None if fit.held_out is None else fit.held_out.errors.to_dicts()
    return {
        "all_runs": of(fit.every),
        "without_outliers": of(fit.without),
        "outliers_dropped": fit.dropped,
        "outlier_rows": fit.runs.filter("outlier")["row"].to_list(),
        "held_out": errors,
        "warnings": list(fit.warnings),
    }


def short(value: float | np.ndarray[Any, Any]) -> str:
    """Four digits, with an exponent where the number is large or small.

    >>> short(0.34789), short(406.43), short(1.2345e9), short(1e20), short(float("nan"))
    ('0.3479', '406.4', '1.234e9', '1e20', '–')
    """
    number = float(value)
    if math.isnan(number):
        return "–"
    if math.isinf(number):
        return "∞"
    text = f"{number:.4g}" if number == 0 or 1e-3 <= abs(number) < 1e5 else f"{number:.3e}"
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}" if exponent else mantissa


def _range(low: float, high: float) -> str:
    return "–" if math.isnan(low) or math.isnan(high) else f"{short(low)} to {short(high)}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _provenance(fit: ScalingFit, source: Mapping[str, Any]) -> Section:
    versions = ", ".join(f"{name} {number}" for name, number in source["versions"].items())
    columns = ", ".join(f"{what} from {name!r}" for what, name in source["columns"].items())
    paragraphs = [
        f"Made by: {source['command']}",
        f"Data: {source['file']}, SHA-256 {source['sha256']}; {len(fit.runs)} runs; {columns}.",
        *(f"{note}." for note in source["notes"]),
        "Method: the Huber loss (delta 0.001) of the log residuals, minimised by L-BFGS-B from the likeliest of 36 "
        f"starts; bootstrap with seed {source['seed']}, each resample searched from the estimate; "
        f"{source['seconds']:,.1f} seconds. Source: Hoffmann et al. 2022, Training Compute-Optimal Large Language "
        "Models, approach 3.",
        f"{versions}.",
    ]
    return Section("How this was made", paragraphs)
