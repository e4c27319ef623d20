"""Tokenizers of text: characters, bytes, byte-level byte-pair encoding (BPE), or words.

Only that of words has special tokens; text that spells one, such as ``<|endoftext|>``, is text like any other.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from shoal.errors import LabError, UserError, nearest
from shoal.models.hub import located_model
from shoal.tasks.text.bpe import ALPHABET, BytePairTokenizer, as_indices, said, train_bpe, utf8
from shoal.tasks.text.pretrained_bpe import PretrainedBytePairs, read_pretrained, stamp_of, tokenizer_files
from shoal.tasks.text.word_tokenizer import learn_words, words_from_json

KINDS = ("chars", "bytes", "bpe", "words")
_SURROGATES = range(0xD800, 0xE000)
_ALIKE = {  # typed characters for typeset ones, which Unicode does not relate
    **dict.fromkeys("‘’‚‛′´`", "'"),
    **dict.fromkeys("“”„‟″«»", '"'),
    **dict.fromkeys("‐‑‒–—―−", "-"),
}


class TextTokenizer(Protocol):
    """Tokenizer between text and tokens. ``n`` tokens are int64, ``(n,)``; ``V`` is the size of the vocabulary."""

    @property
    def kind(self) -> str:
        """Kind of tokenizer, one of :data:`KINDS`."""

    @property
    def vocabulary_size(self) -> int:
        """Size of the vocabulary V: tokens are from 0 to V − 1."""

    @property
    def key(self) -> str:
        """Key of 16 hexadecimal digits, equal for tokenizers that give every text the same tokens."""

    def encode(self, text: str) -> Tensor:
        """Tokens of a text, int64, ``(n,)``.

        Raises:
            UserError: the text has a character without tokens; names it, its place, and the nearest that has tokens.
        """

    def decode(self, tokens: Tensor | Iterable[int]) -> str:
        """Text of tokens, for people: bytes that are not UTF-8 become ``�``.

        Raises:
            UserError: a token is not from 0 to V − 1.
        """

    def decode_bytes(self, tokens: Tensor | Iterable[int]) -> bytes:
        """Bytes of UTF-8 of tokens, exactly; those of byte-level tokens may begin or end within a character.

        Raises:
            UserError: a token is not from 0 to V − 1.
        """

    def token_bytes(self) -> Tensor:
        """Number of bytes of UTF-8 of each token, int64, ``(V,)``; parts of a character count their own bytes."""

    def to_json(self) -> dict[str, Any]:
        """JSON from which :func:`from_json` makes the tokenizer; the same text gives the same in every process."""


class CharTokenizer:
    """Tokenizer with a token per character, in the order of code points.

    >>> tokenizer = CharTokenizer("abc")
    >>> tokenizer.encode("cab").tolist()
    [2, 0, 1]
    """

    kind = "chars"

    def __init__(self, characters: str) -> None:
        """Take the vocabulary: ``characters``, sorted, each once."""
        self.characters = characters
        self._points = _points(characters)

    @property
    def vocabulary_size(self) -> int:
        return len(self.characters)

    @property
    def key(self) -> str:
        return _hash(self.to_json())

    def encode(self, text: str) -> Tensor:
        points = _points(text)
        indices = np.minimum(np.searchsorted(self._points, points), self.vocabulary_size - 1)
        unknown = np.flatnonzero(self._points[indices] != points)
        if len(unknown):
            raise self._unknown(text, int(unknown[0]))
        return torch.from_numpy(indices.astype(np.int64))

    def decode(self, tokens: Tensor | Iterable[int]) -> str:
        points: bytes = self._points[as_indices(tokens, self.vocabulary_size).numpy()].tobytes()
        return points.decode("utf-32-le")

    def decode_bytes(self, tokens: Tensor | Iterable[int]) -> bytes:
        return self.decode(tokens).encode()

    def token_bytes(self) -> Tensor:
        return torch.tensor([len(character.encode()) for character in self.characters], dtype=torch.int64)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "characters": self.characters}

    def _unknown(self, text: str, place: int) -> UserError:
        before, character = text[:place], text[place]
        line, column = before.count("\n") + 1, place - before.rfind("\n")
        return UserError(
            f"character {character!r} (U+{ord(character):04X}) in line {line:,}, column {column:,} is not one of the "
            f"vocabulary's {self.vocabulary_size:,}; the nearest that is: {_nearest(character, self.characters)!r}; "
            "models of --tokenizer bytes read every text"
        )


class ByteTokenizer:
    """Tokenizer with a token per byte of UTF-8.

    >>> ByteTokenizer().encode("é").tolist()
    [195, 169]
    """

    kind = "bytes"
    vocabulary_size = ALPHABET

    @property
    def key(self) -> str:
        return _hash(self.to_json())

    def encode(self, text: str) -> Tensor:
        return torch.from_numpy(np.frombuffer(utf8(text), dtype=np.uint8).astype(np.int64))

    def decode(self, tokens: Tensor | Iterable[int]) -> str:
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def decode_bytes(self, tokens: Tensor | Iterable[int]) -> bytes:
        return as_indices(tokens, self.vocabulary_size).to(torch.uint8).numpy().tobytes()

    def token_bytes(self) -> Tensor:
        return torch.ones(self.vocabulary_size, dtype=torch.int64)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind}


def make_tokenizer(
    kind: str,
    train_text: str,
    whole_text: str,
    vocabulary_size: int | None = None,
    min_frequency: int | None = None,
) -> TextTokenizer:
    """Tokenizer for a text.

    Args:
        kind: one of :data:`KINDS`.
        train_text: text of the training split, from which ``bpe`` learns its merges.
        whole_text: text of both splits, whose characters ``chars`` has, as in nanoGPT, so that all have tokens.
        vocabulary_size: vocabulary size of ``bpe``, from 256 (bytes alone) to what the text gives; not for the others.
        min_frequency: smallest number of occurrences of a type of ``words`` in the training split; 1 when not given.

    Raises:
        UserError: the kind is unknown, the size is not possible, the text is empty, or ``tokenizers`` is missing.
    """
    if kind not in KINDS:
        raise UserError(f"unknown tokenizer {kind!r}: one of {' '.join(KINDS)}{nearest(kind, KINDS)}")
    if kind == "bpe":
        if vocabulary_size is None:
            raise UserError("tokenizer bpe needs a vocabulary_size")
        return train_bpe(train_text, vocabulary_size)
    if kind == "words" and vocabulary_size is None:
        return learn_words(train_text, min_frequency or 1)
    if vocabulary_size is not None:
        raise UserError(f"vocabulary_size is a setting of bpe; the vocabulary of {kind} has a size of its own")
    if kind == "bytes":
        return ByteTokenizer()
    if not whole_text:
        raise UserError("an empty text has no characters to make a vocabulary of")
    utf8(whole_text)
    return CharTokenizer("".join(sorted(set(whole_text))))


def read_tokenizer(path: str, key: str = "") -> TextTokenizer:
    """Tokenizer in a file, such as the ``task.json`` of a cohort, or of a folder with a GPT-2.

    Args:
        path: path of the file or folder, or name of a downloaded model (``organisation/name``).
        key: key that the tokenizer must have; any where it is empty.

    Raises:
        UserError: it cannot be read, holds none, or holds another.
    """
    try:
        place = located_model(path)
        stamp = stamp_of([*tokenizer_files(place), *place.glob("config.json")] if place.is_dir() else [place])
    except (UserError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"tokenizer {path} cannot be read: {reason}") from None
    if stamp not in _READ:
        made = read_pretrained(place) if place.is_dir() else _in_file(place)
        while len(_READ) >= _MOST_READ:
            del _READ[next(iter(_READ))]
        _READ[stamp] = made
    made = _READ[stamp]
    if key and made.key != key:
        raise UserError(f"tokenizer {path} is not the one of the run: it is {made.key}, that of the run {key}")
    return made


_READ: dict[tuple[tuple[str, int, int], ...], TextTokenizer] = {}
_MOST_READ = 8


def _in_file(path: Path) -> TextTokenizer:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"tokenizer {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or "tokenizer" not in content:
        raise UserError(f"{path} holds no tokenizer")
    return from_json(content["tokenizer"])


def from_json(content: Any) -> TextTokenizer:
    """Tokenizer from the JSON of :meth:`TextTokenizer.to_json`.

    The JSON may be someone else's: it is checked before anything of it is given to a library.

    Raises:
        LabError: it is not JSON of a tokenizer.
    """
    if not isinstance(content, Mapping):
        raise LabError(f"the tokenizer is damaged: it is no JSON object but {type(content).__name__}")
    kind = content.get("kind")
    keys = {"chars": {"characters"}, "bytes": set(), "bpe": {"merges", "trained_on"}, "words": {"types"}}
    if not isinstance(kind, str) or kind not in keys:
        raise LabError(f"the tokenizer is damaged: its kind must be one of {' '.join(KINDS)}, got {said(kind)}")
    if kind == "bpe" and set(content) == {"kind", "tokens", "merges", "special"}:
        return PretrainedBytePairs(content["tokens"], content["merges"], content["special"])
    if set(content) != {"kind"} | keys[kind]:
        raise LabError(f"the tokenizer is damaged: {kind} has {' '.join(sorted(keys[kind])) or 'nothing'} beside kind")
    if kind == "bytes":
        return ByteTokenizer()
    if kind == "bpe":
        return BytePairTokenizer(content["merges"], content["trained_on"])
    if kind == "words":
        return words_from_json(content["types"])
    characters = content["characters"]
    if not isinstance(characters, str) or not characters:
        raise LabError("the tokenizer is damaged: characters must be a text that is not empty")
    points = _points(characters).astype(np.int64)
    if (np.diff(points) <= 0).any() or any(ord(character) in _SURROGATES for character in characters):
        raise LabError("the tokenizer is damaged: characters must be in the order of code points, each once")
    return CharTokenizer(characters)


def _points(text: str) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Code points of a text, ``(n,)``."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _nearest(character: str, known: str) -> str:
    """Known character that looks most like a given one: without accent, in the other case, or near in Unicode."""
    wanted = _plain(character)

    def distance(other: str) -> tuple[bool, bool, int]:
        return _plain(other) != wanted, other.casefold() != character.casefold(), abs(ord(other) - ord(character))

    return min(known, key=distance)


def _plain(character: str) -> str:
    return unicodedata.normalize("NFKD", _ALIKE.get(character, character))[:1].casefold()
