"""``shoal runs``: a table of the runs of a lab, or of some of them."""

import argparse
import sys

from shoal.commands.choice import add_choice, choose, unmatched
from shoal.commands.parsing import Parser, add_lab
from shoal.commands.table_flags import add_table, check_table, print_chosen
from shoal.errors import UserError, printable


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="ids or their beginnings, or names of runs or groups; without one, all"
    )
    add_lab(parser)
    add_table(parser)
    add_choice(parser)


def run(options: argparse.Namespace) -> int:
    """Print one line per run, and one per reason why some are damaged; 1 where some are."""
    check_table(options)

    from shoal.lab import Lab

    lab = Lab(options.lab)
    unreadable = [] if options.runs else lab.unreadable()
    records = lab.records(options.runs or None)
    if len(records) == 0 and not unreadable:
        raise UserError(f"lab {options.lab} holds no runs")
    if options.state:
        records = records.snapshot()
    chosen = choose(records, options, unreadable).snapshot()
    code = print_chosen(options, chosen, unreadable)
    for line in unmatched(records, options):
        print(printable(line), file=sys.stderr if options.csv or options.json else sys.stdout)
    return code
