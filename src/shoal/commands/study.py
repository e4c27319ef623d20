"""``shoal study list | run NAME … | report NAME …``; of reproductions, ``report``."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shoal.commands.config import add_config
from shoal.commands.dry_run import add_dry_run
from shoal.commands.parsing import (
    STUDY,
    Options,
    Parser,
    add_execution,
    add_lab,
    add_settings,
    read_execution,
    read_values,
    refuse_unread,
)
from shoal.errors import UserError, nearest
from shoal.output import say, say_list

if TYPE_CHECKING:
    from shoal.studies import Study

# what each action does
ACTIONS = {
    "list": "list the studies, with a line about each",
    "run": "train the runs of studies, each once, and write their pages",
    "report": "write the pages of studies again, from what the lab has of their runs",
}
_READ = {"list": ("lab",), "report": ("lab", "all", "threshold", "stay")}  # the flags that an action reads; run all


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    add_config(parser)
    about = f"{' | '.join(ACTIONS)}; shoal study ACTION --help says more"
    parser.add_argument("action", nargs="?", metavar="ACTION", help=about)
    parser.add_argument("names", nargs="*", metavar="NAME", help="the studies, which shoal study list names")
    parser.flag("all", action="store_true", help="every study; runs that several ask for are trained once")
    add_lab(parser)
    add_form(parser)
    add_execution(parser)
    add_dry_run(parser)
    add_settings(parser, STUDY, _parts_of_studies(parser.words))
    if parser.words and parser.words[0] in ACTIONS:
        _narrow(parser, parser.words[0])


def _narrow(parser: Parser, action: str) -> None:
    """Let the help be of one action alone: its flags, and no others."""
    parser.prog, parser.description = f"{parser.prog} {action}", ACTIONS[action]
    read = ("help", *(() if action == "list" else ("names",)), *_READ.get(action, ()))
    for each in parser.actions():
        if each.dest == "action" or (action in _READ and each.dest not in read):
            each.help = argparse.SUPPRESS


def _parts_of_studies(words: Sequence[str]) -> dict[str, list[str]]:
    """Parts that the studies train which the words of the command name and which stand outside of shoal."""
    from itertools import takewhile

    from shoal.studies import NAMES, get_study, name_of_study

    named = [name for name in takewhile(lambda word: not word.startswith("-"), words) if name not in NAMES]
    outside = [name for name in named[1:] if name_of_study(name) is not None] if named[:1] == ["run"] else []
    if not outside:
        return {}
    from shoal.studies.base import grids_of_study, parts_of

    studies = [get_study(name) for name in outside]
    return parts_of([grid for study in studies for quick in (True, False) for grid in grids_of_study(study, quick)])


def add_form(parser: Parser) -> None:
    """``--quick``, ``--seeds``, ``--threshold`` and ``--stay``."""
    parser.flag("quick", action="store_true", help="a small form that two cores finish in minutes")
    parser.flag("seeds", type=int, help="number of seeds, in place of the study's own")
    add_threshold(parser)
    parser.flag(
        "stay",
        type=int,
        help="evaluations in a row that must meet the threshold; the time is the first of them; default 1",
    )


def add_threshold(parser: Parser) -> None:
    """``--threshold``."""
    parser.flag(
        "threshold",
        type=float,
        nargs="+",
        help="validation accuracies from which a run counts as generalised, for times to generalise; default 0.9 0.99; "
        "an answer names the accuracy that it goes by",
    )


def run(options: Options) -> int:
    """List, run or report."""
    if options.action is None:
        raise UserError(f"study needs an action: one of {' '.join(ACTIONS)}")
    if options.action not in ACTIONS:
        raise UserError(
            f"unknown action {options.action!r}: one of {' '.join(ACTIONS)}{nearest(options.action, ACTIONS)}"
        )
    _refuse_unread(options)
    if options.action == "list":
        return list_studies()
    from shoal.studies import NAMES

    if not options.names and not options.all:
        raise UserError(f"study {options.action} needs the name of a study, or --all: {' '.join(NAMES)}")
    return _run(options) if options.action == "run" else _report(options)


def list_studies() -> int:
    """Print the name of each study and a line about it."""
    from shoal.registry import offered
    from shoal.studies import NAMES, get_study

    lines = list(NAMES.items())
    for name, place in offered("study").items():
        try:
            about = str(getattr(get_study(name), "about", "")) or place
        except UserError as problem:
            about = str(problem)
        if name not in NAMES:
            lines.append((name, about))
    say_list(lines)
    return 0


def _run(options: Options) -> int:
    from shoal.commands.questions import run_studies
    from shoal.lab.names import check_name
    from shoal.studies import NAMES, Form, get_study, name_of_study
    from shoal.studies.base import THRESHOLDS

    asked = NAMES if options.all else options.names
    values = read_values(options)
    for name in options.names:
        refuse_times(options, name, values.get("task"))
    studies = {check_name(name_of_study(name) or name, "study"): get_study(name) for name in asked}
    if options.all:
        studies = _ready(studies, values)
    for name, study in studies.items():
        if missing := _missing(study, values):
            raise UserError(f"study {name} needs {' '.join(f'{_flag(need)} …' for need in missing)}")
    thresholds = tuple(options.threshold or THRESHOLDS)
    stay = 1 if options.stay is None else options.stay
    form = Form(options.quick, options.seeds, values, thresholds, stay)
    if options.read_from:
        say(options.read_from)
    return run_studies(studies, form, options.lab, read_execution(options), options.dry_run)


def _ready(studies: "Mapping[str, Study]", values: Mapping[str, Any]) -> "dict[str, Study]":
    """Studies that need no settings beyond ``values``; a line is printed for each of the others."""
    ready = {}
    for name, study in studies.items():
        if missing := _missing(study, values):
            flag = _flag(missing[0])
            say(f"left out: {name}, which needs {flag}; shoal study run {name} {flag} …")
        else:
            ready[name] = study
    return ready


def _missing(study: "Study", values: Mapping[str, Any]) -> list[str]:
    """Settings that a study has no default of, and that were not given."""
    return [need for need in getattr(study, "NEEDS", ()) if need not in values]


def _flag(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"


def _report(options: Options) -> int:
    """Report on studies and reproductions from the runs that the lab has of them."""
    from shoal.commands.pages import EVERY, find_pages, page_name, pages_of, studies_from_outside, study_of
    from shoal.commands.questions import report_pages
    from shoal.lab import Lab
    from shoal.lab.names import check_name
    from shoal.report.console import print_damage

    lab = Lab(options.lab)
    if options.all:
        every = [*EVERY, *studies_from_outside(lab)]
        groups = [(list(pages.values()), lines) for pages, lines in (pages_of(lab, name) for name in every)]
    else:
        for name in options.names:
            refuse_times(options, study_of(name) or name)
        groups = [find_pages(lab, check_name(page_name(name), "study")) for name in options.names]
    pages = list({page.name: page for group, _ in groups for page in group}.values())
    unreadable = list(dict.fromkeys(line for _, lines in groups for line in lines))
    if not pages:
        none = f"no study was run in lab {lab.path}; shoal study run --all --lab {lab.path}"
        raise UserError("; ".join([*unreadable, none]))
    code = print_damage({}, 0, unreadable)
    return code | report_pages(pages, lab, options.threshold, options.stay)


def refuse_times(options: Options, name: str, tasks: Sequence[Any] | None = None) -> None:
    """Raise :class:`UserError` for ``--threshold`` or ``--stay`` of a page with its own criterion, or without times."""
    from shoal.studies import reproductions

    why = {
        "mixed-orders": "it compares which order is learned first",
        "attention": "it looks into models that have generalised",
        **dict.fromkeys(reproductions.NAMES, "each number of a reproduction is judged as it was published"),
    }
    if name == "language" or tasks == ["text"]:
        why[name] = "a text has no accuracy from which a run has generalised"
    if name in ("translation", "embeddings"):
        why[name] = "a translation has no accuracy from which a run has generalised"
    for flag in ("threshold", "stay"):
        if name in why and getattr(options, flag) is not None:
            raise UserError(f"--{flag} does not apply to {name}: {why[name]}")


def _refuse_unread(options: Options) -> None:
    """Raise :class:`UserError` for flags that only ``run`` reads, and for names beside ``--all`` or ``list``."""
    if options.names and (options.action == "list" or options.all):
        by = "--all" if options.all else "list"
        raise UserError(
            f"study {options.action} takes no name with {by}, got {options.names[0]!r}".replace(" with list", "")
        )
    if options.action != "run":
        refuse_unread(options, f"study {options.action}", *_READ[options.action])
