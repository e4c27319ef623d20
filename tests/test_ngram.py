"""The n-gram baseline, held to a literal implementation with dictionaries."""

import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import UserError
from shoal.tasks.text.corpus import read_corpus, split
from shoal.tasks.text.ngram import best_order, fit_ngram, ngram_baseline
from shoal.tasks.text.tokenizers import make_tokenizer

SHAKESPEARE = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare.txt"
some = settings(max_examples=60, deadline=None)


def literal(train: list[int], V: int, history: tuple[int, ...], token: int) -> float:
    """p(token | history) by the formula, counting anew."""
    follows: dict[tuple[int, ...], Counter] = defaultdict(Counter)
    m = len(history)
    for place in range(m, len(train)):
        follows[tuple(train[place - m : place])][train[place]] += 1
    lower = literal(train, V, history[1:], token) if m else 1 / V
    seen = follows[history]
    if not seen:
        return lower
    return (seen[token] + len(seen) * lower) / (sum(seen.values()) + len(seen))


@st.composite
def texts(draw):
    V = draw(st.integers(1, 5))
    token = st.integers(0, V - 1)
    return V, draw(st.lists(token, max_size=25)), draw(st.lists(token, max_size=12))


@some
@given(texts(), st.integers(1, 5))
def test_the_formula(given_texts, order):
    V, train, valid = given_texts
    nats = fit_ngram(np.array(train, dtype=np.int64), V, order).nats(np.array(valid, dtype=np.int64))
    assert nats.shape == (order, len(valid))
    for n in range(1, order + 1):
        expected = [
            -math.log(literal(train, V, tuple(valid[max(0, i - n + 1) : i]), token)) for i, token in enumerate(valid)
        ]
        assert nats[n - 1] == pytest.approx(expected, abs=1e-12)


@some
@given(texts(), st.integers(1, 6))
def test_probabilities_sum_to_one(given_texts, order):
    V, train, history = given_texts
    model = fit_ngram(train, V, order)
    last = np.array([model.nats([*history, token])[:, -1] for token in range(V)])  # (V, orders)
    assert np.exp(-last).sum(0) == pytest.approx(np.ones(order))


def test_large_vocabularies_do_not_overflow():
    V = 2**31 - 1
    train = np.array([V - 1, V - 2, V - 3] * 40)
    nats = fit_ngram(train, V, 12).nats(train[:30])
    few = fit_ngram(train - (V - 3), 3, 12).nats(train[:30] - (V - 3))
    assert np.exp(-nats[:, 15:]) == pytest.approx(np.exp(-few[:, 15:]), abs=0.02)
    assert nats[-1, 15:].max() < 0.1


def test_the_best_order_and_the_sum():
    train = torch.tensor([0, 1, 2] * 30)
    frame = ngram_baseline(train, torch.tensor([0, 1, 2] * 5), 3, orders=[3, 1, 2])
    assert frame["order"].to_list() == [3, 1, 2]
    assert frame["nats"].to_list() == pytest.approx((frame["nats_per_token"] * 15).to_list())
    assert best_order(frame) == min(frame.rows(), key=lambda row: row[1])[0] != 1
    whole = ngram_baseline(train, torch.tensor([0, 1, 2] * 5), 3)
    assert whole["order"].to_list() == list(range(1, 9))
    assert whole["nats_per_token"][:3].to_list() == [frame["nats_per_token"][i] for i in (1, 2, 0)]
    assert best_order(ngram_baseline([], [0, 1, 2], 3)) == 1


@pytest.mark.parametrize(
    "asked",
    [
        ([0, 3], [0], 3), ([0], [-1], 3), ([0.5], [0], 3), ([[0]], [0], 3), ([0], [], 3), ([0], [0], 0),
        ([0], [0], True), ([0], [0], 3, []), ([0], [0], 3, [0]), ([0], [0], 3, [33]), ([0], [0], 3, [1.5]),
    ],
)  # fmt: skip
def test_what_cannot_be_counted_is_refused(asked):
    with pytest.raises(UserError):
        ngram_baseline(*asked)


@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason="Tiny Shakespeare is not here")
def test_tiny_shakespeare():
    text = read_corpus([str(SHAKESPEARE)]).text
    tokenizer = make_tokenizer("chars", "", text)
    train, valid = (tokenizer.encode(part) for part in split(text, 0.1))
    assert (len(train), len(valid), tokenizer.vocabulary_size) == (1_003_854, 111_540, 65)
    frame = ngram_baseline(train, valid, 65)
    expected = [3.347330337, 2.485770555, 2.049233694, 1.773803715, 1.668828503, 1.698075393, 1.779216620, 1.875803160]
    assert frame["nats_per_token"].to_list() == pytest.approx(expected, abs=1e-8)  # by dictionaries, as above
    assert best_order(frame) == 5
    assert ngram_baseline(train, valid, 65).equals(frame)
