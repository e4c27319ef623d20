"""Reproduction cards: the rule of the verdict, and that every card asks for what it says."""

import polars as pl
import pytest

from shoal.errors import UserError
from shoal.studies import Form
from shoal.studies.cards import NAMES, get_card
from shoal.studies.cards.page import conclusion
from shoal.studies.cards.verdict import Published, Verdict, _compare

LONG = 10**9


def judged(value, reached=(), ended=(), is_bound=False):
    published = Published("an event", value, "someone", is_bound=is_bound)
    times = [*reached, *ended]
    return _compare(published, times, [True] * len(reached) + [False] * len(ended))[0]


@pytest.mark.parametrize(
    ("value", "reached", "ended", "word"),
    [
        (100, [90, 110], [], "covered"),
        (100, [100], [], "covered"),
        (100, [50, 60], [], "not covered"),
        (100, [150, 160], [], "not covered"),
        (100, [], [200, 200], "not covered"),
        (100, [50], [200], "covered"),
        (100, [50], [80], "open"),
        (100, [], [80, 80], "open"),
        (100, [150], [80], "open"),
    ],
)
def test_a_time_is_covered_between_the_earliest_and_the_latest(value, reached, ended, word):
    assert judged(value, reached, ended) == word


@pytest.mark.parametrize(
    ("reached", "ended", "word"),
    [([50, 99], [], "covered"), ([50, 101], [], "not covered"), ([50], [200], "not covered"), ([50], [80], "open")],
)
def test_a_bound_is_covered_when_all_runs_stay_under_it(reached, ended, word):
    assert judged(100, reached, ended, is_bound=True) == word


def test_the_conclusion_names_what_is_not_covered():
    published = Published("it happens", 1000, "someone")
    empty = pl.DataFrame()
    words = [Verdict(published, empty, word, "because") for word in ("covered", "not covered", "open", "not run")]
    assert conclusion(words) == [
        "Verdict: of 4 published numbers our runs cover 1, do not cover 1, and leave 2 open.",
        "Not covered: it happens, 1,000 (because).",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_published_number_has_runs_in_the_full_form(name):
    card = get_card(name)
    specs = Form().specs(card)
    for published in card.PUBLISHED:
        own = [s for s in specs if all(getattr(s, key) == value for key, value in published.where.items())]
        assert len(own) >= 5
        if not published.column.startswith("t_"):
            assert all(spec.n_steps > published.value for spec in own)
    assert card.DEVIATIONS
    assert len(Form(quick=True).specs(card)) < len(specs)


def test_cards_hold_the_published_settings():
    (nanda,) = {
        (s.p, s.num_layers, s.norm, s.positions, s.beta2, s.weight_decay) for s in Form().specs(get_card("nanda-2023"))
    }
    assert nanda == (113, 1, "none", "learned", 0.98, 1.0)
    assert {s.r_train for s in Form().specs(get_card("nanda-2023"))} == {0.95, 0.9, 0.8, 0.5, 0.3, 0.28}
    (power,) = {
        (s.p, s.operator, s.optimizer, s.weight_decay, s.norm_position) for s in Form().specs(get_card("power-2022"))
    }
    assert power == (97, "/", "adam", 0.0, "post")
    with pytest.raises(UserError, match=r"unknown card 'nanda'.*did you mean 'nanda-2023'"):
        get_card("nanda")
