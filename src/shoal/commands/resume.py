"""``shoal resume``: go on with everything that was interrupted."""

import argparse

from shoal.commands.parsing import Parser, add_execution, add_lab, read_execution


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    add_lab(parser)
    add_execution(parser, new_runs=False)


def run(options: argparse.Namespace) -> int:
    """Go on, then print how the resumed runs did."""
    from shoal.commands.training import resume_with_progress
    from shoal.errors import UserError
    from shoal.lab import Lab
    from shoal.report.console import print_extrema

    if not Lab(options.lab).runs():
        raise UserError(f"lab {options.lab} holds no runs")
    records = resume_with_progress(options.lab, **read_execution(options))
    if len(records) == 0:
        print("every run of the lab is finished")
        return 0
    print_extrema(records)
    return 0
