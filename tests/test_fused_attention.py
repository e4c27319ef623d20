"""Attention in one operation and Adam in one kernel, against what is written out: alone, lifted, trained."""

import math
from collections import Counter
from unittest import mock

import pytest
import torch
from helpers import CPU, tiny, tiny_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import shoal
from shoal.fast.build import Kernels, kernels
from shoal.fast.engine import uses_kernels
from shoal.lab.cohort import CohortFolder
from shoal.models import GPT, MultiHeadedAttention
from shoal.models.fused_attention import fused_attention
from shoal.training.certificate import certify
from shoal.training.loop import Options, Session, train_cohort
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import train_step

FLASH = "_scaled_dot_product_flash_attention_for_cpu"
some = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**31)
exact = st.sampled_from([(torch.float32, 1e-5), (torch.float64, 1e-12)])
shape = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 40), st.integers(1, 9))  # B, H, S, head_size


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    unseen = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(unseen, -math.inf).softmax(-1) @ v


def close(found: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def with_gradients(attend, tensors: list[Tensor]) -> list[Tensor]:
    """The context, and the gradients of a weighted sum of it."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    out = attend(*leaves)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return [out.detach(), *torch.autograd.grad(out, leaves, weights)]


@some
@given(seeds, shape, exact)
def test_alone_it_equals_what_is_written_out(seed, shape, exact):
    torch.manual_seed(seed)
    tensors = [torch.randn(*shape, dtype=exact[0]) for _ in "qkv"]
    fused, explicit = (with_gradients(attend, tensors) for attend in (fused_attention, written_out))
    for found, expected in zip(fused, explicit, strict=True):
        close(found, expected, exact[1])


@some
@given(seeds, shape, exact, st.integers(1, 4), st.lists(st.sampled_from([0, 1, 3, None]), min_size=3, max_size=3))
def test_lifted_over_members_it_equals_what_is_written_out(seed, shape, exact, R, in_dims):
    torch.manual_seed(seed)
    if all(dim is None for dim in in_dims):
        in_dims = [0, None, None]
    shapes = [shape if dim is None else (*shape[:dim], R, *shape[dim:]) for dim in in_dims]
    tensors = [torch.randn(*own, dtype=exact[0]) for own in shapes]
    lifted, expected = (
        with_gradients(vmap(attend, tuple(in_dims)), tensors) for attend in (fused_attention, written_out)
    )
    for found, wanted in zip(lifted, expected, strict=True):
        close(found, wanted, exact[1] * R)  # of what members share, the gradient is a sum over them


@some
@given(seeds, shape, exact, st.integers(1, 3))
def test_a_gradient_within_members_is_that_of_what_is_written_out(seed, shape, exact, R):
    torch.manual_seed(seed)
    tensors = [torch.randn(R, *shape, dtype=exact[0]) for _ in "qkv"]
    found, expected = (
        vmap(grad(lambda *qkv, attend=attend: attend(*qkv).sin().sum(), argnums=(0, 1, 2)))(*tensors)
        for attend in (fused_attention, written_out)
    )
    for own, other in zip(found, expected, strict=True):
        close(own, other, exact[1])


class Counted(TorchDispatchMode):
    """How often each operation was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def test_all_members_are_one_operation():
    tensors = [torch.randn(5, 2, 3, 4, 6) for _ in "qkv"]
    with Counted() as counted:
        vmap(fused_attention)(*tensors)
    assert counted.calls[FLASH] == 1


@some
@given(seeds, st.integers(1, 3), st.integers(1, 9), st.sampled_from([1, 2, 3]), st.booleans(), exact)
def test_a_module_that_fuses_equals_itself(seed, B, S, heads, rotary, exact):
    torch.manual_seed(seed)
    attention = MultiHeadedAttention(heads * 4, heads, rotary=rotary).to(exact[0])
    names, leaves = zip(*attention.named_parameters(), strict=True)
    x = torch.randn(B, S, heads * 4, dtype=exact[0])

    def attend(x: Tensor, *own: Tensor, fused: bool) -> Tensor:
        outputs, weights = functional_call(attention, dict(zip(names, own, strict=True)), (x, x, x), {"fused": fused})
        assert (weights is None) == fused
        return outputs

    fused, explicit = (with_gradients(lambda *t, f=f: attend(*t, fused=f), [x, *leaves]) for f in (True, False))
    for found, expected in zip(fused, explicit, strict=True):
        close(found, expected, 5 * exact[1])


def attention_of(**settings) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return MultiHeadedAttention(8, 2, **settings), torch.randn(2, 5, 8)


@pytest.mark.parametrize("case", ["mask", "fewer queries", "not causal", "dropout"])
def test_what_the_operation_does_not_say_is_written_out(case):
    attention, x = attention_of(causal=case != "not causal", dropout=0.5 if case == "dropout" else None)
    mask = torch.rand(2, 1, 5, 5) > 0.5 if case == "mask" else None
    queries = x[:, 2:] if case == "fewer queries" else x
    found = []
    for fused in (True, False):
        torch.manual_seed(1)
        outputs, weights = attention(queries, x, x, mask, fused=fused)
        assert weights is not None
        found.append(outputs)
    assert torch.equal(*found)


def test_on_another_device_than_the_cpu_nothing_is_fused(tmp_path):
    attention, x = attention_of()
    assert attention.to("meta")(x.to("meta"), x.to("meta"), x.to("meta"), fused=True)[1] is not None
    spec = of_text(tmp_path)[0]
    assert [uses_kernels("plain", spec, torch.device(name)) for name in ("cpu", "cuda")] == [True, False]


def test_without_dropout_in_evaluation_the_weights_are_not_made():
    attention, x = attention_of(dropout=0.5)
    assert attention.eval()(x, x, x, fused=True)[1] is None


@pytest.mark.parametrize("variant", [{}, {"positions": "rotary", "norm_position": "pre"}, {"dropout_at": "everywhere"}])
def test_a_model_that_fuses_equals_itself_but_for_rounding_and_with_details_to_the_bit(variant):
    torch.manual_seed(0)
    model = GPT(2, 2, 8, 9, 7, dropout=0.2 if "dropout_at" in variant else 0.0, **variant).eval()
    tokens = torch.randint(9, (3, 6))
    expected, kept = model(tokens)
    logits, nothing = model(tokens, details=False, fused=True)
    assert nothing is None
    close(logits, expected, 1e-5)
    shown, details = model(tokens, fused=True)
    assert torch.equal(shown, expected)
    assert all(torch.equal(*pair) for pair in zip(details, kept, strict=True))


SMALL = {"model": "gpt", "num_layers": 2, "num_heads": 2, "embedding_size": 8, "context_length": 8, "lr": 1e-2}
SMALL |= {"train_batch_size": 4, "n_steps": 12, "eval_period": 6, "warmup_steps": 1}


def of_text(folder, **changes) -> list[shoal.RunSpec]:
    """Three runs on a text."""
    path = folder / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 20)
    return list(shoal.grid(shoal.RunSpec(task="text", text=str(path), **{**SMALL, **changes}), seed=[0, 1, 2]))


