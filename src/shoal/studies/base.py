"""Interface of a study, and the form in which it is asked for: quick or full, number of seeds, changed settings.

A study is a module, or another value, with ``grids(quick)``, which gives the runs to train, and ``report(results,
form)``, which gives the page about them. It may have ``measure(form)``, for quantities that training does not measure,
or ``measure_models(form, records)`` where they are of the kept models: called once when the runs are done; the report
finds its result, any JSON, in ``results.measured``. Runs for other tasks come from ``grids_of(task, quick)``, and
``NEEDS`` names settings that have to be given, ``SCORED`` scores of texts that are computed when the runs are done.
"""

import hashlib
import itertools
import math
import shlex
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any, Protocol

from shoal.errors import UserError, nearest
from shoal.registry import KINDS, MODELS, TASKS
from shoal.report import Report
from shoal.spec import RunSpec
from shoal.spec.choice import as_flags, as_short_flags, read_choice
from shoal.spec.grid import check_count, each_once
from shoal.spec.names import named_parts
from shoal.spec.prefixes import check_prefix, is_prefixed, kind_of, resolved, split_prefix
from shoal.spec.training import SEEDS as SEEDS_APART
from shoal.studies.crossing import SEED_AXES
from shoal.studies.results import Results

THRESHOLDS = (0.9, 0.99)
SEEDS = (0, 42)  # of the practical
FULL = "full"


@dataclass(frozen=True)
class Grid:
    """Grid of runs: common settings, and axes of which every combination is a run, the last one varying fastest.

    Attributes:
        settings: settings that all runs have in common; one with a prefix (``gpt.num_heads``) is for the runs with that
            part alone.
        axes: values of the other settings.
        name: name of the grid, where a study compares grids.
        completed: function from all given settings to those that follow from them, such as steps from a budget; given
            settings take precedence.
    """

    settings: Mapping[str, Any]
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    name: str = ""
    completed: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None

    def specs(self) -> Iterator[RunSpec]:
        """Specs of the runs."""
        check_count({name: len(values) for name, values in self.axes.items()})
        combinations = itertools.product(*self.axes.values())
        try:
            yield from each_once(self._spec(dict(zip(self.axes, values, strict=True))) for values in combinations)
        except UserError as problem:
            where = f" (in the part {self.name!r} of the study)" if self.name else ""
            raise UserError(f"{problem}{where}") from None

    def _spec(self, values: Mapping[str, Any]) -> RunSpec:
        given = {**self.settings, **values}
        if is_prefixed(given):
            given = resolved(given, named_parts({name: given[name] for name in KINDS if name in given}))
        return RunSpec(**{**(self.completed(given) if self.completed else {}), **given})


def parts_of(grids: Iterable[Grid]) -> dict[str, list[str]]:
    """Names of the tasks, models and optimizers of grids, by kind."""
    names_by_kind: dict[str, dict[str, None]] = {kind: {} for kind in KINDS}
    for grid in grids:
        for kind, names in names_by_kind.items():
            names |= dict.fromkeys(map(str, grid.axes.get(kind, ())))
            if grid.settings.get(kind) is not None:
                names[str(grid.settings[kind])] = None
    return {kind: list(names) for kind, names in names_by_kind.items()}


class Study(Protocol):
    """Interface of a study: a module or an object with these, and perhaps ``about``, its question in one line."""

    def grids(self, quick: bool) -> list[Grid]:
        """Grids of the runs of the full or the quick form."""

    def report(self, results: Results, form: "Form") -> Report:
        """Report with figures, tables and answers."""

    # and perhaps check(specs), which refuses runs that the study cannot report on,
    # measure(form) and measure_models(form, records), for quantities that training does not measure, with MEASURED, a
    # number that grows where they measure something else than before, so that pages measure again,
    # grids_of(task, quick), for runs of other tasks, NEEDS, names of settings that have to be given, and SCORED, scores
    # of texts that measure_models takes


