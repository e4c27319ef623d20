"""Results of a study's runs, as the frames that its figures and answers are made from."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import polars as pl

from shoal.analysis import extrema
from shoal.errors import LabError
from shoal.lab import Records
from shoal.lab.record_labels import NO_SETTINGS
from shoal.measures import EQUATIONS, Measures
from shoal.report.shortcomings import shortcomings
from shoal.spec import RunSpec
from shoal.tasks.build import count_examples, count_run_parameters

FIGURES = ("train_loss", "valid_loss", "train_accuracy", "valid_accuracy")


class Results:
    """Results of a study: curves and extrema of every evaluated run, each row with the settings of its run.

    Args:
        records: the runs; those that are damaged are left out.
        measured: result of the study's ``measure`` from when they were trained.
        lost: damaged runs without a record, with the reason.

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
        names = [name for name in metrics.columns if name == "run" or name not in self.runs.columns or name == "step"]
        settings = self.runs.select(pl.exclude("state", "step"))
        self.curves = metrics.select(names).join(settings, on="run", how="left", maintain_order="left")

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
        both.specs = {f"{name}:{run}": spec for name, results in several.items() for run, spec in results.specs.items()}
        for part in ("runs", "curves"):
            frames = [
                getattr(results, part).with_columns(
                    pl.concat_str(pl.lit(name), pl.lit(":"), "run").alias("run"), pl.lit(name).alias(column)
                )
                for name, results in several.items()
            ]
            setattr(both, part, pl.concat(frames, how="diagonal_relaxed"))
        return both

    def once(self) -> "Results":
        """Results with each run once: of a run that is in several of the joined results, the first."""
        run = self.runs["run"].str.split(":").list.last()
        if run.n_unique() == len(run):
            return self
        distinct = object.__new__(Results)
        distinct.records, distinct.measured, distinct.damage, distinct.measures = (
            self.records,
            self.measured,
            {},
            self.measures,
        )
        distinct.runs = self.runs.filter(run.is_first_distinct())
        distinct.specs = {one: self.specs[one] for one in distinct.runs["run"]}
        distinct.curves = self.curves.filter(pl.col("run").is_in(distinct.runs["run"].to_list()))
        return distinct

    def _sizes(self) -> dict[str, int]:
        return {run: count_run_parameters(spec) for run, spec in self.specs.items()}

    def of(self, **settings: object) -> "Results":
        """Results of the runs that have these settings."""
        part = object.__new__(Results)
        part.records, part.measured, part.damage = self.records, self.measured, {}
        part.measures = self.measures
        part.runs = self.runs.filter(**settings)
        part.specs = {run: self.specs[run] for run in part.runs["run"]}
        part.curves = self.curves.filter(pl.col("run").is_in(part.runs["run"].to_list()))
        return part

    def only(self, runs: Iterable[str]) -> "Results":
        """Results of these runs, with what is known of damage to all."""
        part, chosen = self.of(), [*runs]
        part.runs = self.runs.filter(pl.col("run").is_in(chosen))
        part.specs = {run: self.specs[run] for run in part.runs["run"]}
        part.curves = self.curves.filter(pl.col("run").is_in(chosen))
        part.damage = self.damage
        return part

    def renamed(self, columns: Sequence[pl.Expr]) -> "Results":
        """Results with other values in some columns of settings, such as names in place of true and false."""
        if not columns:
            return self
        out = object.__new__(Results)
        out.records, out.measured, out.damage = self.records, self.measured, self.damage
        out.measures, out.specs = self.measures, self.specs
        out.runs, out.curves = self.runs.with_columns(columns), self.curves.with_columns(columns)
        return out

    @cached_property
    def extrema(self) -> pl.DataFrame:
        """Extrema of each run: best values and the first step of each, with its settings."""
        return self.extrema_until(None)

    def extrema_until(self, t_max: int | None) -> pl.DataFrame:
        """Extrema of each run up to step ``t_max``, with its settings."""
        best = extrema(self.curves, t_max, self.measures)
        return best.join(self.runs.select(pl.exclude("state", "step")), on="run", how="left", maintain_order="left")

    @cached_property
    def followed(self) -> pl.DataFrame:
        """Frame of ``run`` and ``followed``, the last step at which it was evaluated."""
        return self.curves.group_by("run", maintain_order=True).agg(pl.col("step").max().alias("followed"))

    @property
    def settings(self) -> tuple[str, ...]:
        """Columns of :attr:`runs` that are settings, also those of outside parts; labels are none."""
        others = ("run", "state", "step", "parameters", *NO_SETTINGS)
        return tuple(name for name in self.runs.columns if name not in others)

    @property
    def models(self) -> list[str]:
        """Model families with an evaluated run, in the order of the runs."""
        return self.evaluated["model"].unique(maintain_order=True).to_list()

    def values(self, setting: str) -> list[Any]:
        """Values of a setting among the evaluated runs, in order."""
        return sorted(self.evaluated[setting].unique().to_list())

    @property
    def evaluated(self) -> pl.DataFrame:
        """Runs that have been evaluated."""
        return self.runs.filter(pl.col("run").is_in(self.curves["run"].unique().to_list()))

    def spec(self) -> RunSpec:
        """Spec of one run, for settings that all have in common."""
        return next(iter(self.specs.values()))

    def shortcomings(self) -> list[str]:
        """Sentences on damaged, missing, diverged or unfinished runs; none where every run is complete."""
        return shortcomings(self.runs, self.evaluated["run"].to_list(), self.damage)


def number_of_runs(frame: pl.DataFrame, by: Sequence[str]) -> str:
    """Number of runs per combination of settings in words, ``N = 2`` or ``N = 1 to 3``."""
    counts = frame.group_by(by).agg(pl.col("run").n_unique())["run"]
    low, high = int(counts.min()), int(counts.max())  # type: ignore[arg-type]  # counts are integers
    return f"N = {low}" if low == high else f"N = {low} to {high}"


def trained_equations(spec: RunSpec) -> int:
    """Number of training equations of a run."""
    return count_examples(spec)[0]
