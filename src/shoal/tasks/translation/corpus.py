"""Parallel text: files of which line n of one says what line n of the other says, identified by what they say."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shoal.errors import UserError, printable
from shoal.tasks.text.corpus import read_corpus

FILES = ("source", "target", "valid_source", "valid_target")


@dataclass(frozen=True)
class ParallelText:
    """Lines of four files.

    Attributes:
        lines: by the name of :data:`FILES`; those of a source are as many as those of its target.
        key: 16 hexadecimal digits of a SHA-256 over the content of the four in this order, unpacked, as
            :class:`shoal.tasks.text.corpus.Corpus` has it; neither names nor packing enter it.
    """

    lines: Mapping[str, list[str]] = field(repr=False)
    key: str


def read_parallel(paths: Mapping[str, str]) -> ParallelText:
    """The lines of four files, UTF-8 or packed UTF-8 (``.gz``).

    Args:
        paths: by the names of :data:`FILES`.

    Raises:
        UserError: a file is missing, empty, damaged or not UTF-8 (its first such byte is named); or a source has
            another number of lines than its target.
    """
    digest, lines = hashlib.sha256(), {}
    for name in FILES:
        if Path(paths[name]).is_dir():
            raise UserError(f"{printable(paths[name])} is a folder; --{name.replace('_', '-')} is a file")
        corpus = read_corpus((paths[name],))
        digest.update(corpus.key.encode())
        lines[name] = lines_of(corpus.text)
    for source, target in (FILES[:2], FILES[2:]):
        _check_counts(len(lines[source]), len(lines[target]), paths[source], paths[target])
    return ParallelText(lines, digest.hexdigest()[:16])


def _check_counts(n: int, m: int, source: str, target: str) -> None:
    if n != m:
        raise UserError(
            f"a source and its target must have as many lines, got {n:,} in {printable(source)} and {m:,} in "
            f"{printable(target)}"
        )


def read_sides(source: str, target: str) -> tuple[list[str], list[str]]:
    """The lines of two files, of which each line of one says what that of the other says.

    Raises:
        UserError: as :func:`read_parallel`; or there is no line.
    """
    sources, targets = (lines_of(read_corpus((path,)).text) for path in (source, target))
    _check_counts(len(sources), len(targets), source, target)
    return sources, targets


def lines_of(text: str) -> list[str]:
    r"""The lines of a text, divided at ``\n`` alone; one that ends the text begins no line, and ``\r`` before it is no
    part of one. What ``str.splitlines`` takes for line ends besides, such as U+2028 or a form feed, stands in lines.

    >>> lines_of("a\nb\n") == lines_of("a\nb") == lines_of("a\r\nb\r\n") == ["a", "b"]
    True
    """
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
