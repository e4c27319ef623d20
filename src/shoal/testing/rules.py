"""Contract of update rules."""

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from shoal.rules.layout import Layout, Slot
from shoal.spec import RunSpec
from shoal.testing.base import CPU, Contract, assert_close

_R = 3
_SHAPES = {
    "embedding": ((5, 4), "table"),
    "first": ((4, 4), "matrix"),
    "second": ((4, 6), "matrix"),
    "bias": ((6,), "vector"),
    "classifier": ((5, 6), "head"),
}


class RuleContract(Contract):
    """Contract of an update rule, tested on parameters without a model.

    Attributes:
        tolerance: largest change of a member, as a share of its largest parameter, with other members beside it.
        lr: learning rate at which it approaches the minimum of a quadratic form.
        steps: number of steps within which it does.
    """

    tolerance: ClassVar[float] = 1e-7
    lr: ClassVar[float] = 0.02
    steps: ClassVar[int] = 200

    @pytest.fixture
    def stand(self, spec: RunSpec) -> "Stand":
        """Stand with parameters of three members, whose settings differ."""
        return Stand(spec)

    def test_it_changes_parameters_and_state_in_place_and_nothing_else(self, stand: "Stand") -> None:
        """State tensors are those that the rule names, and it reads the numbers that it names."""
        theta, state = stand.theta, stand.state
        hyper, step = {name: value.clone() for name, value in stand.hyper.items()}, stand.step.clone()
        places = {name: tensor.data_ptr() for name, tensor in {**state, "theta": theta}.items()}
        before, gradient = theta.clone(), stand.gradient(1)
        given = gradient.clone()
        stand.update(theta, gradient, state, stand.hyper, stand.step, stand.layout)
        assert set(state) == set(stand.spec.rule.state)
        assert {name: tensor.data_ptr() for name, tensor in {**state, "theta": theta}.items()} == places
        assert all(tensor.shape == theta.shape for tensor in state.values())
        assert torch.equal(gradient, given), "it changed the gradient"
        assert torch.equal(stand.step, step), "it changed the step"
        assert all(torch.equal(stand.hyper[name], value) for name, value in hyper.items()), "it changed a number"
        assert bool(theta.isfinite().all()), "steps are counted from 1"
        assert bool((theta != before).any(1).all()), "a member did not move"

    def test_members_move_as_if_they_were_alone(self, spec: RunSpec) -> None:
        """Steps of a member, with its own numbers and step count, do not depend on other members."""
        together = Stand(spec, steps=(1, 2, 7))
        for n in range(4):
            together.move(n)
        for member in range(_R):
            alone = Stand(spec, steps=(1, 2, 7)).of(member)
            for n in range(4):
                alone.move(n)
            assert_close(together.theta[member], alone.theta[0], self.tolerance, f"member {member}")
            for name, tensor in alone.state.items():
                assert_close(together.state[name][member], tensor[0], self.tolerance, f"{name} of member {member}")

    def test_a_member_that_diverges_leaves_the_others_alone(self, spec: RunSpec) -> None:
        """NaN in one member's gradient does not reach the others."""
        whole, broken = Stand(spec), Stand(spec)
        gradient = broken.gradient(0)
        whole.apply(gradient)
        gradient[0] = torch.nan
        broken.apply(gradient)
        assert torch.equal(whole.theta[1:], broken.theta[1:])

    def test_the_same_step_twice_is_the_same(self, spec: RunSpec) -> None:
        """Steps depend on the arguments and the state alone, without random numbers."""
        first, second = Stand(spec), Stand(spec)
        for n in range(3):
            first.move(n)
        torch.rand(2)
        update = second.spec.rule.build()
        for n in range(3):
            second.update = second.spec.rule.build() if n else update
            second.move(n)
        assert torch.equal(first.theta, second.theta)

    def test_without_a_gradient_only_the_decay_acts(self, spec: RunSpec) -> None:
        """Decoupled decay gives ``θ ← (1 − lr λ) θ`` without a gradient; without decay nothing moves."""
        still = Stand(spec, weight_decay=0.0)
        before = still.theta.clone()
        still.apply(torch.zeros_like(before))
        assert torch.equal(still.theta, before)
        if spec.rule.is_decoupled:
            shrunk = Stand(spec, weight_decay=0.5)
            shrunk.apply(torch.zeros_like(before))
            expected = before * (1 - shrunk.hyper["lr"] * 0.5).float()
            assert_close(shrunk.theta, expected, 1e-6, "what the decay left")

    def test_the_decay_can_be_one_number_per_parameter(self, spec: RunSpec) -> None:
        """Parameters that are spared from the decay, such as biases, move as without decay."""
        spared, none = Stand(spec, weight_decay=0.5), Stand(spec, weight_decay=0.0)
        spared.hyper["weight_decay"] = spared.hyper["weight_decay"] * spared.layout.decayed  # (R, P)
        spared.move(0)
        none.move(0)
        undecayed = spared.layout.decayed[0] == 0
        assert_close(
            spared.theta[:, undecayed], none.theta[:, undecayed], self.tolerance, "parameters that do not decay"
        )
        assert not torch.equal(spared.theta[:, ~undecayed], none.theta[:, ~undecayed])

    def test_it_finds_the_minimum_of_a_quadratic_form(self, spec: RunSpec) -> None:
        """Distance to the minimum of a quadratic form falls to a quarter."""
        stand = Stand(spec, weight_decay=0.0)
        stand.hyper["lr"] = torch.full_like(stand.hyper["lr"], self.lr)
        goal = stand.theta + 0.5 * torch.randn(stand.theta.shape, generator=torch.Generator().manual_seed(3))
        before = (stand.theta - goal).norm(dim=1)
        for _ in range(self.steps):
            stand.apply(stand.theta - goal)
        after = (stand.theta - goal).norm(dim=1)
        assert bool((after < before / 4).all()), f"distances {before.tolist()} became {after.tolist()}"

    def test_the_run_is_one_that_can_be_trained(self, spec: RunSpec) -> None:
        """Numbers of the rule are floats of the spec, among them ``lr`` and ``weight_decay``."""
        for name in spec.rule.numbers():
            assert isinstance(getattr(spec, name), float)
        assert {"lr", "weight_decay"} <= set(spec.rule.numbers())


