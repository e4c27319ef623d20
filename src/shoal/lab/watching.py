"""Reading of a lab without touching it: no lock is taken, nothing is written, and a file is read again only when it has
changed.

A trainer flushes at least every 30 seconds, which is the largest age of what is read.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from shoal.errors import LabError
from shoal.lab.cohort import FINISHED, CohortFolder, is_over
from shoal.lab.files import names_in
from shoal.lab.lab import Lab
from shoal.lab.labels import read_labels
from shoal.lab.locks import held_locks, is_seen_held
from shoal.lab.members import is_part_loaded
from shoal.lab.parts import Parts
from shoal.lab.resting import LEFT, left_runs
from shoal.lab.survey import is_pending
from shoal.measures import Measures
from shoal.registry import MODELS, short

_ENOUGH = 20  # steps of a session from which its pace says something
_Held = set[tuple[int, int, int]] | None  # inodes of held locks; None where the system does not tell
FRESH = 60.0  # seconds since a flush within which a cohort is taken to be training where locks do not tell


@dataclass(frozen=True)
class SeenRun:
    """Run at one moment: its settings as they stand in the lab, its state, and its last step."""

    run: str
    state: str
    step: int
    n_steps: int
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class SeenCohort:
    """A cohort at one moment.

    Attributes:
        id: its name.
        title: its model in words.
        runs: its members.
        measures: what its task measures.
        curves: every flushed evaluation, see :meth:`shoal.lab.cohort.CohortFolder.metrics`.
        state: waiting, running, interrupted or done.
        flushed: time at which ``status.json`` was written, in seconds since 1970.
        seconds_left: an estimate by the pace of the last session; None where there is none.
    """

    id: str
    title: str
    runs: Sequence[SeenRun]
    measures: Measures
    curves: pl.DataFrame
    state: str
    flushed: float
    seconds_left: float | None

    @property
    def step(self) -> int:
        """Mean step of the members."""
        return sum(run.step for run in self.runs) // len(self.runs)

    @property
    def n_steps(self) -> int:
        """Mean number of steps of the members; of those that have ended or left a tuning their last step."""
        return sum(run.step if run.state in (*FINISHED, LEFT) else run.n_steps for run in self.runs) // len(self.runs)


@dataclass(frozen=True)
class SeenLab:
    """A lab at one moment.

    Attributes:
        cohorts: those that train first, then the one that was flushed last.
        lines: one for each cohort that cannot be read.
        names: names of the runs that have one, by run.
    """

    cohorts: Sequence[SeenCohort] = ()
    lines: Sequence[str] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    def count(self) -> dict[str, int]:
        """Number of runs in each state."""
        states = {run.run: run.state for cohort in reversed(self.cohorts) for run in cohort.runs}
        counts: dict[str, int] = {}
        for state in states.values():
            counts[state] = counts.get(state, 0) + 1
        return counts


class Watcher:
    """Watcher of a lab, which reads it again and again.

    Args:
        path: the lab's folder; it may come into being, change and vanish in between.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._seen: dict[str, _Folder] = {}

    def look(self) -> SeenLab:
        """Read the lab as it stands now; an error in reading becomes a line."""
        try:
            Lab(self.path)
            names = names_in(self.path / "cohorts")
        except LabError as error:
            return SeenLab(lines=[str(error)])
        except OSError as error:
            return SeenLab(lines=[f"lab {self.path} cannot be read: {error.strerror}"])
        held, now = held_locks(), time.time()
        names = [name for name in names if not is_pending(CohortFolder(self.path / "cohorts" / name))]
        self._seen = {name: self._seen.get(name) or _Folder(self.path / "cohorts" / name) for name in names}
        cohorts, lines, rungs = [], [], left_runs(self.path)
        for name, folder in self._seen.items():
            try:
                if (cohort := folder.look(held, now, rungs)) is not None:
                    cohorts.append(cohort)
            except (LabError, OSError) as error:
                lines.append(f"cohort {name[:8]}: {error}")
        order = {"running": 0, "interrupted": 1, "waiting": 2, "done": 3}
        cohorts.sort(key=lambda cohort: (order[cohort.state], -cohort.flushed))
        return SeenLab(cohorts, lines, self._names())

    def _names(self) -> dict[str, str]:
        try:
            labels = read_labels(self.path)
        except OSError:  # it vanished meanwhile
            return {}
        return {run: label.name for run, label in labels.runs.items() if label.name is not None}


