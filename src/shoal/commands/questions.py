"""What ``shoal study`` and ``shoal reproduce`` share: train what is asked for, certify it, and report."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from shoal.commands.parsing import tell_of_planning
from shoal.commands.training import train_with_progress
from shoal.errors import UserError
from shoal.lab import Lab
from shoal.report import check_drawing, write_report
from shoal.report.console import print_titled
from shoal.spec import RunSpec
from shoal.studies import Form, Results, Study, cards
from shoal.training.api import check_execution
from shoal.training.certificate import certify

CERTIFIED_STEPS = {True: 25, False: 50}  # quick form, full form


def run_studies(studies: Mapping[str, Study], form: Form, path: str, execution: Mapping[str, Any]) -> int:
    """Train the runs of every study, each once, and write a report of each; 1 when a run diverged."""
    tell_of_planning(sum(map(form.count, studies.values())))
    specs = {name: form.specs(study) for name, study in studies.items()}
    device = check_execution(**execution)
    check_drawing()
    lab = Lab(path).create()
    # written first, so that `shoal study report` can show what there is of a run that was interrupted or killed
    for name, own in specs.items():
        _tell_of_another(lab, name, form)
        lab.note_study(name, {**form.to_json(), "runs": [spec.id for spec in own], **_measured(lab, name, own)})
    wanted = list(dict.fromkeys(spec for own in specs.values() for spec in own))
    records = train_with_progress(wanted, path, **execution)
    for folder in records.cohorts():
        if folder.certificate() is None:
            print(f"certifying cohort {folder.id}: one member alone for {CERTIFIED_STEPS[form.quick]} steps")
            first = [run for run in records.ids if run in folder.status()["members"]][:1]
            certify(folder, first, CERTIFIED_STEPS[form.quick], device)
    for name, study in studies.items():
        _measure(name, study, form, lab)
    report_studies(studies, lab)
    diverged = records.runs().filter(state="diverged")
    if not diverged.is_empty():
        print(f"{len(diverged)} of {len(records)} runs diverged: {' '.join(diverged['run'])}")
        return 1
    return 0


def _tell_of_another(lab: Lab, name: str, form: Form) -> None:
    """Say how the report of another form, which the new one replaces, can be had again."""
    note = lab.study_note(name)
    if note is not None and (other := Form.from_json(note)) != form:
        print(f"the report of {name} in another form gives way; again with:{other.flags() or ' no flags'}")


def _measure(name: str, study: Study, form: Form, lab: Lab) -> None:
    """Measure what a study measures beside its runs, unless that is done."""
    note, measure = lab.study_note(name), getattr(study, "measure", None)
    if measure is not None and note is not None and "measured" not in note:
        print(f"measuring for {name}")
        lab.note_study(name, {**note, "measured": measure(form)})


def _measured(lab: Lab, name: str, specs: Sequence[RunSpec]) -> dict[str, Any]:
    """What was measured for the same runs before."""
    note = lab.study_note(name) or {}
    return {"measured": note["measured"]} if "measured" in note and note["runs"] == [spec.id for spec in specs] else {}


def report_studies(studies: Mapping[str, Study], lab: Lab, thresholds: Sequence[float] | None = None) -> None:
    """Write the report of each study that the lab has a note of, from what there is of its runs."""
    check_drawing()
    for name, study in studies.items():
        note = lab.study_note(name)
        if note is None:
            how = "reproduce" if name in cards.NAMES else "study run"
            raise UserError(f"{name!r} was not run in lab {lab.path}; shoal {how} {name} --lab {lab.path}")
        form = Form.from_json(note)
        form = form if thresholds is None else replace(form, thresholds=tuple(thresholds))
        report = study.report(_results(lab, note), form)
        if len(studies) > 1:
            print(f"\n## {name}")
        for section in report.sections:
            for table in section.tables:
                print_titled(section.title, table)
        print(f"\n{report.lead}")
        for answer in report.answers:
            print(f"- {answer}")
        print()
        print(f"report: {write_report(report, lab.report_folder(name))}")


def _results(lab: Lab, note: Mapping[str, Any]) -> Results:
    """Of the runs of a study; one that the lab does not know of is lost where a cohort cannot be read."""
    index, unreadable = lab.survey()
    lost = {run: unreadable[0] for run in note["runs"] if run not in index} if unreadable else {}
    records = lab.records(run for run in note["runs"] if run not in lost)
    return Results(records, note.get("measured", {}), lost)
