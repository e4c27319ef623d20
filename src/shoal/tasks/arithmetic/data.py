"""Equations ``a o b = r`` and ``a o b o c = r`` over ``Z/pZ``, results modulo ``q``, or over permutations.

Source: the practical on modular arithmetic. A division ``a / b = c`` is built from ``(c, b)`` as ``a = b c mod q``
with divisors from 1. Rows are written in one of four formats; inputs drop the last token, targets the first, and the
tokens after ``=`` are scored:

- ``full``: ``BOS a o b = r EOS`` padded with ``PAD``, as in the practical; ``r EOS`` scored;
- ``eos``: ``EOS a o b = r EOS``, as in Power et al. 2022 (https://arxiv.org/abs/2201.02177); ``r EOS`` scored;
- ``infix``: ``a o b = r``; ``r`` scored;
- ``operands``: ``a b = r``, as in Nanda et al. 2023 (https://arxiv.org/abs/2301.05217); ``r`` scored.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from shoal.objectives import get_loss_and_accuracy, scored_positions
from shoal.tasks.arithmetic.equations import (
    EOS,
    EQ,
    FORMATS,
    PAD,
    check_answers,
    check_arithmetic,
    smallest_operands,
    special_tokens,
)
from shoal.tasks.arithmetic.operators import SOLVE
from shoal.tasks.arithmetic.tokenizer import Tokenizer
from shoal.tasks.base import Batch, Model, NextToken, Task


@dataclass(frozen=True)
class ArithmeticData:
    """All equations of one setting, encoded, with their split.

    ``tokens`` and ``mask`` are ``(N, S + 1)``, ``order`` is ``(N,)``, ``train`` and ``valid`` are row indices;
    ``eq_positions`` is the position of ``=`` in each row of targets, ``(N,)``: in full 3 for binary, 5 for ternary
    equations.
    """

    tokenizer: Tokenizer
    tokens: Tensor
    mask: Tensor
    order: Tensor
    eq_positions: Tensor
    train: Tensor
    valid: Tensor

    @property
    def padding_index(self) -> int | None:
        """Index of ``PAD``, where the vocabulary has it."""
        return self.tokenizer.stoi.get(PAD)

    def rows(self, indices: Tensor | slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs ``(n, S)``, targets ``(n, S)``, positions of ``=`` ``(n,)`` and target-aligned mask ``(n, S)``."""
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
    equation_format: str = "full",
    zero_operands: str = "any",
    unused_tokens: int = 0,
    split_shuffle: str = "numpy",
) -> ArithmeticData:
    """Equations of one setting, shuffled and split.

    Arguments are those of :func:`get_arithmetic_dataset`, but for a division ``q < p`` is allowed, as it may stand in a
    lab of an earlier version.
    """
    orders = sorted([operation_orders] if isinstance(operation_orders, int) else operation_orders)
    check_arithmetic(p, q, operator, r_train, orders, is_symmetric, equation_format, zero_operands, split_shuffle)
    special = [*special_tokens(operator, orders, equation_format), *(f"UNUSED{n}" for n in range(unused_tokens))]
    tokenizer = Tokenizer([*map(str, range(max(p, q))), *special])
    solved = [_solved(p, q, operator, order, is_symmetric, zero_operands) for order in orders]
    tokens = np.concatenate([_written(*part, operator, equation_format, tokenizer, max(orders)) for part in solved])
    order = np.repeat(orders, [len(result) for _, result in solved])
    if shuffle:
        permutation = _shuffled(len(tokens), seed, split_shuffle)
        tokens, order = tokens[permutation], order[permutation]
    in_train = np.zeros(len(tokens), dtype=bool)
    for part in [order == o for o in orders] if per_order else [np.ones(len(tokens), dtype=bool)]:
        rows = np.flatnonzero(part)
        in_train[rows[: round(len(rows) * r_train)]] = True
    equality = {order: FORMATS[equation_format].equality(order) - 1 for order in orders}  # targets drop the first token
    return ArithmeticData(
        tokenizer=tokenizer,
        tokens=torch.from_numpy(tokens),
        mask=torch.from_numpy((tokens != tokenizer.stoi.get(PAD, -1)).astype(np.int64)),
        order=torch.from_numpy(order),
        eq_positions=torch.from_numpy(np.select([order == o for o in orders], [np.int64(equality[o]) for o in orders])),
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
    equation_format: str = "full",
    zero_operands: str = "any",
    unused_tokens: int = 0,
    split_shuffle: str = "numpy",
) -> tuple[tuple[TensorDataset, TensorDataset], Tokenizer, int, int | None]:
    """Equations of one setting, in the form that the practical asks for.

    Args:
        p: operands are ``0 .. p-1``.
        q: results are taken modulo ``q``; for a division ``a / b = c`` instead ``a`` is, as ``b c mod q``, with
            ``q >= p``: quotients that differ by ``q`` would give the same left side.
        operator: ``+``, ``-``, ``*`` or ``/`` (division needs prime ``p`` and ``q``), or one of the operators of two
            operands in :mod:`shoal.tasks.arithmetic.operators` (the compositions ``s5:...`` need ``p = q = 120``).
        r_train: share of the equations that train, in (0, 1]; the first ``round(N r_train)`` after shuffling.
        operation_orders: 2 (binary), 3 (ternary) or both.
        is_symmetric: keep only ``a <= b (<= c)``; not for permutations.
        shuffle: shuffle before splitting.
        seed: seed of the shuffle; another gives another split, and that of a run is ``run.spec.split_seed``.
        per_order: split binary and ternary equations each at ``r_train``, instead of their union.
        equation_format: ``full``, ``eos``, ``infix`` or ``operands``: how equations are written.
        zero_operands: operands that may be 0: ``any``, the ``first`` alone, or ``none``; not for permutations. Of a
            division ``a / b = c`` the divisor never is, and with ``none`` neither is ``c``.
        unused_tokens: number of tokens at the end of the vocabulary that occur in no equation.
        split_shuffle: generator of the shuffle: ``numpy.random.RandomState(seed)`` or Python's ``random.Random(seed)``.

    Returns:
        ``(train, valid), tokenizer, max_length, padding_index``. Each dataset yields inputs ``(S,)``, targets ``(S,)``,
        the position of ``=`` in the targets (the answer is the next one), and the mask ``(S,)``, 1 where the target is
        not PAD; ``max_length`` is ``S``; ``padding_index`` is None in formats without BOS, of one order.

    Raises:
        UserError: a value outside its range.
    """
    data = arithmetic_data(
        p,
        q,
        operator,
        r_train,
        operation_orders,
        is_symmetric,
        shuffle,
        seed,
        per_order,
        equation_format,
        zero_operands,
        unused_tokens,
        split_shuffle,
    )
    check_answers(p, q, operator)
    train, valid = (TensorDataset(*data.rows(rows)) for rows in (data.train, data.valid))
    return (train, valid), data.tokenizer, data.tokens.shape[1] - 1, data.padding_index


