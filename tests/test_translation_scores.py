"""Scores of translations: the library's numbers from sums over sentences, their intervals, and paired tests."""

import math
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.analysis.corpus_scores import SentenceStatistics, bleu
from shoal.analysis.sentence_scores import BLEU, BLEU_LC, CHRF2, EXACT, TOKENIZERS, text_scores
from shoal.analysis.translation import (
    compare_all,
    compare_settings,
    score_interval,
)
from shoal.errors import UserError

sacrebleu = pytest.importorskip("sacrebleu")
significance = pytest.importorskip("sacrebleu.significance")

WORDS = [
    "a",
    "the",
    "The",
    "man",
    "woman",
    "dog",
    "runs",
    "Runs",
    ",",
    ".",
    "two-year-old",
    "3.5",
    "it's",
    "&amp;",
    "–",
    "ß",
    "狗",
    "<unk>",
]
TEXT = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8)


def corpus(n, rate, seed):
    """References, and hypotheses in which a share of words is another."""
    rng = np.random.default_rng(seed)
    references = [" ".join(rng.choice(WORDS[:9], size=rng.integers(4, 14))) for _ in range(n)]
    said = [" ".join(w if rng.random() > rate else str(rng.choice(WORDS)) for w in r.split()) for r in references]
    return said, references


def scored(hypotheses, references, name=BLEU, **how):
    return float(text_scores([hypotheses], [references], **how).statistics[name].corpus()[0])


# the library's scores


@given(PAIRS, st.data())
@settings(max_examples=80, deadline=None)
def test_sums_of_any_sentences_score_as_the_library_scores_them(pairs, data):
    said, wanted = map(list, zip(*pairs, strict=True))
    some = data.draw(st.lists(st.integers(0, len(said) - 1), min_size=1, max_size=12))
    found = text_scores([said], [wanted])
    own, theirs = [said[i] for i in some], [[wanted[i] for i in some]]
    for name, metric in (
        (BLEU, sacrebleu.BLEU()),
        (BLEU_LC, sacrebleu.BLEU(lowercase=True)),
        (CHRF2, sacrebleu.CHRF()),
    ):
        expected = metric.corpus_score(own, theirs).score
        assert float(found.statistics[name].corpus(some)[0]) == pytest.approx(expected, abs=1e-9)
        assert found.signatures[name] == str(metric.get_signature())
    exact = 100 * sum(a.rstrip() == b.rstrip() for a, b in zip(own, theirs[0], strict=True)) / len(own)
    assert float(found.statistics[EXACT].corpus(some)[0]) == pytest.approx(exact)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_every_tokenizer_and_several_references(tokenizer):
    said, first = corpus(30, 0.3, 0)
    second = [text.upper() for text in first]
    metric = sacrebleu.BLEU(tokenize=tokenizer)
    expected = metric.corpus_score(said, [first, second])
    found = text_scores([said, first], [first, second], tokenizer)
    assert found.statistics[BLEU].corpus()[0] == pytest.approx(expected.score, abs=1e-9)
    assert found.statistics[BLEU].corpus()[1] == pytest.approx(100)
    assert found.signatures[BLEU] == str(metric.get_signature())
    assert "nrefs:2" in found.signatures[BLEU]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("Zhongjian Plaza", "Zhongjian Plaza")], 0),
        ([("China Railway Heavy Industry", "China Railway Heavy Industry")], 100),
        ([("", "this is what you want")], 0),
        ([("the cat sat on the mat", "the cat sat on a mat"), ("a dog", "a dog runs")], 49.2781704781),
        ([("the the the the the the the", "the cat is on the mat")], 7.8098498423),
    ],
)
def test_numbers_by_hand(pairs, expected):
    said, wanted = map(list, zip(*pairs, strict=True))
    found = text_scores([said], [wanted])
    assert found.statistics[BLEU].corpus()[0] == pytest.approx(expected, abs=1e-9)
    assert found.signatures[BLEU] == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    # a line of warning wherever the number is not simply n-grams that match
    assert bool(found.warnings) == (expected in (0, 7.8098498423))


