"""Sources of the documentation, laid out in one folder for Sphinx.

Documents of the repository are copied, with links that lead to pages of the site: a link to another document to its
page, a link to a file or folder of the repository to a page that shows it. Pages of the command line, of the Python
reference and of the notebook are made. Run as ``python docs/site/assemble.py FOLDER``.
"""

import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

from commands import command_pages, overview
from notebook import notebook_page
from reference import reference_pages

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_REMARK = re.compile(r"^(\s*)(%)")  # a line that begins so is no text to MyST, and would be missing
_FENCE = re.compile(r"^(```|~~~)", re.MULTILINE)
_PYGMENTS = {".py": "python", ".c": "c", ".toml": "toml", ".html": "html", ".js": "javascript"}

# document of the repository -> page; others of docs and docs/results keep their names
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs/ARCHITECTURE.md": "architecture.md",
    "docs/command-line.md": "command-line/guide.md",
    "docs/errata.md": "errata.md",
    "docs/gallery.md": "own-gallery-page.md",
    "docs/own-parts.md": "own-parts.md",
    "docs/practical.md": "practical.md",
    "docs/results/README.md": "results/index.md",
    "docs/speed.md": "speed.md",
    "docs/translation.md": "translation.md",
    "examples/first_grokking.ipynb": "examples/first_grokking.md",
    "examples/tidepool/README.md": "examples/tidepool.md",
    "examples/tidepool": "examples/tidepool.md",
}
# section of the README -> page
SECTIONS = {
    "Install and try": "start.md",
    "Ten worked examples": "examples/index.md",
    "Studies": "studies.md",
    "What is here": "contents.md",
    "Known limits": "limits.md",
}


class Site:
    """Folder of sources in the making.

    Args:
        folder: the folder, which is emptied.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shown: list[Path] = []  # files and folders of the repository that pages link to
        self.pages = dict(PAGES)
        for path in sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "results").rglob("*.md")]):
            name = path.relative_to(ROOT).as_posix()
            self.pages.setdefault(name, name.removeprefix("docs/"))
        for path in (ROOT / "gallery").glob("plot_*.py"):
            self.pages[f"gallery/{path.name}"] = f"gallery/{path.stem}.rst"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def write(self, page: str, text: str) -> None:
        """Write a page."""
        path = self.folder / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def document(self, name: str) -> None:
        """Copy a document of the repository."""
        page = self.pages[name]
        self.write(page, self.linked((ROOT / name).read_text("utf-8"), Path(name), page))

    def linked(self, text: str, origin: Path, page: str) -> str:
        """Markdown with its links to files of the repository led to pages; code is left as it is.

        Args:
            text: the document.
            origin: path of the document in the repository, to which its links are relative.
            page: page that it becomes.
        """
        parts, is_code = [], False
        for line in text.splitlines(keepends=True):
            is_code ^= bool(_FENCE.match(line.lstrip()))
            is_plain = not is_code and not line.startswith("    ")
            if is_plain:
                line = _REMARK.sub(r"\1\\\2", line)
                line = _LINK.sub(lambda link: self._link(link, origin, page), line)
            parts.append(line)
        return "".join(parts)

    def _link(self, link: re.Match[str], origin: Path, page: str) -> str:
        words, target = link.groups()
        address, mark, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target) or not address:
            return link[0]
        path = Path(os.path.normpath(ROOT / origin.parent / address))
        if not path.exists():
            raise SystemExit(f"{origin}: the link to {address} leads nowhere")
        name = path.relative_to(ROOT).as_posix()
        if name not in self.pages and name.startswith("docs/results/"):
            return link[0]  # a file that is copied along, at the same place
        if name not in self.pages:
            self.shown.append(path)
        where = self.pages.get(name) or _page_of(path)
        shown = words.strip("`").removesuffix("README.md").rstrip("/")
        if shown in (name.removesuffix("/README.md"), address.removesuffix("README.md").rstrip("/"), path.name):
            # a path says little to a reader of the site
            words = self._title(path, name) or words
        return f"[{words}]({os.path.relpath(where, Path(page).parent)}{mark}{anchor})"

    def _title(self, path: Path, name: str) -> str:
        """Title of the page that a document becomes; empty for other files and for folders without one."""
        path = path / "README.md" if path.is_dir() else path
        is_page = name in self.pages or path.relative_to(ROOT).as_posix() in self.pages
        found = re.match(r"# (.+)\n", path.read_text("utf-8")) if is_page and path.suffix == ".md" else None
        return found[1] if found else ""

    def show_files(self) -> None:
        """Write a page for each file or folder that is linked to."""
        done = set(self.shown)
        for path in done:
            self.write(_page_of(path), _folder_page(path) if path.is_dir() else _file_page(path))
        names = "\n".join(sorted(_page_of(path).removeprefix("files/").removesuffix(".md") for path in done))
        self.write("files/index.md", f"# Files\n\nFiles that other pages refer to.\n\n```{{toctree}}\n\n{names}\n```\n")


def _page_of(path: Path) -> str:
    return f"files/{path.relative_to(ROOT).as_posix().replace('/', '.').lstrip('.')}.md"


def _file_page(path: Path) -> str:
    name, language = path.relative_to(ROOT).as_posix(), _PYGMENTS.get(path.suffix, "text")
    return f"# {_breakable(name)}\n\n`````````{language}\n{path.read_text('utf-8')}\n`````````\n"


def _folder_page(folder: Path) -> str:
    """List of a folder's files, with the first sentence of each."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in _PYGMENTS and path.name != "__init__.py"]
    rows = "\n".join(f"| `{path.name}` | {_about(path)} |" for path in paths)
    return f"# {_breakable(folder.relative_to(ROOT).as_posix())}\n\n| file | content |\n| --- | --- |\n{rows}\n"


