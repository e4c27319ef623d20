"""Columns of a figure, grown row by row."""

from typing import Any

from shoal.errors import UserError


def add_rows(columns: dict[str, list[Any]], **values: Any) -> None:
    """Add rows to columns.

    Args:
        columns: name -> values; empty at first.
        values: value of each column: a list, a range or a tensor of one dimension, of one length; or one number or text
            for all of these rows.

    Raises:
        UserError: the columns are others than before, or of several lengths.

    >>> columns = {}
    >>> add_rows(columns, step=range(3), size=[1, 2, 4], name="a")
    >>> add_rows(columns, step=0, size=5, name="b")
    >>> columns
    {'step': [0, 1, 2, 0], 'size': [1, 2, 4, 5], 'name': ['a', 'a', 'a', 'b']}
    """
    if columns and set(columns) != set(values):
        raise UserError(f"rows of the columns {' '.join(values)} cannot be added to {' '.join(columns)}")
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in values.items()}
    lengths = {len(value) for value in plain.values() if isinstance(value, list | tuple | range)}
    if len(lengths) > 1:
        raise UserError(f"columns of one length are needed, got {' '.join(map(str, sorted(lengths)))}")
    length = next(iter(lengths), 1)
    for name, value in plain.items():
        rows = list(value) if isinstance(value, list | tuple | range) else [value] * length
        columns.setdefault(name, []).extend(rows)
