"""Blocks of runs that differ in the setting of interest and in nothing else; a test may exchange the runs of a block.

Where settings are crossed (each depth at each width, on each seed), the other settings and the seed move a run as much
as the setting of interest does. Runs are therefore compared only with runs that agree in all of these.

Source: Fisher 1935, *The Design of Experiments*, on blocks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.analysis.columns import Names, as_names, check_columns

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Blocks:
    """Groups of runs that can be compared with each other.

    Attributes:
        rows: the indices of the runs of each block; every block has two or more values of the setting of interest.
        names: the columns in which the runs of a block agree.
        alone: number of runs in no block, because no run with another value agrees with them in these columns.
    """

    rows: list[Rows]
    names: tuple[str, ...]
    alone: int

    @property
    def runs(self) -> int:
        """Number of runs that are in a block."""
        return sum(map(len, self.rows))


def crossed(frame: pl.DataFrame, asked: Names, among: Iterable[str]) -> tuple[str, ...]:
    """Settings of ``among`` that vary independently of the ``asked`` ones, in the order of ``among``.

    A setting that takes a single value wherever the asked ones do cannot be told from them and is left out (a hidden
    size that follows the width); of two settings that vary together the first stands for both.

    >>> frame = pl.DataFrame({"d": [8, 8, 16], "hidden": [8, 8, 16], "L": [1, 2, 1], "lr": [1, 1, 1]})
    >>> crossed(frame, "d", frame.columns)
    ('L',)
    """
    names: list[str] = []
    for name in among:
        if name in frame.columns and not (_fixed(frame, as_names(asked), name) or _fixed(frame, names, name)):
            names.append(name)
    return tuple(names)


def going_with(frame: pl.DataFrame, asked: Names, among: Iterable[str]) -> tuple[str, ...]:
    """Settings that change with the asked one and with it alone, so that the two cannot be told apart.

    >>> frame = pl.DataFrame({"d": [8, 8, 16], "lr": [0.1, 0.1, 0.2], "L": [1, 2, 1], "p": [5, 5, 5]})
    >>> going_with(frame, "d", frame.columns)
    ('lr',)
    """
    names = as_names(asked)
    return tuple(
        name
        for name in among
        if name in frame.columns and name not in names and frame[name].n_unique() > 1 and _fixed(frame, names, name)
    )


def comparable(frame: pl.DataFrame, asked: Names, unit: Names, within: Names = ()) -> Blocks:
    """Blocks of runs that agree in ``unit`` and ``within``.

    Where runs share seeds so seldom that fewer than half of those that agree in ``within`` can be compared on a seed,
    the seed is left out of the blocks: runs of different seeds are as good as drawn anew, so that this costs power
    alone. A run without a seed on record (null) shares it with no other. A setting is never left out: its runs would
    not be alike; one that is null, as the depth of a model that has none, is a value like others.

    Args:
        frame: one row per run.
        asked: the columns of the setting of interest.
        unit: the columns in which runs that share a seed agree.
        within: the columns of the other settings.

    Raises:
        UserError: a column is unknown.
    """
    settings, seeds = as_names(within), as_names(unit)
    check_columns(frame, [*as_names(asked), *settings, *seeds])
    without = _blocks(frame, as_names(asked), settings)
    blocks = _blocks(frame, as_names(asked), [*seeds, *settings], known=seeds)
    return blocks if 2 * blocks.runs >= without.runs else without


def _fixed(frame: pl.DataFrame, by: Sequence[str], name: str) -> bool:
    """Return True if a column takes one value wherever the columns of ``by`` do."""
    if name in by:
        return True
    return frame.select(name, *by).n_unique() == (frame.select(by).n_unique() if by else min(len(frame), 1))


def _blocks(frame: pl.DataFrame, asked: list[str], names: list[str], known: Sequence[str] = ()) -> Blocks:
    """Blocks of the rows that agree in ``names``; those in which one of ``known`` is null are in none."""
    numbered = frame.select(*names, _asked=pl.struct(asked), _row=pl.int_range(pl.len(), dtype=pl.Int64))
    numbered = numbered.drop_nulls(known) if known else numbered
    groups = [block for _, block in numbered.group_by(names, maintain_order=True)] if names else [numbered]
    rows = [block["_row"].to_numpy() for block in groups if block["_asked"].n_unique() > 1]
    return Blocks(rows, tuple(names), len(frame) - sum(map(len, rows)))
