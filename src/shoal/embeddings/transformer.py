"""Input embeddings of a transformer such as BERT: a folder with ``tokenizer.json`` and safetensors.

A word is one row of the table where the model's tokenizer makes one piece of it; else it can be the mean of its pieces.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shoal.embeddings.vectors import Rows, Vectors
from shoal.errors import UserError, printable

# of the table of input tokens, in models of the kinds of BERT, Llama, GPT-2, T5 and others
_TABLES = ("word_embeddings.weight", "embed_tokens.weight", "wte.weight", "shared.weight", "tok_embeddings.weight")
_PART = 4096  # rows that are hashed at a time


def files_of(folder: str) -> list[Path]:
    """Files of a folder that the embeddings are read from: the tokenizer, and all safetensors.

    Raises:
        UserError: there is no tokenizer or no safetensors.
    """
    tokenizer, tensors = Path(folder) / "tokenizer.json", sorted(Path(folder).glob("*.safetensors"))
    for there, name in ((tokenizer.is_file(), "tokenizer.json"), (bool(tensors), "*.safetensors")):
        if not there:
            raise UserError(f"{printable(folder)} is a folder without {name}, which a model's embeddings are read from")
    if others := [file for file in tensors if not file.is_file()]:
        raise UserError(f"{printable(str(others[0]))} is not a regular file")
    return [tokenizer, *tensors]


def read_transformer(folder: str, words: Collection[str]) -> Vectors:
    """Rows of the asked words; a word whose first sign is a space stands behind white space.

    Raises:
        UserError: the folder is none of such a model, is damaged, or ``tokenizers`` is missing.
    """
    tokenizer_file, *tensors = files_of(folder)
    table, name = _table(tensors)
    try:
        return _rows(_tokenizer(tokenizer_file), tokenizer_file, table, name, words)
    except OSError as error:
        raise UserError(f"{printable(folder)} cannot be read: {error.strerror or error}") from None


def _rows(tokenizer: Any, file: Path, table: Any, name: str, words: Collection[str]) -> Vectors:
    n, width = table.get_shape()
    digest = hashlib.sha256(file.read_bytes())
    for begin in range(0, n, _PART):
        digest.update(_numbers(table[begin : begin + _PART]).tobytes())
    unknown = {tokenizer.token_to_id(mark) for mark in ("[UNK]", "<unk>", "<UNK>")} - {None}
    pieces = {word: pieces_of(tokenizer, word, unknown) for word in words}
    used = sorted({piece for several in pieces.values() for piece in several})
    if used and used[-1] >= n:
        raise UserError(f"{printable(str(file))} has token {used[-1]:,}, and the table {name} ends at {n - 1:,}")
    by_piece = {piece: _numbers(table[piece : piece + 1])[0] for piece in used}
    values, index, composed = composed_rows(pieces, by_piece, width)
    if not np.isfinite(values).all():
        raise UserError(f"{printable(str(file.parent))} has values in {name} that are not finite")
    total = int(tokenizer.get_vocab_size())
    return Vectors(values, index, digest.hexdigest()[:16], "transformer", total, composed, has_pieces=True)


def _tokenizer(file: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UserError("embeddings of a transformer need tokenizers: pip install 'shoal[embeddings]'") from None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises its bare Exception
        raise UserError(f"{printable(str(file))} is no tokenizer: {' '.join(str(error).split())}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def composed_rows(
    pieces: Mapping[str, Sequence[int]], by_piece: Mapping[int, Rows], width: int
) -> tuple[Rows, dict[str, int], dict[str, int]]:
    """Rows of words, ``(n, E)``; the row of each word of one piece; and that of each of several, their mean.

    Args:
        pieces: pieces of each word; a word without any has no row.
        by_piece: row of each piece, ``(E,)``.
        width: ``E``.
    """
    rows: list[Rows] = []
    index: dict[str, int] = {}
    composed: dict[str, int] = {}
    for word, several in pieces.items():
        if several:
            (index if len(several) == 1 else composed)[word] = len(rows)
            rows.append(np.mean([by_piece[piece] for piece in several], axis=0, dtype=np.float32))
    return (np.stack(rows) if rows else np.zeros((0, width), np.float32)), index, composed


def pieces_of(tokenizer: Any, word: str, unknown: Collection[int]) -> list[int]:
    """Pieces of a word as it stands or without its space, whichever are fewer; none where one is ``unknown``."""
    several: Sequence[list[int]] = [
        tokenizer.encode(form, add_special_tokens=False).ids for form in dict.fromkeys((word, word.strip()))
    ]
    fitting = [ids for ids in several if ids and not set(unknown) & set(ids)]
    return min(fitting, key=len) if fitting else []


def _table(files: Sequence[Path]) -> tuple[Any, str]:
    """Lazy table of input tokens ``(V, E)`` and its name."""
    from safetensors import SafetensorError, safe_open

    candidates = []
    for file in files:
        try:
            opened: Any = safe_open(str(file), framework="pt")
            names = [name for name in list(opened.keys()) if name.endswith(_TABLES)]
        except (SafetensorError, OSError) as error:
            raise UserError(f"{printable(str(file))} is no whole file of safetensors: {error}") from None
        candidates += [(opened.get_slice(name), name) for name in names]
    if len(candidates) != 1:
        tables = ", ".join(name for _, name in candidates) or "none"
        raise UserError(
            f"{printable(str(files[0].parent))} must have one table of input tokens, one that ends in "
            f"{' or '.join(_TABLES)}; it has {tables}"
        )
    table, name = candidates[0]
    if len(table.get_shape()) != 2:
        raise UserError(f"{printable(str(files[0].parent))} has {name} of shape {table.get_shape()}, not (V, E)")
    return table, name


def _numbers(tensor: Any) -> Rows:
    numbers: Rows = tensor.float().numpy()
    return numbers
