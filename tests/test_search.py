"""Beam and exhaustive search against literal ones, and what a row owes to its neighbours: nothing."""

import itertools
import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from searching import Hashed, Table, all_texts, equations_12_and_13, two_b_candidates

from shoal.decoding import (
    PLACES,
    STOPS,
    Beam,
    Hypotheses,
    beam_search,
    check_exhaustive,
    exhaustive_search,
    generate_from,
)
from shoal.decoding.ranking import candidates, likeliest
from shoal.errors import UserError

some = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**20)
penalties = st.sampled_from([0.0, 1.0, 0.6, 2.0, -0.7])
EOS = 1


def texts(found: Hypotheses, r: int, n: int) -> list[tuple[int, ...]]:
    return [tuple(found.written(r, n, k)) for k in range(found.lengths.shape[2]) if found.lengths[r, n, k] > 0]


def equal(one: Hypotheses, other: Hypotheses) -> bool:
    return all(torch.equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(Hypotheses))


def expect(found: Hypotheses, r: int, n: int, expected: list) -> None:
    """The same texts, scores and log probabilities, in the same order."""
    assert texts(found, r, n) == [text for _, text, _ in expected]
    k = len(expected)
    assert found.scores[r, n, :k].tolist() == pytest.approx([score for score, _, _ in expected], abs=1e-12)
    assert found.log_p[r, n, :k].tolist() == pytest.approx([log_p for _, _, log_p in expected], abs=1e-12)
    assert found.finished[r, n, :k].tolist() == [text[-1] == EOS for _, text, _ in expected]
    assert (found.scores[r, n, k:] == -math.inf).all()


# ---- exhaustive search


@some
@given(seeds, st.integers(2, 3), st.integers(1, 4), st.sampled_from([None, 0, EOS]), penalties)
def test_exhaustive_search_tries_all(seed, V, T, eos, alpha):
    model = Hashed([seed, seed + 1], [5, 6], V, eos=eos, ending=2.0)
    best = min(5, V**T)
    found = exhaustive_search(model, *model.begin(), T, best, eos=eos, length_penalty=alpha)
    for r in range(2):
        for n in range(2):
            expected = all_texts(model.alone(r, n), V, T, eos, alpha)[:best]
            assert texts(found, r, n) == [text for _, text, _ in expected]
            scores = [score for score, _, _ in expected]
            assert found.scores[r, n, : len(scores)].tolist() == pytest.approx(scores, abs=1e-12)
    assert sum(model.rows) <= 4 * sum(V**t for t in range(1, T))  # each prefix once


@pytest.mark.parametrize("rows", [1, 4, 7, 100])
def test_prefixes_may_be_computed_in_any_parts(rows):
    model = Hashed([1, 2], [3, 4], 4, eos=EOS)
    found = exhaustive_search(model, *model.begin(), 5, 20, eos=EOS, rows_at_once=rows)
    assert max(model.rows) <= 2 * max(rows, 2)
    assert equal(found, exhaustive_search(model, *model.begin(), 5, 20, eos=EOS))


def test_what_is_too_large_is_refused_at_once():
    with pytest.raises(UserError, match=r"10000\^10 = about 10\^40"):
        check_exhaustive(10_000, 10)
    with pytest.raises(UserError, match=r"11\^6 = 1,771,561 texts of each of 2 rows"):
        check_exhaustive(11, 6, rows=2)
    check_exhaustive(11, 6)
    check_exhaustive(10_000, 1)
    for best in (0, 10):
        with pytest.raises(UserError, match="from 1 to 9"):
            check_exhaustive(3, 2, best)
    with pytest.raises(UserError, match="max_new_tokens"):
        check_exhaustive(3, 0)


# ---- beam search


