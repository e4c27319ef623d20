"""``shoal report STUDY-OR-RUNS``: a page about a study or about any runs, also by the settings in which they differ."""

import argparse
import shlex

from shoal.commands.choice import add_choice, choose, flags_of_choice, page_name, unmatched
from shoal.commands.parsing import Options, Parser, add_lab
from shoal.errors import UserError
from shoal.output import say

_OF_AXES = ("threshold", "stay", "other_lab")  # flags that a page without axes does not read


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    about = "a study or a reproduction, or ids or names of runs or groups; all runs when not given"
    parser.add_argument("what", nargs="*", metavar="STUDY-OR-RUNS", help=about)
    add_lab(parser)
    parser.flag(
        "name", help="name of a report of runs; default runs, or with --by runs-by-AXIS, and what chooses the runs"
    )
    parser.flag(
        "by",
        nargs="+",
        metavar="AXIS",
        help="settings in which the runs differ: curves overlaid by their values, times, rates, trends, pairs on "
        "shared seeds, and tests with correction",
    )
    parser.flag("other-lab", metavar="DIR", help="a second lab, whose runs stand beside those of --lab (axis lab)")
    parser.flag(
        "threshold",
        type=float,
        nargs="+",
        help="with --by: thresholds on the validation split, for times to reach them; default those of the task",
    )
    parser.flag(
        "stay",
        type=int,
        help="with --by: evaluations in a row that must meet the threshold; the time is the first of them; default 1",
    )
    add_choice(parser)


def run(options: Options) -> int:
    """Write the page and print its path."""
    from shoal.commands.pages import study_of

    studies = [study_of(word) is not None for word in options.what]
    if any(studies) and not all(studies):
        word = options.what[studies.index(False)]
        raise UserError(
            f"a report shows either studies or runs: {options.what[studies.index(True)]!r} is a study, {word!r} is none"
        )
    if options.by is not None or options.other_lab is not None or sum(studies) > 1:
        from shoal.commands.sides import report_by

        return report_by(options, is_of_studies=any(studies))
    for name in _OF_AXES:
        if getattr(options, name) is not None:
            raise UserError(f"{options.given[name]} needs --by AXIS: shoal report … --by AXIS {options.given[name]} …")
    return _report_study(options) if any(studies) else _report_runs(options)


def _report_study(options: argparse.Namespace) -> int:
    from shoal.commands.pages import find_pages
    from shoal.commands.questions import report_pages
    from shoal.lab import Lab
    from shoal.report.console import print_damage

    if options.name is not None:
        raise UserError(f"--name does not apply to the report of a study, got {options.name!r}")
    if flags := flags_of_choice(options):
        raise UserError(f"the report of a study shows its own runs and takes no choice of runs, got {flags}")
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
    groups = lab.labels().groups
    default = page_name("runs", options)
    folder = lab.report_folder(default if options.name is None else check_own_name(options.name, lab))
    records = lab.records(options.what or None)
    unreadable = lab.unreadable() if not options.what or {*options.what} & {*groups} else []
    if len(records) == 0:
        raise UserError("; ".join([f"lab {options.lab} holds no runs", *unreadable]))
    lacking = unmatched(records, options)
    records = choose(records.snapshot(), options, unreadable)
    check_drawing()
    flags = flags_of_choice(options)
    command = " ".join(word for word in ("shoal report", *map(shlex.quote, options.what), flags) if word)
    report = report_runs(records, command, [*unreadable, *lacking])
    code = print_runs(records, unreadable)
    say()
    say(f"report: {write_report(report, folder)}")
    return code
