"""Numbers as people write them: ``1.3B``, ``2,5``, ``1,300,000``, ``350 PFLOP-days``; and the units of a column."""

import math
import re
from collections.abc import Iterable

from shoal.errors import UserError, nearest

POINT, COMMA = "point", "comma"  # decimal marks
_SIGNS = {POINT: (r"\.", ","), COMMA: (",", r"\.")}  # the mark, and what else may stand between thousands
_SPACES = "_'’\u00a0\u2009\u202f "

_COUNTS = {
    **dict.fromkeys(("k", "thousand"), 1e3),
    **dict.fromkeys(("m", "mn", "million", "millions"), 1e6),
    **dict.fromkeys(("b", "bn", "g", "billion", "billions"), 1e9),
    **dict.fromkeys(("t", "tn", "trillion", "trillions"), 1e12),
}
_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24}
_SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
}
_FLOP = re.compile(
    rf"(?P<prefix>[kmgtpezy]?)f(?:lop)?(?P<rate>/s|s)?(?:[-·* ]?(?P<time>{'|'.join(_SECONDS)}))?", re.IGNORECASE
)
_ALLOWED = "a number, or K M B T"
_ALLOWED_FLOP = f"{_ALLOWED}, or such as GFLOP, PFLOP-days, TFLOP/s-hours"


def factor(text: str, flop: bool) -> float | None:
    """Factor that a suffix of a number of parameters, tokens or FLOP stands for; ``None`` where it has no meaning.

    A rate (``GFLOP/s``) is no amount without a time.

    >>> factor("B", False), factor("million", False), factor("PFLOP-days", True), factor("GFLOPs", True)
    (1000000000.0, 1000000.0, 8.64e+19, 1000000000.0)
    >>> factor("GFLOP", False), factor("GFLOP/s", True), factor("Q", True)
    (None, None, None)
    """
    known = _COUNTS.get(text.casefold())
    if known is not None or not flop:
        return known
    match = _FLOP.fullmatch(text)
    if match is None or (match["rate"] == "/s" and match["time"] is None):
        return None
    return _PREFIXES[match["prefix"].lower()] * _SECONDS.get((match["time"] or "s").lower(), 1.0)


def read_unit(what: str, text: str) -> float:
    """Factor of the unit of a column, as in ``--units params=M``.

    Raises:
        UserError: it is neither a unit nor a number above 0.
    """
    flop = what == "flop"
    value = factor(text, flop)
    if value is None:
        value = _float(text)
    if not 0 < value < math.inf:
        raise UserError(
            f"--units: the unit of {what} must be {_ALLOWED_FLOP if flop else _ALLOWED}, got {text[:60]!r}"
            f"{nearest(text, ['GFLOP', 'TFLOP', 'PFLOP', 'EFLOP', 'PFLOP-days'] if flop else _COUNTS)}"
        )
    return value


def named_unit(column: str, flop: bool) -> str:
    """The unit that a column's name ends in; empty where it names none, or one of 1.

    >>> named_unit("Size (M)", False), named_unit("tokens_B", False), named_unit("compute [PFLOP-days]", True)
    ('M', 'B', 'PFLOP-days')
    >>> named_unit("D", False), named_unit("training_flop", True), named_unit("params", False)
    ('', '', '')
    """
    match = re.search(r"[(\[_\s]\s*([A-Za-z/·*-]+)\s*[)\]]?$", column)
    scale = None if match is None else factor(match[1], flop)
    return match[1] if match is not None and scale not in (None, 1.0) else ""


def read_number(text: str, mark: str) -> float:
    """A number without a unit; NaN where it is none.

    >>> read_number("1,300.5", "point"), read_number("1.300,5", "comma"), read_number("1 300", "point")
    (1300.5, 1300.5, 1300.0)
    >>> read_number("1,30", "point"), read_number("1.3B", "point"), read_number("inf", "point")
    (nan, nan, nan)
    """
    decimal, thousands = _SIGNS[mark]
    match = re.fullmatch(_pattern(decimal, thousands), text)
    return math.nan if match is None else _value(match)


def read_count(text: str, mark: str, unit: float = 1.0, flop: bool = False) -> float:
    """Number of parameters, tokens or FLOP; NaN where the text is none. A suffix replaces the unit of the column.

    >>> read_count("1.3B", "point"), read_count("1,3 bn", "comma"), read_count("125", "point", unit=1e6)
    (1300000000.0, 1300000000.0, 125000000.0)
    """
    decimal, thousands = _SIGNS[mark]
    match = re.match(_pattern(decimal, thousands), text)
    if match is None:
        return math.nan
    suffix = text[match.end() :].strip()
    scale = factor(suffix, flop) if suffix else unit
    return math.nan if scale is None else _value(match) * scale


def decimal_mark(cells: Iterable[str]) -> tuple[str | None, str]:
    """Decimal mark of the numbers of a table.

    Returns:
        The mark and nothing; or ``None`` and why it is left open, because every comma can be read both ways or cells
        contradict each other.

    >>> decimal_mark(["1.300", "2,5"]), decimal_mark(["1,300", "2.5"]), decimal_mark(["1.300"])
    (('comma', ''), ('point', ''), ('point', ''))
    >>> decimal_mark(["1,300", "2,134"])
    (None, "'1,300' may be 1300 or 1.3")
    >>> decimal_mark(["1.3", "2,1"])
    (None, "'1.3' has a decimal point and '2,1' a decimal comma")
    """
    shown: dict[str, str] = {}
    for cell in cells:
        by_point, by_comma = (not math.isnan(read_count(cell, mark, flop=True)) for mark in (POINT, COMMA))
        if by_point and by_comma and "," in cell:
            shown.setdefault("both", cell)
        elif by_point != by_comma:
            shown.setdefault(POINT if by_point else COMMA, cell)
    if POINT in shown and COMMA in shown:
        return None, f"{shown[POINT]!r} has a decimal point and {shown[COMMA]!r} a decimal comma"
    if POINT in shown or COMMA in shown:
        return next(mark for mark in (POINT, COMMA) if mark in shown), ""
    if "both" in shown:
        cell = shown["both"]
        readings = (f"{read_count(cell, mark, flop=True):g}" for mark in (POINT, COMMA))
        return None, f"{cell!r} may be {' or '.join(readings)}"
    return POINT, ""


def _pattern(decimal: str, thousands: str) -> str:
    grouped = rf"\d{{1,3}}(?:(?P<group>[{thousands}{_SPACES}])\d{{3}}(?:(?P=group)\d{{3}})*)"
    return rf"[+-]?(?P<whole>{grouped}|\d*)(?:{decimal}(?P<part>\d*))?(?P<power>[eE][+-]?\d+)?(?![\d.,])"


def _value(found: re.Match[str]) -> float:
    whole = re.sub(r"\D", "", found["whole"])
    sign = "-" if found[0].startswith("-") else ""
    return _float(f"{sign}{whole}.{found['part'] or ''}{found['power'] or ''}")


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
