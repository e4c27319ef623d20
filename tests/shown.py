"""What figures and tables must be, whatever they show."""

import csv
import io
import re

# Signs beside ASCII that the typeface of the figures has.
_SIGNS = set("±×÷−–—‘’“”†…→≤≥≠≈∞·ΔΣαβγδεθλμρσχ°²³ℓé")


def in_words(figure) -> bool:
    """Whether a figure says in words and numbers what it shows, and not only what it is."""
    return len(figure.alt.split()) > 5 and bool(re.search(r"\d", figure.alt))


def foreign_signs(spec) -> set[str]:
    """Signs in the texts of a figure that would come from another typeface."""
    if isinstance(spec, dict):
        return set().union(*(foreign_signs(part) for key, part in spec.items() if key != "description"))
    if isinstance(spec, list):
        return set().union(*map(foreign_signs, spec))
    return {sign for sign in spec if not sign.isascii() and sign not in _SIGNS} if isinstance(spec, str) else set()


def unset_in_latex(latex: str) -> list[str]:
    """What pdflatex has no sign for or would read as a command: signs beyond ASCII, and special ones not escaped."""
    text = "\n".join(line for line in latex.splitlines() if not line.startswith("%"))
    bare = re.sub(r"(?<!\\)\$[^$]*?(?<!\\)\$", "", text)  # without mathematics
    bare = re.sub(r"\\(?:[&%#$_{}]|[\"'`^~]\{|[a-z]+\*?)", "", bare)
    found = [sign for sign in text if not sign.isascii()] + re.findall(r"[%#$_^~<>|\"]", bare)
    return [sign for sign in found if sign != "~"]


def dressed_numbers(text: str) -> list[str]:
    """Cells of a CSV file in which a program would not find the number: with signs, intervals, thousands apart."""
    cells = [cell for line in list(csv.reader(io.StringIO(text)))[1:] for cell in line]
    dressed = re.compile(r"±|†|^−|^–$|^[\d,.−]+ \[|^\d{1,3}(,\d{3})+$|^\d+(\.\d+)? %$|→")
    return [cell for cell in cells if dressed.search(cell)]
