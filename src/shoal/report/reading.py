"""Captions of a page: its figures and tables by number, and sentences that captions share, said once.

A caption is a list of sentences: the first says what a figure or a table is of, the others how it is read. A sentence
of the latter kind that stands in several captions is taken out of them and said once, with the numbers of those it is
about: before the figures of their section, or at the top of the page where they are of several sections. The files
beside the page keep their captions whole, because each of them is read alone.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.report.words import in_ranges

if TYPE_CHECKING:
    from shoal.report.page import Report, Section

FIGURE, TABLE = "Figure", "Table"
_LEAST = 25  # characters: a shorter sentence is no burden where it stands twice
_ABBREVIATED = ("e.g.", "i.e.", "cf.", "vs.", "et al.", "ca.", "Fig.", "No.")
_END = re.compile(r"(?<=[.?!…])\s+(?=\S)")


@dataclass(frozen=True, order=True)
class Place:
    """A figure or a table by its kind and its number on the page."""

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"


@dataclass(frozen=True)
class Shared:
    """Sentences that are about several figures and tables of a page."""

    places: tuple[Place, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """A page's captions, with their shared sentences set apart.

    Attributes:
        sections: the figures and tables of each section, in their order.
        captions: the sentences that stand beside each of them.
        shared: the sentences that stand in several captions, in the order of the page.
        abouts: of each section the line about it, empty where an earlier section has the same.
    """

    sections: tuple[tuple[Place, ...], ...]
    captions: Mapping[Place, str]
    shared: tuple[Shared, ...]
    abouts: tuple[str, ...]

    def of_section(self, places: Sequence[Place]) -> list[Shared]:
        """Shared sentences about figures and tables of one section alone.

        Args:
            places: of that section.
        """
        return [shared for shared in self.shared if set(shared.places) <= set(places)]

    @property
    def of_several(self) -> list[Shared]:
        """Shared sentences about figures and tables of several sections."""
        return [s for s in self.shared if not any(s in self.of_section(places) for places in self.sections)]


def sentences(text: str) -> list[str]:
    """The sentences of a caption.

    >>> sentences("Loss, e.g. of 0.5 nats. Thin: runs. †: at the last evaluation.")
    ['Loss, e.g. of 0.5 nats.', 'Thin: runs.', '†: at the last evaluation.']
    """
    out: list[str] = []
    for part in _END.split(text.strip()):
        if out and out[-1].endswith(_ABBREVIATED):
            out[-1] += f" {part}"
        else:
            out.append(part)
    return [part for part in out if part]


def places_in_words(places: Sequence[Place]) -> str:
    """``Figures 1 to 3; Table 2``: figures before tables.

    >>> places_in_words([Place(TABLE, 2), Place(FIGURE, 1), Place(FIGURE, 2), Place(FIGURE, 3)])
    'Figures 1 to 3; Table 2'
    """
    numbers = {kind: [place.number for place in places if place.kind == kind] for kind in (FIGURE, TABLE)}
    return "; ".join(f"{kind}{'s' * (len(n) > 1)} {in_ranges(n)}" for kind, n in numbers.items() if n)


def reading(report: "Report") -> Reading:
    """Numbers of a report's figures and tables, and its captions without the sentences that several of them share."""
    sections, captions, counts = [], {}, {FIGURE: 0, TABLE: 0}
    for section in report.sections:
        placed = []
        for kind, caption in _captions(section):
            counts[kind] += 1
            placed.append(Place(kind, counts[kind]))
            captions[placed[-1]] = sentences(caption)
        sections.append(tuple(placed))
    about: dict[str, list[Place]] = {}
    for place, parts in captions.items():
        for part in dict.fromkeys(parts[1:]):
            about.setdefault(part, []).append(place)
    groups: dict[tuple[Place, ...], list[str]] = {}
    for part, places in about.items():
        if len(places) > 1 and len(part) >= _LEAST:
            groups.setdefault(tuple(places), []).append(part)
    moved = {part for parts in groups.values() for part in parts}
    left = {
        place: " ".join([*parts[:1], *(part for part in parts[1:] if part not in moved)])
        for place, parts in captions.items()
    }
    shared = tuple(Shared(places, tuple(parts)) for places, parts in groups.items())
    abouts = [section.about for section in report.sections]
    new = (about if about not in abouts[:number] else "" for number, about in enumerate(abouts))
    return Reading(tuple(sections), left, shared, tuple(new))


def _captions(section: "Section") -> list[tuple[str, str]]:
    """The captions of a section's figures, then of its tables, as they stand on the page."""
    figures = [(FIGURE, figure.caption) for figure in section.figures]
    return figures + [(TABLE, table.caption) for table in section.tables]
