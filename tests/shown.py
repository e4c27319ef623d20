"""What figures and tables must be, whatever they show."""

import csv
import html
import io
import re
import shutil
import subprocess
from pathlib import Path

HAS_PDFLATEX = shutil.which("pdflatex") is not None

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Signs beside ASCII that the typeface of the figures has.
_SIGNS = set("±×÷−–—‘’“”†…→≤≥≠≈∞·ΔΣαβγδεθλμρσχ°²³ℓé")


def loaded_from_outside(page: str) -> list[str]:
    """Addresses that a page would load when it is opened; those of links are loaded by who follows them."""
    followed = re.sub(r"""<a\b[^>]*\bhref=["']https?:[^"']*["'][^>]*>""", "", page)
    return re.findall(r"""(?:src|href|@import|url)\s*[=(]?\s*["']?https?:[^"'\s>)]*""", followed)


def text_of(page: str) -> str:
    """The words of a page without its elements, as a reader sees them."""
    return html.unescape(re.sub(r"<[^>]*>", "", page.partition("<body>")[2].partition("<script")[0]))


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


def faults_of_pdflatex(tables: list[str], folder: Path) -> list[str]:
    """Why pdflatex stops at these tables, signs it lacks, and by how many points they leave the page."""
    packages = ",".join(re.findall(r"^% Needs \\usepackage\{(.*)\}", "\n".join(tables), re.MULTILINE))
    body = "\n\\clearpage\n".join(tables)
    text = f"\\documentclass{{article}}\\usepackage{{{packages}}}\\begin{{document}}\n{body}\\end{{document}}\n"
    (folder / "t.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    log = (folder / "t.log").read_text(errors="replace")
    stopped = re.findall(r"^!.*(?:\n.*){3}", log, re.MULTILINE) if ran.returncode else []
    wide = [found for found in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log) if float(found) > 1]
    return [*stopped, *re.findall(r"Missing character.*|.*Float too large.*", log), *wide]