@dataclass(frozen=True)
class Form:
    """Form in which a study is asked for.

    Attributes:
        quick: true for the small form.
        seeds: number of seeds, instead of the study's own number.
        settings: values for settings of its runs; several where the study has an axis.
        thresholds: validation accuracies from which a run counts as having generalised, for the times to reach them.
        stay: number of evaluations in a row that must reach the threshold; the first of them is the time.
    """

    quick: bool = False
    seeds: int | None = None
    settings: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    thresholds: tuple[float, ...] = THRESHOLDS
    stay: int = 1

    def __post_init__(self) -> None:
        if self.seeds is not None and self.seeds < 1:
            raise UserError(f"seeds must be an integer of at least 1, got {self.seeds}")
        check_count({"seed": self.seeds or 1})  # before there is a list of them
        for threshold in self.thresholds:
            if not 0 < threshold <= 1:
                raise UserError(f"threshold must be an accuracy in (0, 1], got {threshold:g}")
        shown = [f"{threshold:g}" for threshold in self.thresholds]
        if twice := [text for text in shown if shown.count(text) > 1]:
            raise UserError(f"threshold was given {twice[0]} twice")
        if self.stay < 1:
            raise UserError(f"stay must be a whole number of evaluations of at least 1, got {self.stay}")

    @property
    def stayed(self) -> str:
        """Words behind ``A_val ≥ 0.9`` where reaching it once is not enough; else empty."""
        return f" at {self.stay} evaluations in a row" if self.stay > 1 else ""

    def specs(self, study: Study) -> list[RunSpec]:
        """Specs of the study's runs in this form.

        Raises:
            UserError: a setting was given several values but is no axis of the study, one of its values is not allowed
                or has no runs, flags contradict each other, or the study cannot report on the runs that they leave.
        """
        grids = self._grids(study)
        self._check(grids)
        specs = list(dict.fromkeys(spec for grid in self._changed(grids) for spec in grid.specs()))
        check = getattr(study, "check", None)
        if check is not None:
            check(specs)
        return specs

    def count(self, study: Study) -> int:
        """Number of runs, before any spec is made; runs that grids share are counted with each."""
        grids = self._changed(self._grids(study))
        return sum(math.prod(len(values) for values in grid.axes.values()) for grid in grids)

    def names(self, study: Study) -> dict[str, str]:
        """Name of the first grid of each run, by run."""
        changed = self._changed(self._grids(study))
        return {spec.id: grid.name for grid in reversed(changed) for spec in grid.specs()}

    def same_parts(self, study: Study) -> list[str]:
        """Sentences on parts of the study whose runs are those of another part with this form's settings."""
        first: dict[tuple[str, ...], str] = {}
        out = []
        for grid in self._changed(self._grids(study)):
            other = first.setdefault(tuple(spec.id for spec in grid.specs()), grid.name)
            if other != grid.name:
                given = " ".join(as_short_flags(self.settings))
                out.append(f"With {given} the part {grid.name!r} of the study is {other!r}: its runs are the same.")
        return out

    def _grids(self, study: Study) -> list[Grid]:
        """Grids of the study, for the given task where it distinguishes tasks."""
        grids_of, tasks = getattr(study, "grids_of", None), self.settings.get("task", ())
        if grids_of is None or len(tasks) != 1:
            return grids_of_study(study, self.quick)
        grids: list[Grid] = grids_of(str(tasks[0]), self.quick)
        return grids

    def _changed(self, grids: Sequence[Grid]) -> list[Grid]:
        axes = dict.fromkeys(name for grid in grids for name in grid.axes)
        return [changed for grid in grids if (changed := self._change(grid, axes)) is not None]

    def _check(self, grids: Sequence[Grid]) -> None:
        """Check that every given value is one that a run can have, and that every model has a grid.

        Not checked for forms from a lab, which may be older than this check.
        """
        for name, values in self.settings.items():
            read = read_choice({split_prefix(name)[1]: values}, parts_of(grids))
            if not all(read.values()):
                raise UserError(f"{name} was given an empty list of values; it needs at least one")
            if "." in name:
                self._check_prefixed(name, grids)
        self._check_seeds({name for grid in grids for name in grid.axes})
        models = [grid.settings.get("model") for grid in grids]
        for model in self.settings.get("model", ()):
            if None not in models and model not in models:
                known = " ".join(dict.fromkeys(map(str, models)))
                raise UserError(f"the study has no runs with model {model}; it has {known}")

    def _check_prefixed(self, name: str, grids: Sequence[Grid]) -> None:
        """Check that some run has the part of a prefix, and that the setting is no axis of the runs that have it."""
        part, setting = split_prefix(name)
        changed = self._changed(grids)
        mixes = [names for grid in changed for names in _mixes_of(grid)]
        check_prefix(part, setting, {kind: [names[kind] for names in mixes] for kind in KINDS})
        having = [grid for grid in changed if any(kind_of(part, names) for names in _mixes_of(grid))]
        if any(setting in grid.axes for grid in having):
            raise UserError(f"{name} does not apply: {setting} is what the runs of this study differ in")

    def _check_seeds(self, axes: Container[str]) -> None:
        """Check that seeds are given in one way, by number or by name, and where they have an effect."""
        given = [name for name in SEED_AXES if name in self.settings]
        for name in given:
            flag = f"--{name.replace('_', '-')}"
            if self.seeds is not None and name in axes:
                values = " ".join(map(str, self.settings[name]))
                raise UserError(f"--seeds {self.seeds} and {flag} {values} both say which seeds: give one of them")
            if name == "seed" and all(seed in axes for seed in SEEDS_APART):
                apart = " ".join(f"--{seed.replace('_', '-')}" for seed in SEEDS_APART)
                raise UserError(f"{flag} has no effect in this study, which sets its seeds apart: {apart}")

    def _change(self, grid: Grid, axes: Iterable[str]) -> Grid | None:
        """Grid with the given settings; None where it has no such model."""
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
        """Flags of this form, to type after the study's name."""
        words = ["--quick"] * self.quick + ([] if self.seeds is None else ["--seeds", str(self.seeds)])
        return "".join(f" {shlex.quote(word)}" for word in (*words, *self._changes(), *as_short_flags(self.settings)))

    def _changes(self) -> list[str]:
        """Flags of changed thresholds and ``stay``."""
        shown = [f"{threshold:g}" for threshold in self.thresholds]
        words = ["--threshold", *shown] if self.thresholds != THRESHOLDS else []
        return words + (["--stay", str(self.stay)] if self.stay > 1 else [])

    @property
    def name(self) -> str:
        """Name of this form, unique among those of a study, as part of a path: ``full``, ``quick``, ``quick-seeds-5``.

        Where settings or thresholds are changed, it ends in eight digits of a hash of these flags.

        >>> Form(quick=True, seeds=5).name, Form(settings={"p": ["7"]}).name
        ('quick-seeds-5', 'a3bc6a6f')
        """
        words = ["quick"] * self.quick + ([] if self.seeds is None else [f"seeds-{self.seeds}"])
        if changes := [*self._changes(), *as_flags(self.settings)]:
            words.append(hashlib.sha256(shlex.join(changes).encode()).hexdigest()[:8])
        return "-".join(words) or FULL

    def title(self, title: str) -> str:
        """Title of a page with the flags of this form, but for files of data, which the page names below.

        >>> Form(quick=True, seeds=5).title("Sanity check"), Form().title("Sanity check")
        ('Sanity check (quick form, --seeds 5)', 'Sanity check')
        >>> Form(settings={"text": ["a.txt"], "p": ["7"]}).title("Language")
        'Language (--p 7)'
        """
        settings = {name: values for name, values in self.settings.items() if name not in _files()}
        flags = replace(self, quick=False, settings=settings).flags().strip()
        details = ["quick form"] * self.quick + [flags] * bool(flags)
        return f"{title} ({', '.join(details)})" if details else title

    @classmethod
    def from_json(cls, note: Mapping[str, Any]) -> "Form":
        """Form from the JSON of :meth:`to_json`, which may have other entries."""
        thresholds = tuple(note.get("thresholds", THRESHOLDS))
        return cls(note["quick"], note.get("seeds"), note.get("settings", {}), thresholds, note.get("stay", 1))

    def to_json(self) -> dict[str, Any]:
        """JSON of the form, for the lab's note of the study."""
        return asdict(self)


