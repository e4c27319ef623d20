"""Which questions are asked: one module per study.

A study is a module with ``ABOUT`` (one line), ``runs(quick, seeds)`` that returns its specs, and
``report(records, quick)`` that says what they show.
"""

import importlib
from collections.abc import Sequence
from typing import Protocol, cast

from shoal.errors import UserError, nearest
from shoal.lab import Records
from shoal.report import Report
from shoal.spec import RunSpec

NAMES = ("sanity",)


class Study(Protocol):
    """What a study's module offers."""

    ABOUT: str

    def runs(self, quick: bool, seeds: Sequence[int] | None) -> list[RunSpec]:
        """The runs of the full or the quick form, for some seeds or the study's own."""

    def report(self, records: Records, quick: bool) -> Report:
        """Figures, tables and answers."""


def get_study(name: str) -> Study:
    """The study of this name.

    Raises:
        UserError: there is none.
    """
    if name not in NAMES:
        raise UserError(f"unknown study {name!r}: one of {' '.join(NAMES)}{nearest(name, NAMES)}")
    return cast(Study, importlib.import_module(f"shoal.studies.{name.replace('-', '_')}"))
