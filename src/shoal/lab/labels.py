"""Names, tags and notes of runs, and groups of runs, as a lab keeps them beside its cohorts.

    labels/runs/RUN.json     a run's name, tags and note
    labels/groups/SHA.json   a group's name, runs, tags and note; SHA is a hash of the name

No file of a cohort knows of them: a run's id and what was measured stay as they are, and a damaged label hides no run.
Names of runs and of groups are unique in a lab; a run has the tags of its groups, too.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from shoal.errors import DiskError, LabError, UserError, nearest
from shoal.lab.files import check_own, names_in, read_json, write_json
from shoal.lab.names import find_run
from shoal.lab.shapes import GroupLabel, RunLabel


@dataclass(frozen=True)
class Label:
    """Name, tags and note of a run or of a group."""

    name: str | None = None
    tags: tuple[str, ...] = ()
    note: str = ""

    @property
    def is_empty(self) -> bool:
        """Return True if there is no name, tag or note."""
        return self == Label()


@dataclass(frozen=True)
class Group:
    """Runs under one name."""

    runs: tuple[str, ...]
    label: Label = Label()


@dataclass(frozen=True)
class Labels:
    """All labels of a lab at one moment.

    Attributes:
        runs: the label of each run that has one.
        groups: by name.
        damage: a line for each file that cannot be read or has a name that another has, with what to do, by the file.
    """

    runs: Mapping[str, Label] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    damage: Mapping[Path, str] = field(default_factory=dict)

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """The runs of each name: one, of a name that is unique."""
        by_name: dict[str, list[str]] = {}
        for run, label in self.runs.items():
            if label.name is not None:
                by_name.setdefault(label.name, []).append(run)
        return by_name

    def of(self, run: str) -> Label:
        """The label of a run, empty where it has none."""
        return self.runs.get(run, Label())

    def groups_of(self, run: str) -> list[str]:
        """Names of the groups that a run is in."""
        return self._groups.get(run, [])

    @cached_property
    def _groups(self) -> dict[str, list[str]]:
        by_run: dict[str, list[str]] = {}
        for name, group in self.groups.items():
            for run in group.runs:
                by_run.setdefault(run, []).append(name)
        return by_run

    def tags_of(self, run: str) -> list[str]:
        """A run's tags and those of its groups, each once."""
        groups = [tag for name in self.groups_of(run) for tag in self.groups[name].label.tags]
        return list(dict.fromkeys([*self.of(run).tags, *groups]))

    def note_of(self, run: str) -> str:
        """A run's note, or without one those of its groups, a line each."""
        return self.of(run).note or "\n".join(
            note for name in self.groups_of(run) if (note := self.groups[name].label.note)
        )

    def taken(self, name: str) -> str:
        """Owner of a name, in words; empty where the name is free."""
        if name in self.groups:
            return f"a group of {len(self.groups[name].runs)} runs"
        return f"run {self.names[name][0]}" if name in self.names else ""

    def check_free(self, name: str, what: str = "name") -> None:
        """Raise :class:`UserError` where a name is taken."""
        if by := self.taken(name):
            raise UserError(f"{what} {name!r} is taken by {by}: a name is of one run or of one group")

    def tagged(self, tags: Iterable[str], runs: Iterable[str]) -> set[str]:
        """Runs among these that have one of the tags.

        Raises:
            UserError: no run and no group has such a tag.
        """
        tags_of_runs = {run: self.tags_of(run) for run in runs}
        known = {tag for several in tags_of_runs.values() for tag in several}
        for tag in tags:
            if tag not in known:
                raise UserError(f"no run has tag {tag!r}: {_known('tags', known)}{nearest(tag, known)}")
        return {run for run, several in tags_of_runs.items() if {*several} & {*tags}}

    def grouped(self, groups: Iterable[str]) -> set[str]:
        """The runs of these groups; :class:`UserError` for one that there is not."""
        return {run for name in groups for run in self.group(name).runs}

    def group(self, name: str) -> Group:
        """The group of this name; :class:`UserError` where there is none."""
        if name not in self.groups:
            raise UserError(f"no group {name!r}: {_known('groups', self.groups)}{nearest(name, self.groups)}")
        return self.groups[name]

    def find(self, word: str, runs: Collection[str], notes: Sequence[str] = ()) -> list[str]:
        """Runs with this id, beginning of an id, or name; of a group all of its runs.

        Args:
            word: an id, an unambiguous beginning of one, or the name of a run or of a group.
            runs: ids of the lab.
            notes: lines that say what else there may be.

        Raises:
            UserError: it means none, or several of one name.
        """
        if word in self.groups and word not in runs:
            members = [run for run in self.groups[word].runs if run in runs]
            if not members:
                raise UserError("; ".join([f"no run of group {word!r} is in the lab", *notes]))
            return members
        return [find_run(word, runs, notes, {**self.names, **dict.fromkeys(self.groups, ())})]

    def absent(self, runs: Collection[str]) -> list[str]:
        """Lines about groups with runs that the lab does not hold."""
        lost = {name: [run for run in group.runs if run not in runs] for name, group in self.groups.items()}
        return [
            f"group {name!r} has {len(gone)} of {len(self.groups[name].runs)} runs ({gone[0]}"
            f"{' …' if len(gone) > 1 else ''}) that the lab does not hold; shoal label {gone[0]} --ungroup {name} "
            "takes one out"
            for name, gone in lost.items()
            if gone
        ]


