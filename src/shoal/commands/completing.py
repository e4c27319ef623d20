"""Words that can complete a command line, for the completion of a shell.

It has to answer between two keys. So what hangs on no setting is answered before anything heavy is imported, and a lab
is read as text.
"""

import argparse
import importlib
import shlex
from collections.abc import Iterable, Sequence
from itertools import takewhile

from shoal.commands.lab_words import groups_of, names_of, runs_of, tags_of
from shoal.commands.parsing import Parser
from shoal.errors import UserError

FILES, FOLDERS = ":files", ":folders"  # instead of words: the shell itself is to complete these
SHELLS = ("bash", "zsh", "fish")
_OF_RUNS = ("report", "resume", "certify", "generate", "translate", "label", "delete", "du")  # RUN arguments
_BREAKS = ":="  # at which bash begins a new word, and puts its answer
_SPECIAL = frozenset(" \t*?[]{}()$&;|<>!~#'\"\\`")
_VALUES = {
    "state": ("waiting", "running", "interrupted", "left", "done", "diverged", "damaged"),
    "device": ("cpu", "cuda"),
    "engine": ("compiled", "prefixes", "windows", "plain"),
    **dict.fromkeys(("lab", "log_dir", "out"), (FOLDERS,)),
    **dict.fromkeys(("config", "reference", "tree", "text"), (FILES,)),
    **dict.fromkeys((f"{of}{side}" for of in ("", "valid_", "test_") for side in ("source", "target")), (FILES,)),
}


