"""Grid of runs: the product of a few values per setting."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

from shoal.errors import UserError
from shoal.registry import KINDS
from shoal.spec.known import owners
from shoal.spec.prefixes import check_mixed, check_prefixes, combinations, count_runs, split_prefix
from shoal.spec.run import RunSpec

MOST_RUNS = 100_000  # of a grid: each is checked, named and written down, and more would take minutes and gigabytes


def grid(base: RunSpec | None = None, **values: Iterable[Any]) -> list[RunSpec]:
    """The product of several values per setting, the last one varying fastest, each run once.

    A setting of some runs alone has the name of a part of theirs before it, and then the parts vary slowest.

    Raises:
        UserError: a setting does not exist or does not allow a value, or its values make one and the same run; or it
            applies to no run, or without a prefix to some runs only.

    >>> [(spec.lr, spec.seed) for spec in grid(RunSpec(model="gpt"), lr=[1e-3, 3e-3], seed=[0, 42])]
    [(0.001, 0), (0.001, 42), (0.003, 0), (0.003, 42)]
    >>> [(spec.model, spec.get("num_heads")) for spec in grid(model=["lstm", "gpt"], **{"gpt.num_heads": [2, 4]})]
    [('lstm', None), ('gpt', 2), ('gpt', 4)]
    """
    if base is not None and not isinstance(base, RunSpec):
        raise UserError(f"a grid begins with a RunSpec, got {base!r}; settings are given by name: grid(seed=[0, 1])")
    given = {} if base is None else base.given()
    choices: dict[str, list[Any]] = {}
    values = {
        name: _listed(name, several) if name in KINDS and _several(several) else several
        for name, several in values.items()
    }
    named = {kind: values.get(kind, given.get(kind)) for kind in KINDS}
    for name, several in values.items():
        if name not in KINDS:
            owners(split_prefix(name)[1], named)
        choices[name] = _listed(name, several) if _several(several) else [several]
        if not choices[name]:
            raise UserError(f"{name} was given an empty list of values; it needs at least one")
    check_prefixes(choices, given)
    check_count({name: len(several) for name, several in choices.items()}, count_runs(choices, given))
    check_mixed(choices, given)
    return list(each_once(RunSpec(**{**given, **settings}) for settings in combinations(choices, given)))


def each_once(specs: Iterable[RunSpec]) -> Iterator[RunSpec]:
    """The runs, each once.

    Raises:
        UserError: some are one run though a setting was given several values: those but the first would be dropped.
    """
    seen: dict[str, RunSpec] = {}
    for spec in specs:
        first = seen.setdefault(spec.id, spec)
        if first is spec:
            yield spec
            continue
        for name in first:
            one, other = first.get(name), spec.get(name)
            if one != other:
                raise UserError(f"{name}={other} makes the same run as {name}={one}: give one of these values")


def check_count(sizes: Mapping[str, int], n: int | None = None) -> None:
    """Raise :class:`UserError` where so many values per setting make more runs than a grid can have.

    Args:
        sizes: number of values of each setting.
        n: number of runs, where it is not the product of these.
    """
    n = math.prod(sizes.values()) if n is None else n
    if n > MOST_RUNS:
        most = max(sizes, key=lambda name: sizes[name])
        raise UserError(
            f"these settings make {n:,} runs, and a grid has at most {MOST_RUNS:,}: ask for parts of it one after the "
            f"other, such as some of the {sizes[most]:,} values of {most}"
        )


def _several(values: Any) -> bool:
    return isinstance(values, Iterable) and not isinstance(values, str)


def _listed(name: str, several: Iterable[Any]) -> list[Any]:
    if isinstance(several, Sized):
        check_count({name: len(several)})
    values = list(itertools.islice(several, MOST_RUNS + 1))
    check_count({name: len(values)})
    return values
