"""Words of the code: docstrings begin with what their subject is called, and local names with what they hold."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import shoal

SOURCE = Path(shoal.__file__).parent
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

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
