"""Runs by their names, tags and groups, as :class:`shoal.lab.Records` find and show them."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from shoal.errors import UserError
from shoal.lab.cohort import CohortFolder
from shoal.lab.labelling import words
from shoal.lab.labels import Labels, read_labels
from shoal.lab.names import find_run, is_digits

if TYPE_CHECKING:
    from shoal.lab.record_views import Run
    from shoal.spec import RunSpec

COLUMNS = ("name", "group", "tags", "note")
PROBLEM = "problem"  # column of what is wrong with a fit
NO_SETTINGS = (*COLUMNS, PROBLEM)  # columns of tables of runs that are no settings of theirs


class LabelRecords:
    """Runs and their labels."""

    def __init__(self, folders: Mapping[str, CohortFolder]) -> None:
        self._folders = dict(folders)
        self._labels: Labels | None = None  # those of a snapshot

    def labels(self) -> Labels:
        """Names, tags, notes and groups of the lab, or of all labs of the runs."""
        if self._labels is not None:
            return self._labels
        labs = dict.fromkeys(folder.path.parent.parent for folder in self._folders.values())
        several = [read_labels(lab) for lab in labs]
        if len(several) == 1:
            return several[0]
        runs = {run: label for labels in several for run, label in labels.runs.items()}
        groups = {name: group for labels in several for name, group in labels.groups.items()}
        return Labels(runs, groups, {path: why for labels in several for path, why in labels.damage.items()})

    def find(self, run: "str | Run | RunSpec") -> str:
        """Id of a run, of the run of a spec, or of the run with this id, unambiguous beginning of an id, or name.

        Raises:
            UserError: no run here is called so, or several are.
        """
        run = run if isinstance(run, str) else getattr(run, "id", run)
        if not isinstance(run, str):
            raise UserError(f"a run is named by its id, its name or its spec, got {run!r}")
        if run in self._folders or is_digits(run):
            return find_run(run, self._folders)
        labels = self.labels()
        notes = [f"{run} is a group: its runs are where(group={run!r})"] if run in labels.groups else []
        return find_run(run, self._folders, notes, labels.names)

    def labelled(self, tag: str | Iterable[str] | None, group: str | Iterable[str] | None) -> set[str]:
        """Runs with one of these tags and in one of these groups; None asks for none.

        Raises:
            UserError: there is no such tag or group.
        """
        chosen = {*self._folders}
        if tag is None and group is None:
            return chosen
        labels = self.labels()
        if tag is not None:
            chosen &= labels.tagged(words(tag), self._folders)
        if group is not None:
            chosen &= labels.grouped(words(group))
        return chosen

    def label_cells(self) -> dict[str, dict[str, str | None]]:
        """Labels of each run as cells of a table: those of :data:`COLUMNS` that some run has."""
        labels, cells = self.labels(), {}
        for run in self._folders:
            label = labels.of(run)
            several = (label.name, " ".join(labels.groups_of(run)), " ".join(labels.tags_of(run)), labels.note_of(run))
            cells[run] = {column: value or None for column, value in zip(COLUMNS, several, strict=True)}
        there = [column for column in COLUMNS if any(row[column] for row in cells.values())]
        return {run: {column: row[column] for column in there} for run, row in cells.items()}
