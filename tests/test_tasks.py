"""Equations, splits and the contract of a task."""

import math
import random
import re
from collections import Counter

import numpy as np
import pytest
import torch
from equations_by_hand import answers, expected_equations, orders_of, words
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shoal.errors import UserError
from shoal.models.families import count_parameters
from shoal.objectives import scored_positions
from shoal.spec import RunSpec
from shoal.tasks import Sizes, Task, Tokenizer, get_arithmetic_dataset
from shoal.tasks.arithmetic.data import arithmetic_data, arithmetic_task
from shoal.tasks.arithmetic.equations import (
    CHAINED,
    COMPOSITIONS,
    FORMATS,
    MIXED,
    OPERATORS,
    POLYNOMIALS,
    SHUFFLES,
    ZEROS,
    count_equations,
    count_tokens,
    padding_index,
    sequence_length,
    split_sizes,
)
from shoal.tasks.arithmetic.settings import equations_of
from shoal.tasks.build import build_model, build_task, count_run_parameters

some = settings(max_examples=25, deadline=None)


@st.composite
def asked(draw) -> dict:
    """Arguments of ``arithmetic_data``, all of them valid."""
    operator = draw(st.sampled_from("+-*/") | st.sampled_from([MIXED, *POLYNOMIALS]))
    modulus = st.sampled_from([2, 3, 5, 7]) if operator in ("/", MIXED) else st.integers(2, 7)
    p = draw(modulus)
    # modulo 2 there is one equation without 0; divisors are never 0
    zeros = ["any"] if p == 2 else ["any", "none"] if operator == "/" else ZEROS
    return {
        "p": p,
        "q": p if operator == MIXED else draw(st.just(p) | (modulus.filter(p.__le__) if operator == "/" else modulus)),
        "operator": operator,
        "r_train": draw(st.floats(0.01, 1)),
        "operation_orders": draw(st.sampled_from([2, 3, (2,), (2, 3), [3, 2]] if operator in CHAINED else [2, (2,)])),
        "is_symmetric": draw(st.booleans()),
        "shuffle": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "per_order": draw(st.booleans()),
        "split_shuffle": draw(st.sampled_from(SHUFFLES)),
        "equation_format": draw(st.sampled_from(list(FORMATS))),
        "unused_tokens": draw(st.sampled_from([0, 0, 3])),
        "zero_operands": draw(st.sampled_from(zeros)),
    }


@some
@given(asked())
def test_the_equations_are_all_there_and_right(args):
    data = arithmetic_data(**args)
    expected = expected_equations(args)
    assert Counter(words(data)) == Counter(expected)
    if not args["shuffle"]:
        assert words(data) == expected
    names = ("is_symmetric", "zero_operands")
    counts = [
        count_equations(args["p"], args["operator"], order, *(args[name] for name in names))
        for order in orders_of(args)
    ]
    assert counts == [int((data.order == order).sum()) for order in orders_of(args)]


@settings(max_examples=200, deadline=None)
@given(asked(), st.sampled_from([2, 3, 4, 5, 6, 7]))
def test_a_left_side_has_one_answer_or_the_equations_are_refused(args, q):
    args |= {"q": q}
    try:
        get_arithmetic_dataset(**args)
    except UserError as error:
        if "division needs q of at least" not in str(error):
            return  # of a modulus that is no prime
        assert any(len(set(found)) > 1 for found in answers(arithmetic_data(**args)).values())
    else:
        assert all(len(found) == 1 for found in answers(arithmetic_data(**args)).values())


@pytest.mark.parametrize("operator", COMPOSITIONS)
def test_a_composition_has_one_answer(operator):
    assert all(len(found) == 1 for found in answers(arithmetic_data(120, 120, operator, 0.5)).values())


