"""Modular arithmetic: equations ``a o b = r`` and ``a o b o c = r`` over ``Z/pZ``, results modulo ``q``.

Source: the practical on modular arithmetic. A division ``a / b = c`` is built from ``(c, b)`` as ``a = b c mod q``
with divisors from 1. Rows are ``BOS a o b = r EOS`` padded with ``PAD``; inputs drop the last token, targets the first.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from shoal.equations import OPERATORS, check_arithmetic, count_equations
from shoal.objectives import get_loss_and_accuracy, scored_positions
from shoal.tasks.base import Batch, Model, NextToken, Task
from shoal.tasks.tokenizer import Tokenizer

BOS, EOS, EQ, PAD = "BOS", "EOS", "=", "PAD"

# operator -> (first operand, result) from the free operands; only division does not take its first operand as given
_SOLVE: dict[str, Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]] = {
    "+": lambda operands, q: (operands[:, 0], operands.sum(1) % q),
    "-": lambda operands, q: (operands[:, 0], (2 * operands[:, 0] - operands.sum(1)) % q),
    "*": lambda operands, q: (operands[:, 0], operands.prod(1) % q),
    "/": lambda operands, q: (operands.prod(1) % q, operands[:, 0]),
}
assert tuple(_SOLVE) == OPERATORS


@dataclass(frozen=True)
class ArithmeticData:
    """Every equation of one setting, encoded, with its split.

    ``tokens`` and ``mask`` are ``(N, S + 1)``, ``order`` is ``(N,)``, ``train`` and ``valid`` are row indices.
    """

    tokenizer: Tokenizer
    tokens: Tensor
    mask: Tensor
    order: Tensor
    train: Tensor
    valid: Tensor

    @property
    def eq_positions(self) -> Tensor:
        """Position of ``=`` in each row of targets, ``(N,)``: 3 for binary, 5 for ternary equations."""
        return 2 * self.order - 1

    def rows(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs ``(n, S)``, targets ``(n, S)``, eq_positions ``(n,)`` and target-aligned mask ``(n, S)``."""
        tokens = self.tokens[indices]
        return tokens[:, :-1], tokens[:, 1:], self.eq_positions[indices], self.mask[indices][:, 1:]


def arithmetic_data(
    p: int,
    q: int,
    operator: str,
    r_train: float,
    operation_orders: int | Sequence[int] = 2,
    is_symmetric: bool = False,
    shuffle: bool = True,
    seed: int = 42,
    per_order: bool = False,
) -> ArithmeticData:
    """Build, shuffle and split every equation. Arguments as :func:`get_arithmetic_dataset`."""
    orders = sorted([operation_orders] if isinstance(operation_orders, int) else operation_orders)
    check_arithmetic(p, q, operator, r_train, orders)
    tokenizer = Tokenizer([*map(str, range(max(p, q))), operator, EQ, BOS, EOS, PAD])
    tokens = np.concatenate(
        [_equations(p, q, operator, order, is_symmetric, tokenizer, max(orders)) for order in orders]
    )
    order = np.repeat(orders, [count_equations(p, operator, order, is_symmetric) for order in orders])
    if shuffle:
        permutation = np.arange(len(tokens))
        np.random.RandomState(seed).shuffle(permutation)
        tokens, order = tokens[permutation], order[permutation]
    in_train = np.zeros(len(tokens), dtype=bool)
    for part in [order == o for o in orders] if per_order else [np.ones(len(tokens), dtype=bool)]:
        rows = np.flatnonzero(part)
        in_train[rows[: round(len(rows) * r_train)]] = True
    encoded = torch.from_numpy(tokens)
    return ArithmeticData(
        tokenizer=tokenizer,
        tokens=encoded,
        mask=(encoded != tokenizer.stoi[PAD]).long(),
        order=torch.from_numpy(order),
        train=torch.from_numpy(np.flatnonzero(in_train)),
        valid=torch.from_numpy(np.flatnonzero(~in_train)),
    )


