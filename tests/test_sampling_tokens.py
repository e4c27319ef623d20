"""Temperature, top-k, top-p and the draw, against literal loops, published cases and a chi-square test."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from shoal.decoding import Sampling, check_sampling, draw, filtered
from shoal.errors import UserError
from shoal.keyed import uniform

some = settings(max_examples=100, deadline=None)
logits = st.lists(st.sampled_from([-3.0, -1.0, -0.5, 0.0, 0.25, 1.0, 2.0, 4.0]), min_size=1, max_size=8)


def kept(values: list[float], **how) -> dict[int, float]:
    """The tokens that may be drawn, with their probabilities."""
    found = filtered(torch.tensor(values), **how)
    p = found.softmax(-1)
    return {token: float(p[token]) for token in range(len(values)) if found[token] > -math.inf}


@pytest.mark.parametrize(("k", "expected"), [(2, {1: 0.731059, 3: 0.268941}), (1, {1: 1.0})])
def test_top_k_keeps_the_likeliest(k, expected):
    assert kept([-5, -1, -3, -2], top_k=k) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [4, 9])
def test_from_the_whole_vocabulary_on_all_are_kept(k):
    assert kept([-5, -1, -3, -2], top_k=k) == kept([-5, -1, -3, -2])


@pytest.mark.parametrize("k", [1, 2, 3])
def test_ties_at_k_are_all_kept(k):
    assert set(kept([1, 2, 2, 2], top_k=k)) == {1, 2, 3}


@pytest.mark.parametrize(
    ("p", "expected"), [(0.05, {0}), (0.45, {0}), (0.55, {0, 1}), (0.79, {0, 1}), (0.81, {0, 1, 2}), (1, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, expected):
    assert set(kept([math.log(share) for share in (0.5, 0.3, 0.15, 0.05)], top_p=p)) == expected


def test_at_a_tie_top_p_keeps_the_lower_index():
    assert set(kept([1, 1, 1, 1], top_p=0.5)) == {0, 1}


def literally(values: list[float], temperature: float, top_k: int | None, top_p: float | None) -> dict[int, float]:
    scaled = {token: value / temperature for token, value in enumerate(values)}
    if top_k is not None:
        least = sorted(scaled.values(), reverse=True)[min(top_k, len(scaled)) - 1]
        scaled = {token: value for token, value in scaled.items() if value >= least}
    total = sum(math.exp(value) for value in scaled.values())
    p = {token: math.exp(value) / total for token, value in scaled.items()}
    if top_p is not None and top_p < 1:
        chosen, mass = {}, 0.0
        for token in sorted(p, key=lambda token: (-p[token], token)):
            if mass >= top_p:
                break
            chosen[token] = p[token]
            mass += p[token]
        p = {token: share / mass for token, share in chosen.items()}
    return p


@some
@given(
    logits,
    st.sampled_from([0.3, 1.0, 2.5]),
    st.sampled_from([None, 1, 2, 5, 20]),
    st.sampled_from([None, 0.0123, 0.377, 0.913, 1.0]),
)
def test_filters_equal_literal_loops_in_the_order_temperature_k_p(values, temperature, top_k, top_p):
    found = kept(values, temperature=temperature, top_k=top_k, top_p=top_p)
    assert found == pytest.approx(literally(values, temperature, top_k, top_p), abs=1e-5)


def test_the_order_matters_and_is_temperature_first():
    values = [math.log(share) for share in (0.4, 0.3, 0.2, 0.1)]
    assert set(kept(values, temperature=10.0, top_p=0.6)) == {0, 1, 2}  # nearly even by then
    assert set(kept(values, temperature=0.1, top_p=0.6)) == {0}
    assert set(kept(values, top_k=2, top_p=0.56)) == {0}  # 0.4 of 0.7 is 0.571


@pytest.mark.parametrize("temperature", [1e-37, 1e-3, 1e37])
def test_no_temperature_makes_a_number_that_is_none(temperature):
    p = filtered(torch.tensor([3e4, 3e4 - 1, -3e4, -math.inf]), temperature, top_p=0.9).softmax(-1)
    assert p.isfinite().all()
    assert float(p.sum()) == pytest.approx(1)
    assert p[3] == 0


def test_rows_are_filtered_each_alone():
    values = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    whole = filtered(values, 0.7, 4, 0.8)
    for a in range(3):
        for b in range(4):
            assert torch.equal(whole[a, b], filtered(values[a, b], 0.7, 4, 0.8))


@some
@given(logits, st.floats(0, 1, exclude_max=True, width=32), st.sets(st.integers(0, 7)))
def test_a_draw_inverts_the_cumulative_probabilities(values, u, hidden):
    log_p = torch.tensor(values).log_softmax(-1)
    for token in hidden - {int(log_p.argmax())}:
        log_p[token : token + 1] = -math.inf
    token = int(draw(log_p, torch.tensor(u)))
    p = log_p.double().exp()
    assert p[token] > 0
    assert float(p[:token].sum() / p.sum()) <= u + 1e-9
    assert u < float(p[: token + 1].sum() / p.sum()) + 1e-9


def test_tokens_without_probability_are_never_drawn_at_either_end():
    log_p = torch.tensor([-math.inf, 0.5, -math.inf, 0.5, -math.inf]).log_softmax(-1)
    ends = torch.tensor([0.0, 0.5 - 2**-24, 0.5, 1 - 2**-24])
    assert draw(log_p.expand(4, 5), ends).tolist() == [1, 1, 3, 3]
    assert draw(torch.tensor([0.0, -math.inf]), torch.tensor(1 - 2**-24)) == 0


def counts_of(values: Tensor, n: int, key: int, **how) -> Tensor:
    log_p = filtered(values, **how).log_softmax(-1)
    return draw(log_p.expand(n, -1), uniform(torch.tensor(key), n)).bincount(minlength=len(values))


@pytest.mark.parametrize(
    "how", [{}, {"temperature": 2.0}, {"top_k": 4}, {"top_p": 0.9}, {"temperature": 0.5, "top_k": 5}]
)
def test_draws_have_the_frequencies_of_the_softmax(how):
    n, values = 40_000, torch.randn(12, generator=torch.Generator().manual_seed(1))
    counts, p = counts_of(values, n, 11, **how), filtered(values, **how).softmax(-1).double()
    assert not counts[p == 0].any()
    assert chisquare(counts[p > 0].numpy(), n * (p[p > 0] / p.sum()).numpy()).pvalue > 1e-3
    other = (values + 0.15 * torch.randn(12, generator=torch.Generator().manual_seed(2))).softmax(-1).double()
    assert how or chisquare(counts.numpy(), n * (other / other.sum()).numpy()).pvalue < 1e-6  # it would be noticed


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": math.inf},
        {"temperature": math.nan},
        {"temperature": 1e-60},
        {"temperature": 1e60},
        {"top_k": 0},
        {"top_k": -3},
        {"top_k": 1.5},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"top_p": -0.1},
        {"top_p": math.nan},
    ],
    ids=str,
)
def test_what_no_token_can_be_drawn_with_is_refused_in_one_line(wrong):
    (name,), (value,) = wrong, wrong.values()
    for refuse in (
        lambda: check_sampling(**{"temperature": 1.0, **wrong}, vocabulary_size=65),
        lambda: Sampling(**wrong),
    ):
        with pytest.raises(UserError) as caught:
            refuse()
        message = str(caught.value)
        assert name in message and str(value) in message and "\n" not in message


def test_what_is_allowed_is_let_through():
    for how in ((1.0, None, None), (0.01, 1, 1.0), (100.0, 10**6, 1e-6)):
        check_sampling(*how, vocabulary_size=65)
