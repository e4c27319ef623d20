"""Loss and accuracy against a literal triple loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from shoal.objectives import get_loss_and_accuracy, scored_positions

some = settings(max_examples=25, deadline=None)


def near(found: float | list[float], expected: float | list[float], *, tolerance: float = 1e-9) -> None:
    assert found == pytest.approx(expected, abs=tolerance)


@st.composite
def batches(draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, targets, places of ``=`` and mask of a batch whose rows are padded at the end."""
    B, S, V = draw(st.integers(1, 4)), draw(st.integers(2, 6)), draw(st.integers(2, 4))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    logits = torch.randn(B, S, V, dtype=torch.float64) * draw(st.sampled_from([1, 5]))
    targets = torch.randint(V, (B, S))
    for row in range(B):  # else hardly any answer would be right
        if draw(st.booleans()):
            targets[row] = logits[row].argmax(-1)
    eq_positions = torch.tensor(draw(st.lists(st.integers(0, S - 1), min_size=B, max_size=B)))
    lengths = torch.tensor(draw(st.lists(st.integers(0, S), min_size=B, max_size=B)))
    mask = torch.arange(S) < lengths.unsqueeze(1)
    return logits, targets, eq_positions, mask if draw(st.booleans()) else mask.long()


def literal(logits: Tensor, targets: Tensor, eq_positions: Tensor | None, mask: Tensor) -> tuple[list, list]:
    """Loss and accuracy of each row, one number at a time."""
    losses, accuracies = [], []
    for b in range(logits.shape[0]):
        total, scored, right = 0.0, 0, True
        for s in range(logits.shape[1]):
            if not mask[b, s] or (eq_positions is not None and s <= eq_positions[b]):
                continue
            row = logits[b, s].tolist()
            normaliser = 0.0
            for value in row:
                normaliser += math.exp(value)
            target = targets[b, s].item()
            total -= math.log(math.exp(row[target]) / normaliser)
            right = right and row[target] == max(row)
            scored += 1
        losses.append(total / scored if scored else 0.0)
        accuracies.append(float(right))
    return losses, accuracies


@some
@given(batches(), st.booleans())
def test_loss_and_accuracy_equal_a_literal_loop(batch, all_targets):
    logits, targets, eq_positions, mask = batch
    eq_positions = None if all_targets else eq_positions
    losses, accuracies = literal(logits, targets, eq_positions, mask)
    for reduction, reduce in {"none": list, "sum": sum, "mean": lambda x: sum(x) / len(x)}.items():
        loss, accuracy = get_loss_and_accuracy(logits, targets, eq_positions, mask, reduction)
        near(loss.tolist(), reduce(losses))
        near(accuracy.tolist(), reduce(accuracies))
        assert loss.dtype == accuracy.dtype == logits.dtype
    by_default = get_loss_and_accuracy(logits, targets, eq_positions, mask)
    assert torch.equal(torch.stack(by_default), torch.stack([loss, accuracy]))


@some
@given(batches())
def test_without_positions_it_is_next_token_prediction_over_what_is_not_padding(batch):
    logits, targets, _, mask = batch
    loss, _ = get_loss_and_accuracy(logits, targets, None, mask, "none")
    for b, kept in enumerate(mask.bool()):
        expected = F.cross_entropy(logits[b, kept], targets[b, kept]).item() if kept.any() else 0.0
        near(loss[b].item(), expected)


@some
@given(batches())
def test_only_scored_positions_have_gradients_and_a_say(batch):
    logits, targets, eq_positions, mask = batch
    scored = scored_positions(eq_positions, mask)
    loss, accuracy = get_loss_and_accuracy(logits.requires_grad_(), targets, eq_positions, mask, "none")
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.equal(gradient.any(-1), scored)
    elsewhere = torch.where(scored.unsqueeze(-1), logits, torch.randn_like(logits) * 100)
    again = get_loss_and_accuracy(elsewhere, torch.where(scored, targets, 0), eq_positions, mask, "none")
    assert torch.equal(torch.stack([loss, accuracy]), torch.stack(again))


@some
@given(batches(), st.floats(0, 0.99))
def test_label_smoothing_is_that_of_torch(batch, smoothing):
    logits, targets, eq_positions, mask = batch
    scored = scored_positions(eq_positions, mask)
    plain, right = get_loss_and_accuracy(logits, targets, eq_positions, mask, "none")
    loss, accuracy = get_loss_and_accuracy(logits, targets, eq_positions, mask, "none", smoothing)
    assert torch.equal(accuracy, right)
    for b, kept in enumerate(scored):
        expected = F.cross_entropy(logits[b, kept], targets[b, kept], label_smoothing=smoothing) if kept.any() else 0.0
        near(loss[b].item(), float(expected))
    assert torch.equal(loss, plain) or smoothing > 0


def test_predicting_pad_after_eos_never_counts():
    """``BOS 1 + 2 = 3 EOS`` beside longer equations: the inputs' EOS is real, the target PAD after it is not."""
    EOS, PAD = 5, 6
    targets = torch.tensor([[1, 4, 2, 3, 0, EOS, PAD, PAD]])
    mask = targets != PAD
    logits = 20 * F.one_hot(targets, 7).float()
    logits[0, :4] = 0
    for last in (PAD, EOS, 0):
        logits[0, 6:] = 20 * F.one_hot(torch.tensor(last), 7).float()
        loss, accuracy = get_loss_and_accuracy(logits, targets, torch.tensor([3]), mask)
        assert loss < 1e-6
        assert accuracy == 1
    logits[0, 5] = -logits[0, 5]
    loss, accuracy = get_loss_and_accuracy(logits, targets, torch.tensor([3]), mask)
    assert loss > 1
    assert accuracy == 0


@pytest.mark.parametrize(("wrong", "words"), [("means", "did you mean 'mean'"), ("summ", "'sum'"), (None, "None")])
def test_an_unknown_reduction_is_refused(wrong, words):
    ones = torch.ones(1, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=f"mean, sum or none.*{words}"):
        get_loss_and_accuracy(torch.zeros(1, 2, 3), ones, None, ones, wrong)