def get_arithmetic_dataset(
    p: int,
    q: int,
    operator: str,
    r_train: float,
    operation_orders: int | Sequence[int] = 2,
    is_symmetric: bool = False,
    shuffle: bool = True,
    seed: int = 42,
    per_order: bool = False,
) -> tuple[tuple[TensorDataset, TensorDataset], Tokenizer, int, int]:
    """All equations of one setting as the practical wants them.

    Args:
        p: operands are ``0 .. p-1``.
        q: results are taken modulo ``q``; for a division ``a / b = c`` it is ``a`` that is, as ``b c mod q``.
        operator: ``+``, ``-``, ``*`` or ``/`` (division needs prime ``p`` and ``q``).
        r_train: share of the equations that train, in (0, 1]; the first ``round(N r_train)`` after shuffling.
        operation_orders: 2 (binary), 3 (ternary) or both.
        is_symmetric: keep only ``a <= b (<= c)``.
        shuffle: shuffle before splitting, by ``numpy.random.RandomState(seed)``.
        seed: seed of the shuffle.
        per_order: split binary and ternary equations each at ``r_train``, instead of their union.

    Returns:
        ``(train, valid), tokenizer, max_length, padding_index``. Each dataset yields inputs ``(S,)``, targets ``(S,)``,
        the position of ``=`` in the targets, and the mask ``(S,)`` of targets other than PAD; ``max_length`` is ``S``.

    Raises:
        UserError: a value outside its range.
    """
    data = arithmetic_data(p, q, operator, r_train, operation_orders, is_symmetric, shuffle, seed, per_order)
    train, valid = (TensorDataset(*data.rows(rows)) for rows in (data.train, data.valid))
    return (train, valid), data.tokenizer, data.tokens.shape[1] - 1, data.tokenizer.stoi[PAD]


def arithmetic_task(data: ArithmeticData, label_smoothing: float = 0.0) -> Task:
    """The same data as the engine takes it, with one group per operation order where there are several."""
    smoothed = partial(equation_objective, label_smoothing=label_smoothing)
    inputs, targets, eq_positions, mask = data.rows(torch.arange(len(data.tokens)))
    orders = sorted(set(data.order.tolist()))
    return Task(
        tensors={"inputs": inputs, "targets": targets, "eq_positions": eq_positions, "mask": mask},
        splits={"train": data.train, "valid": data.valid},
        groups={f"order{order}": data.order == order for order in orders} if len(orders) > 1 else {},
        objective=equation_objective,
        vocabulary_size=len(data.tokenizer),
        sequence_length=inputs.shape[1],
        padding_index=data.tokenizer.stoi[PAD],
        next_token=NextToken(
            "inputs",
            "targets",
            lambda batch: scored_positions(batch["eq_positions"], batch["mask"]),
            label_smoothing,
        ),
        training_objective=smoothed if label_smoothing else None,
    )


def equation_objective(model: Model, batch: Batch, label_smoothing: float = 0.0) -> dict[str, Tensor]:
    """Loss and accuracy of each equation's right-hand side, ``(B,)`` each."""
    logits, *_ = model(batch["inputs"])  # (B, S, V)
    loss, accuracy = get_loss_and_accuracy(
        logits, batch["targets"], batch["eq_positions"], batch["mask"], "none", label_smoothing
    )
    return {"loss": loss, "accuracy": accuracy}


def _equations(
    p: int, q: int, operator: str, order: int, is_symmetric: bool, tokenizer: Tokenizer, longest: int
) -> np.ndarray:
    """Encoded equations of one order, ``(N, 2 longest + 3)``, the first operand outermost."""
    first_divisor = 1 if operator == "/" else 0
    ranges = [range(p), *[range(first_divisor, p)] * (order - 1)]
    operands = np.array(list(itertools.product(*ranges)), dtype=np.int64)  # (N, order)
    if is_symmetric:
        operands = operands[(np.diff(operands, axis=1) >= 0).all(1)]
    first, result = _SOLVE[operator](operands, q)
    rows = np.full((len(operands), 2 * longest + 3), tokenizer.stoi[PAD], dtype=np.int64)  # (N, S + 1)
    rows[:, 0] = tokenizer.stoi[BOS]
    rows[:, 1 : 2 * order : 2] = operands
    rows[:, 1] = first
    rows[:, 2 : 2 * order : 2] = tokenizer.stoi[operator]
    rows[:, 2 * order] = tokenizer.stoi[EQ]
    rows[:, 2 * order + 1] = result
    rows[:, 2 * order + 2] = tokenizer.stoi[EOS]
    return rows
