"""Lab: a folder that keeps runs; append-only, and safe to read while it is written."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shoal.errors import DiskError, LabError, UserError, nearest
from shoal.lab.cohort import CohortFolder
from shoal.lab.deleting import DELETED, DELETING, Cut, clear, delete, deleted_runs, find_deleted, plan_deletion
from shoal.lab.files import check_own, is_there, names_in, read_json, write_json
from shoal.lab.labelling import Change, change_labels, label_trained, words
from shoal.lab.labels import Labels, read_labels
from shoal.lab.locks import locked
from shoal.lab.names import check_name
from shoal.lab.records import Records
from shoal.lab.shapes import StudyNote
from shoal.lab.survey import Survey, find_cohorts, survey
from shoal.spec import RunSpec

FORMAT = 2  # since 2, JSON has checksums and files of metrics are listed; what 1 wrote is read and gone on with
MARK = "shoal-lab.json"
MOST_NAMED = 5  # labs beside a folder that is none
PARTS = (MARK, "cohorts", "studies", "tunings", "reports", "labels", "aside", DELETING, DELETED)


class Lab:
    """Lab of runs, which are found by their ids wherever in the folder they are.

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
        """Survey of the cohorts: the folder of each run, and lines about cohorts that cannot be read."""
        return survey(self.path)

    def index(self) -> Mapping[str, CohortFolder]:
        """The folder of each run that is known of."""
        return self.survey().index

    def unreadable(self) -> list[str]:
        """Lines about cohorts and labels that cannot be read, each with a remedy.

        A cohort whose ``cohort.json`` is damaged or lost, so that its runs are in no index, and one whose runs are read
        from another; a label that is damaged, and a group of runs that are not there.
        """
        surveyed, labels = self.survey(), self.labels()
        absent = [] if surveyed.unknown else labels.absent({*surveyed.index, *deleted_runs(self.path)})
        return [*surveyed.unknown, *surveyed.copies, *labels.damage.values(), *absent]

    def check_there(self) -> None:
        """Raise :class:`LabError` where there is no folder of the lab; names the labs beside it."""
        if not is_there(self.path):
            beside = sorted(path.parent.name for path in self.path.absolute().parent.glob(f"*/{MARK}"))
            near = f"; labs beside it: {' '.join(beside[:MOST_NAMED])}" if beside else "; training makes one"
            raise LabError(f"there is no lab {self.path}{near}{nearest(self.path.name, beside)}")

    def runs(self) -> list[str]:
        """Ids of all runs, oldest cohort first."""
        return list(self.index())

    def records(self, runs: str | RunSpec | Iterable[str | RunSpec] | None = None) -> Records:
        """Records of some runs of the lab, or of all.

        Args:
            runs: ids, unambiguous beginnings of ids, names of runs or of groups, or specs; several, or one.

        Raises:
            LabError: a run is not in the lab; or all are asked for of a folder that is not there.
        """
        if runs is None:
            self.check_there()
        surveyed = self.survey()
        index = surveyed.index
        if runs is None:
            return Records(index)
        asked = [runs] if isinstance(runs, str | RunSpec) else list(runs)
        wanted = self._find(asked, surveyed)
        missing = [run for run in wanted if run not in index]
        if missing:
            known = "; ".join([f"which holds {len(index)} runs", *surveyed.unknown])
            raise LabError(f"run {missing[0]} is not in lab {self.path}, {known}")
        return Records({run: index[run] for run in dict.fromkeys(wanted)})

    def _find(self, asked: Iterable[str | RunSpec], surveyed: Survey) -> list[str]:
        """Ids of the runs asked for; that of a spec may be in no cohort."""
        labels, wanted = self.labels(), []
        for run in asked:
            if isinstance(run, RunSpec):
                wanted.append(run.id)
                continue
            try:
                wanted += labels.find(run, surveyed.index, [*surveyed.unknown, *labels.damage.values()])
            except LabError:
                raise
            except UserError as error:
                deleted = deleted_runs(self.path)
                if (gone := find_deleted(run, deleted)) is None or gone in surveyed.index:
                    raise
                raise UserError(f"{error}; run {gone} was deleted ({deleted[gone]['at']})") from None
        return wanted

    # what runs are called

    def labels(self) -> Labels:
        """Names, tags and notes of runs, and groups."""
        return read_labels(self.path)

    def label(
        self,
        runs: str | RunSpec | Iterable[str | RunSpec],
        *,
        name: str | None = None,
        tag: str | Iterable[str] = (),
        untag: str | Iterable[str] = (),
        note: str | None = None,
        group: str | None = None,
        ungroup: str | None = None,
        clear: bool = False,
    ) -> None:
        """Label runs, and put them into groups or take them out; arguments that are not given change nothing.

        Args:
            runs: as for :meth:`records`; the name of a group labels the group.
            name: of one run or one group, unique in the lab; ``""`` removes a run's.
            tag: words to add.
            untag: words to take away.
            note: free text in the place of the one before; ``""`` removes it.
            group: the name of a group, new or there already, that the runs are added to.
            ungroup: the name of a group that they are taken out of.
            clear: remove name, tags and note first; of a group, if that is all, the group.

        Raises:
            UserError: a word is not allowed or a name is taken, or there is no such run, tag or group; nothing is
                changed then.
        """
        change = Change(name, tuple(words(tag)), tuple(words(untag)), note, group, ungroup, clear).checked()
        with self.create().planning():
            asked = [runs] if isinstance(runs, str | RunSpec) else list(runs)
            labels, index = self.labels(), self.index()
            groups = [run for run in asked if isinstance(run, str) and run in labels.groups and run not in index]
            change_labels(self.path, self.records(run for run in asked if run not in groups).ids, groups, change)

    def check_label(
        self, runs: Iterable[str], name: str | None = None, tag: str | Iterable[str] = (), note: str | None = None
    ) -> None:
        """Raise :class:`UserError` where runs that are to be trained cannot be labelled so; see :func:`shoal.train`."""
        label_trained(self.path, list(runs), Change(name, tuple(words(tag)), note=note), write=False)

    @contextmanager
    def labelling(
        self, runs: Sequence[str], name: str | None, tag: str | Iterable[str], note: str | None
    ) -> Iterator[None]:
        """Hold the lab, made if there is none, while deciding who trains what; label these runs when that is done.

        Raises:
            UserError: they cannot be labelled so; nothing is changed then.
        """
        label = Change(name, tuple(words(tag)), note=note)
        label_trained(self.path, runs, label, write=False)
        with self.create().planning():
            label_trained(self.path, runs, label, write=False)
            yield
            label_trained(self.path, runs, label)

    # what is not wanted any more

    def deletion(self, runs: str | RunSpec | Iterable[str | RunSpec]) -> list[Cut]:
        """Cuts that :meth:`delete` would make, one per cohort; raises as it does."""
        return plan_deletion(self.path, self.records(runs).ids)

    def delete(self, runs: str | RunSpec | Iterable[str | RunSpec]) -> list[str]:
        """Delete runs with their metrics, models and texts; the others of their cohorts stay as they are.

        Safe while others train, read or are killed, and against being killed itself: see
        :mod:`shoal.lab.deleting`. Pages of reports that are there already are left alone.

        Args:
            runs: as for :meth:`records`.

        Returns:
            Their ids.

        Raises:
            LabError: a run is being trained, is not in the lab or is the base of adapters that are to stay, or the
                record of others of its cohort is damaged.
            DiskError: the disk refuses.
        """
        wanted = self.records(runs).ids  # before the lab is touched
        with self.create().planning():
            delete(self.path, plan_deletion(self.path, wanted))
        return wanted

    def clear(self) -> list[Path]:
        """Remove files that a killed deletion left, and return their paths."""
        with self.create().planning():
            return clear(self.path)

    def unfinished(self) -> list[CohortFolder]:
        """Cohorts with members that still have steps to train, of those whose files say so."""
        cohorts = []
        for folder in {folder.path: folder for folder in self.index().values()}.values():
            with suppress(LabError):  # named by Records.damage()
                if not folder.is_finished():
                    cohorts.append(folder)
        return cohorts

    def note_study(self, name: str, form: str, note: dict[str, Any]) -> None:
        """Write the note of a study in one of its forms: its runs and the settings that it was given."""
        write_json(self.path / "studies" / check_name(name, "study") / f"{check_name(form, 'form')}.json", note)

    def study_notes(self, name: str) -> tuple[list[dict[str, Any]], list[str]]:
        """Notes of :meth:`note_study`, one for each form of a study; first that of an earlier version, which kept one.

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
        """Folder of the report of this name."""
        folder = self.path / "reports" / check_name(name, "report")
        check_own([folder, folder / "figures", folder / "tables"])
        return folder


def check_mark(path: Path) -> int:
    """Format in a ``shoal-lab.json``; :class:`LabError` for one that this shoal cannot read."""
    content = read_json(path)
    version = content.get("format") if isinstance(content, dict) else None
    if not isinstance(version, int) or version > FORMAT:
        raise LabError(f"lab {path.parent} has format {version}; this shoal reads formats up to {FORMAT}")
    return version


def write_mark(lab: Path) -> None:
    """Write the mark by which a folder is a lab."""
    write_json(lab / MARK, {"format": FORMAT})


def _is_ours(name: str) -> bool:
    """Return True if a process that was killed while it made the lab leaves a file of this name."""
    return name.startswith((f".{MARK}.", ".lock-holder.json.")) or name in ("lock", "lock-holder.json")
