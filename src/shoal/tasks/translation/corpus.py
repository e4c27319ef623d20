"""Parallel text: files whose lines translate each other, identified by their content."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from shoal.errors import UserError, printable
from shoal.tasks.text.corpus import read_corpus

_MARK = "\ufeff"  # byte order mark, which UTF-8 does not need; some editors write it
FILES = ("source", "target", "valid_source", "valid_target")


@dataclass(frozen=True)
class ParallelText:
    """Parallel text of four files.

    Attributes:
        texts: their texts, by the names of :data:`FILES`.
        key: 16 hexadecimal digits of a SHA-256 over the content of the four in this order, unpacked, as
            :class:`shoal.tasks.text.corpus.Corpus` has it; neither names nor packing enter it.
    """

    texts: Mapping[str, str] = field(repr=False)
    key: str

    @cached_property
    def lines(self) -> dict[str, list[str]]:
        """Lines by the name of the file; a source has as many as its target."""
        return {name: lines_of(text) for name, text in self.texts.items()}


def read_parallel(paths: Mapping[str, str]) -> ParallelText:
    """Read four files, UTF-8 or packed UTF-8 (``.gz``), of which sources have as many lines as targets.

    Args:
        paths: their paths, by the names of :data:`FILES`.

    Raises:
        UserError: a file is missing, empty, damaged or not UTF-8 (its first such byte is named); or a source has
            another number of lines than its target.
    """
    digest, texts = hashlib.sha256(), {}
    for name in FILES:
        if Path(paths[name]).is_dir():
            raise UserError(f"{printable(paths[name])} is a folder; --{name.replace('_', '-')} is a file")
        corpus = read_corpus((paths[name],))
        digest.update(corpus.key.encode())
        texts[name] = corpus.text
    for source, target in (FILES[:2], FILES[2:]):
        _check_counts(count_lines(texts[source]), count_lines(texts[target]), paths[source], paths[target])
    return ParallelText(texts, digest.hexdigest()[:16])


def _check_counts(n: int, m: int, source: str, target: str) -> None:
    if n != m:
        raise UserError(
            f"a source and its target must have as many lines, got {n:,} in {printable(source)} and {m:,} in "
            f"{printable(target)}"
        )


def read_sides(source: str, target: str) -> tuple[list[str], list[str]]:
    """Lines of two files whose lines translate each other.

    Raises:
        UserError: as :func:`read_parallel`; or there is no line.
    """
    sources, targets = (lines_of(read_corpus((path,)).text) for path in (source, target))
    _check_counts(len(sources), len(targets), source, target)
    return sources, targets


def lines_of(text: str) -> list[str]:
    r"""Lines of a text, divided at ``\n`` alone; one that ends the text begins no line. A ``\r`` before ``\n`` is no
    part of a line, nor is a byte order mark before the first. Other line ends of ``str.splitlines``, such as U+2028 or
    a form feed, do not divide lines.

    >>> lines_of("a\nb\n") == lines_of("a\nb") == lines_of("a\r\nb\r\n") == ["a", "b"]
    True
    """
    lines = text.removeprefix(_MARK).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def count_lines(text: str) -> int:
    """Number of lines that :func:`lines_of` gives."""
    return text.count("\n") + (not text.endswith("\n") and text.removeprefix(_MARK) != "")