def test_counts_and_brevity_by_hand():
    found = text_scores([["the cat sat on the mat", "a dog"]], [["the cat sat on a mat", "a dog runs"]])
    sums = found.statistics[BLEU].values[0].sum(axis=0)
    assert sums.tolist() == [8, 9, 7, 4, 2, 1, 8, 6, 4, 3]
    exact = Fraction(7 * 4 * 2 * 1, 8 * 6 * 4 * 3)
    assert float(bleu(sums)) == pytest.approx(100 * math.exp(1 - 9 / 8) * float(exact) ** 0.25, abs=1e-12)
    assert math.exp(1 - 9 / 8) == pytest.approx(0.882497, abs=1e-6)


def test_a_copy_scores_100_and_one_with_unknown_words_less():
    _, wanted = corpus(60, 0, 1)
    unknown = [text.replace("woman", "<unk>") for text in wanted]
    assert scored(wanted, wanted) == pytest.approx(100)
    assert scored(wanted, wanted, CHRF2) == pytest.approx(100)
    assert scored(unknown, wanted) < 90
    lower = [text.lower() for text in wanted]
    assert scored(lower, wanted) < 99.9
    assert scored(lower, wanted, BLEU_LC) == pytest.approx(100)


def test_a_mean_of_sentence_scores_is_another_number():
    said, wanted = corpus(40, 0.25, 2)
    one_by_one = np.mean([sacrebleu.sentence_bleu(a, [b]).score for a, b in zip(said, wanted, strict=True)])
    assert abs(scored(said, wanted) - one_by_one) > 0.5


def test_what_the_library_warns_of_is_passed_on_and_not_printed(capfd, caplog):
    said = ["a dog runs ."] * 100
    found = text_scores([said], [said])
    assert any("detokenize" in line for line in found.warnings)
    assert len(set(found.warnings)) == len(found.warnings)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_line_ends_and_white_space_count_as_in_a_file():
    assert scored(["a man-\nwoman runs  "], ["a man- woman runs"]) == pytest.approx(100)
    assert scored(["a man \n"], ["a man"], EXACT) == 100


@pytest.mark.parametrize(
    ("hypotheses", "references", "how"),
    [
        ([], [["a"]], {}),
        ([["a"]], [], {}),
        ([[]], [[]], {}),
        ([["a", "b"]], [["a"]], {}),
        ([["a"], ["a", "b"]], [["a"]], {}),
        ([["a"]], [["a"]], {"tokenizer": "14a"}),
    ],
)
def test_what_cannot_be_scored_is_refused(hypotheses, references, how):
    with pytest.raises(UserError):
        text_scores(hypotheses, references, **how)


def test_without_the_library_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UserError, match=r"shoal\[translation\]"):
        text_scores([["a"]], [["a"]])


def test_what_is_not_asked_for_is_not_computed_nor_warned_of(monkeypatch):
    said = ["a dog runs ."] * 100
    found = text_scores([said], [said], names=[CHRF2, EXACT])
    assert list(found.statistics) == [CHRF2, EXACT]
    assert not found.warnings
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    alone = text_scores([said], [said], names=[EXACT])
    assert alone.statistics[EXACT].corpus().tolist() == [100]
    assert not alone.signatures
    with pytest.raises(UserError, match="chrF2"):
        text_scores([said], [said], names=["chrf"])


# intervals


def simulated(R, n, sentence, seed, pair, rng):
    """Numbers per seed and sentence whose mean is 0 over all seeds and sentences there could be."""
    parts = sentence * rng.standard_normal(n), seed * rng.standard_normal((R, 1)), pair * rng.standard_normal((R, n))
    return SentenceStatistics.of_numbers("x", sum(parts), (-100.0, 100.0))


def test_resampled_scores_are_those_of_the_resampled_texts():
    said, wanted = corpus(25, 0.3, 3)
    found = text_scores([said, wanted], [wanted]).statistics[CHRF2]
    drawn = np.random.default_rng(0).integers(25, size=(6, 25))
    counts = np.stack([np.bincount(row, minlength=25) for row in drawn]).astype(float)
    for row, scores in zip(drawn, found.resampled(counts), strict=True):
        theirs = sacrebleu.CHRF().corpus_score([said[i] for i in row], [[wanted[i] for i in row]]).score
        assert scores[0] == pytest.approx(theirs, abs=1e-9)
        assert scores[1] == pytest.approx(100)


