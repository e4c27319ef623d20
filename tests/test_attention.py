"""Where attention goes, against literal loops and closed forms."""

import math

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.analysis.attention import attention_by_position, attention_to_one, attention_weights, focus
from shoal.report.attention import attention_grid
from shoal.spec import RunSpec
from shoal.studies.attention import answers, position_names
from shoal.tasks.arithmetic.settings import equations_of
from shoal.tasks.build import build_model, build_task


def causal(N, L, H, S, seed=0):
    scores = torch.randn(N, L, H, S, S, generator=torch.Generator().manual_seed(seed))
    hidden = ~torch.ones(S, S, dtype=torch.bool).tril()
    return scores.masked_fill(hidden, -math.inf).softmax(-1)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(2, 5))
def test_means_are_those_of_a_literal_loop(N, L, H, S):
    weights = causal(N, L, H, S)
    frame = attention_by_position(weights)
    assert len(frame) == L * H * S * (S + 1) // 2
    for row in frame.iter_rows(named=True):
        expected = sum(float(weights[n, row["layer"], row["head"], row["query"], row["key"]]) for n in range(N)) / N
        assert row["weight"] == pytest.approx(expected, abs=1e-6)


def test_even_attention_has_no_focus_and_a_single_key_has_all():
    S = 4
    even = torch.ones(S, S).tril() / torch.arange(1, S + 1).unsqueeze(1)
    first = torch.zeros(S, S)
    first[:, 0] = 1
    weights = torch.stack([even, first]).reshape(1, 1, 2, S, S)
    found = focus(weights)[0]
    assert found[0, 1:].tolist() == pytest.approx([0.0] * (S - 1), abs=1e-6)
    assert found[1, 1:].tolist() == pytest.approx([1.0] * (S - 1))
    assert math.isnan(found[0, 0])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 2), st.integers(1, 2), st.integers(2, 5), st.data())
def test_how_often_one_key_has_nearly_all_is_counted(N, L, H, S, data):
    weights = (5 * causal(N, L, H, S).log()).softmax(-1)  # sharper
    query, above = data.draw(st.integers(0, S - 1)), data.draw(st.sampled_from([0.5, 0.7, 0.9]))
    rows = attention_to_one(weights, query, above).to_dicts()
    found = {(row["layer"], row["head"], row["key"]): row["share"] for row in rows}
    assert len(rows) == len(found) == L * H * (query + 2)
    for layer in range(L):
        for head in range(H):
            chosen = []
            for n in range(N):
                own = [float(weights[n, layer, head, query, key]) for key in range(query + 1)]
                chosen.append(own.index(max(own)) if max(own) > above else None)
            for key in (*range(query + 1), None):
                assert found[layer, head, key] == pytest.approx(chosen.count(key) / N, abs=1e-12)


def test_a_mean_of_halves_is_told_from_looks_at_both():
    names, S = ["a", "+", "b", "="], 4
    by_turns, both = torch.eye(S).repeat(10, 1, 1, 1, 1), torch.eye(S).repeat(10, 1, 1, 1, 1)  # one layer, one head
    by_turns[:5, ..., 3, :] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    by_turns[5:, ..., 3, :] = torch.tensor([0.0, 0.0, 1.0, 0.0])
    both[..., 3, :] = torch.tensor([0.5, 0.0, 0.5, 0.0])
    told = []
    for weights in (by_turns, both):
        means = attention_by_position(weights).with_columns(run=pl.lit("one"))
        alone = attention_to_one(weights, 3, 0.9).with_columns(run=pl.lit("one"))
        told.append(answers(means, alone, names, "10 equations"))
    assert told[0][1] == told[1][1]
    assert "0.50 at 'a' and 0.50 at 'b'" in told[0][1]
    assert "in 100% of the equations" in told[0][2]
    assert "in 50% at 'a' and in 50% at 'b'" in told[0][2]
    assert "1 of 1 head" in told[0][2] and "the mean hides" in told[0][2]
    assert "in 0% of the equations" in told[1][2]
    assert "None of 1 head switches" in told[1][2]


def test_weights_are_those_of_the_model():
    spec = RunSpec(model="gpt", p=5, embedding_size=8, num_heads=2, num_layers=2)
    task = build_task(spec)
    weights = attention_weights(build_model(spec), task.tensors["inputs"][:3])
    assert weights.shape == (3, 2, 2, 6, 6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 2, 6))
    assert weights.triu(1).abs().max() == 0


def test_the_answer_compares_keys_that_the_same_query_sees():
    names = ["a", "+", "b", "="]
    everywhere = torch.zeros(1, 2, 2, 4, 4)  # layers, heads, queries, keys
    everywhere[..., 0, 0] = everywhere[..., 1, 0] = 1.0
    everywhere[..., 2, :3] = torch.tensor([0.3, 0.0, 0.7])
    everywhere[:, 0, 0, 3] = torch.tensor([0.6, 0.0, 0.4, 0.0])
    everywhere[:, 0, 1, 3] = torch.tensor([0.4, 0.0, 0.6, 0.0])
    everywhere[:, 1, :, 3] = torch.tensor([0.49, 0.01, 0.47, 0.03])
    frame = attention_by_position(everywhere).with_columns(run=pl.lit("one"))
    alone = attention_to_one(everywhere, 3, 0.9).with_columns(run=pl.lit("one"))
    first, one, _, two, _, before = answers(frame, alone, names, "25 equations")
    assert "'a' for 3 of 4 heads and 'b' for 1 of 4 heads (mean over equations)" in first
    assert one.startswith("Layer 1, from '=': 0.50 at 'a' and 0.50 at 'b', and less than 0.05 at any other")
    assert two.startswith("Layer 2, from '=': 0.49 at 'a' and 0.47 at 'b', and less than 0.05 at any other")
    assert "in layer 1 '+' at 'a' (1.00) and 'b' at 'b' (0.70); in layer 2 '+' at 'a' (1.00)" in before
    rolled = everywhere.roll(1, -1).tril()
    frames = pl.concat([frame, attention_by_position(rolled).with_columns(run=pl.lit("two"))])
    alone = pl.concat([alone, attention_to_one(rolled, 3, 0.9).with_columns(run=pl.lit("two"))])
    assert "0.25 ± 0.25 at 'a'" in answers(frames, alone, names, "25 equations")[1]


@pytest.mark.parametrize(
    ("settings_", "names"),
    [
        ({}, ["BOS", "a", "+", "b", "=", "r"]),
        ({"operation_orders": "2,3"}, ["BOS", "a", "+₁", "b", "+₂", "c", "=", "r"]),
        ({"equation_format": "operands"}, ["a", "b", "="]),
    ],
)
def test_positions_are_named_by_what_stands_there(settings_, names):
    assert position_names(equations_of(RunSpec(model="gpt", p=5, **settings_))) == names


def test_a_map_has_a_cell_for_every_key_that_a_query_sees():
    chart = attention_grid(causal(1, 2, 2, 4)[0], ["5", "+", "5", "="], "“5 + 5 =”").to_dict()
    assert len(chart["concat"]) == 4
    cells = [row for rows in chart["datasets"].values() for row in rows]
    assert len(cells) == 4 * 10
    assert all(row["key"] <= row["query"] for row in cells)
