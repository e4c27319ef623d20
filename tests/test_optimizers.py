"""Every update rule over a stack against torch.optim and the papers, member by member."""

import math

import pytest
import torch
from helpers import CPU, one_cohort, theta, tiny, tiny_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import torch_optimizers
from torch import Tensor

from shoal.models.families import FAMILIES
from shoal.rules.muon import Partition, orthogonalised
from shoal.rules.updates import OPTIMIZERS, Hyper, clip_scale
from shoal.training.stack import Stack
from shoal.training.step import train_step

some = settings(max_examples=25, deadline=None)
RULES = list(OPTIMIZERS)
STEPS = 20
LAYOUT = {
    "embedding.weight": (3, 2),
    "layer.wide": (2, 3),
    "layer.bias": (3,),
    "layer.tall": (4, 2),
    "other.wide": (2, 3),
    "classifier.weight": (2, 2),
}
P = sum(math.prod(shape) for shape in LAYOUT.values())
PARTITION = Partition.of(LAYOUT)

VALUES = {
    "lr": st.floats(1e-5, 1e-2),
    "weight_decay": st.just(0.0) | st.floats(0, 1),
    "momentum": st.floats(0, 0.99),
    "beta1": st.just(0.9) | st.floats(0, 0.99),
    "beta2": st.just(0.999) | st.floats(0, 0.9999),
    "eps": st.just(1e-8) | st.floats(1e-10, 1e-2),
}


def tensors(theta: Tensor) -> dict[str, Tensor]:
    """One member's parameters by name."""
    parts = theta.split([math.prod(shape) for shape in LAYOUT.values()])
    return {name: part.reshape(shape).detach() for part, (name, shape) in zip(parts, LAYOUT.items(), strict=True)}


def stacked(members: list[dict[str, float]]) -> Hyper:
    return {name: torch.tensor([[member[name]] for member in members], dtype=torch.float64) for name in members[0]}


def by_torch(rule: str, theta: Tensor, gradients: Tensor, member: dict[str, float]) -> Tensor:
    parameters = {name: p.requires_grad_() for name, p in tensors(theta.clone()).items()}
    optimizers = torch_optimizers(rule, parameters, member)
    for gradient in gradients:
        for name, part in tensors(gradient).items():
            parameters[name].grad = part.clone()
        for optimizer in optimizers:
            optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in parameters.values()])


