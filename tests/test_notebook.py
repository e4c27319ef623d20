"""The notebook in ``examples``: it runs, shows what it shows, and holds its outputs."""

import ast
import json
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "examples" / "first_grokking.ipynb"
NOTEBOOK = json.loads(PATH.read_text("utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
QUICK = {"n_steps": 30, "seeds": [0, 1]}  # what a test can wait for
LARGEST = 1_500_000  # bytes of the file


def source(cell) -> str:
    return "".join(cell["source"])


def test_every_cell_runs_in_order_and_shows_something(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for cell in CODE:
        tree = ast.parse(source(cell))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert set(QUICK) <= set(names), "the parameters have other names"
            names |= QUICK
        if last is not None:
            shown = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            picture = getattr(shown, "_repr_png_", lambda: None)() or getattr(shown, "_repr_html_", lambda: None)()
            assert picture or shown is None or repr(shown)
    assert len(names["records"]) == 2 * len(names["weight_decays"])
    assert "answer" in capsys.readouterr().out


def test_it_holds_the_outputs_of_one_run_from_top_to_bottom():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 7
    assert any("generalised" in "".join(output.get("data", {}).get("text/plain", "")) for output in outputs)


def test_it_is_small_and_says_nothing_of_the_machine_it_ran_on():
    text = PATH.read_text("utf-8")
    assert len(text.encode()) < LARGEST
    assert set(NOTEBOOK["metadata"]) == {"kernelspec", "language_info"}
    shown = json.dumps([[o for o in cell["outputs"] if "image/png" not in o.get("data", {})] for cell in CODE])
    assert "/home" not in shown
    assert "/work" not in shown
    assert "/tmp" not in shown


def test_python_calls_it_valid():
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.read(PATH, as_version=4))
