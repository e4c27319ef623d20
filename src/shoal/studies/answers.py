"""Answers in words, each computed with what it rests on: how a quantity goes with a setting, and for whom it goes
faster."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from shoal.analysis import SlopeDifference, TrendEstimate, slope_difference, trend
from shoal.analysis.trends import student_interval
from shoal.report import Cell, Table
from shoal.report.panels import MODELS, Axis
from shoal.report.words import listed, number, p_value, with_interval

UNTOLD, CEILING = "cannot be told", "ceiling"
HIGHEST = 0.99  # mean A_val from which it can rise no more that would show
LEVEL = 0.05  # of the test behind "improves" and "worsens"
_UNCORRECTED = " (not corrected for their number: without any difference one in twenty would show one)."
# what is asked about: column, symbol, whether small is good
ASKED = (("log_valid_loss", "log₁₀ L_val", True), ("valid_accuracy", "A_val", False))


@dataclass(frozen=True)
class Case:
    """Runs that differ in one setting: what to call them, the runs with their extrema, and the setting."""

    name: str
    frame: pl.DataFrame
    axis: Axis


def with_logs(extrema: pl.DataFrame) -> pl.DataFrame:
    """With ``log_train_loss`` and ``log_valid_loss``, log₁₀; a loss that float32 took to 0 counts as its smallest."""
    return extrema.with_columns(
        pl.col(name).cast(pl.Float64).clip(lower_bound=1e-38).log10().alias(f"log_{name}")
        for name in ("train_loss", "valid_loss")
    )


def per(axis: Axis) -> str:
    """``per doubling of the width d`` or ``per unit of r_train``."""
    return f"per doubling of {axis.title}" if axis.log else f"per unit of {axis.title}"


def who_scales_better(cases: Sequence[Case], name: str) -> tuple[list[str], Table | None]:
    """Slopes of both models, their difference over the seeds that both have, and whose is better.

    Returns:
        A sentence per quantity, and the table behind them; a sentence alone where there is one model, or no seed in
        which both models have two values of the setting.
    """
    rows: list[tuple[str, list[Cell]]] = []
    data: list[dict[str, Any]] = []
    units = set()
    verdicts: dict[str, list[str]] = {symbol: [] for _, symbol, _ in ASKED}
    for case in cases:
        if not {"lstm", "gpt"} <= set(case.frame["model"]):
            continue
        for column, symbol, small in ASKED:
            found = slope_difference(
                with_logs(case.frame), case.axis.column, column, "model", "lstm", "gpt", log2=case.axis.log is not None
            )
            verdict = CEILING if _at_ceiling(case, column) and found.units else _verdict(found, small)
            verdicts[symbol].append(verdict)
            units |= {found.units} if found.units else set()
            data.append({"case": case.name, "quantity": column, **asdict(found), "scales_better": verdict})
            cells = [
                *(_levels(case, column, model) for model in MODELS),
                number(found.first_slope),
                number(found.second_slope),
                with_interval(found.difference, found.low, found.high),
            ]
            rows.append(
                (f"{symbol} {per(case.axis)}, {case.name}", [Cell(c) for c in (*cells, str(found.units), verdict)])
            )
    if not rows:
        return ["One model alone: there is nothing to compare its scaling with."], None
    if not units:
        return [f"Which model scales better cannot be told: {_one_value(cases)}."], None
    sentences = [_summary(symbol, found) for symbol, found in verdicts.items()]
    if len(cases) == 1 and _at_ceiling(cases[0], "valid_accuracy"):
        sentences += _ahead(cases[0])
    sentences += _unequal(pl.concat([case.frame for case in cases], how="diagonal"))
    if min(units) < 2:
        sentences.append("Some of these comparisons rest on one seed: without intervals they stay open.")
    elif min(units) == 2:
        sentences.append(
            "Two seeds leave one degree of freedom: only very large differences show; --seeds 5 shows more."
        )
    caption = (
        "Slope of the least-squares line of each model, fitted within each seed that both have, mean over seeds; their "
        "difference with Student's 95 % interval over seeds, which two seeds leave wide. A loss scales better the more "
        "its logarithm falls, an accuracy the more it rises; open: the interval holds 0 or does not exist; ceiling: "
        f"both end at A_val ≥ {HIGHEST}, so that a steeper line may only mean a worse start; cannot be told: no seed "
        "has both models at two values. Before the slopes, the mean over runs (of L_val, the geometric) at the "
        "smallest and at the largest value of the setting. Not corrected for the number of comparisons."
    )
    models = list(MODELS.values())
    header = ["", *models, *(f"slope of {model}" for model in models), "GPT − LSTM [95 %]", "seeds", "scales better"]
    return sentences, Table(name, header, rows, caption, pl.DataFrame(data, infer_schema_length=None))


def _ends(case: Case, column: str, model: str) -> tuple[float, float]:
    """Mean over a model's runs at the smallest and at the largest value of the setting."""
    means = with_logs(case.frame).filter(model=model).group_by(case.axis.column).agg(pl.col(column).mean())
    levels = means.sort(case.axis.column)[column]
    return float(levels[0]), float(levels[-1])