@pytest.mark.parametrize("rule", RULES)
@some
@given(data=st.data(), seed=st.integers(0, 2**31), R=st.integers(1, 3))
def test_every_member_moves_as_under_torch(rule, data, seed, R):
    optimizer = OPTIMIZERS[rule]
    member = st.fixed_dictionaries({name: VALUES[name] for name in optimizer.hyper})
    members = data.draw(st.lists(member, min_size=R, max_size=R))
    torch.manual_seed(seed)
    start, gradients = (torch.randn(*shape, dtype=torch.float64) for shape in [(R, P), (STEPS, R, P)])
    theta, hyper = start.clone(), stacked(members)
    state = optimizer.init(theta)
    for step, gradient in enumerate(gradients, start=1):
        optimizer.update(theta, gradient, state, hyper, torch.tensor(float(step), dtype=torch.float64), PARTITION)
    for r, member in enumerate(members):
        expected = by_torch(rule, start[r], gradients[:, r], member)
        torch.testing.assert_close(theta[r], expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_zero_learning_rate_and_gradient_leave_parameters_as_they_are(rule):
    torch.manual_seed(0)
    optimizer = OPTIMIZERS[rule]
    members = [{"lr": 0.01, "weight_decay": 0.5, "momentum": 0.9, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}] * 2
    theta, hyper = torch.randn(2, P), stacked(members)
    theta[:, 0] = 0
    state = optimizer.init(theta)
    for step in (1.0, 2.0, 3.0):
        optimizer.update(theta, torch.randn(2, P), state, hyper, torch.tensor(step, dtype=torch.float64), PARTITION)
    before = theta.clone()
    hyper = {**hyper, "lr": torch.tensor([[0.0], [0.01]], dtype=torch.float64)}
    gradient = torch.randn(2, P)
    gradient[0] = 0
    optimizer.update(theta, gradient, state, hyper, torch.tensor(4.0, dtype=torch.float64), PARTITION)
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


# Muon


@some
@given(
    names=st.lists(st.sampled_from(["embedding.a", "decoder.a", "lstm.a", "classifier.a"]), min_size=1, max_size=6),
    data=st.data(),
)
def test_the_partition_names_every_parameter_once(names, data):
    shape = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
    layout = {f"{name}{i}": data.draw(shape) for i, name in enumerate(names)}
    flat = torch.arange(sum(math.prod(shape) for shape in layout.values())).repeat(2, 1)
    partition = Partition.of(layout)
    found = {}
    for matrices in partition.hidden:
        taken = matrices.take(flat)
        assert taken.shape == (2, len(matrices.starts), *matrices.shape)
        found |= {int(matrix[0, 0]): matrix for matrix in taken[1]}
    start, hidden = 0, 0
    for name, shape in layout.items():
        numbers = torch.arange(start, start + math.prod(shape))
        if len(shape) == 2 and name.startswith(("decoder", "lstm")):
            assert torch.equal(found[start], numbers.reshape(shape))
            hidden += 1
        else:
            assert torch.isin(numbers, partition.rest).all()
        start += len(numbers)
    assert len(found) == hidden
    assert len(partition.rest) == start - sum(matrix.numel() for matrix in found.values())


@pytest.mark.parametrize("share_embeddings", [False, True])
@pytest.mark.parametrize("model", list(FAMILIES))
def test_hidden_are_the_matrices_between_embedding_and_classifier(model, share_embeddings):
    stack = Stack(one_cohort([tiny(model=model, share_embeddings=share_embeddings)]), CPU)
    found = sorted(start for matrices in stack.partition.hidden for start in matrices.starts)
    starts = dict(zip(stack.layout, torch.tensor([0, *stack.sizes]).cumsum(0).tolist(), strict=False))
    gates = ("forget_gate", "input_gate", "candidate_cell", "output_gate")
    hidden = {
        "lstm": [f"lstm.layers.0.{gate}.weight" for gate in gates],
        "gpt": [f"decoder.blocks.0.{w}.weight" for w in ("ffn.0", "ffn.2", *(f"self_attn.W_{x}" for x in "QKVO"))],
    }
    assert found == sorted(starts[name] for name in hidden[model])


@some
@given(seed=st.integers(0, 2**31), m=st.integers(1, 9), n=st.integers(1, 9), scale=st.sampled_from([1e-3, 1.0, 1e6]))
def test_orthogonalised_matrices_keep_their_singular_vectors(seed, m, n, scale):
    torch.manual_seed(seed)
    matrices = torch.randn(3, m, n, dtype=torch.float64) * scale
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    found = u.mT @ orthogonalised(matrices) @ v.mT  # (3, r, r)
    values = s / s.square().sum(1, keepdim=True).sqrt()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    torch.testing.assert_close(found, torch.diag_embed(values), atol=1e-9, rtol=0)
    of_use = values[s > 0.01 * s[:, :1]]
    assert ((of_use > 0.3) & (of_use < 1.3)).all()


def test_a_zero_matrix_stays_zero():
    assert torch.equal(orthogonalised(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def test_the_rounding_of_torchs_muon_is_all_that_differs():
    torch.manual_seed(0)
    matrices = torch.randn(4, 16, 40)
    for matrix, found in zip(matrices, orthogonalised(matrices), strict=True):
        parameter = torch.zeros(16, 40, requires_grad=True)
        parameter.grad = matrix.clone()
        torch.optim.Muon([parameter], lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw").step()
        torch.testing.assert_close(-parameter.detach() / (0.2 * 40**0.5), found, atol=0.02, rtol=0)


# in a stack


@pytest.mark.parametrize("engine", ["prefixes", "compiled"])
@pytest.mark.parametrize("model", ["lstm", "gpt"])
@pytest.mark.parametrize("rule", ["lion", "muon"])
def test_a_member_does_not_notice_its_neighbours_by_one_bit(engine, model, rule):
    base = {"model": model, "optimizer": rule, "embedding_size": 20, "p": 7, "train_batch_size": 16, "num_layers": 2}
    varied = {"warmup_steps": [0, 4], "n_steps": [8, 30]}
    specs = tiny_grid({**base, "lr_schedule": "cosine", "label_smoothing": 0.1}, **varied)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        together = Stack(one_cohort(specs), CPU, engine)
        alone = [Stack(one_cohort([spec]), CPU, engine) for spec in specs]
        for _ in range(8):
            for stack in (together, *alone):
                train_step(stack)
    finally:
        torch.set_num_threads(threads)
    for index, stack in enumerate(alone):
        assert torch.equal(theta(together, index), theta(stack, 0)), index


@pytest.mark.parametrize("rule", RULES)
def test_a_state_goes_on_exactly(rule):
    specs = tiny_grid({"optimizer": rule, "lr_schedule": "linear", "warmup_steps": 2}, seed=[0, 1])
    whole, first, second = (Stack(one_cohort(specs), CPU) for _ in range(3))
    for _ in range(9):
        train_step(whole)
    for _ in range(4):
        train_step(first)
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    assert {name: tensor.shape for name, tensor in state.items() if "optimizer" in name} == {
        f"optimizer.{name}": whole.theta.shape for name in OPTIMIZERS[rule].state
    }
    second.load_state(state)
    for _ in range(5):
        train_step(second)
    for name, tensor in whole.state().items():
        assert torch.equal(second.state()[name], tensor), name