@pytest.mark.parametrize("p", [2, 3, 5, 7])
@pytest.mark.parametrize("order", [2, 3])
def test_a_quotient_times_its_divisors_is_the_dividend(p, order):
    for text in words(arithmetic_data(p, p, "/", 0.5, order)):
        left, right = text.removeprefix("BOS ").removesuffix(" EOS").split(" = ")
        dividend, *divisors = map(int, left.split(" / "))
        assert int(right) * math.prod(divisors) % p == dividend % p
        assert 0 not in divisors


@some
@given(asked())
def test_splits_are_disjoint_and_together_everything(args):
    data = arithmetic_data(**args)
    both = torch.cat([data.train, data.valid])
    assert torch.equal(both.sort().values, torch.arange(len(data.tokens)))
    names = ("p", "operator", "r_train")
    sizes = split_sizes(
        *(args[name] for name in names),
        orders_of(args),
        is_symmetric=args["is_symmetric"],
        per_order=args["per_order"],
        zero_operands=args["zero_operands"],
    )
    assert (len(data.train), len(data.valid)) == sizes
    whole = torch.ones_like(data.order, dtype=torch.bool)
    for part in [data.order == order for order in orders_of(args)] if args["per_order"] else [whole]:
        first = torch.nonzero(part).flatten()
        n = round(len(first) * args["r_train"])
        assert torch.equal(data.train[part[data.train]], first[:n])


def test_products_of_the_grokking_literature():
    """``x y`` for ``0 <= x < p``, ``0 < y < p``."""
    found = words(arithmetic_data(97, 97, "*", 0.5, equation_format="infix", zero_operands="first"))
    assert sorted(found) == sorted(f"{x} * {y} = {x * y % 97}" for x in range(97) for y in range(1, 97))


def test_splitting_per_order_halves_each():
    data = arithmetic_data(11, 11, "+", 0.5, [2, 3], per_order=True)
    assert (data.order[data.train] == 2).sum() == round(121 / 2)
    assert (data.order[data.train] == 3).sum() == round(1331 / 2)
    together = arithmetic_data(11, 11, "+", 0.5, [2, 3])
    assert (together.order[together.train] == 2).sum() != round(121 / 2)


def test_the_seed_decides_the_order_and_nothing_else():
    data = {seed: arithmetic_data(5, 5, "+", 0.5, seed=seed) for seed in (0, 1)}
    assert words(data[0]) == words(arithmetic_data(5, 5, "+", 0.5, seed=0))
    assert words(data[0]) != words(data[1])
    assert sorted(words(data[0])) == sorted(words(data[1]))


VOCABULARY = {
    ("full", False): ["o", "=", "BOS", "EOS", "PAD"],
    ("full", True): ["o", "=", "BOS", "EOS", "PAD"],
    ("eos", False): ["o", "=", "EOS"],
    ("eos", True): ["o", "=", "EOS", "PAD"],
    ("infix", False): ["o", "="],
    ("infix", True): ["o", "=", "PAD"],
    ("operands", False): ["="],
    ("operands", True): ["=", "PAD"],
}


