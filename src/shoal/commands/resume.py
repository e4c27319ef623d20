"""``shoal resume [RUN…]``: go on with everything that was interrupted, or with some runs."""

import argparse
from typing import TYPE_CHECKING

from shoal.commands.parsing import Parser, add_execution, add_lab, read_execution
from shoal.output import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.lab import Lab


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="ids or their beginnings, or names; default all but runs of tunings"
    )
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
    records = resume_with_progress(options.lab, options.runs or None, **read_execution(options))
    held = lab.records()
    damage, unreadable = held.damage(), lab.unreadable()
    if len(records) == 0:
        say(_nothing(lab, options.runs, is_damaged=bool(damage or unreadable)))
    else:
        print_extrema(records, damage)
    return print_damage(damage, len(held), unreadable)


def _nothing(lab: "Lab", runs: "Sequence[str]", is_damaged: bool) -> str:
    """Line for a lab of which nothing was trained."""
    from shoal.lab.resting import resting

    sound = " that is not damaged" if is_damaged else ""
    if runs:
        return f"every one of these runs{sound} is finished"
    beside = " beside those" if resting(lab.path, lab.unfinished()).runs else ""
    return f"every run of the lab{sound}{beside} is finished"
