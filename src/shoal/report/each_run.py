"""Runs one by one: a row each, and the settings in which they differ and agree."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import polars as pl

from shoal.errors import LabError, UserError
from shoal.lab import Records
from shoal.lab.record_labels import NO_SETTINGS, PROBLEM
from shoal.lab.resting import state_text
from shoal.measures import SPLITS, Measure, Measures
from shoal.registry import KINDS, MODELS, short
from shoal.report.quantities import OPEN, did_both, is_open, quantities_of, symbols_note
from shoal.report.schedule import evaluated_before
from shoal.report.table import Cell, Table
from shoal.report.words import NOTHING, counted, setting_text
from shoal.spec.fields import extra
from shoal.spec.known import known_settings

SEEDS = ("init_seed", "split_seed", "order_seed")


def model_label(name: str) -> str:
    """Name of a model for figures and sentences; that of its class where its package is not installed.

    >>> model_label("gpt"), model_label("no_such_package.models:Reverse")
    ('GPT', 'Reverse')
    """
    try:
        label = str(MODELS[name].label)
    except UserError:
        label = ""
    return label or short(name)


def per_run_table(records: Records, settings: Sequence[str], damaged: Collection[str] = ()) -> Table:
    """One row per run: settings, state, best values and their first steps; of those that are damaged no figures."""
    whole = records.without(damaged)
    measures = records.measures()
    shown = measures.shown
    others = [measure for measure in measures.recorded if measure is not shown]
    frame = records.runs().join(whole.best_of(whole.curves()), on="run", how="left", maintain_order="left")
    lacking = [q.column for q in quantities_of(measures) if q.column not in frame.columns]  # all that have it damaged
    frame = frame.with_columns(pl.lit(None, pl.Float64).alias(name) for name in lacking)
    frame = _with_marks(frame, measures)
    called = [name for name in ("name", "group", "tags", PROBLEM) if name in frame.columns]
    header = ["run", *called, *settings, "state"]
    for split in SPLITS:
        header += [shown.symbol_of(split), f"t_f({shown.symbol_of(split)})"]
    header += [measure.symbol_of("valid") for measure in others]
    header += [f"Δt({shown.symbol})"] if measures.generalised else []
    units = whole.units()
    unit = next((name for factors in units.values() for name in factors), "")
    header += [unit] if unit else []
    rows = []
    for row in frame.iter_rows(named=True):
        state = "damaged" if row["run"] in damaged else row["state"]
        state = state if state in ("done", "damaged") else state_text(state, row["step"])
        labels = [*(row[name] or NOTHING for name in called), *(_setting(name, row[name]) for name in settings)]
        cells = [*labels, state, *_best_cells(row, measures, others)]
        if unit:
            cells.append(_in_unit(row["valid_loss"], units.get(row["run"], {}).get(unit)))
        rows.append((row["run"], [Cell(text) for text in cells]))
    caption = f"The runs behind the figures. {symbols_note(measures)}"
    if measures.learned is not None:
        both = " and ".join(shown.symbol_of(split) for split in SPLITS)
        caption += f" Δt({shown.symbol}) {NOTHING}: {both} did not both reach {measures.learned:g}."
    if unit:
        caption += f" {unit}: {measures['loss'].symbol_of('valid')} in this unit. {' '.join(whole.beside())}"
    return Table("runs", header, rows, caption, _numbers(frame, [*called, *settings], measures, damaged))


def _best_cells(row: Mapping[str, Any], measures: Measures, others: Sequence[Measure]) -> list[str]:
    """Cells of the best values of a run, and of the steps at which they were first reached."""
    shown, cells = measures.shown, []
    for split in SPLITS:
        name = f"{split}_{shown.name}"
        cells += [value_text(row[name], shown), _step(row, f"t_{name}")]
    cells += [value_text(row[f"valid_{measure.name}"], measure) for measure in others]
    if measures.generalised is not None:
        cells.append(_step(row, f"delay_{shown.name}") if row["did_both"] else NOTHING)
    return cells


def _in_unit(loss: float | None, factor: float | None) -> str:
    return NOTHING if loss is None or factor is None else f"{loss * factor:.4g}"


def value_text(value: float | None, measure: Measure) -> str:
    """A value of a measure: four digits after the point of a share, four significant digits of everything else."""
    if value is None:
        return NOTHING
    return f"{value:.4f}" if measure.bounds == (0, 1) else f"{value:.4g}"


def _step(row: Mapping[str, Any], name: str) -> str:
    if row[name] is None:
        return NOTHING
    return f"{row[name]:,}{OPEN * bool(row[f'{name}_open'])}".replace("-", "−")


def _setting(name: str, value: Any) -> str:
    """A setting as a cell; of a part from outside of shoal its class, not its place."""
    return setting_text(short(value) if name in KINDS and value else value)


def _with_marks(frame: pl.DataFrame, measures: Measures) -> pl.DataFrame:
    """Rows with a mark ``…_open`` for each step of the table, and ``did_both`` where the task tells who generalised."""
    name = measures.shown.name
    steps = [f"t_{split}_{name}" for split in SPLITS] + [f"delay_{name}"] * (measures.generalised is not None)
    marks = {f"{step}_open": is_open(step, measures) for step in steps}
    both = {} if measures.generalised is None else {"did_both": did_both(measures)}
    return frame.with_columns(**both, **marks)


def _numbers(
    frame: pl.DataFrame, settings: Sequence[str], measures: Measures, damaged: Collection[str]
) -> pl.DataFrame:
    """Unrounded numbers of the table, one row per run."""
    shown = [f"t_{split}_{measures.shown.name}" for split in SPLITS]
    numbers = ("did_both", "last_step", *(quantity.column for quantity in quantities_of(measures)))
    return frame.with_columns(
        *(evaluated_before(step).alias(f"{step}_after") for step in shown),
        state=pl.when(pl.col("run").is_in(list(damaged))).then(pl.lit("damaged")).otherwise("state"),
    ).select(
        "run",
        *settings,
        "state",
        "step",
        *(name for name in frame.columns if name in numbers),
        pl.col("^t_.*_after$"),
        pl.col("^.*_open$"),
    )


def varying_settings(records: Records) -> list[str]:
    """``model``, ``seed`` and the settings in which runs of one model and task differ, seeds set apart only where they
    are; and ``task``, where there are several."""
    frame = records.runs()
    fixed = {"run", "state", "step", *NO_SETTINGS, "task", "model", "seed", "q", "hidden_size"}
    fixed |= {name for name, parts in known_settings().items() if extra(parts[0], name)["operational"]}
    apart = {s for s in SEEDS if frame[s].equals(frame["seed"], check_names=False)}
    names = [name for name in frame.columns if name not in fixed | apart]
    tasks = ["task"] * (frame["task"].n_unique() > 1)
    return [*tasks, "model", "seed", *(name for name in names if _of_models(frame, name) is None)]


def _of_models(frame: pl.DataFrame, name: str) -> dict[str, Any] | None:
    """Value of a setting by model, of the models that have it; None where runs of one model differ in it.

    Of runs of several tasks each model counts once for each.
    """
    several = frame["task"].n_unique() > 1
    of = pl.concat_str("task", "model", separator=" ") if several else pl.col("model")
    pairs = frame.select(of.alias("of"), name).unique(maintain_order=True)
    by_model = dict(pairs.rows())
    return (
        {model: value for model, value in by_model.items() if value is not None}
        if len(by_model) == len(pairs)
        else None
    )


def shared_settings(records: Records) -> str:
    """``p 23, n_steps 4000 (lstm) 2600 (gpt), …``: settings that are equal in all runs of the same model."""
    frame = records.runs()
    models = frame["model"].n_unique()
    parts = []
    for name in frame.columns:
        values = None if name in ("run", "state", "step", *NO_SETTINGS, "seed", *SEEDS) else _of_models(frame, name)
        if values and len(values) == models and len(set(values.values())) == 1:
            parts.append(f"{name} {setting_text(next(iter(values.values())))}")
        elif values and name != "model":
            by_model = (f"{setting_text(value)} ({short(model)})" for model, value in values.items())
            parts.append(f"{name} {' '.join(by_model)}")
    return ", ".join(parts)


def model_sizes(records: Records) -> str:
    """``lstm 2,282, gpt 3,370``: the learnable parameters of each model, as far as its code is here."""
    from shoal.tasks.build import count_run_parameters  # needs torch, which tables do not

    specs, unknown = {}, 0
    for folder in records.cohorts():
        try:
            specs.update({spec.id: spec for spec in folder.specs()})
        except LabError:
            unknown += 1
    known = [specs[run] for run in records.ids if run in specs]
    sizes = dict.fromkeys((spec.model, count_run_parameters(spec)) for spec in known)
    parts = [f"{short(model)} {size:,}" for model, size in sizes]
    if unknown:
        parts.append(f"unknown for {counted(unknown, 'cohort')}, whose package is not installed")
    return ", ".join(parts)
