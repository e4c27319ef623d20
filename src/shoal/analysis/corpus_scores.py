"""Corpus scores of translations from per-sentence statistics: BLEU, chrF2, means.

A corpus score is a function of sums over sentences, so that per-sentence statistics give the score of any subset or
resample without looking at a word again: the sums of a resample are one product of matrices.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.errors import UserError

Array = NDArray[np.float64]

BLEU_ORDERS = 4


def bleu(sums: Array) -> Array:
    """Corpus BLEU with ``smooth:exp`` and ``eff:no``, in percent, from summed statistics.

    Args:
        sums: ``(…, 10)``, in the order of sacrebleu: tokens of the hypotheses and of their references, then the n-grams
            that match and all n-grams of the hypotheses, for n from 1 to 4.

    Returns:
        ``(…)``; 0 where nothing matches or no hypothesis has four tokens.

    Source: Papineni et al. 2002; Chen and Cherry 2014, method 3.
    """
    hypothesis_tokens, reference_tokens = sums[..., 0], sums[..., 1]
    matches, n_grams = sums[..., 2 : 2 + BLEU_ORDERS], sums[..., 2 + BLEU_ORDERS :]
    # the k-th order without a match counts as 1 / 2^k n-grams
    counted = np.where(matches > 0, matches, 0.5 ** np.cumsum(matches == 0, axis=-1))
    logs = np.log(100 * counted / np.maximum(n_grams, 1)).mean(axis=-1)
    short = np.where(hypothesis_tokens < reference_tokens, 1 - reference_tokens / np.maximum(hypothesis_tokens, 1), 0.0)
    is_zero = (matches.max(axis=-1) == 0) | (n_grams.min(axis=-1) == 0)
    score: Array = np.where(is_zero, 0.0, np.exp(short + logs))
    return score


def chrf2(sums: Array) -> Array:
    """Corpus chrF2 (characters of orders 1 to 6, no words, β = 2), in percent, from summed statistics.

    Args:
        sums: ``(…, 18)``, in the order of sacrebleu: for each order the n-grams of the hypotheses, of the references,
            and those that match.

    Returns:
        ``(…)``; means are over the orders that occur in both hypotheses and references.

    Source: Popović 2015 and 2016.
    """
    hypothesis, reference, matches = (sums[..., part::3] for part in range(3))
    both = (hypothesis > 0) & (reference > 0)
    orders = np.maximum(both.sum(axis=-1), 1)
    precision = np.where(both, matches / np.maximum(hypothesis, 1), 0.0).sum(axis=-1) / orders
    recall = np.where(both, matches / np.maximum(reference, 1), 0.0).sum(axis=-1) / orders
    weighted = 4 * precision + recall
    score: Array = 100 * 5 * precision * recall / np.where(weighted > 0, weighted, 1.0)
    return score


def mean(sums: Array) -> Array:
    """Mean of one number per sentence; ``sums`` are ``(…, 2)``: the sum of the numbers, and the number of sentences."""
    average: Array = sums[..., 0] / sums[..., 1]
    return average


@dataclass(frozen=True, eq=False)
class SentenceStatistics:
    """Sufficient statistics of a corpus score, for each sentence in the translation of each seed's model.

    Attributes:
        name: name of the score.
        values: ``(R, n, K)`` for R seeds and n sentences, the same sentences in the same order for each seed.
        score: function from ``(…, K)`` sums to ``(…)`` scores, such as :func:`bleu`, :func:`chrf2` and :func:`mean`.
        bounds: smallest and largest possible score.
    """

    name: str
    values: Array
    score: Callable[[Array], Array]
    bounds: tuple[float, float] = (0.0, 100.0)

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or not self.seeds or not self.sentences:
            raise UserError(f"{self.name}: statistics must be (seeds, sentences, K), got {self.values.shape}")

    @classmethod
    def of_numbers(cls, name: str, numbers: Array, bounds: tuple[float, float] = (0.0, 100.0)) -> "SentenceStatistics":
        """Statistics of one number per seed and sentence, ``(R, n)``, whose mean is the score."""
        values = np.asarray(numbers, dtype=np.float64)
        return cls(name, np.stack([values, np.ones_like(values)], axis=-1), mean, bounds)

    @property
    def seeds(self) -> int:
        """Number of seeds, R."""
        return int(self.values.shape[0])

    @property
    def sentences(self) -> int:
        """Number of sentences, n."""
        return int(self.values.shape[1])

    def corpus(self, sentences: Sequence[int] | NDArray[np.int64] | slice = slice(None)) -> Array:
        """Corpus score of each seed, ``(R,)``, on these sentences; a sentence that is named twice counts twice."""
        return self.score(self.values[:, sentences].sum(axis=1))

    def resampled(self, counts: Array) -> Array:
        """Corpus score of each seed in each resample, ``(b, R)``; ``counts``, ``(b, n)``, weight the sentences."""
        flat = self.values.transpose(1, 0, 2).reshape(self.sentences, -1)  # (n, R K)
        return self.score((counts @ flat).reshape(len(counts), self.seeds, -1))
