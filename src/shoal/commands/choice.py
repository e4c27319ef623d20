"""Flags that choose some of the runs of a lab: by settings, state, tag and group."""

import argparse
import hashlib
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shoal.commands.parsing import CHOICE, Parser, add_settings, read_values
from shoal.errors import UserError

if TYPE_CHECKING:
    from shoal.lab import Records

# those of shoal.lab.records, which would take seconds to import for --help
STATES = "waiting running interrupted left done diverged damaged"
_NAMES = ("state", "tag", "group")
_LONGEST = 80  # signs of the name of a page


def add_choice(parser: Parser) -> None:
    """``--state``, ``--tag``, ``--group`` and a flag per setting."""
    add_choice_without_labels(parser)
    parser.flag("tag", nargs="+", metavar="X", help="only runs that have one of these tags, or whose group has")
    parser.flag("group", nargs="+", metavar="X", help="only runs of these groups")


def add_choice_without_labels(parser: Parser) -> None:
    """``--state`` and a flag per setting, for a command that has another use for ``--tag`` and ``--group``."""
    parser.flag("state", nargs="+", metavar="X", help=f"only runs in these states ({STATES})")
    add_settings(parser, CHOICE)


def flags_of_choice(options: argparse.Namespace, names: Sequence[str] = _NAMES) -> str:
    """The flags of :func:`add_choice` that were given, of those without a setting ``names``, to be typed again."""
    from shoal.spec.choice import as_short_flags

    given = [[f"--{name}", *values] for name in names if (values := getattr(options, name))]
    return shlex.join([*(word for flag in given for word in flag), *as_short_flags(read_values(options))])


def page_name(base: str, options: argparse.Namespace) -> str:
    """Name of a page of the runs that ``what`` and flags choose: ``base`` and what was chosen.

    Pages of other runs stand beside each other: a page is written again by the same words and flags alone.

    >>> from argparse import Namespace
    >>> page_name("runs", Namespace(what=["first"], state=["done"], tag=None, group=None, settings=[]))
    'runs-first-state-done'
    """
    chosen = " ".join([*options.what, flags_of_choice(options)]).strip()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{base} {chosen}".strip().replace("--", "").replace("..", "-"))
    if len(name) > _LONGEST or not chosen.isascii():  # what is lost of it may be all that sets it off from another
        name = f"{name[:_LONGEST].rstrip('-')}-{hashlib.sha256(chosen.encode()).hexdigest()[:8]}"
    return name


def unmatched(records: "Records", options: argparse.Namespace) -> list[str]:
    """Line for each value that was asked for beside others and that no run has; one line for many seeds."""
    from shoal.spec.choice import as_short_flags, fits, read_choice

    values = read_values(options)
    cells = records.runs().select(*values).to_dicts()
    lines = []
    for name, asked in values.items():
        if len(asked) > 1:
            absent = [value for value in asked if not any(fits(row, read_choice({name: [value]})) for row in cells)]
            flag, *words = as_short_flags({name: absent})
            lines += [f"no run has {flag} {word}" for word in words]
    return lines


def choose(
    records: "Records", options: argparse.Namespace, unreadable: Sequence[str] = (), names: Sequence[str] = _NAMES
) -> "Records":
    """Runs that the flags choose.

    Args:
        records: the runs to choose from.
        options: the flags.
        unreadable: why there may be more runs.
        names: those of the flags ``--state``, ``--tag`` and ``--group`` that choose.

    Raises:
        UserError: a value is not allowed, or no run is such.
    """
    from shoal.report.words import counted

    by = {name: getattr(options, name) for name in names}
    chosen = records.where(**(by | read_values(options)))
    if len(records) and not len(chosen):
        none = f"of {counted(len(records), 'run')} none matches {flags_of_choice(options, names)}"
        raise UserError("; ".join([none, *unreadable]))
    return chosen