@some
@given(asked())
def test_rows_are_shifted_padded_and_masked(args):
    (train, valid), tokenizer, S, padding = get_arithmetic_dataset(**args)
    form, n = args["equation_format"], max(args["p"], args["q"])
    special, unused = VOCABULARY[form, len(orders_of(args)) > 1], args["unused_tokens"]
    used = [*map(str, range(n)), *(args["operator"] if name == "o" else name for name in special)]
    assert tokenizer.itos[: len(used)] == used and len(set(tokenizer.itos)) == len(used) + unused
    assert len(tokenizer) == count_tokens(args["p"], args["q"], args["operator"], orders_of(args), form, unused)
    assert padding == (len(used) - 1 if "PAD" in special else None)
    longest = max(orders_of(args))
    assert {"full": 2 * longest + 2, "eos": 2 * longest + 2, "infix": 2 * longest, "operands": longest + 1}[form] == S
    assert sequence_length(orders_of(args), form) == S
    for inputs, targets, eq_position, mask in [*train, *valid]:
        assert inputs.shape == targets.shape == mask.shape == (S,)
        assert torch.equal(inputs[1:], targets[:-1])
        text = tokenizer.decode(targets).split()
        first = {"full": "BOS", "eos": "EOS"}.get(form)
        assert tokenizer.itos[inputs[0]] == first if first else tokenizer.itos[inputs[0]].isdigit()
        assert inputs.max() < len(used) and targets.max() < len(used)
        assert text.index("=") == eq_position
        scored = scored_positions(eq_position.unsqueeze(0), mask.unsqueeze(0))[0]
        answer = [token for token, counts in zip(text, scored, strict=True) if counts]
        assert answer[0].isdigit() and answer[1:] == (["EOS"] if first else [])
        assert [bool(counts) for counts in mask] == [token != "PAD" for token in text]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("full", {"BOS 1 - 2 = 4 EOS PAD PAD", "BOS 1 - 2 - 3 = 1 EOS"}),
        ("eos", {"EOS 1 - 2 = 4 EOS PAD PAD", "EOS 1 - 2 - 3 = 1 EOS"}),
        ("infix", {"1 - 2 = 4 PAD PAD", "1 - 2 - 3 = 1"}),
        ("operands", {"1 2 = 4 PAD", "1 2 3 = 1"}),
    ],
)
def test_a_format_by_example(form, words):
    data = arithmetic_data(5, 5, "-", 0.5, [2, 3], equation_format=form)
    assert words <= {data.tokenizer.decode(row) for row in data.tokens}


def test_the_vocabulary_and_the_split_of_power_2022():
    """As their code makes them: 239 tokens of all its tasks, and strings shuffled by ``RandomState(0)``."""
    spec = RunSpec(p=97, operator="/", equation_format="eos", unused_tokens=139, split_seed=0)
    data, operators = equations_of(spec), 20
    assert len(data.tokenizer) == 2 + operators + 97 + math.factorial(5)  # EOS and =, operators, numbers, permutations
    theirs = [f"EOS {c * b % 97} / {b} = {c} EOS" for c in range(97) for b in range(1, 97)]
    np.random.RandomState(seed=0).shuffle(theirs)
    half = round(len(theirs) * 50.0 / 100)
    assert words(data, data.train) == theirs[:half] and words(data, data.valid) == theirs[half:]


@pytest.mark.parametrize(("share", "n_train"), [(0.3, 3830), (0.95, 12130), (0.5, 6384)])
def test_the_split_of_nanda_2023(share, n_train):
    """As their code makes it: pairs shuffled by Python after ``random.seed(0)``, the first ``int(share * N)`` train."""
    pairs = [(a, b, 113) for a in range(113) for b in range(113)]
    random.Random(0).shuffle(pairs)
    spec = RunSpec(p=113, equation_format="operands", split_shuffle="python", split_seed=0, r_train=n_train / 113**2)
    data, n = equations_of(spec), int(share * len(pairs))
    for rows, theirs in ((data.train, pairs[:n]), (data.valid, pairs[n:])):
        assert [tuple(row) for row in data.rows(rows)[0].tolist()] == theirs


def test_operands_alone_need_one_token_besides_the_numbers():
    spec = RunSpec(p=113, equation_format="operands")
    assert spec.task_part.sizes() == Sizes(114, 3, None)
    task = build_task(spec)
    assert task.tensors["inputs"][:, 2].unique().tolist() == [113]


