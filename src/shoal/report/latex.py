"""Tables for pdflatex: in plain ASCII, no wider than the page, and over several pages where they are long.

Blocks of columns stand one below the other where a table is wider than a page of LaTeX's own classes.
"""

import math
import re
import string
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.report.table import Table

_SIGNS = {sign: f"\\{sign}" for sign in "&%#$_{}"} | {
    "\\": "\\textbackslash{}",
    "^": "\\^{}",
    "~": "\\~{}",
    **dict.fromkeys("\u00a0\u202f\u2009", "~"),
    **{sign: f"${sign}$" for sign in "<>|"},
    '"': "''",
    "±": "$\\pm$",
    "∞": "$\\infty$",
    "ℓ": "$\\ell$",
    "≥": "$\\geq$",
    "≤": "$\\leq$",
    "≠": "$\\neq$",
    "≈": "$\\approx$",
    "−": "$-$",
    "×": "$\\times$",
    "÷": "$\\div$",
    "·": "$\\cdot$",
    "∝": "$\\propto$",
    "→": "$\\to$",
    "‖": "$\\|$",
    "°": "$^\\circ$",
    "†": "\\dag{}",
    "–": "--",
    "—": "---",
    "…": "\\dots{}",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "µ": "$\\mu$",
    "ß": "\\ss{}",
}
_ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u0327": "c ", "\u030c": "v "}
_RAISED = re.compile(r"((?:<(super|sub)>[^<]+</\2>)+)")
_SYMBOL = re.compile(r"([A-Za-z])\\_(train|val|f)(?![A-Za-z])")

# In widths of a digit, half an em: what fits on the 345 points of LaTeX's own classes in footnotesize, and what stands
# between two columns.
_PAGE, _GAP = 76.0, 2.9
_NORMAL = 0.8  # of that fits in the size of the text
_WORDS = 30.0  # widths from which a cell is set in lines
_WIDE, _BOLD = 1.5, 1.15  # a sign that is wider than a digit, and a bold one
_LONG = 42  # lines from which a table with its caption may not fit on one page
_CAPTION = 85  # signs of a line of the caption


def to_latex(table: "Table") -> str:
    """A ``tabular``, or several, in a ``table`` with the caption, the best in bold; long ones as ``longtable``."""
    labels = [_width(text) for text in (table.header[0], *(label for label, _ in table.rows))]
    others = [
        [_width(name), *(_width(cells[column].text) * (_BOLD if cells[column].best else 1) for _, cells in table.rows)]
        for column, name in enumerate(table.header[1:])
    ]
    widths = [min(max(column), _WORDS) for column in (labels, *others)]
    blocks = _blocks(widths)
    long = len(table.caption) / _CAPTION + sum(_height(table, block) for block in blocks) > _LONG
    small = long or len(blocks) > 1 or sum(widths) + _GAP * len(widths) > _PAGE * _NORMAL
    body = ["\\footnotesize"] * small
    for number, block in enumerate(blocks):
        body += _block(table, block, widths, long, number)
    needs = f"% Needs \\usepackage{{booktabs{',longtable' * long}}}."
    if long:
        return "\n".join([needs, "{", *body, "}", ""])
    head = ["\\begin{table}", "\\centering", f"\\caption{{{escaped(table.caption)}}}"]
    return "\n".join([needs, *head, *body, "\\end{table}", ""])


def _width(text: str) -> float:
    return sum(_WIDE if sign.isupper() or sign in "mw%±−×" else 1 for sign in text)


def _blocks(widths: Sequence[float]) -> list[list[int]]:
    """The columns of each block beside the first, which labels the rows of all."""
    blocks, used = [list[int]()], widths[0] + _GAP
    for column in range(1, len(widths)):
        width = widths[column] + _GAP
        if used + width > _PAGE and blocks[-1]:
            blocks.append([])
            used = widths[0] + _GAP
        blocks[-1].append(column)
        used += width
    return blocks


def _height(table: "Table", block: Sequence[int]) -> int:
    """Lines of a block, its head and the space before it among them."""
    rows = [[label, *(cells[column - 1].text for column in block)] for label, cells in table.rows]
    return 3 + sum(max(math.ceil(1.15 * _width(text) / _WORDS) for text in row) for row in rows)


