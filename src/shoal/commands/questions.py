"""Training, certification and reports of the runs of studies, for ``shoal study`` and ``shoal reproduce``."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shoal.commands.dry_run import dry_run, tell_of_planning
from shoal.commands.pages import Page
from shoal.commands.training import train_with_progress
from shoal.errors import LabError, UserError
from shoal.lab import Lab
from shoal.lab.cohort import CohortFolder
from shoal.lab.deleting import deleted_runs
from shoal.output import say
from shoal.report import Report, check_drawing, write_report
from shoal.report.console import print_damage, print_keys, print_titled
from shoal.spec import RunSpec
from shoal.studies import Form, Results, Study
from shoal.training.certificate import certify
from shoal.training.preflight import check_final_files, check_parts
from shoal.training.requests import check_execution

_AS = "measured_as"  # of a note: the number of the study's way to measure
CERTIFIED_STEPS = {True: 25, False: 50}  # quick form, full form


def run_studies(
    studies: Mapping[str, Study], form: Form, path: str, execution: Mapping[str, Any], is_dry: bool = False
) -> int:
    """Train the runs of every study, each once, and report on each; 1 when a run diverged or a note is damaged.

    A dry run estimates what that would take, and does none of it.
    """
    tell_of_planning(sum(map(form.count, studies.values())))
    specs = {name: _specs(name, study, form) for name, study in studies.items()}
    device = check_execution(**execution)
    wanted = list(dict.fromkeys(spec for of_study in specs.values() for spec in of_study))
    check_parts(wanted, device)
    check_final_files(wanted)
    for study in studies.values():
        _check_scores(study)
    check_drawing()
    if is_dry:
        return dry_run(wanted, path, execution, "Certificates and pages come on top.")
    lab = Lab(path).create()
    code = print_damage({}, 0, [line for name in specs for line in lab.study_notes(name)[1]])
    # written first, so that `shoal study report` can show what there is of a run that was interrupted or killed
    pages = [_note(name, form, of_study, lab) for name, of_study in specs.items()]
    for line in [line for study in studies.values() for line in form.same_parts(study)]:
        say(line)
    records = train_with_progress(wanted, path, **execution)
    for folder in records.cohorts():
        if not _is_certified(folder):
            say(f"certifying cohort {folder.id}: one member alone for {CERTIFIED_STEPS[form.quick]} steps")
            first = [run for run in records.ids if run in folder.status()["members"]][:1]
            certify(folder, first, CERTIFIED_STEPS[form.quick], device)
    code |= report_pages([_measure(page, studies[page.study], lab) for page in pages], lab)
    diverged = records.runs().filter(state="diverged")
    if not diverged.is_empty():
        say(f"{len(diverged)} of {len(records)} runs diverged: {' '.join(diverged['run'])}")
        return 1
    return code


def _specs(name: str, study: Study, form: Form) -> list[RunSpec]:
    """Runs of a study; an error about its form names the study."""
    try:
        return form.specs(study)
    except UserError as problem:
        raise UserError(f"{problem} (study {name})") from None


def _check_scores(study: Study) -> None:
    """Refuse a study whose answers could not be scored when its runs are done."""
    if names := getattr(study, "SCORED", ()):
        from shoal.analysis.sentence_scores import check_scores

        check_scores(names)


def _is_certified(folder: CohortFolder) -> bool:
    """Return True if a cohort has a certificate; a damaged one counts, is named in the report, and is not replaced."""
    try:
        return folder.certificate() is not None
    except LabError:
        return True


def _note(name: str, form: Form, specs: Sequence[RunSpec], lab: Lab) -> Page:
    """Write down what a study asks for, with what was measured for the same runs before, in whichever form."""
    note: dict[str, Any] = {**form.to_json(), "runs": [spec.id for spec in specs]}
    for other in lab.study_notes(name)[0]:
        if "measured" in other and other["runs"] == note["runs"]:
            note |= {key: other[key] for key in ("measured", _AS) if key in other}
    lab.note_study(name, form.name, note)
    return Page(name, form, note)


def _measure(page: Page, study: Study, lab: Lab) -> Page:
    """Page whose note has the quantities that its study measures beside its runs.

    They are measured where it has none yet, or has those of a version of shoal that measured something else.
    """
    measure, look = getattr(study, "measure", None), getattr(study, "measure_models", None)
    way = getattr(study, "MEASURED", 1)
    if (measure is None and look is None) or ("measured" in page.note and page.note.get(_AS, 1) == way):
        return page
    say(f"measuring for {page.study}")
    measured: dict[str, Any] = {} if measure is None else dict(measure(page.form))
    if look is not None:
        measured |= look(page.form, lab.records(page.note["runs"]))
    note = {**page.note, "measured": measured, _AS: way}
    lab.note_study(page.study, page.form.name, note)
    return replace(page, note=note)


def report_pages(
    pages: Sequence[Page], lab: Lab, thresholds: Sequence[float] | None = None, stay: int | None = None
) -> int:
    """Write each page from what there is of its runs; with other thresholds or another stay, beside the page as it was.

    Returns:
        1 where a run of a page is damaged, else 0.

    Raises:
        UserError: some pages cannot be made; raised after the others are written.
    """
    check_drawing()
    changes: dict[str, Any] = {} if thresholds is None else {"thresholds": tuple(thresholds)}
    changes |= {} if stay is None else {"stay": stay}
    pages = [page if page.is_reproduction else replace(page, form=replace(page.form, **changes)) for page in pages]
    shown = {page.name: page for page in pages}
    failures: dict[str, UserError] = {}
    code = 0
    for name, page in shown.items():
        if len(shown) > 1:
            say()
            say(f"## {page.study}{page.form.flags()}")
        try:
            code |= _report_page(page, lab)
        except UserError as error:
            failures[name] = error
    if len(shown) == 1 and failures:
        raise next(iter(failures.values()))
    if failures:
        raise UserError("; ".join(f"{name}: {failure}" for name, failure in failures.items()))
    return code


def _report_page(page: Page, lab: Lab) -> int:
    if "measured" in page.note:
        page = _measure(page, page.module, lab)
    results = results_of(lab, page.note)
    show_report(page.module.report(results, page.form), lab.report_folder(page.name))
    return int(bool(results.damage))


def show_report(report: Report, folder: Path) -> None:
    """Print the tables and answers of a report, and write its page."""
    for section in report.sections:
        for table in section.tables:
            print_titled(section.title, table)
    print_keys(*(table for section in report.sections for table in section.tables))
    say()
    say(f"{report.lead}")
    for answer in report.answers:
        say(f"- {answer}")
    say()
    say(f"report: {write_report(report, folder)}")


def results_of(lab: Lab, note: Mapping[str, Any]) -> Results:
    """Results of the runs of a study; runs that no cohort of the lab holds are lost, each with the reason."""
    survey = lab.survey()
    why = survey.unknown[0] if survey.unknown else f"no cohort of lab {lab.path} holds it"
    deleted = {run: f"it was deleted ({deletion['at']})" for run, deletion in deleted_runs(lab.path).items()}
    lost = {run: deleted.get(run, why) for run in note["runs"] if run not in survey.index}
    records = lab.records(run for run in note["runs"] if run not in lost)
    return Results(records, note.get("measured", {}), lost)
