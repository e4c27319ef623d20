"""Small curves of text: one line of block signs, or a panel of braille dots.

The axis of steps is logarithmic, from step 1, as in the figures of pages; step 0 stands with step 1.
"""

import math
from collections.abc import Iterable, Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-~=+*#"  # for a terminal whose encoding has no blocks
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille sign, by row and column
_BRAILLE = 0x2800

Curve = Sequence[tuple[int, float]]  # step, value; in order of the steps


def span_of(curves: Iterable[Curve], bounds: tuple[float, float] | None, is_log: bool) -> tuple[float, float]:
    """The lowest and the highest value that an axis shows: finite bounds, else those of the curves.

    >>> span_of([[(0, 2.0), (5, 0.5)]], None, False), span_of([], (0, 1), False)
    ((0.5, 2.0), (0, 1))
    """
    if bounds is not None and all(map(math.isfinite, bounds)):
        return bounds
    values = [value for curve in curves for _, value in curve if math.isfinite(value) and (value > 0 or not is_log)]
    return (min(values), max(values)) if values else (0.0, 1.0)


def place_of(step: float, n_steps: int, cells: int) -> int:
    """The cell of a step on the logarithmic axis from 1 to ``n_steps``, counted from 0.

    >>> [place_of(step, 1000, 3) for step in (0, 1, 10, 100, 1000)]
    [0, 0, 1, 2, 2]
    """
    if n_steps <= 1 or step <= 1:
        return 0 if n_steps > 1 else cells - 1
    return min(cells - 1, int(cells * math.log(step) / math.log(n_steps) + 1e-9))


def height_of(value: float, span: tuple[float, float], is_log: bool, levels: int) -> int | None:
    """The level of a value, the lowest 0; None of one that is not finite. What lies outside of the span is at its end.

    >>> [height_of(value, (0.0, 1.0), False, 8) for value in (0.0, 0.5, 1.0)]
    [0, 4, 7]
    """
    low, high = span
    if is_log:
        if not (low > 0 and value > 0):
            return None if math.isnan(value) else 0
        low, high, value = math.log(low), math.log(high), math.log(value)
    if not math.isfinite(value):
        return None
    share = 0.5 if high <= low else (value - low) / (high - low)
    return max(0, min(levels - 1, int(share * levels)))


def _by_cell(curve: Curve, n_steps: int, cells: int) -> list[float | None]:
    """Last value evaluated in each cell; that of the cell before in one without evaluation; None after the last."""
    values: list[float | None] = [None] * cells
    for step, value in curve:
        values[place_of(step, n_steps, cells)] = value
    last = max((cell for cell, value in enumerate(values) if value is not None), default=-1)
    for cell in range(1, last + 1):
        if values[cell] is None:
            values[cell] = values[cell - 1]
    return values


def sparkline(
    curve: Curve,
    width: int,
    n_steps: int,
    span: tuple[float, float],
    is_log: bool = False,
    signs: str = BLOCKS,
) -> str:
    """A curve as ``width`` signs; blank beyond its last step and where it is not finite.

    >>> sparkline([(0, 0.0), (10, 0.5), (100, 1.0)], 6, 1000, (0.0, 1.0))
    '▁▁▅▅█ '
    """
    out = []
    for value in _by_cell(curve, n_steps, width):
        level = None if value is None else height_of(value, span, is_log, len(signs))
        out.append(" " if level is None else signs[level])
    return "".join(out)


def panel(
    curves: Iterable[Curve], width: int, height: int, n_steps: int, span: tuple[float, float], is_log: bool = False
) -> list[str]:
    """Curves over each other in ``height`` lines of ``width`` braille signs, each of 2 × 4 dots.

    A dot stands for the last value evaluated in its column; between two columns a line joins them.
    """
    columns, rows = 2 * width, 4 * height
    cells = [[0] * width for _ in range(height)]
    for curve in curves:
        before: int | None = None
        for x, value in enumerate(_by_cell(curve, n_steps, columns)):
            level = None if value is None else height_of(value, span, is_log, rows)
            if level is not None:
                low, high = sorted((level, level if before is None else before))
                for y in range(low + (before is not None and before < level), high + 1):
                    row = rows - 1 - y
                    cells[row // 4][x // 2] |= _DOTS[row % 4][x % 2]
            before = level
    return ["".join(chr(_BRAILLE + cell) if cell else " " for cell in line) for line in cells]
