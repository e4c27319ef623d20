"""What a model needs to look at, beside where it looks: the attention study's answer to why heads look there."""

from collections.abc import Mapping

import polars as pl

from shoal.equations import EQ
from shoal.report import Cell, Table
from shoal.report.words import counted, listed

LOST = 0.5  # a position is needed when at most this share of what was right is right without it


def knockout_answers(knocked: pl.DataFrame, everywhere: pl.DataFrame, names: list[str], results: int) -> list[str]:
    """What is lost of the result without each position, and whether '=' looks at what it needs.

    Args:
        knocked: ``run`` and the columns of :func:`shoal.analysis.knockout.knockouts`.
        everywhere: ``run`` and the columns of :func:`shoal.analysis.attention.attention_by_position`.
        names: what stands at each position.
        results: how many there can be.
    """
    everywhere = everywhere.filter(query=names.index(EQ))
    before = pl.col("key") < names.index(EQ)  # what '=' can look back at
    own = knocked.filter(pl.col("layer").is_null())
    means = own.group_by("key").agg(pl.col("result").mean()).sort("key", nulls_last=True)
    whole = means.filter(pl.col("key").is_null())["result"].item()
    lost = listed([f"{left:.2f} without {names[key]!r}" for key, left in means.filter(before).iter_rows()])
    runs = counted(knocked["run"].n_unique(), "run")
    first = (
        f"Where no later position may look back at one, in any layer (attention knockout), the share of right results, "
        f"{whole:.2f} else, is {lost} (mean over {runs}; one of "
        f"{results} by guessing)."
    )
    untouched = own.filter(pl.col("key").is_null()).select("run", whole="result")
    needs = own.filter(before).join(untouched, on="run").with_columns(needs=pl.col("result") <= LOST * pl.col("whole"))
    needed = dict(needs.group_by("key").agg(pl.col("needs").mean()).iter_rows())
    return [first, _why(needed, _looked_at(everywhere, names), names)]


def _looked_at(from_equality: pl.DataFrame, names: list[str]) -> set[int]:
    """Positions that '=' gives more than an even share in some layer, mean over heads and runs."""
    means = from_equality.group_by("layer", "key").agg(pl.col("weight").mean())
    return set(means.filter(pl.col("weight") > 1 / (names.index(EQ) + 1))["key"])


def _why(needed: Mapping[int, float], looked_at: set[int], names: list[str]) -> str:
    """``needed``: the share of runs that need each position before '='."""
    always, never = ({key for key, share in needed.items() if share == all_} for all_ in (1, 0))
    groups = {
        "looks at and needs": always & looked_at,
        "looks at without needing": never & looked_at,
        "needs without looking there itself": always - looked_at,
        "neither looks at nor needs": never - looked_at,
        "needs in some runs alone": needed.keys() - always - never,
    }
    parts = [f"{what} {listed([repr(names[key]) for key in sorted(keys)])}" for what, keys in groups.items() if keys]
    return (
        f"So '=' {', '.join(parts)} (looks at: more than an even share of its attention in some layer, mean over heads "
        f"and runs; needs: without it, in every run, at most {LOST:.0%} of the results that are right else)."
    )


def knockout_table(knocked: pl.DataFrame, names: list[str], which: str) -> Table:
    """What is right without each position, in all layers and in each alone."""
    figures = [pl.col("result", "accuracy").mean(), pl.col("result", "accuracy").std(ddof=0).name.suffix("_std")]
    found = {(row["key"], row["layer"]): row for row in knocked.group_by("key", "layer").agg(*figures).to_dicts()}
    layers = [None, *sorted({layer for _, layer in found} - {None})]
    keys = sorted({key for key, _ in found} - {None})
    columns = [("result", layer) for layer in layers] + [("accuracy", None)]

    def row_of(key: int | None) -> list[Cell]:
        cells = []
        for figure, layer in columns:
            own = found[key, layer if key is not None else None]
            lowest = min(found[other, layer][figure] for other in keys)
            most_is_lost = key is not None and own[figure] == lowest < found[None, None][figure]
            cells.append(Cell(f"{own[figure]:.3f} ± {own[f'{figure}_std']:.3f}", most_is_lost))
        return cells

    rows = [("nothing", row_of(None)), *((names[key], row_of(key)) for key in keys)]
    caption = (
        f"Attention knockout: share of right results over all {which} where no later position may look back at the one "
        "on the left, in all layers or in one alone; last, in all layers, the share of right-hand sides that are right "
        "as a whole, with EOS, which is predicted from r, where equations end with it. Mean ± population standard "
        f"deviation over {counted(knocked['run'].n_unique(), 'run')}; where most is lost in bold."
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