class Stand:
    """Test stand: parameters, state and numbers of a few members, and a rule."""

    def __init__(self, spec: RunSpec, steps: tuple[int, ...] = (1,) * _R, **numbers: float) -> None:
        slots, start = [], 0
        for name, (shape, role) in _SHAPES.items():
            slots.append(Slot(name, torch.Size(shape), start, role))
            start += slots[-1].size
        self.spec, self.update = spec, spec.rule.build()
        self.layout = Layout(slots, CPU)
        self.theta = torch.randn(_R, start, generator=torch.Generator().manual_seed(1))
        self.state = {name: torch.zeros_like(self.theta) for name in spec.rule.state}
        settings = {name: float(getattr(spec, name)) for name in (*spec.rule.numbers(), "clip")} | numbers
        self.hyper = {name: torch.full((_R, 1), value, dtype=torch.float64) for name, value in settings.items()}
        self.hyper["lr"] = self.hyper["lr"] * torch.tensor([[1.0], [2.0], [0.5]], dtype=torch.float64)
        self.step = torch.tensor(steps, dtype=torch.float64).unsqueeze(1)

    def of(self, member: int) -> "Stand":
        """Reduce the stand to one member."""
        only = slice(member, member + 1)
        self.theta, self.step = self.theta[only].clone(), self.step[only].clone()
        self.state = {name: tensor[only].clone() for name, tensor in self.state.items()}
        self.hyper = {name: value[only].clone() for name, value in self.hyper.items()}
        self.member = only
        return self

    member = slice(None)

    def gradient(self, n: int) -> Tensor:
        """Random gradient number ``n``, ``(R, P)``."""
        shape = (_R, self.layout.size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(10 + n))[self.member].clone()

    def apply(self, gradient: Tensor) -> None:
        """Take one step, and count it."""
        self.update(self.theta, gradient, self.state, self.hyper, self.step, self.layout)
        self.step = self.step + 1

    def move(self, n: int) -> None:
        """Take one step by gradient number ``n``."""
        self.apply(self.gradient(n))
