"""``shoal runs``: what the lab holds, or some of it."""

import argparse

from shoal.commands.choice import add_choice, choose, unmatched
from shoal.commands.parsing import Parser, add_lab
from shoal.errors import UserError
from shoal.output import say


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    add_lab(parser)
    add_choice(parser)


def run(options: argparse.Namespace) -> int:
    """Print one line per run, and one per reason why some are damaged; 1 where some are."""
    from shoal.lab import Lab
    from shoal.report.console import print_runs

    lab = Lab(options.lab)
    records, unreadable = lab.records(), lab.unreadable()
    if len(records) == 0 and not unreadable:
        raise UserError(f"lab {options.lab} holds no runs")
    chosen = choose(records, options, unreadable)
    code = print_runs(chosen, unreadable)
    for line in unmatched(records, options):
        say(line)
    return code
