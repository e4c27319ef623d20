"""Byte-level byte-pair encoding, trained and applied by the ``tokenizers`` library.

Sources: Sennrich, Haddow and Birch 2016, "Neural Machine Translation of Rare Words with Subword Units"; Radford et al.
2019 (GPT-2) for bytes as the alphabet and for the pattern that divides a text before pairs are merged: within words,
numbers, punctuation and white space, a space belonging to what follows.

Tokens 0 to 255 are the bytes; then comes a token per merge that makes a new one. So a list of pairs of tokens defines
the tokenizer, the library is given nothing else, and decoding does not need it.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shoal.errors import LabError, UserError

ALPHABET = 256
MOST_TOKENS = 2**20
LONGEST_TOKEN = 2**10  # bytes; a few merges of a token with itself would make gigabytes
MOST_TOKEN_BYTES = 2**26  # of all tokens together
PIECE = 2**20  # characters of one call of the library
CUT = re.compile(r"(?<=[A-Za-z.,;:!?])(?=[ \n])")  # where the pattern always divides, whatever stands around


class BytePairTokenizer:
    """Byte-level BPE tokenizer, given by its merges.

    Attributes:
        merges: pairs of tokens in the order of their priority.
        trained_on: 16 hexadecimal digits of the SHA-256 of the text that the merges were learned from.
    """

    kind = "bpe"

    def __init__(self, merges: Any, trained_on: Any) -> None:
        """Take the attributes, which are checked.

        Raises:
            LabError: they cannot come from training.
        """
        if not isinstance(trained_on, str) or not re.fullmatch("[0-9a-f]{16}", trained_on):
            raise LabError(
                f"the tokenizer is damaged: trained_on must be 16 hexadecimal digits, got {trained_on!r:.200}"
            )
        self._tokens = _tokens_of(merges)
        self.merges = [(int(first), int(second)) for first, second in merges]
        self.trained_on = trained_on
        self._library: Any = None

    @property
    def vocabulary_size(self) -> int:
        return len(self._tokens)

    @property
    def key(self) -> str:
        content = json.dumps({"kind": self.kind, "merges": self.merges}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def encode(self, text: str) -> Tensor:
        utf8(text)
        if self._library is None:
            self._library = _build(self._tokens, self.merges)
        pieces = [np.array(self._library.encode(piece).ids, dtype=np.int64) for piece in pieces_of(text)]
        return torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *pieces]))

    def decode(self, tokens: Tensor | Iterable[int]) -> str:
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def decode_bytes(self, tokens: Tensor | Iterable[int]) -> bytes:
        return b"".join([self._tokens[token] for token in as_indices(tokens, self.vocabulary_size).tolist()])

    def token_bytes(self) -> Tensor:
        return torch.tensor([len(token) for token in self._tokens], dtype=torch.int64)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "merges": [list(pair) for pair in self.merges], "trained_on": self.trained_on}


def train_bpe(text: str, vocabulary_size: int) -> BytePairTokenizer:
    """Train a tokenizer: merge the most frequent pair of tokens until there are ``vocabulary_size`` tokens.

    Equally frequent pairs are ordered by the library's order of tokens; processes and threads have no influence.

    Raises:
        UserError: the size is below 256 or above :data:`MOST_TOKENS` or what the text gives; ``tokenizers`` is missing.
    """
    if not isinstance(vocabulary_size, int):
        raise UserError(f"vocabulary_size must be an integer, got {vocabulary_size!r}")
    if not ALPHABET <= vocabulary_size <= MOST_TOKENS:
        allowed = f"from {ALPHABET} (the alphabet, of all bytes) to {MOST_TOKENS:,}"
        raise UserError(f"vocabulary_size of bpe must be {allowed}, got {vocabulary_size:,}")
    content = utf8(text)
    library = import_library()
    trained = library.Tokenizer(library.models.BPE())
    trained.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=1,
        initial_alphabet=sorted(SIGNS),
        special_tokens=[],
        max_token_length=LONGEST_TOKEN,
        show_progress=False,
    )
    trained.train_from_iterator(pieces_of(text), trainer)
    merges = _as_indices_of_bytes(json.loads(trained.to_str())["model"]["merges"])
    tokenizer = BytePairTokenizer(merges, hashlib.sha256(content).hexdigest()[:16])
    if tokenizer.vocabulary_size < vocabulary_size:
        raise UserError(
            f"vocabulary_size of bpe must be at most {tokenizer.vocabulary_size:,}, which is all that this text gives, "
            f"got {vocabulary_size:,}"
        )
    return tokenizer


def as_indices(tokens: Tensor | Iterable[int], vocabulary_size: int) -> Tensor:
    """Tokens on the CPU, int64, ``(n,)``; :class:`UserError` where one is not from 0 to V − 1."""
    if not isinstance(tokens, Tensor):
        tokens = torch.tensor(list(tokens), dtype=torch.int64)
    tokens = tokens.detach().reshape(-1).to("cpu", torch.int64)
    wrong = tokens[(tokens < 0) | (tokens >= vocabulary_size)]
    if len(wrong):
        raise UserError(f"token {int(wrong[0])} is not in the vocabulary: from 0 to {vocabulary_size - 1:,}")
    return tokens


def utf8(text: str) -> bytes:
    """UTF-8 of a text; :class:`UserError` names the first half of a surrogate pair in it, which has none."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        place = error.start
        raise UserError(f"character {text[place]!r} at offset {place:,} is half of a pair and no text") from None


