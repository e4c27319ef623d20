"""Trees of beam searches say what was found, as data, as text and as a picture."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from searching import Hashed, Table
from shown import foreign_signs, in_words

from shoal.decoding import PLACES, STOPS, Beam, beam_search
from shoal.report import Figure, beam_tree

EOS = 1
some = settings(max_examples=20, deadline=None)


@some
@given(
    st.integers(0, 2**20),
    st.integers(2, 5),
    st.integers(1, 6),
    st.integers(1, 4),
    st.sampled_from(list(PLACES)),
    st.sampled_from(list(STOPS)),
)
def test_a_tree_says_all_that_the_search_did(seed, V, T, b, finished, stop):
    b = min(b, V**T)
    model = Hashed([seed, seed + 1], [3, 4, 5, 6], V, eos=EOS, ending=1.0)
    found = beam_search(model, *model.begin(), T, Beam(b, finished, stop, 0.5), eos=EOS, record=True)
    for r in range(2):
        for n in range(4):
            tree, best = found.trees[r][n], found.hypotheses
            nodes = {own.node: own for own in tree.candidates}
            assert len(nodes) == len(tree.candidates)
            assert tree.steps == int(found.steps[r, n]) == max(own.step for own in tree.candidates)

            def text(own, nodes=nodes):
                return (*text(nodes[own.parent]), own.token) if own.parent else (own.token,)

            alone = model.alone(r, n)
            for own in tree.candidates:
                before = nodes.get(own.parent)
                assert own.step == (before.step + 1 if before else 1)
                assert before is None or before.fate == "kept"
                assert own.added == pytest.approx(alone(text(own)[:-1])[own.token], abs=1e-12)
                assert own.score == pytest.approx(own.log_p / own.step**0.5)
                assert (own.fate == "finished") <= (own.token == EOS)
                assert (own.fate == "cut") <= (own.step == T)
            for step in range(1, tree.steps + 1):
                ranks = [own for own in tree.candidates if own.step == step]
                assert [own.rank for own in ranks] == list(range(len(ranks)))
                assert sum(own.fate in ("kept", "cut") for own in ranks) <= b
            done = sorted(
                (own for own in tree.candidates if own.fate in ("finished", "cut")), key=lambda own: -own.score
            )
            expected = [best.written(r, n, k) for k in range(b) if best.lengths[r, n, k]]
            assert [list(text(own)) for own in done[:b]] == expected
            parents = {own.parent for own in tree.candidates} - {0}
            live = [own for own in tree.candidates if own.fate == "kept" and own.step < tree.steps]
            assert len(live) + 1 == int(found.expanded[r, n])
            assert parents <= {own.node for own in live}


def one(T: int = 8, b: int = 3, V: int = 6):
    model = Hashed([3], [4], V, eos=EOS, ending=1.5)
    return beam_search(model, *model.begin(), T, Beam(b, stop="n_best"), eos=EOS, record=True).trees[0][0]


def test_a_tree_as_text():
    tree, names = one(), ["zero", "one", "two", "three", "four", "five"]
    lines = tree.text(names, "start").splitlines()
    assert lines[0] == "start"
    assert len(lines) == len(tree.candidates) + 2
    assert str(tree.steps) in lines[-1]
    for own in tree.candidates:
        (line,) = [
            line for line in lines if line.split("─ ")[-1].split("  ")[0] == f"{names[own.token]} {own.log_p:.2f}"
        ]
        assert (own.fate in line) == (own.fate != "kept")
        assert line.index("─ ") == 3 * own.step - 2
    assert json.loads(json.dumps(tree.rows(names)))[0]["name"] in names


def test_a_tree_as_a_picture():
    tree = one()
    figure = Figure("tree", beam_tree(tree, "What a beam of 3 looked at", "abcdef"), "")
    assert in_words(figure)
    assert not foreign_signs(figure.spec)
    sizes = sorted(len(data) for data in figure.spec["datasets"].values())
    assert sizes[-2:] == [len(tree.candidates), len(tree.candidates) + 1]  # edges, and nodes with the root
    labels = [row["label"] for data in figure.spec["datasets"].values() for row in data if "label" in row]
    assert {f"{'abcdef'[own.token]} −{-own.log_p:.2f}" for own in tree.candidates} | {"BOS"} == set(labels)
    heights = {(row["step"], row["y"]) for data in figure.spec["datasets"].values() for row in data if "label" in row}
    assert len(heights) == len(tree.candidates) + 1  # none stands on another


def test_a_thicket_is_thinned_and_says_so():
    tree = one(T=30, b=8, V=40)
    figure = Figure("tree", beam_tree(tree, "A thicket"), "")
    assert "not drawn" in figure.alt
    kept = [own for own in tree.candidates if own.fate != "pruned"]
    assert max(len(data) for data in figure.spec["datasets"].values()) == len(kept) + 1 < len(tree.candidates)


def test_a_tree_of_nothing():
    table = Table(lambda text: [-math.inf, -math.inf])
    found = beam_search(table, *table.begin(), 3, Beam(2), from_logits=False, record=True)
    tree = found.trees[0][0]
    assert tree.candidates == ()
    assert tree.text().splitlines()[0] == "BOS"
    assert "none" in Figure("tree", beam_tree(tree, "Nothing"), "").alt