def _levels(case: Case, column: str, model: str) -> str:
    first, last = (10**end if column.startswith("log_") else end for end in _ends(case, column, model))
    return f"{number(first)} → {number(last)}"


def _at_ceiling(case: Case, column: str) -> bool:
    """Whether both models end where an accuracy can rise no more: a steeper slope may then only mean a worse start."""
    both = set(MODELS) <= set(case.frame["model"])
    return both and column == "valid_accuracy" and all(_ends(case, column, model)[1] >= HIGHEST for model in MODELS)


def _ahead(case: Case) -> list[str]:
    """Whose A_val is higher, mean over the settings that both have, with its interval over seeds; or nothing."""
    x, both = case.axis.column, case.frame.select("model", "seed", case.axis.column, "valid_accuracy")
    means = both.group_by("model", "seed", x).agg(pl.col("valid_accuracy").mean())
    wide = means.pivot("model", index=["seed", x], values="valid_accuracy").drop_nulls(list(MODELS))
    wide = wide.sort("seed", x)  # sums in one order
    ahead = wide.group_by("seed", maintain_order=True).agg((pl.col("gpt") - pl.col("lstm")).mean().alias("ahead"))
    per_seed = ahead["ahead"].to_list()
    if not per_seed:  # as with P, which no two models share
        return []
    low, high = student_interval(per_seed)
    found = with_interval(sum(per_seed) / len(per_seed), low, high)
    if low is None or high is None or low <= 0 <= high:
        who = "neither is clearly ahead"
    else:
        who = f"the {MODELS['gpt' if low > 0 else 'lstm']} is ahead"
    interval = " [95 % over seeds]" if low is not None else ""
    return [f"Over all settings of {case.axis.title} {who} in A_val: GPT − LSTM is {found} in the mean{interval}."]


def _unequal(frame: pl.DataFrame) -> list[str]:
    """A sentence where the models were not trained for as many steps."""
    if "n_steps" not in frame.columns:
        return []
    steps = frame.group_by("model").agg(pl.col("n_steps").max())
    if steps["n_steps"].n_unique() == 1:
        return []
    told = listed([f"the {MODELS[model]} up to {n:,}" for model, n in steps.sort("model").iter_rows()])
    return [f"These are models after different numbers of steps: {told}."]


def _verdict(found: SlopeDifference, small: bool) -> str:
    if found.difference is None:
        return UNTOLD
    if found.low is None or found.high is None or found.low <= 0 <= found.high:
        return "open"
    return "GPT" if (found.difference < 0) == small else "LSTM"


