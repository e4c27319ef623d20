"""Translation scores: their intervals over seeds and sentences, and tests of differences between settings.

**Intervals.** Every seed's model translates the same sentences: seeds and sentences are crossed. The deviation of a
score under other seeds and other sentences therefore has three parts: the effect of the sentences on all seeds alike,
the effect of a seed on all sentences alike, and the effect of the pair. Sentences are resampled for all seeds at once,
because drawing them anew within each seed would take the effect of an easy test set on every seed for noise that
averages out. The seeds are the other level. Resampling three or four of them gives intervals that are too short: they
lack the factor R / (R − 1) of the variance, and Student's quantile. So the sentences' part is the bootstrap's, which
needs only the sums that BLEU is made of, and the seeds' part is Student's t with R − 1 degrees of freedom, as in
:mod:`shoal.analysis.paired`. The deviation between seeds on given sentences holds the pairs' part too; that is taken
out of the sentences' part, or it would count twice, but never more of it than is between these seeds: two of them can
score alike by chance. With one seed the interval is over sentences alone (:attr:`ScoreInterval.over`).

**Shares**, of which each sentence is right or wrong (exact match), have Wilson's interval with one seed; with several,
four sentences more are resampled, two right and two wrong. None right of 50 is then [0, 7.1] with one seed, and not
[0, 0]. Of one sentence there is no interval.

Coverage of the 95 % intervals in percent, simulated with normal parts (400 sentences; standard deviations of a
sentence, a seed and a pair as given; ``tests/test_translation_coverage.py``), and behind it the coverage of percentile
intervals of resampled seeds and sentences, which count the pairs' part twice and are too short with few seeds:

==================  ======  ======  ======  =======
sentence/seed/pair  R = 2   R = 3   R = 5   R = 10
==================  ======  ======  ======  =======
1 / 0 / 0.7         98, 97  98, 97  97, 97  96, 97
1 / 0.05 / 0.7      98, 92  99, 97  97, 95  95, 95
0.3 / 0.2 / 0.7     97, 67  96, 81  95, 87  95, 91
0 / 0 / 1           94, 99  97, 99  94, 100  95, 100
==================  ======  ======  ======  =======

With one seed the interval holds the score of *this* model on other sentences (93 to 95 of 100), and that of another
seed's as seldom as seeds differ: 26 of 100 in the third row. Paired tests at 5 % reject 4, 5, 2 and 6 of 100 times with
1, 2, 4 and 8 seeds where nothing differs. Simulations of 400 to 600 leave ± 2 in each of these numbers. Two seeds are
few: an interval over them is as wide as Student's t with one degree of freedom makes it. The last row is of intervals
from which the pairs' part was taken out without that limit; they are wider now.

Shares of 2, 5, 20 and 50 % were simulated with 50 and 1,000 sentences that are all alike, or as unlike as can be, and
seeds that do not differ (120 to 300 times each). With one seed 89 to 97 of 100 intervals hold the share; Wilson's own
number for 2 % of 50 sentences is 92. With several (of five seeds, sentences that are all alike) 94 to 100 do,
and tests at 5 % reject at most 3 of 100 times: they are on the safe side, most of all with two and three seeds.

Sources: Efron and Tibshirani 1993; Koehn 2004 (resampled sentences for BLEU); Owen 2007, "The pigeonhole bootstrap"
(crossed resampling); Riezler and Maxwell 2005 (approximate randomisation); Wilson 1927; Agresti and Coull 1998 (four
sentences more); Post 2018 (sacreBLEU).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.special import ndtri, stdtr

from shoal.analysis.bootstrap import LEVEL, check_resampling, interval
from shoal.analysis.corpus_scores import Array, SentenceStatistics, mean
from shoal.analysis.correction import holm
from shoal.errors import UserError

_AT_ONCE = 2**22  # counts of sentences in resamples that are held at a time
_SAME = 1e-9  # scores that differ by less are equal: sums of the same numbers in another order


@dataclass(frozen=True)
class ScoreInterval:
    """Mean over seeds of a corpus score, or of a difference of two, with its 95 % interval.

    Attributes:
        name: name of the score.
        score: mean over seeds of the corpus score.
        low: lower end; NaN without resamples.
        high: upper end.
        seeds: number of seeds, R.
        sentences: number of sentences, n.
        by_seed: score of each seed.
    """

    name: str
    score: float
    low: float
    high: float
    seeds: int
    sentences: int
    by_seed: tuple[float, ...]

    @property
    def over(self) -> str:
        """Sources of variation that the interval covers: seeds and sentences, or sentences alone."""
        return "seeds and sentences" if self.seeds > 1 else "sentences"


@dataclass(frozen=True)
class ScoreDifference(ScoreInterval):
    """Difference of the scores of two settings, first less second, on common seeds and sentences.

    Attributes:
        first: name of the first setting.
        second: name of the setting that it is compared with.
        p: two-sided p value of the hypothesis that they do not differ; None without resamples.
        corrected: the p value after Holm's correction for all comparisons made with it.
    """

    first: str = ""
    second: str = ""
    p: float | None = None
    corrected: float | None = None


def score_interval(statistics: SentenceStatistics, resamples: int = 1000, seed: int = 0) -> ScoreInterval:
    """Mean over seeds of the corpus score, with its interval over seeds and sentences.

    Args:
        statistics: sentence statistics of R seeds and n sentences.
        resamples: number of resamples of the sentences; 0 for no interval.
        seed: seed of the resamples: the same seed gives the same interval.

    Raises:
        UserError: as :func:`shoal.analysis.bootstrap.check_resampling`.
    """
    check_resampling(resamples, seed)
    by_seed = statistics.corpus()
    score, R, n = float(by_seed.mean()), statistics.seeds, statistics.sentences
    low = high = float("nan")
    if resamples and n > 1:
        is_share = _is_share(statistics)
        if is_share and R == 1:
            low, high = _wilson(score, n, *statistics.bounds)
        else:
            drawn = _with_four_more(statistics) if is_share else statistics
            spread = _spread(by_seed, drawn.corpus(), _resampled([drawn], resamples, seed)[0])
            low, high = spread.interval(*statistics.bounds)
        if is_share:
            low, high = min(low, score), max(high, score)
    return ScoreInterval(statistics.name, score, low, high, R, n, tuple(map(float, by_seed)))


def compare_settings(
    first: SentenceStatistics,
    second: SentenceStatistics,
    names: tuple[str, str] = ("first", "second"),
    resamples: int = 1000,
    trials: int = 10_000,
    seed: int = 0,
) -> ScoreDifference:
    """Difference of the scores of two settings, paired over seeds and sentences.

    With several seeds the interval is that of :func:`score_interval` for the differences of the pairs, and the p value
    is of the same distribution: it is below 0.05 where the interval leaves out 0. With one seed the p value is
    that of approximate randomisation: the translations of each sentence are exchanged or not, ``trials`` times, and
    it says something of these two models alone. It is the test of ``sacrebleu --paired-ar``, but that differences
    which are equal to the observed one count: two models that translate alike have p = 1 here, and there the smallest.

    Args:
        first: statistics of the first setting, of R seeds and n sentences.
        second: statistics of the second, of the same seeds and sentences in the same order.
        names: names of the settings.
        resamples: number of resamples of the sentences; 0 for no interval.
        trials: number of trials of the randomisation.
        seed: seed of resamples and trials.

    Raises:
        UserError: the settings have not the same score, seeds or sentences; or as :func:`score_interval`.
    """
    check_resampling(resamples, seed)
    check_resampling(trials, seed)
    if first.name != second.name or first.values.shape != second.values.shape:
        raise UserError(
            f"{names[0]} and {names[1]} cannot be paired: {_description(first)} against {_description(second)}; both "
            "must have the same score, seeds and sentences"
        )
    gains = first.corpus() - second.corpus()
    spread, p = None, None
    if resamples and first.sentences > 1:
        above, below = _resampled([first, second], resamples, seed)
        spread = _spread(gains, gains, above - below)
        p = spread.p_value()
    if first.seeds == 1:
        p = _randomised(first, second, trials, seed) if trials else None
    width = first.bounds[1] - first.bounds[0]
    low, high = (float("nan"),) * 2 if spread is None else spread.interval(-width, width)
    by_seed, R, n = tuple(map(float, gains)), first.seeds, first.sentences
    return ScoreDifference(first.name, float(gains.mean()), low, high, R, n, by_seed, *names, p, p)


def compare_all(
    settings: Mapping[str, SentenceStatistics],
    baseline: str | None = None,
    resamples: int = 1000,
    trials: int = 10_000,
    seed: int = 0,
) -> list[ScoreDifference]:
    """Comparison of every setting with the baseline, or of all pairs without one; p values corrected by Holm.

    Raises:
        UserError: there is no such setting; or as :func:`compare_settings`.
    """
    if baseline is not None and baseline not in settings:
        raise UserError(f"unknown baseline {baseline!r}: one of {' '.join(settings)}")
    pairs = [(b, a) for a, b in combinations(settings, 2)]
    if baseline is not None:
        pairs = [(name, baseline) for name in settings if name != baseline]
    differences = [compare_settings(settings[a], settings[b], (a, b), resamples, trials, seed) for a, b in pairs]
    corrected = holm([difference.p for difference in differences])
    return [replace(difference, corrected=p) for difference, p in zip(differences, corrected, strict=True)]


def _description(statistics: SentenceStatistics) -> str:
    return f"{statistics.name} of {statistics.seeds} seeds and {statistics.sentences:,} sentences"


def _resampled(several: Sequence[SentenceStatistics], resamples: int, seed: int) -> list[Array]:
    """Scores of each seed of each setting, ``(resamples, R)``, on the same resampled sentences."""
    n, generator = several[0].sentences, np.random.default_rng(seed)
    parts: list[list[Array]] = [[] for _ in several]
    for rows in _portions(resamples, n):
        drawn = generator.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.reshape(-1), minlength=rows * n).reshape(rows, n).astype(np.float64)
        for part, statistics in zip(parts, several, strict=True):
            part.append(statistics.resampled(counts))
    return [np.concatenate(part) for part in parts]


def _portions(total: int, n: int) -> Iterator[int]:
    """Sizes of the batches in which so many resamples are drawn."""
    at_once = max(1, _AT_ONCE // n)
    for start in range(0, total, at_once):
        yield min(at_once, total - start)


@dataclass(frozen=True, eq=False)
class _Spread:
    """Distribution of the mean score under other seeds and sentences: Student's t around resampled scores.

    Attributes:
        centres: ``(b,)``, the resampled scores.
        scale: scale of the seeds' t; 0 with one seed.
        df: degrees of freedom of that t.
    """

    centres: Array
    scale: float
    df: int

    def below(self, x: float) -> float:
        """Probability of a score below x, with half of the probability of x itself."""
        if self.scale == 0:
            return float((self.centres < x - _SAME).mean() + (self.centres <= x + _SAME).mean()) / 2
        return float(stdtr(self.df, (x - self.centres) / self.scale).mean())

    def interval(self, least: float, most: float) -> tuple[float, float]:
        """Middle 95 %, within the bounds of the score."""
        if self.scale == 0:
            return interval(self.centres)
        tails = (1 - LEVEL) / 2, (1 + LEVEL) / 2
        low, high = (self._quantile(share, least, most) for share in tails)
        return low, high

    def _quantile(self, share: float, low: float, high: float) -> float:
        for _ in range(60):  # bisection: to the last bits of a float
            middle = (low + high) / 2
            low, high = (middle, high) if self.below(middle) < share else (low, middle)
        return (low + high) / 2

    def p_value(self) -> float:
        """Two-sided p value of the hypothesis that the score is 0; with b resamples at least 1 / (b + 1)."""
        share = self.below(0.0)
        return min(1.0, max(2 * min(share, 1 - share), 1 / (len(self.centres) + 1)))


def _spread(scores: Array, unresampled: Array, resampled: Array) -> _Spread:
    """Distribution of the mean over seeds under other seeds and sentences.

    Args:
        scores: scores of R seeds, ``(R,)``.
        unresampled: scores of the sentences that are resampled, ``(R,)``.
        resampled: scores of resamples of these sentences, ``(b, R)``.
    """
    R, middle = len(unresampled), float(unresampled.mean())
    shift = resampled.mean(axis=1) - middle
    if R == 1:
        return _Spread(middle + shift, 0.0, 0)
    # the effect of sentences on one seed and not on all: it is in the deviation between seeds already
    rest = resampled - unresampled - shift[:, None]
    doubled = float((rest**2).sum(axis=1).mean()) / (R - 1) / R
    total, between = float(shift.var()), float(scores.var(ddof=1)) / R
    # Seeds can score alike by chance, and then there is less of it between them than was to be taken out.
    shared = np.sqrt(max(0.0, 1 - min(doubled, between) / total)) if total > 0 else 0.0
    return _Spread(middle + shared * shift, float(np.sqrt(between)), R - 1)


# scores that are shares: what is right of all


def _is_share(statistics: SentenceStatistics) -> bool:
    """Return True if the score is the mean of numbers that are its smallest or largest each, as exact match is."""
    return statistics.score is mean and bool(np.isin(statistics.values[..., 0], statistics.bounds).all())


def _wilson(score: float, n: int, least: float, most: float) -> tuple[float, float]:
    """Wilson's interval (1927) of a share, of n sentences and one seed."""
    z, share = float(ndtri((1 + LEVEL) / 2)), (score - least) / (most - least)
    middle, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    low, high = (least + (most - least) * (middle + side * half) / (1 + z**2 / n) for side in (-1, 1))
    return float(low), float(high)


