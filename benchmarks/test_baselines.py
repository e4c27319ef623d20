# ruff: noqa: D103
"""Tests that the baselines have the engine's logits, loss, trajectory and schedule."""

import math
import os

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import jax_baseline, plain, torch_nn
from shoal import RunSpec
from shoal.objectives import get_loss_and_accuracy
from shoal.tasks.arithmetic.settings import equations_of
from shoal.tasks.build import build_model
from shoal.training.plan import plan
from shoal.training.stack import Stack
from shoal.training.step import evaluate, train_step

MODELS = pytest.mark.parametrize("model", ["lstm", "gpt"])
ORDERS = pytest.mark.parametrize("orders", [(2,), (2, 3)])
GATES = ("input_gate", "forget_gate", "candidate_cell", "output_gate")  # in the order of nn.LSTM
QUANTITIES = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")


def tiny(model: str, **settings: object) -> RunSpec:
    """Spec of a run of less than a second."""
    heads = {"num_heads": 2} if model == "gpt" else {"hidden_size": 12}
    schedule = {"eval_first": 3, "eval_period": 5}
    base = {"p": 5, "num_layers": 2, "embedding_size": 8, "r_train": 0.6, "lr": 3e-3, "clip": 0.2}  # so that it clips
    return RunSpec(model=model, **{**schedule, **base, **heads, **settings})


def shoal_model(spec: RunSpec) -> nn.Module:
    return build_model(spec)


def shoal_history(specs: list[RunSpec], steps: int) -> dict[str, list[np.ndarray]]:
    """Statistics of the engine's own steps, evaluated on the schedule, ``(R,)`` each."""
    (cohort,) = plan(specs)
    stack = Stack(cohort, torch.device("cpu"))
    history: dict[str, list[np.ndarray]] = {name: [] for name in ("step", *QUANTITIES)}
    for step in range(steps + 1):
        if step > 0:
            train_step(stack)
        if step <= specs[0].eval_first or step % specs[0].eval_period == 0:
            values = evaluate(stack, {})
            history["step"].append(step)
            for name in QUANTITIES:
                history[name].append(values[name].numpy())
    return history


def every_row(spec: RunSpec) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    data = equations_of(spec)
    return data.rows(torch.arange(len(data.tokens)))


def as_library_state(state: dict[str, Tensor], model: str) -> dict[str, Tensor]:
    """Parameters of a shoal model by their names in :mod:`benchmarks.torch_nn`, 0 for those that shoal lacks."""
    parameters = {name: tensor for name, tensor in state.items() if name.startswith(("embedding.", "classifier."))}
    layers = range(2)
    if model == "lstm":
        for layer in layers:
            weights = torch.cat([state[f"lstm.layers.{layer}.{gate}.weight"] for gate in GATES])  # (4 D, input + D)
            bias = torch.cat([state[f"lstm.layers.{layer}.{gate}.bias"] for gate in GATES])
            input_size = weights.shape[1] - weights.shape[0] // 4
            parameters[f"lstm.weight_ih_l{layer}"] = weights[:, :input_size]
            parameters[f"lstm.weight_hh_l{layer}"] = weights[:, input_size:]
            parameters[f"lstm.bias_ih_l{layer}"], parameters[f"lstm.bias_hh_l{layer}"] = bias, torch.zeros_like(bias)
        return parameters
    names = {"self_attn.W_O": "self_attn.out_proj", "self_attn_norm": "norm1", "ffn_norm": "norm2"}
    for layer in layers:
        ours, theirs = f"decoder.blocks.{layer}", f"encoder.layers.{layer}"
        for part in ("weight", "bias"):
            in_proj = torch.cat([state[f"{ours}.self_attn.{W}.{part}"] for W in ("W_Q", "W_K", "W_V")])
            parameters[f"{theirs}.self_attn.in_proj_{part}"] = in_proj
            parameters |= {f"{theirs}.{new}.{part}": state[f"{ours}.{old}.{part}"] for old, new in names.items()}
        for old, new in (("ffn.0", "linear1"), ("ffn.2", "linear2")):
            weight = state[f"{ours}.{old}.weight"]
            parameters[f"{theirs}.{new}.weight"], parameters[f"{theirs}.{new}.bias"] = weight, torch.zeros(len(weight))
    return parameters


def assert_same_history(found: dict, expected: dict, *, atol: float) -> None:
    assert found["step"] == expected["step"]
    for name in QUANTITIES:
        values, wanted = np.array(found[name]).reshape(-1), np.array(expected[name]).reshape(-1)
        # an accuracy can differ by an example whose two best logits are nearly equal
        np.testing.assert_allclose(values, wanted, atol=atol if name.endswith("loss") else 0.11, rtol=0)


@MODELS
@ORDERS
@torch.no_grad()
def test_plain_computes_shoals_logits_loss_and_accuracy(model, orders, atol=1e-5):
    spec = tiny(model, operation_orders=orders)
    shoal_one, trainer = shoal_model(spec.replace(init_seed=7)), plain.Trainer(spec)
    trainer.model.load_state_dict(shoal_one.state_dict())
    inputs, *scoring = every_row(spec)
    logits, expected = trainer.model(inputs)[0], shoal_one(inputs)[0]
    torch.testing.assert_close(logits, expected, atol=atol, rtol=0)
    scores = trainer.objective(inputs, *scoring)
    torch.testing.assert_close(scores, get_loss_and_accuracy(expected, *scoring), atol=atol, rtol=0)


@MODELS
def test_plain_starts_where_shoal_starts(model):
    spec = tiny(model, seed=3)
    state, expected = plain.Trainer(spec).model.state_dict(), shoal_model(spec).state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0)


