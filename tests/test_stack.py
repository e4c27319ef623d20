"""The stacked step against plain PyTorch, and members against their neighbours."""

import math

import pytest
import torch
from helpers import CPU, OF_GRADIENTS, one_cohort, theta, tiny, tiny_grid, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import torch_optimizers
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from shoal.objectives import get_loss_and_accuracy, scored_positions
from shoal.spec import RunSpec
from shoal.tasks.arithmetic.settings import equations_of
from shoal.tasks.build import build_model, build_task
from shoal.training.stack import Stack
from shoal.training.step import evaluate, l2_norm, train_step


def factor(spec: RunSpec, step: int) -> float:
    """What the learning rate is multiplied by at a step, counted from 1."""
    if step <= spec.warmup_steps:
        return step / spec.warmup_steps
    share = min(1, (step - spec.warmup_steps) / (spec.n_steps - spec.warmup_steps))
    return {"constant": 1, "linear": 1 - share, "cosine": math.cos(math.pi * share / 2) ** 2}[spec.lr_schedule]


def training_loss(
    logits: torch.Tensor, targets: torch.Tensor, eq_positions: torch.Tensor, mask: torch.Tensor, smoothing: float
) -> torch.Tensor:
    """The mean over equations of the mean cross-entropy of their right-hand sides."""
    scored = scored_positions(eq_positions, mask)
    rows = zip(logits, targets, scored, strict=True)
    return torch.stack([F.cross_entropy(x[s], y[s], label_smoothing=smoothing) for x, y, s in rows]).mean()


def plain_training(spec: RunSpec, steps: int) -> dict[str, torch.Tensor]:
    """The state dict of a run trained by eager modules and torch.optim on the batches that its sampler draws."""
    task = build_task(spec)
    model = build_model(spec)
    own = {name: getattr(spec, name) for name in spec.rule.numbers()}
    optimizers = torch_optimizers(spec.optimizer, dict(model.named_parameters()), own)
    schedulers = [LambdaLR(optimizer, lambda epoch: factor(spec, epoch + 1)) for optimizer in optimizers]
    sampler = Stack(one_cohort([spec]), CPU).sampler
    inputs, targets, eq_positions, mask = equations_of(spec).rows(task.scored["train"])
    for step in range(1, steps + 1):
        sampler.prepare(torch.tensor([step - 1]))
        positions, counts = sampler(torch.tensor([step]))
        rows = positions[0][counts[0]]
        logits, _ = model(inputs[rows])
        loss = training_loss(logits, targets[rows], eq_positions[rows], mask[rows], spec.label_smoothing)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.clip)
        for part in (*optimizers, *schedulers):
            part.step()
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def assert_same_parameters(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], *, atol: float) -> None:
    """Equal but for the biases of the keys: softmax does not see them, so their gradient is rounding and no more."""
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        if not name.endswith("W_K.bias"):
            torch.testing.assert_close(tensor, expected[name], atol=atol, rtol=0)


