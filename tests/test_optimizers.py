"""Every update rule over a stack against torch.optim, member by member."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shoal.training.optimizers import OPTIMIZERS, Hyper, clip_scale

some = settings(max_examples=25, deadline=None)
RULES = list(OPTIMIZERS)
STEPS, P = 20, 11

VALUES = {
    "lr": st.floats(1e-5, 1e-2),
    "weight_decay": st.just(0.0) | st.floats(0, 1),
    "momentum": st.floats(0, 0.99),
    "beta1": st.just(0.9) | st.floats(0, 0.99),
    "beta2": st.just(0.999) | st.floats(0, 0.9999),
    "eps": st.just(1e-8) | st.floats(1e-10, 1e-2),
}


def torch_optimizer(rule: str, parameter: Tensor, member: dict[str, float]) -> torch.optim.Optimizer:
    shared = {"lr": member["lr"], "weight_decay": member["weight_decay"]}
    if rule in ("sgd", "momentum"):
        return torch.optim.SGD([parameter], momentum=member.get("momentum", 0.0), **shared)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[rule]
    return kind([parameter], betas=(member["beta1"], member["beta2"]), eps=member["eps"], **shared)


def stacked(members: list[dict[str, float]]) -> Hyper:
    return {name: torch.tensor([[member[name]] for member in members]) for name in members[0]}


def by_torch(rule: str, theta: Tensor, gradients: Tensor, member: dict[str, float]) -> Tensor:
    parameter = theta.clone().requires_grad_()
    optimizer = torch_optimizer(rule, parameter, member)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("rule", RULES)
@some
@given(data=st.data(), seed=st.integers(0, 2**31), R=st.integers(1, 3))
def test_every_member_moves_as_under_torch(rule, data, seed, R):
    optimizer = OPTIMIZERS[rule]
    member = st.fixed_dictionaries({name: VALUES[name] for name in optimizer.hyper})
    members = data.draw(st.lists(member, min_size=R, max_size=R))
    torch.manual_seed(seed)
    start, gradients = torch.randn(R, P), torch.randn(STEPS, R, P)
    theta, hyper = start.clone(), stacked(members)
    state = optimizer.init(theta)
    for step, gradient in enumerate(gradients, start=1):
        optimizer.update(theta, gradient, state, hyper, torch.tensor(float(step), dtype=torch.float64))
    for r, member in enumerate(members):
        expected = by_torch(rule, start[r], gradients[:, r], member)
        torch.testing.assert_close(theta[r], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_zero_learning_rate_and_gradient_leave_parameters_as_they_are(rule):
    torch.manual_seed(0)
    optimizer = OPTIMIZERS[rule]
    members = [{"lr": 0.01, "weight_decay": 0.5, "momentum": 0.9, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}] * 2
    theta, hyper = torch.randn(2, 1000), stacked(members)
    theta[:, 0] = 0
    state = optimizer.init(theta)
    for step in (1.0, 2.0, 3.0):
        optimizer.update(theta, torch.randn(2, 1000), state, hyper, torch.tensor(step, dtype=torch.float64))
    before = theta.clone()
    hyper = {**hyper, "lr": torch.tensor([[0.0], [0.01]])}
    gradient = torch.randn(2, 1000)
    gradient[0] = 0
    optimizer.update(theta, gradient, state, hyper, torch.tensor(4.0, dtype=torch.float64))
    assert torch.equal(theta[0].view(torch.int32), before[0].view(torch.int32))
    assert not torch.equal(theta[1], before[1])


def test_a_rule_has_the_state_and_settings_it_names():
    theta = torch.randn(2, 3)
    for name, optimizer in OPTIMIZERS.items():
        state = optimizer.init(theta)
        assert state.keys() == set(optimizer.state), name
        for tensor in state.values():
            assert torch.equal(tensor, torch.zeros(2, 3))


@some
@given(
    seed=st.integers(0, 2**31),
    max_norms=st.lists(st.floats(1e-3, 10) | st.just(math.inf), min_size=1, max_size=4),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 1e3]),
)
def test_clipping_equals_torch(seed, max_norms, scale):
    torch.manual_seed(seed)
    gradient = torch.randn(len(max_norms), P) * scale
    factors, norms = clip_scale(gradient, torch.tensor(max_norms).unsqueeze(1))
    clipped = gradient * factors
    assert norms.shape == (len(max_norms),)
    for r, max_norm in enumerate(max_norms):
        parts = [torch.zeros(4, requires_grad=True), torch.zeros(P - 4, requires_grad=True)]
        parts[0].grad, parts[1].grad = gradient[r, :4].clone(), gradient[r, 4:].clone()
        norm = torch.nn.utils.clip_grad_norm_(parts, max_norm)
        expected = torch.cat([part.grad for part in parts])
        torch.testing.assert_close(norms[r], norm, atol=0, rtol=1e-6)
        torch.testing.assert_close(clipped[r], expected, atol=0, rtol=1e-5)
        if math.isinf(max_norm):
            assert torch.equal(clipped[r], gradient[r])


def test_a_norm_that_is_not_finite_is_reported():
    gradient = torch.tensor([[1.0, math.nan], [math.inf, 0.0], [3.0, 4.0]])
    factors, norm = clip_scale(gradient, torch.ones(3, 1))
    assert norm.isfinite().tolist() == [False, False, True]
    assert norm[2] == 5
    torch.testing.assert_close(gradient[2] * factors[2], torch.tensor([0.6, 0.8]), atol=1e-6, rtol=0)
