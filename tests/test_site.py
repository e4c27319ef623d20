"""The sources of the documentation and the check of the built site; the site itself is built by ``make docs``."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from shown import CHROMIUM

from shoal.cli import COMMANDS

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "site"))
assemble, check, commands, docstrings, gallery_pages, notebook, reference = map(
    importlib.import_module,
    ("assemble", "check", "commands", "docstrings", "gallery_pages", "notebook", "reference"),
)
sys.path.pop(0)


@pytest.fixture
def site(tmp_path):
    return assemble.Site(tmp_path / "source")


def test_links_of_documents_lead_to_pages(site):
    text = "See [speed](speed.md#text), [one](../src/shoal/models/gpt.py), [out](https://example.org), [here](#a)."
    assert site.linked(text, Path("docs/translation.md"), "translation.md") == (
        "See [speed](speed.md#text), [one](files/src.shoal.models.gpt.py.md), [out](https://example.org), [here](#a)."
    )
    page = "gallery/plot_07_hidden_markov_model"
    assert site.linked(f"[a](../{page}.py)", Path("docs/errata.md"), "errata.md") == f"[a]({page}.rst)"
    assert site.linked("[a](ARCHITECTURE.md)", Path("docs/command-line.md"), "command-line/guide.md") == (
        "[a](../architecture.md)"
    )


def test_links_within_code_are_left_alone(site):
    text = "```python\nx = a[0](speed.md)\n```\n    y[1](nothing.md)\n"
    assert site.linked(text, Path("docs/translation.md"), "translation.md") == text


def test_a_link_with_the_path_of_a_document_is_named_by_its_title(site):
    text = "[speed.md](speed.md), [docs/results/](results/README.md), [the page](speed.md), [src/shoal](../src/shoal)"
    linked = site.linked(text, Path("docs/translation.md"), "translation.md")
    assert linked.startswith("[Speed](speed.md), [Results](results/index.md), [the page](speed.md), [src/shoal](files/")


def test_no_line_of_text_is_lost_as_a_remark(site):
    text = "0 % [0\n  %, 31 %]\n\n% first\n\n```toml\n% code\n```\n"
    linked = site.linked(text, Path("docs/speed.md"), "speed.md")
    assert linked == "0 % [0\n  \\%, 31 %]\n\n\\% first\n\n```toml\n% code\n```\n"


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ('"""One thing: its\nsecond line. More."""', "One thing: its second line."),
        ('r"""\nA title\n=======\n\nText."""', "A title"),
        ('"""Names of ``a_b`` and c_d."""', "Names of ``a_b`` and c\\_d."),
        ("/* Code in C,\n   of two lines. */", "Code in C, of two lines."),
        ("x = 1", ""),
    ],
)
def test_a_file_is_described_by_its_first_sentence(tmp_path, text, about):
    (tmp_path / "a.py").write_text(text)
    assert assemble._about(tmp_path / "a.py") == about


def test_a_link_that_leads_nowhere_ends_the_build(site):
    with pytest.raises(SystemExit, match="leads nowhere"):
        site.linked("[a](sped.md)", Path("docs/translation.md"), "translation.md")


def test_every_document_can_be_laid_out(site):
    for name in site.pages:
        if name.endswith(".md"):
            site.document(name)
    site.show_files()
    pages = {path.relative_to(site.folder).as_posix() for path in site.folder.rglob("*.md")}
    assert {"speed.md", "errata.md", "results/sanity.md", "files/src.shoal.models.gpt.py.md"} <= pages


def test_sections_of_the_readme_are_pages():
    parts = assemble.sections((ROOT / "README.md").read_text("utf-8"))
    assert set(assemble.SECTIONS) <= set(parts)
    assert parts["Ten worked examples"].count("\n## ") == 10


def test_each_command_has_a_page_with_its_flags():
    pages = commands.command_pages()
    assert set(pages) == set(COMMANDS)
    assert "`--weight-decay X …`" in pages["train"]
    assert "`--num-heads X …`" in pages["train"]  # of any model
    assert all(f"shoal {name}" in page for name, page in pages.items())


def test_usage_says_which_arguments_may_be_left_out():
    pages = commands.command_pages()
    assert "$ shoal merge RUN FILE [flags]" in pages["merge"]
    assert "$ shoal fit KIND [FILE] [flags]" in pages["fit"]
    assert "$ shoal certify RUN … [flags]" in pages["certify"]
    assert "$ shoal runs [RUN …] [flags]" in pages["runs"]
    assert not any(line.endswith("; default |") for page in pages.values() for line in page.splitlines())


def test_types_are_shown_as_they_were_written():
    array = "~numpy.ndarray[tuple[~typing.Any, ...], ~numpy.dtype[~numpy.float64]]"
    like = "~a._Buffer | ~a._SupportsArray[~numpy.dtype[~typing.Any]] | complex | ~a._Nested[complex | bytes | str]"
    text = f"(x: {like}, y: {array} | None = <factory>, z: ~typing.Annotated[float, Ge(ge=0)] = 1)"
    assert docstrings.shortened(text) == "(x: ArrayLike, y: NDArray[~numpy.float64] | None = ..., z: float = 1)"
    lines = [":ivar a: words", ":vartype a: collections.abc.Mapping[str, a.b.C] | None"]
    docstrings._types_of_fields(None, "", "", None, None, lines)
    assert lines[1] == ":vartype a: ~collections.abc.Mapping[str, ~a.b.C] | None"


def test_no_address_of_an_object_is_in_the_reference():
    assert not any(" at 0x" in page for page in reference.reference_pages().values())


def test_tables_of_a_notebook_are_tables(tmp_path):
    table = "<style>x</style><table border='1'><tr><td>1</td></tr></table>"
    cell = {"cell_type": "code", "source": "a", "outputs": [{"data": {"text/html": table, "text/plain": "A(1)"}}]}
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": [cell]}))
    page = notebook.notebook_page(tmp_path / "a.ipynb", tmp_path / "a")
    assert "<tr><td>1</td></tr>" in page
    assert "style" not in page
    assert "A(1)" not in page


def test_each_package_with_public_names_has_a_page():
    packages = {
        path.parent.name for path in (ROOT / "src" / "shoal").glob("*/__init__.py") if "__all__ =" in path.read_text()
    }
    assert {f"shoal.{name}" for name in packages} - set(reference.MODULES) <= {
        "shoal.spec"
    }  # its names are shoal's own


def test_every_guide_is_in_the_contents(site):
    site.write("index.md", (ROOT / "docs" / "site" / "pages" / "index.md").read_text("utf-8"))
    assemble._guides(site)
    contents = (site.folder / "index.md").read_text("utf-8").splitlines()
    for path in (ROOT / "docs").glob("*.md"):
        assert site.pages[f"docs/{path.name}"].removesuffix(".md").removesuffix("/guide") in [
            line.removesuffix("/index") for line in contents
        ], path.name


def test_each_documented_name_has_one_entry():
    pages = reference.reference_pages()
    for module in reference.MODULES:
        for name in importlib.import_module(module).__all__:
            assert f"{module}.{name}\n" in pages[module] or f"``{name}``" in pages[module], f"{module}.{name}"
    entries = [line.split(":: ")[1] for page in pages.values() for line in page.splitlines() if ".. auto" in line]
    objects = [entry for entry in entries if entry not in reference.MODULES]
    held = [getattr(importlib.import_module(entry.rpartition(".")[0]), entry.rpartition(".")[2]) for entry in objects]
    assert len(held) == len({id(value) for value in held})


def test_broken_links_are_seen(tmp_path):
    (tmp_path / "a.html").write_text('<p id="x"><a href="b.html#y"></a><a href="b.html"></a><img src="c.png">')
    (tmp_path / "b.html").write_text('<p id="z"></p><p id="z"></p><a href="https://example.org"></a><a href="#z"></a>')
    faults = check.broken_links(tmp_path)
    assert len(faults) == 3
    assert "leads to no anchor" in faults[0]
    assert "leads to no file" in faults[1]
    assert "2 times" in faults[2]


def test_requests_to_the_outside_and_errors_are_seen():
    def event(method, **values):
        return {"method": method, "params": values}

    events = [
        event("Network.requestWillBeSent", request={"url": "file:///a.html"}),
        event("Network.requestWillBeSent", request={"url": "https://example.org/font.woff"}),
        event("Runtime.consoleAPICalled", type="log", args=[]),
        event("Runtime.consoleAPICalled", type="error", args=[{"value": "no"}]),
        event("Runtime.exceptionThrown", exceptionDetails={"text": "oh"}),
    ]
    counts = check.Counter()
    assert len(check._events(events, counts)) == 3
    assert counts["requests"] == 2


def test_a_row_of_numbers_links_its_erratum():
    row = {"name": "a | b", "value": 1.0, "expected": 2.0, "tolerance": 0.0, "document": "3", "erratum": "E12"}
    assert gallery_pages._row(row) == "| a \\| b | 1 | 2 | equal | 3 | [E12](errata.md#e12) |"


def test_every_erratum_has_a_place():
    text = (ROOT / "docs" / "errata.md").read_text("utf-8")
    numbers = sorted(int(line[5:]) for line in text.splitlines() if line.startswith("### E"))
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 24


PAGE = """<meta name="viewport" content="width=device-width"><title>a</title><p id="a" class="math">\\\\(x\\\\)</p>
<div class="shoal-chart" aria-label="lines"><input type="range"></div><p style="width: 500px">wide</p>
<script>console.error("no")</script><script src="https://example.org/a.js"></script><img src="gone.png">"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser")
def test_the_browser_sees_each_fault(tmp_path):
    (tmp_path / "a.html").write_text(PAGE, encoding="utf-8")
    (tmp_path / "b.html").write_text(
        '<meta name="viewport" content="width=device-width"><p>right</p>', encoding="utf-8"
    )
    with check.Browser() as browser:
        faults = check.seen_faults(browser, tmp_path / "a.html", check.Counter())
        assert check.seen_faults(browser, tmp_path / "b.html", check.Counter()) == []
    for words in (
        "asks for https://example.org/a.js",
        "console: no",
        "formula not drawn",
        "figures not drawn",
        "wider",
        "moves nothing in: lines",
    ):
        assert any(words in fault for fault in faults), words
    assert any("picture missing" in fault for fault in faults)
    with check.Browser() as browser:
        (tmp_path / "c.html").write_text("<script>window.shoalFigures = Promise.reject(new Error('lost'))</script>")
        assert any(
            "script: Error: lost" in fault for fault in check.seen_faults(browser, tmp_path / "c.html", check.Counter())
        )
    assert not any(fault.startswith("1400 px") and "wider" in fault for fault in faults)
