"""``shoal study list | run NAME | report NAME``."""

import argparse
from typing import TYPE_CHECKING

from shoal.commands.parsing import Parser, add_execution, add_lab, read_execution
from shoal.errors import UserError, nearest

if TYPE_CHECKING:
    from shoal.lab import Lab, Records
    from shoal.studies import Study

ACTIONS = ("list", "run", "report")
CERTIFIED_STEPS = {True: 25, False: 50}  # quick form, full form


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument("action", metavar="ACTION", help=" | ".join(ACTIONS))
    parser.add_argument("name", nargs="?", metavar="NAME", help="the study")
    add_lab(parser)
    parser.flag("quick", action="store_true", help="a small form that two cores finish in minutes")
    parser.flag("seed", type=int, nargs="+", help="seeds, instead of the study's own")
    add_execution(parser)


def run(options: argparse.Namespace) -> int:
    """List, run or report."""
    if options.action not in ACTIONS:
        raise UserError(
            f"unknown action {options.action!r}: one of {' '.join(ACTIONS)}{nearest(options.action, ACTIONS)}"
        )
    _refuse_unread(options)
    from shoal.lab import Lab
    from shoal.lab.lab import check_name
    from shoal.studies import NAMES, get_study

    if options.action == "list":
        for name in NAMES:
            print(f"{name:16} {get_study(name).ABOUT}")
        return 0
    if options.name is None:
        raise UserError(f"study {options.action} needs the name of a study: one of {' '.join(NAMES)}")
    study = get_study(check_name(options.name, "study"))
    lab = Lab(options.lab)
    if options.action == "run":
        return _run(options, study, lab)
    note = lab.study_note(options.name)
    if note is None:
        raise UserError(f"study {options.name!r} was not run in lab {lab.path}; shoal study run {options.name}")
    _report(study, lab.records(note["runs"]), lab, options.name, note["quick"])
    return 0


def _refuse_unread(options: argparse.Namespace) -> None:
    """Flags that only ``run`` reads, and names that ``list`` does not."""
    if options.action == "list" and options.name is not None:
        raise UserError(f"study list takes no name, got {options.name!r}")
    read = options.quick or options.seed or options.device or options.workers or options.threads
    if options.action != "run" and read:
        raise UserError(f"study {options.action} takes no flag but --lab")


def _run(options: argparse.Namespace, study: "Study", lab: "Lab") -> int:
    from shoal.commands.training import train_with_progress
    from shoal.training.api import check_execution
    from shoal.training.certificate import certify

    specs = study.runs(options.quick, options.seed)
    device = check_execution(**read_execution(options))
    # written first, so that `shoal study report` can show what there is of a run that was interrupted or killed
    lab.create().note_study(options.name, {"quick": options.quick, "runs": [spec.id for spec in specs]})
    records = train_with_progress(specs, options.lab, **read_execution(options))
    for folder in records.cohorts():
        if folder.certificate() is None:
            print(f"certifying cohort {folder.id}: one member alone for {CERTIFIED_STEPS[options.quick]} steps")
            first = [run for run in records.ids if run in folder.status()["members"]][:1]
            certify(folder, first, CERTIFIED_STEPS[options.quick], device)
    _report(study, records, lab, options.name, options.quick)
    diverged = records.runs().filter(state="diverged")
    if not diverged.is_empty():
        print(f"{len(diverged)} of {len(records)} runs diverged: {' '.join(diverged['run'])}")
        return 1
    return 0


def _report(study: "Study", records: "Records", lab: "Lab", name: str, quick: bool) -> None:
    from shoal.report import write_report
    from shoal.report.console import print_table

    report = study.report(records, quick)
    for section in report.sections:
        for table in section.tables:
            print()
            print_table(table)
    print(f"\n{report.lead}\n")
    print(f"report: {write_report(report, lab.report_folder(name))}")
