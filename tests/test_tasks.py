"""Equations, splits, batches and the random numbers behind them."""

import math
from collections import Counter
from itertools import chain, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import vmap

from shoal.equations import count_equations, split_sizes
from shoal.errors import UserError
from shoal.keyed import bits, fold, uniform
from shoal.tasks import Task, Tokenizer, get_arithmetic_dataset
from shoal.tasks.arithmetic import ArithmeticData, arithmetic_data, arithmetic_task
from shoal.tasks.sampling import EpochSampler

some = settings(max_examples=25, deadline=None)


@st.composite
def asked(draw) -> dict:
    """Arguments of ``arithmetic_data``, all of them valid."""
    operator = draw(st.sampled_from("+-*/"))
    modulus = st.sampled_from([2, 3, 5, 7]) if operator == "/" else st.integers(2, 7)
    p = draw(modulus)
    return {
        "p": p,
        "q": draw(st.just(p) | modulus),
        "operator": operator,
        "r_train": draw(st.floats(0.01, 1)),
        "operation_orders": draw(st.sampled_from([2, 3, (2,), (2, 3), [3, 2]])),
        "is_symmetric": draw(st.booleans()),
        "shuffle": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "per_order": draw(st.booleans()),
    }


def orders_of(args: dict) -> list[int]:
    orders = args["operation_orders"]
    return [orders] if isinstance(orders, int) else sorted(orders)


def expected_equations(args: dict) -> list[str]:
    """Every equation in words, by direct evaluation."""
    p, q, operator = args["p"], args["q"], args["operator"]
    out = []
    for order in orders_of(args):
        for first, *others in product(range(p), repeat=order):
            if operator == "/" and 0 in others:
                continue
            if args["is_symmetric"] and sorted([first, *others]) != [first, *others]:
                continue
            left, right = first, first
            if operator == "+":
                right = (first + sum(others)) % q
            elif operator == "-":
                right = (first - sum(others)) % q
            elif operator == "*":
                right = first * math.prod(others) % q
            else:
                left = first * math.prod(others) % q
            out.append(f"BOS {f' {operator} '.join(map(str, [left, *others]))} = {right} EOS")
    return out


def words(data: ArithmeticData, rows: Tensor | None = None) -> list[str]:
    rows = torch.arange(len(data.tokens)) if rows is None else rows
    return [data.tokenizer.decode(data.tokens[row]).replace(" PAD", "") for row in rows]


@some
@given(asked())
def test_the_equations_are_all_there_and_right(args):
    data = arithmetic_data(**args)
    expected = expected_equations(args)
    assert Counter(words(data)) == Counter(expected)
    if not args["shuffle"]:
        assert words(data) == expected
    counts = [count_equations(args["p"], args["operator"], order, args["is_symmetric"]) for order in orders_of(args)]
    assert counts == [int((data.order == order).sum()) for order in orders_of(args)]


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
    )
    assert (len(data.train), len(data.valid)) == sizes
    whole = torch.ones_like(data.order, dtype=torch.bool)
    for part in [data.order == order for order in orders_of(args)] if args["per_order"] else [whole]:
        first = torch.nonzero(part).flatten()
        n = round(len(first) * args["r_train"])
        assert torch.equal(data.train[part[data.train]], first[:n])


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


@some
@given(asked())
def test_rows_are_shifted_padded_and_masked(args):
    (train, valid), tokenizer, S, padding = get_arithmetic_dataset(**args)
    assert tokenizer.itos[-5:] == [args["operator"], "=", "BOS", "EOS", "PAD"]
    assert len(tokenizer) == max(args["p"], args["q"]) + 5
    assert tokenizer.itos[padding] == "PAD"
    assert max(orders_of(args)) * 2 + 2 == S
    for inputs, targets, eq_position, mask in [*train, *valid]:
        assert inputs.shape == targets.shape == mask.shape == (S,)
        assert torch.equal(inputs[1:], targets[:-1])
        assert tokenizer.itos[inputs[0]] == "BOS"
        text = tokenizer.decode(targets).split()
        assert text.index("=") == eq_position
        assert text.index("EOS") == eq_position + 2 == mask.sum() - 1
        assert [bool(counts) for counts in mask] == [token != "PAD" for token in text]


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
        ({"p": 9, "operator": "/"}, "division needs a prime p, got p=9; the nearest is 7"),
        ({"q": 12, "operator": "/"}, "division needs a prime q, got q=12; the nearest is 1[13]"),
        ({"operator": "x"}, r"operator must be one of \+ - \* /, got 'x'"),
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