def _summary(symbol: str, verdicts: Sequence[str]) -> str:
    counts = {who: verdicts.count(who) for who in (*MODELS.values(), "open", CEILING, UNTOLD)}
    same_end = f"both end at A_val ≥ {HIGHEST}, where a steeper line may only mean a worse start"
    if len(verdicts) == 1:
        who = verdicts[0]
        found = {
            "open": "no model clearly scales better",
            UNTOLD: "it cannot be told which model scales better",
            CEILING: f"slopes do not tell which model scales better: {same_end}",
        }
        return f"In terms of {symbol} {found.get(who, f'the {who} scales better')}."
    return (
        f"In terms of {symbol}, of {len(verdicts)} comparisons the LSTM scales better in {counts['LSTM']}, the GPT in "
        f"{counts['GPT']}, and {counts['open']} {'is' if counts['open'] == 1 else 'are'} open"
        + (f"; in {counts[CEILING]} {same_end}" if counts[CEILING] else "")
        + (f"; {counts[UNTOLD]} cannot be told" if counts[UNTOLD] else "")
        + ("." if not counts["LSTM"] + counts["GPT"] else _UNCORRECTED)
    )


def _one_value(cases: Sequence[Case]) -> str:
    """Why there is nothing to compare: mostly that the setting takes one value."""
    (title,) = {case.axis.title for case in cases}
    values = pl.concat([case.frame[case.axis.column] for case in cases]).unique()
    if len(values) == 1:
        return f"there is one value of {title} alone, {values[0]:g}"
    return f"no seed has both models at two values of {title}"


def how_it_goes(
    cases: Sequence[Case], columns: Sequence[tuple[str, str]], name: str
) -> tuple[list[TrendEstimate], Table]:
    """Rank correlation and slope of quantities over a setting.

    Args:
        cases: the runs.
        columns: names of columns with their symbols.
        name: of the table.
    """
    rows, trends, data = [], [], []
    for case in cases:
        for column, symbol in columns:
            found = trend(with_logs(case.frame), case.axis.column, column, log2=case.axis.log is not None)
            trends.append(found)
            data.append({"case": case.name, "quantity": column, **asdict(found)})
            p = "–" if found.p is None else p_value(found.p).removeprefix("p = ").removeprefix("p ")
            cells = [
                number(found.rho, 2),
                p,
                with_interval(found.slope, found.low, found.high),
                str(found.runs),
                str(found.units),
            ]
            rows.append((f"{symbol}, {case.name}", [Cell(cell) for cell in cells]))
    caption = (
        "ρ: Spearman's rank correlation over all runs; p: of all permutations of the values within each seed, or of "
        "1,000 where there are more; slope: "
        "of the least-squares line within each seed, per doubling of a setting on a logarithmic axis, else per unit, "
        "mean with Student's 95 % interval over seeds; –: all values are the same. Not corrected for the number of "
        "tests."
    )
    header = ["", "ρ", "p", "slope [95 %]", "runs", "seeds"]
    return trends, Table(name, header, rows, caption, pl.DataFrame(data, infer_schema_length=None))


def direction(found: TrendEstimate, small: bool | None) -> str:
    """Whether it ``improves``, ``worsens`` or ``shows no clear change``, by the permutation test of ρ; ``falls`` or
    ``rises`` where neither is good of itself (``small`` None)."""
    if found.slope is None:
        return "cannot be told (one setting alone)"
    if found.rho is None or found.p is None:
        return "is the same everywhere"
    evidence = f"(ρ = {number(found.rho, 2)}, {p_value(found.p)})"
    if found.smallest_p is not None and found.smallest_p >= LEVEL:
        return f"cannot be told of so few runs {evidence[:-1]}, and no p below {number(found.smallest_p, 2)} can be)"
    if found.p >= LEVEL:
        return f"shows no clear change {evidence}"
    if small is None:
        return f"{'falls' if found.rho < 0 else 'rises'} {evidence}"
    return f"{'improves' if (found.rho < 0) == small else 'worsens'} {evidence}"
