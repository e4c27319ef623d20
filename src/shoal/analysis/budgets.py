"""Performance under a budget of training compute, and the best way to spend the budget.

Source: the practical, problem 4, question 6: the first αT steps of a run of T steps stand for a run of αT steps.
"""

import math
from collections.abc import Sequence

import polars as pl

from shoal.analysis.accounts import compute_sequences, training_flop
from shoal.analysis.extrema import deviation, extrema

SHARES = tuple(k / 10 for k in range(1, 11))


def budgeted(curves: pl.DataFrame, runs: pl.DataFrame, shares: Sequence[float] = SHARES) -> pl.DataFrame:
    """Extrema of each run as if it had ended after a share α of its steps.

    Args:
        curves: as :func:`shoal.analysis.extrema` takes them.
        runs: one row per run: ``run``, ``n_steps``, ``parameters`` (P), ``train_batch_size`` (B), ``sequences`` (those
            in a step's batch: B, or the training set where that is smaller), ``tokens`` (S) and further settings.
        shares: the values of α, in (0, 1].

    Returns:
        The columns of the extrema and of ``runs``, with ``share`` (α), ``steps`` (⌊αT⌋), ``compute`` (the practical's
        C = P·B·αT, in parameter-sequences) and ``flop`` (6·P·B·S·αT, with ``sequences`` for B).
    """
    parts = []
    for share in shares:
        for (n_steps,), group in runs.group_by("n_steps", maintain_order=True):
            steps = math.floor(share * int(str(n_steps)) + 1e-9)  # 0.7 · 2600 is a little less than 1820 in binary
            best = extrema(curves.filter(pl.col("run").is_in(group["run"].to_list())), steps)
            if not best.is_empty():
                columns = {"share": pl.lit(share), "steps": pl.lit(steps)}
                parts.append(best.join(group, on="run", how="inner", maintain_order="left").with_columns(**columns))
    if not parts:
        return pl.DataFrame()
    frame = pl.concat(parts)
    P, B, seen, S, T = (frame[c] for c in ("parameters", "train_batch_size", "sequences", "tokens", "steps"))
    spent = [compute_sequences(*values) for values in zip(P, B, T, strict=True)]
    flop = [training_flop(*values) for values in zip(P, seen, S, T, strict=True)]
    return frame.with_columns(pl.Series("compute", spent, dtype=pl.Float64), pl.Series("flop", flop, dtype=pl.Float64))


def frontier(frame: pl.DataFrame, by: str, quantity: str, small_is_best: bool = True) -> pl.DataFrame:
    """Best way to spend each budget: of all settings that have spent no more, the one with the best mean.

    Args:
        frame: as :func:`budgeted` returns it.
        by: the setting that is free besides the steps, ``train_batch_size``.
        quantity: the column that is optimised.
        small_is_best: true where small values of the quantity are good.

    Returns:
        One row per distinct budget, in order: ``compute``, ``flop``, the setting, ``steps``, the mean of the quantity
        over runs under its name, its ``std`` (ddof 0, null of one run) and ``N``, all of the best setting; ``spent``,
        what that setting spends.
    """
    groups = (
        frame.group_by(by, "steps", "compute", maintain_order=True)
        .agg(
            pl.col(quantity).mean(),
            deviation(quantity).alias("std"),
            pl.col("flop").mean(),
            pl.len().alias("N"),
        )
        .sort("compute", by)
    )
    rows: list[dict[str, object]] = []
    best: dict[str, object] | None = None
    for row in groups.iter_rows(named=True):
        value = row[quantity]
        better = best is None or (value < best[quantity] if small_is_best else value > best[quantity])
        if value is not None and better:
            best = {**row, "spent": row["compute"]}
        if best is not None:
            rows.append({**best, "compute": row["compute"]})
    return pl.DataFrame(rows).unique("compute", keep="last", maintain_order=True) if rows else pl.DataFrame()


def iso_compute(curves: pl.DataFrame, runs: pl.DataFrame, levels: int = 6) -> pl.DataFrame:
    """Extrema along lines of equal compute: for a budget C each batch size B has T = C / (P·B) steps.

    Args:
        curves: as :func:`budgeted` takes them.
        runs: as :func:`budgeted` takes them, with the same P.
        levels: number of budgets, each half the next; the largest is the whole compute of the smallest batch size.

    Returns:
        The columns of the extrema and of ``runs``, with ``compute`` (C, in parameter-sequences) and ``steps`` (T).
    """
    P, B, T = (pl.col(name) for name in ("parameters", "train_batch_size", "n_steps"))
    largest = float(runs.select((P * B * T).filter(B.min() == B).max()).item())
    parts = []
    for level in range(levels):
        compute = largest / 2**level
        steps = (compute / (P * B)).floor().cast(pl.Int64).alias("steps")
        for row in runs.with_columns(steps).filter(pl.col("steps").is_between(1, T)).iter_rows(named=True):
            best = extrema(curves.filter(run=row["run"]), row["steps"])
            if not best.is_empty():
                settings = {name: pl.lit(value) for name, value in row.items() if name != "run"}
                parts.append(best.with_columns(**settings, compute=pl.lit(compute)))
    return pl.concat(parts, how="vertical_relaxed") if parts else pl.DataFrame()