def _with_four_more(statistics: SentenceStatistics) -> SentenceStatistics:
    """Statistics with four sentences more: two that all seeds have right, two that none has (Agresti and Coull 1998).

    Where few or nearly all are right, resamples of the sentences as they are hold too little of what could be.
    """
    more = np.ones((statistics.seeds, 4, 2))
    more[..., 0] = np.repeat(statistics.bounds, 2)
    return replace(statistics, values=np.concatenate([statistics.values, more], axis=1))


def _randomised(first: SentenceStatistics, second: SentenceStatistics, trials: int, seed: int) -> float:
    """P value of approximate randomisation over sentences, of one seed."""
    generator = np.random.default_rng(seed)
    observed = abs(float((first.corpus() - second.corpus())[0]))
    a, b = first.values[0], second.values[0]  # (n, K)
    both, extreme = a.sum(axis=0) + b.sum(axis=0), 0
    for rows in _portions(trials, first.sentences):
        unswapped = generator.integers(2, size=(rows, first.sentences), dtype=np.int8).astype(np.float64)
        one = b.sum(axis=0) + unswapped @ (a - b)  # (rows, K)
        differences = first.score(one) - first.score(both - one)
        extreme += int((np.abs(differences) >= observed - _SAME).sum())
    return (extreme + 1) / (trials + 1)