@some
@given(
    seeds,
    st.integers(2, 4),
    st.integers(1, 4),
    st.sampled_from([None, EOS]),
    st.sampled_from(list(PLACES)),
    st.sampled_from(["n_best", "none"]),
    st.sampled_from([None, 1, 2, 4]),
    penalties,
)
def test_a_beam_as_wide_as_there_are_texts_is_exhaustive_search_to_the_bit(
    seed, V, T, eos, finished, stop, levels, alpha
):
    model = Hashed([seed, seed + 1], [3, 4], V, levels=levels, eos=eos, ending=1.0)
    found = beam_search(model, *model.begin(), T, Beam(V**T, finished, stop, alpha), eos=eos).hypotheses
    assert equal(found, exhaustive_search(model, *model.begin(), T, V**T, eos=eos, length_penalty=alpha))


@some
@given(seeds, st.integers(2, 5), st.integers(1, 6), st.integers(1, 4), st.sampled_from([-1.0, 0.0, 2.0]))
def test_keeps_is_equations_12_and_13(seed, V, T, b, ending):
    b = min(b, V**T)
    model = Hashed([seed, seed + 1], [3, 4, 5], V, eos=EOS, ending=ending)
    found = beam_search(model, *model.begin(), T, Beam(b, "keeps", "none"), eos=EOS)
    stopped = beam_search(model, *model.begin(), T, Beam(b, "keeps", "optimal"), eos=EOS)
    for r in range(2):
        for n in range(3):
            expected, best, expanded = equations_12_and_13(model.alone(r, n), b, T, EOS)
            assert int(found.expanded[r, n]) == expanded
            expect(found.hypotheses, r, n, expected[:b])
            assert texts(stopped.hypotheses, r, n)[0] == expected[0][1]
            if stopped.saved[r, n]:
                at = int(stopped.steps[r, n])
                assert best[at - 1] == pytest.approx(float(stopped.hypotheses.scores[r, n, 0]), abs=1e-12)
                assert best[-1] == best[at - 1]  # what T3.4 asks to be proved


@some
@given(seeds, st.integers(2, 5), st.integers(1, 6), st.integers(1, 4), st.sampled_from([-1.0, 0.0, 2.0]), penalties)
def test_releases_is_2b_candidates_and_a_certain_list(seed, V, T, b, ending, alpha):
    b = min(b, V**T)
    model = Hashed([seed, seed + 1], [3, 4, 5], V, eos=EOS, ending=ending)
    found = beam_search(model, *model.begin(), T, Beam(b, "releases", "n_best", alpha), eos=EOS)
    for r in range(2):
        for n in range(3):
            expected, steps = two_b_candidates(model.alone(r, n), b, T, EOS, alpha)
            expect(found.hypotheses, r, n, expected)
            assert int(found.steps[r, n]) == steps


def test_what_a_place_that_is_kept_costs():
    after = {(): [-1.0, -0.5, -1.2], (0,): [-4.0, -5.0, -6.0], (2,): [-9.0, -0.1, -9.0]}
    table = Table(lambda text: after.get(text, [-9.0] * 3))  # also of places where nothing lives
    found = {
        finished: beam_search(table, *table.begin(), 2, Beam(2, finished, "none"), eos=1, from_logits=False)
        for finished in PLACES
    }
    assert texts(found["releases"].hypotheses, 0, 0) == [(1,), (2, 1)]
    assert texts(found["keeps"].hypotheses, 0, 0) == [(1,), (0, 0)]
    assert (int(found["releases"].expanded), int(found["keeps"].expanded)) == (3, 2)


@pytest.mark.parametrize("finished", PLACES)
@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.5])
def test_stopping_never_changes_what_is_certain_in_1000_models(finished, alpha):
    R, V, T, b = 1000, 5, 8, 3
    model = Hashed(range(R), [0], V, eos=EOS, ending=1.0)
    found = {
        stop: beam_search(model, *model.begin(), T, Beam(b, finished, stop, alpha), eos=EOS, padding=EOS)
        for stop in STOPS
    }
    whole = found["none"]
    assert equal(found["n_best"].hypotheses, whole.hypotheses)
    best = torch.zeros(R, 1, 1, dtype=torch.int64)
    assert equal(found["optimal"].hypotheses.take(best), whole.hypotheses.take(best))
    for stop in ("optimal", "n_best", "first"):
        saved = found[stop].saved
        assert ((saved == 0) | (saved == T - found[stop].steps)).all()
        assert int(saved.sum()) > 0
        assert int(found[stop].steps.sum()) < int(whole.steps.sum())
    assert (found["optimal"].steps <= found["n_best"].steps).all()
    # The b best are not certain by the rule for the best, and nothing is by the third.
    others = (found["optimal"].hypotheses.scores != whole.hypotheses.scores).any(-1)
    assert 0 < int(others.sum()) < R
    if alpha > 0:  # which a long one may win
        assert not equal(found["first"].hypotheses.take(best), whole.hypotheses.take(best))


