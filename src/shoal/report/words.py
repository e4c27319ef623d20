"""Numbers, intervals, p values and damage in words."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = "–"


def number(value: float | None, digits: int = 3) -> str:
    """``1,250``, ``0.0123``, ``−3.2``: thousands as whole numbers, the rest to some significant digits.

    >>> [number(x) for x in (1250.4, 0.01234, -3.2, 0.0, -math.inf, None)]
    ['1,250', '0.0123', '−3.2', '0', '−∞', '–']
    """
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    text = f"{round(value):,}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
    return text.replace("-", "−")


def with_interval(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """``0.6 [0.27, 0.86]``; an end or a value that does not exist is a dash.

    >>> with_interval(3250.0, 2900.0, None), with_interval(None, None, None)
    ('3,250 [2,900, –]', '–')
    """
    if low is None and high is None:
        return number(value, digits)
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def with_deviation(mean: float, std: float | None, digits: int) -> str:
    """``0.71 ± 0.03``; a mean of one value has no deviation.

    >>> with_deviation(0.712, 0.031, 2), with_deviation(0.712, None, 2)
    ('0.71 ± 0.03', '0.71')
    """
    return f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


def p_value(p: float | None) -> str:
    """``p = 0.012``, ``p < 0.0001``.

    >>> [p_value(p) for p in (0.0123, 3e-7, None)]
    ['p = 0.012', 'p < 0.0001', 'no p value']
    """
    if p is None:
        return "no p value"
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def counted(n: int, noun: str) -> str:
    """``1 run``, ``2 runs``, ``1,000 runs``.

    >>> [counted(n, "run") for n in (0, 1, 1000)]
    ['0 runs', '1 run', '1,000 runs']
    """
    return f"{n:,} {noun}{'s' * (n != 1)}"


def capitalised(text: str) -> str:
    """The text with a large first letter, the rest as it is.

    >>> capitalised("time to A_val ≥ 0.9")
    'Time to A_val ≥ 0.9'
    """
    return text[:1].upper() + text[1:]


def setting_text(value: Any) -> str:
    """The value of a setting: numbers without the rounding of binary fractions, ``true``, a dash for none.

    >>> [setting_text(value) for value in (0.0006000000000000001, 20000, True, None, "gpt")]
    ['0.0006', '20000', 'true', '–', 'gpt']
    """
    if value is None:
        return NOTHING
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def listed(values: Sequence[Any]) -> str:
    """``a``, ``a and b``, ``a, b and c``.

    >>> listed([1, 2, 3])
    '1, 2 and 3'
    """
    texts = [str(value) for value in values]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def in_ranges(values: Sequence[int]) -> str:
    """Whole numbers in order, three and more that follow each other as a range.

    >>> in_ranges([42, 0, 1, 2, 3, 8, 9])
    '0 to 3, 8, 9, 42'
    """
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    parts = [[f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(value) for value in run] for run in runs]
    return ", ".join(text for part in parts for text in part)


def damage_sentences(damage: Mapping[str, str], n: int, most: int = 6) -> list[str]:
    """A sentence for each reason why some of ``n`` runs are damaged.

    >>> damage_sentences({"a1b2": "x is damaged", "c3d4": "x is damaged"}, 8)
    ['Damaged: 2 of 8 runs (a1b2, c3d4): x is damaged.']
    """
    runs: dict[str, list[str]] = {}
    for run, why in damage.items():
        runs.setdefault(why, []).append(run[:8])
    return [
        f"Damaged: {len(ids)} of {counted(n, 'run')} ({', '.join(ids[:most])}"
        f"{f' and {len(ids) - most} more' if len(ids) > most else ''}): {why}."
        for why, ids in runs.items()
    ]
