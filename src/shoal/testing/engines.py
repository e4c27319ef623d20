"""Contract of engines: an engine computes the results of the model, or refuses."""

import math
from typing import ClassVar

import pytest
import torch

from shoal.errors import UserError
from shoal.fast.engine import ENGINES, choose_engine
from shoal.spec import RunSpec
from shoal.testing.base import CPU, Contract, assert_close, stack_of
from shoal.training.step import evaluate, train_steps


class EngineContract(Contract):
    """Contract of every engine, tested on a small run beside the model as it is written.

    Attributes:
        tolerance: largest difference of losses, and of gradients as a share of their largest.
        steps: number of steps after which they are compared again.
    """

    tolerance: ClassVar[float] = 1e-4
    steps: ClassVar[int] = 3

    @pytest.mark.parametrize("wanted", ENGINES)
    def test_it_computes_what_the_model_says(self, spec: RunSpec, wanted: str) -> None:
        """Scores, gradient and a few steps agree, with the engine that is recorded when this one is wanted."""
        engine = choose_engine(spec, math.inf, CPU, wanted).engine
        specs = (spec, spec.replace(seed=spec.seed + 1))
        slow, fast = stack_of(*specs), stack_of(*specs, engine=engine)
        assert (fast.scorer is None) == (engine == "plain")
        losses, gradients = [], []
        for stack in (slow, fast):
            stack.sampler.prepare(stack.steps)
            stack.at += 1
            indices, counts = stack.draw()
            loss = stack.score(indices, training=True, form=stack.form)["loss"].where(counts, 0.0)  # (R, B)
            (gradient,) = torch.autograd.grad(loss.sum(), stack.theta)
            stack.at -= 1
            losses.append(loss)
            gradients.append(gradient / gradient.abs().max())
        assert_close(losses[1], losses[0], self.tolerance, "training losses")
        assert_close(gradients[1], gradients[0], self.tolerance, "gradients")
        for n in (0, self.steps):
            train_steps(slow, n)
            train_steps(fast, n)
            plain_scores, fast_scores = evaluate(slow, {}), evaluate(fast, {})
            for column in spec.task_part.measures().columns:
                if column.endswith("_loss"):
                    assert_close(fast_scores[column], plain_scores[column], self.tolerance, f"{column} after {n} steps")

    @pytest.mark.parametrize("engine", ENGINES)
    def test_an_engine_that_does_not_serve_the_run_says_so(self, spec: RunSpec, engine: str) -> None:
        """Such an engine is not recorded as the one that computes, and raises where it is forced to compute."""
        if choose_engine(spec, math.inf, CPU, engine).engine == engine:
            pytest.skip("it serves the run")
        with pytest.raises(UserError):
            stack_of(spec, engine=engine)