def test_one_seed_has_the_library_s_interval_over_sentences():
    said, wanted = corpus(200, 0.3, 4)
    theirs = sacrebleu.BLEU().corpus_score(said, [wanted], n_bootstrap=2000)
    own = score_interval(text_scores([said], [wanted]).statistics[BLEU], 2000, seed=1)
    assert own.over == "sentences"
    assert own.score == pytest.approx(theirs.score, abs=1e-9)
    assert (own.high - own.low) / 2 == pytest.approx(theirs._ci, rel=0.08)


def test_intervals_come_out_the_same_twice_and_differ_with_the_seed():
    found = simulated(3, 50, 1, 0.2, 1, np.random.default_rng(5))
    assert score_interval(found, 200, 7) == score_interval(found, 200, 7)
    assert score_interval(found, 200, 7) != score_interval(found, 200, 8)
    bare = score_interval(found, 0)
    assert math.isnan(bare.low)
    assert bare.score == score_interval(found, 200).score


def test_what_the_sentences_do_to_all_seeds_does_not_average_out_over_seeds():
    rng = np.random.default_rng(6)
    shared = np.repeat(rng.standard_normal((1, 300)), 4, axis=0)
    widths = [score_interval(SentenceStatistics.of_numbers("x", rows, (-9, 9)), 1000) for rows in (shared[:1], shared)]
    alone, many = (found.high - found.low for found in widths)
    assert many == pytest.approx(alone, rel=0.03)


def test_of_seeds_alone_the_interval_is_student_s():
    by_seed = np.array([30.1, 31.4, 29.6, 30.7])
    found = score_interval(SentenceStatistics.of_numbers("x", np.repeat(by_seed[:, None], 20, axis=1)), 100)
    half = 3.182446305284263 * by_seed.std(ddof=1) / 2  # Student's quantile of 3 degrees of freedom
    assert (found.low, found.high) == pytest.approx((by_seed.mean() - half, by_seed.mean() + half), abs=1e-6)
    assert found.over == "seeds and sentences"


def test_intervals_stay_within_what_a_score_can_be():
    rng = np.random.default_rng(7)
    right = SentenceStatistics.of_numbers("exact match", 100.0 * (rng.random((2, 30)) < 0.95))
    found = score_interval(right)
    assert 0 <= found.low <= found.score <= found.high <= 100


def shares(*seeds, n=50):
    """Exact match of so many sentences, of which each seed has these right."""
    numbers = np.zeros((len(seeds), n))
    for row, right in zip(numbers, seeds, strict=True):
        row[list(right)] = 100
    return SentenceStatistics.of_numbers("exact match", numbers)


def test_seeds_that_score_alike_by_chance_do_not_make_it_certain():
    first, second = shares(range(10), range(10, 20)), shares(range(20, 26), range(26, 32))
    assert first.corpus().tolist() == [20, 20]
    found = score_interval(first)
    assert found.low < 20 - 4 < 20 + 4 < found.high
    paired = compare_settings(first, second, resamples=200)
    assert paired.low < 0 < paired.high
    assert paired.p > 0.05


def test_no_p_value_is_smaller_than_resamples_can_tell():
    far = compare_settings(shares(range(50), range(50)), shares([], []), resamples=99)
    assert far.p == pytest.approx(0.01)


def test_of_one_sentence_nothing_can_be_resampled():
    for R in (1, 3):
        one = simulated(R, 1, 1, 0.2, 1, np.random.default_rng(0))
        for found in (score_interval(one), compare_settings(one, one)):
            assert math.isnan(found.low) and math.isnan(found.high)


@pytest.mark.parametrize(("right", "low", "high"), [(0, 0, 7.1348), (10, 11.2438, 33.0371), (50, 92.8652, 100)])
def test_a_share_of_one_seed_has_wilson_s_interval(right, low, high):
    found = score_interval(shares(range(right)))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)
    assert found == score_interval(shares(range(right)), seed=1)


