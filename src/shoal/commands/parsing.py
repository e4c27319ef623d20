"""Flags: the standard library's argparse with one-line errors, both spellings, and a flag for each setting of a run.

argparse and not a generator of command lines, because every flag takes several values, mistakes must come out as one
line that names the nearest flag, and ``--help`` must answer before anything heavy is imported.
"""

import argparse
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from shoal.commands.asked import as_text, asked_of, outside_parts, refuse_derived
from shoal.commands.prefixed import add_prefixed, refuse_prefixed
from shoal.errors import UserError, nearest

if TYPE_CHECKING:
    from shoal.commands.config import Config
    from shoal.spec import Part, RunSpec


# argparse's words for a mistake, and ours
_WORDS = {
    "expected at least one argument": "needs at least one value",
    ": invalid int value: ": " must be an integer, got ",
    ": invalid float value: ": " must be a number, got ",
}


class Options(argparse.Namespace):
    """Values of all flags as read from the command line; ``given`` has the spelling of each flag that stood there."""

    __slots__ = ("given", "parts", "read_from", "settings")  # no value of a flag, so not among them

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, str] = {}
        self.settings: tuple[str, ...] = ()  # the flags that are settings of runs
        self.parts: dict[str, list[str]] = {}  # names of the parts that have them, by kind
        self.read_from = ""  # a line on what a file gave


def _visible(actions: Iterable[argparse.Action]) -> list[argparse.Action]:
    """Those that the help names."""
    return [action for action in actions if action.help is not argparse.SUPPRESS]


class _Once(argparse.Action):
    """Action of a flag that may be given once: stores its values, or True for a flag without values (``nargs`` 0)."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        if option is not None:
            assert isinstance(namespace, Options)
            if self.dest in namespace.given:
                first = namespace.given[self.dest]
                both = f"{option} was given twice" if first == option else f"{first} and {option} are one flag"
                raise UserError(f"{both}; give {'all its values at once' if self.nargs == '+' else 'it once'}")
            namespace.given[self.dest] = option
        setattr(namespace, self.dest, True if self.nargs == 0 else values)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are :class:`UserError`."""

    def __init__(self, words: Sequence[str] = (), **options: Any) -> None:
        super().__init__(allow_abbrev=False, usage="%(prog)s [flags]", **options)
        self.settings: list[str] = []  # its flags that are settings of runs
        self.parts: dict[str, list[str]] = {}  # names of the parts that have them, by kind
        self.config: Config | None = None  # a file with flags that are not among the words
        self.untold: list[argparse._ArgumentGroup] = []  # groups of flags that the help leaves out
        self.words = list(words)  # of the command: which flags there are depends on the parts that they choose
        for kind in (None, "store"):
            self.register("action", kind, _Once)
        self.register("action", "store_true", partial(_Once, nargs=0, default=False))
        # argparse takes -1 for a value, but -1e-3, -inf and -1..2 for flags
        number = r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|-(inf|nan)|-\d+\.\..*"
        self._negative_number_matcher = re.compile(rf"^({number})$", re.IGNORECASE)

    def format_help(self) -> str:
        """Text of ``--help``."""
        hidden = [*self.untold, *(group for group in self._action_groups if not _visible(group._group_actions))]
        self._action_groups = [group for group in self._action_groups if group not in hidden]
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        for theirs, ours in _WORDS.items():
            message = message.replace(theirs, ours)
        raise UserError(message.removeprefix("argument "))

    def chosen(self, kind: str) -> list[str]:
        """The parts of a kind that the words of the command choose, or its file."""
        flag = f"--{kind}"
        for place, word in enumerate(self.words):
            if word == flag:
                rest = self.words[place + 1 :]
                names = [*itertools.takewhile(lambda other: not other.startswith("-"), rest)]
                return names or [self.usual(kind)]
            if word.startswith(f"{flag}="):
                return [word.partition("=")[2]]
        return (self.config.parts(kind) if self.config else []) or [self.usual(kind)]

    def usual(self, kind: str) -> str:
        """Default part of a kind, which may depend on the task that the words name, where that can be imported."""
        from shoal.spec.names import usual_part

        return usual_part(kind, self.chosen)

    def suggested(self) -> dict[str, Any]:
        """Defaults of settings under the task that the words of the command choose."""
        from shoal.registry import TASKS

        tasks = self.chosen("task")
        return dict(TASKS[tasks[0]].suggests) if len(tasks) == 1 else {}

    def flag(self, name: str, **options: Any) -> None:
        """Declare ``--some-name``, also spelled ``--some_name``."""
        spellings = dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name.replace('-', '_')}"])
        self.add_argument(*spellings, dest=name.replace("-", "_"), **options)

    def taken(self, spellings: Iterable[str]) -> str:
        """First of these spellings that is a flag already; empty where none is."""
        return next((flag for flag in spellings if flag in self._option_string_actions), "")

    def flags(self) -> list[str]:
        """Every spelling of every flag."""
        return list(self._option_string_actions)

    def actions(self) -> list[argparse.Action]:
        """Actions of all flags and of all words without a flag, in order."""
        return list(self._actions)

    def action(self, spelling: str) -> argparse.Action | None:
        """The flag of a spelling; None where there is none."""
        return self._option_string_actions.get(spelling)

    def spelled(self, dest: str, spelling: str) -> argparse.Action:
        """The flag whose values are kept under ``dest``, from now on also spelled like this."""
        (action,) = (action for action in self._actions if action.dest == dest)
        self._option_string_actions[spelling] = action
        return action

    def converted(self, action: argparse.Action, word: str) -> Any:
        """A word as a value of a flag.

        Raises:
            UserError: it is none.
        """
        try:
            return self._get_value(action, word)
        except argparse.ArgumentError as error:
            self.error(str(error))

    def refuse_other(self, flag: str) -> None:
        """Raise :class:`UserError` for the flag of a part that was not chosen, where others can be."""
        from shoal.registry import KINDS
        from shoal.spec.names import going_with

        name, tasks = flag.removeprefix("--").replace("-", "_"), self.chosen("task")
        for kind, registry in KINDS.items():
            if f"--{kind}" not in self._option_string_actions or not flag.startswith("--"):
                continue
            fitting = [part for part in registry.shipped() if name in asked_of(part)]
            if fitting:
                chosen = " ".join(self.chosen(kind))
                names = [part.name for part in (going_with(tasks[0], fitting) if len(tasks) == 1 else fitting)]
                also = f", such as --{kind} {names[0]}" if names else ""
                raise UserError(f"{flag} does not apply to {kind} {chosen!r}; it applies to {' '.join(names)}{also}")

    def parse(self, arguments: Sequence[str]) -> Options:
        """Parse the words of a command; raise :class:`UserError` for flags that are unknown or given twice."""
        shown = _visible(self._get_positional_actions())
        words = [f"[{action.metavar or action.dest}{' …' * (action.nargs != '?')}]" for action in shown]
        self.usage = " ".join(["%(prog)s", *words, "[flags]"])
        options, unknown = self.parse_known_args(list(arguments), Options())
        options.settings, options.parts = tuple(self.settings), self.parts
        if unknown:
            known = self.flags()
            name = unknown[0].partition("=")[0]
            self.refuse_other(name)
            if "--model" in known:  # flags of parts that were not chosen could have been meant, too
                from shoal.spec.known import known_settings

                several = known_settings()
                refuse_derived(name, several)
                asked = [
                    setting for setting, parts in several.items() if any(setting in asked_of(part) for part in parts)
                ]
                known += [f"--{setting.replace('_', '-')}" for setting in asked]
            is_flag = name.startswith("-") or "=" in unknown[0]  # seed=1 is --seed 1
            meant = nearest(name if name.startswith("-") else f"--{name}", known) if is_flag else ""
            raise UserError(f"unknown argument {unknown[0]!r} of {self.prog}{meant}")
        if self.config:
            self.config.apply(self, options)
            options.read_from = self.config.summary()
            options.settings = tuple(self.settings)  # of which the file may have brought more
        return options


