"""The house: imports flow one way, the public face is what it says, and the tables of names agree."""

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest

import shoal

SOURCE = Path(shoal.__file__).parent

# Each may import what stands before it, and within itself.
ORDER = [
    "errors",
    "interrupts",
    "output",
    "registry",
    "measures",
    "spec",
    "keyed",
    "quantisation",
    "models",
    "objectives",
    "rules",
    "embeddings",
    "tasks",
    "fast",
    "hmm",
    "exact",
    "decoding",
    "analysis",
    "lab",
    "training",
    "report",
    "practical",
    "studies",
    "gallery",
    "tuning",
    "commands",
    "cli",
    "parts",
    "testing",
]


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def run_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker reads."""
    yield node
    is_typing = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    for child in node.orelse if is_typing else ast.iter_child_nodes(node):
        yield from run_nodes(child)


class Facts(NamedTuple):
    """What the tests ask of a file, which is parsed once for all of them."""

    imports: set[str]
    places: set[str]
    names: set[str]
    functions: list[tuple[int, str, int]]  # line, name, lines


@cache
def facts(path: Path) -> Facts:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    return Facts(
        imports(tree),
        places(tree),
        {node.id for node in nodes if isinstance(node, ast.Name)},
        [(node.lineno, node.name, node.end_lineno - node.lineno) for node in functions],
    )


def imports(tree: ast.Module) -> set[str]:
    """What of shoal a file imports, at once or later."""
    found = set()
    for node in run_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" if node.module == "shoal" else node.module for alias in node.names}
    return {name for name in found if name.split(".")[0] == "shoal"}


FILES = [path for path in SOURCE.rglob("*.py") if path.name != "__main__.py" and path != SOURCE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_flow_one_way(path):
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    assert own in ORDER, f"{own} has no place in the order"
    for name in facts(path).imports:
        assert ORDER.index(room(name)) <= ORDER.index(own), f"{path} imports {name}, which stands after it"


def places(tree: ast.Module) -> set[str]:
    """Modules of shoal that a file holds the places of, to load them by these."""
    values = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    texts = {node.value for node in values if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text for text in texts if text.startswith("shoal.") and text.replace(".", "").replace("_", "").isalpha()}


def test_one_place_alone_is_loaded_against_the_order():
    """Records plot themselves by what stands behind them; nothing else of shoal reaches backwards by a name."""
    found = {(str(path.relative_to(SOURCE)), place) for path in FILES for place in facts(path).places}
    assert found == {("lab/record_views.py", "shoal.report.plots")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_are_small(path):
    assert path.read_text(encoding="utf-8").count("\n") <= 350
    for line, name, lines in facts(path).functions:
        assert lines <= 60, f"{path}:{line} {name}"


@pytest.mark.parametrize(
    "module",
    [
        "shoal",
        "shoal.models",
        "shoal.tasks",
        "shoal.hmm",
        "shoal.exact",
        "shoal.analysis",
        "shoal.lab",
        "shoal.training",
        "shoal.report",
        "shoal.gallery",
        "shoal.parts",
        "shoal.testing",
    ],
)
def test_the_public_surface_is_there(module):
    loaded = importlib.import_module(module)
    assert len(loaded.__all__) == len(set(loaded.__all__))
    for name in loaded.__all__:
        assert getattr(loaded, name) is not None


def test_the_face_of_shoal():
    assert set(shoal.__all__) == {
        "Interrupted",
        "Lab",
        "Records",
        "RunSpec",
        "UserError",
        "grid",
        "parts",
        "practical",
        "resume",
        "train",
        "tune",
    }
    assert shoal.__version__ == version("shoal")
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        shoal.trian  # noqa: B018 (the access is the test)


def test_there_is_no_pickle_and_no_eval():
    for path in FILES:
        assert not facts(path).names & {"eval", "exec", "pickle"}, path
        assert "import pickle" not in path.read_text(), path
        assert "torch.load(" not in path.read_text(), path
