"""Baseline of the practical's training loop: eager modules, a DataLoader, one run after another.

Source: the practical on modular arithmetic, problems 3 and 4; the models are in :mod:`benchmarks.plain_models`. Nothing
is shared between runs. Work of the engine besides training and scoring (writing files, the norm of the parameters) is
left out.

Shapes: ``B`` batch, ``S`` sequence, ``V`` vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.plain_models import GPT, LSTMLM
from shoal import RunSpec
from shoal.tasks import get_arithmetic_dataset

History = dict[str, list[Any]]  # "step", then loss and accuracy of train and valid, one entry per evaluation
Batch = Sequence[Tensor]  # inputs (B, S), targets (B, S), eq_positions (B,), mask (B, S)

# Settings that the baselines fix; other values are refused, never ignored.
FIXED = {
    "optimizer": "adamw",
    "decay_all": True,
    "dropout": 0.0,
    "non_linearity": "gelu",
    "bias": True,
    "bias_classifier": True,
    "share_embeddings": False,
    "equation_format": "full",
}
INITIALISATION = {"lstm": "xavier", "gpt": "torch"}  # defaults of the models


def get_loss_and_accuracy(logits: Tensor, targets: Tensor, eq_positions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean negative log-likelihood and accuracy of the right-hand sides of a batch.

    Args:
        logits: ``(B, S, V)``.
        targets: ``(B, S)``.
        eq_positions: position of ``=`` in each row of targets, ``(B,)``.
        mask: ``(B, S)``, 1 where the target is not padding.
    """
    positions = torch.arange(targets.shape[1], device=targets.device)  # (S,)
    rhs = (positions > eq_positions.unsqueeze(1)) & mask.bool()  # (B, S), True = counts
    log_p = F.log_softmax(logits, dim=-1)  # (B, S, V)
    nll = -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)  # (B, S)
    loss = (nll * rhs).sum(dim=1) / rhs.sum(dim=1)  # (B,)
    right = (logits.argmax(dim=-1) == targets) | ~rhs  # (B, S)
    return loss.mean(), right.all(dim=1).float().mean()


