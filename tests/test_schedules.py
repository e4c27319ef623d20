"""Learning-rate schedules against torch.optim.lr_scheduler, member by member."""

import math

import pytest
import torch
from helpers import CPU, OF_GRADIENTS, one_cohort, theta, tiny, tiny_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LambdaLR, LinearLR, LRScheduler, SequentialLR

from shoal.errors import UserError
from shoal.rules.schedules import TO_THE_LAST_STEP, schedule_of
from shoal.spec import RunSpec
from shoal.tasks.build import build_model, build_task
from shoal.training.plan import plan
from shoal.training.stack import Stack
from shoal.training.step import train_step

some = settings(max_examples=25, deadline=None)


def torch_factors(name: str, warmup_steps: int, n_steps: int) -> list[float]:
    """The learning rate at every step, from 1, where it is 1 without a schedule."""
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
    after: LRScheduler = {
        "constant": lambda n: ConstantLR(optimizer, factor=1.0),
        "linear": lambda n: LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=n),
        "cosine": lambda n: CosineAnnealingLR(optimizer, T_max=n),
    }[name](max(1, n_steps - warmup_steps))
    scheduler = after
    if warmup_steps > 1:
        rise = LinearLR(optimizer, start_factor=1 / warmup_steps, total_iters=warmup_steps - 1)
        scheduler = SequentialLR(optimizer, [rise, after], milestones=[warmup_steps - 1])
    if warmup_steps == 0:  # torch begins with the full rate, as after a warm-up
        optimizer.step()
        scheduler.step()
    factors = []
    for _ in range(n_steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.filterwarnings("ignore:The epoch parameter in")  # SequentialLR's own
@pytest.mark.parametrize("name", list(TO_THE_LAST_STEP))
@some
@given(members=st.lists(st.integers(1, 30).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=1))
def test_every_members_rate_is_that_of_torch(name, members):
    specs = [tiny(lr_schedule=name, warmup_steps=warmup, n_steps=n) for warmup, n in members]
    schedule = schedule_of(specs, CPU)
    if schedule is None:
        assert name == "constant" and not any(warmup for warmup, _ in members)
        return
    most = max(n for _, n in members)
    steps = [torch.full((len(specs), 1), float(step), dtype=torch.float64) for step in range(1, most + 1)]
    found = torch.cat([schedule(step) for step in steps], 1)  # (R, T)
    for row, (warmup, n) in zip(found, members, strict=True):
        expected = torch.tensor(torch_factors(name, warmup, n), dtype=torch.float64)
        torch.testing.assert_close(row[:n], expected, atol=1e-12, rtol=0)
        assert ((row >= 0) & (row <= 1)).all()


@some
@given(n=st.integers(2, 30).flatmap(lambda n: st.tuples(st.integers(1, n - 1), st.just(n))))
def test_a_rise_from_zero_is_the_one_of_the_grokking_literature(n):
    warmup, n_steps = n
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = LambdaLR(optimizer, lambda update: min(update / warmup, 1))
    expected = []
    for _ in range(n_steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    both = tiny_grid({"warmup_steps": warmup, "n_steps": n_steps}, warmup_from_zero=[True, False])
    schedule = schedule_of(one_cohort(both).members, CPU)
    steps = (torch.full((2, 1), float(step), dtype=torch.float64) for step in range(1, n_steps + 1))
    zero, usual = torch.cat([schedule(step) for step in steps], 1).tolist()
    assert zero == pytest.approx(expected)
    assert zero[0] == 0.0 and zero[1:] == usual[:-1]


def vaswani(step: int, warmup: int, d_model: int) -> float:
    """Vaswani et al. 2017, section 5.3, equation 3."""
    return d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)


def transformers_lambda(current_step: int, num_warmup_steps: int) -> float:
    """``get_inverse_sqrt_schedule`` of transformers, whose timescale is the warm-up, for ``LambdaLR``."""
    timescale = num_warmup_steps
    if current_step < num_warmup_steps:
        return current_step / max(1, num_warmup_steps)
    shift = timescale - num_warmup_steps
    return 1.0 / math.sqrt((current_step + shift) / timescale)


@some
@given(
    members=st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=4, unique=True),
    n_steps=st.integers(31, 99),
)
def test_the_inverse_square_root_is_that_of_the_transformer_whatever_the_number_of_steps(members, n_steps):
    specs = [
        tiny(lr_schedule="inverse_sqrt", warmup_steps=warmup, warmup_from_zero=from_zero, n_steps=n_steps)
        for warmup, from_zero in members
    ]
    schedule = schedule_of(one_cohort(specs).members, CPU)
    for step in (*range(1, 70), 10**6):
        found = schedule(torch.full((len(specs), 1), float(step), dtype=torch.float64))[:, 0].tolist()
        for factor, (warmup, from_zero) in zip(found, members, strict=True):
            literal = step / warmup if step <= warmup else math.sqrt(warmup / step)
            if from_zero:  # by the updates made before, as transformers and fairseq count them
                literal = transformers_lambda(step - 1, warmup)
            else:
                assert literal == pytest.approx(vaswani(step, warmup, 512) / vaswani(warmup, warmup, 512), rel=1e-12)
                assert literal == pytest.approx(transformers_lambda(step, warmup), rel=1e-12)
            assert factor == pytest.approx(literal, rel=1e-12, abs=1e-15)


