"""``shoal report STUDY-OR-RUNS``: a page about a study or about any runs."""

import argparse

from shoal.commands.parsing import Parser, add_lab
from shoal.errors import UserError


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument("what", nargs="*", metavar="STUDY-OR-RUNS", help="a study, or runs; all runs when not given")
    add_lab(parser)
    parser.flag("name", help="name of a report of runs (runs)")


def run(options: argparse.Namespace) -> int:
    """Write the page and print its path."""
    from shoal.lab import Lab
    from shoal.studies import NAMES, get_study

    if len(options.what) == 1 and options.what[0] in NAMES:
        from shoal.commands.questions import report_studies

        if options.name is not None:
            raise UserError(f"--name does not apply to the report of a study, got {options.name!r}")
        report_studies({options.what[0]: get_study(options.what[0])}, Lab(options.lab))
        return 0
    from shoal.report import write_report
    from shoal.report.console import print_runs
    from shoal.report.runs import report_runs

    lab = Lab(options.lab)
    folder = lab.report_folder(options.name or "runs")
    records = lab.records(options.what or None)
    unreadable = [] if options.what else lab.unreadable()
    if len(records) == 0:
        raise UserError("; ".join([f"lab {options.lab} holds no runs", *unreadable]))
    report = report_runs(records, f"shoal report {' '.join(options.what)}".strip(), unreadable)
    code = print_runs(records, unreadable)
    print(f"\nreport: {write_report(report, folder)}")
    return code
