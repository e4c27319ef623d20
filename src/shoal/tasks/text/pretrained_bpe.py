"""Byte-level BPE of a pretrained model: the vocabulary and merges of a folder with GPT-2's tokenizer.

Source: Radford et al. 2019. Read from ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``, as the library
transformers writes them; tokens have the model's numbers, so that its embeddings are used as they were trained. Special
tokens that a text spells, such as ``<|endoftext|>``, are those tokens, as in that library.
"""

import hashlib
import json
import stat
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shoal.errors import LabError, UserError, printable
from shoal.tasks.text.bpe import (
    ALPHABET,
    CUT,
    LONGEST_TOKEN,
    MOST_TOKEN_BYTES,
    MOST_TOKENS,
    SIGNS,
    as_indices,
    import_library,
    pieces_of,
    utf8,
)

FILES = ("tokenizer.json", "vocab.json", "merges.txt")
_LARGEST = 2**28  # bytes of a file
_BYTES = {sign: byte for byte, sign in enumerate(SIGNS)}
# parts of a tokenizer.json that change no token where they are these
_PLAIN: Mapping[str, Mapping[str, Any]] = {
    "model": {"type": "BPE", "dropout": None, "continuing_subword_prefix": "", "end_of_word_suffix": ""},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
}
_OF_ADDED = ("single_word", "lstrip", "rstrip")


class PretrainedBytePairs:
    """Byte-level BPE with the numbers of a pretrained model.

    Attributes:
        tokens: tokens by number, in the signs that stand for bytes; special ones in their own characters, and None for
            numbers of the model that no text has.
        merges: pairs of tokens in the order of their priority.
        special: numbers of the special tokens.
    """

    kind = "bpe"

    def __init__(self, tokens: Any, merges: Any, special: Any) -> None:
        """Take the attributes, which are checked.

        Raises:
            LabError: they are those of no such tokenizer.
        """
        _check(tokens, merges, special)
        self.tokens: list[str | None] = list(tokens)
        self.merges = [(int(first), int(second)) for first, second in merges]
        self.special = sorted(int(token) for token in special)
        self._library: Any = None

    @property
    def vocabulary_size(self) -> int:
        return len(self.tokens)

    @cached_property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def _token_bytes(self) -> list[bytes]:
        special = set(self.special)
        return [
            (text or "").encode() if token in special else bytes(_BYTES[sign] for sign in text or "")
            for token, text in enumerate(self.tokens)
        ]

    def encode(self, text: str) -> Tensor:
        utf8(text)
        if self._library is None:
            self._library = self._build()
        whole = any(CUT.search(str(self.tokens[token])) for token in self.special)  # a cut could divide it
        pieces = [text] if whole else pieces_of(text)
        tokens = [np.array(self._library.encode(piece, add_special_tokens=False).ids, np.int64) for piece in pieces]
        return torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *tokens]))

    def decode(self, tokens: Tensor | Iterable[int]) -> str:
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def decode_bytes(self, tokens: Tensor | Iterable[int]) -> bytes:
        return b"".join([self._token_bytes[token] for token in as_indices(tokens, self.vocabulary_size).tolist()])

    def token_bytes(self) -> Tensor:
        return torch.tensor([len(token) for token in self._token_bytes], dtype=torch.int64)

    def to_json(self) -> dict[str, Any]:
        merges = [list(pair) for pair in self.merges]
        return {"kind": self.kind, "tokens": self.tokens, "merges": merges, "special": self.special}

    def _build(self) -> Any:
        """Tokenizer of the library that has these tokens under these numbers."""
        library = import_library()
        vocabulary = {text: token for token, text in enumerate(self.tokens) if text is not None}
        merges = [(self.tokens[first], self.tokens[second]) for first, second in self.merges]
        built = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=merges))
        built.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        named = [library.AddedToken(self.tokens[token], normalized=False, special=True) for token in self.special]
        built.add_special_tokens(named)
        return built


