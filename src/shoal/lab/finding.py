"""Findings of :mod:`shoal.lab.check`."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Fault of a lab, or a remark about it.

    Attributes:
        what: the file and its fault, and perhaps a remedy.
        mend: function that mends it without any loss and returns a line about the change, an empty one where nothing
            was left to do; None where there is no such mend.
        is_damage: true where numbers that the lab shows can be wrong; false for a remark.
    """

    what: str
    mend: Callable[[], str] | None = None
    is_damage: bool = True
