"""Word vectors trained on the training split itself: skip-gram with negative sampling, by gensim.

Source: Mikolov et al. 2013, "Distributed Representations of Words and Phrases", with gensim's defaults but for the
architecture (skip-gram) and the smallest number of occurrences, which the vocabulary has decided already. One thread
and a fixed seed: the same sentences give the same vectors.
"""

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from shoal.embeddings.vectors import Rows, Vectors
from shoal.errors import UserError

WINDOW, NEGATIVE, EPOCHS, SEED = 5, 5, 5, 1
_CACHED = 4
_trained: dict[tuple[str, int], Vectors] = {}


def check_word2vec() -> None:
    """Raise :class:`UserError` where gensim is missing."""
    if find_spec("gensim") is None:
        raise UserError("embedding_rows=word2vec needs gensim: pip install 'shoal[embeddings]'")


def train_word2vec(sentences: Sequence[Sequence[str]], width: int) -> Vectors:
    """Vectors of every word of some sentences; the same object at every call in a process.

    Raises:
        UserError: gensim is missing, or the sentences have fewer than two words.
    """
    digest = hashlib.sha256("\n".join(" ".join(words) for words in sentences).encode("utf-8", "surrogatepass"))
    known = (digest.hexdigest(), width)
    if known not in _trained:
        check_word2vec()
        from gensim.models import Word2Vec

        model = Word2Vec(
            sentences=_Sentences(sentences),
            vector_size=width,
            window=WINDOW,
            min_count=1,
            sg=1,
            negative=NEGATIVE,
            epochs=EPOCHS,
            seed=SEED,
            workers=1,
        )
        while len(_trained) >= _CACHED:
            del _trained[next(iter(_trained))]
        _trained[known] = _vectors(model)
    return _trained[known]


class _Sentences:
    """Sentences that can be iterated again."""

    def __init__(self, sentences: Sequence[Sequence[str]]) -> None:
        self.sentences = sentences

    def __iter__(self) -> Any:
        return iter(self.sentences)


def _vectors(model: Any) -> Vectors:
    names = list(model.wv.index_to_key)
    rows: Rows = np.ascontiguousarray(model.wv.vectors, dtype=np.float32)
    key = hashlib.sha256(rows.tobytes() + "\0".join(names).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return Vectors(
        rows, {name: row for row, name in enumerate(names)}, key, "word2vec of the training text", len(names)
    )
