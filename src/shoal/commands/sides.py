"""``shoal report … --by AXIS``, and what stands side by side: the runs of two labs, or of several forms of studies."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shoal.commands.choice import choose, flags_of_choice, page_name, unmatched
from shoal.commands.parsing import Options
from shoal.errors import UserError

if TYPE_CHECKING:
    from shoal.commands.pages import Page
    from shoal.lab import Lab, Records
    from shoal.report import Section
    from shoal.studies import Results


@dataclass(frozen=True)
class Sides:
    """Results that stand side by side.

    Attributes:
        results: by their names; one where nothing stands beside it.
        column: of these names, ``lab`` or ``form``; empty where there is one.
        unreadable: lines about runs that may be missing.
        notes: further sentences for the reader.
        sections: figures and tables of each side alone.
    """

    results: "Mapping[str, Results]"
    column: str = ""
    unreadable: Sequence[str] = ()
    notes: Sequence[str] = ()
    sections: "Sequence[Section]" = field(default_factory=list)


def report_by(options: Options, is_of_studies: bool) -> int:
    """Write a page by settings of runs, of two labs, or of several forms of studies; 1 where something is damaged.

    Raises:
        UserError: an axis is none, or there is nothing to show; then nothing is written.
    """
    from shoal.commands.pages import check_own_name
    from shoal.commands.questions import show_report
    from shoal.lab import Lab
    from shoal.report import check_drawing
    from shoal.report.console import print_damage
    from shoal.studies.own_axes import own_grid
    from shoal.studies.own_grid import report_own_grid
    from shoal.studies.results import Results

    lab = Lab(options.lab)
    labs = _labs(lab, options)
    if options.name is not None:
        check_own_name(options.name, lab)
    sides = _of_studies(labs, options) if is_of_studies else _of_runs(labs, options)
    joined = Results.joined(sides.results, sides.column) if sides.column else next(iter(sides.results.values()))
    grid = own_grid(joined, _axes(options, sides.column), options.threshold, options.stay)
    default = page_name("-".join(["runs", "by", *(axis.column for axis in grid.axes)]), options)
    folder = lab.report_folder(options.name or default)
    check_drawing()
    report = report_own_grid(grid, sides.results, _command(options), [*sides.unreadable, *sides.notes], sides.sections)
    show_report(report, folder)
    code = print_damage({}, 0, sides.unreadable)
    return code | int(any(one.damage for one in sides.results.values()))


def _axes(options: Options, column: str) -> list[str]:
    """The axes that are named, and what tells the sides apart."""
    named = list(options.by or ())
    return [*named, column] if column and column not in named else named


def _labs(lab: "Lab", options: Options) -> "dict[str, Lab]":
    """One lab, or two by the names of their folders, or by their paths where these are the same."""
    from shoal.lab import Lab

    if options.other_lab is None:
        return {lab.path.name: lab}
    other = Lab(options.other_lab)
    for one in (lab, other):
        one.check_there()
    if other.path.resolve() == lab.path.resolve():
        raise UserError(f"--other-lab {options.other_lab} is the lab of --lab {options.lab}; name another")
    names = (lab.path.resolve().name, other.path.resolve().name)
    return dict(zip(names if names[0] != names[1] else map(str, (lab.path, other.path)), (lab, other), strict=True))


def _of_runs(labs: "Mapping[str, Lab]", options: Options) -> Sides:
    """The runs of each lab that are named and chosen.

    Raises:
        UserError: a lab has none of them, or they are of several tasks.
    """
    from shoal.studies.results import Results

    chosen: dict[str, Records] = {}
    unreadable, notes = [], []
    named = _named(labs, options.what)
    for name, lab in labs.items():
        lines = [] if options.what else lab.unreadable()
        records = lab.records(named[name] if options.what else None)
        if len(records) == 0:
            which = f"none of the runs {' '.join(options.what)}" if options.what else "no runs"
            raise UserError("; ".join([f"lab {lab.path} holds {which}", *lines]))
        unreadable += lines
        notes += [f"{name}: {line}" if len(labs) > 1 else line for line in unmatched(records, options)]
        chosen[name] = choose(records.snapshot(), options, lines)
    _check_task(chosen)
    results = {name: Results(records) for name, records in chosen.items()}
    return Sides(results, "lab" if len(labs) > 1 else "", unreadable, notes)


def _named(labs: "Mapping[str, Lab]", words: Sequence[str]) -> dict[str, list[str]]:
    """Ids of the runs that words name in each lab.

    Raises:
        UserError: a word names a run in none.
    """
    ids: dict[str, list[str]] = {name: [] for name in labs}
    for word in words:
        refused = []
        for name, lab in labs.items():
            try:
                ids[name] += lab.records([word]).ids
            except UserError as error:
                refused.append(error)
        if len(refused) == len(labs):
            raise refused[0]
    return ids


def _of_studies(labs: "Mapping[str, Lab]", options: Options) -> Sides:
    """The runs of the forms of studies that are named, with what the page of each answers; or of one form in two labs.

    Raises:
        UserError: a form was not run, they are of several tasks, or flags choose runs.
    """
    from shoal.commands.questions import results_of
    from shoal.report import Section

    if flags := flags_of_choice(options):
        raise UserError(f"the report of a study shows its own runs and takes no choice of runs, got {flags}")
    pages: dict[str, tuple[Lab, Page]] = {}
    unreadable: list[str] = []
    for name, lab in labs.items():
        forms, lines = _pages(lab, options.what)
        unreadable += lines
        if len(labs) > 1 and len(forms) > 1:
            raise UserError(f"--other-lab compares one form of a study in two labs, got {' '.join(forms)}")
        pages |= {name if len(labs) > 1 else form: (lab, page) for form, page in forms.items()}
    results = {name: results_of(lab, page.note) for name, (lab, page) in pages.items()}
    _check_task({name: one.records for name, one in results.items()})
    if len(pages) == 1:
        return Sides(results, "", unreadable)
    answers = [f"{name}: {line}" for name, (_, page) in pages.items() for line in _answers(page, results[name])]
    return Sides(
        results, "lab" if len(labs) > 1 else "form", unreadable, (), [Section("Answers of each page", answers)]
    )


def _pages(lab: "Lab", words: Sequence[str]) -> "tuple[dict[str, Page], list[str]]":
    """The pages that words name, by name, and a line for each note of which there can be none."""
    from shoal.commands.pages import find_pages

    pages: dict[str, Page] = {}
    unreadable: list[str] = []
    for word in words:
        forms, lines = find_pages(lab, word)
        pages |= {page.name: page for page in forms}
        unreadable += lines
    return pages, list(dict.fromkeys(unreadable))


def _answers(page: "Page", results: "Results") -> Sequence[str]:
    """The answers on top of a study's page."""
    return page.module.report(results, page.form).answers


def _check_task(records: "Mapping[str, Records]") -> None:
    """Raise :class:`UserError` where runs are of several tasks: they do not measure the same."""
    tasks = list(dict.fromkeys(task for one in records.values() for task in one.tasks))
    if len(tasks) > 1:
        asked = " or ".join(f"--task {task}" for task in tasks)
        raise UserError(f"these runs have {len(tasks)} tasks, and a page shows one: choose it with {asked}")


def _command(options: Options) -> str:
    """Command line that writes the page again."""
    words = ["shoal", "report", *options.what]
    words += ["--by", *options.by] if options.by else []
    words += ["--other-lab", options.other_lab] if options.other_lab is not None else []
    words += ["--threshold", *(f"{value:g}" for value in options.threshold)] if options.threshold else []
    words += ["--stay", str(options.stay)] if options.stay is not None else []
    words += ["--name", options.name] if options.name is not None else []
    return " ".join(word for word in (shlex.join(words), flags_of_choice(options)) if word)
