"""Both models, their objective and the equations against the vectors of ``vectors/make.py``."""

import hashlib
import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from shoal.models import GPT, LSTMLM
from shoal.objectives import get_loss_and_accuracy
from shoal.tasks import get_arithmetic_dataset

VECTORS = Path(__file__).parent / "vectors"
STATES = {"lstm": ("h", "c"), "gpt": ("hidden_states", "attentions")}
ENTRIES = json.loads((VECTORS / "arithmetic.json").read_text(encoding="utf-8"))


def close(found: Tensor, expected: Tensor, *, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


@pytest.fixture(params=["lstm", "gpt"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def vectors(kind) -> dict[str, Tensor]:
    return load_file(VECTORS / f"{kind}.safetensors")


@pytest.fixture
def model(kind, vectors) -> nn.Module:
    size, width = vectors["state.classifier.weight"].shape
    if kind == "lstm":
        model = LSTMLM(size, width, width, num_layers=2)
    else:
        model = GPT(2, 2, width, size, sequence_length=vectors["inputs"].shape[1], multiplier=2)
    state = {name.removeprefix("state."): t for name, t in vectors.items() if name.startswith("state.")}
    kept = {name: t for name, t in model.state_dict().items() if name == "embedding.position_encoding"}
    model.load_state_dict(state | kept, strict=True)
    return model


def score(model: nn.Module, vectors: dict[str, Tensor], reduction: str) -> tuple[Tensor, Tensor]:
    targets, eq_positions, mask = (vectors[name] for name in ("targets", "eq_positions", "mask"))
    return get_loss_and_accuracy(model(vectors["inputs"])[0], targets, eq_positions, mask, reduction)


def test_logits_and_states_equal_the_vectors(kind, model, vectors):
    logits, states = model(vectors["inputs"])
    close(logits, vectors["logits"])
    for name, state in zip(STATES[kind], states, strict=True):
        close(state, vectors[name])


def test_loss_and_accuracy_equal_the_vectors(model, vectors):
    assert 0 < vectors["accuracy"].mean() < 1
    for reduction, reduce in {"none": lambda x: x, "mean": torch.mean, "sum": torch.sum}.items():
        loss, accuracy = score(model, vectors, reduction)
        close(loss, reduce(vectors["loss"]))
        assert torch.equal(accuracy, reduce(vectors["accuracy"]))


def test_gradients_equal_the_vectors(model, vectors):
    score(model, vectors, "mean")[0].backward()
    for name, parameter in model.named_parameters():
        close(parameter.grad, vectors[f"grad.{name}"])


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: " ".join(map(str, entry["settings"].values())))
def test_equations_have_the_hashes_of_plain_loops(entry):
    splits, tokenizer, length, padding = get_arithmetic_dataset(**entry["settings"])
    assert " ".join(tokenizer.itos) == entry["vocabulary"]
    assert (length, padding) == (entry["max_length"], len(tokenizer) - 1)
    for name, split in zip(("train", "valid"), splits, strict=True):
        expected = entry[name]
        first = [tokenizer.decode([row[0], *target]) for row, target in zip(*split.tensors[:2], strict=True)][:2]
        assert [text.replace(" PAD", "") for text in first] == expected["first"]
        assert len(split) == expected["size"]
        for (part, digest), tensor in zip(expected["sha256"].items(), split.tensors, strict=True):
            assert tensor.dtype == torch.int64
            assert hashlib.sha256(tensor.numpy().tobytes()).hexdigest() == digest, part


def test_the_vectors_are_what_their_script_makes(kind, vectors):
    script = runpy.run_path(str(VECTORS / "make.py"))
    made = script["vectors"](kind)
    assert made.keys() == vectors.keys()
    for name, tensor in made.items():
        close(tensor, vectors[name], atol=1e-6)
    assert script["arithmetic"]() == ENTRIES