def _block(table: "Table", block: Sequence[int], widths: Sequence[float], long: bool, number: int) -> list[str]:
    kinds = "".join(_kind(widths[column], column == 0) for column in (0, *block))
    head = [" & ".join(escaped(table.header[column]) for column in (0, *block)) + " \\\\", "\\midrule"]
    if long:
        caption = escaped(table.caption) if number == 0 else f"{escaped(table.name)}, further columns"
        counted = "" if number == 0 else "*"
        lines = [f"\\begin{{longtable}}{{{kinds}}}", f"\\caption{counted}{{{caption}}}\\\\", "\\toprule", *head]
        lines += ["\\endfirsthead", "\\toprule", *head, "\\endhead", "\\bottomrule", "\\endfoot"]
    else:
        lines = [*(["\\par\\medskip"] if number else []), f"\\begin{{tabular}}{{{kinds}}}", "\\toprule", *head]
    for label, cells in table.rows:
        texts = [_cell(cells[column - 1].text, widths[column], cells[column - 1].best) for column in block]
        lines.append(" & ".join([_cell(label, widths[0]), *texts]) + " \\\\")
    return [*lines, *(["\\end{longtable}"] if long else ["\\bottomrule", "\\end{tabular}"])]


def _kind(width: float, first: bool) -> str:
    if width >= _WORDS:
        return f"p{{{width / 2:g}em}}"
    return "l" if first else "r"


def _cell(text: str, width: float, best: bool = False) -> str:
    shown = f"\\textbf{{{escaped(text)}}}" if best else escaped(text)
    return f"{{\\raggedright {shown}\\par}}" if width >= _WORDS else shown


def escaped(text: str) -> str:
    """The text for LaTeX, in ASCII alone: ``L_val`` with its subscript, signs as commands, accents as such.

    A sign that has no name here is written as its code: ``[U+4E2D]``.
    """
    marked = "".join(map(_sign, text)).replace("$\\Delta$t", "$\\Delta t$")
    text = _SYMBOL.sub(_symbol, _RAISED.sub(_raised, marked))
    # after the end of a row either would be read as an argument of it
    return f"{{}}{text}" if text.lstrip().startswith(("[", "*")) else text


def _sign(sign: str) -> str:
    if sign in _SIGNS:
        return _SIGNS[sign]
    if sign.isascii():
        return sign if sign.isprintable() else " "
    kind, _, codes = unicodedata.decomposition(sign).partition("> ")
    if kind in ("<super", "<sub"):
        raised = "".join(chr(int(code, 16)) for code in codes.split()).replace("−", "-")
        return f"{kind}>{raised}</{kind[1:]}>" if raised.isascii() else _code(sign)
    name = unicodedata.name(sign, "")
    greek = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", name)
    if greek and _is_greek(greek[2], greek[1] == "CAPITAL"):
        return f"$\\{greek[2].lower() if greek[1] == 'SMALL' else greek[2].capitalize()}$"
    parts = list(unicodedata.normalize("NFD", sign))
    base, marks = parts[0], parts[1:]
    if base.isascii() and len(marks) == 1 and marks[0] in _ACCENTS:
        return f"\\{_ACCENTS[marks[0]]}{{{base}}}"
    return _code(sign)


def _code(sign: str) -> str:
    return f"[U+{ord(sign):04X}]"


_LOWER = "ALPHA BETA GAMMA DELTA EPSILON ZETA ETA THETA IOTA KAPPA MU NU XI PI RHO SIGMA TAU UPSILON PHI CHI PSI OMEGA"
_UPPER = "GAMMA DELTA THETA XI PI SIGMA UPSILON PHI PSI OMEGA"  # the others look like Latin letters


def _is_greek(name: str, capital: bool) -> bool:
    return name in (_UPPER if capital else _LOWER).split()


def _raised(match: re.Match[str]) -> str:
    inner = re.sub(r"</?\w+>", "", match[1])
    return f"${'^' if match[2] == 'super' else '_'}{{{inner}}}$"


def _symbol(match: re.Match[str]) -> str:
    letter, index = match.groups()
    alone = letter in "LArt" and not match.string[: match.start()].endswith(tuple("_" + string.ascii_letters))
    return f"${letter}_{{\\mathrm{{{index}}}}}$" if alone else match[0]
