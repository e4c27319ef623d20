"""A lab: a folder that keeps runs. Append-only, safe to read while it is written."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shoal.errors import DiskError, LabError
from shoal.lab.cohort import CohortFolder
from shoal.lab.files import check_own, is_there, names_in, read_json, write_json
from shoal.lab.locks import locked
from shoal.lab.names import check_name, find_run
from shoal.lab.records import Records
from shoal.lab.shapes import StudyNote
from shoal.lab.survey import Survey, find_cohorts, survey
from shoal.spec import RunSpec

FORMAT = 2  # since 2, JSON has checksums and files of metrics are listed; what 1 wrote is read and gone on with
MARK = "shoal-lab.json"
PARTS = (MARK, "cohorts", "studies", "reports", "aside")


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
        if not isinstance(path, str | Path):
            raise LabError(f"a lab is named by the path of its folder, got {path!r}")
        self.path = Path(path)
        self._check()

    def __repr__(self) -> str:
        return f"Lab({str(self.path)!r})"

    def _check(self) -> None:
        mark = self.path / MARK
        if is_there(self.path) and not self.path.is_dir():
            raise LabError(f"lab {self.path} is a file; it must be a folder")
        others = [name for name in names_in(self.path) if not _is_ours(name)]
        check_own(self.path / name for name in PARTS)
        if is_there(mark):
            check_mark(mark)
        elif "cohorts" in others:
            repair = f"shoal check --repair --lab {self.path}"
            raise LabError(f"{self.path} is not a lab, or has lost its {MARK}; if it is one, mend it: {repair}")
        elif others:
            raise LabError(f"{self.path} is not a lab (it has no {MARK}); name a lab, an empty folder or a new one")

    def create(self) -> "Lab":
        """Make the folder a lab, if it is none yet, and one of today's format, which earlier versions leave alone.

        Raises:
            LabError: the folder cannot be written.
        """
        try:
            if not is_there(self.path / MARK) or check_mark(self.path / MARK) < FORMAT:
                write_mark(self.path)
            with self.planning():
                pass
        except DiskError as error:
            reason = getattr(error.__cause__, "strerror", None) or str(error)
            raise LabError(f"lab {self.path} cannot be written: {reason}") from None
        return self

    @contextmanager
    def planning(self) -> Iterator[None]:
        """Hold the lab while deciding who trains what."""
        with self.held(self.path):
            yield

    @staticmethod
    @contextmanager
    def held(path: Path) -> Iterator[None]:
        """Hold the lab at ``path``, also where it is damaged."""
        with locked(path / "lock", 30.0, f"lab {path} is held by another process"):
            yield

    def cohorts(self) -> list[CohortFolder]:
        """Every cohort's folder, oldest first."""
        return find_cohorts(self.path)[0]

    def cohort(self, name: str) -> CohortFolder:
        """The folder of a cohort, there or not."""
        return CohortFolder(self.path / "cohorts" / name)

    def survey(self) -> Survey:
        """The folder of each run, and what cannot be known of others."""
        return survey(self.path)

    def index(self) -> Mapping[str, CohortFolder]:
        """The folder of each run that is known of."""
        return self.survey().index

    def unreadable(self) -> list[str]:
        """A line for each cohort of which something is not read, with what to do.

        One whose ``cohort.json`` is damaged or lost, so that its runs are in no index, and one whose runs are read from
        another.
        """
        found = self.survey()
        return [*found.unknown, *found.copies]

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
        found = self.survey()
        index = found.index
        if runs is None:
            return Records(index)
        runs = [runs] if isinstance(runs, str | RunSpec) else runs
        wanted = [run.id if isinstance(run, RunSpec) else find_run(run, index, found.unknown) for run in runs]
        missing = [run for run in wanted if run not in index]
        if missing:
            known = "; ".join([f"which holds {len(index)} runs", *found.unknown])
            raise LabError(f"run {missing[0]} is not in lab {self.path}, {known}")
        return Records({run: index[run] for run in dict.fromkeys(wanted)})

    def unfinished(self) -> list[CohortFolder]:
        """Cohorts with members that still have steps to train, of those whose files say so."""
        found = []
        for folder in {folder.path: folder for folder in self.index().values()}.values():
            with suppress(LabError):  # named by Records.damage()
                if not folder.is_finished():
                    found.append(folder)
        return found

    def note_study(self, name: str, form: str, note: dict[str, Any]) -> None:
        """Remember what a study trained in one of its forms."""
        write_json(self.path / "studies" / check_name(name, "study") / f"{check_name(form, 'form')}.json", note)

    def study_notes(self, name: str) -> tuple[list[dict[str, Any]], list[str]]:
        """What :meth:`note_study` kept of each form of a study; first that of an earlier version, which kept one.

        Returns:
            The notes, and a line for each that cannot be read, with what to do.
        """
        folder = self.path / "studies" / check_name(name, "study")
        check_own([folder])
        files = [folder.with_name(f"{folder.name}.json"), *sorted(folder.glob("[!.]*.json"))]
        notes, unreadable = [], []
        for path in filter(is_there, files):
            try:
                notes.append(dict(read_json(path, StudyNote)))
            except LabError as error:
                unreadable.append(f"{error}; move {path} out of the lab, and ask for what it noted again")
        return notes, unreadable

    def report_folder(self, name: str) -> Path:
        """Where the report of this name goes."""
        folder = self.path / "reports" / check_name(name, "report")
        check_own([folder, folder / "figures", folder / "tables"])
        return folder


def check_mark(path: Path) -> int:
    """The format that a ``shoal-lab.json`` says; :class:`LabError` for one that this shoal cannot read."""
    content = read_json(path)
    found = content.get("format") if isinstance(content, dict) else None
    if not isinstance(found, int) or found > FORMAT:
        raise LabError(f"lab {path.parent} has format {found}; this shoal reads formats up to {FORMAT}")
    return found


def write_mark(lab: Path) -> None:
    """Say that a folder is a lab."""
    write_json(lab / MARK, {"format": FORMAT})


def _is_ours(name: str) -> bool:
    """What a process leaves that was killed while it made the lab."""
    return name.startswith((f".{MARK}.", ".lock-holder.json.")) or name in ("lock", "lock-holder.json")
