"""Numbers of steps that cost equal compute for different models.

Source: Kaplan et al. 2020, "Scaling laws for neural language models", section 2.1: to train on a token takes 6 FLOP for
each parameter that multiplies something, two in the forward and four in the backward pass.
"""

from collections.abc import Mapping
from typing import Any

from shoal.spec import RunSpec
from shoal.tasks.build import count_run_parameters

EVALUATIONS = 10  # in equal shares of the budget
FLOP_RULE = (
    "6 FLOP for each token and each parameter of the layers and the classifier, also where that is tied to the "
    "embeddings, which are looked up and not counted; what attention computes between positions is not counted either"
)


def multiplying(spec: RunSpec) -> int:
    """Number of parameters that multiply something for each token: all but tables, and the classifier in any case."""
    sizes = spec.task_part.sizes()
    tied = sizes.vocabulary_size * spec.get("embedding_size", 0) if spec.get("share_embeddings", False) else 0
    return count_run_parameters(spec) + tied


def tokens_per_step(spec: RunSpec) -> int:
    """Number of tokens of a training step of a run on a text."""
    return int(spec.train_batch_size * spec.get("context_length", 1))


def flop_per_step(spec: RunSpec) -> int:
    """Training FLOP of a step."""
    return 6 * multiplying(spec) * tokens_per_step(spec)


def between_positions(spec: RunSpec) -> float:
    """Compute of attention between positions, as a share of :func:`flop_per_step`; 0 for a model without attention.

    Scores and the mean of the values take 4 S d FLOP for a token and layer in the forward pass and twice that in the
    backward pass, whether or not half of them are masked.
    """
    if "num_heads" not in spec:
        return 0.0
    return float(12 * spec.num_layers * spec.context_length * spec.embedding_size / (6 * multiplying(spec)))


def steps_for(budget: float, given: Mapping[str, Any]) -> dict[str, int]:
    """Settings ``n_steps`` that spend a budget, and ``eval_period`` for :data:`EVALUATIONS` evaluations.

    Args:
        budget: compute in FLOP.
        given: the other settings of a run.
    """
    spec = RunSpec(**{**given, "n_steps": 10_001})
    period = max(1, round(budget / flop_per_step(spec) / EVALUATIONS))
    steps = given.get("n_steps") or period * EVALUATIONS
    return {"n_steps": period * EVALUATIONS, "eval_period": max(1, int(steps) // EVALUATIONS)}
