# ruff: noqa: D103
"""Tests that the plain loop on a text has nanoGPT's sizes, schedule, model and updates, and the loss of every token."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.nanogpt import GPT, SMALL_CPU, Setting, Trainer, count_parameters, encode, evaluate, get_lr

TEXT = "the quick brown fox jumps over the lazy dog, " * 8
SMALL = Setting(n_layer=2, n_head=2, n_embd=8, block_size=6, batch_size=4, warmup_iters=2, lr_decay_iters=6)


def test_parameters_are_as_many_as_nanogpts():
    model = GPT(SMALL_CPU, vocab_size=65)
    assert sum(p.numel() for p in model.parameters()) == 804_096  # its get_num_params(non_embedding=False)
    assert count_parameters(SMALL_CPU, vocab_size=65) == 795_904  # its get_num_params(), printed as 0.80M
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    assert (len(matrices), sum(p.numel() for p in matrices)) == (18, 802_944)  # printed by its configure_optimizers
    assert all(not name.endswith("bias") for name, _ in model.named_parameters())
    assert model.wte.weight is model.lm_head.weight


@pytest.mark.parametrize(
    ("it", "lr"),  # of nanoGPT's get_lr
    [
        (0, 9.900990099009901e-06),
        (1, 1.9801980198019803e-05),
        (50, 0.000504950495049505),
        (99, 0.0009900990099009901),
        (100, 0.001),
        (101, 0.0009999993848585915),
        (1000, 0.0005871607054625496),
        (2000, 0.0001),
        (2001, 0.0001),
    ],
)
def test_the_learning_rate_is_nanogpts(it, lr):
    assert get_lr(SMALL_CPU, it) == pytest.approx(lr, rel=1e-14)


def test_initial_parameters_have_nanogpts_standard_deviations():
    torch.manual_seed(0)
    for name, parameter in GPT(SMALL_CPU, vocab_size=65).named_parameters():
        if parameter.dim() < 2:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            sd = 0.02 / math.sqrt(8) if name.endswith("c_proj.weight") else 0.02
            assert parameter.std().item() == pytest.approx(sd, rel=4 / math.sqrt(2 * parameter.numel())), name


def explicit_logits(model, idx, n_head):
    """Logits of the model written out: one head and one position after another."""
    p = dict(model.named_parameters())
    D, S = p["wpe.weight"].shape[1], idx.shape[1]

    def norm(x, weight):
        x = x - x.mean(-1, keepdim=True)
        return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5) * weight

    x = p["wte.weight"][idx] + p["wpe.weight"][:S]
    for layer in range(len(model.h)):
        name = f"h.{layer}"
        q, k, v = (norm(x, p[f"{name}.ln_1.weight"]) @ p[f"{name}.attn.c_attn.weight"].T).chunk(3, dim=-1)
        y = torch.zeros_like(x)
        for head in range(n_head):
            of_head = slice(head * D // n_head, (head + 1) * D // n_head)
            for t in range(S):
                scores = (k[:, : t + 1, of_head] * q[:, t : t + 1, of_head]).sum(-1) / math.sqrt(
                    D / n_head
                )  # (B, t + 1)
                y[:, t, of_head] = (scores.softmax(-1)[..., None] * v[:, : t + 1, of_head]).sum(1)
        x = x + y @ p[f"{name}.attn.c_proj.weight"].T
        z = norm(x, p[f"{name}.ln_2.weight"]) @ p[f"{name}.mlp.c_fc.weight"].T
        x = x + (z * 0.5 * (1 + torch.erf(z / math.sqrt(2)))) @ p[f"{name}.mlp.c_proj.weight"].T
    return norm(x, p["ln_f.weight"]) @ p["wte.weight"].T


@torch.no_grad()
def test_the_model_is_what_nanogpt_says(atol=1e-5):
    torch.manual_seed(1)
    model, idx = GPT(SMALL, vocab_size=11), torch.randint(11, (3, 6))
    for parameter in model.parameters():
        parameter.normal_(std=0.5)
    torch.testing.assert_close(model(idx), explicit_logits(model, idx, SMALL.n_head), atol=atol, rtol=0)
    torch.testing.assert_close(model(idx[:, :4]), model(idx)[:, :4], atol=atol, rtol=0)


def test_updates_are_those_of_adamw_written_out(atol=1e-5):
    trainer, other = Trainer(3, TEXT, setting=SMALL), Trainer(3, TEXT, setting=SMALL)
    parameters = list(other.model.parameters())
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    losses, clipped = [], []
    for it in range(8):  # warm-up, cosine and floor
        inputs, targets = other.get_batch()
        logits = other.model(inputs)
        loss = -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()
        gradients = torch.autograd.grad(loss, parameters)
        norm = torch.sqrt(sum((g**2).sum() for g in gradients))
        clipped.append(norm > SMALL.grad_clip)
        lr = get_lr(SMALL, it)
        with torch.no_grad():
            for p, g, (m, v) in zip(parameters, gradients, moments, strict=True):
                g = g * min(1.0, SMALL.grad_clip / norm)
                m.lerp_(g, 1 - SMALL.beta1)
                v.lerp_(g**2, 1 - SMALL.beta2)
                p *= 1 - lr * (SMALL.weight_decay if p.dim() >= 2 else 0)
                scale = torch.sqrt(v / (1 - SMALL.beta2 ** (it + 1))) + 1e-8
                p -= lr * m / (1 - SMALL.beta1 ** (it + 1)) / scale
        trainer.step()
        losses.append((trainer.loss.item(), loss.item()))
    assert trainer.steps_done == 8
    for loss_of_trainer, expected in losses:
        assert loss_of_trainer == pytest.approx(expected, abs=atol)
    torch.testing.assert_close(
        list(trainer.model.parameters()), [torch.nn.Parameter(p) for p in parameters], atol=atol, rtol=0
    )


def test_a_step_is_that_of_a_literal_loop_with_torchs_adamw():
    setting = Setting(**{**vars(SMALL), "grad_clip": 0.1, "learning_rate": 0.03})  # so that it clips and moves
    trainer, other = Trainer(5, TEXT, setting=setting), Trainer(5, TEXT, setting=setting)
    named = dict(other.model.named_parameters())
    norms = [p for name, p in named.items() if "ln_" in name]
    rest = [p for name, p in named.items() if "ln_" not in name]
    optimizer = torch.optim.AdamW([{"params": rest, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}])
    losses = []
    for it in range(4):
        for group in optimizer.param_groups:
            group |= {"lr": get_lr(setting, it), "betas": (0.9, 0.99)}
        inputs, targets = other.get_batch()
        optimizer.zero_grad()
        loss = F.cross_entropy(other.model(inputs).view(-1, other.model.wte.num_embeddings), targets.view(-1))
        loss.backward()
        assert torch.nn.utils.clip_grad_norm_(other.model.parameters(), 0.1) > 0.1
        optimizer.step()
        trainer.step()
        losses.append(loss.item())
        assert trainer.loss.item() == pytest.approx(loss.item(), abs=1e-6)
    assert len(set(losses)) == 4


def test_steps_at_once_are_steps_one_by_one_whatever_else_is_drawn():
    at_once, one_by_one = Trainer(0, TEXT, setting=SMALL), Trainer(0, TEXT, setting=SMALL)
    at_once.step(3)
    for _ in range(3):
        torch.rand(5)
        one_by_one.evaluate()
        one_by_one.step()
    assert at_once.loss.item() == one_by_one.loss.item()
    other = Trainer(1, TEXT, setting=SMALL)
    other.step(3)
    assert other.loss.item() != at_once.loss.item()


def test_windows_are_of_the_training_part_and_their_targets_are_one_ahead():
    trainer = Trainer(0, TEXT, setting=SMALL)
    train = TEXT[: int(0.9 * len(TEXT))]
    alphabet = sorted(set(TEXT))
    seen = set()
    for _ in range(300):
        inputs, targets = trainer.get_batch()
        assert inputs.shape == targets.shape == (4, 6)
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        words = ["".join(alphabet[i] for i in [*row, last]) for row, last in zip(inputs, targets[:, -1], strict=True)]
        assert all(word in train for word in words)
        seen |= set(words)
    assert len(seen) == 45  # every window of a text that repeats itself after so many characters


def test_a_text_is_encoded_by_its_sorted_alphabet():
    tokens, size = encode("banana b")
    assert (tokens.tolist(), size) == ([2, 1, 3, 1, 3, 1, 0, 2], 4)


def test_it_learns():
    trainer = Trainer(0, TEXT, setting=Setting(**{**vars(SMALL), "learning_rate": 0.01, "lr_decay_iters": 10_000}))
    before = trainer.evaluate()
    trainer.step(100)
    after = trainer.evaluate()
    assert before.keys() == after.keys() == {"train_loss", "valid_loss"}
    assert all(after[name] < before[name] - 0.5 for name in before)


def test_a_text_too_short_for_a_window_is_refused():
    with pytest.raises(ValueError, match="longer than 6 characters, got 60 in all"):
        Trainer(0, "x" * 60, setting=SMALL)
    Trainer(0, "xy" * 35, setting=SMALL)


@given(n=st.integers(2, 40), stride=st.integers(1, 6), batch_size=st.sampled_from([1, 2, 7, 100]))
@settings(max_examples=60, deadline=None)
@torch.no_grad()
def test_every_token_but_the_first_is_scored_once_with_its_context(n, stride, batch_size):
    torch.manual_seed(0)
    model, tokens = GPT(SMALL, vocab_size=5), torch.randint(5, (n,))
    for parameter in model.parameters():
        parameter.normal_()
    expected = 0.0
    for target in range(1, n):  # one token after another; the window that scores it first is its own
        start = max(0, math.ceil((target - SMALL.block_size) / stride)) * stride
        assert start == 0 or SMALL.block_size - stride < target - start <= SMALL.block_size
        logits = model(tokens[None, start:target])[0, -1]
        expected -= logits.log_softmax(-1)[tokens[target]].item()
    nats, scored = evaluate(model, tokens, SMALL.block_size, stride=stride, batch_size=batch_size)
    assert scored == n - 1
    assert nats == pytest.approx(expected, rel=1e-5)
    if stride == SMALL.block_size:
        assert evaluate(model, tokens, SMALL.block_size) == pytest.approx((nats, scored))


def test_a_stride_beyond_the_window_is_refused():
    model = GPT(SMALL, vocab_size=5)
    for stride in (0, 7):
        with pytest.raises(ValueError, match=f"from 1 to block_size = 6, got {stride}"):
            evaluate(model, torch.arange(5), 6, stride=stride)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # by torch's own compiler
def test_a_compiled_trainer_learns_the_same(atol=1e-4):
    trainer, compiled = (Trainer(3, TEXT, setting=SMALL, compiled=is_compiled) for is_compiled in (False, True))
    for one in (trainer, compiled):
        one.step(5)
    torch.testing.assert_close(compiled.model.state_dict(), trainer.model.state_dict(), atol=atol, rtol=0)
