"""What several tests at once do to their p values."""

from collections.abc import Sequence

import numpy as np

from shoal.errors import UserError


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P values corrected for their number: rejecting those below α keeps the chance of any false rejection below α.

    The i-th smallest of m is multiplied by m − i + 1, and none may fall below a smaller one's. A p value that is
    None was never computed: it stays None and is not counted.

    Raises:
        UserError: a p value is not from 0 to 1.

    Source: Holm 1979, *A simple sequentially rejective multiple test procedure*.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    for p in p_values:
        if p is not None and not 0 <= p <= 1:
            raise UserError(f"a p value must be from 0 to 1, got {p}")
    known = [index for index, p in enumerate(p_values) if p is not None]
    values = np.array([p_values[index] for index in known], dtype=np.float64)
    order = np.argsort(values, kind="stable")
    corrected = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    out: list[float | None] = [None] * len(p_values)
    for place, value in zip(order, corrected, strict=True):
        out[known[place]] = float(value)
    return out
