"""What every model family must hold."""

import random
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from shoal.rules.layout import ROLES, Layout
from shoal.spec import RunSpec
from shoal.tasks.build import build_model
from shoal.testing.base import Contract, assert_close, stack_of
from shoal.training.step import evaluate, train_steps

_B, _R = 3, 3


class ModelContract(Contract):
    """Tests of the model of a small run, which reads tokens and gives logits.

    Attributes:
        causal: whether what it says at a position hangs on the tokens up to there alone, as next-token tasks need it.
        tolerance: how far a value may move, as a share of the largest, with what is computed beside it.
        steps: after which its training loss must be lower than at first.
    """

    causal: ClassVar[bool] = True
    tolerance: ClassVar[float] = 1e-5
    steps: ClassVar[int] = 30

    @pytest.fixture
    def model(self, spec: RunSpec) -> nn.Module:
        """The model with its initial values, not training."""
        return build_model(spec).eval()

    @pytest.fixture
    def tokens(self, spec: RunSpec) -> Tensor:
        """Random ones of the task's sizes, ``(B, S)``."""
        sizes, generator = spec.sizes(), torch.Generator().manual_seed(0)
        return torch.randint(sizes.vocabulary_size, (_B, sizes.sequence_length), generator=generator)

    def test_it_gives_logits_first(self, spec: RunSpec, model: nn.Module, tokens: Tensor) -> None:
        """``(B, S) -> (B, S, V)``, finite, as the first of a tuple."""
        found = model(tokens, **spec.model_part.calling)
        assert isinstance(found, tuple), "forward must return a tuple, of which the logits are the first"
        assert found[0].shape == (*tokens.shape, spec.sizes().vocabulary_size)
        assert found[0].is_floating_point() and bool(found[0].isfinite().all())

    def test_the_count_is_that_of_its_parameters(self, spec: RunSpec, model: nn.Module) -> None:
        """All that train but tables of embeddings."""
        part = spec.model_part
        roles = part.roles(model)
        counted = sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and roles[name] != "table")
        assert part.count(spec.sizes()) == counted

    def test_every_parameter_has_a_role(self, spec: RunSpec, model: nn.Module) -> None:
        """From which update rules know the hidden matrices."""
        roles = spec.model_part.roles(model)
        assert {name for name, _ in model.named_parameters()} <= set(roles)
        assert set(roles.values()) <= set(ROLES)
        layout = Layout.of(model, roles)
        assert layout.size == sum(p.numel() for p in model.parameters() if p.requires_grad) > 0

    def test_the_future_changes_no_logit_of_the_past(self, spec: RunSpec, model: nn.Module, tokens: Tensor) -> None:
        """Where the family is causal."""
        if not self.causal:
            pytest.skip("the model is not causal, as this suite was told")
        before = self._logits(spec, model, tokens)
        for place in range(1, tokens.shape[1]):
            changed = tokens.clone()
            changed[:, place:] = (changed[:, place:] + 1) % spec.sizes().vocabulary_size
            after = self._logits(spec, model, changed)
            assert_close(after[:, :place], before[:, :place], 1e-6, f"logits before position {place}")

    def test_a_row_is_computed_as_if_it_were_alone(self, spec: RunSpec, model: nn.Module, tokens: Tensor) -> None:
        """No normalisation over the batch."""
        together = self._logits(spec, model, tokens)
        for place in range(len(tokens)):
            alone = self._logits(spec, model, tokens[place : place + 1])
            assert_close(together[place : place + 1], alone, self.tolerance, f"row {place}")

    def test_lifted_over_members_it_computes_what_each_does(self, spec: RunSpec, tokens: Tensor) -> None:
        """``vmap`` over parameters: logits, and the gradient of a loss."""
        models = [build_model(spec.replace(init_seed=seed)).eval() for seed in range(_R)]
        states = {name: torch.stack([_state(own)[name] for own in models]) for name in _state(models[0])}
        leaves = {name: tensor.detach().requires_grad_(tensor.is_floating_point()) for name, tensor in states.items()}

        def one(own: dict[str, Tensor]) -> Tensor:
            logits: Tensor = functional_call(models[0], own, (tokens,), dict(spec.model_part.calling))[0]
            return logits

        lifted = vmap(one)(leaves)  # (R, B, S, V)
        own_of = torch.autograd.grad(lifted.square().mean((1, 2, 3)).sum(), list(leaves.values()), allow_unused=True)
        gradients = dict(zip(leaves, own_of, strict=True))
        for place, own in enumerate(models):
            logits = own(tokens, **spec.model_part.calling)[0]
            assert_close(lifted[place], logits, self.tolerance, f"logits of member {place}")
            named = {name: parameter for name, parameter in own.named_parameters() if parameter.requires_grad}
            alone = torch.autograd.grad(logits.square().mean(), list(named.values()), allow_unused=True)
            for name, gradient in zip(named, alone, strict=True):
                if gradient is not None:
                    assert_close(gradients[name][place], gradient, 10 * self.tolerance, f"gradient of {name}")

    def test_initial_values_hang_on_init_seed_alone(self, spec: RunSpec) -> None:
        """They come from torch's global generator, which is set for them."""
        first = _state(build_model(spec))
        torch.rand(3), random.random(), np.random.rand()
        again, other = _state(build_model(spec)), _state(build_model(spec.replace(init_seed=spec.init_seed + 1)))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)

    def test_what_is_kept_of_it_gives_it_back(self, spec: RunSpec, tokens: Tensor) -> None:
        """The state dict of a member of a stack loads, strictly."""
        stack = stack_of(spec, spec.replace(init_seed=spec.init_seed + 1))
        for place, own in enumerate(stack.cohort.members):
            loaded = build_model(own.replace(init_seed=77)).eval()
            loaded.load_state_dict(stack.member(place))
            expected = self._logits(spec, build_model(own).eval(), tokens)
            assert torch.equal(self._logits(spec, loaded, tokens), expected)

    def test_training_draws_by_key_and_step_alone(self, spec: RunSpec) -> None:
        """Dropout is that of :class:`shoal.parts.Dropout`; that of torch would follow a global generator."""
        stack = stack_of(spec, spec.replace(seed=spec.seed + 1))
        stack.at += 1
        stack.sampler.prepare(stack.steps)
        indices, _ = stack.draw()
        first = stack.score(indices, training=True)["loss"]
        torch.rand(3)
        assert torch.equal(stack.score(indices, training=True)["loss"], first)

    def test_it_learns(self, spec: RunSpec) -> None:
        """The training loss falls, by the gradient alone."""
        stack = stack_of(spec.replace(n_steps=max(spec.n_steps, self.steps), weight_decay=0.0))
        before = evaluate(stack, {})["train_loss"]
        train_steps(stack, self.steps)
        assert bool(stack.alive.all())
        assert float(evaluate(stack, {})["train_loss"]) < float(before)

    def _logits(self, spec: RunSpec, model: nn.Module, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = model(tokens, **spec.model_part.calling)[0]
        return logits


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}
