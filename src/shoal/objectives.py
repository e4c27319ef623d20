"""Scores of predictions: negative log-likelihood and exact match over the scored positions of each sequence.

Source: the practical on modular arithmetic, problem 3. The mask is aligned with the targets, so predicting PAD after
EOS never counts.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from shoal.errors import nearest

Reduction = Literal["mean", "sum", "none"]
CONVENTIONS = ("torch", "fairseq", "joeynmt")  # of label smoothing


def scored_positions(eq_positions: Tensor | None, mask: Tensor) -> Tensor:
    """Mask of the targets that count: after the equality sign and before padding.

    Args:
        eq_positions: position of ``=`` in each row of targets, ``(B,)``; None counts every unmasked target.
        mask: 1 where the target is not padding, ``(B, S)``.

    Returns:
        ``(B, S)``, bool, True = counts.
    """
    scored = mask.bool()
    if eq_positions is None:
        return scored
    positions = torch.arange(mask.shape[-1], device=mask.device)  # (S,)
    return scored & (positions > eq_positions.unsqueeze(-1))


def token_losses(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of every token, in nats.

    Args:
        logits: ``(*dims, V)``.
        targets: ``(*dims)``, int64.
        label_smoothing: share of the target that is spread evenly over the whole vocabulary, as in
            ``torch.nn.functional.cross_entropy`` (Szegedy et al. 2016); at 0 the loss is the negative log-likelihood.

    Returns:
        ``(*dims)``.
    """
    log_p = logits.log_softmax(dim=-1)  # (*dims, V)
    nll = -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)  # (*dims)
    if label_smoothing == 0:
        return nll
    return (1 - label_smoothing) * nll - label_smoothing * log_p.mean(-1)


def smoothed_losses(logits: Tensor, targets: Tensor, label_smoothing: float, convention: str = "torch") -> Tensor:
    """Label-smoothed loss of every token, in nats, by one of three conventions; ``ε`` is the spread share.

    - ``torch``: ε/V on every token, the right one's included, as ``torch.nn.functional.cross_entropy`` and Szegedy et
      al. 2016;
    - ``fairseq``: 1 − ε on the right token and ε/(V − 1) on every other, as ``label_smoothed_nll_loss`` there;
    - ``joeynmt``: 1 − ε on the right token, 0 on PAD (token 0) and ε/(V − 2) on every other; the Kullback–Leibler
      divergence from that, as in the Annotated Transformer. Unlike the two above, its minimum is 0.

    At ε = 0 all are the negative log-likelihood.

    Args:
        logits: ``(*dims, V)``.
        targets: ``(*dims)``, int64; with ``joeynmt`` none is PAD.
        label_smoothing: ε, in [0, 1).
        convention: one of :data:`CONVENTIONS`.

    Returns:
        ``(*dims)``.
    """
    if convention not in CONVENTIONS:
        known = " ".join(CONVENTIONS)
        raise ValueError(f"convention must be one of {known}, got {convention!r}{nearest(convention, CONVENTIONS)}")
    if convention == "torch" or label_smoothing == 0:
        return token_losses(logits, targets, label_smoothing)
    log_p = logits.log_softmax(dim=-1)  # (*dims, V)
    nll = -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)  # (*dims)
    others = -log_p.sum(-1) - nll  # (*dims), of all tokens but the right one
    V = logits.shape[-1]
    if convention == "fairseq":
        return (1 - label_smoothing) * nll + label_smoothing / (V - 1) * others
    each = label_smoothing / (V - 2)
    entropy = (1 - label_smoothing) * math.log(1 - label_smoothing)
    if each > 0:  # a share so small may be none
        entropy += label_smoothing * math.log(each)
    return (1 - label_smoothing) * nll + each * (others + log_p[..., 0]) + entropy


def get_loss_and_accuracy(
    logits: Tensor,
    targets: Tensor,
    eq_positions: Tensor | None,
    mask: Tensor,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood and accuracy of the right-hand side of each equation.

    The loss of a sequence is the mean over its scored tokens, in nats; a sequence is right only when all of them are
    predicted (``argmax``). With ``eq_positions=None`` every target that is not padding is scored: the usual next-token
    objective.

    Args:
        logits: ``(B, S, V)``.
        targets: ``(B, S)``, int64.
        eq_positions: position of ``=`` in each row of targets, ``(B,)``, or None.
        mask: ``(B, S)``, 1 (or True) where the target is not padding.
        reduction: ``mean`` or ``sum`` over the batch, or ``none``.
        label_smoothing: see :func:`token_losses`.

    Returns:
        Loss and accuracy: scalars, or ``(B,)`` each when ``reduction="none"``. A sequence without scored tokens has
        loss 0 and accuracy 1.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(
            f"reduction must be mean, sum or none, got {reduction!r}{nearest(reduction, ['mean', 'sum', 'none'])}"
        )
    scored = scored_positions(eq_positions, mask)  # (B, S)
    losses = token_losses(logits, targets, label_smoothing)  # (B, S)
    loss = torch.where(scored, losses, 0.0).sum(-1) / scored.sum(-1).clamp(min=1)  # (B,)
    right = (logits.argmax(-1) == targets) | ~scored  # (B, S)
    accuracy = right.all(-1).to(logits.dtype)  # (B,)
    if reduction == "mean":
        return loss.mean(), accuracy.mean()
    if reduction == "sum":
        return loss.sum(), accuracy.sum()
    return loss, accuracy