def _breakable(path: str) -> str:
    """Path that may be broken behind each folder, by a space of no width."""
    return path.replace("/", "/\u200b")


def _about(path: Path) -> str:
    """First sentence of a module's docstring or of a file's comment, or its title."""
    found = re.match(r'\s*(?:r?"""|/\*\s*|//\s*)(.+?)(?:"""|\*/|\n\s*\n|\n=)', path.read_text("utf-8"), re.DOTALL)
    text = " ".join(found[1].split()) if found else ""
    text = re.split(r"(?<=[a-z\d)`]\.) ", re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text))[0]
    parts = re.split(r"(`+[^`]+`+)", text)  # code is left as it is
    return "".join(part if part.startswith("`") else re.sub(r"([*_|<>\[\]$])", r"\\\1", part) for part in parts)


def sections(text: str) -> dict[str, str]:
    """Sections of a document by their titles, each with its title as the page's and headings a level up."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    raised = {
        title: re.sub(r"^##(#+ )", r"#\1", body, flags=re.MULTILINE)
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    }
    return {title: f"# {title}\n{body}" for title, body in raised.items()}


def assemble(folder: Path) -> None:
    """Write all sources into a folder."""
    site = Site(folder)
    for path in sorted((HERE / "pages").glob("*.md")):
        site.write(path.name, path.read_text("utf-8"))
    readme = sections((ROOT / "README.md").read_text("utf-8"))
    for title, page in SECTIONS.items():
        site.write(page, site.linked(readme[title], Path("README.md"), page))
    shutil.copytree(ROOT / "docs" / "results", folder / "results", ignore=shutil.ignore_patterns("*.md"))
    for name in site.pages:
        if name.endswith(".md") and name != "README.md":
            site.document(name)
    _guides(site)
    _results_index(folder / "results" / "index.md")
    notebook = notebook_page(ROOT / "examples" / "first_grokking.ipynb", folder / "examples" / "first_grokking")
    site.write(
        "examples/first_grokking.md",
        site.linked(notebook, Path("examples/first_grokking.ipynb"), "examples/first_grokking.md"),
    )
    _append(folder / "examples" / "index.md", "```{toctree}\n:hidden:\n\nfirst_grokking\ntidepool\n```\n")
    site.write("command-line/index.md", overview())
    for name, text in command_pages().items():
        site.write(f"command-line/{name}.md", text)
    for name, text in reference_pages().items():
        site.write(f"reference/{name}.rst", text)
    site.show_files()
    _scripts(folder / "_made")


def _guides(site: Site) -> None:
    """List the documents that have no place of their own in the contents behind those that have."""
    index = site.folder / "index.md"
    listed = {line.strip() for line in index.read_text("utf-8").splitlines()}
    names = [path.stem for path in sorted((ROOT / "docs").glob("*.md")) if f"docs/{path.name}" not in PAGES]
    others = "\n".join(name for name in names if name not in listed)
    index.write_text(index.read_text("utf-8").replace("<!-- guides -->", others), encoding="utf-8")


def _results_index(page: Path) -> None:
    """List of the other pages of results behind the summary."""
    names = sorted(path.relative_to(page.parent).with_suffix("").as_posix() for path in page.parent.rglob("*.md"))
    listed = "\n".join(name for name in names if name != "index")
    _append(page, f"## All pages\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n")


def _append(path: Path, text: str) -> None:
    path.write_text(f"{path.read_text('utf-8').rstrip()}\n\n{text}", encoding="utf-8")


def _scripts(folder: Path) -> None:
    """Code of figures and formulas, to lie beside the pages: nothing is fetched when one is opened."""
    import vl_convert

    (folder / "mathjax").mkdir(parents=True)
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    (folder / "vega.js").write_text(f"(() => {{{bundle}}})();\n", encoding="utf-8")  # its names stay its own
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None or package.origin is None:
        raise SystemExit("MathJax is missing: pip install sphinx-mathjax-offline")
    script = Path(package.origin).parent / "static" / "mathjax" / "tex-svg.js"
    if 'VERSION="3.' not in (text := script.read_text("utf-8")) and "3.2." not in text:
        raise SystemExit(f"{script} is not MathJax 3, which alone fetches no fonts")
    shutil.copy(script, folder / "mathjax")


if __name__ == "__main__":
    assemble(Path(sys.argv[1]))
