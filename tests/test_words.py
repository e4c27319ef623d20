"""Words of code and documents: docstrings name their subject, local names what they hold, table cells stay short."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import shoal

ROOT = Path(__file__).parents[1]
SOURCE = Path(shoal.__file__).parent
BENCHMARKS = ROOT / "benchmarks"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MOST_WORDS = 40  # of a cell of a table; a sentence more is prose, and stands below the table

QUESTIONS = {"what", "whether", "which", "who", "whom", "whose", "how", "when", "where", "why"}
OTHER_FORMS = ("True if", "True when", "Return whether", "Tell whether", "Check whether")  # of "Return True if"
VAGUE = {"found", "kept", "own", "said", "told"}  # names that do not say what they hold

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring."""
    for node in ast.walk(tree):
        if isinstance(node, Documented) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text


def questions(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and summary of each docstring that begins with a question word."""
    summaries = [(line, text.partition("\n")[0]) for line, text in docstrings(tree)]
    return [(line, text) for line, text in summaries if text.split()[0].strip("*`.,:;").lower() in QUESTIONS]


def other_forms(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and summary of each docstring of a predicate that does not begin with "Return True if"."""
    return [(line, text.partition("\n")[0]) for line, text in docstrings(tree) if text.startswith(OTHER_FORMS)]


def vague_names(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and name of each local variable whose name does not say what it holds."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    names = [node for function in functions for node in ast.walk(function) if isinstance(node, ast.Name)]
    return sorted({(node.lineno, node.id) for node in names if isinstance(node.ctx, ast.Store) and node.id in VAGUE})


def package_of(path: Path) -> str:
    """Package or module of shoal that a file belongs to; ``benchmarks`` for those."""
    return path.relative_to(SOURCE).parts[0] if path.is_relative_to(SOURCE) else "benchmarks"


FILES = sorted([*SOURCE.rglob("*.py"), *BENCHMARKS.glob("*.py")])
PACKAGES = sorted({package_of(path) for path in FILES})


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_name_their_subjects(package):
    for path in (path for path in FILES if package_of(path) == package):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for check in (questions, other_forms, vague_names):
            assert not [f"{path}:{line}: {text}" for line, text in check(tree)], check.__name__


WORDS = '''"""Where members come from."""
class Member:
    """*How* many there are."""
    def is_done(self):
        """Whether all steps are done."""
    def is_new(self):
        """True if no step is done."""
    async def steps(self):
        """Which steps, in order."""
        for own in self: yield own
'''


def test_questions_and_names_are_seen_wherever_they_stand():
    tree = ast.parse(WORDS)
    assert [line for line, _ in sorted(questions(tree))] == [1, 3, 5, 9]
    assert other_forms(tree) == [(7, "True if no step is done.")]
    assert vague_names(tree) == [(10, "own")]


def test_answers_are_no_questions():
    tree = ast.parse(
        '"""Whereabouts of members."""\ndef f(found):\n    """Return True if whatever was found is new."""\n'
    )
    assert not questions(tree) and not other_forms(tree) and not vague_names(tree)


def long_cells(text: str) -> list[tuple[int, int, str]]:
    """Line, number of words and beginning of each table cell of a Markdown text that has more words than a cell may."""
    cells = [
        (number, cell.split())
        for number, line in enumerate(text.splitlines(), 1)
        if line.lstrip().startswith("|")
        for cell in re.split(r"(?<!\\)\|", line)
    ]
    return [(number, len(words), " ".join(words[:6])) for number, words in cells if len(words) > MOST_WORDS]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_table_cells_of_documents_are_short(path):
    assert not long_cells(path.read_text(encoding="utf-8"))


def test_a_long_cell_is_seen_in_any_table():
    cell = "word " * MOST_WORDS
    table = f"| a | b |\n| --- | --- |\n| {cell}| {cell}more |\n\n  | {cell}\\| one cell |"
    assert [(line, n) for line, n, _ in long_cells(table)] == [(3, MOST_WORDS + 1), (5, MOST_WORDS + 3)]
    assert not long_cells("prose " * 2 * MOST_WORDS)