def test_a_list_that_the_rule_for_the_best_cuts_short():
    # 1 ends at -0.3; 0 goes on at -1.3 and ends at -1.5, which the list of two lacks when the best is certain at once.
    table = Table(lambda text: [-1.3, -0.3, -9.0] if not text else [-2.0, -0.2, -3.0])
    found = {
        stop: beam_search(table, *table.begin(), 3, Beam(2, stop=stop), eos=1, from_logits=False)
        for stop in ("optimal", "n_best")
    }
    assert texts(found["n_best"].hypotheses, 0, 0) == [(1,), (0, 1)]
    assert texts(found["optimal"].hypotheses, 0, 0) == [(1,)]
    assert found["optimal"].steps.tolist() == [[1]]
    assert found["optimal"].saved.tolist() == [[2]]
    assert found["n_best"].steps.tolist() == [[2]]


def naively_over(live: float, length: int, best: float, alpha: float) -> bool:
    """T3.4's rule as it is written, of normalised scores."""
    return live / length**alpha <= best


@pytest.mark.parametrize(
    ("alpha", "first", "then", "best"),
    [
        (1.0, [-1.1, -1.0], [-3.0, -0.1], -0.6),  # -1.2 of two tokens is better than -1.0 of one
        (-1.0, [-0.45, -1.0], [-3.0, -0.0], -0.9),  # the bound at the longest length, -0.45 · 9, is none
    ],
)
def test_the_rule_for_log_probabilities_is_wrong_for_normalised_scores(alpha, first, then, best):
    T = 9
    table = Table(lambda text: first if not text else then)
    found = beam_search(table, *table.begin(), T, Beam(2, "releases", "optimal", alpha), eos=1, from_logits=False)
    assert texts(found.hypotheses, 0, 0)[0] == (0, 1)
    assert float(found.hypotheses.scores[0, 0, 0]) == pytest.approx(best)
    if alpha > 0:
        assert naively_over(first[0], 1, first[1], alpha)
    else:
        assert first[0] / T**alpha <= first[1]
    whole = exhaustive_search(table, *table.begin(), T, 1, eos=1, length_penalty=alpha, from_logits=False)
    assert texts(whole, 0, 0) == [(0, 1)]


@pytest.mark.parametrize(
    ("width", "stop", "alpha", "first"),
    [
        (2, "optimal", 0.0, [-1.0, -1.0]),  # at a tie the finished one stays first
        (1, "n_best", 0.0, [-1.0, -1.0]),
        (2, "optimal", -1.0, [-1.0, -0.6]),  # of two tokens the other would have -1.2, at best
    ],
)
def test_it_stops_as_soon_as_it_may(width, stop, alpha, first):
    table = Table(lambda text: first if not text else [-0.5, -0.5])
    found = beam_search(table, *table.begin(), 9, Beam(width, "releases", stop, alpha), eos=0, from_logits=False)
    assert texts(found.hypotheses, 0, 0) == [(0,)]
    assert found.steps.tolist() == [[1]]
    assert found.saved.tolist() == [[8]]


def test_when_first_stops():
    model = Hashed(range(200), [0], 5, eos=EOS, ending=1.0)
    found = beam_search(model, *model.begin(), 8, Beam(3, "releases", "first"), eos=EOS)
    stopped = found.saved[:, 0] > 0
    assert int(stopped.sum()) > 20
    assert found.hypotheses.finished[stopped].all()
    earlier = beam_search(model, *model.begin(), 8, Beam(3, "releases", "none"), eos=EOS, record=True)
    for r in stopped.nonzero().squeeze(-1).tolist():
        ends = [own.step for own in earlier.trees[r][0].candidates if own.fate == "finished"]
        assert sorted(ends)[2] == int(found.steps[r, 0])