def refuse_unread(options: Options, command: str, *read: str) -> None:
    """Raise :class:`UserError` for a flag that is given and that the command does not read in this form."""
    from shoal.report.words import listed

    for name, spelling in options.given.items():
        if name not in read:
            raise UserError(f"{command} takes no flag but {listed([f'--{flag}' for flag in read])}, got {spelling}")


def add_lab(parser: Parser) -> None:
    """``--lab``, which the practical calls ``--log_dir``."""
    names = ("--lab", "--log-dir", "--log_dir")
    parser.add_argument(*names, dest="lab", default="lab", type=_folder, help="the lab's folder; default ./lab")


def add_label(parser: Parser) -> None:
    """``--name``, ``--tag`` and ``--note`` of what is trained."""
    parser.flag("name", help="name of the run, or of a group of all where there are several")
    parser.flag("tag", nargs="+", metavar="T", help="tags, by which runs can be chosen")
    parser.flag("note", metavar="TEXT", help="free text about the runs")


def _folder(name: str) -> str:
    if not name:  # to the file system this folder
        raise argparse.ArgumentTypeError("needs the name of a folder, got ''")
    return name


def add_execution(parser: Parser, new_runs: bool = True) -> None:
    """Declare the flags of the execution, which change results by rounding alone.

    ``--threads`` and ``--engine`` are declared only where there can be new runs.
    """
    parser.flag("device", help="cpu or cuda; default cuda where there is one")
    parser.flag("workers", type=int, help="cohorts to train at the same time; default as many as cores")
    parser.flag("places", type=int, help="runs of a cohort to train side by side; default as many as fit into memory")
    parser.flag(
        "flush-seconds",
        type=float,
        default=20.0,
        help="seconds between two writes of the records to the disk, at most 30; default 20",
    )
    if new_runs:
        parser.flag(
            "threads",
            type=int,
            help="threads per new cohort; default the cores divided by the workers, at most OMP_NUM_THREADS",
        )
        parser.flag("engine", help="compiled, prefixes, windows or plain; default the fastest that is worth its start")


