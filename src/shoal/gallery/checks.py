"""Checks of a page's numbers: each is printed, compared with what is expected, and recorded."""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, SupportsFloat

from shoal.errors import UserError

if TYPE_CHECKING:
    from shoal.gallery.figures import PageFigure

_VALUE, _TOLERANCE = 11, 9  # columns of a printed line


class Off(AssertionError):
    """Error of a check whose value is farther from the expected one than its tolerance."""


@dataclass(frozen=True)
class Check:
    """Number of a page beside the number expected.

    Attributes:
        name: quantity, in words, with its unit.
        value: value that the page computed; a number or a text.
        expected: value by an independent derivation, or by the document.
        tolerance: largest absolute difference allowed, 0 for equality.
        document: claim of the source document about this quantity, where it differs from ``expected``; else empty.
        erratum: row of the list of errata that explains the difference, such as ``E12``; else empty.
    """

    name: str
    value: float | str
    expected: float | str
    tolerance: float = 0.0
    document: str = ""
    erratum: str = ""

    @property
    def holds(self) -> bool:
        """Return True if the value is within the tolerance; never of a NaN."""
        if isinstance(self.value, str) or isinstance(self.expected, str):
            return self.value == self.expected
        if self.value == self.expected:  # infinities too
            return True
        return abs(self.value - self.expected) <= self.tolerance

    def line(self) -> str:
        """Check as one aligned line of text."""
        tolerance = f"± {self.tolerance:g}" if self.tolerance else "exactly"
        mark = "ok " if self.holds else "OFF"
        value, expected = (shown(number) for number in (self.value, self.expected))
        line = f"{mark} {value:>{_VALUE}}  expected {expected:>{_VALUE}} {tolerance:<{_TOLERANCE}}  {self.name}"
        return f"{line} ({self.erratum})" if self.erratum else line


@dataclass
class Recording:
    """Checks and figures that a page made, in their order."""

    checks: list[Check] = field(default_factory=list)
    figures: "list[PageFigure]" = field(default_factory=list)

    def numbers(self) -> list[dict[str, Any]]:
        """Checks as plain data, for JSON; numbers that are not finite are texts."""
        rows = [asdict(check) for check in self.checks]
        return [{name: _plain(value) for name, value in row.items()} for row in rows]

    def to_json(self) -> str:
        """Checks as JSON text, one object per check."""
        return json.dumps(self.numbers(), ensure_ascii=False, indent=1, allow_nan=False)


_current = Recording()


def fresh() -> Recording:
    """Begin a new recording, which holds what is checked and drawn from now on."""
    global _current
    _current = Recording()
    return _current


def current() -> Recording:
    """Recording that checks and figures go into at the moment."""
    return _current


def check(
    name: str,
    value: SupportsFloat | str,
    expected: SupportsFloat | str,
    tolerance: float = 0.0,
    *,
    document: str = "",
    erratum: str = "",
) -> float | str:
    """Print a number beside the one expected, record both, and raise where they are apart.

    Args:
        name: quantity, in words, with its unit; one line.
        value: a number, a tensor of one element, a truth value, or a text.
        expected: the same, by a derivation that does not use the code that computed ``value``.
        tolerance: largest absolute difference allowed; 0 asks for equality, as texts always do.
        document: claim of the source document where it is another one.
        erratum: row of the errata that explains it, such as ``E12``.

    Returns:
        The value, as a float or a text; ``yes`` or ``no`` for a truth value.

    Raises:
        Off: the value is off, or not a number.
        UserError: the tolerance is negative or no number, or the name is empty.

    >>> check("two times two", 2 * 2, 4)
    ok            4  expected           4 exactly    two times two
    4.0
    """
    if not tolerance >= 0 or tolerance == math.inf:
        raise UserError(f"the tolerance of a check must be a number of at least 0, got {tolerance}")
    if not name.strip() or "\n" in name:
        raise UserError(f"the name of a check must be one line of text, got {name!r}")
    made = Check(name, _number(value), _number(expected), float(tolerance), document, erratum)
    current().checks.append(made)
    print(made.line())
    if not made.holds:
        raise Off(f"{name}: got {shown(made.value)}, expected {shown(made.expected)} ± {tolerance:g}")
    return made.value


def _number(value: SupportsFloat | str) -> float | str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else float(value)


def shown(value: float | str) -> str:
    """Number with six significant digits, integers below 10^12 in full."""
    if isinstance(value, str):
        return value
    if value.is_integer() and abs(value) < 1e12:
        return f"{value:,.0f}"
    return f"{value:.6g}"


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