def test_the_inverse_square_root_moves_parameters_as_torch_does():
    base = {"optimizer": "adam", "lr_schedule": "inverse_sqrt", "warmup_steps": 3, "lr": 1e-2, "clip": math.inf}
    spec = tiny(**base, weight_decay=0.0)
    stack, module, task = Stack(one_cohort([spec]), CPU), build_model(spec), build_task(spec)
    optimizer = torch.optim.Adam(module.parameters(), lr=spec.lr)
    scheduler = LambdaLR(optimizer, lambda update: transformers_lambda(update + 1, 3))
    batch = task.batch(task.tensors, task.scored["train"])
    for _ in range(9):
        train_step(stack)
        optimizer.zero_grad()
        task.objective(module, batch)["loss"].mean().backward()
        optimizer.step()
        scheduler.step()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(stack.member(0)[name], parameter.detach(), atol=1e-5, rtol=0)


def test_the_inverse_square_root_needs_a_warm_up_and_has_no_floor():
    with pytest.raises(UserError, match="warmup_steps"):
        tiny(lr_schedule="inverse_sqrt")
    with pytest.raises(UserError, match="lr_floor"):
        tiny(lr_schedule="inverse_sqrt", warmup_steps=3, lr_floor=0.1)


def factor(spec: RunSpec, step: int) -> float:
    """A step's share of the learning rate, as a training loop would write it."""
    if step <= spec.warmup_steps:
        return max(step - spec.warmup_from_zero, 0) / spec.warmup_steps
    way = min(1.0, (step - spec.warmup_steps) / max(1, spec.n_steps - spec.warmup_steps))
    rise = 1.0
    if spec.warmup_from_zero:
        rise = min(1.0, (step - 1) / spec.warmup_steps)
    fall = {"linear": 1 - way, "cosine": 0.5 * (1 + math.cos(math.pi * way))}[spec.lr_schedule]
    return rise * (spec.lr_floor + fall * (1 - spec.lr_floor))


@pytest.mark.parametrize("name", ["linear", "cosine"])
@some
@given(
    floors=st.lists(st.just(0.0) | st.floats(0.01, 0.99), min_size=1, max_size=4, unique=True),
    steps=st.integers(2, 30).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))),
    from_zero=st.booleans(),
)
def test_a_rate_falls_to_its_floor_and_no_further(name, floors, steps, from_zero):
    warmup, n_steps = steps
    base = {
        "lr_schedule": name,
        "warmup_steps": warmup,
        "n_steps": n_steps,
        "warmup_from_zero": from_zero and warmup > 0,
    }
    specs = one_cohort(tiny_grid(base, lr_floor=floors)).members  # members may differ in it
    schedule = schedule_of(specs, CPU)
    for step in (*range(1, n_steps + 1), n_steps + 7):
        found = schedule(torch.full((len(specs), 1), float(step), dtype=torch.float64))[:, 0].tolist()
        assert found == pytest.approx([factor(spec, step) for spec in specs], abs=1e-12)
    assert found == pytest.approx(floors, abs=1e-12)


def test_a_floor_reaches_the_parameters():
    """Gradient descent at the last step of a schedule is that at a share of the learning rate."""
    base = {"optimizer": "sgd", "lr_schedule": "cosine", "n_steps": 1, "lr": 0.5}
    falls, steady = (
        Stack(one_cohort([spec]), CPU)
        for spec in (
            tiny(**base, lr_floor=0.25),
            tiny(**{**base, "lr_schedule": "constant", "lr": 0.125}),
        )
    )
    for stack in (falls, steady):
        train_step(stack)
    torch.testing.assert_close(falls.theta, steady.theta, atol=1e-7, rtol=0)
    with pytest.raises(UserError, match="lr_floor"):
        RunSpec(lr_floor=0.1)
    with pytest.raises(UserError, match="lr_floor"):
        RunSpec(lr_schedule="linear", lr_floor=1.0)