@MODELS
@ORDERS
def test_plain_trains_and_evaluates_as_shoal_does(model, orders, atol=1e-4):
    spec = tiny(model, operation_orders=orders, eval_batch_size=7)
    trainer = plain.Trainer(spec)
    trainer.step(4)
    trainer.step(6)
    assert trainer.history["step"] == [0, 1, 2, 3, 5, 10]
    assert_same_history(trainer.history, shoal_history([spec], 10), atol=atol)


@MODELS
@pytest.mark.parametrize("module", [plain, torch_nn])
def test_batches_are_learned_from_one_seed_after_another(module, model):
    histories = module.run(tiny(model, train_batch_size=4), steps=20, seeds=[0, 1])
    assert histories[0]["train_loss"] != histories[1]["train_loss"]
    for history in histories.values():
        assert history["train_loss"][-1] < history["train_loss"][0] - 0.1


@MODELS
def test_compiled_trains_through_torch_compile(model, monkeypatch):
    compiled = []

    def record(function, **options):
        assert options == {"dynamic": False, "recompile_limit": 64}
        return lambda *batch: compiled.append(len(batch[0])) or function(*batch)

    monkeypatch.setattr(torch, "compile", record)  # generating code takes half a minute
    trainer = plain.Trainer(tiny(model, eval_first=0), compiled=True)
    trainer.step(2)
    n_train, n_valid = 15, 10
    assert compiled == [n_train, n_valid, n_train, n_train]  # an evaluation, then two steps


@MODELS
@ORDERS
@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_the_librarys_layers_compute_shoals_logits(model, orders, training, atol=1e-5):
    spec = tiny(model, operation_orders=orders)
    shoal_one, trainer = shoal_model(spec), torch_nn.Trainer(spec)
    trainer.model.load_state_dict(as_library_state(shoal_one.state_dict(), model))
    trainer.model.train(training)  # in evaluation the library may take another path
    inputs, *_ = every_row(spec)
    torch.testing.assert_close(trainer.model(inputs)[0], shoal_one(inputs)[0], atol=atol, rtol=0)


@MODELS
def test_a_seed_gives_plain_and_shoal_the_same_initial_parameters(model):
    spec = tiny(model, seed=42)
    expected = shoal_model(spec).state_dict()
    for name, value in plain.Trainer(spec).model.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("module", [plain, torch_nn])
def test_what_a_baseline_does_not_have_is_refused(module):
    with pytest.raises(ValueError, match=r"the baselines have dropout=0\.0, got 0\.1"):
        module.Trainer(tiny("gpt", dropout=0.1))
    with pytest.raises(ValueError, match="the baselines have initialisation=xavier, got torch"):
        module.Trainer(tiny("lstm", initialisation="torch"))
    with pytest.raises(ValueError, match="one run at a time, got members=2"):
        module.Trainer(tiny("lstm"), 2)


def test_without_jax_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(jax_baseline, "_MISSING", ImportError("No module named 'jax'"))
    with pytest.raises(ImportError, match=r'pip install "shoal\[bench\]"'):
        jax_baseline.Trainer(tiny("lstm"))


@pytest.fixture(scope="module")
def jax():
    """Module of JAX where it is installed, with fast compilation instead of fast code."""
    pytest.importorskip("optax")
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # read at the first use
    return pytest.importorskip("jax")


@MODELS
def test_jax_computes_shoals_logits_and_loss(jax, model, atol=1e-5):
    spec = tiny(model, operation_orders=(2, 3))
    shoal_one, (inputs, *scoring) = shoal_model(spec).requires_grad_(False), every_row(spec)
    params = {name: tensor.numpy() for name, tensor in shoal_one.named_parameters()}
    batch = [tensor.numpy().astype(np.int32) for tensor in (inputs, *scoring)]
    logits, *scores = jax.jit(
        lambda: (
            jax_baseline.MODELS[model](params, batch[0], spec),
            *jax_baseline.loss_and_accuracy(params, batch, spec),
        )
    )()
    expected = shoal_one(inputs)[0]
    np.testing.assert_allclose(logits, expected.numpy(), atol=atol, rtol=0)
    wanted = get_loss_and_accuracy(expected, *scoring, reduction="none")
    for score, one in zip(scores, wanted, strict=True):
        np.testing.assert_allclose(score, one.numpy(), atol=atol, rtol=0)


@MODELS
def test_jax_trains_and_evaluates_several_runs_as_shoal_does(jax, model, atol=1e-4):
    settings = {"operation_orders": (2, 3), "num_layers": 1, "eval_batch_size": 50}
    trainer = jax_baseline.Trainer(tiny(model, **settings), seeds=[3, 0])
    trainer.step(5)
    trainer.step(5)
    assert trainer.history["step"] == [0, 1, 2, 3, 5, 10]
    expected = shoal_history([tiny(model, **settings, seed=seed) for seed in (3, 0)], 10)
    assert_same_history(trainer.history, expected, atol=atol)


def test_jax_learns_from_random_batches(jax):
    histories = jax_baseline.run(tiny("gpt", num_layers=1, train_batch_size=4), steps=20, seeds=[0, 1])
    assert histories[0]["train_loss"] != histories[1]["train_loss"]
    for history in histories.values():
        assert history["step"] == [0, 1, 2, 3, 5, 10, 15, 20]
        assert history["train_loss"][-1] < history["train_loss"][0] - 0.1


def test_positions_are_the_practicals():
    spec = tiny("gpt")
    expected = shoal_model(spec).state_dict()["embedding.position_encoding"]
    S, D = expected.shape
    np.testing.assert_allclose(jax_baseline.sinusoidal_embeddings(S, D), expected.numpy(), atol=1e-6)
    assert expected[1, 2] == pytest.approx(math.sin(10000 ** (-1 / D)))
