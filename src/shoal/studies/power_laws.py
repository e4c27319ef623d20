"""Power laws of the validation loss in the scaled quantity, with their goodness of fit.

Source: the practical, problem 4, question 6, footnote; Kaplan et al. 2020, "Scaling Laws for Neural Language Models".
A model that passes from memorising to generalising within the grid does not follow one: the law then explains a small
share of the variance, and no exponent is given, because it would describe the grid and no law.

For the interval whole settings are resampled and not runs: the deviation of a setting is common to all of its runs.
In simulations in which settings deviate from the law twice as much as the four runs of each do, intervals over runs
held the exponent in fewer than 80 of 100 grids, those over settings in 84 or more of five settings and 88 or more of
nine.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from shoal.analysis import PowerLawFit, fit_power_law
from shoal.errors import UserError
from shoal.report import Cell, Table
from shoal.report.panels import MODELS, Axis
from shoal.report.words import NOTHING, number, with_interval

POOR = 0.8  # R² below which no exponent is given


@dataclass(frozen=True)
class _Law:
    model: str
    fit: PowerLawFit
    r_squared: float


def power_laws(
    extrema: pl.DataFrame, axis: Axis, symbol: str, name: str, setting: str | None = None
) -> tuple[list[str], Table | None]:
    """Power laws ``L_val = a·x^b`` of each model over its runs, with whole settings resampled for the interval.

    Args:
        extrema: one row or more per run, as :attr:`~shoal.studies.results.Results.extrema`.
        axis: the scaled quantity.
        symbol: its symbol in the formula.
        name: name of the table.
        setting: column that identifies settings, where runs of one setting have several values on the axis; the column
            of the axis when not given.

    Returns:
        One sentence per model, and the table behind them, or None where no model has enough points.
    """
    sentences, laws = [], []
    for model in extrema["model"].unique(maintain_order=True):
        # a loss that float32 took to 0 counts as its smallest
        points = extrema.filter(model=model).with_columns(pl.col("valid_loss").cast(pl.Float64).clip(lower_bound=1e-38))
        try:
            fit = fit_power_law(points, axis.column, "valid_loss", group=setting or axis.column)
        except UserError as error:
            sentences.append(f"{MODELS[model]}: no power law in {symbol}: {error}.")
            continue
        laws.append(_Law(model, fit, _r_squared(fit, points, axis.column)))
        sentences.append(_sentence(laws[-1], symbol))
    return sentences, _table(laws, axis, symbol, name) if laws else None


def _r_squared(fit: PowerLawFit, points: pl.DataFrame, x: str) -> float:
    """Share of the variance of log y that the law explains; below 0 where a constant explains more."""
    y = np.log(points["valid_loss"].to_numpy())
    residual = y - np.log(fit.law.predict(points[x].cast(pl.Float64).to_numpy()))
    total = ((y - y.mean()) ** 2).sum()
    return float(1 - (residual**2).sum() / total) if total > 0 else 0.0


def _exponent(fit: PowerLawFit) -> str:
    row = fit.estimates().row(by_predicate=pl.col("quantity") == "b", named=True)
    return with_interval(row["estimate"], row["low"], row["high"])


def _sentence(law: _Law, symbol: str) -> str:
    R2 = number(law.r_squared)
    if law.r_squared < POOR:
        return (
            f"{MODELS[law.model]}: L_val follows no power law in {symbol}: the best one has R² = {R2}, less than "
            f"{POOR}, so that its exponent would describe where this grid lies and no law."
        )
    return f"{MODELS[law.model]}: L_val ∝ {symbol}ᵇ with b = {_exponent(law.fit)}, R² = {R2}."


def _table(laws: list[_Law], axis: Axis, symbol: str, name: str) -> Table:
    rows, data = [], []
    for law in laws:
        is_good = law.r_squared >= POOR
        estimates = {row.pop("quantity"): row for row in law.fit.estimates().to_dicts()}
        columns = {f"{name}_{key}": value for name, row in estimates.items() for key, value in row.items()}
        fit = {"r_squared": law.r_squared, "points": law.fit.points, "told": is_good}
        data.append({"model": law.model, **columns, **fit})
        a, b = (f"{law.fit.law.a:.3g}", _exponent(law.fit)) if is_good else (NOTHING, NOTHING)
        cells = [Cell(text) for text in (a, b, number(law.r_squared), str(law.fit.points))]
        rows.append((MODELS[law.model], cells))
    caption = (
        f"The best L_val of a run as a·{symbol}ᵇ, {symbol}: {axis.title}. Fitted to log L_val by the Huber loss "
        "(δ = 10⁻³), with the 95 % percentile interval over whole settings drawn again 1,000 times, which of 4 to 6 "
        "settings holds the exponent in about 8 of 10 grids only. R²: the share of "
        f"the variance of log L_val that the law explains, below 0 where a constant explains more. –: R² below {POOR}: "
        "the runs follow no power law, and have no exponent."
    )
    return Table(name, ["model", "a", "b [95 %]", "R²", "points"], rows, caption, pl.DataFrame(data))
