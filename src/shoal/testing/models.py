"""Contract of model families."""

import random
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from shoal.rules.layout import ROLES, Layout
from shoal.spec import RunSpec
from shoal.tasks.build import build_model, calling
from shoal.testing.base import Contract, assert_close, stack_of
from shoal.training.step import evaluate, train_steps

_B, _R = 3, 3


Inputs = tuple[Tensor, ...]


class ModelContract(Contract):
    """Contract of a model family, tested on a small run: it reads tokens, or sources, and gives logits.

    Its inputs are those that its family ``reads``; a model that reads sources must not depend on their padding. A model
    that has ``step`` gives the same logits token by token as at once.

    Attributes:
        causal: true where logits at a position depend on the tokens up to there alone, as next-token tasks need it; not
            tested for a family that reads sources alone.
        tolerance: largest change of a value, as a share of the largest, with other rows or members beside it.
        steps: number of steps after which its training loss must be lower than at first.
    """

    causal: ClassVar[bool] = True
    tolerance: ClassVar[float] = 1e-5
    steps: ClassVar[int] = 30

    @pytest.fixture
    def model(self, spec: RunSpec) -> nn.Module:
        """Model with its initial values, in evaluation mode."""
        return build_model(spec).eval()

    @pytest.fixture
    def inputs(self, spec: RunSpec) -> Inputs:
        """Inputs of the model: random tokens of the task's sizes, sources of different lengths.

        A sequence ``(B, S)``; a source ``(B, S)``, a target ``(B, T)`` and a mask of the source's tokens that count
        ``(B, S)``; or a source and its mask.
        """
        sizes, generator = spec.sizes(), torch.Generator().manual_seed(0)
        target = torch.randint(sizes.vocabulary_size, (_B, sizes.sequence_length), generator=generator)
        if (reads := spec.model_part.reads) == "sequence":
            return (target,)
        S, V = sizes.source_length, sizes.source_vocabulary_size
        assert S is not None and V is not None
        seen = torch.arange(S) < torch.linspace(S, 1, _B).long().unsqueeze(1)  # (B, S)
        source = torch.randint(V, (_B, S), generator=generator)
        return (source, target, seen) if reads == "pair" else (source, seen)

    def test_it_gives_logits_first(self, spec: RunSpec, model: nn.Module, inputs: Inputs) -> None:
        """Logits ``(B, S) -> (B, S, V)`` are finite and come first; for a pair, at each place of the target."""
        outputs = model(*inputs, **calling(spec))
        assert isinstance(outputs, tuple), "forward must return a tuple, of which the logits are the first"
        answered = inputs[spec.model_part.reads == "pair"]
        assert outputs[0].shape == (*answered.shape, spec.sizes().vocabulary_size)
        assert outputs[0].is_floating_point() and bool(outputs[0].isfinite().all())

    def test_the_count_is_that_of_its_parameters(self, spec: RunSpec, model: nn.Module) -> None:
        """Counted parameters are all that train but embedding tables."""
        part = spec.model_part
        roles = part.roles(model)
        counted = sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and roles[name] != "table")
        assert part.count(spec.sizes()) == counted

    def test_every_parameter_has_a_role(self, spec: RunSpec, model: nn.Module) -> None:
        """Every parameter has a role, from which update rules know the hidden matrices."""
        roles = spec.model_part.roles(model)
        assert {name for name, _ in model.named_parameters()} <= set(roles)
        assert set(roles.values()) <= set(ROLES)
        layout = Layout.of(model, roles)
        assert layout.size == sum(p.numel() for p in model.parameters() if p.requires_grad) > 0

    def test_the_future_changes_no_logit_of_the_past(self, spec: RunSpec, model: nn.Module, inputs: Inputs) -> None:
        """Logits of a causal family depend on the target's tokens up to their place alone."""
        if not self.causal:
            pytest.skip("the model is not causal, as this suite was told")
        if (reads := spec.model_part.reads) == "source":
            pytest.skip("the model reads no target")
        before, at = self._logits(spec, model, inputs), int(reads == "pair")
        for place in range(1, inputs[at].shape[1]):
            changed = inputs[at].clone()
            changed[:, place:] = (changed[:, place:] + 1) % spec.sizes().vocabulary_size
            after = self._logits(spec, model, (*inputs[:at], changed, *inputs[at + 1 :]))
            assert_close(after[:, :place], before[:, :place], 1e-6, f"logits before position {place}")

    def test_a_row_is_computed_as_if_it_were_alone(self, spec: RunSpec, model: nn.Module, inputs: Inputs) -> None:
        """Logits of a row do not depend on the other rows of the batch."""
        together = self._logits(spec, model, inputs)
        for place in range(_B):
            alone = self._logits(spec, model, tuple(tensor[place : place + 1] for tensor in inputs))
            assert_close(together[place : place + 1], alone, self.tolerance, f"row {place}")

    def test_what_pads_a_source_changes_nothing(self, spec: RunSpec, model: nn.Module, inputs: Inputs) -> None:
        """Tokens of padding change no bit of logits or gradients; less padding changes them by rounding."""
        if spec.model_part.reads == "sequence":
            pytest.skip("the model reads no source")
        source, *target, seen = inputs
        other = torch.where(seen, source, (source + 1) % (spec.sizes().source_vocabulary_size or 1))
        results = [self._of_source(spec, model, (tokens, *target, seen)) for tokens in (source, other)]
        for name, value in results[0].items():
            assert torch.equal(value, results[1][name]), f"padding changes {name}"
        last = slice(_B - 1, _B)  # the row that has most
        real = int(seen[last].sum())
        short = (source[last, :real], *(tensor[last] for tensor in target), seen[last, :real])
        whole = self._of_source(spec, model, (source[last], *(tensor[last] for tensor in target), seen[last]))
        for name, value in self._of_source(spec, model, short).items():
            assert_close(value, whole[name], self.tolerance if name != "logits" else 1e-6, f"{name} without padding")

    def test_a_source_of_padding_alone_makes_no_nan(self, spec: RunSpec, model: nn.Module, inputs: Inputs) -> None:
        """Sources of padding alone give no NaN in logits or gradients."""
        if spec.model_part.reads == "sequence":
            pytest.skip("the model reads no source")
        seen = inputs[-1].clone()
        seen[0] = False
        with_one = (*inputs[:-1], seen)
        logits = model(*with_one, **calling(spec))[0]
        assert bool(logits.isfinite().all()), "logits"
        named = dict(model.named_parameters())
        for name, gradient in zip(
            named, torch.autograd.grad(logits.square().mean(), list(named.values()), allow_unused=True), strict=True
        ):
            assert gradient is None or bool(gradient.isfinite().all()), f"gradient of {name}"

    def test_step_by_step_it_says_what_it_says_at_once(self, spec: RunSpec, model: Any, inputs: Inputs) -> None:
        """Logits of a family that decodes agree step by step; its states are not changed in place."""
        if not hasattr(model, "step"):
            pytest.skip("the model has no step")
        is_pair = spec.model_part.reads == "pair"
        tokens = inputs[int(is_pair)]
        length = tokens.shape[1]
        with torch.no_grad():
            state = model.begin(inputs[0], inputs[2], length) if is_pair else model.start(_B, length)
            logits_by_step = []
            for place in range(length):
                before = {name: tensor.clone() for name, tensor in state.items()}
                logits, after = model.step(tokens[:, place : place + 1], state)
                assert all(torch.equal(before[name], state[name]) for name in before), "a step changed its state"
                assert {name: x.shape for name, x in after.items()} == {name: x.shape for name, x in before.items()}
                for name in before:
                    assert len(before[name]) == _B, f"{name} has no row of each"
                    assert not name.startswith("memory") or torch.equal(after[name], before[name]), f"{name} moved"
                logits_by_step.append(logits)
                state = after
        assert_close(
            torch.cat(logits_by_step, dim=1), self._logits(spec, model, inputs), self.tolerance, "logits by steps"
        )

    def test_lifted_over_members_it_computes_what_each_does(self, spec: RunSpec, inputs: Inputs) -> None:
        """Logits and the gradient of a loss agree under ``vmap`` over parameters."""
        models = [build_model(spec.replace(init_seed=seed)).eval() for seed in range(_R)]
        states = {name: torch.stack([_state(model)[name] for model in models]) for name in _state(models[0])}
        leaves = {name: tensor.detach().requires_grad_(tensor.is_floating_point()) for name, tensor in states.items()}

        def one(parameters: dict[str, Tensor]) -> Tensor:
            logits: Tensor = functional_call(models[0], parameters, inputs, calling(spec))[0]
            return logits

        lifted = vmap(one)(leaves)  # (R, B, S, V)
        own_of = torch.autograd.grad(lifted.square().mean((1, 2, 3)).sum(), list(leaves.values()), allow_unused=True)
        gradients = dict(zip(leaves, own_of, strict=True))
        for place, model in enumerate(models):
            logits = model(*inputs, **calling(spec))[0]
            assert_close(lifted[place], logits, self.tolerance, f"logits of member {place}")
            named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
            alone = torch.autograd.grad(logits.square().mean(), list(named.values()), allow_unused=True)
            for name, gradient in zip(named, alone, strict=True):
                if gradient is not None:
                    assert_close(gradients[name][place], gradient, 10 * self.tolerance, f"gradient of {name}")

    def test_initial_values_hang_on_init_seed_alone(self, spec: RunSpec) -> None:
        """Initial values come from torch's global generator, which is seeded for them."""
        first = _state(build_model(spec))
        torch.rand(3), random.random(), np.random.rand()
        again, other = _state(build_model(spec)), _state(build_model(spec.replace(init_seed=spec.init_seed + 1)))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)

    def test_what_is_kept_of_it_gives_it_back(self, spec: RunSpec, inputs: Inputs) -> None:
        """State dicts of members of a stack load strictly, and give the same logits."""
        stack = stack_of(spec, spec.replace(init_seed=spec.init_seed + 1))
        for place, member in enumerate(stack.cohort.members):
            loaded = build_model(member.replace(init_seed=77)).eval()
            loaded.load_state_dict(stack.member(place))
            expected = self._logits(spec, build_model(member).eval(), inputs)
            assert torch.equal(self._logits(spec, loaded, inputs), expected)

    def test_training_draws_by_key_and_step_alone(self, spec: RunSpec) -> None:
        """Dropout must be :class:`shoal.parts.Dropout`; that of torch would follow a global generator."""
        stack = stack_of(spec, spec.replace(seed=spec.seed + 1))
        stack.at += 1
        stack.sampler.prepare(stack.steps)
        indices, _ = stack.draw()
        first = stack.score(indices, training=True, form=stack.form)["loss"]
        torch.rand(3)
        assert torch.equal(stack.score(indices, training=True, form=stack.form)["loss"], first)

    def test_it_learns(self, spec: RunSpec) -> None:
        """Training loss falls by gradient steps."""
        stack = stack_of(spec.replace(n_steps=max(spec.n_steps, self.steps), weight_decay=0.0))
        before = evaluate(stack, {})["train_loss"]
        train_steps(stack, self.steps)
        assert bool(stack.alive.all())
        assert float(evaluate(stack, {})["train_loss"]) < float(before)

    def _logits(self, spec: RunSpec, model: nn.Module, inputs: Inputs) -> Tensor:
        with torch.no_grad():
            logits: Tensor = model(*inputs, **calling(spec))[0]
        return logits

    def _of_source(self, spec: RunSpec, model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
        """Logits of tokens that count, and the gradient of a loss of them."""
        logits = model(*inputs, **calling(spec))[0]
        if spec.model_part.reads == "source":
            logits = logits[inputs[-1]]  # (tokens that count, V)
        named = dict(model.named_parameters())
        gradients = torch.autograd.grad(logits.square().mean(), list(named.values()), allow_unused=True)
        every = {name: torch.zeros(()) if one is None else one for name, one in zip(named, gradients, strict=True)}
        return {"logits": logits.detach(), **{f"gradient of {name}": one for name, one in every.items()}}


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}
