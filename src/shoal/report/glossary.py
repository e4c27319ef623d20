"""Glossary of a page: its terms, linked from where they stand."""

import re
from collections.abc import Callable

from shoal.report.terms import TERMS, Term

_BY_KEY = {term.key: term for term in TERMS}
_PATTERN = re.compile(
    r"(?<![\w-])(?:"
    + "|".join(f"(?P<_{i}>{term.forms or re.escape(term.name)})" for i, term in enumerate(TERMS))
    + r")(?![\w-])",
    re.IGNORECASE,
)


class Linker:
    """Text as HTML in which the first use of each term in a section is a link to its entry.

    Args:
        dressed: makes HTML of plain text.
    """

    def __init__(self, dressed: Callable[[str], str]) -> None:
        self._dressed = dressed
        self._met: set[str] = set()
        self._used: set[str] = set()

    def begin_section(self) -> None:
        """Forget which terms have been met."""
        self._met = set()

    def __call__(self, text: str) -> str:
        """The text as HTML."""
        out, end = [], 0
        for place, term in _places(text):
            if term.key in self._met:
                continue
            self._met.add(term.key)
            self._used.add(term.key)
            out.append(self._dressed(text[end : place.start()]))
            out.append(f'<a class="term" href="#term-{term.key}">{self._dressed(place.group())}</a>')
            end = place.end()
        return "".join([*out, self._dressed(text[end:])])

    @property
    def used(self) -> list[Term]:
        """The terms that were linked, in the order of the glossary."""
        return by_name(self._used)


def by_name(keys: "set[str] | frozenset[str]") -> list[Term]:
    """Terms of these keys, by name."""
    return sorted((_BY_KEY[key] for key in keys), key=lambda term: term.name.lower())


def terms_in(text: str) -> set[str]:
    """Keys of the terms that a text uses."""
    return {term.key for _, term in _places(text)}


def _places(text: str) -> "list[tuple[re.Match[str], Term]]":
    """Every use of a term with the term, from left to right."""
    return [(place, TERMS[int(place.lastgroup[1:])]) for place in _PATTERN.finditer(text) if place.lastgroup]
