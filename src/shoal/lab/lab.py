"""A lab: a folder that keeps runs. Append-only, safe to read while it is written."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shoal.errors import DiskError, LabError
from shoal.lab.cohort import CohortFolder
from shoal.lab.files import check_own, read_json, write_json
from shoal.lab.locks import locked
from shoal.lab.names import check_name, find_run
from shoal.lab.records import Records
from shoal.lab.shapes import StudyNote
from shoal.spec import RunSpec

FORMAT = 1
_MARK = "shoal-lab.json"
_PARTS = (_MARK, "cohorts", "studies", "reports")


class Lab:
    """Runs by their ids, wherever in the folder they are.

    >>> Lab("no-such-folder").runs()
    []

    Args:
        path: the folder; it need not exist until something is trained.

    Raises:
        LabError: it is a file, holds other things than a lab, or was made by a newer shoal.
    """

    def __init__(self, path: str | Path = "lab") -> None:
        self.path = Path(path)
        self._check()

    def __repr__(self) -> str:
        return f"Lab({str(self.path)!r})"

    def _check(self) -> None:
        mark = self.path / _MARK
        try:
            if self.path.exists() and not self.path.is_dir():
                raise LabError(f"lab {self.path} is a file; it must be a folder")
            others = [] if not self.path.exists() else [p for p in self.path.iterdir() if not _is_ours(p)]
            marked = mark.exists()
            check_own(self.path / name for name in _PARTS)
        except OSError as error:
            raise LabError(f"lab {self.path} cannot be read: {error.strerror}") from None
        if marked:
            content = read_json(mark)
            found = content.get("format") if isinstance(content, dict) else None
            if not isinstance(found, int) or found > FORMAT:
                raise LabError(f"lab {self.path} has format {found}; this shoal reads formats up to {FORMAT}")
        elif others:
            raise LabError(f"{self.path} is not a lab (it has no {_MARK}); name a lab, an empty folder or a new one")

    def create(self) -> "Lab":
        """Make the folder a lab, if it is none yet.

        Raises:
            LabError: the folder cannot be written.
        """
        try:
            if not (self.path / _MARK).exists():
                write_json(self.path / _MARK, {"format": FORMAT})
            with self.planning():
                pass
        except DiskError as error:
            reason = getattr(error.__cause__, "strerror", None) or str(error)
            raise LabError(f"lab {self.path} cannot be written: {reason}") from None
        return self

    @contextmanager
    def planning(self) -> Iterator[None]:
        """Hold the lab while deciding who trains what."""
        with locked(self.path / "lock", 30.0, f"lab {self.path} is held by another process"):
            yield

    def cohorts(self) -> list[CohortFolder]:
        """Every cohort's folder, oldest first."""
        folders = [path for path in (self.path / "cohorts").glob("*") if (path / "cohort.json").exists()]
        return [CohortFolder(path) for path in sorted(folders, key=lambda p: (p / "cohort.json").stat().st_mtime_ns)]

    def cohort(self, name: str) -> CohortFolder:
        """The folder of a cohort, there or not."""
        return CohortFolder(self.path / "cohorts" / name)

    def survey(self) -> tuple[dict[str, CohortFolder], list[str]]:
        """The folder of each run, and a line for each cohort of which it cannot be known what runs it holds."""
        index: dict[str, CohortFolder] = {}
        unreadable = []
        for folder in self.cohorts():
            try:
                index |= {member["run"]: folder for member in folder.manifest()["members"]}
            except LabError as error:
                unreadable.append(f"which runs cohort {folder.id} holds cannot be known: {error}")
        return index, unreadable

    def index(self) -> dict[str, CohortFolder]:
        """The folder of each run that is known of."""
        return self.survey()[0]

    def unreadable(self) -> list[str]:
        """A line for each cohort whose ``cohort.json`` is damaged, with what to do; its runs are in no index."""
        return self.survey()[1]

    def runs(self) -> list[str]:
        """Ids of all runs, oldest cohort first."""
        return list(self.index())

    def records(self, runs: str | RunSpec | Iterable[str | RunSpec] | None = None) -> Records:
        """What the lab holds of some runs, or of all.

        Args:
            runs: ids, unambiguous beginnings of ids, or specs; several, or one.

        Raises:
            LabError: a run is not in the lab.
        """
        index, unreadable = self.survey()
        if runs is None:
            return Records(index)
        runs = [runs] if isinstance(runs, str | RunSpec) else runs
        wanted = [run.id if isinstance(run, RunSpec) else find_run(run, index, unreadable) for run in runs]
        missing = [run for run in wanted if run not in index]
        if missing:
            known = "; ".join([f"which holds {len(index)} runs", *unreadable])
            raise LabError(f"run {missing[0]} is not in lab {self.path}, {known}")
        return Records({run: index[run] for run in dict.fromkeys(wanted)})

    def unfinished(self) -> list[CohortFolder]:
        """Cohorts with members that still have steps to train, of those whose files say so."""
        found = []
        for folder in self.cohorts():
            with suppress(LabError):  # named by unreadable() and Records.damage()
                if not folder.is_finished() and folder.manifest():
                    found.append(folder)
        return found

    def note_study(self, name: str, form: str, note: dict[str, Any]) -> None:
        """Remember what a study trained in one of its forms."""
        write_json(self.path / "studies" / check_name(name, "study") / f"{check_name(form, 'form')}.json", note)

    def study_notes(self, name: str) -> list[dict[str, Any]]:
        """What :meth:`note_study` kept of each form of a study; first that of an earlier version, which kept one."""
        folder = self.path / "studies" / check_name(name, "study")
        files = [folder.with_name(f"{folder.name}.json"), *sorted(folder.glob("[!.]*.json"))]
        return [dict(read_json(path, StudyNote)) for path in files if path.exists()]

    def report_folder(self, name: str) -> Path:
        """Where the report of this name goes."""
        folder = self.path / "reports" / check_name(name, "report")
        check_own([folder, folder / "figures", folder / "tables"])
        return folder


def _is_ours(path: Path) -> bool:
    """What a process leaves that was killed while it made the lab."""
    return path.name.startswith((f".{_MARK}.", ".lock-holder.json.")) or path.name in ("lock", "lock-holder.json")