def _known(what: str, words: Collection[str]) -> str:
    some = sorted(words)[:20]
    return f"{what} are {' '.join(some)}{' …' if len(words) > len(some) else ''}" if some else f"there are no {what}"


# reading


def read_labels(lab: Path) -> Labels:
    """Read all labels of the lab at ``lab``; a damaged file is named in ``damage`` and hides no other."""
    runs, groups, damage = {}, {}, {}
    for place, shape in ((lab / "labels" / "runs", RunLabel), (lab / "labels" / "groups", GroupLabel)):
        try:
            check_own([lab / "labels", place])
            names = [name for name in names_in(place) if not name.startswith(".")]
        except LabError as error:
            damage[place] = str(error)
            continue
        for path in (place / name for name in names):
            try:
                content = dict(read_json(path, shape))
                label = Label(content.get("name"), tuple(content.get("tags", [])), content.get("note", ""))
                if shape is RunLabel:
                    _check_place(path, path.stem if len(path.stem) == 16 else "")
                    runs[path.stem] = label
                else:
                    _check_place(path, _digest(content["name"]))
                    groups[content["name"]] = Group(tuple(dict.fromkeys(content["runs"])), label)
            except LabError as error:
                damage[path] = f"{error}; move {path} out of the lab, and label again"
    labels = Labels(runs, dict(sorted(groups.items())), damage)
    for name, named in labels.names.items():
        for run in named if name in groups else named[1:]:
            path = lab / "labels" / "runs" / f"{run}.json"
            damage[path] = f"{path} gives run {run} the name {name!r}, which {labels.taken(name)} has; label it anew"
    return labels


def _check_place(path: Path, stem: str) -> None:
    if path.name != f"{stem}.json":
        raise LabError(f"{path} is damaged: its name is not that of what it says")


def _digest(name: str) -> str:
    """Name of a group's file: file systems allow fewer characters than names have, and some ignore case."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


# writing, which whoever holds the lab does


def write_run(lab: Path, run: str, label: Label) -> None:
    """Write the label of a run; an empty one is removed."""
    path = lab / "labels" / "runs" / f"{run}.json"
    if label.is_empty:
        _remove(path)
    else:
        _write(path, _said(label))


def write_group(lab: Path, name: str, group: Group) -> None:
    """Write a group under its name; one without runs is removed."""
    path = lab / "labels" / "groups" / f"{_digest(name)}.json"
    if group.runs:
        _write(path, {**_said(group.label), "name": name, "runs": list(group.runs)})
    else:
        _remove(path)


def forget(lab: Path, runs: Collection[str], labels: Labels) -> None:
    """Remove the labels of runs that are deleted, and take them out of groups; groups come last."""
    for run in runs:
        if run in labels.runs:
            write_run(lab, run, Label())
    for name, group in labels.groups.items():
        left = tuple(run for run in group.runs if run not in runs)
        if left != group.runs:
            write_group(lab, name, Group(left, group.label))


def _said(label: Label) -> dict[str, Any]:
    return {"name": label.name, "tags": list(label.tags), "note": label.note}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    check_own([path.parent.parent, path.parent])
    write_json(path, content)


def _remove(path: Path) -> None:
    try:
        check_own([path.parent.parent, path.parent])
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DiskError(f"could not remove {path}: {error.strerror or error}") from error
