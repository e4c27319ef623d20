"""Attention knockout, against blocks written out by hand with PyTorch's own attention."""

import math

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from shoal.analysis.attention import attention_weights
from shoal.analysis.knockout import knocked_out, knockouts
from shoal.models import GPT
from shoal.studies.knockouts import knockout_answers, knockout_table

S, LAYERS = 5, 2
NAMES = ["BOS", "a", "+", "b", "=", "r"]


def small(layers=LAYERS, seed=0):
    torch.manual_seed(seed)
    model = GPT(2, layers, 8, 7, S).double().eval()
    for block in model.decoder.blocks:
        block.self_attn.W_V.weight.data.mul_(5)  # so that much depends on what is looked at
    return model


def some(n=6):
    return torch.randint(7, (n, S), generator=torch.Generator().manual_seed(1))


def by_hand(model, inputs, key, layers):
    """Logits where no position after ``key`` sees it in these layers."""
    x = model.embedding(inputs).double()
    for number, block in enumerate(model.decoder.blocks):
        hidden = torch.zeros(S, S).double().masked_fill(torch.arange(S) > torch.arange(S).unsqueeze(1), -math.inf)
        for query in range(S):
            if number in layers and query > key:
                hidden[query, key] = -math.inf
        own = block.self_attn
        q, k, v = (own.split_heads(project(x)) for project in (own.W_Q, own.W_K, own.W_V))
        attended = own.W_O(own.merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=hidden)))
        x = block.self_attn_norm(x + attended)
        x = block.ffn_norm(x + block.ffn(x))
    return model.classifier(x)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, S - 1), st.sampled_from([None, [0], [1], [0, 1], []]), st.integers(0, 3))
def test_cut_looks_are_those_of_blocks_written_out(key, layers, seed):
    model, inputs = small(seed=seed), some()
    with torch.no_grad():
        with knocked_out(model, key, layers):
            found = model(inputs)[0]
        expected = by_hand(model, inputs, key, range(LAYERS) if layers is None else layers)
    torch.testing.assert_close(found, expected)


def test_the_model_is_given_back_as_it_was_whatever_happens():
    model, inputs = small(), some()
    before = attention_weights(model, inputs)
    with pytest.raises(KeyError), knocked_out(model, 1):
        assert attention_weights(model, inputs)[:, :, :, 2:, 1].abs().max() == 0
        raise KeyError
    assert torch.equal(attention_weights(model, inputs), before)


def test_cuts_within_cuts_all_hold_and_all_end():
    model, inputs = small(), some()
    before = attention_weights(model, inputs)
    with knocked_out(model, 1), knocked_out(model, 2, [0, 0]):
        both = attention_weights(model, inputs)
    assert both[:, :, :, 2:, 1].abs().max() == both[:, 0, :, 3:, 2].abs().max() == 0
    assert both[:, 1, :, 3:, 2].min() > 0
    assert torch.equal(attention_weights(model, inputs), before)


@pytest.mark.parametrize("layers", [1, 2])
def test_accuracy_without_each_position_in_all_layers_and_in_each(layers):
    model, inputs = small(layers), some(50)
    with torch.no_grad():
        targets = by_hand(model, inputs, 1, range(layers)).argmax(-1)  # what is right without position 1
        scored = torch.full((50,), S - 3)
        found = knockouts(model, inputs, targets, scored, torch.ones(50, S))
        apart = [*([0, 1] if layers == 2 else [])]
        assert found.select("key", "layer").rows() == [
            (None, None),
            *((key, layer) for key in range(S - 1) for layer in [None, *apart]),
        ]
        for key, layer, result, accuracy in found.iter_rows():
            cut = range(layers) if layer is None else [layer]
            logits = by_hand(model, inputs, S if key is None else key, cut)
            right = (logits.argmax(-1) == targets)[:, S - 2 :].double()
            assert result == pytest.approx(float(right[:, 0].mean()))
            assert accuracy == pytest.approx(float(right.prod(-1).mean()))
    everywhere = found.filter(pl.col("layer").is_null())
    assert everywhere.filter(key=1).select("result", "accuracy").row(0) == (1, 1)
    untouched = everywhere.filter(pl.col("key").is_null())
    assert untouched["accuracy"].item() <= untouched["result"].item() < 1


