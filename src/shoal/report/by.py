"""Settings as axes: the values of any setting along an axis, in a legend and in words.

Numbers have an order and distances. Everything else is a name: text, true and false, nothing, and seeds, of which none
is larger than another.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from shoal.errors import UserError, nearest
from shoal.lab.record_labels import NO_SETTINGS
from shoal.registry import KINDS, MODELS, short
from shoal.report.along import log_base
from shoal.report.each_run import model_label
from shoal.report.panels import Axis
from shoal.report.words import listed, setting_text
from shoal.spec.fields import Part, extra
from shoal.spec.known import known_settings
from shoal.spec.training import ALWAYS

# Titles of settings whose names alone would be taken for something else; of others the name is the title.
_TITLES = {
    "p": "modulus p",
    "q": "modulus q",
    "lr": "learning rate",
    "r_train": "r_train",
    "embedding_size": "width d",
    "num_layers": "layers L",
    "parameters": "parameters P",
    "train_batch_size": "batch size B",
    "n_steps": "n_steps",
}
MOST_NAMED = 6  # numbers that have a colour each in a legend; of more a bar of shades shows the order
_COMBINED = "setting"  # column of several settings together, or of the run, by whose own column frames are joined
_NOT_ASKED = ("run", "state", "step")  # columns of runs that are no settings


def check_axes(runs: pl.DataFrame, names: Sequence[str]) -> list[str]:
    """The names of columns in which runs differ, as they are spelled.

    Args:
        runs: one row per run, as of :meth:`shoal.lab.Records.runs`.
        names: of settings, with ``-`` or ``_``.

    Raises:
        UserError: there is no such column, the runs have one value of it, or it is named twice.
    """
    known = [name for name in runs.columns if name not in _NOT_ASKED]
    differing = [name for name in known if runs[name].n_unique() > 1]
    choice = " ".join(differing_settings(runs)) or "no setting"
    checked: list[str] = []
    for word in names:
        name = word.replace("-", "_")
        if name not in known:
            raise UserError(
                f"--by {word}: no run here has such a setting; these runs differ in {choice}{nearest(name, known)}"
            )
        if name in checked:
            raise UserError(f"--by names {name} twice; each setting is an axis once")
        if name not in differing:
            value = setting_text(runs[name][0])
            raise UserError(
                f"--by {word}: all {len(runs)} runs have {name} {value}, and an axis needs two values; they differ in "
                f"{choice}{nearest(name, differing)}"
            )
        checked.append(name)
    return checked


def differing_settings(runs: pl.DataFrame) -> list[str]:
    """Settings that a user sets and in which runs that have them differ.

    No labels, no numbers of parameters, and nothing that is derived from files or follows another setting in every run.

    Args:
        runs: one row per run, as of :meth:`shoal.lab.Records.runs`.
    """
    settings = known_settings()
    names = [name for name in runs.columns if name not in (*_NOT_ASKED, *NO_SETTINGS, "parameters")]
    asked = [name for name in names if name not in settings or not _is_decided(runs, settings[name][0], name)]
    kinds = [kind for kind in KINDS if kind in runs.columns]
    return [name for name in asked if runs.filter(_has(settings.get(name, ()), name, kinds))[name].n_unique() > 1]


def _is_decided(runs: pl.DataFrame, part: type[Part], name: str) -> bool:
    """Return True if a setting is derived from files, or equals the one that it follows in every run."""
    marks = extra(part, name)
    other = marks["follows"]
    follows = other in runs.columns and runs[name].equals(runs[other], check_names=False)
    return bool(marks["derived"]) or follows


def _has(parts: Sequence[type[Part]], name: str, kinds: Sequence[str]) -> pl.Expr:
    """Mask of the runs that have a setting of these parts; of a setting of others those with a value.

    ``kinds`` are the columns that name the parts of a run.
    """
    if not parts:
        return pl.lit(True) if name in KINDS else pl.col(name).is_not_null()
    if not kinds or any(part in ALWAYS for part in parts):
        return pl.lit(True)
    names = [part.name for part in parts if hasattr(part, "name")]
    return pl.any_horizontal(pl.col(kind).is_in(names) for kind in kinds)


def setting_axis(runs: pl.DataFrame, settings: Sequence[str], in_legend: bool = False) -> tuple[Axis, pl.Expr]:
    """Axis of one setting or of several together, and the column that holds the place of each run on it.

    Args:
        runs: one row per run, with the columns of the settings.
        settings: names of one or more.
        in_legend: names stand in a legend without a title, and say their setting: ``bias true``. There up to
            :data:`MOST_NAMED` numbers are names, too.

    Returns:
        The axis and its column. The numbers of one setting have a logarithmic axis where their ratios are more alike
        than their differences: of base 2 where all ratios are powers of 2, else of base 10. Everything else is names:
        those of one setting are its values, those of several such as ``weight_decay 0.5, bias true``. They stand in the
        order of the runs, numbers, seeds and models in their own.
    """
    title = listed([_TITLES.get(name, name.replace("_", " ")) for name in settings])
    name = settings[0]
    values = runs[name].unique(maintain_order=True).to_list()
    is_numeric = len(settings) == 1 and runs.schema[name].is_numeric()
    if is_numeric and None not in values and not is_seed(name) and len(values) > MOST_NAMED * in_legend:
        return Axis(name, title, log_base(values)), pl.col(name)
    if in_legend or len(settings) > 1 or name == "run":
        combined = pl.concat_str(_labels(runs, settings), separator=", ").alias(_COMBINED)
        ordered = runs.sort(name, maintain_order=True) if is_numeric else runs
        names = ordered.select(combined.unique(maintain_order=True))[_COMBINED]
        return Axis(_COMBINED, title, names=tuple((text, text) for text in names)), combined
    if name == "model":
        values = in_order(values)
    if is_numeric or runs.schema[name] == pl.Boolean:
        values.sort(key=lambda value: (value is None, value))
    texts = {value: value_name(name, value) for value in values}
    if name == "model":  # whose column keeps its values, by which all figures name models
        return Axis(name, title, names=tuple(texts.items())), pl.col(name)
    return Axis(name, title, names=tuple((text, text) for text in dict.fromkeys(texts.values()))), _named(name, texts)


def in_order(models: Iterable[str]) -> list[str]:
    """Models in the order of shoal's own families, then others, so that one has the same colour on all pages."""
    known = MODELS.names()
    return sorted(models, key=lambda model: known.index(model) if model in known else len(known))


