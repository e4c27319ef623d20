"""``shoal runs``: what the lab holds."""

import argparse

from shoal.commands.parsing import Parser, add_lab


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    add_lab(parser)


def run(options: argparse.Namespace) -> int:
    """Print one line per run."""
    from shoal.lab import Lab
    from shoal.report.console import print_runs

    print_runs(Lab(options.lab).records())
    return 0
