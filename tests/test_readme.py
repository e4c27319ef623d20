"""The README's Python runs as printed, and its files exist."""

import re
from pathlib import Path

import pytest

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
