"""Where attention goes, against literal loops and closed forms."""

import math

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.analysis.attention import attention_by_position, attention_weights, focus, preference
from shoal.report.attention import attention_grid
from shoal.spec import RunSpec
from shoal.studies.attention import answers, position_names
from shoal.tasks.build import build_data, build_model, build_task


def causal(N, L, H, S, seed=0):
    scores = torch.randn(N, L, H, S, S, generator=torch.Generator().manual_seed(seed))
    hidden = ~torch.ones(S, S, dtype=torch.bool).tril()
    return scores.masked_fill(hidden, -math.inf).softmax(-1)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(2, 5))
def test_means_and_preferences_are_those_of_a_literal_loop(N, L, H, S):
    weights = causal(N, L, H, S)
    frame = attention_by_position(weights)
    assert len(frame) == L * H * S * (S + 1) // 2
    for row in frame.iter_rows(named=True):
        expected = sum(float(weights[n, row["layer"], row["head"], row["query"], row["key"]]) for n in range(N)) / N
        assert row["weight"] == pytest.approx(expected, abs=1e-6)
    for row in preference(frame).iter_rows(named=True):
        queries = list(range(max(1, row["key"]), S))
        mean = weights[:, row["layer"], row["head"], queries, row["key"]].mean()
        even = sum(1 / (q + 1) for q in queries) / len(queries)
        assert row["ratio"] == pytest.approx(float(mean) / even, abs=1e-5)


def test_even_attention_prefers_nothing_and_a_single_key_is_all_focus():
    S = 4
    even = torch.ones(S, S).tril() / torch.arange(1, S + 1).unsqueeze(1)
    first = torch.zeros(S, S)
    first[:, 0] = 1
    weights = torch.stack([even, first]).reshape(1, 1, 2, S, S)
    ratios = preference(attention_by_position(weights))
    assert ratios.filter(head=0)["ratio"].to_list() == pytest.approx([1.0] * S)
    assert ratios.filter(head=1)["ratio"].to_list() == pytest.approx([3 / (1 / 2 + 1 / 3 + 1 / 4), 0, 0, 0])
    found = focus(weights)[0]
    assert found[0, 1:].tolist() == pytest.approx([0.0] * (S - 1), abs=1e-6)
    assert found[1, 1:].tolist() == pytest.approx([1.0] * (S - 1))
    assert math.isnan(found[0, 0])


def test_weights_are_those_of_the_model():
    spec = RunSpec(model="gpt", p=5, embedding_size=8, num_heads=2, num_layers=2)
    task = build_task(spec)
    weights = attention_weights(build_model(spec, task), task.tensors["inputs"][:3])
    assert weights.shape == (3, 2, 2, 6, 6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 2, 6))
    assert weights.triu(1).abs().max() == 0


def test_the_answer_says_which_runs_it_is_about():
    names = ["a", "+", "b", "="]
    everywhere = attention_by_position(causal(2, 1, 2, 4)).with_columns(run=pl.lit("one"))
    assert answers(everywhere, names, "25 equations")[0].startswith(
        "In 1 run that ended with A_val ≥ 0.9, over all 25 equations and all queries but the first: the key that a head"
    )
    both = pl.concat([everywhere, everywhere.with_columns(run=pl.lit("two"))])
    assert answers(both, names, "25 equations")[0].startswith("In 2 runs that ended with A_val ≥ 0.9,")


@pytest.mark.parametrize(
    ("settings_", "names"),
    [
        ({}, ["BOS", "a", "+", "b", "=", "r"]),
        ({"operation_orders": "2,3"}, ["BOS", "a", "+", "b", "+", "c", "=", "r"]),
        ({"equation_format": "operands"}, ["a", "b", "="]),
    ],
)
def test_positions_are_named_by_what_stands_there(settings_, names):
    assert position_names(build_data(RunSpec(model="gpt", p=5, **settings_))) == names


def test_a_map_has_a_cell_for_every_key_that_a_query_sees():
    chart = attention_grid(causal(1, 2, 2, 4)[0], ["5", "+", "5", "="], "“5 + 5 =”").to_dict()
    assert len(chart["concat"]) == 4
    cells = [row for rows in chart["datasets"].values() for row in rows]
    assert len(cells) == 4 * 10
    assert all(row["key"] <= row["query"] for row in cells)