@dataclass
class _Folder:
    """Folder of a cohort, with the records that were read last."""

    path: Path
    stamps: tuple[Any, ...] = ()
    folder: CohortFolder | None = None
    read: dict[str, pl.DataFrame] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    curves: pl.DataFrame = field(default_factory=pl.DataFrame)
    title: str = ""

    def look(self, held: _Held, now: float, rungs: Mapping[str, set[int]]) -> SeenCohort | None:
        """The cohort; None where there is none yet. ``rungs`` are steps at which runs left tunings."""
        asked = _stamp(self.path / "cohort.json")
        if asked is None:
            return None
        stamps = (asked, _stamp(self.path / "status.json"))
        if stamps != self.stamps or self.folder is None:
            if self.folder is None or asked != self.stamps[0]:
                self.folder, self.read = _Reader(self.path, self.read), {}
                self.title = _title(self.folder.manifest())
            self.status, self.curves = self.folder.stand()
            self.stamps = stamps  # of before it was read: what changed since is read next time
        flushed = asked[0] / 1e9 if stamps[1] is None else stamps[1][0] / 1e9
        return _cohort(self, self.folder.manifest(), is_seen_held(self.path / "lock", held), flushed, now, rungs)


class _Reader(CohortFolder):
    """A cohort whose files of metrics, which are written once, are read once."""

    def __init__(self, path: Path, read: dict[str, pl.DataFrame]) -> None:
        super().__init__(path)
        self._parts = _Parts(path / "metrics", read)

    @property
    def parts(self) -> Parts:
        return self._parts


class _Parts(Parts):
    def __init__(self, path: Path, read: dict[str, pl.DataFrame]) -> None:
        super().__init__(path)
        self._read_already = read

    def read_one(self, name: str, measured: Any = ()) -> pl.DataFrame:
        if name not in self._read_already:
            self._read_already[name] = super().read_one(name, measured)
        return self._read_already[name]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Time of writing, size and inode of a file, which change when it is replaced; None where there is no file."""
    try:
        about = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return about.st_mtime_ns, about.st_size, about.st_ino


def _title(manifest: Mapping[str, Any]) -> str:
    """``gpt, 2 layers, d 128``; of a model whose code is not loaded here its name alone."""
    dump = manifest["members"][0]["spec"]
    name = str(dump["model"])
    if not is_part_loaded("model", name):
        return short(name)
    try:
        model = MODELS[name]
        settings = {setting: value for setting, value in dump.items() if setting in model.model_fields}
        return ", ".join(filter(None, [short(name), str(model.model_construct(**settings).describe())]))
    except Exception:  # settings of another version, or someone else's code
        return short(name)


def _cohort(
    reading: _Folder,
    manifest: Mapping[str, Any],
    is_held: bool | None,
    flushed: float,
    now: float,
    rungs: Mapping[str, set[int]],
) -> SeenCohort:
    assert reading.folder is not None
    status = reading.status
    begun = any(member["state"] == "running" for member in status["members"].values())
    trains = now - flushed < FRESH if is_held is None else is_held
    has_left = {
        run: at["state"] == "waiting" and at["step"] in rungs.get(run, ()) for run, at in status["members"].items()
    }
    if all(has_left[run] or is_over(at) for run, at in status["members"].items()):
        state = "done"
    elif trains and begun:
        state = "running"
    else:
        state = "interrupted" if begun else "waiting"
    runs = []
    for member in manifest["members"]:
        at, spec = status["members"][member["run"]], member["spec"]
        lost = at["state"] == "running" and state == "interrupted"
        n_steps = int(spec.get("n_steps") or at["step"])
        now_is = LEFT if has_left[member["run"]] else "interrupted" if lost else at["state"]
        runs.append(SeenRun(member["run"], now_is, at["step"], n_steps, spec))
    seen = SeenCohort(
        reading.path.name, reading.title, runs, reading.folder.measures(), reading.curves, state, flushed, None
    )
    left = _seconds_left(seen, status["sessions"], now) if state == "running" else None
    return SeenCohort(**{**seen.__dict__, "seconds_left": left})


def _seconds_left(cohort: SeenCohort, sessions: Sequence[Mapping[str, Any]], now: float) -> float | None:
    session = sessions[-1] if sessions else {}
    seconds, steps = float(session.get("seconds", 0)), int(session.get("to_step", 0)) - int(session.get("from_step", 0))
    if seconds <= 0 or steps < _ENOUGH:
        return None
    return max(0.0, (cohort.n_steps - cohort.step) * seconds / steps - (now - cohort.flushed))
