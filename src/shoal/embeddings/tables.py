"""Tables of embeddings that models begin with: pretrained rows, the same rows permuted, random ones, or word2vec's.

``V`` tokens, ``E`` width of a row. All arrangements of one member draw the same numbers in the same order, so that
members of one seed share the rows of special tokens and of words that have none.
"""

import numpy as np
import torch
from torch import Tensor

from shoal.embeddings.coverage import Covered
from shoal.keyed import fold

_STREAM = 7  # random numbers of tables, apart from those of other purposes


def table_of(covered: Covered, rows: str, missing: str, seed: int, side: int, padding: int | None) -> Tensor:
    """Table of a member, ``(V, E)`` float32.

    Special tokens, and words without a row under ``normal``, are drawn from N(0, s²), where ``s`` is the standard
    deviation of all values of the rows that were matched; so are all rows of ``random``.

    Args:
        covered: the rows of the vocabulary.
        rows: ``pretrained``; ``permuted``, the rows that were matched in random order; or ``random``.
        missing: row of a word that has none: ``normal``, ``zero``, ``mean`` (of the matched rows) or ``subwords``, the
            mean of the word's pieces, and ``normal`` where it has no pieces.
        seed: seed of the member.
        side: number of the side, so that both sides differ.
        padding: token whose row is 0; None where there is none.
    """
    generator = torch.Generator().manual_seed(_key(seed, side))
    V, E = covered.values.shape
    table = covered.deviation * torch.randn(V, E, generator=generator)
    matched = torch.from_numpy(np.flatnonzero(covered.matched))
    order = torch.randperm(len(matched), generator=generator)
    if rows != "random":
        values = torch.from_numpy(covered.values)
        is_text = torch.arange(V) >= covered.first
        without = torch.from_numpy(~covered.matched) & is_text
        if missing == "zero":
            table[without] = 0.0
        elif missing == "mean":
            table[without] = values[matched].mean(0)
        elif missing == "subwords":
            composed = torch.from_numpy(covered.composed)
            table[composed] = values[composed]
        table[matched] = values[matched[order] if rows == "permuted" else matched]
    if padding is not None:
        table[padding] = 0.0
    return table


def _key(seed: int, side: int) -> int:
    keys = fold(torch.tensor([seed]), torch.tensor([_STREAM * 16 + side]))
    return int(keys[0]) & 0x7FFF_FFFF_FFFF_FFFF
