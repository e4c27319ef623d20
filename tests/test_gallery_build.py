"""The gallery within the documentation: a page that fails, or that is not run, ends the build."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from shoal.gallery import Off, check, fresh

SITE = Path(__file__).parents[1] / "docs" / "site"
sys.path.insert(0, str(SITE))
gallery_pages = importlib.import_module("gallery_pages")
sys.path.pop(0)

PAGE = '''r"""
{title}
======

Words.
"""
from shoal.gallery import check

check("two times two", 2 * 2, {expected})
'''
GOOD, BAD = PAGE.format(title="Right ", expected=4), PAGE.format(title="Wrong ", expected=5)


def written(folder: Path, **pages: str) -> Path:
    """Folder of pages."""
    folder.mkdir()
    for name, text in pages.items():
        (folder / f"{name}.py").write_text(text, "utf-8")
    (folder / "GALLERY_HEADER.rst").write_text("Gallery\n=======\n", "utf-8")
    return folder


# ---- the table of numbers


def built(folder: Path, names: list[str], ran: list[str]) -> SimpleNamespace:
    """Application of a build whose gallery has some pages, of which some have run."""
    source = folder / "source"
    (source / "gallery").mkdir(parents=True)
    conf = {"examples_dirs": str(written(folder / "pages", **dict.fromkeys(names, GOOD))), "src_dir": str(source)}
    for name in ran:
        gallery_pages.record(conf, f"{name}.py", "before")
        check(f"number of {name}", 4, 4)
        gallery_pages.record(conf, f"{name}.py", "after")
        (source / "gallery" / f"{name}.rst").write_text(f"Page {name}\n=========\n", "utf-8")
    return SimpleNamespace(srcdir=str(source), config=SimpleNamespace(sphinx_gallery_conf=conf))


def test_the_table_has_the_numbers_of_every_page(tmp_path):
    gallery_pages.write_numbers(built(tmp_path, ["plot_01_a", "plot_02_b"], ["plot_01_a", "plot_02_b"]))
    numbers = json.loads((tmp_path / "source" / "numbers.json").read_text("utf-8"))
    assert {page: [row["name"] for row in rows] for page, rows in numbers.items()} == {
        "plot_01_a": ["number of plot_01_a"],
        "plot_02_b": ["number of plot_02_b"],
    }
    table = (tmp_path / "source" / "numbers.md").read_text("utf-8")
    assert "## Page plot_01_a" in table and "number of plot\\_02\\_b" in table


@pytest.mark.parametrize("ran", [[], ["plot_01_a"]])
def test_there_is_no_table_where_a_page_was_not_run(tmp_path, ran):
    with pytest.raises(RuntimeError, match="plot_02_b did not run"):
        gallery_pages.write_numbers(built(tmp_path, ["plot_01_a", "plot_02_b"], ran))
    assert not (tmp_path / "source" / "numbers.md").exists()


def test_there_is_no_table_with_numbers_of_a_page_that_is_gone(tmp_path):
    with pytest.raises(RuntimeError, match="plot_09_gone"):
        gallery_pages.write_numbers(built(tmp_path, ["plot_01_a"], ["plot_01_a", "plot_09_gone"]))


def test_a_number_that_is_off_is_recorded_and_raises():
    recording = fresh()
    with pytest.raises(Off):
        check("two times two", 2 * 2, 5)
    assert [made.holds for made in recording.checks] == [False]


# ---- a build

CONF = """
import sys
sys.path.insert(0, {site!r})
from conf import *
extensions = ["sphinx_gallery.gen_gallery", "gallery_pages"]
html_theme, html_static_path, html_css_files, html_js_files, html_theme_options = "basic", [], [], [], {{}}
sphinx_gallery_conf["examples_dirs"] = {pages!r}
"""


def sphinx(folder: Path, **pages: str) -> subprocess.CompletedProcess[str]:
    """Build of a site that has these pages alone, with the settings of the documentation."""
    source = folder / "source"
    (source / "_made").mkdir(parents=True)
    (source / "conf.py").write_text(CONF.format(site=str(SITE), pages=str(written(folder / "pages", **pages))), "utf-8")
    (source / "index.rst").write_text("Site\n====\n\n.. toctree::\n\n   gallery/index\n", "utf-8")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", source, folder / "html"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pages", "said"),
    [
        ({"plot_01_a": GOOD}, ""),
        ({"plot_01_a": GOOD, "plot_02_b": BAD}, "Off: two times two: got 4, expected 5"),
        ({"plot_01_a": GOOD, "page_02_b": GOOD}, "page_02_b did not run"),
    ],
    ids=["right", "off", "not run"],
)
def test_the_build_ends_where_a_page_does(tmp_path, pages, said):
    pytest.importorskip("sphinx_gallery", reason="make docs installs Sphinx")
    done = sphinx(tmp_path, **pages)
    assert (done.returncode == 0) == (not said), done.stderr
    assert said in done.stderr
    assert (tmp_path / "source" / "numbers.md").exists() == (not said)
