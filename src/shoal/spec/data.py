"""Which equations a run learns."""

from shoal.equations import COMPOSITIONS, FORMATS, OPERATORS, S5_SIZE, SHUFFLES, ZEROS, check_arithmetic, split_sizes
from shoal.errors import UserError
from shoal.spec.fields import Orders, Settings, choice, set_default, setting

_MOST_EQUATIONS = 10_000_000  # of all splits; more would not fit into memory while they are made


class DataSettings(Settings):
    """The equations, how they are written, split and batched."""

    p: int = setting(31, "modulus of the operands; 120 with s5 operators", "an integer of at least 2", ge=2)
    q: int | None = setting(None, "modulus of the results", "an integer of at least 2; p when not given", ge=2)
    operator: str = choice("+", "operation", OPERATORS)
    r_train: float = setting(0.5, "share of the equations that train", "in (0, 1)", gt=0, le=1, allow_inf_nan=False)
    operation_orders: Orders = setting((2,), "operands per equation", "2, 3 or 2,3 for both")
    zero_operands: str = choice("any", "operands that may be 0 (first: the first alone)", ZEROS)
    is_symmetric: bool = setting(False, "keep only a <= b (<= c)", "true or false")
    split_per_order: bool = setting(False, "split binary and ternary equations each at r_train", "true or false")
    split_shuffle: str = choice("numpy", "whose random numbers shuffle the equations before the split", SHUFFLES)
    equation_format: str = choice(
        "full", "full is BOS a + b = r EOS, eos EOS a + b = r EOS, infix a + b = r, operands a b = r", FORMATS
    )
    unused_tokens: int = setting(
        0, "tokens of the vocabulary that stand in no equation", "an integer in [0, 1000000]", ge=0, le=1_000_000
    )
    train_batch_size: int = setting(512, "equations per step", "an integer of at least 1", ge=1)
    eval_batch_size: int = setting(4096, "equations per evaluation pass", "an integer of at least 1", ge=1)

    def resolve_data(self) -> None:
        """Fill in what was left open; raise :class:`UserError` for what makes no data."""
        if self.operator in COMPOSITIONS and "p" not in self.model_fields_set:
            object.__setattr__(self, "p", S5_SIZE)
        set_default(self, "q", self.p)
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
        n_train, n_valid = split_sizes(
            self.p,
            self.operator,
            self.r_train,
            self.operation_orders,
            self.is_symmetric,
            self.split_per_order,
            self.zero_operands,
        )
        if n_train + n_valid > _MOST_EQUATIONS:
            raise UserError(f"p={self.p} makes {n_train + n_valid:,} equations; at most {_MOST_EQUATIONS:,} fit")
        if n_train == 0 or n_valid == 0:
            empty = "training" if n_train == 0 else "validation"
            raise UserError(
                f"r_train={self.r_train} leaves the {empty} split empty ({n_train + n_valid} equations in all); "
                "both splits need at least one"
            )
