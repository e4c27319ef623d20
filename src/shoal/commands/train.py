"""``shoal train``: train a grid of runs."""

import argparse

from shoal.commands.parsing import Parser, add_execution, add_lab, add_settings, read_settings


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    add_lab(parser)
    add_execution(parser)
    parser.flag("threads", type=int, help="threads per cohort (the cores divided by the workers)")
    add_settings(parser)


def run(options: argparse.Namespace) -> int:
    """Train, then print how each run did."""
    specs = read_settings(options)

    from shoal.commands.training import train_with_progress
    from shoal.report.console import print_extrema

    records = train_with_progress(
        specs,
        options.lab,
        device=options.device,
        workers=options.workers,
        threads=options.threads,
        flush_seconds=options.flush_seconds,
    )
    print_extrema(records)
    return 0
