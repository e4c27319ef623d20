"""``shoal report STUDY-OR-RUNS``: a page about a study or about any runs."""

import argparse

from shoal.commands.choice import add_choice, choose, flags_of_choice, unmatched
from shoal.commands.parsing import Parser, add_lab
from shoal.errors import UserError
from shoal.output import say


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    about = "a study or a reproduction, or ids or names of runs or groups; all runs when not given"
    parser.add_argument("what", nargs="*", metavar="STUDY-OR-RUNS", help=about)
    add_lab(parser)
    parser.flag("name", help="name of a report of runs (runs)")
    add_choice(parser)


def run(options: argparse.Namespace) -> int:
    """Write the page and print its path."""
    from shoal.commands.pages import study_of

    if len(options.what) == 1 and study_of(options.what[0]) is not None:
        return _report_study(options)
    return _report_runs(options)


def _report_study(options: argparse.Namespace) -> int:
    from shoal.commands.pages import find_pages
    from shoal.commands.questions import report_pages
    from shoal.lab import Lab
    from shoal.report.console import print_damage

    if options.name is not None:
        raise UserError(f"--name does not apply to the report of a study, got {options.name!r}")
    if flags := flags_of_choice(options):
        raise UserError(f"the report of a study is of its own runs, got {flags}")
    lab = Lab(options.lab)
    pages, unreadable = find_pages(lab, options.what[0])
    code = print_damage({}, 0, unreadable)
    return code | report_pages(pages, lab)


def _report_runs(options: argparse.Namespace) -> int:
    from shoal.commands.pages import check_own_name
    from shoal.lab import Lab
    from shoal.report import check_drawing, write_report
    from shoal.report.console import print_runs
    from shoal.report.runs import report_runs

    lab = Lab(options.lab)
    folder = lab.report_folder("runs" if options.name is None else check_own_name(options.name, lab))
    records = lab.records(options.what or None)
    unreadable = lab.unreadable() if not options.what or {*options.what} & {*lab.labels().groups} else []
    if len(records) == 0:
        raise UserError("; ".join([f"lab {options.lab} holds no runs", *unreadable]))
    lacking = unmatched(records, options)
    records = choose(records.snapshot(), options, unreadable)
    check_drawing()
    flags = flags_of_choice(options)
    command = " ".join(word for word in ("shoal report", *options.what, flags) if word)
    report = report_runs(records, command, [*unreadable, *lacking])
    code = print_runs(records, unreadable)
    say()
    say(f"report: {write_report(report, folder)}")
    return code
