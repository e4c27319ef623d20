"""Records of some runs of a lab, as data frames and as the practical's dictionaries."""

from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from shoal.analysis.extrema import extrema, with_delays
from shoal.errors import LabError, UserError, nearest
from shoal.lab.cohort import CohortFolder
from shoal.lab.damage import damage_of
from shoal.lab.frames import schema_of
from shoal.lab.members import task_of, told_of
from shoal.lab.record_decodes import DecodeRecords
from shoal.lab.record_labels import PROBLEM
from shoal.lab.record_models import ModelRecords
from shoal.lab.record_views import RecordViews, Run
from shoal.lab.resting import LEFT, left_runs
from shoal.lab.snapshot import CohortSnapshot
from shoal.measures import EQUATIONS, Measures, union
from shoal.registry import KINDS, USUAL
from shoal.spec import RunSpec
from shoal.spec.choice import as_cell, fits, read_choice
from shoal.spec.identity import defaults
from shoal.spec.known import known_settings

STATES = ("waiting", "running", "interrupted", LEFT, "done", "diverged", "damaged")


class Records(DecodeRecords, ModelRecords, RecordViews):
    """Records of the runs of a request, in its order; files are read at each call, but see :meth:`snapshot`."""

    def __init__(self, folders: Mapping[str, CohortFolder]) -> None:
        super().__init__(folders)
        self._restored: dict[Path, dict[str, RunSpec]] = {}  # written once, and slow to make

    def __len__(self) -> int:
        return len(self._folders)

    def __repr__(self) -> str:
        return f"Records({len(self)} run{'s' * (len(self) != 1)})"

    @property
    def ids(self) -> list[str]:
        """The runs' ids."""
        return list(self._folders)

    @property
    def specs(self) -> dict[str, RunSpec]:
        """The runs' specs by id."""
        specs: dict[str, RunSpec] = {}
        for folder in self.cohorts():
            specs.update(self._specs_of(folder))
        return {run: specs[run] for run in self.ids}

    def spec_of(self, run: str | Run | RunSpec) -> RunSpec:
        """The spec of a run; those of other cohorts, whose parts may not be here, are not built.

        Raises:
            UserError: no run here has such an id, or several have.
            LabError: a part of it from outside of shoal cannot be imported here, or a file is damaged.
        """
        run = self.find(run)
        return self._specs_of(self._folders[run])[run]

    def _specs_of(self, folder: CohortFolder) -> dict[str, RunSpec]:
        if folder.path not in self._restored:
            self._restored[folder.path] = {spec.id: spec for spec in folder.specs()}
        return self._restored[folder.path]

    def snapshot(self) -> "Records":
        """Records of the same runs as they stand now: all files read later, but models, are of this moment.

        Results of several readings, such as reports, are made from it, since runs may be training meanwhile.
        """
        taken = {
            folder.path: folder if isinstance(folder, CohortSnapshot) else CohortSnapshot(folder.path)
            for folder in self.cohorts()
        }
        snapshot = Records({run: taken[folder.path] for run, folder in self._folders.items()})
        snapshot._labels = self.labels()
        return snapshot

    def _settings(self) -> dict[str, dict[str, Any]]:
        """Settings of each run as cells of a table, unchecked, as they stand in the lab: a check would take longest."""
        return {
            member["run"]: {name: as_cell(value) for name, value in _every(member["spec"]).items()}
            for folder in self.cohorts()
            for member in folder.manifest()["members"]
            if self._folders.get(member["run"]) is folder
        }

    def cohorts(self) -> list[CohortFolder]:
        """The folders in which the runs were trained, each once."""
        return list({folder.path: folder for folder in self._folders.values()}.values())

    def cohort_of(self, run: str | Run | RunSpec) -> CohortFolder:
        """The folder in which a run was trained.

        Raises:
            UserError: no run here has such an id, or several have.
        """
        return self._folders[self.find(run)]

    @property
    def tasks(self) -> list[str]:
        """Names of the runs' tasks, each once."""
        return list(dict.fromkeys(task_of(folder.manifest()) for folder in self.cohorts()))

    def measures(self) -> Measures:
        """Measures of the runs' tasks; of several tasks those that any of them has, see :func:`union`."""
        return union(folder.measures() for folder in self.cohorts()) if len(self) else EQUATIONS

    def runs(self) -> pl.DataFrame:
        """One row per run: ``run``, ``state``, ``step``; ``problem`` of a fit, ``name``, ``group``, ``tags`` and
        ``note``, each where some run has one, several with spaces between; settings.

        The state is one of :data:`STATES`, ``damaged`` (with no step) where the lab does not say; metrics are not
        read for it, see :meth:`damage`.
        """
        states: dict[str, dict[str, Any]] = {}
        rungs = {lab: left_runs(lab) for lab in {folder.path.parent.parent for folder in self.cohorts()}}
        for folder in self.cohorts():
            try:
                members = folder.status()["members"]
            except LabError:
                continue
            stopped = any(m["state"] == "running" for m in members.values()) and not folder.is_training()
            for run, member in members.items():
                if self._folders.get(run) is not folder:  # read from another, or not asked for
                    continue
                lost = stopped and member["state"] == "running"
                state = "interrupted" if lost else member["state"]
                has_left = state == "waiting" and member["step"] in rungs[folder.path.parent.parent].get(run, ())
                states[run] = {**member, "state": LEFT if has_left else state}
        settings, unknown = self._settings(), {"state": "damaged", "step": None}
        places = {run: states.get(run, unknown) for run in self.ids}
        labels = self.label_cells()
        is_told = any(at.get("problem") for at in places.values())
        rows = [
            {
                "run": run,
                "state": at["state"],
                "step": at["step"],
                **({PROBLEM: str(at.get(PROBLEM, ""))} if is_told else {}),
                **labels[run],
                **settings[run],
            }
            for run, at in places.items()
        ]
        overrides = {"run": pl.String, "state": pl.String, "step": pl.Int64}
        names = [name for row in rows for name in row] or [*KINDS, *known_settings()]  # also where there are no runs
        columns = dict.fromkeys(["run", "state", "step", *names])
        return pl.DataFrame(rows, list(columns), schema_overrides=overrides, infer_schema_length=None)

    def where(
        self,
        state: str | Iterable[str] | None = None,
        tag: str | Iterable[str] | None = None,
        group: str | Iterable[str] | None = None,
        **values: Any,
    ) -> "Records":
        """Records of the runs that have these settings, given as to :func:`shoal.grid`, and are in one of these states,
        have one of these tags and are in one of these groups.

        A damaged run has the state ``damaged``; with a state all metrics are read.

        Raises:
            UserError: there is no such setting, state, tag or group, or a setting does not allow a value.
        """
        cells, chosen = self._settings() if values else {}, self.labelled(tag, group)
        if values:
            outside = {
                kind: sorted({settings[kind] for settings in cells.values() if ":" in settings[kind]}) for kind in KINDS
            }
            choice = read_choice(values, outside)
            chosen &= {run for run, settings in cells.items() if fits(settings, choice)}
        if state is not None:
            wanted = list(state) if isinstance(state, Iterable) and not isinstance(state, str) else [state]
            for name in wanted:
                if name not in STATES:
                    raise UserError(f"unknown state {name!r}: one of {' '.join(STATES)}{nearest(name, STATES)}")
            damage = self.damage()
            states = {
                run: "damaged" if run in damage else state for run, state in self.runs()["run", "state"].iter_rows()
            }
            chosen = {run for run in chosen if states.get(run) in wanted}
        return self.without({*self.ids} - chosen)

    def damage(self) -> dict[str, str]:
        """Damage to the record of each run, as a line with a remedy; empty where every run is whole.

        All metrics are read for it. The other methods that read them raise :class:`LabError` at the first file that is
        damaged, and return the rows that there are where some are missing.
        """
        damage: dict[str, str] = {}
        for folder in self.cohorts():
            damage |= {run: why for run, why in damage_of(folder).items() if self._folders.get(run) is folder}
        return {run: damage[run] for run in self.ids if run in damage}

    def foreign(self) -> dict[str, str]:
        """Reason why a run, though whole, has no spec here, by run: another version of shoal trained it otherwise.

        Nothing from outside of shoal is imported for this: of runs whose task, model or optimizer is not loaded here
        only the version is looked at, and what they measured can be shown all the same.
        """
        reasons: dict[str, str] = {}
        for folder in self.cohorts():
            try:
                if folder.is_loaded():
                    self._specs_of(folder)
                else:
                    folder.check_versions()
            except LabError as error:
                reasons |= {run: str(error) for run, home in self._folders.items() if home is folder}
        return reasons

    def without(self, runs: Container[str]) -> "Records":
        """Records of the other runs."""
        return self.chosen(run for run in self._folders if run not in runs)

    def whole(self) -> tuple["Records", dict[str, str]]:
        """Records of the runs that are not damaged and have specs, and a line about each other run.

        Raises:
            LabError: there is something wrong with every run.
        """
        wrong = self.foreign() | self.damage()
        if wrong and len(wrong) == len(self):
            raise LabError(f"every one of these {len(self)} runs is damaged: {next(iter(wrong.values()))}")
        return self.without(wrong), wrong

    def curves(self) -> pl.DataFrame:
        """Every evaluation of every run.

        Returns:
            ``run``, ``step``, what the tasks measure on each split, such as ``train_loss`` and ``valid_loss`` (nats),
            ``train_accuracy`` and ``valid_accuracy``, ``l2_norm``, further quantities that were registered, then
            ``model``, ``seed`` and the settings in which the runs differ. What a run's task does not measure is null.

        Raises:
            LabError: a file is damaged.
        """
        frames = [frame for folder in self.cohorts() if not (frame := folder.metrics()).is_empty()]
        if not frames:
            return pl.DataFrame(schema={**schema_of(self.measures().columns), "model": pl.String, "seed": pl.Int64})
        cells = self._settings()
        settings = pl.DataFrame([{"run": run, **cells[run]} for run in self.ids], infer_schema_length=None)
        differing = [
            name for name in settings.columns if name in ("run", "model", "seed") or settings[name].n_unique() > 1
        ]
        metrics = pl.concat(frames, how="diagonal")
        # joined from the request's side, so that rows come in its order and runs beside it are left out
        return (
            settings.select("run")
            .join(metrics, on="run", maintain_order="left_right")
            .join(settings.select(differing), on="run", maintain_order="left")
        )

    def extrema(self, t_max: int | None = None) -> pl.DataFrame:
        """Best values and the steps of each, per run, up to step ``t_max``; see :func:`shoal.analysis.extrema`.

        A step ``t_…`` is when a run memorised or generalised only where its best value says that it did; of the others
        it is the step after which they got no better, and their delays are null.

        Of runs of several tasks what a run's task does not measure is null.
        """
        curves = self.curves()
        if curves.is_empty():
            raise LabError("none of these runs has been evaluated yet")
        return self.best_of(curves, t_max)

    def best_of(self, curves: pl.DataFrame, t_max: int | None = None) -> pl.DataFrame:
        """Best values, as :meth:`extrema`, of :meth:`curves` that are read already; no row where they have none."""
        measures = {folder.path: folder.measures() for folder in self.cohorts()}
        runs: dict[Measures, list[str]] = {}
        for run, folder in self._folders.items():
            runs.setdefault(measures[folder.path], []).append(run)
        if len(runs) < 2:
            return with_delays(extrema(curves, t_max, self.measures()), self.measures())
        of = {m: curves.filter(pl.col("run").is_in(several)) for m, several in runs.items()}
        parts = [with_delays(extrema(curve, t_max, m), m) for m, curve in of.items()]
        order = extrema(curves.clear(), t_max, self.measures()).columns
        best = pl.concat(parts, how="diagonal").select(order)
        return pl.DataFrame({"run": self.ids}).join(best, on="run", maintain_order="left")

    def all_metrics(self, run: str | Run | RunSpec) -> dict[str, Any]:
        """The curves of one run in the practical's form: ``train`` and ``test`` with lists, and ``all_steps``.

        On each split what the run's task measures: ``loss``, ``accuracy`` and so on.

        Args:
            run: its id, an unambiguous beginning of it, or its name, as wherever a run is named.

        Raises:
            UserError: no run here has such an id, or several have.
            LabError: a file is damaged.
        """
        run = self.find(run)
        curve = self._folders[run].metrics().filter(pl.col("run") == run).sort("step")
        names = [measure.name for measure in self._folders[run].measures().recorded]
        return {
            "train": {q: curve[f"train_{q}"].to_list() for q in names},
            "test": {q: curve[f"valid_{q}"].to_list() for q in names},
            "all_steps": curve["step"].to_list(),
            "l2_norm": curve["l2_norm"].to_list(),
        }

    def kept(self, run: str | Run | RunSpec) -> dict[str, Any]:
        """Artifacts that the run's task keeps with its models: of a text its ``tokenizer``, as JSON.

        Raises:
            UserError: no run here has such an id, or several have.
            LabError: it is damaged.
        """
        return self._folders[self.find(run)].kept()

    def beside(self) -> list[str]:
        """Reference values to show beside these results, such as baselines, by their tasks: lines, each once."""
        lines = [line for folder in self.cohorts() for line in told_of(folder, "beside", [])]
        return list(dict.fromkeys(lines))

    def units(self) -> dict[str, dict[str, float]]:
        """Further units of the loss of each run, by name, as factors; most tasks have none."""
        units = {folder.path: dict(told_of(folder, "units", {})) for folder in self.cohorts()}
        return {run: units[folder.path] for run, folder in self._folders.items()}


def _every(dump: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a dump; one that is younger than the record has its default."""
    usual, _ = defaults(dump.get("task", USUAL["task"]), dump["model"], dump["optimizer"])
    recorded = {name: value for name, value in dump.items() if value is not None or name in usual}
    return {"task": USUAL["task"], **recorded, **{name: value for name, value in usual.items() if name not in recorded}}