def read_execution(options: argparse.Namespace) -> dict[str, Any]:
    """Values of the flags of :func:`add_execution`, as arguments of :func:`shoal.train` or :func:`shoal.resume`."""
    names = ("device", "workers", "flush_seconds", "threads", "engine", "places")
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


# what the settings of runs are for
GRID = "settings of the runs, each with one value or several"
STUDY = f"{GRID} where the study has an axis; else the study's own"
CHOICE = "only runs with these settings, each with one value or several"
CHOSEN = "below are the settings of the parts that are chosen; --model gpt --help lists those of a gpt"
ALSO = "and with every other setting, such as --weight-decay 0.5 1; shoal train --help lists them"


def add_settings(parser: Parser, purpose: str, more: Mapping[str, Sequence[str]] = MappingProxyType({})) -> None:
    """One flag per setting of a run, each taking one or more values, grouped by the parts that have them.

    For a grid these are the parts that the words of the command choose, and the help shows defaults; else they are all
    parts of shoal and those from outside of it that the words choose. A setting that is read from files has a flag only
    where runs are chosen, because runs on record have a value of it. There a part that cannot be imported has no flags.

    Args:
        parser: to which they are added.
        purpose: use of the flags: :data:`GRID`, :data:`STUDY` or :data:`CHOICE`.
        more: names of further parts, by kind.
    """
    from shoal.registry import KINDS, short
    from shoal.spec.training import ALWAYS

    grid = purpose == GRID
    kinds = parser.add_argument_group(f"parts of the runs; {purpose}", CHOSEN if grid else ALSO)
    seen = set(KINDS)
    for kind, registry in KINDS.items():
        known = f"{' '.join(registry.names())}, or the place package.module:Class of your own"
        default = f"; default {parser.usual(kind)}" if grid else ""
        parser.settings.append(kind)
        kinds.add_argument(f"--{kind}", dest=kind, nargs="+", metavar="X", help=f"{kind} ({known}){default}")
    for kind, registry in KINDS.items():
        asked = [*parser.chosen(kind), *more.get(kind, ())]
        shipped = [part.name for part in registry.shipped()]
        outside = outside_parts(kind, asked, purpose == CHOICE)
        parser.parts[kind] = parser.chosen(kind) if grid else [*shipped, *outside]
        for name in parser.parts[kind]:
            _add_part(parser, f"{kind} {short(name)}", registry[name], seen, purpose)
    for part in ALWAYS:
        _add_part(parser, part.name, part, seen, purpose)
    if purpose == CHOICE:
        refuse_prefixed(parser)
    else:
        add_prefixed(parser)


def _add_part(parser: Parser, title: str, part: "type[Part]", seen: set[str], purpose: str) -> None:
    """The flags of a part's settings, but for those that another has, too."""
    is_grid = purpose == GRID
    suggested = parser.suggested() if is_grid else {}
    group = parser.add_argument_group(title)
    if not is_grid:  # some 90 flags, which would hide those of the command
        parser.untold.append(group)
    for name in part.model_fields if purpose == CHOICE else asked_of(part):
        if name in seen:
            continue
        info = part.model_fields[name]
        seen.add(name)
        spellings = dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"])
        if taken := parser.taken(spellings):
            raise UserError(
                f"setting {name!r} of {part.__name__} cannot be given here, where {taken} is another flag of "
                f"{parser.prog}: it needs another name"
            )
        usual = suggested.get(name, info.default)
        text = as_text(usual) if is_grid and usual is not None and not info.is_required() else ""
        default = f"; default {text}" if text else ""
        about = f"{info.description or name}{default}".replace("%", "%%")
        parser.settings.append(name)
        group.add_argument(*spellings, dest=name, nargs="+", metavar="X", help=about)


def read_values(options: argparse.Namespace) -> dict[str, list[str | None]]:
    """The values of the flags of :func:`add_settings` that were given."""
    from shoal.commands.ranges import values_of

    names = [name for name in options.settings if getattr(options, name, None) is not None]
    return {name: values_of(name, getattr(options, name), getattr(options, "parts", {})) for name in names}


def read_settings(options: argparse.Namespace) -> "list[RunSpec]":
    """The grid that the flags of :func:`add_settings` ask for.

    Raises:
        UserError: a value is not allowed, or makes no difference.
    """
    from shoal.spec import grid

    return grid(None, **read_values(options))