def norm_of_what_is_seen(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
    """The norm without the biases of the keys."""
    return l2_norm({name: tensor for name, tensor in parameters.items() if not name.endswith("W_K.bias")})


@pytest.mark.parametrize("model", ["lstm", "gpt"])
@pytest.mark.parametrize("optimizer", OF_GRADIENTS)
@pytest.mark.parametrize("train_batch_size", [4, 512])
def test_every_member_of_a_stack_trains_as_plain_pytorch_does(model, optimizer, train_batch_size, atol=2e-5):
    base = {"model": model, "optimizer": optimizer, "train_batch_size": train_batch_size, "p": 7}
    specs = tiny_grid(base, r_train=[0.4, 0.6], lr=[1e-3, 3e-3], operator=["+", "/"])
    stack = trained(specs, steps=12)
    for index in (0, 3, 5, 6):
        expected = plain_training(specs[index], steps=12)
        assert_same_parameters(stack.member(index), expected, atol=atol)


anything = given(
    model=st.sampled_from(["lstm", "gpt"]),
    orders=st.sampled_from([(2,), (2, 3)]),
    batch=st.sampled_from([3, 16, 512]),
    dropout=st.sampled_from([0.0, 0.3]),
    layers=st.integers(1, 2),
    clip=st.lists(st.sampled_from([0.01, 1.0, float("inf")]), min_size=1, max_size=2, unique=True),
    r_train=st.lists(st.sampled_from([0.3, 0.5, 0.7]), min_size=1, max_size=2, unique=True),
)


def assert_alone_as_in_a_stack(model, orders, batch, dropout, layers, clip, r_train):
    base = {"model": model, "p": 3, "operation_orders": orders, "train_batch_size": batch, "num_layers": layers}
    if layers > 1 or model == "gpt":
        base["dropout"] = dropout
    specs = tiny_grid(base, clip=clip, r_train=r_train, seed=[0, 1])
    together = trained(specs, steps=8)
    values = evaluate(together, {"norm_of_what_is_seen": norm_of_what_is_seen})
    for index in (0, len(specs) - 1):
        alone = trained([specs[index]], steps=8)
        assert_same_parameters(together.member(index), alone.member(0), atol=2e-5)
        for name, value in evaluate(alone, {"norm_of_what_is_seen": norm_of_what_is_seen}).items():
            torch.testing.assert_close(values[name][index], value[0], atol=1e-5, rtol=0)


@settings(max_examples=5, deadline=None)
@anything
def test_a_member_alone_equals_the_member_in_a_stack(**run):
    assert_alone_as_in_a_stack(**run)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@anything
def test_many_members_alone_equal_the_members_in_their_stacks(**run):
    assert_alone_as_in_a_stack(**run)


@pytest.mark.parametrize("engine", ["plain", "prefixes"])
@pytest.mark.parametrize("optimizer", ["adamw", "momentum", "muon"])
@pytest.mark.parametrize("lr_schedule", ["constant", "linear", "cosine"])
def test_schedules_and_label_smoothing_are_those_of_plain_pytorch(engine, optimizer, lr_schedule, atol=2e-5):
    base = {"optimizer": optimizer, "lr_schedule": lr_schedule, "label_smoothing": 0.2, "train_batch_size": 6}
    specs = tiny_grid(base, warmup_steps=[0, 1, 5], n_steps=[8, 20])
    stack = Stack(one_cohort(specs), CPU, engine)
    for _ in range(12):
        train_step(stack)
    for index in (1, 2, 5):
        expected = plain_training(specs[index], steps=min(specs[index].n_steps, 12))
        assert_same_parameters(stack.member(index), expected, atol=atol)


def test_dropout_of_a_member_depends_on_its_own_seed_and_step_alone():
    specs = tiny_grid({"dropout": 0.5, "num_layers": 2, "init_seed": 0, "split_seed": 0}, order_seed=[0, 1])
    stack = Stack(one_cohort(specs), CPU)
    train = stack.scored["train"]
    stack.set_steps(torch.ones(2))
    first = stack.score(train, training=True)["loss"]
    assert torch.equal(first, stack.score(train, training=True)["loss"])
    stack.set_steps(2 * torch.ones(2))
    assert not torch.equal(first, stack.score(train, training=True)["loss"])
    assert not torch.equal(first[0], first[1])
    swapped = Stack(one_cohort(specs[::-1]), CPU)
    swapped.set_steps(torch.ones(2))
    assert torch.equal(first[0], swapped.score(swapped.scored["train"], training=True)["loss"][1])
    evaluated = stack.score(train)["loss"]
    assert torch.equal(evaluated[0], evaluated[1])  # same parameters and data, and no dropout outside of training


def test_evaluation_equals_the_objective_on_whole_splits():
    specs = tiny_grid({"operation_orders": (2, 3), "p": 3, "eval_batch_size": 5}, r_train=[0.4, 0.7])
    stack = trained(specs, steps=3)
    values = evaluate(stack, {"l2_norm": l2_norm})
    for index, spec in enumerate(specs):
        data, model = equations_of(spec), stack.built_model(index)
        for split, rows in (("train", data.train), ("valid", data.valid)):
            for suffix, kept in (("", rows), ("_order2", rows[data.order[rows] == 2])):
                inputs, targets, eq_positions, mask = data.rows(kept)
                loss, accuracy = get_loss_and_accuracy(model(inputs)[0], targets, eq_positions, mask)
                assert values[f"{split}_loss{suffix}"][index] == pytest.approx(loss.item(), abs=1e-5)
                assert values[f"{split}_accuracy{suffix}"][index] == pytest.approx(accuracy.item(), abs=1e-6)
        norm = torch.cat([p.detach().flatten() for p in model.parameters()]).norm()
        assert values["l2_norm"][index] == pytest.approx(norm.item(), rel=1e-5)


@pytest.mark.parametrize("optimizer", OF_GRADIENTS)
def test_a_diverging_member_is_frozen_and_its_neighbours_do_not_change_by_one_bit(optimizer):
    specs = tiny_grid({"optimizer": optimizer}, seed=[0, 1, 2])
    healthy, ill = Stack(one_cohort(specs), CPU), Stack(one_cohort(specs), CPU)
    for step in range(1, 9):
        if step == 4:
            with torch.no_grad():
                ill.theta[1, 0] = float("nan")
            frozen = theta(ill, 1)
        train_step(healthy)
        train_step(ill)
    assert ill.diverged_at.tolist() == [-1, 4, -1]
    assert ill.alive.tolist() == [True, False, True]
    torch.testing.assert_close(theta(ill, 1), frozen, atol=0, rtol=0, equal_nan=True)
    for index in (0, 2):
        assert torch.equal(theta(ill, index), theta(healthy, index))
        for name in ill.optimizer_state:
            assert torch.equal(ill.optimizer_state[name][index], healthy.optimizer_state[name][index])


def test_a_member_past_its_last_step_stays_as_it_is():
    specs = tiny_grid({}, n_steps=[3, 8])
    at_three, at_eight = trained(specs, steps=3), trained(specs, steps=8)
    assert torch.equal(theta(at_three, 0), theta(at_eight, 0))
    assert not torch.equal(theta(at_three, 1), theta(at_eight, 1))


def test_members_differ_by_seed_and_share_what_they_are_told_to_share():
    specs = [tiny(), tiny(init_seed=7), tiny(split_seed=7), tiny(order_seed=7)]
    stack = Stack(one_cohort(specs), CPU)
    assert torch.equal(theta(stack, 0), theta(stack, 2))
    assert torch.equal(theta(stack, 0), theta(stack, 3))
    assert not torch.equal(theta(stack, 0), theta(stack, 1))
    inputs = stack.tensors["inputs"]
    assert torch.equal(inputs[0], inputs[3])
    assert not torch.equal(inputs[0], inputs[2])


def test_building_a_stack_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Stack(one_cohort([tiny(seed=3)]), CPU)
    assert torch.equal(torch.rand(3), expected)


def test_biases_and_norms_can_be_left_out_of_the_decay():
    spec = tiny(model="gpt", decay_all=False, lr=0.1, weight_decay=1.0)
    stack = Stack(one_cohort([spec]), CPU)
    matrices = torch.cat(
        [torch.full((shape.numel(),), float(len(shape) > 1)) for shape in stack.layout.shapes.values()]
    )
    assert torch.equal(stack.hyper["weight_decay"][0], matrices)
    assert 0 < matrices.sum() < len(matrices)
    before = theta(stack, 0)
    train_step(stack)
    torch.testing.assert_close(theta(stack, 0), before * (1 - 0.1 * matrices), atol=0.11, rtol=0)
