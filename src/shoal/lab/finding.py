"""What :mod:`shoal.lab.check` finds."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        what: which file, and what is wrong with it, and perhaps what to do.
        mend: does what cannot lose anything and says what it did, or nothing where there was nothing left to do; None
            where that does not help.
        is_damage: whether anything can be wrong with what the lab shows; else it is only good to know.
    """

    what: str
    mend: Callable[[], str] | None = None
    is_damage: bool = True
