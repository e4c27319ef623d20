"""``shoal delete RUN…``: delete runs, after asking."""

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from shoal.commands.choice import add_choice, choose, flags_of_choice
from shoal.commands.parsing import Options, Parser, add_lab
from shoal.errors import UserError
from shoal.output import say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from shoal.lab import Lab
    from shoal.lab.deleting import Cut

_MOST = 20  # lines of what is deleted


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument("runs", nargs="*", metavar="RUN", help="ids or their beginnings, or names of runs or groups")
    add_lab(parser)
    parser.flag("yes", action="store_true", help="do not ask")
    add_choice(parser)


def run(options: Options) -> int:
    """Show what would be deleted, ask, and delete it."""
    from shoal.lab import Lab
    from shoal.lab.deleting import leftovers, lost_labels

    flags = flags_of_choice(options)
    if not options.runs and not flags:
        raise UserError("delete needs runs: ids, names, or flags that choose some, such as --state diverged")
    lab = Lab(options.lab)
    if (leftovers(lab.path) or lost_labels(lab.path)) and lab.clear():
        say("removed the files that an interrupted deletion had left")
    words = _there(lab, options.runs)
    if options.runs and not words:
        return 0
    records = lab.records(words or None)
    if flags:
        records = choose(records, options, lab.unreadable())
    cuts = lab.deletion(records.ids)
    _show(cuts, {row["run"]: _about(row) for row in records.runs().to_dicts()})
    if not (options.yes or _agreed(len(records))):
        say("nothing was deleted")
        return 0
    lab.delete(records.ids)
    say(f"deleted {_runs(len(records))} of lab {lab.path}, which holds {_runs(len(lab.runs()))} now")
    return 0


def _there(lab: "Lab", words: "Sequence[str]") -> list[str]:
    """Words that name runs of the lab; of the others is printed that their runs are deleted already.

    Raises:
        UserError: a word names nothing.
    """
    from shoal.lab.deleting import deleted_runs, find_deleted

    with suppress(UserError):
        lab.records(words)
        return list(words)
    left, deleted, index = [], deleted_runs(lab.path), lab.index()
    for word in words:
        try:
            lab.records(word)
            left.append(word)
        except UserError:
            gone = find_deleted(word, deleted)
            if gone is None or gone in index:
                raise
            say(f"run {word} was deleted already ({deleted[gone]['at']})")
    return left


def _about(row: "Mapping[str, Any]") -> str:
    """Name, model, seed and state of a run, for beside its id."""
    from shoal.lab.resting import state_text

    name = [row["name"]] if row.get("name") else []
    return ", ".join([*name, row["model"], f"seed {row['seed']}", state_text(row["state"], row["step"])])


def _show(cuts: "Sequence[Cut]", about: "Mapping[str, str]") -> None:
    """Print what would be deleted, each run with what ``about`` says of it."""
    from shoal.report.words import counted

    lines = []
    for cut in cuts:
        stay = f"; {_runs(len(cut.left))} of it stay" if cut.left else ""
        lines.append(f"cohort {cut.folder.id}: {_runs(len(cut.runs))}, about {in_bytes(cut.bytes)}{stay}")
        lines += [f"  {run} {about.get(run, '')}".rstrip() for run in cut.runs]
    for line in lines[:_MOST]:
        say(line)
    if len(lines) > _MOST:
        say(f"… and {len(lines) - _MOST} more lines")
    n, size = sum(len(cut.runs) for cut in cuts), sum(cut.bytes for cut in cuts)
    say(f"to be deleted: {_runs(n)} of {counted(len(cuts), 'cohort')}, about {in_bytes(size)}")


def _agreed(n: int) -> bool:
    """Question at the terminal; true where it is answered with yes.

    Raises:
        UserError: nobody can be asked.
    """
    if not sys.stdin.isatty():
        raise UserError(
            f"the deletion of {_runs(n)} cannot be confirmed, because standard input is no terminal: --yes deletes "
            "without asking"
        )
    print(f"Delete {_runs(n)} for good? [y/N] ", end="")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _runs(n: int) -> str:
    return f"{n:,} run{'s' * (n != 1)}"


def in_bytes(n: int) -> str:
    """Number of bytes in the unit in which it has up to three digits.

    >>> in_bytes(999), in_bytes(1234567), in_bytes(5 * 10**9)
    ('999 B', '1.23 MB', '5 GB')
    """
    value, unit = float(n), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"
