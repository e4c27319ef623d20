"""What a model needs to look at, beside where it looks: the attention study's answer to why heads look there."""

from typing import Any

import polars as pl

from shoal.equations import EQ
from shoal.report import Cell, Table
from shoal.report.words import counted, listed

LOST = 0.5  # a position is needed when at most this share of what was right is right without it


def knockout_answers(knocked: pl.DataFrame, everywhere: pl.DataFrame, names: list[str]) -> list[str]:
    """What is lost without each position, and whether '=' looks at what is needed.

    Args:
        knocked: ``run`` and the columns of :func:`shoal.analysis.knockout.knockouts`.
        everywhere: ``run`` and the columns of :func:`shoal.analysis.attention.attention_by_position`.
        names: what stands at each position.
    """
    means = knocked.filter(pl.col("layer").is_null()).group_by("key").agg(pl.col("accuracy").mean())
    accuracy = dict(means.iter_rows())
    before = accuracy.pop(None)
    lost = listed([f"{accuracy[key]:.2f} without {names[key]!r}" for key in sorted(accuracy)])
    runs = counted(knocked["run"].n_unique(), "run")
    first = (
        f"Where no later position may look back at one, in any layer (attention knockout), accuracy over these "
        f"equations, {before:.2f} else, is {lost} (mean over {runs})."
    )
    needed = {key for key, left in accuracy.items() if left <= LOST * before}
    return [first, _why(needed, _looked_at(everywhere, names), names)]


def _looked_at(everywhere: pl.DataFrame, names: list[str]) -> set[int]:
    """Positions that '=' gives more than an even share in some layer, mean over heads and runs."""
    query = names.index(EQ)
    means = everywhere.filter(query=query).group_by("layer", "key").agg(pl.col("weight").mean())
    return set(means.filter(pl.col("weight") > 1 / (query + 1))["key"])


def _why(needed: set[int], looked_at: set[int], names: list[str]) -> str:
    before = range(names.index(EQ))
    groups = {
        "looks at and needs": needed & looked_at,
        "looks at without needing": looked_at - needed,
        "needs without looking there itself": needed - looked_at,
        "neither looks at nor needs": set(before) - needed - looked_at,
    }
    parts = [
        f"{what} {listed([repr(names[key]) for key in before if key in keys])}"
        for what, keys in groups.items()
        if keys & set(before)
    ]
    return (
        f"So '=' {', '.join(parts)} (looks at: more than an even share of its attention in some layer, mean over heads "
        f"and runs; needs: without it at most {LOST:.0%} of what is right else)."
    )


def knockout_table(knocked: pl.DataFrame, names: list[str], which: str) -> Table:
    """Accuracy without each position, in all layers and in each alone."""
    means = knocked.group_by("key", "layer").agg(pl.col("accuracy").mean(), pl.col("accuracy").std(ddof=0).alias("std"))
    found = {(row["key"], row["layer"]): row for row in means.to_dicts()}
    layers = [None, *sorted({layer for _, layer in found} - {None})]
    keys = sorted({key for key, _ in found} - {None})
    before = found[None, None]["accuracy"]
    rows = [("nothing", [_cell(found[None, None])] * len(layers))]
    for key in keys:
        own = [found[key, layer] for layer in layers]
        lowest = [min(found[other, layer]["accuracy"] for other in keys) for layer in layers]
        bold = [row["accuracy"] == least < before for row, least in zip(own, lowest, strict=True)]
        rows.append((names[key], [_cell(row, most) for row, most in zip(own, bold, strict=True)]))
    caption = (
        f"Attention knockout: accuracy over all {which} where no later position may look back at the one on the left, "
        "in all layers or in one alone. Mean ± population standard deviation over "
        f"{counted(knocked['run'].n_unique(), 'run')}; where most is lost in bold."
    )
    return Table(
        "knockout",
        ["without", *("all layers" if layer is None else f"layer {layer + 1}" for layer in layers)],
        rows,
        caption,
    )


def _cell(row: dict[str, Any], bold: bool = False) -> Cell:
    return Cell(f"{row['accuracy']:.3f} ± {row['std']:.3f}", bold)
