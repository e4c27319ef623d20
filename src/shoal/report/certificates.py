"""Certificates of the cohorts behind a report as a table: the differences that stacking runs made to their numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from shoal.errors import LabError
from shoal.lab.cohort import CohortFolder
from shoal.report.table import Cell, Table
from shoal.report.words import NOTHING, counted


def certificates(folders: Sequence[CohortFolder]) -> tuple[list[str], list[Table]]:
    """Sentence with the largest differences, a sentence for each damaged certificate, and the table of all.

    Args:
        folders: cohorts; those without a certificate are counted, not shown.

    Returns:
        Nothing where no cohort has a certificate.
    """
    by_cohort, damaged = {}, []
    unit = unit_of_losses(folders)
    for folder in folders:
        try:
            certificate = folder.certificate()
        except LabError as error:
            damaged.append(f"Certificate of cohort {folder.id}: {error}.")
            continue
        if certificate is not None:
            by_cohort[folder.id] = certificate
    if not by_cohort:
        return damaged, []
    alone = {cohort: list(certificate["alone"].values()) for cohort, certificate in by_cohort.items()}
    records = [c["record"] for c in by_cohort.values() if c["record"] is not None]
    rest = len(folders) - len(by_cohort)
    sentence = (
        f"Certificates: in {counted(len(by_cohort), 'cohort')}"
        + (f" (none of {rest} more)" if rest else "")
        + f", losses of {counted(sum(map(len, alone.values())), 'member')} retrained alone differ from the stack's by "
        f"at most {_largest(alone.values(), 'loss')}{unit}, parameters by {_largest(alone.values(), 'parameters')}"
        + (" (each cohort had one member, so that nothing was stacked)" if _is_each_alone(by_cohort) else "")
        + (
            f"; losses of the stack retrained differ from the record by at most {max(records):.2g}{unit}."
            if records
            else "."
        )
    )
    rows = []
    for cohort, certificate in by_cohort.items():
        record = certificate["record"]
        cells = [
            str(certificate["members"]),
            str(len(alone[cohort])),
            str(certificate["steps"]),
            _largest([alone[cohort]], "loss"),
            _largest([alone[cohort]], "parameters"),
            NOTHING if record is None else f"{record:.2g}",
        ]
        rows.append((cohort, [Cell(text) for text in cells]))
    within = f" ({unit.strip()})" if unit else ""
    header = ["cohort", "members", "alone", "steps", f"losses{within}", "parameters", f"stack against record{within}"]
    caption = (
        "What stacking changed: the first steps of each cohort, retrained as a stack and again with some of its "
        "members alone. Members: runs that were retrained in the stack, some of which may be of other studies. Alone: "
        "how many of them were retrained alone. Steps: how many of the first steps. Losses and parameters: the "
        "largest absolute difference between a member alone and the same member in the stack. Stack against record: "
        "the largest difference between the losses of the stack retrained and those recorded when the runs were made. "
        f"{NOTHING}: nothing recorded yet."
    )
    return [sentence, *damaged], [Table("certificates", header, rows, caption, _numbers(by_cohort))]


def _is_each_alone(by_cohort: Mapping[str, dict[str, Any]]) -> bool:
    """Return True if no cohort had two members that a stack could have brought into each other's way."""
    return all(certificate["members"] == 1 for certificate in by_cohort.values())


def unit_of_losses(folders: Sequence[CohortFolder]) -> str:
    """Unit of the losses of the cohorts' tasks, behind a space; empty where they have several units, or none."""
    units = {folder.measures().recorded[0].unit for folder in folders}
    return f" {units.pop()}".rstrip() if len(units) == 1 else ""


def _numbers(by_cohort: Mapping[str, dict[str, Any]]) -> pl.DataFrame:
    """Unrounded numbers of the table, one row per cohort."""
    return pl.DataFrame(
        [
            {
                "cohort": cohort,
                "members": certificate["members"],
                "alone": len(certificate["alone"]),
                "steps": certificate["steps"],
                **{
                    what: max((one[what] for one in certificate["alone"].values()), default=None)
                    for what in ("loss", "parameters")
                },
                "record": certificate["record"],
            }
            for cohort, certificate in by_cohort.items()
        ],
        infer_schema_length=None,
    )


def _largest(groups: Any, what: str) -> str:
    """The largest of these deviations; a dash where no member was retrained alone."""
    values = [deviation[what] for group in groups for deviation in group]
    return f"{max(values):.2g}" if values else NOTHING
