"""Searches whose answers are published: faults of other programs, and the tree of the practical (R2.4)."""

import math

import gpt2
import pytest
import torch
from searching import Table

from shoal.decoding import PLACES, Beam, beam_search, exhaustive_search, generate_from

NEVER = -math.inf


def found_by(table: Table, T: int, beam: Beam, N: int = 1, **options):
    found = beam_search(table, *table.begin(N), T, beam, from_logits=False, **options)
    best = found.hypotheses
    pairs = [(tuple(best.written(0, 0, k)), float(best.scores[0, 0, k])) for k in range(beam.width)]
    return [(text, score) for text, score in pairs if text], found


# ---- transformers#25455, #27558, #8890: what counts as length


@pytest.mark.parametrize("finished", PLACES)
def test_length_counts_what_was_written_with_its_end(finished):
    table = Table(lambda text: [-1.0, NEVER] if not text else [NEVER, -2.0])
    beam = Beam(1, finished, "none", length_penalty=1.0)
    for N in (1, 2):  # whatever stands before it, or in another row
        texts, found = found_by(table, 4, beam, N, eos=1)
        assert texts == [((0, 1), -1.5)]
        assert found.hypotheses.lengths[0].tolist() == [[2]] * N


def test_neither_prompt_nor_padding_counts():
    values, beam = [gpt2.weights(3, 3.0, 3.0)], Beam(3, "releases", "n_best", 1.0)
    prompts = [[3, 4, 5, 6, 7], [5, 4, 3, 8, 9, 10, 3, 3, 4]]  # of 5 and 9
    (together,), found = gpt2.our_beams(values, prompts, beam, 6)
    for n, prompt in enumerate(prompts):
        ((alone,),), _ = gpt2.our_beams(values, [prompt], beam, 6)
        assert [text for text, _ in alone] == [text for text, _ in together[n]]
        assert [score for _, score in alone] == pytest.approx([score for _, score in together[n]], abs=1e-5)
        for k, (text, score) in enumerate(together[n]):
            assert score == pytest.approx(float(found.hypotheses.log_p[0, n, k]) / len(text))


# ---- attention-is-all-you-need-pytorch#21, OpenNMT-py#920: b equal beams


def markov(start: list[float], rows: list[list[float]]) -> Table:
    return Table(lambda text: [math.log(p) for p in (rows[text[-1]] if text else start)])


def test_beams_do_not_begin_alike():
    table = markov([0.5, 0.3, 0.2], [[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]])
    texts, found = found_by(table, 3, Beam(2))
    assert [text for text, _ in texts] == [(0, 0, 0), (1, 1, 1)]
    assert [score for _, score in texts] == pytest.approx([-2.079442, -2.225624], abs=1e-6)
    assert found.expanded.tolist() == [[5]]
    for width in range(1, 28):
        texts, _ = found_by(table, 3, Beam(width))
        assert len({text for text, _ in texts}) == width


# ---- OpenNMT-py#1844: hypotheses of probability 0


@pytest.mark.parametrize("finished", PLACES)
@pytest.mark.parametrize(("width", "expected"), [(2, 2), (3, 3), (5, 4)])
def test_what_is_impossible_never_enters(finished, width, expected):
    def following(text: tuple[int, ...]) -> list[float]:
        scores = [NEVER] * 60
        scores[47], scores[47 + len(text) + 1] = -0.2, -0.1
        return scores

    texts, found = found_by(Table(following), 2, Beam(width, finished), record=True)
    assert len(texts) == expected
    assert texts[0] == ((48, 49), pytest.approx(-0.2))
    assert {text for text, _ in texts[1:3]} <= {(47, 49), (48, 47)}
    assert [score for _, score in texts] == pytest.approx([-0.2, -0.3, -0.3, -0.4][:expected])
    assert all(own.log_p > NEVER for own in found.trees[0][0].candidates)
    assert found.hypotheses.lengths[0, 0].tolist() == [2] * expected + [0] * (width - expected)


def test_where_nothing_is_possible_there_is_no_hypothesis():
    table = Table(lambda text: [-0.5, -1.0] if not text else [NEVER, NEVER])
    texts, found = found_by(table, 5, Beam(2))
    assert texts == []
    assert found.steps.tolist() == [[2]]
    assert found.saved.tolist() == [[0]]
    assert found.hypotheses.finished.any().item() is False


# ---- R2.4, with errata E12 and E21

WORDS = ["the", "a", "green", "red", "blue", "circle", "rectangle", "ellipse", "square", "triangle"]


def tree_of_the_practical(x: float) -> Table:
    """Log probabilities of its edges; the picture's children of (a, red) are lost, and their best is ``x``."""
    edges = {
        "": {"the": -1.7, "a": -2.0},
        "the": {"green": -3.6, "red": -3.3},
        "a": {"blue": -2.7, "red": -2.9},
        "the red": {"circle": -5.0, "rectangle": -4.7},
        "a blue": {"ellipse": -5.6, "square": -5.2},
        "a red": {"triangle": x},
    }

    def following(text: tuple[int, ...]) -> list[float]:
        below = edges.get(" ".join(WORDS[token] for token in text), {})
        return [below.get(word, NEVER) for word in WORDS]

    return Table(following)


def named(table: Table, beam: Beam) -> list[tuple[str, float]]:
    texts, _ = found_by(table, 3, beam)
    return [(" ".join(WORDS[token] for token in text), round(score, 6)) for text, score in texts]


GREEDY, SQUARE = ("the red rectangle", -9.7), ("a blue square", -9.9)


@pytest.mark.parametrize("x", [-4.0, -4.7, -4.9, -5.5, -9.0])
def test_the_tree_of_the_practical(x):
    table = tree_of_the_practical(x)
    triangle = ("a red triangle", round(-4.9 + x, 6))
    greedy = generate_from(table, *table.begin(), 3)
    assert " ".join(WORDS[token] for token in greedy.tokens[0, 0].tolist()) == GREEDY[0]
    assert named(table, Beam(1)) == [GREEDY]
    ellipse = ("a blue ellipse", -10.3)
    two = named(table, Beam(2))
    assert two == sorted([SQUARE, ellipse, triangle], key=lambda own: -own[1])[:2]  # greedy's is pruned
    assert (two[0][1] > GREEDY[1]) == (x > -4.8)  # else a beam of two is worse than none
    three = named(table, Beam(3))
    assert GREEDY in three
    assert three == sorted([GREEDY, SQUARE, ("the red circle", -10.0), ellipse, triangle], key=lambda own: -own[1])[:3]
    best = exhaustive_search(table, *table.begin(), 3, 3, from_logits=False)
    assert [round(score, 6) for score in best.scores[0, 0].tolist()] == [score for _, score in three]


def test_its_second_step_keeps_the_two_best():
    table = tree_of_the_practical(-5.5)
    found = beam_search(table, *table.begin(), 3, Beam(2), from_logits=False, record=True)
    second = [own for own in found.trees[0][0].rows(WORDS) if own["step"] == 2]
    assert [(own["name"], round(own["log_p"], 6), own["fate"]) for own in second] == [
        ("blue", -4.7, "kept"),
        ("red", -4.9, "kept"),
        ("red", -5.0, "pruned"),
        ("green", -5.3, "pruned"),
    ]
    assert float(found.margins[0, 0]) == pytest.approx(0.1)
    assert torch.equal(found.expanded, torch.tensor([[5]]))