def test_an_unknown_token_is_named_with_its_nearest():
    with pytest.raises(UserError, match="'EQS' is not in the vocabulary of 3 tokens; did you mean 'EOS'"):
        Tokenizer(["0", "BOS", "EOS"]).encode("BOS EQS 0")


def sampler(sizes: list[int], batch_size: int, keys: list[int] | None = None) -> EpochSampler:
    return EpochSampler(torch.tensor(keys or range(7, 7 + len(sizes))), torch.tensor(sizes), batch_size)


def seen(sampler: EpochSampler, steps: range) -> list[list[list[int]]]:
    """Positions that count, by step and member."""
    out = []
    for step in steps:
        positions, counts = sampler(step)
        out.append([row[kept].tolist() for row, kept in zip(positions, counts, strict=True)])
    return out


some_sizes = st.lists(st.integers(1, 12), min_size=1, max_size=4)
batch_sizes = st.integers(1, 14)


@some
@given(some_sizes, batch_sizes)
def test_every_epoch_visits_every_example_once(sizes, batch_size):
    batches = [math.ceil(size / batch_size) for size in sizes]
    steps = seen(sampler(sizes, batch_size), range(1, 3 * max(batches) + 1))
    for member, (size, n) in enumerate(zip(sizes, batches, strict=True)):
        for start in range(0, len(steps) - n + 1, n):
            epoch = [step[member] for step in steps[start : start + n]]
            assert sorted(chain(*epoch)) == list(range(size))
            assert [len(batch) for batch in epoch[:-1]] == [batch_size] * (n - 1)
            assert len(epoch[-1]) == size - (n - 1) * batch_size


@some
@given(some_sizes, batch_sizes)
def test_a_member_samples_as_it_does_alone(sizes, batch_size):
    together = seen(sampler(sizes, batch_size), range(1, 20))
    for member, size in enumerate(sizes):
        alone = seen(sampler([size], batch_size, [7 + member]), range(1, 20))
        assert [step[member] for step in together] == [step[0] for step in alone]


@some
@given(some_sizes, batch_sizes, st.integers(1, 40))
def test_a_step_draws_the_same_whatever_was_drawn_before(sizes, batch_size, step):
    one = sampler(sizes, batch_size)
    seen(one, range(1, step))
    assert seen(one, range(step, step + 3)) == seen(sampler(sizes, batch_size), range(step, step + 3))


@some
@given(some_sizes)
def test_a_full_batch_is_the_whole_set_in_its_own_order(sizes):
    for step in seen(sampler(sizes, max(sizes)), range(1, 4)):
        assert step == [list(range(size)) for size in sizes]


def test_orders_differ_between_epochs_and_members():
    steps = seen(sampler([20, 20], 5), range(1, 9))
    orders = [tuple(chain(*(step[member] for step in part))) for part in (steps[:4], steps[4:]) for member in (0, 1)]
    assert len({*orders, tuple(range(20))}) == 5


def test_uniform_numbers_look_uniform():
    x = uniform(torch.tensor([3, 4]), 50_000)
    assert x.shape == (2, 50_000)
    assert x.dtype == torch.float32
    assert x.min() >= 0
    assert x.max() < 1
    for row in x:
        assert row.mean().item() == pytest.approx(1 / 2, abs=0.005)
        assert row.var().item() == pytest.approx(1 / 12, abs=0.002)
        assert torch.histc(row, 10, 0, 1).tolist() == pytest.approx([5000] * 10, rel=0.06)
    assert torch.corrcoef(x)[0, 1].abs() < 0.02
    assert torch.corrcoef(torch.stack([x[0, 1:], x[0, :-1]]))[0, 1].abs() < 0.02


