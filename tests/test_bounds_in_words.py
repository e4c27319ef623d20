"""What is said of a setting's allowed values names every bound that it has."""

import pytest

from shoal.errors import UserError
from shoal.registry import KINDS
from shoal.spec import RunSpec
from shoal.spec.fields import extra
from shoal.spec.run import ALWAYS

PARTS = [*ALWAYS, *(parts[name] for parts in KINDS.values() for name in parts.names())]
WRITTEN = {2**32: "2**32"}


def largest(kind, name):
    """Upper bounds of a setting."""
    ends = [getattr(mark, end, None) for mark in kind.model_fields[name].metadata for end in ("le", "lt")]
    return [end for end in ends if end is not None]


@pytest.mark.parametrize("kind", PARTS, ids=lambda kind: kind.__name__)
def test_upper_bounds_are_named(kind):
    for name in kind.model_fields:
        for bound in largest(kind, name):
            assert WRITTEN.get(bound, f"{bound:g}" if bound < 10 else str(bound)) in extra(kind, name)["allowed"], name


def test_a_number_above_a_bound_hears_the_bound():
    with pytest.raises(UserError, match=r"drawn_sequences must be an integer in \[2, 1000000\], got 1000000000"):
        RunSpec(task="sequences", model="hmm", drawn_states=2, drawn_sequences=10**9)