@pytest.mark.parametrize("model", ["lstm", "gpt"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("orders", [(2,), (3,), (2, 3)])
def test_parameters_are_counted_for_the_vocabulary_of_the_format(model, form, orders):
    sizes = {"num_heads": 2} if model == "gpt" else {}
    spec = RunSpec(model=model, p=5, q=7, operation_orders=orders, equation_format=form, embedding_size=8, **sizes)
    for unused in (0, 4):
        spec = spec.replace(unused_tokens=unused)
        assert spec.task_part.sizes().vocabulary_size == len(equations_of(spec).tokenizer)
        assert count_run_parameters(spec) == count_parameters(build_model(spec))


def test_training_on_everything_leaves_an_empty_validation_set():
    (train, valid), _, S, _ = get_arithmetic_dataset(5, 5, "+", 1.0)
    assert (len(train), len(valid)) == (25, 0)
    assert valid.tensors[0].shape == (0, S)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"p": 1}, "p must be an integer of at least 2, got 1"),
        ({"p": 5.0}, "p must be an integer of at least 2, got 5.0"),
        ({"p": "5"}, "p must be an integer of at least 2, got '5'"),
        ({"p": True}, "p must be an integer of at least 2, got True"),
        ({"q": 0}, "q must be an integer of at least 2, got 0"),
        ({"p": 9, "operator": "/"}, "division needs a prime p, got p=9; the nearest is 7 or 11"),
        ({"q": 12, "operator": "/"}, "division needs a prime q, got q=12; the nearest is 11 or 13"),
        (
            {"p": 7, "q": 5, "operator": "/"},
            "division needs q of at least p, got q=5 and p=7: 0 / 1 would be 0 and 5; the nearest is 7",
        ),
        ({"operator": "x"}, rf"operator must be one of {re.escape(' '.join(OPERATORS))}, got 'x'"),
        ({"operator": "s5"}, r"operator must be one of .*, got 's5'; did you mean 's5:xy'\?"),
        ({"operator": MIXED, "p": 9}, "division needs a prime p, got p=9; the nearest is 7 or 11"),
        ({"operator": MIXED, "q": 7}, "operator 'x/y_or_x-y' needs q equal to p, got q=7 and p=5"),
        (
            {"operator": "s5:xy"},
            "operator 's5:xy' acts on the 120 permutations of five elements and needs p=120, got p=5",
        ),
        (
            {"operator": "s5:xyx^-1", "p": 120, "q": 60},
            r"operator 's5:xyx\^-1' acts on the 120 permutations of five elements and needs q=120, got q=60",
        ),
        (
            {"operator": "s5:xyx", "p": 120, "q": 120, "is_symmetric": True},
            "is_symmetric does not apply to operator 's5:xyx': permutations do not commute",
        ),
        (
            {"operator": "x^3+xy", "operation_orders": 3},
            r"operator 'x\^3\+xy' takes two operands: operation_orders must be 2, got 3",
        ),
        (
            {"operator": "s5:xy", "operation_orders": [3, 2]},
            "operator 's5:xy' takes two operands: operation_orders must be 2, got 2,3",
        ),
        (
            {"equation_format": "inflix"},
            r"equation_format must be one of full eos infix operands, got 'inflix'; did you mean 'infix'\?",
        ),
        ({"zero_operands": "non"}, r"zero_operands must be one of any first none, got 'non'; did you mean 'none'\?"),
        (
            {"zero_operands": "first", "operator": "/"},
            "zero_operands=first does not apply to operator '/', whose divisors are never 0",
        ),
        (
            {"zero_operands": "none", "operator": "s5:xy", "p": 120, "q": 120},
            "zero_operands=none does not apply to operator 's5:xy': no permutation is 0",
        ),
        ({"r_train": 0}, r"r_train must be in \(0, 1\], got 0"),
        ({"r_train": 1.01}, r"r_train must be in \(0, 1\], got 1.01"),
        ({"r_train": -0.5}, r"r_train must be in \(0, 1\], got -0.5"),
        ({"r_train": math.nan}, r"r_train must be in \(0, 1\], got nan"),
        ({"operation_orders": 4}, r"operation_orders must be 2, 3 or both, got \[4\]"),
        ({"operation_orders": [2, 4]}, r"operation_orders must be 2, 3 or both, got \[2, 4\]"),
        ({"operation_orders": [2, 2]}, r"operation_orders must be 2, 3 or both, got \[2, 2\]"),
        ({"operation_orders": []}, r"operation_orders must be 2, 3 or both, got \[\]"),
    ],
)
def test_settings_without_meaning_are_refused(wrong, words):
    args = {"p": 5, "q": 5, "operator": "+", "r_train": 0.5, **wrong}
    with pytest.raises(UserError, match=f"^{words}$"):
        get_arithmetic_dataset(**args)