@pytest.mark.parametrize("engine", ["plain", "prefixes", "compiled"])
@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_training_from_a_rate_of_zero_equals_torch(engine, model):
    spec = tiny(model=model, warmup_steps=3, warmup_from_zero=True, lr=1e-2, weight_decay=0.5, clip=math.inf)
    stack = Stack(one_cohort([spec]), CPU, engine)
    module, task = build_model(spec), build_task(spec)
    optimizer = torch.optim.AdamW(module.parameters(), lr=spec.lr, weight_decay=0.5)
    scheduler = LambdaLR(optimizer, lambda update: min(update / 3, 1))
    batch = task.batch(task.tensors, task.scored["train"])
    before = theta(stack, 0)
    for step in range(6):
        train_step(stack)
        assert torch.equal(theta(stack, 0), before) == (step == 0)
        optimizer.zero_grad()
        task.objective(module, batch)["loss"].mean().backward()
        optimizer.step()
        scheduler.step()
    for name, parameter in module.named_parameters():
        if not name.endswith("W_K.bias"):  # softmax does not see it, so that its gradient is rounding
            torch.testing.assert_close(stack.member(0)[name], parameter.detach(), atol=1e-4, rtol=0)


def test_a_rate_rises_in_equal_parts_and_falls_to_nothing():
    for name, middle in {"linear": 0.5, "cosine": 0.5, "constant": 1.0}.items():
        schedule = schedule_of([tiny(lr_schedule=name, warmup_steps=4, n_steps=12)], CPU)
        at = [float(schedule(torch.tensor([[float(step)]]))) for step in (1, 2, 4, 8, 12, 13)]
        last = 1.0 if name == "constant" else 0.0
        assert at == pytest.approx([0.25, 0.5, 1.0, middle, last, last], abs=1e-15)


def test_without_a_schedule_nothing_is_computed():
    stack = Stack(one_cohort([tiny()]), CPU)
    assert stack.schedule is None
    assert stack.hyper_at(torch.ones(1, 1)) is stack.hyper


def test_members_may_differ_in_their_warm_up_and_length_but_not_in_the_schedule():
    assert len(plan(tiny_grid({"lr_schedule": "linear"}, warmup_steps=[0, 3], n_steps=[5, 9]))) == 1
    assert len(plan(tiny_grid({}, lr_schedule=["linear", "cosine"]))) == 2
    assert len(plan(tiny_grid({}, label_smoothing=[0.0, 0.1]))) == 2


@pytest.mark.parametrize("optimizer", OF_GRADIENTS)
def test_at_a_rate_of_zero_no_optimizer_moves_anything(optimizer):
    stack = Stack(one_cohort([tiny(optimizer=optimizer, lr_schedule="cosine", n_steps=6)]), CPU)
    for _ in range(5):
        train_step(stack)
    before = theta(stack, 0)
    train_step(stack)
    assert torch.equal(theta(stack, 0), before)


def test_a_run_that_will_end_early_keeps_its_schedule():
    specs = tiny_grid({"lr_schedule": "linear", "n_steps": 20}, seed=[0, 1])
    whole, early = (Stack(one_cohort(specs), CPU) for _ in range(2))
    early.set_last_steps(torch.tensor([20, 6]))
    for _ in range(6):
        train_step(whole)
        train_step(early)
    assert torch.equal(whole.theta, early.theta)
    train_step(early)
    assert torch.equal(theta(whole, 1), theta(early, 1))


@pytest.mark.parametrize("optimizer", ["adamw", "adam"])
def test_the_kernel_of_adam_follows_the_schedule(optimizer):
    base = {"optimizer": optimizer, "lr_schedule": "cosine", "weight_decay": 0.5, "lr": 1e-2}
    specs = tiny_grid(base, warmup_steps=[0, 5], n_steps=[10, 20])
    plain, fast = (Stack(one_cohort(specs), CPU, engine) for engine in ("plain", "compiled"))
    if fast.fused_update is None:
        pytest.skip("no kernels on this machine")
    for _ in range(10):
        train_step(plain)
        train_step(fast)
    torch.testing.assert_close(fast.theta, plain.theta, atol=1e-4, rtol=0)
    constant = Stack(one_cohort([RunSpec(**{**spec.given(), "lr_schedule": "constant"}) for spec in specs]), CPU)
    for _ in range(10):
        train_step(constant)
    assert (constant.theta - plain.theta).abs().amax(1).min() > 1e-3