def complete(commands: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Completions that a script of :mod:`shoal.commands.completion` asks for, one per line.

    Args:
        commands: names of all commands.
        arguments: ``bash`` and the line up to the cursor; or ``words`` and the words after ``shoal``, of which the
            last is the one at the cursor, perhaps empty.
    """
    form, *words = arguments or [""]
    if form == "words":
        return answers(commands, words)
    if form != "bash" or len(words) != 1:
        return []
    split, is_open = split_line(words[0])
    candidates = answers(commands, split[1:])
    if is_open or candidates[:1] in ([FILES], [FOLDERS]):  # in quotes bash breaks no words, and keeps what is special
        return candidates
    head = max((split[-1].rfind(sign) for sign in _BREAKS), default=-1) + 1 if split else 0
    return ["".join(f"\\{sign}" if sign in _SPECIAL else sign for sign in word[head:]) for word in candidates]


def split_line(line: str) -> tuple[list[str], bool]:
    """Words of a line as a shell reads them, the last one empty behind a blank; and whether its quotes are still open.

    >>> split_line("shoal runs "), split_line("shoal train --operator 'x^")
    ((['shoal', 'runs', ''], False), (['shoal', 'train', '--operator', 'x^'], True))
    """
    if line.endswith("\\") and not line.endswith("\\\\"):  # of a sign that is still to come
        line = line[:-1]
    for closing in ("", "'", '"'):
        try:
            words = shlex.split(line + closing)
        except ValueError:
            continue
        begins = not closing and line[-1:].isspace() and not line.endswith("\\ ")
        return [*words, ""] if begins or not words else words, bool(closing)
    return line.split(), False


def answers(commands: Sequence[str], words: Sequence[str]) -> list[str]:
    """Completions of the last of these words, which follow ``shoal`` on the command line."""
    *before, now = words or [""]
    try:
        candidates = _candidates(commands, before, now)
    except UserError:  # what is typed so far is wrong: nothing follows it
        return []
    if candidates[:1] in ([FILES], [FOLDERS]):
        return candidates[:1]
    return [word for word in dict.fromkeys(candidates) if word.startswith(now) and word.isprintable()]


def _candidates(commands: Sequence[str], before: Sequence[str], now: str) -> list[str]:
    if not before:
        return [*commands, "--help", "--version"]
    command, *rest = before
    if command not in commands:
        return []
    name, is_assigned, _ = now.partition("=")
    if is_assigned and name.startswith("--"):
        values = _values(command, rest, name)
        return values if values[:1] in ([FILES], [FOLDERS]) else [f"{name}={each}" for each in values]
    flag = next((word for word in reversed(rest) if word.startswith("--")), "")
    n = len(rest) - 1 - max((place for place, word in enumerate(rest) if word == flag), default=-1)  # values so far
    candidates = []
    if flag and "=" not in flag and _takes(command, rest, flag, n):
        candidates = _values(command, rest, flag)
    elif not now.startswith("-"):
        candidates = _positional(command, rest)
    return [*candidates, *_flags(command, rest, now)] if now.startswith("-") else candidates


def _positional(command: str, rest: Sequence[str]) -> list[str]:
    """Words that are no flags, nor values of one."""
    first = [*takewhile(lambda word: not word.startswith("-"), rest)]
    if command == "completion":
        return [*SHELLS] if not rest else []
    if command in ("study", "reproduce", "report"):
        from shoal.studies import NAMES
        from shoal.studies.reproductions import NAMES as REPRODUCTIONS

        if command == "study":
            return ["list", "run", "report"] if not rest else [*NAMES] if first[:1] in (["run"], ["report"]) else []
        if command == "reproduce":
            return [*REPRODUCTIONS]
        return [*NAMES, *REPRODUCTIONS, *_of_runs(rest)]
    if command in _OF_RUNS:
        return _of_runs(rest)
    if command == "fit" and not first:
        return ["scaling"]
    return [FILES] if command in ("fit", "score") else []


def _of_runs(rest: Sequence[str]) -> list[str]:
    lab = _lab(rest)
    return [*names_of(lab), *groups_of(lab), *runs_of(lab)]


def _lab(words: Sequence[str]) -> str:
    """The lab that the words of a command name."""
    for place, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in ("--lab", "--log-dir", "--log_dir"):
            return value or "".join(words[place + 1 : place + 2]) or "lab"
    return "lab"


def _takes(command: str, rest: Sequence[str], flag: str, n: int) -> bool:
    """Return True if a flag that has ``n`` values takes another one."""
    name = flag.removeprefix("--").replace("-", "_")
    if name in _VALUES and name != "state":
        return n == 0 or name in ("reference", "text")
    if name in ("state", "tag", "untag", "group"):
        return True
    action = _parser(command, rest).action(flag)
    return action is not None and (action.nargs == "+" or (action.nargs is None and n == 0))


def _values(command: str, rest: Sequence[str], flag: str) -> list[str]:
    """Values of a flag, where they have names."""
    name = flag.removeprefix("--").replace("-", "_")
    if name in _VALUES:
        return list(_VALUES[name])
    if name in ("tag", "untag"):
        return tags_of(_lab(rest))
    if name == "group":
        return groups_of(_lab(rest))
    parser = _parser(command, rest)
    if name in ("columns", "sort") and parser.action(flag):
        return _columns(parser, falling=name == "sort")
    action = parser.action(flag)
    if action is None or action.dest not in parser.settings:
        return []
    return _choices(action.dest, parser)


def _columns(parser: Parser, falling: bool) -> list[str]:
    """Columns of a table of runs by symbol and by name; with ``-`` before them, too, if they may be ``falling``.

    The symbols are those of equations.
    """
    from shoal.measures import EQUATIONS, SPLITS

    best = [measure.symbol_of(split) for measure in EQUATIONS.recorded for split in SPLITS]
    delays = [f"Δt({measure.symbol})" for measure in EQUATIONS.recorded]
    names = [*best, *(f"t_f({symbol})" for symbol in best), *delays, "run", "state", "step", *parser.settings]
    return [*names, *(f"-{name}" for name in names if falling)]


def _choices(dest: str, parser: Parser) -> list[str]:
    """The values of a setting that have names."""
    from shoal.commands.ranges import types_of
    from shoal.registry import KINDS
    from shoal.spec.fields import extra
    from shoal.spec.known import owners

    setting = dest.rpartition(".")[2]
    if setting in KINDS:
        return KINDS[setting].names()
    values: list[str] = []
    for part in owners(setting, parser.parts):
        kinds = types_of(part.model_fields[setting].annotation)
        values += [
            *extra(part, setting)["choices"],
            *["true", "false"] * (bool in kinds),
            *["none"] * (type(None) in kinds),
        ]
    return values


def _flags(command: str, rest: Sequence[str], now: str) -> list[str]:
    """Flags that were not given yet, spelled with ``-``, or with ``_`` where the word at the cursor has one."""
    parser = _parser(command, rest)
    given = {action.dest for word in rest if (action := parser.action(word.partition("=")[0]))}
    sign = ("-", "_") if "_" in now else ("_", "-")
    spellings = []
    for action in parser.actions():
        if action.dest not in given and action.help is not argparse.SUPPRESS:
            spellings += [f"--{each[2:].replace(*sign)}" for each in action.option_strings if each.startswith("--")]
    return [*spellings, *_prefixed(parser, now, sign)] if now not in ("-", "--") else spellings


def _prefixed(parser: Parser, now: str, sign: tuple[str, str]) -> list[str]:
    """Flags of the runs with one part alone: where the grid has several of its kind, or the word has a dot already."""
    from shoal.commands.asked import asked_of
    from shoal.registry import KINDS, short
    from shoal.spec.training import ALWAYS

    spellings = []
    for kind, names in parser.parts.items():
        for name in names if "." in now or 1 < len(names) < len(KINDS[kind].names()) else ():
            parts = [KINDS[kind][name], *(ALWAYS if "." in now else ())]
            others = (
                [KINDS[kind][each] for kind, chosen in parser.parts.items() for each in chosen] if "." in now else []
            )
            settings = dict.fromkeys(setting for part in (*parts, *others) for setting in asked_of(part))
            spellings += [f"--{short(name)}.{setting.replace(*sign)}" for setting in settings]
    return spellings


def _parser(command: str, rest: Iterable[str]) -> Parser:
    """The flags of a command, of the parts that its words choose so far where these can be had."""
    module = importlib.import_module(f"shoal.commands.{command}")
    for words in ([*rest], []):
        parser = Parser(words, prog=f"shoal {command}")
        try:
            module.arguments(parser)
        except UserError:
            continue
        return parser
    return Parser([])
