"""Every update rule over a stack against torch.optim and the papers, member by member."""

import math

import pytest
import torch
from helpers import CPU, MODULES, OF_GRADIENTS, one_cohort, theta, tiny, tiny_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import torch_optimizers
from torch import Tensor, nn

from shoal.models.families import usual_roles
from shoal.registry import MODELS
from shoal.registry import RULES as RULE_SETTINGS
from shoal.rules.layout import ROLES, Layout, Slot
from shoal.rules.muon import orthogonalised
from shoal.rules.updates import Hyper, State, clip_scale
from shoal.tasks.settings import Sizes
from shoal.training.stack import Stack
from shoal.training.step import train_step

some = settings(max_examples=25, deadline=None)
RULES = OF_GRADIENTS
STEPS = 20
SHAPES = {
    "embedding.weight": (3, 2),
    "layer.wide": (2, 3),
    "layer.bias": (3,),
    "layer.tall": (4, 2),
    "other.wide": (2, 3),
    "classifier.weight": (2, 2),
}
P = sum(math.prod(shape) for shape in SHAPES.values())
ROLE = {"embedding.weight": "table", "layer.bias": "vector", "classifier.weight": "head"}


def layout_of(shapes: dict[str, tuple[int, ...]], roles: dict[str, str]) -> Layout:
    """A layout of parameters one after the other."""
    starts = torch.tensor([0, *(math.prod(shape) for shape in shapes.values())]).cumsum(0).tolist()
    placed = zip(shapes.items(), starts, strict=False)
    return Layout([Slot(name, torch.Size(shape), start, roles[name]) for (name, shape), start in placed])


LAYOUT = layout_of(SHAPES, {name: ROLE.get(name, "matrix") for name in SHAPES})

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
    parts = theta.split([math.prod(shape) for shape in SHAPES.values()])
    return {name: part.reshape(shape).detach() for part, (name, shape) in zip(parts, SHAPES.items(), strict=True)}


def stacked(members: list[dict[str, float]]) -> Hyper:
    return {name: torch.tensor([[member[name]] for member in members], dtype=torch.float64) for name in members[0]}


def zero_state(rule: str, theta: Tensor) -> State:
    return {name: torch.zeros_like(theta) for name in RULE_SETTINGS[rule].state}


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
    settings_, update = RULE_SETTINGS[rule], RULE_SETTINGS[rule]().build()
    member = st.fixed_dictionaries({name: VALUES[name] for name in settings_.numbers()})
    members = data.draw(st.lists(member, min_size=R, max_size=R))
    torch.manual_seed(seed)
    start, gradients = (torch.randn(*shape, dtype=torch.float64) for shape in [(R, P), (STEPS, R, P)])
    theta, hyper = start.clone(), stacked(members)
    state = zero_state(rule, theta)
    for step, gradient in enumerate(gradients, start=1):
        update(theta, gradient, state, hyper, torch.tensor(float(step), dtype=torch.float64), LAYOUT)
    for r, member in enumerate(members):
        expected = by_torch(rule, start[r], gradients[:, r], member)
        torch.testing.assert_close(theta[r], expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_zero_learning_rate_and_gradient_leave_parameters_as_they_are(rule):
    torch.manual_seed(0)
    update = RULE_SETTINGS[rule]().build()
    members = [{"lr": 0.01, "weight_decay": 0.5, "momentum": 0.9, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}] * 2
    theta, hyper = torch.randn(2, P), stacked(members)
    theta[:, 0] = 0
    state = zero_state(rule, theta)
    for step in (1.0, 2.0, 3.0):
        update(theta, torch.randn(2, P), state, hyper, torch.tensor(step, dtype=torch.float64), LAYOUT)
    before = theta.clone()
    hyper = {**hyper, "lr": torch.tensor([[0.0], [0.01]], dtype=torch.float64)}
    gradient = torch.randn(2, P)
    gradient[0] = 0
    update(theta, gradient, state, hyper, torch.tensor(4.0, dtype=torch.float64), LAYOUT)
    assert torch.equal(theta[0].view(torch.int32), before[0].view(torch.int32))
    assert not torch.equal(theta[1], before[1])


class Read(dict):
    """Notes which of its entries are asked for."""

    def __init__(self, entries: dict[str, Tensor]) -> None:
        super().__init__(entries)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_uses_the_state_and_the_numbers_it_names_and_no_others(rule):
    part = RULE_SETTINGS[rule]
    spec = tiny(optimizer=rule)
    hyper = Read(stacked([{name: float(getattr(spec, name)) for name in part.numbers()}]))
    state = Read(zero_state(rule, torch.zeros(1, P)))
    part().build()(torch.randn(1, P), torch.randn(1, P), state, hyper, torch.ones(1, 1, dtype=torch.float64), LAYOUT)
    assert hyper.read == {*part.numbers()}
    assert {"lr", "weight_decay"} <= hyper.read <= {*part.having("member")}
    if rule != "muon":  # which walks over all of its state
        assert state.read == {*part.state}
    assert rule == "sgd" or any(tensor.any() for tensor in state.values())


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
@given(roles=st.lists(st.sampled_from(ROLES), min_size=1, max_size=6), data=st.data())
def test_a_layout_names_every_parameter_once(roles, data):
    shape = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
    shapes = {f"{role}{i}": data.draw(shape) for i, role in enumerate(roles)}
    flat = torch.arange(sum(math.prod(shape) for shape in shapes.values())).repeat(2, 1)
    layout = layout_of(shapes, dict(zip(shapes, roles, strict=True)))
    assert layout.size == flat.shape[1]
    assert layout.shapes == shapes
    found = {}
    for matrices in layout.hidden:
        taken = matrices.take(flat)
        assert taken.shape == (2, len(matrices.starts), *matrices.shape)
        found |= {int(matrix[0, 0]): matrix for matrix in taken[1]}
    start, hidden = 0, 0
    for name, shape in shapes.items():
        numbers = torch.arange(start, start + math.prod(shape))
        if len(shape) == 2 and name.startswith("matrix"):
            assert torch.equal(found[start], numbers.reshape(shape))
            hidden += 1
        else:
            assert torch.isin(numbers, layout.rest).all()
        assert (layout.decayed[0, numbers] == (len(shape) > 1)).all()
        start += len(numbers)
    assert len(found) == hidden
    assert len(layout.rest) == start - sum(matrix.numel() for matrix in found.values())


def test_matrices_of_a_layout_are_read_and_written_in_their_places():
    torch.manual_seed(0)
    (matrices,) = (found for found in LAYOUT.hidden if found.shape == (2, 3))
    flat = torch.randn(2, P)
    before = flat.clone()
    values = torch.randn(2, 2, 2, 3)  # layer.wide and other.wide
    matrices.replace(flat, values)
    assert torch.equal(matrices.take(flat), values)
    matrices.subtract(flat, values)
    assert not matrices.take(flat).any()
    untouched = [slot for slot in LAYOUT if not slot.name.endswith("wide")]
    for slot in untouched:
        part = slice(slot.start, slot.start + slot.size)
        assert torch.equal(flat[:, part], before[:, part])


def test_a_parameter_has_the_role_that_its_family_gives_it_and_no_other():
    model = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Embedding(4, 2), "c": nn.LayerNorm(3)})
    roles = {"a.weight": "head", "a.bias": "vector", "b.weight": "table", "c.weight": "vector", "c.bias": "vector"}
    model["c"].requires_grad_(False)
    layout = Layout.of(model, roles)
    found = [(slot.name, slot.shape, slot.start, slot.role) for slot in layout]
    assert found == [
        ("a.weight", (3, 2), 0, "head"),
        ("a.bias", (3,), 6, "vector"),
        ("b.weight", (4, 2), 9, "table"),
    ]
    assert layout.hidden == () and len(layout.rest) == layout.size == 17
    for wrong in ({**roles, "b.weight": "tabel"}, {"a.weight": "head"}):
        with pytest.raises(ValueError, match="role"):
            Layout.of(model, wrong)


