"""``shoal train``: train a grid of runs."""

from shoal.commands.config import add_config
from shoal.commands.dry_run import add_dry_run, dry_run, tell_of_planning
from shoal.commands.parsing import (
    GRID,
    Options,
    Parser,
    add_execution,
    add_lab,
    add_label,
    add_settings,
    read_execution,
    read_settings,
    read_values,
)
from shoal.output import say


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    add_config(parser)
    add_lab(parser)
    add_label(parser)
    add_execution(parser)
    add_dry_run(parser)
    add_settings(parser, GRID)


def run(options: Options) -> int:
    """Train, then print how each run did."""
    from shoal.spec.prefixes import count_runs

    tell_of_planning(count_runs(read_values(options)))
    specs = read_settings(options)
    if options.read_from:
        say(options.read_from)
    from shoal.commands.training import read_label, train_with_progress
    from shoal.report.console import print_runs

    if options.dry_run:
        return dry_run(specs, options.lab, read_execution(options), label=read_label(options))

    records = train_with_progress(specs, options.lab, **read_execution(options), **read_label(options))
    return print_runs(records)
