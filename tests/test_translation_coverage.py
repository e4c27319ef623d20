"""Intervals of scores hold what they should as often as they say, and tests reject as seldom: simulated."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from test_translation_scores import simulated

from shoal.analysis.corpus_scores import SentenceStatistics, bleu
from shoal.analysis.sentence_scores import BLEU, EXACT, text_scores
from shoal.analysis.translation import (
    compare_settings,
    score_interval,
)

sacrebleu = pytest.importorskip("sacrebleu")
MULTI30K = Path(__file__).parents[2] / "shared" / "data" / "multi30k"

# standard deviations of a sentence, a seed and a pair
CASES = [(1, 0, 0.7), (1, 0.05, 0.7), (0.3, 0.2, 0.7), (0, 0, 1), (0, 0.1, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("R", [2, 3, 5, 10])
@pytest.mark.parametrize("parts", CASES)
def test_intervals_over_seeds_and_sentences_hold_the_score(R, parts):
    rng, trials, held = np.random.default_rng([R, CASES.index(parts)]), 600, 0
    for trial in range(trials):
        found = score_interval(simulated(R, 200, *parts, rng), 200, trial)
        held += found.low <= 0 <= found.high
    assert held / trials > 0.925, held / trials  # of two seeds that do not differ it may be all of them


@pytest.mark.slow
def test_with_one_seed_the_interval_holds_the_score_of_this_model_alone():
    rng, trials = np.random.default_rng(0), 600
    own = others = 0
    for trial in range(trials):
        numbers = simulated(1, 200, 1, 0, 0, rng).values[..., 0]
        this = 0.3 * rng.standard_normal()
        found = score_interval(SentenceStatistics.of_numbers("x", numbers + this, (-100, 100)), 200, trial)
        own += found.low <= this <= found.high
        others += found.low <= 0 <= found.high
    assert 0.91 < own / trials < 0.97
    assert others / trials < 0.6


def right(R, n, share, is_hard, rng):
    """Exact match of models that have this share right: of every sentence, or less of hard ones."""
    chance = rng.beta(share, 1 - share, n) if is_hard else share
    return SentenceStatistics.of_numbers("exact match", 100.0 * (rng.random((R, n)) < chance))


@pytest.mark.slow
@pytest.mark.parametrize("is_hard", [False, True])
@pytest.mark.parametrize("n", [50, 1000])
@pytest.mark.parametrize("R", [1, 2, 3, 5])
def test_shares_with_few_values_are_held_and_seldom_differ_where_nothing_does(R, n, is_hard):
    for share in (0.02, 0.05, 0.2, 0.5):
        rng, trials = np.random.default_rng([R, n, is_hard, int(100 * share)]), 300 if n == 50 else 120
        ps, held = [], []
        for trial in range(trials):
            first, second = (right(R, n, share, is_hard, rng) for _ in range(2))
            ps.append(compare_settings(first, second, resamples=100, trials=200, seed=trial).p)
            found = score_interval(first, 100, trial)
            held.append(found.low <= 100 * share <= found.high)
            assert found.high - found.low > 0.5
        # Wilson's interval of 50 sentences holds a share of 0.02 91 times of 100: it leaves out what 4 right ones say
        assert np.mean(held) > (0.86 if R == 1 else 0.92), (share, np.mean(held))
        assert np.mean(np.array(ps) < 0.05) < 0.1, share
        assert np.mean(np.array(ps) < 0.01) < 0.03, share


def counts(R, n, rng, quality=0.6):
    """Statistics of BLEU as models of different skill make them on sentences of different ease."""
    lengths = rng.integers(6, 20, n)
    skill = quality + 0.02 * rng.standard_normal((R, 1)) + 0.15 * rng.standard_normal(n)
    chance = np.clip(skill + 0.1 * rng.standard_normal((R, n)), 0.02, 0.98)
    said = np.maximum(lengths + rng.integers(-1, 2, (R, n)), 4)
    totals = np.stack([said - k for k in range(4)], axis=-1)
    right = rng.binomial(totals, chance[..., None] ** np.arange(1, 5))
    wanted = np.broadcast_to(lengths, said.shape)
    values = np.concatenate([np.stack([said, wanted], axis=-1), right, totals], axis=-1)
    return SentenceStatistics("BLEU", values.astype(float), bleu)


@pytest.mark.slow
@pytest.mark.parametrize("R", [2, 4])
def test_intervals_of_bleu_hold_the_score_of_all_seeds_and_sentences(R):
    rng, trials = np.random.default_rng(R), 500
    truth = np.mean(counts(40, 20_000, rng).corpus())
    found = [score_interval(counts(R, 300, rng), 200, trial) for trial in range(trials)]
    held = np.mean([one.low <= truth <= one.high for one in found])
    assert held > 0.92, held


@pytest.mark.slow
@pytest.mark.parametrize("R", [1, 2, 4])
def test_paired_tests_seldom_reject_where_there_is_nothing_and_often_where_there_is(R):
    rng, trials = np.random.default_rng(R), 400
    nothing, something = [], []
    for trial in range(trials):
        base, other = (simulated(R, 150, 0.1, 0.1 * (R > 1), 1, rng).values[..., 0] for _ in range(2))
        a, b, c = (SentenceStatistics.of_numbers("x", x, (-100, 100)) for x in (base, other, other + 0.6))
        nothing.append(compare_settings(a, b, resamples=100, trials=200, seed=trial).p)
        something.append(compare_settings(c, a, resamples=100, trials=200, seed=trial).p)
    level, power = np.mean(np.array(nothing) < 0.05), np.mean(np.array(something) < 0.05)
    assert level < 0.08, level
    assert power > (0.2 if R == 2 else 0.9), power


@pytest.mark.slow
@pytest.mark.skipif(not MULTI30K.is_dir(), reason="the text is not here")
def test_a_copy_of_multi30k_with_unknown_words():
    def read(name):
        with gzip.open(MULTI30K / f"{name}.en.gz", "rt", encoding="utf-8", newline="\n") as file:
            return file.read().split("\n")[:-1]

    train, test = read("train"), read("test_2016_flickr")
    tokenizer = sacrebleu.BLEU().tokenizer
    times: dict[str, int] = {}
    for line in train:
        for word in tokenizer(line.lower()).split():
            times[word] = times.get(word, 0) + 1
    tokens = [tokenizer(line).split() for line in test]
    known = [[times.get(word.lower(), 0) >= 2 for word in line] for line in tokens]
    share = 1 - sum(map(sum, known)) / sum(map(len, known))

    def copy(unknown):
        return [
            " ".join(word if is_known else unknown for word, is_known in zip(*pair, strict=True))
            for pair in zip(tokens, known, strict=True)
        ]

    # to 13a the sign <unk> is three tokens, which costs more than an unknown word does
    found = text_scores([test, copy("unk"), copy("<unk>")], [test])
    assert found.statistics[BLEU].corpus() == pytest.approx([100, 95.4512, 91.6859], abs=1e-3)
    assert share == pytest.approx(0.018, abs=0.0005)
    assert found.statistics[EXACT].corpus()[0] == 100
