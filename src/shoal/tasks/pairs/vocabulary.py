"""Vocabularies of sources and targets: special tokens first, then words, characters, numbers or byte pairs.

Text that spells a special token, such as ``<unk>``, is text like any other.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from shoal.errors import LabError, UserError, nearest
from shoal.tasks.pairs.words import join_words, split_words
from shoal.tasks.text.bpe import BytePairTokenizer, said, train_bpe, utf8

PAD, BOS, EOS, UNK = 0, 1, 2, 3
UNKNOWN = "<unk>"  # decoded text of a token of no type
MOST_TYPES = 2**24
SPECIALS = 3  # of every vocabulary: PAD, BOS and EOS


def _split_characters(line: str) -> list[str]:
    return list(line)


def _split_numbers(line: str) -> list[str]:
    return line.split()


# split of a line into types, its inverse, and true where other text has the token UNK
_KINDS: Mapping[str, tuple[Callable[[str], list[str]], Callable[[Iterable[str]], str], bool]] = {
    "words": (split_words, join_words, True),
    "chars": (_split_characters, "".join, True),
    "letters": (_split_characters, "".join, False),
    "numbers": (_split_numbers, " ".join, False),
}


class Vocabulary(Protocol):
    """Vocabulary between lines of text and tokens; it adds neither BOS nor EOS."""

    @property
    def size(self) -> int:
        """Size of the vocabulary V: tokens are from 0 to V − 1, special ones included."""

    @property
    def key(self) -> str:
        """Key of 16 hexadecimal digits, equal for vocabularies that give every line the same tokens."""

    def encode(self, line: str) -> list[int]:
        """Tokens of a line.

        Raises:
            UserError: a part of the line has no token.
        """

    def decode(self, tokens: Iterable[int]) -> str:
        """Line of tokens up to the first EOS; PAD and BOS are skipped.

        Raises:
            UserError: a token is not from 0 to V − 1.
        """

    def to_json(self) -> dict[str, Any]:
        """JSON from which :func:`vocabulary_from_json` makes the vocabulary."""


class Types:
    """Vocabulary of listed types, in the order of their tokens.

    Attributes:
        kind: ``words`` (:mod:`shoal.tasks.pairs.words`), ``chars``, which have UNK, and ``letters`` and ``numbers``
            (between white space), which have none.
        types: the types, each once.
    """

    def __init__(self, kind: str, types: Sequence[str]) -> None:
        self.kind, self.types = kind, list(types)
        self._split, self._join, self.has_unknown = _KINDS[kind]
        self.first = SPECIALS + self.has_unknown
        self._tokens = {name: token for token, name in enumerate(self.types, self.first)}

    @property
    def size(self) -> int:
        return self.first + len(self.types)

    @property
    def key(self) -> str:
        return _hash(self.to_json())

    def encode(self, line: str) -> list[int]:
        utf8(line)
        if self.has_unknown:
            return [self._tokens.get(name, UNK) for name in self._split(line)]
        tokens = [self._tokens.get(name, -1) for name in self._split(line)]
        if -1 in tokens:
            wrong = self._split(line)[tokens.index(-1)]
            raise UserError(f"{wrong!r:.100} is not in the vocabulary{nearest(wrong, self.types)}")
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        text_tokens = meant(tokens, self.size)
        return self._join(self._name(token) for token in text_tokens)

    def _name(self, token: int) -> str:
        if token >= self.first:
            return self.types[token - self.first]
        return f" {UNKNOWN}" if self.kind == "words" else UNKNOWN

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "types": self.types}


class BytePairs:
    """Vocabulary of byte-level byte pairs behind the special tokens; it encodes every line, and decodes it exactly.

    Attributes:
        tokenizer: see :class:`shoal.tasks.text.bpe.BytePairTokenizer`.
    """

    kind = "bpe"

    def __init__(self, tokenizer: BytePairTokenizer) -> None:
        self.tokenizer = tokenizer

    @property
    def size(self) -> int:
        return SPECIALS + self.tokenizer.vocabulary_size

    @property
    def key(self) -> str:
        return self.tokenizer.key

    def encode(self, line: str) -> list[int]:
        return [token + SPECIALS for token in self.tokenizer.encode(line).tolist()]

    def decode(self, tokens: Iterable[int]) -> str:
        return self.tokenizer.decode([token - SPECIALS for token in meant(tokens, self.size)])

    def to_json(self) -> dict[str, Any]:
        return self.tokenizer.to_json()


def meant(tokens: Iterable[int], size: int) -> list[int]:
    """Text tokens of a row: those up to the first EOS, without PAD and BOS.

    Raises:
        UserError: a token is not from 0 to ``size`` − 1.
    """
    text_tokens = []
    for token in map(int, tokens):
        if not 0 <= token < size:
            raise UserError(f"token {token} is not in the vocabulary: from 0 to {size - 1:,}")
        if token == EOS:
            break
        if token not in (PAD, BOS):
            text_tokens.append(token)
    return text_tokens


def learn_vocabulary(
    kind: str, lines: Sequence[str], vocabulary_size: int | None = None, min_frequency: int | None = None
) -> Vocabulary:
    """Vocabulary learned from the training split's lines.

    Types of ``words`` are in the order of their frequency, the most frequent first and equally frequent ones by code
    points; ``chars`` by code points.

    Args:
        kind: ``words``, ``chars`` or ``bpe``.
        lines: lines of the training split alone.
        vocabulary_size: number of byte pairs for ``bpe``, largest number of types for ``words``; special tokens come
            on top.
        min_frequency: smallest number of occurrences of a type for ``words``; 1 when not given.

    Raises:
        UserError: the size is not possible, no type is so frequent, or ``tokenizers`` is missing.
    """
    if kind == "bpe":
        assert vocabulary_size is not None
        return BytePairs(train_bpe("\n".join(lines), vocabulary_size))
    if kind == "chars":
        characters = sorted({character for line in lines for character in line})
        if not characters:
            raise UserError("a vocabulary of chars needs at least one character in the training split, which has none")
        return Types(kind, characters)
    counts = Counter(name for line in lines for name in split_words(line))
    frequent = [name for name, n in counts.items() if n >= (min_frequency or 1)]
    if not frequent:
        most = max(counts.values(), default=0)
        raise UserError(
            f"min_frequency must be at most {most:,}, as often as a word occurs in the training split, got "
            f"{min_frequency or 1:,}: no word would be left"
            if most
            else "a vocabulary of words needs at least one word in the training split, which has none"
        )
    if vocabulary_size is not None and vocabulary_size > len(frequent):
        raise UserError(
            f"vocabulary_size of words must be at most {len(frequent):,}, the types that occur {min_frequency or 1} "
            f"times in the training split, got {vocabulary_size:,}"
        )
    return Types(kind, sorted(frequent, key=lambda name: (-counts[name], name))[:vocabulary_size])


def vocabulary_from_json(content: Any) -> Vocabulary:
    """Vocabulary from the JSON of :meth:`Vocabulary.to_json`, which is checked, as it may be someone else's.

    Raises:
        LabError: it is no vocabulary.
    """
    if not isinstance(content, Mapping):
        raise LabError(f"the vocabulary is damaged: it is no JSON object but {type(content).__name__}")
    kind = content.get("kind")
    if kind == "bpe" and set(content) == {"kind", "merges", "trained_on"}:
        return BytePairs(BytePairTokenizer(content["merges"], content["trained_on"]))
    if not isinstance(kind, str) or kind not in _KINDS or set(content) != {"kind", "types"}:
        known = " ".join([*_KINDS, "bpe"])
        raise LabError(f"the vocabulary is damaged: its kind must be one of {known}, with its types, got {said(kind)}")
    types = content["types"]
    if not isinstance(types, list) or len(types) > MOST_TYPES or not all(isinstance(name, str) for name in types):
        raise LabError(f"the vocabulary is damaged: types must be a list of at most {MOST_TYPES:,} texts")
    if "" in types or len(set(types)) < len(types):
        raise LabError("the vocabulary is damaged: a type is empty or comes twice")
    return Types(kind, types)


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