def _check(tokens: Any, merges: Any, special: Any) -> None:
    """Raise :class:`LabError` where these are of no byte-level tokenizer."""
    if not isinstance(tokens, list) or not ALPHABET <= len(tokens) <= MOST_TOKENS:
        raise _damaged(f"it must be a list of {ALPHABET} to {MOST_TOKENS:,} tokens")
    if not isinstance(special, list) or not all(_is_number(token, len(tokens)) for token in special):
        raise _damaged("its special tokens must be numbers of tokens")
    _check_tokens(tokens, set(special))
    if not isinstance(merges, list) or len(merges) > MOST_TOKENS:
        raise _damaged(f"its merges must be a list of at most {MOST_TOKENS:,} pairs")
    known = set(tokens)
    for place, pair in enumerate(merges):
        is_pair = isinstance(pair, list | tuple) and len(pair) == 2
        if not is_pair or not all(_is_number(token, len(tokens)) and tokens[token] is not None for token in pair):
            raise _damaged(f"merge {place:,} is no pair of its tokens")
        if tokens[pair[0]] + tokens[pair[1]] not in known:
            raise _damaged(f"merge {place:,} makes no token")


def _check_tokens(tokens: Sequence[Any], special: Set[int]) -> None:
    """Raise :class:`LabError` where a token has no text that it can have, or a byte no token."""
    named = [text for text in tokens if text is not None]
    if not all(isinstance(text, str) and 0 < len(text) <= LONGEST_TOKEN for text in named):
        raise _damaged(f"its tokens must be texts of 1 to {LONGEST_TOKEN:,} signs")
    known = set(named)
    if len(known) < len(named) or sum(map(len, named)) > MOST_TOKEN_BYTES:
        raise _damaged("a token is there twice, or they are too long together")
    if any(tokens[token] is None for token in special):
        raise _damaged("a special token has no text")
    for token, text in enumerate(tokens):
        if text is not None and token not in special and not _BYTES.keys() >= set(text):
            raise _damaged(f"token {token:,}, {printable(text)!r:.60}, is not made of bytes")
    if lacking := [byte for byte, sign in enumerate(SIGNS) if sign not in known]:
        raise _damaged(f"it has no token for byte {lacking[0]}")


def _damaged(why: str) -> LabError:
    return LabError(f"the tokenizer is damaged: {why}")


def _is_number(token: Any, n: int) -> bool:
    return type(token) is int and 0 <= token < n


# files


def tokenizer_files(folder: Path) -> list[Path]:
    """Files of a folder that its tokenizer is read from; none where it has no tokenizer of byte pairs."""
    for names in (FILES[:1], FILES[1:]):
        if all((folder / name).is_file() for name in names):
            return [folder / name for name in names]
    return []


def read_pretrained(folder: Path) -> PretrainedBytePairs:
    """Tokenizer of a folder with a model of GPT-2's architecture, with as many tokens as its ``config.json`` says.

    Raises:
        UserError: there is none, or one that is no byte-level BPE as GPT-2's.
    """
    files = tokenizer_files(folder)
    if not files:
        raise UserError(f"{folder} has no tokenizer: neither {FILES[0]} nor {' and '.join(FILES[1:])}")
    if len(files) == 1:
        vocabulary, merges, special = _of_tokenizer_json(files[0])
    else:
        vocabulary, merges, special = _of_two_files(*files)
    size = _vocabulary_size(folder)
    tokens = _by_number(vocabulary, size, files[0])
    numbers = [(vocabulary.get(first), vocabulary.get(second)) for first, second in merges]
    try:
        return PretrainedBytePairs(tokens, numbers, special)
    except LabError as error:
        raise UserError(f"{files[0]} cannot be read: {error}") from None


def _vocabulary_size(folder: Path) -> int:
    """Size of the vocabulary in ``config.json``; 0 where there is none."""
    path = folder / "config.json"
    if not path.is_file():
        return 0
    size = _json(path).get("vocab_size", 0)
    return size if type(size) is int else 0


