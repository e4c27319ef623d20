"""Runs by their names, tags and groups, as :class:`shoal.lab.Records` find and show them."""

from collections.abc import Iterable, Mapping

from shoal.lab.cohort import CohortFolder
from shoal.lab.labelling import words
from shoal.lab.labels import Labels, read_labels
from shoal.lab.names import find_run, is_digits

COLUMNS = ("name", "group", "tags", "note")


class LabelRecords:
    """Runs and what they are called."""

    def __init__(self, folders: Mapping[str, CohortFolder]) -> None:
        self._folders = dict(folders)
        self._labels: Labels | None = None  # those of a snapshot

    def labels(self) -> Labels:
        """Names, tags, notes and groups of the lab; of runs of several labs those of all."""
        if self._labels is not None:
            return self._labels
        labs = dict.fromkeys(folder.path.parent.parent for folder in self._folders.values())
        several = [read_labels(lab) for lab in labs]
        if len(several) == 1:
            return several[0]
        runs = {run: label for labels in several for run, label in labels.runs.items()}
        groups = {name: group for labels in several for name, group in labels.groups.items()}
        return Labels(runs, groups, {path: why for labels in several for path, why in labels.damage.items()})

    def find(self, run: str) -> str:
        """The id of the run of this id, beginning of an id, or name.

        Raises:
            UserError: no run here is called so, or several are.
        """
        if run in self._folders or is_digits(run):
            return find_run(run, self._folders)
        return find_run(run, self._folders, names=self.labels().names)

    def labelled(self, tag: str | Iterable[str] | None, group: str | Iterable[str] | None) -> set[str]:
        """The runs that have one of these tags, where one is given, and are in one of these groups, likewise.

        Raises:
            UserError: there is no such tag or group.
        """
        found = {*self._folders}
        if tag is None and group is None:
            return found
        labels = self.labels()
        if tag is not None:
            found &= labels.tagged(words(tag), self._folders)
        if group is not None:
            found &= labels.grouped(words(group))
        return found

    def label_cells(self) -> dict[str, dict[str, str | None]]:
        """What each run is called, as cells of a table; of :data:`COLUMNS` those of which some run has something."""
        labels, cells = self.labels(), {}
        for run in self._folders:
            own = labels.of(run)
            several = (own.name, " ".join(labels.groups_of(run)), " ".join(labels.tags_of(run)), own.note)
            cells[run] = {column: value or None for column, value in zip(COLUMNS, several, strict=True)}
        there = [column for column in COLUMNS if any(own[column] for own in cells.values())]
        return {run: {column: own[column] for column in there} for run, own in cells.items()}
