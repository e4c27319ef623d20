"""``shoal train``: train a grid of runs."""

import argparse
import math

from shoal.commands.dry_run import add_dry_run, dry_run
from shoal.commands.parsing import (
    GRID,
    Parser,
    add_execution,
    add_lab,
    add_settings,
    read_execution,
    read_settings,
    read_values,
    tell_of_planning,
)


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    add_lab(parser)
    add_execution(parser)
    add_dry_run(parser)
    add_settings(parser, GRID)


def run(options: argparse.Namespace) -> int:
    """Train, then print how each run did."""
    tell_of_planning(math.prod(map(len, read_values(options).values())))
    specs = read_settings(options)
    if options.dry_run:
        return dry_run(specs, options.lab, read_execution(options))

    from shoal.commands.training import train_with_progress
    from shoal.report.console import print_runs

    records = train_with_progress(specs, options.lab, **read_execution(options))
    return print_runs(records)
