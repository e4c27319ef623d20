"""What a study's runs have come to, as the frames that its figures and answers are made from."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import polars as pl

from shoal.analysis import extrema
from shoal.errors import LabError
from shoal.lab import Records
from shoal.measures import EQUATIONS, Measures
from shoal.report.shortcomings import shortcomings
from shoal.spec import RunSpec
from shoal.tasks.build import count_examples, count_run_parameters

FIGURES = ("train_loss", "valid_loss", "train_accuracy", "valid_accuracy")


class Results:
    """Curves and extrema of every run that has been evaluated, each row with the settings of its run.

    Args:
        records: the runs; those that are damaged are left out.
        measured: what the study's ``measure`` found when they were trained.
        lost: runs that are damaged so that there is no record of them, with what is wrong.

    Raises:
        LabError: every run is damaged, or nothing has been evaluated yet.
    """

    measures: Measures = EQUATIONS

    def __init__(
        self,
        records: Records,
        measured: Mapping[str, Any] = MappingProxyType({}),
        lost: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        records, damage = records.snapshot().whole()
        self.damage = {**lost, **damage}
        self.records, self.measured = records, measured
        self.specs = records.specs
        self.measures = records.measures()
        metrics = records.curves()
        if metrics.is_empty():
            why = "".join(f": {reason}" for reason in list(dict.fromkeys(lost.values()))[:1])
            raise LabError(f"none of these runs has been evaluated yet{why}")
        self.runs = records.runs().with_columns(
            pl.col("run").replace_strict(self._sizes(), return_dtype=pl.Int64).alias("parameters")
        )
        own = [name for name in metrics.columns if name == "run" or name not in self.runs.columns or name == "step"]
        settings = self.runs.select(pl.exclude("state", "step"))
        self.curves = metrics.select(own).join(settings, on="run", how="left", maintain_order="left")

    @classmethod
    def joined(cls, several: Mapping[str, "Results"], column: str) -> "Results":
        """Runs of several labs, or of several forms of a study, side by side.

        Args:
            several: the results by the name of what they are of, a prefix of the ids of its runs: a run may be in all.
            column: of these names.

        Returns:
            Results of all; their ``records`` are those of the first.
        """
        first = next(iter(several.values()))
        both = object.__new__(cls)
        both.records, both.measured, both.damage, both.measures = first.records, {}, {}, first.measures
        both.specs = {f"{name}:{run}": spec for name, own in several.items() for run, spec in own.specs.items()}
        for part in ("runs", "curves"):
            frames = [
                getattr(own, part).with_columns(
                    pl.concat_str(pl.lit(name), pl.lit(":"), "run").alias("run"), pl.lit(name).alias(column)
                )
                for name, own in several.items()
            ]
            setattr(both, part, pl.concat(frames, how="diagonal_relaxed"))
        return both

    def once(self) -> "Results":
        """Each run once: of one that is in several of what was joined the first, which says all that it has to say."""
        run = self.runs["run"].str.split(":").list.last()
        if run.n_unique() == len(run):
            return self
        kept = object.__new__(Results)
        kept.records, kept.measured, kept.damage, kept.measures = self.records, self.measured, {}, self.measures
        kept.runs = self.runs.filter(run.is_first_distinct())
        kept.specs = {own: self.specs[own] for own in kept.runs["run"]}
        kept.curves = self.curves.filter(pl.col("run").is_in(kept.runs["run"].to_list()))
        return kept

    def _sizes(self) -> dict[str, int]:
        return {run: count_run_parameters(spec) for run, spec in self.specs.items()}

    def of(self, **settings: object) -> "Results":
        """Those of the runs that have these settings."""
        kept = object.__new__(Results)
        kept.records, kept.measured, kept.damage = self.records, self.measured, {}
        kept.measures = self.measures
        kept.runs = self.runs.filter(**settings)
        kept.specs = {run: self.specs[run] for run in kept.runs["run"]}
        kept.curves = self.curves.filter(pl.col("run").is_in(kept.runs["run"].to_list()))
        return kept

    def renamed(self, columns: Sequence[pl.Expr]) -> "Results":
        """The same with other values in some columns of settings, such as names in place of true and false."""
        if not columns:
            return self
        kept = object.__new__(Results)
        kept.records, kept.measured, kept.damage = self.records, self.measured, self.damage
        kept.measures, kept.specs = self.measures, self.specs
        kept.runs, kept.curves = self.runs.with_columns(columns), self.curves.with_columns(columns)
        return kept

    @cached_property
    def extrema(self) -> pl.DataFrame:
        """One row per run: best values and the first step of each, beside its settings."""
        return self.extrema_until(None)

    def extrema_until(self, t_max: int | None) -> pl.DataFrame:
        """The same up to step ``t_max``."""
        best = extrema(self.curves, t_max, self.measures)
        return best.join(self.runs.select(pl.exclude("state", "step")), on="run", how="left", maintain_order="left")

    @cached_property
    def followed(self) -> pl.DataFrame:
        """``run`` and ``followed``, the last step at which it was evaluated."""
        return self.curves.group_by("run", maintain_order=True).agg(pl.col("step").max().alias("followed"))

    @property
    def settings(self) -> tuple[str, ...]:
        """Columns of :attr:`runs` that are settings, those of parts from outside of shoal among them."""
        return tuple(name for name in self.runs.columns if name not in ("run", "state", "step", "parameters"))

    @property
    def models(self) -> list[str]:
        """Model families of which something has been evaluated, in the order of the runs."""
        return self.evaluated["model"].unique(maintain_order=True).to_list()

    def values(self, setting: str) -> list[Any]:
        """The values that a setting takes in what has been evaluated, in order."""
        return sorted(self.evaluated[setting].unique().to_list())

    @property
    def evaluated(self) -> pl.DataFrame:
        """The runs of which there are results."""
        return self.runs.filter(pl.col("run").is_in(self.curves["run"].unique().to_list()))

    def spec(self) -> RunSpec:
        """Any run's, for what all have in common."""
        return next(iter(self.specs.values()))

    def shortcomings(self) -> list[str]:
        """What is damaged, missing, diverged or unfinished, in sentences; nothing where every run is whole."""
        return shortcomings(self.runs, self.evaluated["run"].to_list(), self.damage)


def number_of_runs(frame: pl.DataFrame, by: Sequence[str]) -> str:
    """``N = 2`` or ``N = 1 to 3``: runs per combination of settings."""
    counts = frame.group_by(by).agg(pl.col("run").n_unique())["run"]
    low, high = int(counts.min()), int(counts.max())  # type: ignore[arg-type]  # counts are integers
    return f"N = {low}" if low == high else f"N = {low} to {high}"


def trained_equations(spec: RunSpec) -> int:
    """How many equations train."""
    return count_examples(spec)[0]
