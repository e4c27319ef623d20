"""``shoal study list | run NAME … | report NAME …``; of reproduction cards, ``report``."""

import argparse

from shoal.commands.parsing import STUDY, Parser, add_execution, add_lab, add_settings, read_execution, read_values
from shoal.errors import UserError, nearest

ACTIONS = ("list", "run", "report")


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument("action", nargs="?", metavar="ACTION", help=" | ".join(ACTIONS))
    parser.add_argument("names", nargs="*", metavar="NAME", help="the studies")
    parser.flag("all", action="store_true", help="every study; runs that several ask for are trained once")
    add_lab(parser)
    add_form(parser)
    add_execution(parser)
    add_settings(parser, STUDY)


def add_form(parser: Parser) -> None:
    """``--quick``, ``--seeds``, ``--threshold`` and ``--stay``."""
    parser.flag("quick", action="store_true", help="a small form that two cores finish in minutes")
    parser.flag("seeds", type=int, help="how many seeds, instead of the study's own number")
    add_threshold(parser)
    parser.flag(
        "stay",
        type=int,
        help="at how many evaluations in a row a run has to be there, of which the first is its time (1: reached once)",
    )


def add_threshold(parser: Parser) -> None:
    """``--threshold``."""
    parser.flag(
        "threshold",
        type=float,
        nargs="+",
        help="validation accuracy from which a run has generalised, for the times to get there (0.9 0.99); where an "
        "answer says generalised, it says from which accuracy",
    )


def run(options: argparse.Namespace) -> int:
    """List, run or report."""
    if options.action is None:
        raise UserError(f"study needs to know what to do: one of {' '.join(ACTIONS)}")
    if options.action not in ACTIONS:
        raise UserError(
            f"unknown action {options.action!r}: one of {' '.join(ACTIONS)}{nearest(options.action, ACTIONS)}"
        )
    _refuse_unread(options)
    from shoal.lab import Lab
    from shoal.lab.names import check_name
    from shoal.studies import NAMES, cards, get_study

    if options.action == "list":
        for name in NAMES:
            print(f"{name:16} {get_study(name).ABOUT}")
        return 0
    if not options.names and not options.all:
        raise UserError(f"study {options.action} needs the name of a study, or --all: {' '.join(NAMES)}")
    asked = (*NAMES, *(cards.NAMES if options.action == "report" else ())) if options.all else options.names
    # a card is trained by `shoal reproduce`; what there is of its runs is reported as a study's is
    find = dict.fromkeys(cards.NAMES, cards.get_card) if options.action == "report" else {}
    studies = {name: find.get(name, get_study)(check_name(name, "study")) for name in asked}

    if find.keys() & set(options.names):
        refuse_times(options)
    from shoal.commands.questions import report_studies, run_studies
    from shoal.studies import Form
    from shoal.studies.base import THRESHOLDS

    if options.action == "run":
        thresholds = tuple(options.threshold or THRESHOLDS)
        stay = 1 if options.stay is None else options.stay
        form = Form(options.quick, options.seeds, read_values(options), thresholds, stay)
        return run_studies(studies, form, options.lab, read_execution(options))
    lab = Lab(options.lab)
    if options.all:
        studies = {name: study for name, study in studies.items() if lab.study_note(name) is not None}
        if not studies:
            raise UserError(f"no study was run in lab {lab.path}; shoal study run --all --lab {lab.path}")
    report_studies(studies, lab, options.threshold, options.stay)
    return 0


def refuse_times(options: argparse.Namespace) -> None:
    """Raise :class:`UserError` for flags that say when a run has generalised, where a card says it."""
    for flag in ("threshold", "stay"):
        if getattr(options, flag) is not None:
            raise UserError(f"--{flag} does not apply to a card: each number is judged as it was published")


def _refuse_unread(options: argparse.Namespace) -> None:
    """Flags that only ``run`` reads, and names where ``--all`` or ``list`` leaves no use for them."""
    if options.names and (options.action == "list" or options.all):
        by = "--all" if options.all else "list"
        raise UserError(
            f"study {options.action} takes no name with {by}, got {options.names[0]!r}".replace(" with list", "")
        )
    given = options.quick or options.seeds is not None or options.device or options.workers or options.threads
    allowed = "" if options.action == "list" else ", --all, --threshold and --stay"
    times = options.threshold is not None or options.stay is not None
    given = given or (times and options.action == "list")
    if options.action != "run" and (given or options.engine or options.places or read_values(options)):
        raise UserError(f"study {options.action} takes no flag but --lab{allowed}")
