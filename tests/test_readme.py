"""The README's Python runs as printed, and its files exist."""

import re
from pathlib import Path

import pytest
from typing_in import specs_of

import shoal

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("README.md", "docs/translation.md", "docs/practical.md", "docs/hmm.md")
BLOCKS = {page: re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), flags=re.DOTALL) for page in PAGES}


LEAST = {"README.md": 3, "docs/translation.md": 1, "docs/practical.md": 2, "docs/hmm.md": 1}


@pytest.mark.parametrize(("page", "least"), LEAST.items())
def test_the_python_examples_run_in_order(page, least, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS[page]) >= least
    exec("\n".join(BLOCKS[page]), {})


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/ARCHITECTURE.md",
        "docs/results/sanity.md",
        "docs/own-parts.md",
        "docs/translation.md",
        "docs/practical.md",
        "docs/hmm.md",
        "examples/tidepool/README.md",
    ],
)
def test_links_lead_somewhere(name):
    path = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{name}: {target}"


def test_every_command_in_the_readme_exists():
    from shoal.cli import COMMANDS

    used = set(re.findall(r"shoal ([a-z]+)(?= )", " ".join(re.findall(r"^\$ (.*)$", README, flags=re.MULTILINE))))
    assert used
    assert used <= set(COMMANDS)


def test_ids_in_the_readme_are_those_of_its_runs():
    grids = re.findall(r"^\$ shoal train (--model lstm gpt .*)$", README, flags=re.MULTILINE)
    first = [spec.id[:4] for spec in specs_of(*grids[0].split())]
    named = re.findall(r"^\$ shoal (?:label|delete|certify) ([0-9a-f]{4,})", README, flags=re.MULTILINE)
    assert len(named) == 3 and {*named} <= {*first} and named[0] == first[0]
    (lines,) = (block for block in BLOCKS["README.md"] if "weight_decay=[0.25, 1.0]" in block)
    specs = eval(re.search(r"shoal\.grid\(.*\]\)", lines)[0], {"shoal": shoal, "base": base_of(lines)})
    assert re.findall(r'records\["([0-9a-f]{4})"\]', README) == [specs[0].id[:4]]


def base_of(lines):
    """The spec that a block of the README begins with."""
    return eval(re.search(r"shoal\.RunSpec\(.*\)", lines)[0], {"shoal": shoal})