@pytest.mark.parametrize("right", [0, 1, 50])
def test_all_seeds_right_or_wrong_everywhere_is_not_certain(right):
    found = score_interval(shares(range(right), range(right)))
    assert 0 <= found.low <= found.score <= found.high <= 100
    assert found.high - found.low > 5


# paired comparisons


def test_one_pair_has_the_library_s_p_value():
    said, wanted = corpus(150, 0.30, 8)
    other, _ = corpus(150, 0.34, 8)
    metrics = {"BLEU": sacrebleu.BLEU(), "chrF2": sacrebleu.CHRF()}
    test = significance.PairedTest([("a", said), ("b", other)], metrics, [wanted], "ar", n_samples=4000)
    theirs = test()[1]
    for name in ("BLEU", "chrF2"):
        a, b = (text_scores([texts], [wanted]).statistics[name] for texts in (said, other))
        own = compare_settings(b, a, trials=4000, seed=3)
        p = theirs[name][1].p_value
        assert own.score == pytest.approx(theirs[name][1].score - theirs[name][0].score, abs=1e-9)
        assert 0.001 < p < 0.9
        assert own.p == pytest.approx(p, abs=5 * math.sqrt(2 * p * (1 - p) / 4000))


def test_equal_translations_do_not_differ():
    said, wanted = corpus(40, 0.3, 9)
    one = text_scores([said], [wanted]).statistics[BLEU]
    alone = compare_settings(one, one)
    two = text_scores([said, wanted], [wanted]).statistics[BLEU]
    paired = compare_settings(two, two)
    for found in (alone, paired):
        assert (found.score, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_p_values_and_intervals_over_seeds_agree_about_0():
    rng = np.random.default_rng(10)
    said_yes = 0
    for trial in range(60):
        base, other = (simulated(4, 80, 1, 0.1, 1, rng) for _ in range(2))
        moved = SentenceStatistics.of_numbers("x", other.values[..., 0] + 0.3, (-100.0, 100.0))
        found = compare_settings(moved, base, resamples=100, seed=trial)
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high)
        said_yes += found.p < 0.05
    assert 0 < said_yes < 60


def test_pairing_takes_out_what_sentences_and_seeds_do_to_both():
    rng = np.random.default_rng(11)
    base = simulated(4, 100, 5, 2, 0.1, rng).values[..., 0]
    a, b = (SentenceStatistics.of_numbers("x", base + m, (-100.0, 100.0)) for m in (0.2 * rng.random(base.shape), 0))
    found = compare_settings(a, b)
    assert found.p < 0.001
    assert found.high - found.low < 0.2 * (score_interval(a).high - score_interval(a).low)


def test_many_comparisons_are_corrected_for_their_number():
    rng = np.random.default_rng(12)
    several = {name: simulated(3, 60, 1, 0.1, 1, rng) for name in "abcd"}
    against = compare_all(several, "b", resamples=100)
    assert [(d.first, d.second) for d in against] == [("a", "b"), ("c", "b"), ("d", "b")]
    every = compare_all(several, resamples=100)
    assert len(every) == 6
    for found in (against, every):
        smallest = min(found, key=lambda d: d.p)
        assert smallest.corrected == pytest.approx(min(1, smallest.p * len(found)))
        assert all(d.corrected >= d.p for d in found)
    with pytest.raises(UserError):
        compare_all(several, "e")


def test_settings_that_cannot_be_paired_are_refused():
    rng = np.random.default_rng(13)
    first = simulated(3, 60, 1, 0, 1, rng)
    for other in (simulated(2, 60, 1, 0, 1, rng), simulated(3, 59, 1, 0, 1, rng)):
        with pytest.raises(UserError):
            compare_settings(first, other)
    with pytest.raises(UserError):
        SentenceStatistics.of_numbers("x", np.zeros((0, 4)))
    for how in ({"resamples": 19}, {"trials": -1}, {"seed": -1}):
        with pytest.raises(UserError):
            compare_settings(first, first, **how)
