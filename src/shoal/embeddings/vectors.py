"""Word vectors that were read for some words.

``n`` rows of width ``E``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.errors import UserError

Rows = npt.NDArray[np.float32]
SHOWN = 3  # examples of a list that is too long to print


@dataclass(frozen=True)
class Vectors:
    """Word vectors of the asked words.

    Attributes:
        rows: ``(n, E)`` float32, finite.
        index: row of each word that has one.
        composed: row of each word that is made of several pieces of a tokenizer; the mean of the pieces' rows.
        key: 16 hexadecimal digits of a SHA-256 of the whole content, asked for or not.
        form: name of the file's form, such as ``word2vec binary``.
        total: number of words in the file.
        repeated: words that come more than once and whose first row counts, with both places.
        skipped: number of words that are not UTF-8 and were left out.
        has_pieces: true where words that are not in the vocabulary can be made of pieces.
    """

    rows: Rows
    index: Mapping[str, int]
    key: str
    form: str
    total: int
    composed: Mapping[str, int] = field(default_factory=dict)
    repeated: Sequence[str] = ()
    skipped: int = 0
    has_pieces: bool = False

    @property
    def width(self) -> int:
        """Number of values of a row, ``E``."""
        return int(self.rows.shape[1])

    def notes(self) -> list[str]:
        """Sentences on words that come twice or were left out; empty where there are none."""
        out = []
        if self.repeated:
            more = f" and {len(self.repeated) - SHOWN:,} more" if len(self.repeated) > SHOWN else ""
            out.append(f"of words that come twice the first row counts: {', '.join(self.repeated[:SHOWN])}{more}")
        if self.skipped:
            out.append(f"{self.skipped:,} words that are not UTF-8 were left out")
        return out


class Collector:
    """Collector of the rows of asked words, in the order in which a file has them.

    Args:
        name: name of the file, for errors.
        words: the asked words.
        undecodable: ``refuse`` or ``skip`` words that are not UTF-8.
    """

    def __init__(self, name: str, words: Sequence[str] | set[str], undecodable: str = "refuse") -> None:
        self.name, self.undecodable = name, undecodable
        self._asked = {word.encode("utf-8", "surrogatepass"): word for word in words}
        self._rows: list[Rows] = []
        self._index: dict[str, int] = {}
        self._places: dict[str, str] = {}
        self.repeated: list[str] = []
        self.skipped = self.total = 0

    def takes(self, word: bytes, place: str) -> bool:
        """Return True if the row of a word is asked for and is its first; every word of the file is counted.

        Raises:
            UserError: the word is empty, or not UTF-8 where that is refused.
        """
        self.total += 1
        name = self._asked.get(word)
        if name is None:
            self._check(word, place)
            return False
        if name in self._places:
            self.repeated.append(f"{name!r} ({self._places[name]} and {place})")
            return False
        self._places[name] = place
        return True

    def _check(self, word: bytes, place: str) -> None:
        if not word:
            raise UserError(f"{self.name} has no word in {place}")
        try:
            word.decode("utf-8")
        except UnicodeDecodeError as error:
            if self.undecodable != "skip":
                raise UserError(
                    f"{self.name} has a word in {place} that is not UTF-8: {word!r}, byte 0x{word[error.start]:02x}; "
                    "embedding_undecodable=skip leaves such words out"
                ) from None
            self.skipped += 1

    def add(self, word: bytes, row: Rows, place: str) -> None:
        """Add the row of a word, ``(E,)``.

        Raises:
            UserError: a value is not finite.
        """
        if not np.isfinite(row).all():
            value = row[~np.isfinite(row)][0]
            raise UserError(f"{self.name} has the value {value} in {place}; values must be finite")
        name = self._asked[word]
        self._index[name] = len(self._rows)
        self._rows.append(row)

    def vectors(self, width: int, key: str, form: str) -> Vectors:
        """Vectors that were collected."""
        rows: Any = np.stack(self._rows) if self._rows else np.zeros((0, width), np.float32)
        return Vectors(rows, self._index, key, form, self.total, repeated=self.repeated, skipped=self.skipped)
