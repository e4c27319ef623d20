"""Changes of labels, checked as a whole before the first file is written."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shoal.errors import UserError, nearest
from shoal.lab.labels import Group, Label, Labels, read_labels, write_group, write_run
from shoal.lab.names import check_label, check_note


@dataclass(frozen=True)
class Change:
    """Change of labels; None or empty leaves a part as it is.

    Attributes:
        name: of one run or of one group; ``""`` removes a run's.
        tags: to add.
        untag: to take away.
        note: in the place of the one before; ``""`` removes it.
        group: a group, there already or new, that the runs are added to.
        ungroup: a group that they are taken out of.
        clear: whether name, tags and note are removed first; of a group with nothing else asked, the group.
    """

    name: str | None = None
    tags: Sequence[str] = ()
    untag: Sequence[str] = ()
    note: str | None = None
    group: str | None = None
    ungroup: str | None = None
    clear: bool = False

    def checked(self) -> "Change":
        """The change with its words in composed form (NFC).

        Raises:
            UserError: a word or the note is not allowed, or a tag or a group is both to be added and to be taken away.
        """
        if both := [tag for tag in self.tags if tag in self.untag]:
            raise UserError(f"tag {both[0]!r} is to be both added and removed")
        if self.group is not None and self.group == self.ungroup:
            raise UserError(f"the runs are to be both added to group {self.group!r} and taken out of it")
        return replace(
            self,
            name=self.name and check_label(self.name, "name"),
            tags=tuple(check_label(tag, "tag") for tag in words(self.tags)),
            untag=tuple(check_label(tag, "tag") for tag in words(self.untag)),
            note=None if self.note is None else check_note(self.note),
            group=None if self.group is None else check_label(self.group, "group"),
            ungroup=None if self.ungroup is None else check_label(self.ungroup, "group"),
        )

    @property
    def is_nothing(self) -> bool:
        """Return True if nothing is asked for."""
        return self == Change()

    def of(self, label: Label) -> Label:
        """Label after the change."""
        before = Label() if self.clear else label
        tags = [tag for tag in dict.fromkeys([*before.tags, *self.tags]) if tag not in self.untag]
        name = before.name if self.name is None else self.name or None
        return Label(name, tuple(tags), before.note if self.note is None else self.note)


def words(value: str | Iterable[str]) -> list[str]:
    """List of one word or of several."""
    return [value] if isinstance(value, str) else list(value)


def change_labels(lab: Path, runs: Sequence[str], groups: Sequence[str], change: Change) -> None:
    """Label runs, and groups as such. The caller holds the lab.

    Raises:
        UserError: a name is taken or is given to several, or there is no such tag or group; nothing is changed then.
        DiskError: the disk refuses.
    """
    change, labels = change.checked(), read_labels(lab)
    _check_name(labels, [*runs, *groups], change)
    _check_untag(labels, runs, groups, change)
    members = list(dict.fromkeys([*runs, *(run for name in groups for run in labels.group(name).runs)]))
    regrouped = _regrouped(labels, members, change)
    labelled = [change.name, change.note] != [None, None] or change.tags or change.untag or change.clear
    for run in runs if labelled else []:
        write_run(lab, run, change.of(labels.of(run)))
    for name in groups if labelled else []:
        before = regrouped.pop(name, labels.groups[name])
        if change == Change(clear=True):
            write_group(lab, name, Group(()))
            continue
        label = change.of(replace(before.label, name=name))
        write_group(lab, label.name or name, Group(before.runs, label))
        if (label.name or name) != name:
            write_group(lab, name, Group(()))  # after the new name is there
    for name, group in regrouped.items():
        write_group(lab, name, group)


def _check_name(labels: Labels, targets: Sequence[str], change: Change) -> None:
    """Raise :class:`UserError` for a name of several, or one that another has."""
    if not change.name:
        return
    if len(targets) > 1:
        raise UserError(f"name {change.name!r} is of one run, got {len(targets)}; --group {change.name} names several")
    owners = [*labels.names.get(change.name, []), *([change.name] if change.name in labels.groups else [])]
    if [owner for owner in owners if owner not in targets]:
        labels.check_free(change.name)
    if change.group == change.name:
        raise UserError(f"name {change.name!r} cannot be that of the group, too: a name is of one run or of one group")


def _check_untag(labels: Labels, runs: Sequence[str], groups: Sequence[str], change: Change) -> None:
    affected = [*(labels.of(run) for run in runs), *(labels.group(name).label for name in groups)]
    known = {tag for label in affected for tag in label.tags}
    for tag in change.untag:
        if tag not in known:
            from_groups = [
                name for run in runs for name in labels.groups_of(run) if tag in labels.groups[name].label.tags
            ]
            of = f", but of group {from_groups[0]!r}: shoal label {from_groups[0]} --untag {tag}" if from_groups else ""
            raise UserError(
                f"tag {tag!r} is none of these runs' or groups' own, which are {' '.join(sorted(known)) or 'none'}"
                f"{of or nearest(tag, known)}"
            )


def _regrouped(labels: Labels, members: Sequence[str], change: Change) -> dict[str, Group]:
    """Groups with runs added or taken out, by name."""
    groups: dict[str, Group] = {}
    if change.group is not None:
        if change.group not in labels.groups:
            labels.check_free(change.group, "group")
        before = labels.groups.get(change.group, Group((), Label(change.group)))
        groups[change.group] = Group(tuple(dict.fromkeys([*before.runs, *members])), before.label)
    if change.ungroup is not None:
        before = groups.get(change.ungroup) or labels.group(change.ungroup)
        if not set(before.runs) & set(members):
            raise UserError(f"group {change.ungroup!r} has none of these runs")
        groups[change.ungroup] = Group(tuple(run for run in before.runs if run not in members), before.label)
    return groups


# of what is trained


def label_trained(lab: Path, runs: Sequence[str], change: Change, write: bool = True) -> None:
    """Label runs that are to be trained: one run gets the name, of several a group does.

    A group of this name grows where all its runs are among these; asked for again, the same stays as it is. Tags and
    the note are the group's where there is one, else every run's. The caller holds the lab.

    Args:
        lab: the folder.
        runs: their ids.
        change: name, tags and note.
        write: else it is only checked.

    Raises:
        UserError: a word is not allowed, or the name is taken.
    """
    change, labels = change.checked(), read_labels(lab)
    if change.is_nothing:
        return
    group = labels.groups.get(change.name or "")
    if change.name and group is None and len(runs) > 1:
        labels.check_free(change.name)
    if group is not None:
        _check_grows(labels, change.name or "", group, runs)
    elif change.name:
        _check_name(labels, runs[:1], change)
    if not write:
        return
    if change.name and (group is not None or len(runs) > 1):
        before = group or Group((), Label(change.name))
        together = Group(tuple(dict.fromkeys([*before.runs, *runs])), change.of(before.label))
        write_group(lab, change.name, together)
        return
    for run in runs:
        write_run(lab, run, change.of(labels.of(run)))


def _check_grows(labels: Labels, name: str, group: Group, runs: Collection[str]) -> None:
    """Raise :class:`UserError` where a group neither holds all of the runs nor is held by them."""
    if not (set(runs) <= set(group.runs) or set(group.runs) <= set(runs)):
        raise UserError(
            f"name {name!r} is taken by {labels.taken(name)}, not all of which are asked for here; give another name, "
            f"or add runs to it by shoal label RUN… --group {name}"
        )
