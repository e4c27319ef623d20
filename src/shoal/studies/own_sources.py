"""Labs, or forms of a study, side by side: shortcomings of each, runs that are in several, and how each was made."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from shoal.report import Section
from shoal.report.summary import provenance
from shoal.report.words import counted, number
from shoal.studies.results import Results


def lacking(sources: Mapping[str, Results]) -> list[str]:
    """Sentences about what is damaged, missing or unfinished in each source."""
    return [
        f"{name}: {line}" if len(sources) > 1 else line for name, one in sources.items() for line in one.shortcomings()
    ]


def twice(sources: Mapping[str, Results]) -> list[str]:
    """Sentences about runs that are in several sources, and how alike their curves are there."""
    out = []
    names = list(sources)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            shared = [run for run in sources[first].specs if run in sources[second].specs]
            if not shared:
                continue
            largest, same = _differences(sources[first], sources[second], shared)
            out.append(
                f"{counted(len(shared), 'run')} are both in {first} and in {second}, and count once but for what is "
                f"asked of these two: of {same} every evaluation is the same to the bit"
                + (f"; the largest difference of a validation loss at a step is {number(largest)}." if largest else ".")
            )
    return out


def _differences(one: Results, other: Results, runs: Sequence[str]) -> tuple[float, int]:
    """The largest difference of validation losses at a step that both evaluated, and how many runs have none at all."""
    columns = one.measures.columns
    both = (
        one.curves.filter(pl.col("run").is_in(runs))
        .select("run", "step", *columns)
        .join(
            other.curves.select("run", "step", *columns), on=["run", "step"], how="full", suffix="_other", coalesce=True
        )
    )
    same = pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"{name}_other")) for name in columns)
    whole = both.group_by("run").agg(same.all().alias("same"))
    largest: Any = both.select((pl.col("valid_loss").cast(pl.Float64) - pl.col("valid_loss_other")).abs().max()).item()
    return float(largest or 0.0), int(whole["same"].sum())


def provenances(sources: Mapping[str, Results], command: str) -> list[Section]:
    """Sections that say how the runs of each source were made."""
    out = []
    for place, (name, one) in enumerate(sources.items()):
        section = provenance(one.records, command)
        if len(sources) > 1:
            tables = [replace(table, name=f"{table.name}-{place}") for table in section.tables]
            section = replace(section, title=f"How this was made: {name}", tables=tables)
        out.append(section)
    return out
