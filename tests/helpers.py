"""Small runs that the tests share."""

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import torch
from hypothesis import strategies as st
from torch import Tensor

from shoal.fast.engine import choose_engine
from shoal.lab.cohort import CohortFolder
from shoal.lab.files import read_json
from shoal.registry import MODELS, RULES
from shoal.spec import RunSpec, grid
from shoal.training.plan import Cohort, plan
from shoal.training.stack import Stack
from shoal.training.step import train_step

CPU = torch.device("cpu")
OF_GRADIENTS = [rule.name for rule in RULES.shipped() if rule.fits == "gradient"]
MODULES = [model.name for model in MODELS.shipped() if model.fitted_by == "gradient"]
TINY: dict[str, Any] = {
    "p": 5,
    "num_layers": 1,
    "embedding_size": 8,
    "r_train": 0.6,
    "n_steps": 12,
    "eval_first": 3,
    "eval_period": 5,
}


def tiny(**settings: Any) -> RunSpec:
    """A run of a second; with GPT, of two heads."""
    heads = {"num_heads": 2} if settings.get("model") == "gpt" else {}
    return RunSpec(**{**TINY, **heads, **settings})


def tiny_grid(base: dict[str, Any], **values: Any) -> list[RunSpec]:
    """A grid of such runs."""
    return grid(tiny(**base), **values)


def one_cohort(specs: list[RunSpec]) -> Cohort:
    """The cohort of specs that fit together."""
    (cohort,) = plan(specs)
    return cohort


def trained(specs: list[RunSpec], steps: int) -> Stack:
    """A stack after some steps."""
    stack = Stack(one_cohort(specs), CPU)
    for _ in range(steps):
        train_step(stack)
    return stack


def fastest(spec: RunSpec) -> dict[str, str]:
    """The engine and the products that ``train`` chooses here, once the kernels are compiled."""
    choice = choose_engine(spec, math.inf, CPU)
    return {"engine": choice.engine, "products": choice.products}


def denormals_are_flushed(parameters: dict[str, Tensor]) -> Tensor:
    """A quantity to record: 1 where numbers without a full mantissa count as 0."""
    return (torch.full((), 1e-39) * 0.5 == 0).float()


def theta(stack: Stack, index: int) -> Tensor:
    """The parameters of one member, ``(P,)``."""
    return stack.theta.detach()[index].clone()


def gradients(stack: Stack) -> tuple[dict[str, Tensor], Tensor]:
    """Scores of the training examples and the gradient of their summed loss, ``(R, P)``."""
    scores = stack.score(stack.scored["train"])
    (gradient,) = torch.autograd.grad(scores["loss"].sum(), stack.theta)
    return {name: value.detach() for name, value in scores.items()}, gradient


def scattered(specs: list[RunSpec], engine: str) -> Stack:
    """A stack away from its initial values, so that biases and norms matter."""
    stack = Stack(one_cohort(specs), CPU, engine)
    with torch.no_grad():
        stack.theta += 0.3 * torch.randn(stack.theta.shape, generator=torch.Generator().manual_seed(1))
    return stack


shapes = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["lstm", "gpt"]),
        "p": st.sampled_from([2, 3, 5]),
        "operation_orders": st.sampled_from([(2,), (3,), (2, 3)]),
        "operator": st.sampled_from(["+", "-", "/"]),
        "equation_format": st.sampled_from(["full", "eos", "infix", "operands"]),
        "unused_tokens": st.sampled_from([0, 3]),
        "zero_operands": st.sampled_from(["any", "none"]),
        "train_batch_size": st.sampled_from([1, 3, 7, 64, 512]),
        "num_layers": st.integers(1, 3),
        "embedding_size": st.sampled_from([4, 6, 8, 16, 20, 32]),
        "bias": st.booleans(),
        "bias_classifier": st.booleans(),
        "share_embeddings": st.booleans(),
        "is_symmetric": st.booleans(),
    }
).filter(lambda shape: shape["p"] > 2 or shape["zero_operands"] == "any")  # or there is one equation


def rewrite(folder: CohortFolder, *frames: pl.DataFrame) -> None:
    """Let the metrics of a cohort be these, one file each, as if they had been measured."""
    for name in folder.parts.there():
        (folder.parts.path / name).unlink()
    names = [folder.write_metrics(number, frame) for number, frame in enumerate(frames)]
    folder.write_status({**folder.status(), "metrics": names})


def unseal(lab: Path) -> None:
    """Make a lab what earlier versions wrote: without checksums of JSON and without lists of metrics files."""
    for path in lab.rglob("*.json"):
        content = read_json(path)
        content.pop("metrics") if path.name == "status.json" else None
        path.write_text(json.dumps(content))
