"""The pages that a lab can show of its studies and reproductions: one for each form in which one was run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal.errors import UserError, nearest
from shoal.lab import Lab
from shoal.lab.files import names_in
from shoal.registry import offered
from shoal.studies import NAMES, Form, Study, get_study, name_of_study, reproductions
from shoal.studies.base import FULL

EVERY = (*NAMES, *reproductions.NAMES)
TUNE = "tune-"  # what names of pages of tunings begin with


@dataclass(frozen=True)
class Page:
    """A form of a study or a reproduction.

    Attributes:
        study: its name.
        form: the form in which it was asked for.
        note: the lab's note of that: the runs it asked for, and quantities that were measured beside them.
    """

    study: str
    form: Form
    note: Mapping[str, Any]

    @property
    def name(self) -> str:
        """``sanity`` of the full form, ``sanity-quick`` and the like of others: the name of the page's folder."""
        return self.study if self.form.name == FULL else f"{self.study}-{self.form.name}"

    @property
    def is_reproduction(self) -> bool:
        """Return True if the page is that of a reproduction, which judges numbers as they were published."""
        return self.study in reproductions.NAMES

    @property
    def module(self) -> Study:
        """Study or reproduction that makes the page."""
        return reproductions.get_reproduction(self.study) if self.is_reproduction else get_study(self.study)


def pages_of(lab: Lab, study: str) -> tuple[dict[str, Page], list[str]]:
    """Every page that there can be of a study, by name; of two notes of one form the newer.

    Returns:
        The pages, and a line for each note of which there can be none.
    """
    notes, unreadable = lab.study_notes(study)
    pages = {}
    for note in notes:
        try:
            page = Page(study, Form.from_json(note), note)
        except UserError as error:
            unreadable.append(f"lab {lab.path} has a note of {study} that is damaged: {error}")
        else:
            pages[page.name] = page
    return pages, unreadable


def find_pages(lab: Lab, name: str) -> tuple[list[Page], list[str]]:
    """The pages of the study or the reproduction of this name, or the one page of this name.

    Returns:
        The pages, and a line for each note of which there can be none.

    Raises:
        UserError: there is no such study or page, or the lab has none of it.
    """
    name = page_name(name)
    if name == (study_of(name) or ""):
        by_name, unreadable = pages_of(lab, name)
        if not by_name:
            how = "reproduce" if name in reproductions.NAMES else "study run"
            again = f"shoal {how} {name} --lab {lab.path}"
            raise UserError("; ".join([*(unreadable or [f"{name!r} was not run in lab {lab.path}"]), again]))
        return list(by_name.values()), unreadable
    pages, unreadable = ({}, []) if (study := study_of(name)) is None else pages_of(lab, study)
    if name not in pages:
        known = [*EVERY, *pages]
        unknown = f"unknown study {name!r}: one of {' '.join(known)}{nearest(name, known)}"
        raise UserError("; ".join([unknown, *unreadable]))
    return [pages[name]], unreadable


def study_of(name: str) -> str | None:
    """The study or reproduction whose page has this name, or could have."""
    study = next((study for study in EVERY if name == study or name.startswith(f"{study}-")), None)
    return study or name_of_study(page_name(name).partition("-")[0])


def studies_from_outside(lab: Lab) -> list[str]:
    """Studies from outside of shoal of which a lab has notes, by the names of their pages."""
    return [name for name in names_in(lab.path / "studies") if name not in EVERY and name_of_study(name) == name]


def page_name(name: str) -> str:
    """The name of a page of a study that was asked for by its place, or by a short name that a package offers."""
    if any(name == study or name.startswith(f"{study}-") for study in EVERY):
        return name
    study = next(
        (offer for offer in offered("study") if name == offer or name.startswith(f"{offer}-")), name.partition("-")[0]
    )
    return (name_of_study(study) or study) + name.removeprefix(study)


def check_own_name(name: str, lab: Lab) -> str:
    """The name of a report of runs, where no page of a study or of a tuning could be in its place.

    Raises:
        UserError: one could: one of shoal's own, one that a package offers, or one that was run in the lab; or it is
            the name of a tuning's page.
    """
    if name.startswith(TUNE):
        raise UserError(f"--name {name} is reserved for pages of shoal tune; runs-{name} is free")
    if (study := _kept_for(name, lab)) is not None:
        raise UserError(
            f"--name {name} is reserved for pages of {study}, one of which it could replace; runs-{name} is free"
        )
    return name


def check_run_name(name: str, lab: Lab) -> str:
    """Name of a run or of a group, after a check that ``shoal report`` cannot take it for a study.

    Raises:
        UserError: it could: it is that of a study or a reproduction, or begins with one.
    """
    if (study := _kept_for(name, lab)) is not None:
        raise UserError(f"name {name!r} is taken by study {study} and its pages; 'runs-{name}' is free")
    return name


def _kept_for(name: str, lab: Lab) -> str | None:
    """Study one of whose pages has this name, or could have it; None where there is none."""
    study = study_of(name)
    known = (*EVERY, *map(name_of_study, offered("study")), *studies_from_outside(lab))
    return study if study in known else None
