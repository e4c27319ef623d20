"""Configuration files: the flags of a command in a TOML file, for a grid that is too long for a line.

Python's ``tomllib`` reads values but does not say where they stand, so :func:`statements` gives it one statement after
the other: a statement begins on a line of its own, and is whole as soon as it can be read.
"""

import argparse
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.commands.prefixed import check_part, flag_of
from shoal.errors import UserError, nearest

if TYPE_CHECKING:
    from shoal.commands.parsing import Options, Parser

_LARGEST = 2**18  # bytes of a file: far more than anyone writes
_PLACE = re.compile(r" \(at (?:line (?P<line>\d+), column \d+|end of document)\)$")


class _Number(str):
    """A number with a point, as it was written: what is typed is text, too."""

    __slots__ = ()


@dataclass(frozen=True)
class Statement:
    """A key of a file and its value.

    Attributes:
        line: on which it begins, counted from 1.
        key: the names of the tables that it stands in, and its own.
        value: as ``tomllib`` reads it, but numbers with a point as text; None of the header of a table.
    """

    line: int
    key: tuple[str, ...]
    value: Any


@dataclass
class Config:
    """A file of flags.

    Attributes:
        path: as it was typed.
        statements: its keys with their values.
        read: keys that the command reads, once it has.
        outdone: lines and keys that the command line replaces, or leaves without runs.
    """

    path: str
    statements: Sequence[Statement]
    read: list[str] = field(default_factory=list)
    outdone: list[tuple[int, str]] = field(default_factory=list)

    def words(self, name: str) -> list[str]:
        """The values of a flag, as they could be typed; none where the file has no such key."""
        for statement in self.statements:
            if _is_key(statement) and _plain(statement.key[0]) == name:
                with self.at(statement):
                    return _words(statement.value)
        return []

    def parts(self, kind: str) -> list[str]:
        """Names of the parts of a kind that the file chooses.

        Raises:
            UserError: there is none of such a name.
        """
        from shoal.registry import KINDS

        names = self.words(kind)
        for statement in self.statements:
            if _is_key(statement) and statement.key[0] == kind:
                with self.at(statement):
                    for name in names:
                        KINDS[kind].name_of(name)
        return names

    @contextmanager
    def at(self, statement: Statement) -> Iterator[None]:
        """Add the file and the line of a statement to the message of a :class:`UserError` about it."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{self.path} line {statement.line}: {error}") from None

    def apply(self, parser: "Parser", options: "Options") -> None:
        """Give each flag that was not typed the values of the file.

        Raises:
            UserError: a key is no flag of the command, or stands there twice, or its values are not allowed.
        """
        typed, first = dict(options.given), dict[str, Statement]()
        for statement in self.statements:
            with self.at(statement):
                if _is_beside(statement, parser, typed):
                    self.outdone.append((statement.line, _shown(statement.key)))
                    continue
                if statement.value is None:
                    check_part(parser, *_table(statement))
                    continue
                action = _action(statement, parser)
                if action.dest in first:
                    other = first[action.dest]
                    raise UserError(
                        f"{_shown(statement.key)} is the same flag as {_shown(other.key)} in line {other.line}"
                    )
                first[action.dest] = statement
                if _is_typed(action.dest, typed):
                    self.outdone.append((statement.line, _shown(statement.key)))
                    continue
                self.read.append(_shown(statement.key))
                _set(action, statement.value, parser, options)

    def summary(self) -> str:
        """Line about the flags that were read, and about those that the command line replaces."""
        line = f"from {self.path}: {' '.join(self.read) or 'nothing'}"
        if self.outdone:
            line += f"; the command line wins over {', '.join(f'{key} (line {n})' for n, key in self.outdone)}"
        return line


def add_config(parser: "Parser") -> None:
    """``--config``; declared before the settings, because the file can choose the parts that have them."""
    parser.flag(
        "config", metavar="FILE", help="a TOML file of flags of this command, such as seed = 7; what is typed wins"
    )
    for place, word in enumerate(parser.words):
        if word == "--config" and parser.words[place + 1 : place + 2]:
            parser.config = read_config(parser.words[place + 1])
        elif word.startswith("--config="):
            parser.config = read_config(word.partition("=")[2])


def read_config(name: str) -> Config:
    """The file of this name.

    Raises:
        UserError: it cannot be read, is no TOML, or has a key twice.
    """
    try:
        with Path(name).open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise UserError(f"--config {name} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a character that no path has
        raise UserError(f"--config {name!r} cannot be read: {error}") from None
    if len(data) > _LARGEST:
        raise UserError(f"--config {name} has more than {_LARGEST:,} bytes")
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{name} line {line}: not UTF-8, which TOML is written in") from None
    try:
        tomllib.loads(text)
    except ValueError as error:  # also of an integer of thousands of digits
        raise UserError(_no_toml(name, text, error)) from None
    except RecursionError:
        raise UserError(f"--config {name} cannot be read: its lists are nested too deeply") from None
    return Config(name, [*statements(text)])


def statements(text: str) -> Iterator[Statement]:
    r"""The statements of a TOML text, up to the first that cannot be read alone.

    >>> [*statements("p = 7 # prime\n[gpt]\nnum_heads = [\n 2,\n 4]")][-1]
    Statement(line=3, key=('gpt', 'num_heads'), value=[2, 4])
    """
    table: tuple[str, ...] = ()
    begun: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        begun.append(line)
        if len(begun) > 1 and not any(end in line for end in ("]", '"""', "'''")):  # it goes on over this line
            continue
        try:
            parsed = tomllib.loads("\n".join(begun), parse_float=_Number)
        except ValueError:
            continue
        first, is_header = number + 1 - len(begun), begun[0].lstrip().startswith("[")
        begun = []
        if is_header:
            table = tuple(_path(parsed))
            yield Statement(first, table, None)
        else:
            yield from (Statement(first, (*table, *key), value) for key, value in _leaves(parsed))


