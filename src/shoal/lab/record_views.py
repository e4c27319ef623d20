"""Access of Python and notebooks to the runs of :class:`shoal.lab.Records`: one by one, as figures and as tables."""

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import polars as pl

from shoal.analysis.times import time_to_generalise
from shoal.errors import UserError, nearest
from shoal.lab.cohort import CohortFolder
from shoal.lab.resting import state_text
from shoal.spec import RunSpec
from shoal.spec.known import known_settings

if TYPE_CHECKING:
    from shoal.lab.records import Records
    from shoal.report.plots import Plot

# The module that draws runs and sets them as tables. It stands behind the lab, whose files it reads, and so is named by
# its place and loaded when a figure or a table is asked for, as the parts of a run are.
SHOWN_BY = "shoal.report.plots"


class Run:
    """One run of a lab: its spec, its state, its curve and its models.

    Curves and models are read from the lab at each call, state and step at the first. Settings are in ``run.spec``.

    Args:
        records: the run alone.
        rows: function that returns the rows of :meth:`Records.runs` by run; runs of one iteration share it.

    Attributes:
        id: 16 hexadecimal digits.
        records: the run as :class:`shoal.lab.Records`, for all other methods.
    """

    def __init__(self, records: "Records", rows: Callable[[], Mapping[str, dict[str, Any]]] | None = None) -> None:
        (self.id,) = records.ids
        self.records = records
        self._rows = rows or cache(records.rows)

    def __repr__(self) -> str:
        row = self._row
        state = state_text(row["state"], row["step"])
        return f"<Run {self.id[:8]}: {row['model']}, seed {row['seed']}, {state}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    if not TYPE_CHECKING:  # to a type checker an unknown attribute stays one

        def __getattr__(self, name: str) -> Any:
            where = f"; settings are in its spec: run.spec.{name}" if name in known_settings() else ""
            raise AttributeError(f"a run has no {name!r}{where}")

    @property
    def _row(self) -> dict[str, Any]:
        return self._rows()[self.id]

    @property
    def spec(self) -> RunSpec:
        """Spec of the run."""
        return self.records.spec_of(self.id)

    @property
    def state(self) -> str:
        """State of the run, one of :data:`shoal.lab.records.STATES`."""
        return str(self._row["state"])

    @property
    def step(self) -> int | None:
        """Last step that was trained and flushed; None where the record is damaged."""
        step = self._row["step"]
        return None if step is None else int(step)

    @property
    def name(self) -> str | None:
        """Name of the run in its lab; None where it has none."""
        return self.records.labels().of(self.id).name

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups that the run is in."""
        return tuple(self.records.labels().groups_of(self.id))

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags of the run, those of its groups included."""
        return tuple(self.records.labels().tags_of(self.id))

    @property
    def note(self) -> str:
        """Note on the run; empty where there is none."""
        return self.records.labels().of(self.id).note

    def curve(self) -> pl.DataFrame:
        """Evaluations of the run, one row each, by step: see :meth:`shoal.lab.Records.curves`."""
        return self.records.curves().sort("step")

    def best(self, t_max: int | None = None) -> dict[str, Any]:
        """Best values and the first step of each, up to step ``t_max``: a row of :meth:`shoal.lab.Records.extrema`."""
        return self.records.extrema(t_max).row(0, named=True)

    def metrics(self) -> dict[str, Any]:
        """Curve of the run as the practical's dictionary, see :meth:`shoal.lab.Records.all_metrics`."""
        return self.records.all_metrics(self.id)

    def models(self) -> dict[int, Path]:
        """Files of the kept models, by step."""
        return self.records.model_files(self.id)

    def model(self, step: int | str | None = None, average: int = 1) -> Any:
        """Kept model of the run, the last where no step is named: see :meth:`shoal.lab.Records.model`."""
        return self.records.model(self.id, step, average)

    def plot(self, quantity: str | Sequence[str] | None = None, title: str | None = None) -> "Plot":
        """Figure of this run alone, see :meth:`shoal.lab.Records.plot`."""
        return self.records.plot(quantity, title=title)