@cache
def _files() -> set[str]:
    """Settings that are paths of files: of tasks that read files, and of models that begin with another."""
    parts = [*(task for task in TASKS.shipped() if task.reads_files), *MODELS.shipped()]
    return {name for part in parts for name in part.having("operational")}


def _mixes_of(grid: Grid) -> list[dict[str, str]]:
    """Names of the parts that runs of a grid have together, by kind."""
    given = {**{name: [value] for name, value in grid.settings.items()}, **grid.axes}
    kinds = {kind: given[kind] for kind in KINDS if kind in given}
    return [named_parts(dict(zip(kinds, names, strict=True))) for names in itertools.product(*kinds.values())]


def first_seeds(usual: Sequence[int], n: int) -> list[int]:
    """First ``n`` of a study's own seeds and then of the smallest other numbers.

    >>> first_seeds([0, 42], 4)
    [0, 42, 1, 2]
    """
    return list(usual[:n]) + [seed for seed in range(n + len(usual)) if seed not in usual][: max(0, n - len(usual))]


def grids_of_study(study: Study, quick: bool) -> list[Grid]:
    """Grids of a study; an error of foreign code becomes a :class:`UserError` of one line.

    Raises:
        UserError: the study raised something.
    """
    try:
        return study.grids(quick)
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"grids({quick}) of the study fails: {type(error).__name__}: {reason}") from error