@some
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4), st.integers(-(2**62), 2**62), st.integers(1, 9))
def test_numbers_of_a_key_do_not_depend_on_what_is_computed_beside_them(keys, data, n):
    stacked = torch.tensor(keys)
    folded = fold(stacked, data)
    assert torch.equal(vmap(lambda key: fold(key, data))(stacked), folded)
    assert torch.equal(vmap(lambda key: uniform(key, n))(folded), uniform(folded, n))
    for key, value, row in zip(keys, folded, bits(folded, n), strict=True):
        assert torch.equal(fold(torch.tensor(key), torch.tensor(data)), value)
        assert torch.equal(bits(value, n), row)
        assert torch.equal(bits(value, n + 3)[:n], row)
        assert 0 <= value < 2**32
        assert ((row >= 0) & (row < 2**32)).all()


def test_folding_keeps_keys_and_data_apart():
    keys = fold(torch.arange(200).unsqueeze(1), torch.arange(-100, 100))  # 40,000 of 2**32: about 0.2 collisions
    assert keys.unique().numel() > 39_990
    assert bits(torch.tensor(5), 40_000).unique().numel() == 40_000
    assert fold(torch.tensor(1), 2) != fold(torch.tensor(2), 1)
    assert fold(torch.tensor(1), 1) != fold(torch.tensor(1), 1 + 2**32)


class Uniform(nn.Module):
    """Says that every token is as likely as any other."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        assert x.min() >= 0
        assert x.max() < self.vocabulary_size
        return torch.zeros(*x.shape, self.vocabulary_size), None


def check_contract(task: Task) -> None:
    """What the engine relies on, whatever the task is about."""
    N = {len(tensor) for tensor in task.tensors.values()}
    assert len(N) == 1
    N = N.pop()
    assert {"train", "valid"} <= task.splits.keys()
    for rows in task.splits.values():
        assert rows.dtype == torch.int64
        assert rows.unique().numel() == len(rows)
        assert ((rows >= 0) & (rows < N)).all()
    assert not set(task.splits["train"].tolist()) & set(task.splits["valid"].tolist())
    for group in task.groups.values():
        assert group.dtype == torch.bool
        assert group.shape == (N,)
    rows = task.splits["train"][:3]
    batch = task.batch(task.tensors, rows)
    scores = task.objective(Uniform(task.vocabulary_size), batch)
    assert {"loss", "accuracy"} <= scores.keys()
    for score in scores.values():
        assert score.shape == rows.shape
        assert score.is_floating_point()
    assert scores["loss"].tolist() == pytest.approx([math.log(task.vocabulary_size)] * len(rows), abs=1e-5)
    positions, counts = task.sampler(torch.tensor([1]), torch.tensor([len(task.splits["train"])]), 4)(1)
    assert positions.shape == counts.shape
    assert (positions[counts] < len(task.splits["train"])).all()


@some
@given(asked())
def test_arithmetic_keeps_the_contract_of_a_task(args):
    data = arithmetic_data(**args | {"r_train": 0.5})
    task = arithmetic_task(data)
    check_contract(task)
    inputs, targets, eq_positions, mask = data.rows(task.splits["valid"])
    batch = task.batch(task.tensors, task.splits["valid"])
    for name, tensor in {"inputs": inputs, "targets": targets, "eq_positions": eq_positions, "mask": mask}.items():
        assert torch.equal(batch[name], tensor)
    orders = orders_of(args)
    assert task.groups.keys() == ({f"order{order}" for order in orders} if len(orders) > 1 else set())
    for name, group in task.groups.items():
        assert torch.equal(group, data.order == int(name.removeprefix("order")))
    assert task.padding_index == len(data.tokenizer) - 1
    assert task.sequence_length == inputs.shape[1]
