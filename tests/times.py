"""Times of runs that some tests share: a textbook's, and samples with many ties."""

import polars as pl
from hypothesis import strategies as st

# Freireich et al. 1963: weeks in remission under 6-mercaptopurine (negative: still in it when last seen) and placebo.
TREATED = [6, 6, 6, -6, 7, -9, 10, -10, -11, 13, 16, -17, -19, -20, 22, 23, -25, -32, -32, -34, -35]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def signed(**groups: list[int]) -> pl.DataFrame:
    """Groups of times, censored ones negative (a censored 0 does not occur)."""
    rows = [{"group": name, "time": abs(t), "observed": t > 0} for name, times in groups.items() for t in times]
    return pl.DataFrame(rows, schema={"group": pl.String, "time": pl.Int64, "observed": pl.Boolean})


LEUKAEMIA = signed(treated=TREATED, placebo=PLACEBO)


@st.composite
def samples(draw, groups: int = 1, most: int = 8) -> pl.DataFrame:
    """Times of some groups, with many ties; every group has at least one run."""
    rows = st.tuples(st.integers(1, 6), st.booleans())
    return pl.DataFrame(
        [
            {"group": "abcd"[i], "time": time * 50, "observed": seen}
            for i in range(groups)
            for time, seen in draw(st.lists(rows, min_size=1, max_size=most))
        ]
    )
