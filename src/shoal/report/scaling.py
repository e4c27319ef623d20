"""A report of a fitted scaling law."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from shoal.analysis.bootstrap import LEVEL
from shoal.analysis.held_out import LAW
from shoal.analysis.law_estimate import Estimate
from shoal.analysis.scaling import ScalingFit
from shoal.analysis.scaling_law import FLOP_PER_PARAMETER_AND_TOKEN, LawForm
from shoal.report import scaling_figures as figures
from shoal.report.page import Report, Section
from shoal.report.table import Cell, Table
from shoal.report.words import counted

_SYMBOLS = {"alpha": "α", "beta": "β"}
_BEYOND = 1000.0  # times the largest compute of the runs, up to which budgets are shown
_MOST_BUDGETS = 9
_NARROW = (
    " Which runs are outliers is held fixed over the resamples, so the intervals without them are rather too narrow."
)
_FORM = "L(N, D) = E + A N^(−α) + B D^(−β)"


def report_scaling(
    fit: ScalingFit,
    source: Mapping[str, Any],
    budgets: Sequence[float] | None = None,
    models: Sequence[tuple[float, float]] = (),
) -> Report:
    """Report of a fitted scaling law.

    Args:
        fit: the fit.
        source: ``command``, ``file``, ``sha256``, ``columns``, ``notes``, ``left_out``, ``doubts``, ``resamples``,
            ``seed``, ``seconds`` and ``versions``: the provenance of the numbers.
        budgets: of the table of best use, in floating-point operations; powers of ten when not given.
        models: parameters and tokens of models whose loss is to be predicted.
    """
    budgets = sorted(budgets) if budgets else default_budgets(fit.runs["flop"])
    largest = float(fit.runs["flop"].to_numpy().max())
    resamples = source["resamples"]
    extrapolation = figures.held_out(fit)
    law = fit.chosen.law
    outliers = int(fit.runs["outlier"].sum())
    lead = (
        f"{_form(fit)}, fitted to {fit.chosen.runs} of {len(fit.runs)} runs of {source['file']}: E = {short(law.E)}, "
        f"A = {short(law.A)}, B = {short(law.B)}, α = {short(law.alpha)}, β = {short(law.beta)}; the best number of "
        f"parameters grows as C^{short(law.a)}."
    )
    best_use = figures.best_use(fit, budgets, resamples)
    no_best = "The law names no best use of a budget: the loss does not fall with both parameters and tokens."
    warnings = [f"Warning: {warning}." for warning in (*source["doubts"], *fit.warnings)]
    remarks = [*(f"{sentence}." for sentence in source["left_out"]), *warnings]
    sections = [
        Section(
            "The law",
            remarks,
            tables=[estimates_table(fit, resamples)],
            about=f"the parameters of the law{', with intervals' if resamples else ''}.",
        ),
        Section(
            "Fit",
            figures=[figures.loss_against_parameters(fit), figures.residuals(fit)],
            about="how closely the law follows the runs; what it leaves should scatter without a pattern.",
        ),
        Section(
            "Best use of a budget",
            [] if best_use else [no_best],
            figures=[best_use] if best_use else [],
            tables=[optimum_table(fit.chosen, budgets, largest, resamples)],
            about="how many parameters and tokens a budget of compute is best divided into.",
        ),
    ]
    if models:
        beyond = [f"Warning: {warning}." for warning in extrapolation_warnings(fit, models)]
        sections.append(Section("Predicted loss", beyond, tables=[prediction_table(fit, models, resamples)]))
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
    held = _held(fit.form)
    symbols = _SYMBOLS | ({"alpha": "α = β"} if fit.form.tied else {})
    for place, name in enumerate(fit.every.estimates()["quantity"]):
        if fit.form.tied and name == "beta":
            continue
        cells = []
        for frame in frames.values():
            row = frame.row(place, named=True)
            interval = [Cell(held.get(name) or _range(row["low"], row["high"]))] if resamples else []
            cells += [Cell(short(row["estimate"])), *interval]
        rows.append((symbols.get(name, name), cells))
    without_interval = [Cell("")] if resamples else []
    objectives = [[Cell(f"{estimate.objective:.6f}"), *without_interval] for estimate in shown.values()]
    rows.append(("objective", [cell for pair in objectives for cell in pair]))
    header = ["", *(text for label in shown for text in (label, *([f"{LEVEL:.0%} interval"] if resamples else [])))]
    concluded = (
        ""
        if fit.without is None
        else (f"{_NARROW if resamples else ''} Figures and budgets are by the law of the {fit.chosen.runs} runs.")
    )
    intervals = f"Intervals: percentile bootstrap, {resamples:,} resamples of {_drawn(fit)}. " if resamples else ""
    caption = (
        f"{_form(fit)}: N parameters, D training tokens, L loss. a = β/(α+β) and b = α/(α+β): the best N grows as C^a, "
        f"the best D as C^b, with C = 6 N D. {intervals}"
        f"Objective: the sum of the Huber losses (delta {fit.form.delta:g}) of the log residuals.{concluded}"
    )
    data = pl.concat(frame.with_columns(fitted_to=pl.lit(label)) for label, frame in frames.items())
    return Table("estimates", header, rows, caption, data)


def optimum_table(estimate: Estimate, budgets: Sequence[float], largest: float, resamples: int) -> Table:
    """The best parameters and tokens for budgets."""
    rows = []
    for row in estimate.optimum(list(budgets)).iter_rows(named=True):
        beyond = row["flop"] / largest
        cells = [
            *_with_range(row, "parameters", resamples),
            *_with_range(row, "tokens", resamples),
            short(row["tokens"] / row["parameters"] if row["parameters"] else math.nan),
            short(row["loss"]),
            "" if beyond <= 1 else f"{beyond:,.3g}×",
        ]
        rows.append((short(row["flop"]), [Cell(text) for text in cells]))
    ends = [[name, f"{name}, {LEVEL:.0%}"] if resamples else [name] for name in ("N", "D")]
    header = ["C (FLOP)", *ends[0], *ends[1], "D / N", "L", "beyond the runs"]
    intervals = f"; {LEVEL:.0%}: percentile interval over {resamples:,} bootstrap resamples" if resamples else ""
    caption = (
        f"The parameters N and tokens D of the smallest loss L for a budget C = 6 N D, by the law fitted to "
        f"{estimate.runs} runs{intervals}; beyond the runs: how many times the largest compute of the runs the budget "
        "is."
    )
    data = estimate.optimum(list(budgets)).with_columns((pl.col("flop") / largest).alias("beyond"))
    return Table("best-use", header, rows, caption, data)


def prediction_table(fit: ScalingFit, models: Sequence[tuple[float, float]], resamples: int) -> Table:
    """The loss of models that were asked for, with the interval of the law and that of a run."""
    rows, predicted = [], fit.chosen.predict(models)
    for row in predicted.iter_rows(named=True):
        N, D = row["parameters"], row["tokens"]
        cells = [
            short(D),
            short(FLOP_PER_PARAMETER_AND_TOKEN * N * D),
            short(row["loss"]),
            *([_range(row["low"], row["high"]), _range(row["run_low"], row["run_high"])] if resamples else []),
            ", ".join(f"{name} {factor:,.3g}×" for name, factor in fit.extrapolation(N, D).items()),
        ]
        rows.append((short(N), [Cell(text) for text in cells]))
    ends = [f"law, {LEVEL:.0%}", f"one run, {LEVEL:.0%}"] if resamples else []
    header = ["N", "D", "C (FLOP)", "L", *ends, "outside the runs"]
    error = "" if fit.held_out is None else f" ({fit.held_out.error(LAW):.1%} on the runs held out)"
    intervals = (
        ", with an interval that covers the law's own value there, uncertain because its parameters are, and a wider "
        f"one that covers the loss of one more run. The first is the percentile interval over {resamples:,} bootstrap "
        "resamples; the second adds the log residuals of the fitted runs, enlarged for the parameters fitted and taken "
        "to spread alike everywhere. Both take the form of the law for granted: they do not hold the error that it "
        f"makes beyond the runs{error}"
    )
    caption = (
        f"Loss L of N parameters and D tokens by the law fitted to {fit.chosen.runs} runs"
        f"{intervals if resamples else ''}. Outside the runs: the multiple of the largest (above 1) or smallest "
        "(below 1) value of the runs."
    )
    flop = (FLOP_PER_PARAMETER_AND_TOKEN * pl.col("parameters") * pl.col("tokens")).alias("flop")
    return Table("predicted-loss", header, rows, caption, predicted.with_columns(flop))


def extrapolation_warnings(fit: ScalingFit, models: Sequence[tuple[float, float]]) -> list[str]:
    """Warning for each model larger or smaller than the runs in parameters or tokens, with the factors."""
    out = []
    for N, D in models:
        factors = fit.extrapolation(N, D)
        if factors:
            texts = [f"{name} {x:,.3g} times the {'largest' if x > 1 else 'smallest'}" for name, x in factors.items()]
            out.append(f"N = {short(N)}, D = {short(D)} is extrapolated: {', '.join(texts)} of the runs")
    return out


def held_out_table(fit: ScalingFit) -> Table:
    """Root mean square errors inside and beyond the fitted compute."""
    held_out = fit.held_out
    assert held_out is not None
    names = held_out.errors["predictor"].to_list()
    other = f"the same with {names[1]}; " if len(names) > 3 else ""
    rows = []
    for column, label in (
        ("fitted", f"{counted(held_out.fitted, 'run')} fitted"),
        ("held_out", f"{counted(held_out.held_out, 'run')} held out"),
    ):
        values = held_out.errors[column].to_list()
        rows.append((label, [Cell(f"{value:.4f}", value == min(values)) for value in values]))
    caption = (
        "Root mean square error of log loss. Each predictor was fitted to the runs of at most "
        f"{short(held_out.flop)} FLOP and predicts those of more: {_form(fit)}; {other}a power law of "
        "loss in compute; the mean of log loss, a constant. The best of each row in bold."
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


def numbers(fit: ScalingFit, models: Sequence[tuple[float, float]] = ()) -> dict[str, Any]:
    """Numbers of the fit as plain values for a JSON file; numbers that are not finite are null."""

    def of(estimate: Estimate | None) -> dict[str, Any] | None:
        if estimate is None:
            return None
        rows = {row.pop("quantity"): row for row in estimate.estimates().to_dicts()}
        finite = {name: _all_finite(row) for name, row in rows.items()}
        return {
            "runs": estimate.runs,
            "clusters": estimate.clusters,
            "objective": estimate.objective,
            "estimates": finite,
        }

    errors = None if fit.held_out is None else fit.held_out.errors.to_dicts()
    form = {"tied": fit.form.tied, "irreducible": fit.form.irreducible, "delta": fit.form.delta}
    return {
        "form": form,
        "all_runs": of(fit.every),
        "without_outliers": of(fit.without),
        "outliers_dropped": fit.dropped,
        "outlier_rows": fit.runs.filter("outlier")["row"].to_list(),
        "held_out": errors,
        "predictions": [_all_finite(row) for row in fit.chosen.predict(models).to_dicts()],
        "warnings": [*fit.warnings, *extrapolation_warnings(fit, models)],
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


def _with_range(row: Mapping[str, float], name: str, resamples: int) -> list[str]:
    """A number of a row, and the range from its low to its high end where there are resamples."""
    return [short(row[name]), *([_range(row[f"{name}_low"], row[f"{name}_high"])] if resamples else [])]


def _range(low: float, high: float) -> str:
    return "–" if math.isnan(low) or math.isnan(high) else f"{short(low)} to {short(high)}"


def _all_finite(row: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in row.items()}


def _drawn(fit: ScalingFit) -> str:
    """Words for what the resamples are drawn from."""
    if fit.every.clusters == fit.every.runs:
        return "the runs"
    together = "those of one N and D" if fit.group is None else "those of one value of the column of clusters"
    return f"{fit.every.clusters:,} clusters of runs ({together} are drawn together)"


def _form(fit: ScalingFit) -> str:
    """Equation of the law, and the parameters that are held at a value or tied to each other."""
    return f"{_FORM}{', with ' if fit.form.said else ''}{fit.form.said}"


def _held(form: LawForm) -> dict[str, str]:
    """Text in place of the interval of each parameter that the form fixes."""
    shares = dict.fromkeys(("a", "b"), "by α = β") if form.tied else {}
    return shares | ({} if form.irreducible is None else {"E": "held"})


def _provenance(fit: ScalingFit, source: Mapping[str, Any]) -> Section:
    versions = ", ".join(f"{name} {number}" for name, number in source["versions"].items())
    columns = ", ".join(f"{what} from {name!r}" for what, name in source["columns"].items())
    resampled = f"; bootstrap with seed {source['seed']}, each resample searched from the estimate"
    resampled = resampled if source["resamples"] else ""
    paragraphs = [
        f"Made by: {source['command']}",
        f"Data: {source['file']}, SHA-256 {source['file_sha256']}; {len(fit.runs)} runs; {columns}.",
        *(f"{note}." for note in source["notes"]),
        f"Method: the Huber loss (delta {fit.form.delta:g}) of the log residuals, minimised by L-BFGS-B from the "
        f"likeliest of a grid of starts{resampled}; {source['seconds']:,.1f} seconds. Source: Hoffmann et al. 2022, "
        "Training Compute-Optimal Large Language Models, approach 3.",
        f"{versions}.",
    ]
    return Section("How this was made", paragraphs)
