"""``shoal label RUN…``: names, tags and notes of runs, and groups of runs."""

from typing import TYPE_CHECKING

from shoal.commands.choice import add_choice_without_labels, choose, flags_of_choice
from shoal.commands.parsing import Options, Parser, add_lab, refuse_unread
from shoal.output import say

if TYPE_CHECKING:
    from collections.abc import Collection

    from shoal.lab import Lab
    from shoal.lab.labels import Label, Labels

_CHOOSING = ("state",)  # --tag and --group are what the command gives
_CHANGES = ("name", "group", "ungroup", "tag", "untag", "note", "clear")


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="ids or their beginnings, or names of runs or groups; without one, those that flags of settings choose; "
        "without either, all labels are printed",
    )
    add_lab(parser)
    parser.flag("name", help="name of one run, or new name of a group; '' removes the name of a run")
    parser.flag("tag", nargs="+", metavar="T", help="tags to add")
    parser.flag("untag", nargs="+", metavar="T", help="tags to remove")
    parser.flag("note", metavar="TEXT", help="note, free text in place of the one before; '' removes it")
    parser.flag("group", metavar="G", help="add the runs to a group, which is made where there is none")
    parser.flag("ungroup", metavar="G", help="take the runs out of a group")
    parser.flag("clear", action="store_true", help="first remove name, tags and note; of a group, the group itself")
    add_choice_without_labels(parser)


def run(options: Options) -> int:
    """Label runs and groups, then print their labels."""
    from shoal.commands.pages import check_run_name
    from shoal.lab import Lab

    lab, flags = Lab(options.lab), flags_of_choice(options, _CHOOSING)
    if not options.runs and not flags:
        refuse_unread(options, "label without a run, or a flag that chooses some, lists all labels and", "lab")
        lab.check_there()
        return _print(lab, lab.labels())
    # a group that is named is labelled itself, where no flag chooses from its runs
    groups = [] if flags else [word for word in options.runs if word in lab.labels().groups]
    words = [word for word in options.runs if word not in groups]
    if flags:
        runs = choose(lab.records(words or None), options, lab.unreadable(), _CHOOSING).ids
    else:
        runs = lab.records(words).ids
    changes = {name: getattr(options, name) for name in _CHANGES if name in options.given}
    for name in (options.name, options.group):
        if name:
            check_run_name(name, lab)
    if changes:
        lab.label([*runs, *groups], **changes)
    labels = lab.labels()
    groups = [options.name] if groups and options.name else groups
    return _print(lab, labels, runs, [name for name in groups if name in labels.groups])


def _print(
    lab: "Lab", labels: "Labels", runs: "Collection[str] | None" = None, groups: "Collection[str] | None" = None
) -> int:
    """Print labels of runs and groups, of all where none is given; 1 where a label is damaged."""
    from shoal.report.console import print_table
    from shoal.report.table import Cell, Table
    from shoal.report.words import NOTHING, counted

    rows = [
        (name, counted(len(labels.groups[name].runs), "run"), labels.groups[name].label)
        for name in (labels.groups if groups is None else groups)
    ]
    rows += [(run, " ".join(labels.groups_of(run)), labels.of(run)) for run in (labels.runs if runs is None else runs)]
    table = [
        (what, [Cell(text or NOTHING) for text in (_name(label, what), about, " ".join(label.tags), _line(label.note))])
        for what, about, label in rows
    ]
    if table:
        print_table(Table("labels", ["run or group", "name", "group", "tags", "note"], table, ""))
    elif runs is None:
        say(f"lab {lab.path} has no labels")
    for line in labels.damage.values():
        say(line)
    return int(bool(labels.damage))


def _name(label: "Label", what: str) -> str:
    return label.name if label.name and label.name != what else ""


def _line(note: str) -> str:
    return " / ".join(note.split("\n"))