# ---- rows


@pytest.mark.parametrize("finished", PLACES)
@pytest.mark.parametrize("stop", STOPS)
def test_a_row_alone_is_as_in_any_batch_and_a_member_as_in_any_stack(finished, stop):
    members, prompts = [4, 9, 2], [3, 1, 4, 15, 92, 6, 5, 35, 8]

    def search(members, prompts):
        model = Hashed(members, prompts, 6, eos=EOS, ending=1.5)
        return beam_search(model, *model.begin(), 9, Beam(3, finished, stop, 0.5), eos=EOS), model

    together, model = search(members, prompts)
    if stop != "none":
        assert model.rows[-1] < model.rows[0]  # rows that are done have left
    assert sum(model.rows) >= int((together.steps - 1).sum()) * 3
    for r, member in enumerate(members):
        stacked, _ = search([member], prompts)
        for n, prompt in enumerate(prompts):
            alone, _ = search([member], [prompt])
            for found, at in ((together, (r, n)), (stacked, (0, n))):
                for field in fields(Hypotheses):
                    own = getattr(alone.hypotheses, field.name)
                    assert torch.equal(getattr(found.hypotheses, field.name)[at], own[0, 0])
                for name in ("steps", "saved", "expanded", "margins"):
                    assert getattr(found, name)[at] == getattr(alone, name)[0, 0]


class InPlace(Hashed):
    """Moves rows in place, those that have to, and says how many."""

    copied = 0

    def reorder(self, state, rows):
        stay = torch.arange(rows.shape[1]).expand_as(rows)
        text = state["text"]
        moving = rows != stay
        self.copied += int(moving.sum())
        text[moving] = text.gather(1, rows)[moving]
        return state


def test_what_belongs_to_the_source_is_not_moved_and_models_may_move_rows_themselves():
    made = [kind([1, 2], [3, 4, 5], 6, sharpness=2.0) for kind in (Hashed, InPlace)]
    found = [beam_search(model, *model.begin(), 7, Beam(3)).hypotheses for model in made]
    assert equal(*found)
    assert made[0].moved[0] == {"text", "memory_key"}  # from one row to three
    assert len(made[0].moved) > 1
    assert all(names == {"text"} for names in made[0].moved[1:])
    assert len(made[1].moved) == 1
    assert 0 < made[1].copied < 5 * 2 * 9


@pytest.mark.parametrize("first", [[-0.5, -1.0], [-0.5, -math.inf]])  # two that never cross, and one alone
def test_rows_that_stay_are_not_moved(first):
    table, calls = Table(lambda text: first if not text else [-0.1, -math.inf]), []
    table.select = lambda state, rows: calls.append(rows) or Table.select(table, state, rows)
    beam_search(table, *table.begin(), 6, Beam(2), from_logits=False)
    assert len(calls) == 1


# ---- order


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-3, 0), min_size=1, max_size=12), st.integers(1, 14))
def test_the_likeliest_at_a_tie_are_the_lower(values, k):
    found, tokens = likeliest(torch.tensor([[float(value) for value in values]]), k)
    order = sorted(range(len(values)), key=lambda token: (-values[token], token))[:k]
    assert tokens.tolist() == [sorted(order)]
    assert found.tolist() == [[float(values[token]) for token in sorted(order)]]


