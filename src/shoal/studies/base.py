"""What a study is, and the form in which it is asked for: quick or full, with how many seeds, with which settings.

A study is a module with ``ABOUT`` (one line), ``grids(quick)``, which says what it trains, and ``report(results,
form)``, which says what that shows. It may have ``measure(form)``, for what training does not measure: called once when
the runs are done; the report finds what it returned, any JSON, in ``results.measured``.
"""

import itertools
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from shoal.errors import UserError, nearest
from shoal.report import Report
from shoal.spec import RunSpec
from shoal.spec.choice import as_flags
from shoal.studies.crossing import SEED_AXES
from shoal.studies.results import Results

THRESHOLDS = (0.9, 0.99)
SEEDS = (0, 42)  # the practical's


@dataclass(frozen=True)
class Grid:
    """Settings in common, and axes along which every combination is a run, the last one varying fastest; perhaps with a
    name, where a study compares grids."""

    settings: Mapping[str, Any]
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    name: str = ""

    def specs(self) -> Iterator[RunSpec]:
        """The runs."""
        for values in itertools.product(*self.axes.values()):
            try:
                yield RunSpec(**{**self.settings, **dict(zip(self.axes, values, strict=True))})
            except UserError as problem:
                where = f" (in the part {self.name!r} of the study)" if self.name else ""
                raise UserError(f"{problem}{where}") from None


class Study(Protocol):
    """What a study's module offers."""

    ABOUT: str

    def grids(self, quick: bool) -> list[Grid]:
        """What the full or the quick form trains."""

    def report(self, results: Results, form: "Form") -> Report:
        """Figures, tables and answers."""

    # and perhaps check(specs), which refuses runs that the study has nothing to say of,
    # and measure(form), for what training does not measure


@dataclass(frozen=True)
class Form:
    """How a study is asked for.

    Attributes:
        quick: the small form.
        seeds: how many seeds, instead of the study's own number.
        settings: values for settings of its runs; several where the study has an axis.
        thresholds: validation accuracies from which a run counts as having generalised, for the times to get there.
    """

    quick: bool = False
    seeds: int | None = None
    settings: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    thresholds: tuple[float, ...] = THRESHOLDS

    def __post_init__(self) -> None:
        if self.seeds is not None and self.seeds < 1:
            raise UserError(f"seeds must be an integer of at least 1, got {self.seeds}")
        for threshold in self.thresholds:
            if not 0 < threshold <= 1:
                raise UserError(f"threshold must be an accuracy in (0, 1], got {threshold:g}")

    def specs(self, study: Study) -> list[RunSpec]:
        """The study's runs in this form.

        Raises:
            UserError: a setting was given several values but is no axis of the study, leaves it without runs, or with
                runs that it has nothing to say of.
        """
        grids = study.grids(self.quick)
        specs = list(dict.fromkeys(spec for grid in self._changed(grids) for spec in grid.specs()))
        if not specs:
            models = sorted({str(grid.settings.get("model")) for grid in grids})
            asked = " ".join(map(str, self.settings["model"]))
            raise UserError(f"the study has no runs with model {asked}; it has {' '.join(models)}")
        check = getattr(study, "check", None)
        if check is not None:
            check(specs)
        return specs

    def names(self, study: Study) -> dict[str, str]:
        """The name of the first grid that each run is of, by run."""
        changed = self._changed(study.grids(self.quick))
        return {spec.id: grid.name for grid in reversed(changed) for spec in grid.specs()}

    def _changed(self, grids: Sequence[Grid]) -> list[Grid]:
        axes = dict.fromkeys(name for grid in grids for name in grid.axes)
        return [changed for grid in grids if (changed := self._change(grid, axes)) is not None]

    def _change(self, grid: Grid, axes: Iterable[str]) -> Grid | None:
        """The grid with what was asked for; None where it has no such model."""
        own_axes, settings = dict(grid.axes), dict(grid.settings)
        if self.seeds is not None:
            own_axes |= {name: first_seeds(own_axes[name], self.seeds) for name in SEED_AXES if name in own_axes}
        for name, values in self.settings.items():
            if name == "model" and "model" in settings:  # a grid of one model beside others
                if settings["model"] not in values:
                    return None
            elif name in own_axes:
                own_axes[name] = values
            elif len(values) > 1:
                raise UserError(
                    f"--{name.replace('_', '-')} takes one value in this study, got {' '.join(map(str, values))}; "
                    f"several are taken by {' '.join(axes)}{nearest(name, axes)}"
                )
            else:
                settings[name] = values[0]
        return replace(grid, settings=settings, axes=own_axes)

    def flags(self) -> str:
        """What to type after the study's name for this form."""
        words = ["--quick"] * self.quick + ([] if self.seeds is None else ["--seeds", str(self.seeds)])
        if self.thresholds != THRESHOLDS:
            words += ["--threshold", *(f"{threshold:g}" for threshold in self.thresholds)]
        words += as_flags(self.settings)
        return "".join(f" {shlex.quote(word)}" for word in words)

    @classmethod
    def from_json(cls, note: Mapping[str, Any]) -> "Form":
        """What :meth:`to_json` gave, among whatever else the note holds."""
        thresholds = tuple(note.get("thresholds", THRESHOLDS))
        return cls(note["quick"], note.get("seeds"), note.get("settings", {}), thresholds)

    def to_json(self) -> dict[str, Any]:
        """For the lab's note of the study."""
        return asdict(self)


def first_seeds(own: Sequence[int], n: int) -> list[int]:
    """The first ``n`` of a study's own seeds, and of the smallest numbers beyond.

    >>> first_seeds([0, 42], 4)
    [0, 42, 1, 2]
    """
    return list(own[:n]) + [seed for seed in range(n + len(own)) if seed not in own][: max(0, n - len(own))]