@some
@given(st.lists(st.text("abc+=", min_size=1), min_size=1, unique=True), st.data())
def test_what_is_encoded_can_be_decoded(vocabulary, data):
    tokenizer = Tokenizer(vocabulary)
    chosen = data.draw(st.lists(st.sampled_from(vocabulary)))
    indices = tokenizer.encode(" ".join(chosen))
    assert indices.dtype == torch.int64
    assert indices.tolist() == [vocabulary.index(token) for token in chosen]
    assert tokenizer.decode(indices) == tokenizer.decode(indices.tolist()) == " ".join(chosen)
    assert len(tokenizer) == len(vocabulary)


def test_label_smoothing_is_told_with_its_convention_and_none_is_not():
    (line,) = RunSpec(label_smoothing=0.2).task_part.conventions()
    assert "convention torch: 0.2/V " in line
    assert RunSpec().task_part.conventions() == []


def test_an_unknown_token_is_named_with_its_nearest():
    with pytest.raises(UserError, match="'EQS' is not in the vocabulary of 3 tokens; did you mean 'EOS'"):
        Tokenizer(["0", "BOS", "EOS"]).encode("BOS EQS 0")


class Uniform(nn.Module):
    """Says that every token is as likely as any other."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        assert x.min() >= 0
        assert x.max() < self.vocabulary_size
        return torch.zeros(*x.shape, self.vocabulary_size), None


def check_contract(task: Task, vocabulary_size: int) -> None:
    """What the engine relies on, whatever the task is about."""
    N = {len(tensor) for tensor in task.tensors.values()}
    assert len(N) == 1
    N = N.pop()
    assert {"train", "valid"} <= task.scored.keys()
    for rows in task.scored.values():
        assert rows.dtype == torch.int64
        assert rows.unique().numel() == len(rows)
        assert ((rows >= 0) & (rows < N)).all()
    assert not set(task.scored["train"].tolist()) & set(task.scored["valid"].tolist())
    for group in task.groups.values():
        assert group.dtype == torch.bool
        assert group.shape == (N,)
    rows = task.scored["train"][:3]
    batch = task.batch(task.tensors, rows)
    scores = task.objective(Uniform(vocabulary_size), batch)
    assert {"loss", "accuracy"} <= scores.keys()
    for score in scores.values():
        assert score.shape == rows.shape
        assert score.is_floating_point()
    assert scores["loss"].tolist() == pytest.approx([math.log(vocabulary_size)] * len(rows), abs=1e-5)
    positions, counts = task.sampler(torch.tensor([1]), torch.tensor([len(task.scored["train"])]), 4)(torch.tensor([1]))
    assert positions.shape == counts.shape
    assert (positions[counts] < len(task.scored["train"])).all()


@some
@given(asked())
def test_arithmetic_keeps_the_contract_of_a_task(args):
    data = arithmetic_data(**args | {"r_train": 0.5})
    task = arithmetic_task(data)
    check_contract(task, len(data.tokenizer))
    inputs, targets, eq_positions, mask = data.rows(task.scored["valid"])
    batch = task.batch(task.tensors, task.scored["valid"])
    for name, tensor in {"inputs": inputs, "targets": targets, "eq_positions": eq_positions, "mask": mask}.items():
        assert torch.equal(batch[name], tensor)
    orders = orders_of(args)
    assert task.groups.keys() == ({f"order{order}" for order in orders} if len(orders) > 1 else set())
    for name, group in task.groups.items():
        assert torch.equal(group, data.order == int(name.removeprefix("order")))
    has_padding = args["equation_format"] == "full" or len(orders) > 1
    padding = padding_index(args["p"], args["q"], args["operator"], orders, args["equation_format"])
    assert padding == (len(data.tokenizer) - args["unused_tokens"] - 1 if has_padding else None)
    assert sequence_length(orders, args["equation_format"]) == inputs.shape[1]
