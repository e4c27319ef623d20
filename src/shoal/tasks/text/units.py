"""Units of a language model's loss, and its loss by position in the context.

A loss in nats per token can be compared only between models of the same tokens. Per character, byte or word of the text
that was scored, models of characters, bytes and byte pairs stand in one table.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from shoal.errors import UserError

UNITS = ("nats_per_token", "bits_per_character", "bits_per_byte", "perplexity_per_token", "perplexity_per_word")


@dataclass(frozen=True)
class TextCounts:
    """Amounts of scored text.

    Attributes:
        tokens: number of tokens whose loss was summed.
        characters: number of Unicode code points; one that is cut counts where its first byte is.
        bytes: number of bytes of UTF-8.
        words: number of runs of characters that are not white space (``str.split``).
    """

    tokens: int
    characters: int
    bytes: int
    words: int


def count_text(text: str | bytes, tokens: int) -> TextCounts:
    """Amounts of a scored text.

    Args:
        text: text of the scored tokens alone: without the first token if that only serves as context. As bytes where
            tokens are parts of characters; bytes that are not UTF-8 count as bytes.
        tokens: number of its tokens.

    >>> count_text("é🐕", tokens=6)
    TextCounts(tokens=6, characters=2, bytes=6, words=1)
    """
    content = text.encode() if isinstance(text, str) else text
    values = np.frombuffer(content, dtype=np.uint8)
    characters = int((values & 0xC0 != 0x80).sum())  # all but bytes that continue a character
    return TextCounts(tokens, characters, len(content), len(content.decode("utf-8", "replace").split()))


def total_nats(nats: Iterable[ArrayLike], counts: Iterable[ArrayLike] | None = None) -> tuple[float, int]:
    """Total loss of all tokens of all batches, and their number.

    The sum is exact before one final rounding, so that it is bitwise the same however tokens are divided into batches
    and rows.

    Args:
        nats: losses of each batch, of any shape.
        counts: a mask for each batch, of its shape: True where a token counts (no padding). Without, all do.

    Raises:
        UserError: a mask has another shape than its batch, or there is another number of them.
    """
    batches = [np.asarray(batch, dtype=np.float64) for batch in nats]
    masks = [np.ones(batch.shape, bool) for batch in batches] if counts is None else [np.asarray(m) for m in counts]
    if [mask.shape for mask in masks] != [batch.shape for batch in batches]:
        shapes = [" ".join(str(part.shape) for part in parts) for parts in (batches, masks)]
        raise UserError(f"masks must have the shapes of their batches, {shapes[0]}, got {shapes[1]}")
    parts = [batch[mask.astype(bool)] for batch, mask in zip(batches, masks, strict=True)]
    return math.fsum(value for part in parts for value in part.tolist()), sum(map(len, parts))


def units(nats: float, counts: TextCounts) -> dict[str, float]:
    """Loss in all units of :data:`UNITS`.

    Perplexities are exp(nats / tokens) and exp(nats / words), never a mean over batches. A loss per zero units is NaN,
    and one that is too large for a float is infinite.

    Args:
        nats: sum over all scored tokens.
        counts: amounts of the scored text.

    Raises:
        UserError: there are no tokens, or nats are negative.
    """
    if counts.tokens < 1:
        raise UserError(f"a loss is of at least 1 token, got {counts.tokens}")
    if nats < 0:
        raise UserError(f"the nats of a text are at least 0, got {nats}")
    bits = nats / math.log(2)
    return {
        "nats_per_token": nats / counts.tokens,
        "bits_per_character": _per(bits, counts.characters),
        "bits_per_byte": _per(bits, counts.bytes),
        "perplexity_per_token": _exp(nats / counts.tokens),
        "perplexity_per_word": _exp(_per(nats, counts.words)),
    }


def loss_by_position(nats: ArrayLike, counts: ArrayLike | None = None, level: float = 0.95) -> pl.DataFrame:
    """Mean loss at each position of the context, with its interval.

    The interval is Student's, of the mean over rows, which it takes as independent: blocks of a text that do not
    overlap nearly are, windows that overlap are not, and their intervals are too narrow.

    Args:
        nats: ``(n, S)``, losses of n rows of S scored tokens.
        counts: ``(n, S)``, True where a token counts; without, all do.
        level: level of the interval.

    Returns:
        ``position`` (from 1: the number of tokens of the row that the model has seen), ``loss`` in nats, ``low``,
        ``high`` (NaN with fewer than two rows) and ``n``, the rows that count there; S rows.

    Raises:
        UserError: nats are no matrix or the mask has another shape, or the level is not between 0 and 1.
    """
    from scipy.stats import t as student  # takes most of a second, and training needs units alone

    values = np.asarray(nats, dtype=np.float64)
    seen = np.ones(values.shape, dtype=bool) if counts is None else np.asarray(counts, dtype=bool)
    if values.ndim != 2 or seen.shape != values.shape:
        raise UserError(f"losses must be (rows, positions) with a mask like them, got {values.shape} and {seen.shape}")
    if not 0 < level < 1:
        raise UserError(f"level must be above 0 and below 1, got {level}")
    n = seen.sum(0)  # (S,)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(seen, values, 0).sum(0) / n
        variance = (np.where(seen, values - mean, 0) ** 2).sum(0) / (n - 1)
        half = student.ppf((1 + level) / 2, n - 1) * np.sqrt(variance / n)
    half = np.where(n > 1, half, np.nan)
    position = np.arange(1, values.shape[1] + 1)
    return pl.DataFrame({"position": position, "loss": mean, "low": mean - half, "high": mean + half, "n": n})


def _per(total: float, number: int) -> float:
    return total / number if number else math.nan


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
