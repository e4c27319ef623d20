"""Settings of the task of modular arithmetic."""

from typing import TYPE_CHECKING, ClassVar

from shoal.errors import UserError
from shoal.measures import EQUATIONS, Measures
from shoal.spec.fields import SHARE, Orders, choice, set_default, setting
from shoal.tasks.arithmetic.equations import (
    COMPOSITIONS,
    FORMATS,
    OPERATORS,
    S5_SIZE,
    SHUFFLES,
    ZEROS,
    check_answers,
    check_arithmetic,
    count_tokens,
    padding_index,
    sequence_length,
    split_sizes,
)
from shoal.tasks.settings import Counts, Sizes, TaskSettings, smoothing_lines

if TYPE_CHECKING:
    from shoal.spec.run import RunSpec
    from shoal.tasks.arithmetic.data import ArithmeticData
    from shoal.tasks.base import Task

_MOST_EQUATIONS = 10_000_000  # of all splits; more would not fit into memory while they are made


class Arithmetic(TaskSettings):
    """Settings of the equations: their operator and moduli, format, split and scores."""

    name: ClassVar[str] = "arithmetic"
    label: ClassVar[str] = "arithmetic"
    shares_prefixes: ClassVar[bool] = True

    p: int = setting(31, "modulus of the operands; 120 with s5 operators", "an integer of at least 2", ge=2)
    q: int | None = setting(None, "modulus of the results; default p", "an integer of at least 2", follows="p", ge=2)
    operator: str = choice("+", "operation", OPERATORS, member=True)
    r_train: float = setting(
        0.5, "share of the equations that train", "in (0, 1)", member=True, gt=0, le=1, allow_inf_nan=False
    )
    operation_orders: Orders = setting((2,), "operands per equation", "2, 3 or 2,3 for both")
    zero_operands: str = choice("any", "operands that may be 0 (first: the first alone)", ZEROS)
    is_symmetric: bool = setting(False, "keep only a <= b (<= c)", "true or false")
    split_per_order: bool = setting(False, "split binary and ternary equations each at r_train", "true or false")
    split_shuffle: str = choice("numpy", "generator that shuffles the equations before the split", SHUFFLES)
    equation_format: str = choice(
        "full", "full is BOS a + b = r EOS, eos EOS a + b = r EOS, infix a + b = r, operands a b = r", FORMATS
    )
    unused_tokens: int = setting(
        0, "tokens of the vocabulary that stand in no equation", "an integer in [0, 1000000]", ge=0, le=1_000_000
    )
    label_smoothing: float = setting(
        0.0, "label smoothing: share of the target spread over all tokens while training", in_float32=True, **SHARE
    )

    def fill(self) -> None:
        """Set ``p`` to 120 for permutations, and ``q`` to ``p``, where not given."""
        if self.operator in COMPOSITIONS and "p" not in self.model_fields_set:
            object.__setattr__(self, "p", S5_SIZE)
        set_default(self, "q", self.p)

    def check(self) -> None:
        """See :class:`Part`."""
        assert self.q is not None
        check_arithmetic(
            self.p,
            self.q,
            self.operator,
            self.r_train,
            self.operation_orders,
            self.is_symmetric,
            self.equation_format,
            self.zero_operands,
        )
        if self.split_per_order and len(self.operation_orders) == 1:
            raise UserError(
                f"split_per_order does not apply to one order, got operation_orders={self.operation_orders[0]}"
            )
        n_train, n_valid = self.split_sizes()
        if n_train + n_valid > _MOST_EQUATIONS:
            raise UserError(f"p={self.p} makes {n_train + n_valid:,} equations; at most {_MOST_EQUATIONS:,} fit")
        if n_train == 0 or n_valid == 0:
            empty = "training" if n_train == 0 else "validation"
            raise UserError(
                f"r_train={self.r_train} leaves the {empty} split empty ({n_train + n_valid} equations in all); "
                "both splits need at least one"
            )

    def check_new(self) -> None:
        """See :class:`Part`: equations that contradict each other."""
        super().check_new()
        assert self.q is not None
        check_answers(self.p, self.q, self.operator)

    def measures(self) -> Measures:
        """See :class:`TaskSettings`."""
        return EQUATIONS

    def split_sizes(self) -> tuple[int, int]:
        """Numbers of training and validation equations, in closed form."""
        return split_sizes(
            self.p,
            self.operator,
            self.r_train,
            self.operation_orders,
            self.is_symmetric,
            self.split_per_order,
            self.zero_operands,
        )

    def sizes(self) -> Sizes:
        """See :class:`TaskSettings`."""
        assert self.q is not None
        form = (self.operator, self.operation_orders, self.equation_format)
        return Sizes(
            count_tokens(self.p, self.q, *form, self.unused_tokens),
            sequence_length(self.operation_orders, self.equation_format),
            padding_index(self.p, self.q, *form),
        )

    def counts(self) -> Counts:
        """See :class:`TaskSettings`."""
        n_train, n_valid = self.split_sizes()
        S, n_all = self.sizes().sequence_length, n_train + n_valid
        return Counts(n_train, n_all, held=2 * n_all * (3 * S + 1))  # inputs, targets and mask, and the place of "="

    def data(self, split_seed: int) -> "ArithmeticData":
        """Equations and their split."""
        from shoal.tasks.arithmetic.data import arithmetic_data

        assert self.q is not None
        return arithmetic_data(
            self.p,
            self.q,
            self.operator,
            self.r_train,
            self.operation_orders,
            is_symmetric=self.is_symmetric,
            seed=split_seed,
            per_order=self.split_per_order,
            equation_format=self.equation_format,
            zero_operands=self.zero_operands,
            unused_tokens=self.unused_tokens,
            split_shuffle=self.split_shuffle,
        )

    def conventions(self) -> list[str]:
        """See :class:`TaskSettings`: label smoothing, which is PyTorch's."""
        return smoothing_lines(self.label_smoothing)

    def build(self, split_seed: int) -> "Task":
        """See :class:`TaskSettings`."""
        from shoal.tasks.arithmetic.data import arithmetic_task

        return arithmetic_task(self.data(split_seed), self.label_smoothing)

    def sizes_named(self) -> list[str]:
        """See :class:`TaskSettings`."""
        return ["p", "q"]


def equations_of(spec: "RunSpec") -> "ArithmeticData":
    """Equations of a run of this task, and their split.

    Raises:
        UserError: the run's task is another.
    """
    part = spec.task_part
    if not isinstance(part, Arithmetic):
        raise UserError(f"equations are of task arithmetic, and run {spec.id} has task {spec.task}")
    return part.data(spec.split_seed)