def _by_number(vocabulary: Mapping[str, int], size: int, file: Path) -> list[str | None]:
    """Tokens by number, filled up with None to ``size`` where that is above 0."""
    numbers = list(vocabulary.values())
    if not all(_is_number(token, MOST_TOKENS) for token in numbers) or len(set(numbers)) < len(numbers):
        raise UserError(f"{file} gives a token no number, or two the same")
    n = max(numbers, default=-1) + 1
    if size and n > size:
        raise UserError(f"{file} has token {n - 1:,}, and the model's vocabulary ends at {size - 1:,}")
    tokens: list[str | None] = [None] * max(n, size)
    for text, token in vocabulary.items():
        tokens[token] = text
    return tokens


def _of_tokenizer_json(file: Path) -> tuple[dict[str, int], list[tuple[str, str]], list[int]]:
    """Numbers of tokens, merges and special tokens of a ``tokenizer.json``."""
    content = _json(file)
    for part, wanted in _PLAIN.items():
        _check_plain(file, part, content.get(part), wanted)
    if content.get("normalizer") is not None:
        raise UserError(f"{file} has a normalizer; a tokenizer without one can be read")
    model = content["model"]
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not isinstance(model.get("merges"), list):
        raise UserError(f"{file} has no vocabulary or no merges")
    vocabulary, special = dict(vocabulary), list[Any]()
    for added in content.get("added_tokens") or []:
        if not isinstance(added, dict) or not isinstance(added.get("content"), str):
            raise UserError(f"{file} has an added token without content")
        if peculiar := next((name for name in _OF_ADDED if added.get(name)), None):
            raise UserError(f"{file} has the added token {added['content']!r} with {peculiar}, which cannot be read")
        vocabulary[added["content"]] = added.get("id")
        special.append(added.get("id"))
    return vocabulary, [_pair(file, merge) for merge in model["merges"]], special


def _check_plain(file: Path, part: str, given: Any, wanted: Mapping[str, Any]) -> None:
    kind = given.get("type") if isinstance(given, dict) else None
    if not isinstance(given, dict) or kind != wanted["type"]:
        raise UserError(f"{file} has the {part} {kind}; {wanted['type']}, that of GPT-2, can be read")
    for name, value in wanted.items():
        if given.get(name, value) not in (value, value or None):
            raise UserError(f"{file} has {name}={given[name]} in its {part}; {value!r} can be read")


def _pair(file: Path, merge: Any) -> tuple[str, str]:
    pair = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(token, str) for token in pair):
        raise UserError(f"{file} has a merge that is no pair of tokens: {merge!r:.60}")
    return pair[0], pair[1]


def _of_two_files(vocabulary_file: Path, merges_file: Path) -> tuple[dict[str, int], list[tuple[str, str]], list[int]]:
    """The same of a ``vocab.json`` and a ``merges.txt``; special tokens are those that are not made of bytes' signs,
    and GPT-2's end of a text.
    """
    vocabulary = _json(vocabulary_file)
    lines = _text(merges_file).split("\n")
    merges = [
        _pair(merges_file, line.rstrip("\r")) for line in lines if line.strip() and not line.startswith("#version")
    ]
    special = [token for text, token in vocabulary.items() if text == "<|endoftext|>" or not _BYTES.keys() >= set(text)]
    return dict(vocabulary), merges, special


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(file))
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} is no JSON object")
    return content


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from None


def stamp_of(files: Sequence[Path]) -> tuple[tuple[str, int, int], ...]:
    """Paths, sizes and times of change of files, which change when one is replaced.

    Raises:
        UserError: one is a pipe, a device or a folder, or far larger than a tokenizer.
        OSError: one cannot be looked at.
    """
    about = [file.stat() for file in files]
    for file, one in zip(files, about, strict=True):
        if not stat.S_ISREG(one.st_mode):
            raise UserError(f"{file} is not a regular file")
        if one.st_size > _LARGEST:
            raise UserError(f"{file} has {one.st_size:,} bytes, at most {_LARGEST:,} are read")
    return tuple((str(file.absolute()), one.st_size, one.st_mtime_ns) for file, one in zip(files, about, strict=True))