class Trainer:
    """Trainer of one run.

    Args:
        spec: spec of the run; settings that the baselines do not have are refused.
        members: 1; this baseline trains one run at a time.
        compiled: wrap forward and loss in ``torch.compile``; each size of batch compiles, to train and to score.
        device: device of model and batches.

    Attributes:
        steps_done: optimisation steps so far.
        history: the statistics of every evaluation.
    """

    def __init__(
        self, spec: RunSpec, members: int = 1, *, compiled: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        if members != 1:
            raise ValueError(f"this baseline trains one run at a time, got members={members}")
        check(spec)
        assert spec.init_seed is not None and spec.order_seed is not None
        self.spec = spec
        self.device = torch.device(device)
        train, valid, vocabulary_size, sequence_length, pad = datasets(spec)
        torch.manual_seed(spec.init_seed)
        self.model = self.build(vocabulary_size, sequence_length, pad).to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), spec.lr, betas(spec), eps=_given(spec.eps), weight_decay=_given(spec.weight_decay)
        )
        self.train_loader = DataLoader(
            train, spec.train_batch_size, shuffle=True, generator=torch.Generator().manual_seed(spec.order_seed)
        )
        self.eval_loaders = {
            "train": DataLoader(train, spec.eval_batch_size),
            "valid": DataLoader(valid, spec.eval_batch_size),
        }
        self.objective: Callable[..., tuple[Tensor, Tensor]] = self._objective
        if compiled:
            # Sizes of batches are few, and code for any size is slower. Each takes one of the recompilations, which all
            # trainers of a process share; past the limit torch would go on uncompiled.
            self.objective = torch.compile(self._objective, dynamic=False, recompile_limit=64)  # type: ignore[call-overload]
        self.batches = self._batches()
        self.steps_done = 0
        self.history = new_history()

    def build(self, vocabulary_size: int, sequence_length: int, pad: int) -> nn.Module:
        """Model of the spec, with initial parameters from torch's global generator."""
        spec = self.spec
        if spec.model == "lstm":
            assert spec.hidden_size is not None
            return LSTMLM(vocabulary_size, spec.embedding_size, spec.hidden_size, spec.num_layers, pad)
        return GPT(vocabulary_size, sequence_length, pad, spec)

    def step(self, n: int) -> None:
        """Train ``n`` steps, with the evaluations of the schedule; returns when they are done."""
        if self.steps_done == 0:
            self._record()
        for _ in range(n):
            self._train_step(next(self.batches))
            self.steps_done += 1
            if self.steps_done <= self.spec.eval_first or self.steps_done % self.spec.eval_period == 0:
                self._record()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _batches(self) -> Iterator[Batch]:
        while True:
            yield from self.train_loader

    def _objective(self, inputs: Tensor, *scoring: Tensor) -> tuple[Tensor, Tensor]:
        logits, *_ = self.model(inputs)
        return get_loss_and_accuracy(logits, *scoring)

    def _train_step(self, batch: Batch) -> None:
        self.model.train()
        self.optimizer.zero_grad()
        loss, _ = self.objective(*(tensor.to(self.device) for tensor in batch))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.clip)
        self.optimizer.step()

    def evaluate(self) -> dict[str, float]:
        """Current statistics."""
        values = {}
        for split, loader in self.eval_loaders.items():
            values[f"{split}_loss"], values[f"{split}_accuracy"] = self._evaluate(loader)
        return values

    def _record(self) -> None:
        self.history["step"].append(self.steps_done)
        for name, value in self.evaluate().items():
            self.history[name].append(value)

    @torch.no_grad()
    def _evaluate(self, loader: DataLoader[tuple[Tensor, ...]]) -> tuple[float, float]:
        self.model.eval()
        loss, accuracy, n = 0.0, 0.0, 0
        for batch in loader:
            batch_loss, batch_accuracy = self.objective(*(tensor.to(self.device) for tensor in batch))
            B = len(batch[0])
            loss += batch_loss.item() * B
            accuracy += batch_accuracy.item() * B
            n += B
        return loss / n, accuracy / n


def run(
    spec: RunSpec, *, steps: int, seeds: Sequence[int], trainer: type[Trainer] = Trainer, **options: Any
) -> dict[int, History]:
    """Train a run per seed, one after another, and return their statistics by seed."""
    histories = {}
    for seed in seeds:
        one = trainer(with_seed(spec, seed), **options)
        one.step(steps)
        histories[seed] = one.history
    return histories


def check(spec: RunSpec) -> None:
    """Raise ValueError for settings that the baselines do not have."""
    for name, fixed in {**FIXED, "initialisation": INITIALISATION[spec.model]}.items():
        value = spec.get(name)
        if value is not None and value != fixed:
            raise ValueError(f"the baselines have {name}={fixed}, got {value}")


def datasets(spec: RunSpec) -> tuple[TensorDataset, TensorDataset, int, int, int]:
    """Training and validation data of a run, then vocabulary size, sequence length and padding index."""
    assert spec.q is not None and spec.split_seed is not None
    (train, valid), tokenizer, sequence_length, pad = get_arithmetic_dataset(
        spec.p,
        spec.q,
        spec.operator,
        spec.r_train,
        spec.operation_orders,
        is_symmetric=spec.is_symmetric,
        seed=spec.split_seed,
        per_order=spec.split_per_order,
    )
    assert pad is not None  # the vocabulary of equations in full has it
    return train, valid, len(tokenizer), sequence_length, pad


def with_seed(spec: RunSpec, seed: int) -> RunSpec:
    """Spec of the same run with another seed."""
    return RunSpec(**{**spec.given(), "seed": seed})


def new_history() -> History:
    """Empty statistics."""
    return {name: [] for name in ("step", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy")}


def betas(spec: RunSpec) -> tuple[float, float]:
    """Settings ``(beta1, beta2)`` of AdamW."""
    return _given(spec.beta1), _given(spec.beta2)


def _given(value: float | None) -> float:
    assert value is not None
    return value
