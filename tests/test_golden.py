"""Both models, their data, objective and training against reference values made by others."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from shoal.models import GPT, LSTMLM
from shoal.models.families import usual_roles
from shoal.objectives import get_loss_and_accuracy
from shoal.rules.layout import Layout
from shoal.rules.settings import AdamW
from shoal.rules.updates import clip_scale
from shoal.spec import RunSpec
from shoal.tasks import get_arithmetic_dataset
from shoal.tasks.build import build_model

NAMES = ["lstm_order2", "lstm_order23", "gpt_order2", "gpt_order23"]
SPLIT = ("inputs", "targets", "eq_positions", "mask")


@dataclass(frozen=True)
class Reference:
    """One file of reference values."""

    meta: dict[str, str]
    tensors: dict[str, Tensor]

    def group(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    def split(self, name: str) -> list[Tensor]:
        return [self.tensors[f"{name}.{part}"] for part in SPLIT]

    def model(self) -> nn.Module:
        """Built from the metadata, with the initial parameters, keys unchanged."""
        width, layers, padding = (int(self.meta[name]) for name in ("d", "num_layers", "padding_index"))
        shared = {"padding_index": padding, "share_embeddings": self.meta["share_embeddings"] == "True"}
        vocabulary = len(self.meta["vocabulary"].split())
        if self.meta["kind"] == "lstm":
            model = LSTMLM(vocabulary, width, width, layers, **shared)
        else:
            length = self.tensors["train.inputs"].shape[1]
            heads, multiplier = int(self.meta["num_heads"]), float(self.meta["multiplier"])
            model = GPT(heads, layers, width, vocabulary, length, multiplier, **shared)
        model.load_state_dict(self.group("state."), strict=True)
        return model


@pytest.fixture(params=NAMES)
def reference(request, golden: Path) -> Reference:
    with safe_open(golden / f"{request.param}.safetensors", "pt") as file:
        return Reference(file.metadata(), {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def close(found: Tensor, expected: Tensor, *, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found.reshape(expected.shape), expected, atol=atol, rtol=0)


def score(model: nn.Module, split: list[Tensor], reduction: str = "mean") -> tuple[Tensor, Tensor]:
    inputs, targets, eq_positions, mask = split
    return get_loss_and_accuracy(model(inputs)[0], targets, eq_positions, mask, reduction)


def test_a_seed_draws_the_same_initial_parameters(reference):
    sizes = {"num_layers": reference.meta["num_layers"], "embedding_size": reference.meta["d"]}
    if reference.meta["kind"] == "gpt":
        sizes |= {name: reference.meta[name] for name in ("num_heads", "multiplier")}
    spec = RunSpec(
        model=reference.meta["kind"],
        p=int(reference.meta["p"]),
        operator=reference.meta["operator"],
        operation_orders=reference.meta["operation_orders"].strip("[]").replace(" ", ""),
        r_train=float(reference.meta["r_train"]),
        seed=int(reference.meta["seed"]),
        **{name: int(value) for name, value in sizes.items()},
    )
    found = dict(build_model(spec).named_parameters())
    expected = reference.group("state.")
    assert found.keys() == expected.keys() - {"embedding.position_encoding"}
    for name, parameter in found.items():
        assert torch.equal(parameter, expected[name]), name


def test_the_equations_are_the_same(reference):
    meta = reference.meta
    orders, seed = json.loads(meta["operation_orders"]), int(meta["seed"])
    p, r_train = int(meta["p"]), float(meta["r_train"])
    (train, valid), tokenizer, length, padding = get_arithmetic_dataset(
        p, p, meta["operator"], r_train, orders, seed=seed
    )
    assert tokenizer.itos == meta["vocabulary"].split()
    assert padding == int(meta["padding_index"])
    assert length == reference.tensors["train.inputs"].shape[1]
    for name, dataset in (("train", train), ("valid", valid)):
        for found, expected in zip(dataset.tensors, reference.split(name), strict=True):
            assert torch.equal(found, expected)


def test_logits_and_states_are_the_same(reference):
    logits, states = reference.model()(reference.tensors["train.inputs"])
    close(logits, reference.tensors["logits"])
    names = ("h", "c") if reference.meta["kind"] == "lstm" else ("hidden_states", "attentions")
    for name, state in zip(names, states, strict=True):
        assert state.shape == reference.tensors[name].shape
        close(state, reference.tensors[name])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss_and_accuracy_are_the_same(reference, reduction):
    loss, accuracy = score(reference.model(), reference.split("train"), reduction)
    scale = len(reference.tensors["train.inputs"]) if reduction == "sum" else 1
    close(loss / scale, reference.tensors[f"loss.{reduction}"] / scale)
    assert torch.equal(accuracy.reshape(-1), reference.tensors[f"accuracy.{reduction}"])


def test_gradients_are_the_same(reference):
    model = reference.model()
    score(model, reference.split("train"))[0].backward()
    expected = reference.group("grad.")
    assert expected.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        close(parameter.grad, expected[name])


def with_torch(model: nn.Module, lr: float, weight_decay: float, clip: float) -> Iterator[None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    while True:
        clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        yield


def with_shoal(model: nn.Module, lr: float, weight_decay: float, clip: float) -> Iterator[None]:
    theta = parameters_to_vector(model.parameters()).detach().unsqueeze(0)  # (1, P)
    settings = {"lr": lr, "weight_decay": weight_decay, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    hyper = {name: torch.tensor([[value]]) for name, value in settings.items()}
    update, layout = AdamW().build(), Layout.of(model, usual_roles(model))
    state, step = {name: torch.zeros_like(theta) for name in AdamW.state}, torch.zeros((), dtype=torch.float64)
    while True:
        step += 1
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()]).unsqueeze(0)  # (1, P)
        factor, _ = clip_scale(gradient, torch.tensor([[clip]]))
        update(theta, gradient * factor, state, hyper, step, layout)
        vector_to_parameters(theta[0], model.parameters())
        yield


@pytest.mark.parametrize("optimizer", [with_shoal, with_torch])
def test_the_optimisation_curve_is_the_same(reference, optimizer: Callable[..., Iterator[None]], atol=1e-3):
    model, expected = reference.model(), reference.tensors["curve"]
    train, valid = reference.split("train"), reference.split("valid")
    update = optimizer(model, *(float(reference.meta[name]) for name in ("lr", "weight_decay", "clip")))
    curve = []
    for _ in range(len(expected)):
        model.zero_grad()
        loss, accuracy = score(model, train)
        loss.backward()
        next(update)
        with torch.no_grad():
            curve.append([loss.item(), accuracy.item(), *(value.item() for value in score(model, valid))])
    close(torch.tensor(curve), expected, atol=atol)


def sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def test_datasets_have_the_same_hashes(golden):
    entries = json.loads((golden / "arithmetic.json").read_text(encoding="utf-8"))
    assert entries
    for entry in entries:
        settings = {name: entry[name] for name in ("p", "q", "operator", "r_train", "operation_orders")}
        splits, tokenizer, length, padding = get_arithmetic_dataset(
            **settings, is_symmetric=entry["is_symmetric"], seed=entry["seed"]
        )
        assert (tokenizer.itos, length, padding) == (entry["vocabulary"], entry["max_length"], entry["padding_index"])
        first = [tokenizer.decode([*row[0][:1], *row[1]]) for row in (splits[0][i] for i in range(3))]
        assert [text.replace(" PAD", "") for text in first] == entry["first_train"]
        for name, dataset in zip(("train", "valid"), splits, strict=True):
            assert len(dataset) == entry[name]
            parts = dict(zip(("inputs", "targets", "eq"), dataset.tensors, strict=False))
            for part, tensor in parts.items():
                assert tensor.dtype == torch.int64
                assert sha256(tensor) == entry["sha256"][f"{name}_{part}"]