def table_of(shares, run="one"):
    rows = [(key, None, share, share / 2) for key, share in shares.items()]
    schema = {"key": pl.Int64, "layer": pl.Int64, "result": pl.Float64, "accuracy": pl.Float64}
    return pl.DataFrame(rows, schema, orient="row").with_columns(run=pl.lit(run))


def looks(weights):
    """Attention from '=' (position 4) of one head of one layer."""
    rows = [(0, 0, 4, key, float(weight), "one") for key, weight in enumerate(weights)]
    return pl.DataFrame(rows, ["layer", "head", "query", "key", "weight", "run"], orient="row")


def test_the_answer_tells_what_is_looked_at_from_what_is_needed():
    knocked = table_of({None: 0.8, 0: 0.8, 1: 0.1, 2: 0.7, 3: 0.4, 4: 0.0})
    lost, why = knockout_answers(knocked, looks([0.4, 0.5, 0.1, 0.0, 0.0]), NAMES, 31)
    assert lost.endswith(
        "the share of right results, 0.80 otherwise, is 0.80 without 'BOS', 0.10 without 'a', 0.70 without '+' and "
        "0.40 without 'b' (mean over 1 run; one of 31 by guessing)."  # '=' itself is seen by r alone
    )
    assert why.startswith(
        "So '=' looks at and needs 'a', looks at without needing 'BOS', needs without looking there itself 'b', "
        "and needs '+' in part (88% are left) (looks at: more than an even share"
    )
    same = knockout_answers(knocked, looks([0.0, 0.5, 0.0, 0.5, 0.0]), NAMES, 31)[1]
    assert same.startswith(
        "So '=' looks at and needs 'a' and 'b', neither looks at nor needs 'BOS', and needs '+' in part"
    )


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ([0.99, 0.96], "neither looks at nor needs 'BOS' and '+'"),
        (
            [0.98, 0.76],
            "needs '+' in part (76% to 98%, by the run, are left)",
        ),
        ([1.0, 0.0], "needs '+' in part (0% to 100%, by the run, are left)"),
        ([0.6, 0.6], "needs '+' in part (60% are left)"),
        ([0.5, 0.2], "needs without looking there itself '+'"),
    ],
)
def test_needs_have_degrees_and_are_those_of_every_run(left, said):
    tables = [table_of({None: 1.0, 0: 1.0, 1: 0.1, 2: share, 3: 0.4, 4: 0.0}, str(n)) for n, share in enumerate(left)]
    lost, why = knockout_answers(pl.concat(tables), looks([0.0, 0.5, 0.0, 0.5, 0.0]), NAMES, 31)
    assert said in why
    low, high, mean = min(left), max(left), sum(left) / 2
    assert f"{mean:.2f}{f' ({low:.2f} to {high:.2f})' if low < high else ''} without '+'" in lost


def test_the_table_is_bold_where_most_is_lost():
    both = pl.concat([table_of({None: 1.0, 0: 1.0, 1: 0.2}), table_of({None: 1.0, 0: 1.0, 1: 0.4}, "two")])
    table = knockout_table(both, NAMES, "25 equations")
    assert table.header == ["without", "result, all layers", "right-hand side, all layers"]
    assert [(name, [(cell.text, cell.best) for cell in cells]) for name, cells in table.rows] == [
        ("nothing", [("1.000 ± 0.000", False), ("0.500 ± 0.000", False)]),
        ("BOS", [("1.000 ± 0.000", False), ("0.500 ± 0.000", False)]),
        ("a", [("0.300 ± 0.100", True), ("0.150 ± 0.050", True)]),
    ]
    untouched = knockout_table(table_of({None: 1.0, 0: 1.0, 1: 1.0}), NAMES, "25 equations")
    assert not any("±" in cell.text for _, cells in untouched.rows for cell in cells)  # of one run
    assert not any(cell.best for _, cells in untouched.rows for cell in cells)