@settings(max_examples=200, deadline=None)
@given(seeds, st.integers(1, 4), st.integers(2, 9), st.integers(1, 7), st.sampled_from([2, 5, 1000]), st.booleans())
def test_candidates_are_the_first_of_all_sorted(seed, w, V, count, levels, are_large):
    """Whether one topk finds them, or one for each hypothesis before, or ties have to be told apart."""
    generator = torch.Generator().manual_seed(seed)
    so_far, log_p = (
        -torch.randint(levels, shape, generator=generator).double() / 64 for shape in ((2, 3, w), (2, 3, w, V))
    )
    so_far = so_far.sort(descending=True).values
    so_far[0, 0, w // 2 + 1 :] = -math.inf
    log_p[0, 0, w // 2 + 1 :] = math.nan
    log_p[1, :, :, 0] = -math.inf
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shoal.decoding.ranking.LARGE", 1 if are_large else 100)
        found = candidates(so_far, log_p, count, are_normal=True)
    for r, n in itertools.product(range(2), range(3)):
        sums = [(so_far[r, n, i] + log_p[r, n, i, token]).item() for i, token in itertools.product(range(w), range(V))]
        sums = [-math.inf if math.isnan(own) else own for own in sums]
        order = [at for at in sorted(range(w * V), key=lambda at: -sums[at]) if sums[at] > -math.inf][:count]
        assert found.log_p[r, n].tolist() == [sums[at] for at in order] + [-math.inf] * (count - len(order))
        k = len(order)
        assert found.parent[r, n, :k].tolist() == [at // V for at in order]
        assert found.token[r, n, :k].tolist() == [at % V for at in order]


def test_what_is_found_can_be_trained_with():
    model = Hashed([1, 2], [1, 2], 5, eos=EOS)
    found = beam_search(model, *model.begin(), 4, Beam(2), eos=EOS)
    own = [getattr(found.hypotheses, field.name) for field in fields(Hypotheses)]
    written = generate_from(model, *model.begin(), 4, eos=EOS)
    own += [found.steps, found.saved, found.expanded, found.margins, written.tokens, written.lengths, written.log_p]
    assert not any(tensor.is_inference() for tensor in own)


def test_equally_likely_hypotheses_come_in_the_order_of_their_indices():
    V, T, b = 40, 3, 7
    model = Hashed([1], [1], V, levels=1)
    found = beam_search(model, *model.begin(), T, Beam(b)).hypotheses
    assert texts(found, 0, 0) == [(0, 0, token) for token in range(b)]
    assert beam_search(model, *model.begin(), T, Beam(b)).margins.tolist() == [[0.0]]


def test_of_equal_scores_the_shorter_is_first():
    table = Table(lambda text: [-1.0, -1.0] if not text else [0.0, -9.0])
    for finished in PLACES:
        found = beam_search(table, *table.begin(), 3, Beam(2, finished, "none"), eos=0, from_logits=False)
        assert texts(found.hypotheses, 0, 0) == [(0,), (1, 0)]
    found = exhaustive_search(table, *table.begin(), 3, 2, eos=0, from_logits=False)
    assert texts(found, 0, 0) == [(0,), (1, 0)]


@some
@given(seeds, st.integers(2, 5), st.integers(1, 5), st.integers(1, 4))
def test_margins(seed, V, T, b):
    b = min(b, V**T)
    model = Hashed([seed], [3], V)
    found = beam_search(model, *model.begin(), T, Beam(b))
    alone, live, margin = model.alone(0, 0), [((), 0.0)], math.inf
    for _ in range(T):
        every = [((*y, token), s + log_p) for y, s in live for token, log_p in enumerate(alone(y))]
        every.sort(key=lambda own: -own[1])
        live = every[:b]
        if len(every) > b:
            margin = min(margin, every[b - 1][1] - every[b][1])
    assert float(found.margins[0, 0]) == pytest.approx(margin, abs=1e-12)


def test_a_narrow_choice_of_what_may_finish_counts_as_a_margin():
    # The end is second of two, and but 0.001 ahead of the next: had it been third, it would not have finished.
    table = Table(lambda text: [-0.5, -1.0, -1.001, -1.5])
    found = beam_search(table, *table.begin(), 1, Beam(2), eos=1, from_logits=False)
    assert float(found.margins[0, 0]) == pytest.approx(0.001)


# ---- greedy search that ends


@some
@given(seeds, st.integers(2, 6), st.integers(1, 8), st.sampled_from([0.0, 2.0]))
def test_greedy_search_ends(seed, V, T, ending):
    model = Hashed([seed, seed + 1], range(9), V, eos=EOS, ending=ending)
    found = generate_from(model, *model.begin(), T, eos=EOS, padding=V)
    for r in range(2):
        for n in range(9):
            following, text, log_p = model.alone(r, n), (), 0.0
            while len(text) < T and EOS not in text:
                p = following(text)
                text, log_p = (*text, p.index(max(p))), log_p + max(p)
            assert found.tokens[r, n].tolist() == [*text, *[V] * (T - len(text))]
            assert int(found.lengths[r, n]) == len(text)
            assert float(found.log_p[r, n].sum()) == pytest.approx(log_p, abs=1e-9)
    longest = int(found.lengths.max())
    assert len(model.rows) == longest - 1
    for t, rows in enumerate(model.rows, 1):  # those that are done have left, but for an eighth
        assert rows <= 2 * (int((found.lengths > t).sum(1).max()) + 9 / 8)


# ---- what is asked for


def test_bad_requests():
    model = Hashed([1], [1], 3)
    for width in (0, -2, 2.5, math.nan):
        with pytest.raises(UserError, match="from 1 to 10,000"):
            Beam(width)
    with pytest.raises(UserError, match="9 of 2, so at most that"):
        beam_search(model, *model.begin(), 2, Beam(10))
    beam_search(model, *model.begin(), 2, Beam(9))
    for new in (0, -1, 1.5):
        with pytest.raises(UserError, match="max_new_tokens"):
            beam_search(model, *model.begin(), new, Beam(1))
    with pytest.raises(UserError, match="did you mean 'optimal'"):
        Beam(stop="optimum")
    with pytest.raises(UserError, match="did you mean 'releases'"):
        Beam(finished="release")
    for alpha in (math.nan, math.inf, -math.inf, 1e6):
        with pytest.raises(UserError, match="length_penalty"):
            Beam(length_penalty=alpha)
    with pytest.raises(ValueError, match="eos"):
        beam_search(model, *model.begin(), 2, Beam(1), eos=3)


@pytest.mark.parametrize("finished", PLACES)
def test_what_a_model_says_where_nothing_lives_does_not_matter(finished):
    table = Table(lambda text: [math.nan] * 2 if 1 in text else [-0.5, -math.inf])
    found = beam_search(table, *table.begin(), 3, Beam(3, finished), from_logits=False)
    assert texts(found.hypotheses, 0, 0) == [(0, 0, 0)]
    assert texts(exhaustive_search(table, *table.begin(), 3, from_logits=False), 0, 0) == [(0, 0, 0)]


@pytest.mark.parametrize("wrong", [math.nan, 0.5])
def test_what_is_no_log_probability_is_refused(wrong):
    table = Table(lambda text: [-0.5, -1.0] if not text else [wrong, -1.0])
    with pytest.raises(ValueError, match="log probabilities"):
        beam_search(table, *table.begin(), 3, Beam(1), from_logits=False)
    with pytest.raises(ValueError, match="log probabilities"):
        exhaustive_search(table, *table.begin(), 3, from_logits=False)


@pytest.mark.parametrize("T", [1, 3])
def test_where_the_end_is_all_there_is_it_is_the_one_text(T):
    model = Hashed([0], [3], 1, eos=0)
    for found in (
        exhaustive_search(model, *model.begin(), T, eos=0),
        beam_search(model, *model.begin(), T, Beam(1), eos=0).hypotheses,
    ):
        assert texts(found, 0, 0) == [(0,)]
        assert found.log_p.tolist() == [[[0.0]]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"width": True}, "got True"),
        ({"width": 2.0}, "got 2.0"),
        ({"length_penalty": "1"}, "length_penalty must be from -50 to 50, got '1'"),
        ({"length_penalty": None}, "got None"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_refused(settings, said):
    with pytest.raises(UserError, match=said):
        Beam(**settings)


def test_a_tree_of_one_step_says_so():
    model = Hashed([0], [3], 4)
    (((tree,),),) = (beam_search(model, *model.begin(), 1, Beam(2), record=True).trees,)
    assert tree.text().splitlines()[-1].startswith("1 step: ")