def _leaves(table: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from (((name, *key), leaf) for key, leaf in _leaves(value))
        else:
            yield (name,), value


def _path(parsed: Any) -> Iterator[str]:
    """Names in the header of a table; of a list of tables also ``[]``, which is the name of no flag."""
    while parsed:
        if isinstance(parsed, list):
            yield "[]"
            return
        (name,) = parsed
        yield name
        parsed = parsed[name]


def _no_toml(name: str, text: str, error: ValueError) -> str:
    """The message for a text that is no TOML: of a key that is there twice both lines, else the words of tomllib."""
    seen: dict[tuple[str, ...], int] = {}
    for statement in statements(text):
        if first := seen.get(statement.key):
            return f"{name} line {statement.line}: {_shown(statement.key)} is given twice, first in line {first}"
        seen[statement.key] = statement.line
    what = str(error)
    if match := _PLACE.search(what):
        what, line = what[: match.start()], match["line"] or str(text.rstrip().count("\n") + 1)
        name = f"{name} line {line}"
    return f"{name} is no TOML: {what[:1].lower()}{what[1:]}"


def _is_key(statement: Statement) -> bool:
    return len(statement.key) == 1 and statement.value is not None


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _shown(key: Sequence[str]) -> str:
    return ".".join(key)


def _table(statement: Statement) -> tuple[str, str]:
    """The part and the setting of a key in a table, or of the header of one the part and nothing."""
    part, *settings = statement.key
    if len(settings) > (statement.value is not None):
        raise UserError(f"{_shown(statement.key)}: a table has the name of a part, such as [gpt], and settings in it")
    return part, settings[0] if settings else ""


def _is_beside(statement: Statement, parser: "Parser", typed: Mapping[str, str]) -> bool:
    """Return True if a statement is about runs with a part in whose place the command line chooses other parts."""
    from shoal.registry import KINDS
    from shoal.spec.prefixes import kind_of

    if _is_key(statement):
        return False
    part = statement.key[0]
    for kind, names in parser.parts.items():
        if any(kind_of(part, {kind: KINDS[kind].name_of(name)}) for name in names):
            return False
    return any(_plain(part) in map(_plain, registry.names()) for kind, registry in KINDS.items() if kind in typed)


def _is_typed(dest: str, typed: Mapping[str, str]) -> bool:
    """Return True if the command line gives a flag, or that of the same setting for all runs."""
    return dest in typed or ("." in dest and dest.rpartition(".")[2] in typed)


def _action(statement: Statement, parser: "Parser") -> argparse.Action:
    """Flag that a key of the file stands for."""
    if not _is_key(statement):
        part, setting = _table(statement)
        return flag_of(parser, f"--{part}.{setting.replace('_', '-')}", part, setting)
    key = statement.key[0]
    flag = f"--{key.replace('_', '-')}"
    action = parser.action(flag)
    if action is None or action.dest in ("config", "help"):
        parser.refuse_other(flag)
        known = [flag.removeprefix("--") for flag in parser.flags() if flag not in ("--config", "--help")]
        raise UserError(f"unknown key {key!r} for {parser.prog}{nearest(key, known)}")
    return action


def _words(value: Any) -> list[str]:
    """A value of the file as it would be typed."""
    if isinstance(value, list):
        if not value:
            raise UserError("an empty list of values; a flag needs at least one")
        return [_word(each) for each in value]
    return [_word(value)]


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int):
        return str(value)
    other = "a list in a list" if isinstance(value, list) else "a table"
    what = other if isinstance(value, list | dict) else "a date or a time"
    raise UserError(f"a value is text, a number, true or false, or a list of these, not {what}")


def _set(action: argparse.Action, value: Any, parser: "Parser", options: "Options") -> None:
    """Give a flag its value, as typing it would."""
    from shoal.commands.ranges import values_of
    from shoal.spec.choice import read_choice

    flag = action.option_strings[0]
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UserError(f"{flag} must be true or false, got {value!r}")
        if not value:
            return
        converted: Any = True
    else:
        words = _words(value)
        if action.nargs != "+" and len(words) != 1:
            raise UserError(f"{flag} takes one value, got {len(words)}")
        several = [parser.converted(action, word) for word in words]
        converted = several if action.nargs == "+" else several[0]
        if action.dest in parser.settings:
            values = values_of(action.dest, words, parser.parts)
            read_choice({action.dest.rpartition(".")[2]: values}, parser.parts)
    options.given[action.dest] = flag
    setattr(options, action.dest, converted)