def _labels(runs: pl.DataFrame, settings: Sequence[str]) -> list[pl.Expr]:
    """Columns of the texts of each setting: its name and value, of a model the value alone."""
    texts = {name: {value: value_name(name, value) for value in runs[name].unique()} for name in settings}
    return [
        _named(name, texts[name]) if name == "model" else pl.lit(f"{name} ") + _named(name, texts[name])
        for name in settings
    ]


def _named(name: str, texts: Mapping[Any, str]) -> pl.Expr:
    """Column of a setting with a text in place of each value, none of them missing."""
    known = {value: text for value, text in texts.items() if value is not None}
    column = pl.col(name)
    named = column.replace_strict(known, default=None, return_dtype=pl.String) if known else column.cast(pl.String)
    return named.fill_null(texts.get(None, "")).alias(name)


def is_seed(name: str) -> bool:
    """Return True if a setting is a seed, whose numbers have no order."""
    return name == "seed" or name.endswith("_seed")


def value_name(setting: str, value: Any) -> str:
    """A name for a value of a setting: ``GPT``, ``true``, ``none``, ``0.5``; of a part from outside its class.

    The name of a run is the beginning of its id.
    """
    if value is None:
        return "none"
    if setting == "run":
        return str(value)[:8]
    if setting == "model":
        return model_label(value)
    return setting_text(short(value) if setting in KINDS else value)


def values_in_words(runs: pl.DataFrame, axis: Axis, most: int = 8) -> str:
    """Values of an axis with how many runs have each: ``0.25 (4), 0.5 (4) and 1 (4)``; of many the ends."""
    counts = runs.group_by(axis.column, maintain_order=True).len().rows()
    names = dict(axis.names)
    order = {name: place for place, name in enumerate(names)}
    counts.sort(key=lambda row: order[row[0]] if names else row[0])
    texts = [f"{names.get(value, setting_text(value))} ({n})" for value, n in counts]
    if len(texts) <= most:
        return listed(texts)
    return f"{len(texts)} values from {texts[0]} to {texts[-1]}"