def arithmetic_task(data: ArithmeticData, label_smoothing: float = 0.0) -> Task:
    """Task of these equations for the engine, with one group per operation order where there are several."""
    smoothed = partial(equation_objective, label_smoothing=label_smoothing)
    inputs, targets, eq_positions, mask = data.rows(slice(None))
    orders = torch.unique(data.order).tolist()
    return Task(
        tensors={"inputs": inputs, "targets": targets, "eq_positions": eq_positions, "mask": mask},
        drawn=data.train,
        scored={"train": data.train, "valid": data.valid},
        groups={f"order{order}": data.order == order for order in orders} if len(orders) > 1 else {},
        objective=equation_objective,
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


def _shuffled(n: int, seed: int, split_shuffle: str) -> np.ndarray:
    """Permutation of the numbers below ``n`` for a seed, ``(n,)``."""
    permutation = np.arange(n)
    if split_shuffle == "python":
        listed = permutation.tolist()
        random.Random(seed).shuffle(listed)
        return np.array(listed)
    np.random.RandomState(seed).shuffle(permutation)
    return permutation


def _solved(
    p: int, q: int, operator: str, order: int, is_symmetric: bool, zero_operands: str
) -> tuple[np.ndarray, np.ndarray]:
    """Operands ``(N, order)`` and results ``(N,)`` of the equations of one order, the first operand outermost."""
    smallest, others = smallest_operands(operator, zero_operands)
    ranges = [range(smallest, p), *[range(others, p)] * (order - 1)]
    operands = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, order).astype(np.int64)  # (N, order)
    if is_symmetric:
        operands = operands[(np.diff(operands, axis=1) >= 0).all(1)]
    first, result = SOLVE[operator](operands, q)
    return np.column_stack([first, operands[:, 1:]]), result


def _written(
    operands: np.ndarray, result: np.ndarray, operator: str, equation_format: str, tokenizer: Tokenizer, longest: int
) -> np.ndarray:
    """Equations of one order as tokens, padded to the length of the longest order, ``(N, S + 1)``."""
    form, stoi, order = FORMATS[equation_format], tokenizer.stoi, operands.shape[1]
    equality = form.equality(order)
    rows = np.full((len(operands), form.length(longest)), stoi.get(PAD, -1), dtype=np.int64)  # (N, S + 1)
    rows[:, form.first : equality : form.stride] = operands
    if form.has_operators:
        rows[:, form.first + 1 : equality : form.stride] = stoi[operator]
    rows[:, equality] = stoi[EQ]
    rows[:, equality + 1] = result
    if form.begin is not None:
        rows[:, 0] = stoi[form.begin]
        rows[:, equality + 2] = stoi[EOS]
    return rows
