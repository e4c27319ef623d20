"""``shoal resume``: go on with everything that was interrupted."""

import argparse

from shoal.commands.parsing import Parser, add_execution, add_lab, read_execution
from shoal.output import say


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    add_lab(parser)
    add_execution(parser, new_runs=False)


def run(options: argparse.Namespace) -> int:
    """Go on, then print the results of the resumed runs and the damage; return 1 if a run is damaged, else 0."""
    from shoal.commands.training import resume_with_progress
    from shoal.errors import UserError
    from shoal.lab import Lab
    from shoal.report.console import print_damage, print_extrema

    lab = Lab(options.lab)
    if not lab.runs() and not lab.unreadable():
        lab.records()  # says that there is no such lab, where there is none
        raise UserError(f"lab {options.lab} holds no runs")
    records = resume_with_progress(options.lab, **read_execution(options))
    held = lab.records()
    damage, unreadable = held.damage(), lab.unreadable()
    if len(records) == 0:
        say(f"every run of the lab{' that is not damaged' if damage or unreadable else ''} is finished")
    else:
        print_extrema(records, damage)
    return print_damage(damage, len(held), unreadable)