class RecordViews:
    """Records as a sequence of runs that filters, draws and shows itself."""

    _folders: dict[str, CohortFolder]

    def __iter__(self) -> Iterator[Run]:
        rows = cache(self.rows)
        for run in self._folders:
            yield Run(self.chosen([run]), rows)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Rows of :meth:`Records.runs` as dictionaries, by run."""
        return {row["run"]: row for row in self._records().runs().iter_rows(named=True)}

    def __contains__(self, run: object) -> bool:
        return (run.id if isinstance(run, Run | RunSpec) else run) in self._folders

    @overload
    def __getitem__(self, which: int | str | RunSpec) -> Run: ...

    @overload
    def __getitem__(self, which: slice) -> "Records": ...

    def __getitem__(self, which: int | str | RunSpec | slice) -> "Run | Records":
        """Run by its position, its name, its id (or an unambiguous beginning of it) or its spec; several by a slice.

        Raises:
            IndexError: there is no such position.
            UserError: no run here has such an id, or several have; or ``which`` is none of these.
        """
        ids = list(self._folders)
        if isinstance(which, slice):
            return self.chosen(ids[which])
        if isinstance(which, bool) or not isinstance(which, int | str | RunSpec):
            raise UserError(f"a run is chosen by its position, its id or its spec, several by a slice, got {which!r}")
        if isinstance(which, int):
            if not -len(ids) <= which < len(ids):
                raise IndexError(f"there is no run {which} among {len(ids)} runs, which are numbered from 0")
            return self._one(ids[which])
        return self._one(self._records().find(which.id if isinstance(which, RunSpec) else which))

    def _records(self) -> "Records":
        return cast("Records", self)

    def _one(self, run: str) -> Run:
        return Run(self.chosen([run]))

    def chosen(self, runs: Iterable[str]) -> "Records":
        """Records of some of the runs, in the order of these ids; specs that have been read are not read again."""
        other = cast("Records", type(self)({run: self._folders[run] for run in runs}))  # type: ignore[call-arg]
        vars(other).update({name: value for name, value in vars(self).items() if name != "_folders"})
        return other

    def filter(self, which: Callable[[Run], Any] | pl.Expr) -> "Records":
        """Records of the runs for which a condition holds.

        >>> records.filter(lambda run: run.spec.weight_decay > 0.5)  # doctest: +SKIP
        Records(4 runs)

        Args:
            which: a function of a :class:`Run`, or a polars expression of the columns of :meth:`Records.runs` and, for
                what was measured, of :meth:`Records.extrema`: ``pl.col("valid_accuracy") >= 0.99``. Runs of which the
                expression is null are left out.

        Raises:
            UserError: it is neither, or the expression names no such column.
        """
        records = self._records()
        if isinstance(which, pl.Expr):
            table = _with_measured(records, which.meta.root_names())
            chosen = set(table.filter(which)["run"])
        elif callable(which):
            chosen = {run.id for run in self if which(run)}
        else:
            raise UserError(f"filter takes a function of a run or a polars expression, got {which!r}")
        return self.chosen([run for run in self._folders if run in chosen])

    def times(self, stay: int = 1, threshold: float | None = None) -> pl.DataFrame:
        """Time to generalise of each run, by the definition of its task; see :func:`shoal.analysis.time_to`.

        A run that did not generalise has no such time: its ``observed`` is false, and ``time`` is the step until which
        it is known not to have, as survival analysis asks for (censoring). A mean needs these rows, too.

        Args:
            stay: number of evaluations in a row at which the run has to have generalised.
            threshold: value of the main validation measure that counts as generalised, in place of the task's own
                (validation accuracy 0.9 of equations).

        Returns:
            One row per run: ``run``, ``time`` (in steps; of a run that did not generalise, the last evaluated step that
            ``stay − 1`` others follow, or the step at which it diverged), ``observed``, ``fell_back`` and ``state``.

        Raises:
            UserError: the task does not say when a run has generalised, or the runs are of several tasks.
            LabError: a file is damaged.
        """
        records = self._records()
        if len(records.tasks) > 1:
            raise UserError(
                f"these runs are of {len(records.tasks)} tasks, each with its own criterion of generalising: choose "
                f"one with where(task={records.tasks[0]!r})"
            )
        return time_to_generalise(records.curves(), records.measures(), records.runs(), stay, threshold)

    def plot(
        self,
        quantity: str | Sequence[str] | None = None,
        by: str | Sequence[str] | None = None,
        title: str | None = None,
    ) -> "Plot":
        """Figure of these runs, the chart of a report's page, which a notebook shows and ``save`` writes to a file.

        >>> records.plot("valid_accuracy", by="weight_decay").save("accuracy.png")  # doctest: +SKIP

        Args:
            quantity: a column of :meth:`Records.curves` (``valid_accuracy``) or its symbol (``A_val``), or several, one
                panel each; the name of a measure (``accuracy``) for both splits; ``time_to_generalise`` for the share
                of runs that has. The measure that says most where none is named.
            by: the setting, or several, whose values are told apart by colour, with a band over the runs that share
                one; where none is named, the settings in which the runs differ besides their seeds. Of a measure on
                both splits it is the mean of all runs, where these have more values than there are colours.
            title: over the figure.

        Raises:
            UserError: there is no such quantity or setting, the runs do not differ in it, or in too many values.
            LabError: every run is damaged, or none has been evaluated yet.
        """
        return cast("Plot", importlib.import_module(SHOWN_BY).plot_runs(self, quantity, by, title))

    def _repr_html_(self) -> str:
        """Table of ``shoal runs`` as HTML, which a notebook shows."""
        return str(importlib.import_module(SHOWN_BY).html_table(self))


def _with_measured(records: "Records", names: Iterable[str]) -> pl.DataFrame:
    """Runs with their settings, and with their best values where one of these columns is of them."""
    table = records.runs()
    missing = [name for name in names if name not in table.columns]
    if not missing:
        return table
    best = records.best_of(records.curves())
    table = table.join(best, on="run", how="left", maintain_order="left")
    for name in missing:
        if name not in table.columns:
            raise UserError(f"these runs have no column {name!r}{nearest(name, table.columns)}")
    return table
