"""Attention knockout in the attention study: the positions that a model needs, beside those that it attends to."""

from collections.abc import Mapping, Sequence

import polars as pl

from shoal.analysis.extrema import deviation
from shoal.report import Cell, Table
from shoal.report.words import counted, listed, with_deviation
from shoal.tasks.arithmetic.equations import EQ

# shares of results right without a position, among those right with it
LOST = 0.5  # at most: it is needed
SPARED = 0.95  # at least: it is not; in between, in part


def knockout_answers(knocked: pl.DataFrame, everywhere: pl.DataFrame, names: list[str], results: int) -> list[str]:
    """Sentences on the results lost without each position, and on '=' attending to the positions that it needs.

    Args:
        knocked: ``run`` and the columns of :func:`shoal.analysis.knockout.knockouts`.
        everywhere: ``run`` and the columns of :func:`shoal.analysis.attention.attention_by_position`.
        names: names of the positions.
        results: number of possible results.
    """
    everywhere = everywhere.filter(query=names.index(EQ))
    before = pl.col("key") < names.index(EQ)  # positions that '=' can attend to
    all_layers = knocked.filter(pl.col("layer").is_null())
    untouched = all_layers.filter(pl.col("key").is_null()).select("run", whole="result")
    share = pl.when(pl.col("whole") > 0).then(pl.col("result") / pl.col("whole")).otherwise(1.0)
    left = all_layers.filter(before).join(untouched, on="run").with_columns(left=share)
    lost = [
        f"{_ranged(of_key['result'].to_list())} without {names[int(str(key))]!r}"
        for (key,), of_key in left.sort("key").group_by("key", maintain_order=True)
    ]
    runs = counted(knocked["run"].n_unique(), "run")
    first = (
        f"Where no later position may look back at one, in any layer (attention knockout), the share of right results, "
        f"{_ranged(untouched['whole'].to_list())} otherwise, is {listed(lost)} (mean over {runs}"
        f"{', lowest to highest' * (len(untouched) > 1)}; one of {results} by guessing)."
    )
    extremes = left.group_by("key").agg(pl.col("left").min().alias("low"), pl.col("left").max().alias("high"))
    ranges = {key: (low, high) for key, low, high in extremes.iter_rows()}
    return [first, _why(ranges, _looked_at(everywhere, names), names)]


def _ranged(shares: Sequence[float]) -> str:
    """Mean share with its range, ``0.87 (0.76 to 0.98)``, or the one share."""
    mean = f"{sum(shares) / len(shares):.2f}"
    low, high = (f"{end:.2f}" for end in (min(shares), max(shares)))
    return mean if low == high else f"{mean} ({low} to {high})"


def _looked_at(from_equality: pl.DataFrame, names: list[str]) -> set[int]:
    """Positions to which '=' gives more than an even share in some layer, mean over heads and runs."""
    means = from_equality.group_by("layer", "key").agg(pl.col("weight").mean())
    return set(means.filter(pl.col("weight") > 1 / (names.index(EQ) + 1))["key"])


def _percent(low: float, high: float) -> str:
    """Range of shares, ``76% to 98%, by the run,``, or the one share."""
    return f"{low:.0%}" if f"{low:.0%}" == f"{high:.0%}" else f"{low:.0%} to {high:.0%}, by the run,"


def _why(left: Mapping[int, tuple[float, float]], looked_at: set[int], names: list[str]) -> str:
    """Sentence on needed and attended positions; ``left``: lowest and highest remaining share over runs of each."""
    needed = {key for key, (_, high) in left.items() if high <= LOST}
    spared = {key for key, (low, _) in left.items() if low >= SPARED}
    in_part = {key: left[key] for key in sorted(left.keys() - needed - spared)}
    groups = {
        "looks at and needs": needed & looked_at,
        "looks at without needing": spared & looked_at,
        "needs without looking there itself": needed - looked_at,
        "neither looks at nor needs": spared - looked_at,
    }
    parts = [f"{what} {listed([repr(names[key]) for key in sorted(keys)])}" for what, keys in groups.items() if keys]
    parts += [
        f"{'looks at and ' * (key in looked_at)}needs {names[key]!r} in part ({_percent(*ends)} are left)"
        for key, ends in in_part.items()
    ]
    sentence = " and ".join([", ".join(parts[:-1]) + ",", parts[-1]] if len(parts) > 1 else parts)
    return (
        f"So '=' {sentence} (looks at: more than an even share of its attention in some layer, mean over heads and "
        f"runs; needs: without it, in every run, at most {LOST:.0%} of the results that are right with it; does not: "
        f"in every run at least {SPARED:.0%})."
    )


def knockout_table(knocked: pl.DataFrame, names: list[str], which: str) -> Table:
    """Table of the shares right without attention to each position, in all layers and in each alone."""
    kinds = ("result", "accuracy")
    figures = [pl.col(*kinds).mean(), *(deviation(kind).alias(f"{kind}_std") for kind in kinds)]
    shares = {(row["key"], row["layer"]): row for row in knocked.group_by("key", "layer").agg(*figures).to_dicts()}
    layers = [None, *sorted({layer for _, layer in shares} - {None})]
    keys = sorted({key for key, _ in shares} - {None})
    columns = [("result", layer) for layer in layers] + [("accuracy", None)]

    def row_of(key: int | None) -> list[Cell]:
        cells = []
        for figure, layer in columns:
            cell_shares = shares[key, layer if key is not None else None]
            lowest = min(shares[other, layer][figure] for other in keys)
            most_is_lost = key is not None and cell_shares[figure] == lowest < shares[None, None][figure]
            cells.append(Cell(with_deviation(cell_shares[figure], cell_shares[f"{figure}_std"], 3), most_is_lost))
        return cells

    runs = knocked["run"].n_unique()
    spread = f"Mean ± population standard deviation over {counted(runs, 'run')}" if runs > 1 else "One run"
    rows = [("nothing", row_of(None)), *((names[key], row_of(key)) for key in keys)]
    caption = (
        f"Attention knockout: share of right results over all {which} where no later position may look back at the one "
        "on the left, in all layers or in one alone; last, in all layers, the share of right-hand sides that are right "
        "as a whole, with EOS, which is predicted from r, where equations end with it. "
        f"{spread}; where most is lost in bold."
    )
    header = [
        "without",
        *("result, all layers" if layer is None else f"result, layer {layer + 1}" for layer in layers),
        "right-hand side, all layers",
    ]
    data = knocked.group_by("key", "layer").agg(*figures, pl.col("run").n_unique().alias("N")).sort("layer", "key")
    at = pl.col("key").replace_strict(dict(enumerate(names)), default="nothing", return_dtype=pl.String)
    data = data.with_columns(pl.col("layer") + 1, at.alias("without"))
    return Table("knockout", header, rows, caption, data)