def said(value: Any) -> str:
    """Description of a value of foreign JSON, short enough for a message."""
    return f"{value!r:.100}" if isinstance(value, str) else type(value).__name__


def _signs() -> str:
    """Characters by which the library's byte-level vocabularies write the bytes, in the order of bytes.

    Printable ones stand for themselves, the others for those from U+0100 on, in their order (GPT-2's
    ``bytes_to_unicode``).
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(ALPHABET, 2 * ALPHABET))
    return "".join(chr(byte if byte in printable else next(others)) for byte in range(ALPHABET))


SIGNS = _signs()
_BYTES = {sign: byte for byte, sign in enumerate(SIGNS)}


def _tokens_of(merges: Any) -> list[bytes]:
    """Bytes of every token."""
    if not isinstance(merges, list) or len(merges) > MOST_TOKENS:
        raise LabError(f"the tokenizer is damaged: merges must be a list of at most {MOST_TOKENS:,} pairs")
    tokens = [bytes([byte]) for byte in range(ALPHABET)]
    known, pairs, total = set(tokens), set(), 0
    for place, pair in enumerate(merges):
        if not _is_pair(pair, len(tokens)) or tuple(pair) in pairs:
            raise LabError(f"the tokenizer is damaged: merge {place:,} is no new pair of tokens that are there by then")
        token = tokens[pair[0]] + tokens[pair[1]]
        pairs.add(tuple(pair))
        if len(token) > LONGEST_TOKEN or total > MOST_TOKEN_BYTES:
            raise LabError(f"the tokenizer is damaged: the token of merge {place:,} is too long")
        if token not in known:  # two pairs may make the same, as a+bc and ab+c do
            tokens.append(token)
            known.add(token)
            total += len(token)
    return tokens


def _is_pair(pair: Any, tokens: int) -> bool:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return False
    return all(type(token) is int and 0 <= token < tokens for token in pair)


def _as_indices_of_bytes(merges: Iterable[tuple[str, str]]) -> list[tuple[int, int]]:
    """Merges as pairs of tokens, from the library's pairs of texts."""
    indices = dict(_BYTES)
    pairs = []
    for first, second in merges:
        pairs.append((indices[first], indices[second]))
        indices.setdefault(first + second, len(indices))
    return pairs


def _build(tokens: list[bytes], merges: list[tuple[int, int]]) -> Any:
    """Tokenizer of the library that has these tokens under these numbers."""
    library = import_library()
    signs = ["".join(SIGNS[byte] for byte in token) for token in tokens]
    vocabulary = {sign: token for token, sign in enumerate(signs)}
    model = library.models.BPE(vocab=vocabulary, merges=[(signs[first], signs[second]) for first, second in merges])
    built = library.Tokenizer(model)
    built.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return built


def pieces_of(text: str) -> Iterator[str]:
    """Pieces of a text, cut where tokens always end, so that their tokens are those of the whole text."""
    start = 0
    while len(text) - start > PIECE:
        match = CUT.search(text, start + PIECE)
        end = match.start() if match else len(text)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def import_library() -> Any:
    """Import the library, on one thread by default: it warns in forked processes once it has used several."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import tokenizers
    except ImportError:
        raise UserError("tokenizer bpe needs the tokenizers library: pip install 'shoal[text]'") from None
    return tokenizers
