"""Parts from outside of shoal in a stack: weighted objectives, batches of their own, parameters that do not train."""

import math

import pytest
import torch
from helpers import CPU, one_cohort, theta, tiny, tiny_grid, trained
from torch.nn import functional as F

import shoal
from shoal.errors import UserError
from shoal.fast.engine import choose_engine
from shoal.lab import Lab
from shoal.lab.tensors import load_tensors
from shoal.objectives import get_loss_and_accuracy
from shoal.spec import RunSpec
from shoal.tasks.arithmetic.settings import equations_of
from shoal.tasks.build import build_model, build_task
from shoal.training.frozen import shared_by_all
from shoal.training.stack import Stack
from shoal.training.step import evaluate, train_step

SGD = {"optimizer": "sgd", "weight_decay": 0.0, "clip": math.inf, "lr": 0.5, "p": 5, "embedding_size": 4}


# objectives whose examples do not count alike


def by_hand(spec: RunSpec, model: torch.nn.Module, rows: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Mean loss and accuracy over the tokens that are scored, token by token."""
    task = build_task(spec)
    loss, right, n = torch.zeros(()), 0, 0
    for row in rows.tolist():
        inputs, targets = task.tensors["inputs"][row], task.tensors["targets"][row]
        logits, *_ = model(inputs.unsqueeze(0))
        for s in range(int(task.tensors["weight"][row])):
            loss = loss - F.log_softmax(logits[0, s], 0)[targets[s]]
            right += int(logits[0, s].argmax() == targets[s])
            n += 1
    return loss / n, right / n


@pytest.mark.parametrize("train_batch_size", [4, 512])
def test_a_weighted_objective_is_the_mean_over_what_is_scored(train_batch_size, atol=1e-5):
    """Loss, gradient and evaluation; steps of gradient descent show the first two."""
    specs = tiny_grid({**SGD, "task": "outside:Weighted", "train_batch_size": train_batch_size}, seed=[0, 1])
    stack = Stack(one_cohort(specs), CPU)
    models = [build_model(spec) for spec in specs]
    for step in range(3):
        stack.sampler.prepare(torch.full((2,), step))
        drawn = stack.drawn.gather(1, stack.sampler(torch.full((2,), step + 1))[0])
        counts = stack.sampler(torch.full((2,), step + 1))[1]
        train_step(stack)
        for index, (spec, model) in enumerate(zip(specs, models, strict=True)):
            loss, _ = by_hand(spec, model, drawn[index][counts[index]])
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= 0.5 * gradient
            for name, parameter in model.named_parameters():
                torch.testing.assert_close(stack.member(index)[name], parameter.detach(), atol=atol, rtol=0)
    values = evaluate(stack, {})
    assert values.keys() == {f"{split}_{name}" for split in ("train", "valid") for name in ("loss", "accuracy")}
    for index, (spec, model) in enumerate(zip(specs, models, strict=True)):
        for split, rows in build_task(spec).scored.items():
            loss, accuracy = by_hand(spec, model, rows)
            assert float(values[f"{split}_loss"][index]) == pytest.approx(loss.item(), abs=atol)
            assert float(values[f"{split}_accuracy"][index]) == pytest.approx(accuracy, abs=1e-6)


def test_without_weights_examples_count_alike():
    specs = [tiny(**{**SGD, "task": task}) for task in ("arithmetic", "outside:Weighted")]
    alike, weighted = (evaluate(Stack(one_cohort([spec]), CPU), {}) for spec in specs)
    assert alike["train_loss"] != weighted["train_loss"]  # the weights of the test above say something
    data, model = equations_of(specs[0]), build_model(specs[0])
    inputs, *rest = data.rows(data.train)
    loss, _ = get_loss_and_accuracy(model(inputs)[0], *rest)
    assert float(alike["train_loss"]) == pytest.approx(loss.item(), abs=1e-6)


# batches that are not rows


@pytest.mark.parametrize("engine", ["prefixes", "compiled"])
def test_a_task_that_makes_its_own_batches_is_refused_by_the_engines_of_prefixes(engine):
    with pytest.raises(UserError, match="engine plain"):
        Stack(one_cohort([tiny(task="outside:Shifted")]), CPU, engine)


def test_the_plain_engine_scores_the_batches_that_a_task_makes():
    specs = [tiny(task=task, embedding_size=8, seed=3) for task in ("outside:Shifted", "arithmetic")]
    shifted, usual = (Stack(one_cohort([spec]), CPU) for spec in specs)
    assert torch.equal(shifted.theta, usual.theta)
    task, model = build_task(specs[1]), build_model(specs[1])
    for split, rows in task.scored.items():
        whole = {name: tensor[rows] for name, tensor in task.tensors.items()}
        moved = torch.stack([torch.cat([row[-1:], row[:-1]]) for row in whole["inputs"]])  # the token before each
        expected = task.objective(model, {**whole, "inputs": moved})["loss"]
        found = shifted.score(shifted.scored[split])["loss"][0]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        assert not torch.allclose(found, usual.score(usual.scored[split])["loss"][0], atol=1e-3)


def test_the_engine_of_a_task_without_shared_prefixes_is_plain():
    choice = choose_engine(tiny(task="outside:Weighted"), math.inf, CPU)
    assert choice.engine == "plain" and "prefixes" in choice.why
    assert choose_engine(tiny(model="outside:HalfFrozen", num_layers=None), math.inf, CPU, "prefixes").engine == "plain"
    with pytest.raises(UserError, match="precision"):
        tiny(task="outside:Weighted", precision="bfloat16")


# parameters that do not train


def half_frozen(**settings) -> list[RunSpec]:
    base = {"model": "outside:HalfFrozen", "num_layers": None, "lr": 0.1, "weight_decay": 1.0}
    return tiny_grid({**base, **settings}, seed=[0, 1])


def test_what_does_not_train_is_held_once_and_never_moves():
    specs = half_frozen()
    start = [build_model(spec).state_dict() for spec in specs]
    stack = trained(specs, steps=5)
    frozen = {"mix.weight", "mix.bias"}
    assert stack.frozen.keys() == frozen
    assert not frozen & stack.layout.shapes.keys()
    learnt = {name: tensor for name, tensor in start[0].items() if name not in {*frozen, "scale"}}
    assert stack.layout.shapes == {name: tensor.shape for name, tensor in learnt.items()}
    assert stack.theta.shape == (2, sum(tensor.numel() for tensor in learnt.values()))
    for name, tensor in stack.frozen.items():
        assert tensor.shape == start[0][name].shape  # one for all members
        assert torch.equal(tensor, start[0][name])  # weight decay does not reach it
    for index in range(2):
        member = stack.member(index)
        assert member.keys() == start[index].keys()
        for name, tensor in member.items():
            assert torch.equal(tensor, start[index][name]) == (name in {*frozen, "scale"}), name
    assert not torch.equal(theta(stack, 0), theta(stack, 1))


def test_a_model_that_trains_in_part_trains_as_in_plain_pytorch(atol=2e-5):
    specs = half_frozen(optimizer="adamw")
    stack, task = trained(specs, steps=4), build_task(specs[1])
    model = build_model(specs[1])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=1.0)
    batch = {name: tensor[task.drawn] for name, tensor in task.tensors.items()}
    for _ in range(4):
        model.zero_grad()
        task.objective(model, batch)["loss"].mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(stack.member(1)[name], tensor, atol=atol, rtol=0)


def test_runs_that_differ_in_what_does_not_train_are_no_cohort():
    specs = half_frozen(drawn_by_seed=True)
    with pytest.raises(UserError, match=r"mix\.weight"):
        Stack(one_cohort(specs), CPU)
    assert Stack(one_cohort(specs[:1]), CPU).frozen.keys() == {"mix.weight", "mix.bias"}


def test_parameters_that_do_not_train_are_not_counted():
    spec = half_frozen()[0]
    V, D = spec.task_part.sizes().vocabulary_size, spec.embedding_size
    assert spec.model_part.count(spec.task_part.sizes()) == V * D + V  # the head; the table is an embedding


# and all of them in a lab


def test_runs_of_parts_from_outside_are_trained_kept_and_read_again(tmp_path):
    specs = half_frozen(task="outside:Weighted", optimizer="outside:Descend", weight_decay=0.01, n_steps=3)
    records = shoal.train(specs, tmp_path / "lab", workers=1)
    assert records.runs()["state"].to_list() == ["done", "done"]
    lab = Lab(tmp_path / "lab")
    assert set(lab.records().specs.values()) == set(specs)
    stack = trained(specs, steps=3)
    (cohort,) = lab.cohorts()
    for index, spec in enumerate(specs):
        kept, _ = load_tensors(cohort.models(spec.id)[3])
        assert kept.keys() == stack.member(index).keys() >= {"mix.weight", "scale"}
        for name, tensor in kept.items():
            torch.testing.assert_close(tensor, stack.member(index)[name], atol=1e-6, rtol=0)


def test_an_update_rule_from_outside_is_given_its_own_numbers_and_the_step():
    specs = tiny_grid({**SGD, "optimizer": "outside:Descend"}, push=[1.0, 0.25], weight_decay=[0.0, 0.5])
    stack = Stack(one_cohort(specs), CPU)
    for step in (1, 2):
        before = [theta(stack, index) for index in range(4)]
        (gradient,) = torch.autograd.grad(stack.score(stack.scored["train"])["loss"].mean(1).sum(), stack.theta)
        train_step(stack)
        for index, spec in enumerate(specs):
            expected = (1 - spec.weight_decay) * before[index] - spec.lr * spec.push * step * gradient[index]
            torch.testing.assert_close(theta(stack, index), expected, atol=1e-5, rtol=0)


class Buffered(torch.nn.Module):
    def __init__(self, value: float, persistent: bool) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.register_buffer("table", torch.full((2,), value), persistent=persistent)


def test_buffers_that_differ_between_members_are_refused():
    shared_by_all([Buffered(1.0, True), Buffered(1.0, True)], torch.device("cpu"))
    with pytest.raises(UserError, match=r"table .* every buffer, is held once"):
        shared_by_all([Buffered(1.0, True), Buffered(2.0, True)], torch.device("cpu"))


def test_what_has_weight_0_counts_for_nothing_whatever_its_value():
    stack = Stack(one_cohort([RunSpec(p=5, embedding_size=8, num_layers=1, train_batch_size=6)]), CPU)
    plain = stack.score

    def scored(indices, training=False, form=None):
        found, none = plain(indices, training, form), indices % 2 == 1
        weight = (~none).to(torch.float32)
        return {**{name: values.where(~none, math.nan) for name, values in found.items()}, "weight": weight}

    stack.score = scored
    with torch.no_grad():
        every = stack.scored["valid"]
        expected = plain(every)["loss"][every % 2 == 0].double().mean()
    assert evaluate(stack, {})["valid_loss"].item() == pytest.approx(expected.item())
    train_step(stack)
    assert stack.alive.all() and (stack.diverged_at == -1).all()


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary", "none"])
def test_the_outputs_do_not_depend_on_what_is_said_to_have_no_effect(positions):
    spec = RunSpec(model="gpt", p=5, embedding_size=8, num_heads=2, positions=positions)
    model, tokens = build_model(spec).eval(), torch.tensor([[0, 1, 2, 3]])
    named = dict(model.named_parameters())
    unseen = spec.model_part.without_effect(list(named))
    before = model(tokens)[0].detach()
    for name in [name for name in named if name.endswith("W_K.bias")]:
        with torch.no_grad():
            named[name].add_(torch.linspace(-1, 1, 8))
    assert torch.allclose(model(tokens)[0], before, atol=1e-5) == bool(unseen)


def test_runs_that_differ_in_what_does_not_train_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="does not train and is not the same"):
        shoal.train(half_frozen(drawn_by_seed=True), tmp_path / "lab", workers=1)
    assert not list((tmp_path / "lab").glob("cohorts/*"))
