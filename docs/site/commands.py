"""Pages of the command line, made from the parsers of its commands."""

import argparse
import importlib
import os
from unittest.mock import patch

from shoal.cli import COMMANDS
from shoal.commands.asked import as_argument
from shoal.commands.parsing import Parser
from shoal.registry import KINDS

_SHARED = "A setting that several tasks, models or optimizers have stands at the first of them alone."
_CODES = "Exit codes and what saves typing are in [the guide](guide.md)."


def command_pages() -> dict[str, str]:
    """Markdown of each command, by its name."""
    return {name: _page(name, about) for name, about in COMMANDS.items()}


def overview() -> str:
    """Markdown of the list of commands."""
    rows = "\n".join(f"| [shoal {name}]({name}.md) | {_cell(about)} |" for name, about in COMMANDS.items())
    names = "\n".join(COMMANDS)
    return (
        "# Command line\n\nFlags are written with `-` or `_`. These pages are made from the parsers.\n\n"
        f"| command | use |\n| --- | --- |\n{rows}\n\n```{{toctree}}\n:hidden:\n\nguide\n{names}\n```\n"
    )


def _page(name: str, about: str) -> str:
    parser = parser_of(name)
    words = "".join(f" {as_argument(action)}" for action in parser._get_positional_actions())
    lines = [f"# shoal {name}", "", f"{about[:1].upper()}{about[1:]}.", "", f"    $ shoal {name}{words} [flags]", ""]
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if not actions or group in parser.untold:
            continue
        title, _, rest = str(group.title).partition("; ")
        title = {"positional arguments": "Arguments", "options": "Flags"}.get(title, title)
        lines += ["", f"## {title[:1].upper()}{title[1:]}", ""]
        about = "; ".join(filter(None, (rest, group.description)))
        lines += [f"{_cell(about[:1].upper() + about[1:])}.\n"] if about else []
        kind = "flag" if actions[0].option_strings else "argument"
        rows = [f"| {kind} | meaning |", "| --- | --- |", *map(_row, actions)]
        lines += [":::{container} shoal-flags", "", *rows, "", ":::"]
    if name == "train":
        lines.insert(6, f"{_SHARED}\n")
    return "\n".join([*lines, "", _CODES, ""])


def parser_of(name: str) -> Parser:
    """Parser of a command with the flags of every task, model and optimizer of shoal."""
    module = importlib.import_module(f"shoal.commands.{name}")
    every = [word for kind, registry in KINDS.items() for word in (f"--{kind}", *registry.names())]
    parser = Parser(every if name == "train" else (), prog=f"shoal {name}")
    with patch.dict(os.environ, {"COLUMNS": "100"}):
        module.arguments(parser)
    return parser


def _row(action: argparse.Action) -> str:
    flags = [flag for flag in action.option_strings if "_" not in flag] or [str(action.metavar or action.dest)]
    value = ""
    if action.option_strings and action.nargs != 0:
        word = str(action.metavar or action.dest.upper())
        value = f" {word} …" if action.nargs in ("+", "*") else f" {word}"
    names = ", ".join(f"`{flag}`" for flag in flags[:-1])
    shown = f"{names}, `{flags[-1]}{value}`" if names else f"`{flags[-1]}{value}`"
    return f"| {shown} | {_cell((action.help or '').replace('%%', '%'))} |"


def _cell(text: str) -> str:
    """Text that Markdown shows as it is, within a table."""
    for sign in "\\*_|<>[]$`":
        text = text.replace(sign, f"\\{sign}")
    return text
