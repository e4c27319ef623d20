"""Flags of some runs of a grid alone: ``--gpt.num-heads 2 4`` is for the runs with the part ``gpt``.

They are declared when they are met: of all parts and settings together there would be more flags than anyone reads.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from shoal.commands.asked import asked_of
from shoal.errors import UserError, nearest

if TYPE_CHECKING:
    from shoal.commands.parsing import Parser

_FLAG = re.compile(r"--(?P<part>\w[\w.:-]*)\.(?P<setting>\w[\w-]*)")


def add_prefixed(parser: "Parser") -> None:
    """Declare the prefixed flags among the words of the command; the parser must know the parts of the runs."""
    for spelling, part, setting in _prefixed(parser.words):
        flag_of(parser, spelling, part, setting)


def flag_of(parser: "Parser", spelling: str, part: str, setting: str) -> argparse.Action:
    """The flag of a part's setting, declared where it is new.

    Args:
        parser: of the command.
        spelling: of the flag.
        part: the prefix, ``-`` standing for ``_``.
        setting: the setting behind the prefix, ``-`` standing for ``_``.

    Raises:
        UserError: the runs have no such part, or those that have it no such setting.
    """
    from shoal.registry import KINDS, short
    from shoal.spec.training import ALWAYS

    name = setting.replace("-", "_")
    kind, place = check_part(parser, part, name)
    chosen = _chosen(parser)
    others = [KINDS[other][each] for other, names in chosen.items() if other != kind for each in names]
    having = [KINDS[kind][place], *others, *ALWAYS]
    known = [candidate for each in having for candidate in asked_of(each)]
    if name not in known:
        raise UserError(f"{spelling}: runs with {kind} {short(place)!r} have no setting {name!r}{nearest(name, known)}")
    dest = f"{place}.{name}"
    if dest not in parser.settings:
        parser.settings.append(dest)
        return parser.add_argument(spelling, dest=dest, nargs="+", metavar="X", help=argparse.SUPPRESS)
    return parser.spelled(dest, spelling)


def check_part(parser: "Parser", part: str, setting: str) -> tuple[str, str]:
    """The kind and the name of the part that a prefix names.

    Raises:
        UserError: the runs have no such part.
    """
    from shoal.spec.prefixes import check_prefix

    return check_prefix(part, setting, _chosen(parser))


def _chosen(parser: "Parser") -> dict[str, list[str]]:
    """Names of the parts that runs can have, as they are written down, by kind."""
    from shoal.registry import KINDS

    return {kind: [KINDS[kind].name_of(name) for name in names] for kind, names in parser.parts.items()}


def refuse_prefixed(parser: "Parser") -> None:
    """Raise :class:`UserError` for a prefixed flag of a command that chooses runs, which takes two flags instead."""
    from shoal.registry import KINDS

    for spelling, part, setting in _prefixed(parser.words):
        for kind, registry in KINDS.items():
            if part.replace("-", "_") in registry.names():
                raise UserError(
                    f"{spelling} is for new runs: {parser.prog} chooses runs by --{kind} {part.replace('-', '_')} "
                    f"--{setting} …"
                )


def _prefixed(words: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """The spelling, the part and the setting of each such flag among the words."""
    for word in words:
        if match := _FLAG.fullmatch(word.partition("=")[0]):
            yield match[0], match["part"], match["setting"]
