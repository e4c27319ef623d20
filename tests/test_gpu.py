"""The GPU's kernels without a GPU: what they compute, in Triton's interpreter, and that they compile for one."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import CPU, gradients, one_cohort, scattered, shapes, tiny_grid
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.fast import engine, fused
from shoal.fast.adam import FusedAdam
from shoal.fast.build import OFF
from shoal.fast.fused import ALLOWED, FusedKernels, fused_kernels
from shoal.fast.gpu.library import GPUKernels
from shoal.fast.trial import largest_error
from shoal.training.stack import Stack
from shoal.training.step import evaluate, train_step

pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow) encountered:RuntimeWarning")
GPU = torch.device("cuda")


@pytest.fixture
def interpreted(monkeypatch):
    """Stacks on the CPU compute with the GPU's kernels."""
    monkeypatch.setattr(engine, "fused_kernels", lambda device: FusedKernels(GPUKernels, "in Triton's interpreter"))


@pytest.fixture
def tried_anew(monkeypatch):
    """A GPU whose kernels have not been tried, and would be compiled."""
    monkeypatch.delenv("TRITON_INTERPRET")
    precision = torch.backends.cuda.matmul.fp32_precision
    fused._on_gpu.cache_clear()
    yield
    fused._on_gpu.cache_clear()
    torch.backends.cuda.matmul.fp32_precision = precision


CASES = [
    {"model": "lstm", "num_layers": 1, "p": 3, "operation_orders": (2, 3), "train_batch_size": 7},
    {"model": "lstm", "num_layers": 2, "bias": False, "equation_format": "operands", "embedding_size": 20},
    {"model": "gpt", "num_layers": 2, "label_smoothing": 0.2, "train_batch_size": 7},
    {"model": "gpt", "num_layers": 1, "bias": False, "num_heads": 1, "embedding_size": 20, "optimizer": "adam"},
    {"model": "gpt", "num_layers": 2, "norm_position": "pre", "p": 3, "decay_all": False},
    pytest.param(
        {"model": "gpt", "num_layers": 2, "norm_position": "pre", "p": 3, "operation_orders": (2, 3)},
        marks=pytest.mark.slow,
    ),
    {
        "model": "gpt",
        "num_layers": 2,
        "norm_position": "pre_stream",
        "positions": "vaswani",
        "unused_tokens": 5,
        "p": 3,
    },
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_with_the_cards_kernels_equals_training_with_pytorchs_operations(interpreted, case, steps=2):
    specs = tiny_grid({"weight_decay": 0.3, "clip": 0.5, **case}, r_train=[0.4, 0.6], lr=[1e-2])
    slow, fast = (Stack(one_cohort(specs), CPU, name) for name in ("prefixes", "compiled"))
    for _ in range(steps):
        for stack in (slow, fast):
            train_step(stack)
    for member in range(len(specs)):
        expected_parameters = slow.member(member)
        for name, found_parameter in fast.member(member).items():
            if "W_K.bias" not in name:  # whose gradient is 0 but for rounding, which Adam makes steps of
                torch.testing.assert_close(found_parameter, expected_parameters[name], atol=2e-5, rtol=0)
    found, expected = evaluate(fast, {}), evaluate(slow, {})
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=0)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=shapes, r_train=st.lists(st.sampled_from([0.4, 0.6]), min_size=1, max_size=2, unique=True))
def test_losses_and_gradients_of_the_cards_kernels_equal_those_of_the_model(interpreted, shape, r_train):
    specs = tiny_grid({**shape, "p": min(shape["p"], 3)}, r_train=r_train, seed=[0, 1])
    slow, fast = scattered(specs, "plain"), scattered(specs, "compiled")
    (expected, expected_gradient), (found, gradient) = gradients(slow), gradients(fast)
    torch.testing.assert_close(found["loss"], expected["loss"], atol=2e-5, rtol=1e-5)
    assert torch.equal(found["accuracy"], expected["accuracy"])
    scale = expected_gradient.abs().amax(1, keepdim=True)
    torch.testing.assert_close(gradient / scale, expected_gradient / scale, atol=5e-4, rtol=0)


@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_on_the_cards_kernels_a_member_does_not_notice_its_neighbours_by_one_bit(interpreted, model):
    specs = tiny_grid({"model": model, "p": 3, "train_batch_size": 3}, lr=[1e-3, 3e-3])
    together = Stack(one_cohort(specs), CPU, "compiled")
    alone = [Stack(one_cohort([spec]), CPU, "compiled") for spec in specs]
    for stack in (together, *alone):
        for _ in range(2):
            train_step(stack)
    assert torch.equal(together.theta, torch.cat([stack.theta for stack in alone]))


