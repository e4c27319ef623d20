"""Columns of a page's figures."""

import pytest
import torch

from shoal.errors import UserError
from shoal.gallery import add_rows


def test_one_value_stands_in_all_rows():
    columns = {}
    add_rows(columns, x=torch.tensor([1.0, 2.0]), y=range(2), who="ab")
    add_rows(columns, x=3, y=(4,), who=["c"])
    add_rows(columns, x=[], y=5, who="d")
    assert columns == {"x": [1.0, 2.0, 3], "y": [0, 1, 4], "who": ["ab", "ab", "c"]}


@pytest.mark.parametrize(
    ("values", "said"), [({"x": 1}, "cannot be added"), ({"x": [1, 2], "y": [1, 2, 3]}, "got 2 3")]
)
def test_rows_that_do_not_fit_are_refused(values, said):
    columns = {"x": [1], "y": [1]}
    with pytest.raises(UserError, match=said):
        add_rows(columns, **values)
    assert columns == {"x": [1], "y": [1]}
