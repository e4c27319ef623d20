"""``shoal report STUDY-OR-RUNS``: a page about a study or about any runs."""

import argparse

from shoal.commands.choice import add_choice, choose, flags_of_choice
from shoal.commands.parsing import Parser, add_lab
from shoal.errors import UserError


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument("what", nargs="*", metavar="STUDY-OR-RUNS", help="a study, or runs; all runs when not given")
    add_lab(parser)
    parser.flag("name", help="name of a report of runs (runs)")
    add_choice(parser)


def run(options: argparse.Namespace) -> int:
    """Write the page and print its path."""
    from shoal.lab import Lab
    from shoal.studies import NAMES, get_study

    flags = flags_of_choice(options)
    if len(options.what) == 1 and options.what[0] in NAMES:
        from shoal.commands.questions import report_studies

        if options.name is not None:
            raise UserError(f"--name does not apply to the report of a study, got {options.name!r}")
        if flags:
            raise UserError(f"the report of a study is of its own runs, got {flags}")
        report_studies({options.what[0]: get_study(options.what[0])}, Lab(options.lab))
        return 0
    from shoal.report import check_drawing, write_report
    from shoal.report.console import print_runs
    from shoal.report.runs import report_runs

    lab = Lab(options.lab)
    folder = lab.report_folder(options.name or "runs")
    records = lab.records(options.what or None)
    unreadable = [] if options.what else lab.unreadable()
    if len(records) == 0:
        raise UserError("; ".join([f"lab {options.lab} holds no runs", *unreadable]))
    records = choose(records, options, unreadable)
    check_drawing()
    command = " ".join(word for word in ("shoal report", *options.what, flags) if word)
    report = report_runs(records, command, unreadable)
    code = print_runs(records, unreadable)
    print(f"\nreport: {write_report(report, folder)}")
    return code