def test_a_member_that_becomes_infinite_is_put_back_and_stays(interpreted):
    stack = Stack(
        one_cohort(tiny_grid({"model": "lstm", "p": 3, "clip": float("inf")}, lr=[1e-3, 1e30, 1e38])), CPU, "compiled"
    )
    for _ in range(3):
        train_step(stack)
    assert stack.theta.isfinite().all()
    assert stack.diverged_at[0] == -1 and (stack.diverged_at[1:] > 0).all()
    assert stack.alive.tolist() == [True, False, False]


def test_an_update_is_taken_back_where_it_is_not_finite_and_only_there():
    theta, P = torch.ones(5, 1100), 1100  # more than a block
    lr = torch.tensor([[1e-3], [1e20], [1e39], [1e-3], [1e-3]], dtype=torch.float64)
    gradient = torch.ones(5, P)
    gradient[3, -1] = float("nan")
    column = torch.ones(5, 1, dtype=torch.float64)
    hyper = {"lr": lr, "beta1": 0.9 * column, "beta2": 0.99 * column, "eps": 1e-8 * column, "weight_decay": 0 * column}
    moved, state = torch.tensor([True, True, True, True, False]), {name: torch.zeros(5, P) for name in ("m", "v")}
    update = FusedAdam(GPUKernels(), decoupled=True)
    finite = update(theta, gradient, column.float(), state, hyper, column, moved)
    assert finite.tolist() == [True, True, False, False, True]
    torch.testing.assert_close(theta[0], torch.full((P,), 1 - 1e-3))
    torch.testing.assert_close(theta[1], torch.full((P,), -1e20))
    assert (theta[2:] == 1).all()
    assert not state["m"][4].any() and state["m"][0].all()


def test_kernels_in_c_pass_the_trial():
    host = fused_kernels(CPU).library_for
    if host is None:
        pytest.skip(fused_kernels(CPU).note)
    assert largest_error(host, CPU) < 1e-5


@pytest.mark.slow
def test_the_cards_kernels_pass_their_trial():
    assert largest_error(GPUKernels, CPU) < 1e-5


def test_a_card_has_kernels_if_they_pass_their_trial(tried_anew, monkeypatch):
    errors, products = {"largest": 0.0}, torch.backends.cuda.matmul
    products.fp32_precision = "tf32"
    monkeypatch.setattr(
        fused, "largest_error", lambda library_for, device: errors["largest"] + (products.fp32_precision != "ieee")
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    found = fused_kernels(GPU)
    assert " a GPU, " in found.key and products.fp32_precision == "tf32"
    assert found.library_for is GPUKernels and found.note.startswith("the kernels of Triton 3")
    for error in (2 * ALLOWED, float("nan"), float("inf")):
        errors["largest"] = error
        fused._on_gpu.cache_clear()
        assert fused_kernels(GPU) == FusedKernels(None, found.note + f" are off by {error:.1g} on this device")


def test_a_card_on_which_kernels_fail_falls_back_and_says_why(tried_anew, monkeypatch):
    def fails(library_for, device):
        raise RuntimeError("ptxas died\nand much more")

    monkeypatch.setattr(fused, "largest_error", fails)
    assert fused_kernels(GPU).library_for is None
    assert fused_kernels(GPU).note == "Triton's kernels do not run on this device: RuntimeError: ptxas died"


@pytest.mark.parametrize("variable", [OFF, "TRITON_INTERPRET"])
def test_a_card_has_no_kernels_where_the_environment_says_so(tried_anew, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    assert fused_kernels(GPU).library_for is None
    assert fused_kernels(GPU).note.startswith(f"{variable} is set")


def test_a_card_that_is_full_is_not_taken_for_one_without_kernels(tried_anew, monkeypatch):
    def fails(library_for, device):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(fused, "largest_error", fails)
    with pytest.raises(torch.OutOfMemoryError):
        fused_kernels(GPU)


@pytest.mark.parametrize(
    ("capability", "which"), [(90, "few"), *(pytest.param(n, "all", marks=pytest.mark.slow) for n in (80, 90))]
)
def test_the_kernels_compile_for_a_gpu(capability, which, tmp_path):
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    program = Path(__file__).with_name("for_gpu.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(program), str(capability), which],
        env={**kept, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    compiled = done.stdout.split()
    assert len(compiled) == 12 and "attend_keys" in compiled


def test_the_checksum_of_the_kernels_is_of_their_files(monkeypatch, tmp_path):
    nothing = hashlib.sha256(b"").hexdigest()[:16]
    assert fused._source() != nothing
    monkeypatch.setattr(fused, "__file__", str(tmp_path / "fused.py"))
    (tmp_path / "gpu").mkdir()
    assert fused._source() == nothing
    (tmp_path / "gpu" / "kernels.py").write_text("x = 1\n")
    assert fused._source() == hashlib.sha256(b"x = 1\n").hexdigest()[:16]
