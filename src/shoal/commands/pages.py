"""The pages that a lab can show of its studies and cards: one for each form in which one was run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal.errors import UserError, nearest
from shoal.lab import Lab
from shoal.studies import NAMES, Form, Study, cards, get_study
from shoal.studies.base import FULL

EVERY = (*NAMES, *cards.NAMES)


@dataclass(frozen=True)
class Page:
    """A form of a study or a card.

    Attributes:
        study: its name.
        form: how it was asked for.
        note: what the lab keeps of that: which runs it asked for, and what was measured beside them.
    """

    study: str
    form: Form
    note: Mapping[str, Any]

    @property
    def name(self) -> str:
        """``sanity`` of the full form, ``sanity-quick`` and the like of others: the name of the page's folder."""
        return self.study if self.form.name == FULL else f"{self.study}-{self.form.name}"

    @property
    def is_card(self) -> bool:
        """Whether it judges published numbers, each as it was published."""
        return self.study in cards.NAMES

    @property
    def module(self) -> Study:
        """What makes the page."""
        return cards.get_card(self.study) if self.is_card else get_study(self.study)


def pages_of(lab: Lab, study: str) -> dict[str, Page]:
    """Every page that there can be of a study, by name; of two notes of one form the newer."""
    notes = lab.study_notes(study)
    return {page.name: page for page in (Page(study, Form.from_json(note), note) for note in notes)}


def find_pages(lab: Lab, name: str) -> list[Page]:
    """The pages of the study or the card of this name, or the one page of this name.

    Raises:
        UserError: there is no such study or page, or the lab has none of it.
    """
    if name in EVERY:
        found = list(pages_of(lab, name).values())
        if not found:
            how = "reproduce" if name in cards.NAMES else "study run"
            raise UserError(f"{name!r} was not run in lab {lab.path}; shoal {how} {name} --lab {lab.path}")
        return found
    pages = {} if (study := study_of(name)) is None else pages_of(lab, study)
    if name not in pages:
        known = [*EVERY, *pages]
        raise UserError(f"unknown study {name!r}: one of {' '.join(known)}{nearest(name, known)}")
    return [pages[name]]


def study_of(name: str) -> str | None:
    """The study or card whose page has this name, or could have."""
    return next((study for study in EVERY if name == study or name.startswith(f"{study}-")), None)


def check_own_name(name: str) -> str:
    """The name of a report of runs, where no page of a study could be in its place.

    Raises:
        UserError: one could.
    """
    if (study := study_of(name)) is not None:
        raise UserError(
            f"--name {name} is kept for pages of {study}, one of which it could replace; free is, say, runs-{name}"
        )
    return name
