"""Tokenizer of a text into words, which loses the kind of white space within a line and words that are no type.

A line is split as :mod:`shoal.tasks.pairs.words` has it, and its end is a token.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from shoal.errors import LabError, UserError
from shoal.tasks.pairs.words import join_words, split_words
from shoal.tasks.text.bpe import as_indices, utf8

UNK, LINE = 0, 1
SPECIALS = 2  # UNK and LINE
UNKNOWN = " <unk>"


class WordTokenizer:
    r"""Tokenizer with a token per frequent word, one for the end of a line and one for every other word.

    Attributes:
        types: the words, the most frequent first; one behind white space begins with a space.

    >>> tokenizer = WordTokenizer([" the", " cat", "."])
    >>> tokenizer.encode("the cat.\nthe dog").tolist()
    [2, 3, 4, 1, 2, 0]
    """

    kind = "words"

    def __init__(self, types: Sequence[str]) -> None:
        self.types = list(types)
        self._tokens = {name: token for token, name in enumerate(self.types, SPECIALS)}

    @property
    def vocabulary_size(self) -> int:
        return SPECIALS + len(self.types)

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def encode(self, text: str) -> Tensor:
        utf8(text)
        tokens: list[int] = []
        for number, line in enumerate(text.split("\n")):
            tokens += [LINE] * (number > 0)
            tokens += [self._tokens.get(name, UNK) for name in split_words(line)]
        return torch.tensor(tokens, dtype=torch.int64)

    def decode(self, tokens: Tensor | Iterable[int]) -> str:
        lines: list[list[str]] = [[]]
        for token in as_indices(tokens, self.vocabulary_size).tolist():
            if token == LINE:
                lines.append([])
            else:
                lines[-1].append(UNKNOWN if token == UNK else self.types[token - SPECIALS])
        first, *others = lines  # the first may go on a line, and then its space belongs to it
        return "\n".join(["".join(first), *map(join_words, others)])

    def decode_bytes(self, tokens: Tensor | Iterable[int]) -> bytes:
        return self.decode(tokens).encode()

    def token_bytes(self) -> Tensor:
        return torch.tensor([len(name.encode()) for name in (UNKNOWN, "\n", *self.types)], dtype=torch.int64)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "types": self.types}


def words_from_json(types: Any) -> WordTokenizer:
    """Tokenizer of types that may be someone else's.

    Raises:
        LabError: they are no list of texts, or one of them is empty or comes twice.
    """
    if not isinstance(types, list) or not all(isinstance(name, str) for name in types):
        raise LabError("the tokenizer is damaged: types must be a list of texts")
    if not types or "" in types or len(set(types)) < len(types):
        raise LabError("the tokenizer is damaged: a type is empty or comes twice, or there is none")
    return WordTokenizer(types)


def learn_words(text: str, min_frequency: int, most: int | None = None) -> WordTokenizer:
    """Tokenizer of the words that occur so often in a text, the training split, the most frequent first.

    Args:
        text: the training split.
        min_frequency: smallest number of occurrences of a type.
        most: largest size of the vocabulary, special tokens included.

    Raises:
        UserError: no word is so frequent.
    """
    counts = Counter(name for line in text.split("\n") for name in split_words(line))
    types = sorted((name for name, n in counts.items() if n >= min_frequency), key=lambda name: (-counts[name], name))
    if not types:
        largest = max(counts.values(), default=0)
        raise UserError(
            f"min_frequency must be at most {largest:,}, as often as a word occurs in the training split, got "
            f"{min_frequency:,}: no word would be left"
        )
    return WordTokenizer(types[: None if most is None else max(1, most - SPECIALS)])