def test_the_usual_roles_are_told_by_the_kind_of_module():
    model = nn.ModuleDict({"wte": nn.Embedding(4, 2), "mix": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    model["out"] = nn.Linear(2, 4)
    assert usual_roles(model, heads=("out",)) == {
        "wte.weight": "table",
        "mix.weight": "matrix",
        "mix.bias": "vector",
        "norm.weight": "vector",
        "norm.bias": "vector",
        "out.weight": "head",
        "out.bias": "head",
    }
    assert usual_roles(model, tables=("mix",))["mix.bias"] == "table"


@pytest.mark.parametrize("share_embeddings", [False, True])
@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_hidden_are_the_matrices_between_embedding_and_classifier(model, share_embeddings):
    stack = Stack(one_cohort([tiny(model=model, share_embeddings=share_embeddings)]), CPU)
    found = sorted(start for matrices in stack.layout.hidden for start in matrices.starts)
    starts = {slot.name: slot.start for slot in stack.layout}
    gates = ("forget_gate", "input_gate", "candidate_cell", "output_gate")
    hidden = {
        "lstm": [f"lstm.layers.0.{gate}.weight" for gate in gates],
        "gpt": [f"decoder.blocks.0.{w}.weight" for w in ("ffn.0", "ffn.2", *(f"self_attn.W_{x}" for x in "QKVO"))],
    }
    assert found == sorted(starts[name] for name in hidden[model])


@pytest.mark.parametrize("model", [name for name in MODULES if "embedding_size" in MODELS[name].model_fields])
def test_hidden_of_every_family_are_matrices_and_neither_tables_nor_the_classifier(model):
    part = MODELS[model](num_layers=1, embedding_size=8)
    module = part.build(Sizes(9, 5, 0, 11, 6))
    layout = Layout.of(module, part.roles(module))
    hidden = {start for matrices in layout.hidden for start in matrices.starts}
    names = {slot.name for slot in layout if slot.start in hidden}
    every = {name for name, p in module.named_parameters() if p.ndim == 2}
    outside = {name for name in every if "embedding" in name or name.startswith("classifier")}
    assert outside and names == every - outside


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
        f"optimizer.{name}": whole.theta.shape for name in RULE_SETTINGS[rule].state
    }
    second.load_state(state)
    for _ in range(5):
        train_step(second)
    for name, tensor in whole.state().items():
        assert torch.equal(second.state()[name], tensor), name
