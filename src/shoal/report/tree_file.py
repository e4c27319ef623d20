"""The tree of a beam search as one file: a page, a picture, text or data."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from shoal.decoding.tree import BeamTree
from shoal.errors import UserError, nearest, printable
from shoal.lab.around import are_same, check_outside_labs
from shoal.lab.files import write
from shoal.report.beam import beam_tree
from shoal.report.figures import Figure
from shoal.report.page import FIGURE_FILES, Report, Section, check_drawing, drawn, lone_page

ENDINGS = ("html", *FIGURE_FILES, "txt", "json")
MOST_TREE_STEPS = 100  # of a picture: a step takes 150 pixels, and renderers give up at some width
_SPELLED = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def check_tree_file(path: str, lab: str | Path | None = None, kept: Iterable[str | Path] = ()) -> str:
    """Ending of the file that a tree is written to, without its dot.

    Args:
        path: of the file; one that is there would be written over.
        lab: a folder in which nothing may be written over, beside every folder that says that it is a lab.
        kept: files that may not be written over, such as those that are read.

    Raises:
        UserError: it is none of :data:`ENDINGS`, there can be no such file, or there is something that must stay.
    """
    ending = Path(path).suffix.removeprefix(".")
    if ending not in ENDINGS:
        known = [f".{name}" for name in ENDINGS]
        raise UserError(
            f"a tree is written to a file that ends in one of {' '.join(known)}, got {printable(path)!r}"
            f"{nearest(f'.{ending}', known) if ending else ''}"
        )
    if not Path(path).parent.is_dir():
        raise UserError(f"there is no folder {printable(str(Path(path).parent))!r} to write {printable(path)!r} to")
    if Path(path).is_dir():
        raise UserError(f"{printable(path)!r} is a folder, and not a file that a tree could be written to")
    check_outside_labs(path, lab, "tree")
    if any(are_same(path, file) for file in kept):
        raise UserError(f"{printable(path)!r} is read, and a tree would be written over it: name another file")
    if ending in ("html", *FIGURE_FILES):
        check_drawing()
    return ending


def write_tree(path: str, tree: BeamTree, title: str, names: Sequence[str], root: str = "BOS") -> None:
    """Write the tree of one prompt; a file that is there is written over.

    Args:
        path: see :func:`check_tree_file`.
        tree: the candidates of the search.
        title: of the picture.
        names: of the tokens, by index, see :func:`token_names`.
        root: label of the prompt.

    Raises:
        UserError: there can be no such file, or no picture of so many steps.
        DiskError: it cannot be written.
    """
    ending = check_tree_file(path)
    if ending == "txt":
        content = f"{tree.text(names, root)}\n".encode()
    elif ending == "json":
        document = {"title": title, "root": root, "steps": tree.steps, "why": tree.why, "candidates": tree.rows(names)}
        content = json.dumps(document, ensure_ascii=False, indent=1).encode()
    else:
        content = _drawn(ending, tree, title, names, root)
    write(Path(path), content)


def _drawn(ending: str, tree: BeamTree, title: str, names: Sequence[str], root: str) -> bytes:
    if tree.steps > MOST_TREE_STEPS:
        raise UserError(
            f"a picture shows a tree of {MOST_TREE_STEPS} steps at most, and this one has {tree.steps}: write it to a "
            "file that ends in .txt or .json, or ask for fewer --max-new-tokens"
        )
    about = (
        "Over the line to each node its token, with the log probability (nats) of the whole hypothesis. "
        f"{tree.steps} step{'s' * (tree.steps != 1)}: {tree.why}."
    )
    figure = Figure("tree", beam_tree(tree, title, names, root), about)
    if ending == "html":
        return lone_page(Report("A beam search", title, [Section("What it looked at", (), [figure])])).encode()
    return drawn(figure, [ending])[ending]


def token_names(size: int, decode: Callable[[list[int]], str], special: Sequence[str] = ()) -> list[str]:
    """Names of tokens in a picture, by index: their text with visible signs for blanks.

    Args:
        size: of the vocabulary.
        decode: the text of tokens.
        special: names of the first tokens, which have no text.
    """
    texts = [decode([token]) for token in range(len(special), size)]
    named = [_visible(text) if text and "�" not in text else f"#{at}" for at, text in enumerate(texts, len(special))]
    return [*special, *named]


def _visible(text: str) -> str:
    shown = printable("".join(_SPELLED.get(sign, sign) for sign in text))
    return f'"{shown}"' if shown.strip() != shown else shown