def test_a_text_fuses_and_equations_do_not(tmp_path):
    found = []
    for specs in (of_text(tmp_path), tiny_grid({"model": "gpt"}, seed=[0, 1])):
        for members in (specs, specs[:1]):
            stack = Stack(Cohort(tuple(members)), CPU)
            with Counted() as counted:
                stack.score(torch.zeros(len(members), 2, dtype=torch.int64))
            found.append((counted.calls[FLASH], stack.fused_update is not None))
    has_kernels = kernels().library is not None
    assert found == [(2, has_kernels)] * 2 + [(0, False)] * 2


@pytest.mark.parametrize("variant", [{}, {"positions": "rotary"}, {"dropout": 0.2, "dropout_at": "everywhere"}])
def test_members_of_a_stack_train_as_they_do_alone(tmp_path, variant):
    specs = of_text(tmp_path, **variant)
    together = Stack(Cohort(tuple(specs)), CPU)
    alone = [Stack(Cohort((spec,)), CPU) for spec in specs]
    for stack in (together, *alone):
        for _ in range(8):
            train_step(stack)
    for place, stack in enumerate(alone):
        for name, tensor in stack.member(0).items():
            if not name.endswith("W_K.bias"):
                close(together.member(place)[name], tensor, 2e-5)


@pytest.mark.skipif(kernels().library is None, reason="no compiler")
@pytest.mark.parametrize("optimizer", ["adamw", "adam"])
def test_the_kernel_updates_as_the_rule_that_is_written_out(tmp_path, optimizer):
    specs = of_text(tmp_path, optimizer=optimizer, weight_decay=0.3, bias=False)
    fused, explicit = (Stack(Cohort(tuple(specs)), CPU) for _ in range(2))
    explicit.fused_update = None
    for _ in range(8):
        train_step(fused)
        train_step(explicit)
    start = Stack(Cohort(tuple(specs)), CPU).theta
    close(fused.theta, explicit.theta, 5e-5)
    assert (fused.theta - start).abs().max() > 1e-3


def begun(folder, specs) -> CohortFolder:
    cohort = Cohort(tuple(specs))
    made = shoal.Lab(folder).create().cohort(cohort.id)
    made.create(list(cohort.members), threads=1, engine="plain")
    return made


@pytest.mark.skipif(kernels().library is None, reason="no compiler")
def test_which_kernels_updated_is_on_record_and_going_on_without_is_said(tmp_path):
    folder = begun(tmp_path / "lab", of_text(tmp_path))
    stops = iter([False] * 3 + [True] * 99)
    assert train_cohort(folder, Options(stop=lambda: next(stops))) == "interrupted"
    assert folder.status()["sessions"][0]["kernels"] == kernels().key
    with without_kernels(), pytest.warns(UserWarning, match="last bits of what follows will differ"):
        Session(folder, Options())
    plain = begun(tmp_path / "other", [tiny(), tiny(seed=1)])
    train_cohort(plain, Options())
    assert "kernels" not in plain.status()["sessions"][0]


def without_kernels():
    return mock.patch("shoal.fast.fused.kernels", lambda: Kernels(None, "there is no C compiler"))


def test_without_a_compiler_a_text_trains_all_the_same(tmp_path):
    folder = begun(tmp_path / "lab", of_text(tmp_path))
    with without_kernels():
        assert Stack(Cohort(tuple(folder.specs())), CPU).fused_update is None
        assert train_cohort(folder, Options()) == "done"
    assert folder.status()["sessions"][0]["kernels"] == ""


def test_a_certificate_of_a_text_is_rounding(tmp_path):
    specs = of_text(tmp_path, bias=False)
    folder = begun(tmp_path / "lab", specs)
    assert train_cohort(folder, Options()) == "done"
    found = certify(folder, [spec.id for spec in specs], steps=12)
    assert max(own["parameters"] for own in found["alone"].values()) < 1e-5
    assert found["record"] < 1e-6
