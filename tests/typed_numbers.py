"""Numbers in the words of a gallery page that are neither settings, nor the document's, nor checked values."""

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass

_NUMBER = re.compile(
    r"10\^\{(-?\d+)\}|(?<![\w.,\\])\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,]\d)|(?<![\w.])\d+(?:\.\d+)?(?:e[-+]?\d+)?"
)
_WORDS = {"caption", "alternative", "title"}  # arguments of figures that a reader sees as text


@dataclass(frozen=True)
class Typed:
    """Number as it stands in a text; ``unit`` is that of its last digit, 0 of a power of ten."""

    text: str
    value: float
    unit: float

    @property
    def tells(self) -> bool:
        """Whether it has a decimal point, thousands, a power or three digits; smaller ones count and name things."""
        return bool(re.search(r"[.,^e]", self.text)) or len(self.text) >= 3


def typed(text: str) -> list[Typed]:
    """All numbers of a text, without signs; percent and millions as what they mean."""
    found = []
    for match in _NUMBER.finditer(text):
        if match[1] is not None:
            found.append(Typed(match[0], 10.0 ** int(match[1]), 0.0))
            continue
        plain = match[0].replace(",", "")
        mantissa, _, exponent = plain.partition("e")
        unit, scale = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2])), 1.0
        if re.match(r"\s?%", text[match.end() :]):
            scale = 0.01
        elif re.match(r"\s+million", text[match.end() :]):
            scale = 1e6
        found.append(Typed(match[0], scale * float(plain), scale * unit))
    return found


def words_of(page: str) -> list[tuple[int, str]]:
    """Texts that a reader of a page sees and that were typed, with their lines.

    The docstring, the comments behind ``# %%``, and what stands as it is in captions, alternatives and titles.
    """
    tree, lines = ast.parse(page), page.splitlines()
    found = [(1, ast.get_docstring(tree, clean=False) or "")]
    for number, line in enumerate(lines):
        if line.startswith("# %%"):
            end = next((k for k in range(number + 1, len(lines)) if not lines[k].startswith("#")), len(lines))
            found.append((number + 1, "\n".join(line[1:] for line in lines[number + 1 : end])))
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in _WORDS:
            parts = [part for part in ast.walk(node.value) if isinstance(part, ast.Constant)]
            found += [(part.lineno, part.value) for part in parts if isinstance(part.value, str)]
    return found


@dataclass(frozen=True)
class Known:
    """Numbers that a page may name.

    Attributes:
        settings: numbers of its code, and those that the document claims.
        checked: value and tolerance of each of its checks.
    """

    settings: tuple[float, ...]
    checked: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, page: str, checks: Iterable) -> "Known":
        checks = list(checks)
        nodes = [node.value for node in ast.walk(ast.parse(page)) if isinstance(node, ast.Constant)]
        numbers = [abs(value) for value in nodes if isinstance(value, int | float) and not isinstance(value, bool)]
        numbers += [number.value for check in checks for number in typed(check.document)]
        values = [(abs(check.value), check.tolerance) for check in checks if isinstance(check.value, float)]
        return cls(tuple(numbers), tuple(values))

    def has(self, number: Typed) -> bool:
        """Whether it is one of them: a checked value to its digits, that was checked to a unit of the last."""
        if any(abs(number.value - setting) <= 1e-9 * max(1.0, number.value) for setting in self.settings):
            return True
        half, slack = 0.5 * number.unit, 1e-6 * number.unit + 1e-12
        return any(
            abs(number.value - value) <= half + slack and tolerance <= number.unit + slack
            for value, tolerance in self.checked
        )


def unknown_in_words(page: str, checks: Iterable) -> list[str]:
    """Numbers typed in the words of a page that it does not produce, with their lines."""
    known = Known.of(page, checks)
    numbers = [(line, number) for line, text in words_of(page) for number in typed(text)]
    return [f"{line}: {number.text}" for line, number in numbers if number.tells and not known.has(number)]


def unknown_in_output(page: str, checks: Iterable, output: str) -> list[str]:
    """Numbers that a page prints by itself and does not check, with their lines."""
    known = Known.of(page, checks)
    lines = [line for line in output.splitlines() if not line.startswith("ok ")]
    return [f"{line}: {number.text}" for line in lines for number in typed(line) if not known.has(number)]
