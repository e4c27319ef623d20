"""The table of ten figures per model and the provenance that every report carries."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from shoal.analysis import at_least, extrema, mean_and_std
from shoal.lab import Records
from shoal.report.certificates import certificates
from shoal.report.page import Section
from shoal.report.schedule import evaluated_before
from shoal.report.table import Cell, Table
from shoal.report.words import NOTHING, counted, setting_text

_SEEDS = ("init_seed", "split_seed", "order_seed")


@dataclass(frozen=True)
class Quantity:
    """A column of :func:`shoal.analysis.extrema`, its symbol, whether small is good, and whether it is a step."""

    column: str
    symbol: str
    small_is_best: bool
    is_step: bool


QUANTITIES = (
    Quantity("train_loss", "L_train", True, False),
    Quantity("valid_loss", "L_val", True, False),
    Quantity("train_accuracy", "A_train", False, False),
    Quantity("valid_accuracy", "A_val", False, False),
    Quantity("t_train_loss", "t_f(L_train)", True, True),
    Quantity("t_valid_loss", "t_f(L_val)", True, True),
    Quantity("t_train_accuracy", "t_f(A_train)", True, True),
    Quantity("t_valid_accuracy", "t_f(A_val)", True, True),
    Quantity("delay_loss", "Δt(L)", True, True),
    Quantity("delay_accuracy", "Δt(A)", True, True),
)

_NUMBERS = (*(q.column for q in QUANTITIES), "last_step")

_MOST_BESIDE = 6  # labels side by side
ARRIVED = 0.9  # accuracies that all runs of a group reached, for its steps to be compared
OPEN = "†"
COMPETING = f"Steps compete where every run reached A_train and A_val ≥ {ARRIVED}, and none has {OPEN}."
STEPS_OF_BEST = (
    f"t_f is a time to memorise or to generalise only where the run did (A_train or A_val ≥ {ARRIVED}); elsewhere "
    "it is the step after which the run got no better."
)
SYMBOLS = (
    "L_train and L_val: smallest loss on the training and on the validation equations (nats per scored token, which "
    "are the result and, where equations end with it, EOS) over the evaluated steps; A_train and A_val: largest "
    "accuracy (share of equations whose right-hand side is predicted whole); t_f: first evaluated step of that best "
    "value; Δt(L) = t_f(L_val) − t_f(L_train), and Δt(A) likewise, the delay between memorising and generalising, "
    f"told only where every run did both. {STEPS_OF_BEST} {OPEN}: of some run the best value is the last evaluated, "
    "and might have become better still."
)


def ten_figures(extrema: pl.DataFrame, labels: Mapping[str, str]) -> Table:
    """Mean ± standard deviation of the ten figures for each label, the best of each figure in bold.

    A figure is a row; of more than a few labels a column, because pages are longer than wide.

    Args:
        extrema: one row per run.
        labels: the column each run belongs to, by run.
    """
    labelled = extrema.with_columns(pl.col("run").replace_strict(dict(labels)).alias("label"))
    means = ten_means(labelled, ["label"])
    groups = {row["label"]: row for row in means.iter_rows(named=True)}
    cells = {q.symbol: [cell_of(row, q, best_value(means, q)) for row in groups.values()] for q in QUANTITIES}
    across = len(groups) > _MOST_BESIDE
    n = "N: runs" if across else ", ".join(f"{label}: N = {row['N']}" for label, row in groups.items())
    place = "column" if across else "row"
    caption = (
        f"Mean ± population standard deviation over seeds ({n}){one_run(means)}; {_marked(means, place)}. {SYMBOLS}"
    )
    if not across:
        return Table("ten-figures", ["", *groups], list(cells.items()), caption, means)
    by_label = zip(*cells.values(), strict=True)
    rows = [(f"{label} (N = {row['N']})", own) for (label, row), own in zip(groups.items(), by_label, strict=True)]
    return Table("ten-figures", ["setting", *cells], rows, caption, means)


def ten_means(extrema: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Mean and std of the ten figures for each group; for each step and delay, also whether it is ``_open`` in some run
    and whether it ``_competes``; and ``first_end`` and ``last_end``, between which its runs were last evaluated.

    A step is only good where it leads to something and nothing better can be later: only groups all of whose runs
    memorised and generalised, and whose best values came before their last evaluation, compete for the best steps; and
    only groups all of whose runs did both have a delay between them, ``delay_accuracy``.
    """
    steps = [q.column for q in QUANTITIES if q.is_step]
    arrived = _did_both().all()
    how = [
        column
        for step in steps
        for column in (
            is_open(step).any().alias(f"{step}_open"),
            (arrived & ~is_open(step).any()).alias(f"{step}_competes"),
        )
    ]
    how += [pl.col("last_step").min().alias("first_end"), pl.col("last_step").max().alias("last_end")]
    means = mean_and_std(extrema.select(*by, *(q.column for q in QUANTITIES)), by)
    means = means.join(extrema.group_by(by).agg(*how, did_both=arrived), on=by, how="left", maintain_order="left")
    # between memorising and generalising there is no delay where some run did not do both
    delay = [pl.when("did_both").then(name).alias(name) for name in ("delay_accuracy", "delay_accuracy_std")]
    return means.with_columns(delay).drop("did_both")


def one_run(means: pl.DataFrame) -> str:
    """What to say of groups of one run beside a deviation; nothing where there are none."""
    return ", which one run does not have" * bool((means["N"] == 1).any())


def is_open(step: str) -> pl.Expr:
    """Whether a run's best value came at its last evaluation, so that its step or delay may not be the last word."""
    if step.startswith("delay_"):
        kind = step.removeprefix("delay_")
        return is_open(f"t_train_{kind}") | is_open(f"t_valid_{kind}")
    at_end = pl.col(step) == pl.col("last_step")
    return at_end & (pl.col(step.removeprefix("t_")) < 1) if step.endswith("accuracy") else at_end


def best_value(means: pl.DataFrame, quantity: Quantity) -> float | None:
    """The best mean among the groups that compete; None where none does, or where several have all the same.

    Groups compete where all their runs have gone equally far: whoever trains for longer has more to choose its best
    from, and later steps to reach it at.
    """
    if not _equally_far(means):
        return None
    values = (means.filter(f"{quantity.column}_competes") if quantity.is_step else means)[quantity.column]
    if values.n_unique() == 1 and (len(values) > 1 or len(means) == 1):
        return None
    return (min if quantity.small_is_best else max)(values.to_list(), default=None)


def _marked(means: pl.DataFrame, place: str) -> str:
    """What is in bold in a table of :func:`ten_means`, where anything can be."""
    if not _equally_far(means):
        return "no best is in bold, because not all were trained for as many steps"
    return f"the best of each {place} in bold, ties both, none where all that compete are equal. {COMPETING[:-1]}"


def _equally_far(means: pl.DataFrame) -> bool:
    return bool(means["first_end"].min() == means["last_end"].max())


def cell_of(row: Mapping[str, Any], quantity: Quantity, best: float | None) -> Cell:
    """A quantity of a row of :func:`ten_means`, bold where it has the best mean, for which it competes."""
    name = quantity.column
    if row[name] is None:
        return Cell(NOTHING)
    mark = OPEN if quantity.is_step and row[f"{name}_open"] else ""
    competes = not quantity.is_step or row[f"{name}_competes"]
    return Cell(show(row[name], row[f"{name}_std"], quantity.is_step) + mark, bool(competes and row[name] == best))


def show(mean: float, std: float | None, is_step: bool) -> str:
    """``7,850 ± 350`` for steps, ``0.00080 ± 0.00040`` for the rest: two digits of the deviation, if there is one.

    >>> show(82.5, 5.5, True), show(0.000132, 3e-8, False), show(3e-12, 1e-12, False)
    ('82.5 ± 5.5', '0.000132000 ± 0.000000030', '3.00e-12 ± 1.0e-12')
    >>> show(7850, None, True), show(1, None, False), show(0.000132, None, False)
    ('7,850', '1.0000', '0.000132')
    """
    if std is None:
        return f"{mean:,.0f}".replace("-", "−") if is_step else f"{mean:.4f}" if abs(mean) >= 0.1 else f"{mean:.3g}"
    if is_step:
        digits = 0 if abs(mean) >= 1000 or (mean == round(mean) and std == round(std)) else 1
        return f"{mean:,.{digits}f} ± {std:,.{digits}f}".replace("-", "−")
    digits = 4 if std == 0 else max(2, 1 - math.floor(math.log10(std)))
    if 0 < abs(mean) < 10**-digits:
        digits = 1 - math.floor(math.log10(abs(mean)))
    if digits > 10:
        return f"{mean:.2e} ± {std:.1e}"
    return f"{mean:.{digits}f} ± {std:.{digits}f}"


def per_run_table(records: Records, settings: Sequence[str], damaged: Collection[str] = ()) -> Table:
    """One row per run: settings, state, best values and their first steps; of those that are damaged no figures."""
    best = extrema(records.without(damaged).curves())
    frame = records.runs().join(best, on="run", how="left", maintain_order="left")
    frame = frame.with_columns(
        did_both=_did_both(),
        **{f"{t}_open": is_open(t) for t in ("t_train_accuracy", "t_valid_accuracy", "delay_accuracy")},
    )
    header = ["run", *settings, "state", "A_train", "t_f(A_train)", "A_val", "t_f(A_val)", "L_val", "Δt(A)"]
    rows = []
    data = frame.with_columns(
        *(evaluated_before(f"t_{split}_accuracy").alias(f"t_{split}_accuracy_after") for split in ("train", "valid")),
        state=pl.when(pl.col("run").is_in(list(damaged))).then(pl.lit("damaged")).otherwise("state"),
    ).select(
        "run",
        *settings,
        "state",
        "step",
        *(name for name in frame.columns if name in ("did_both", *_NUMBERS)),
        pl.col("^t_.*_after$"),
        pl.col("^.*_open$"),
    )
    for row in frame.iter_rows(named=True):
        state = "damaged" if row["run"] in damaged else row["state"]
        state = state if state in ("done", "damaged") else f"{state} at step {row['step']:,}"
        cells = [setting_text(row[name]) for name in settings] + [state]
        if row["train_accuracy"] is None:
            cells += ["–"] * 6
        else:
            cells += [
                f"{row['train_accuracy']:.4f}",
                f"{row['t_train_accuracy']:,}{OPEN * row['t_train_accuracy_open']}",
                f"{row['valid_accuracy']:.4f}",
                f"{row['t_valid_accuracy']:,}{OPEN * row['t_valid_accuracy_open']}",
                f"{row['valid_loss']:.4g}",
                f"{row['delay_accuracy']:,}{OPEN * row['delay_accuracy_open']}".replace("-", "−")
                if row["did_both"]
                else "–",
            ]
        rows.append((row["run"], [Cell(text) for text in cells]))
    no_delay = f"Δt(A) –: A_train and A_val did not both reach {ARRIVED}."
    return Table("runs", header, rows, f"The runs behind the figures. {SYMBOLS} {no_delay}", data)


def _did_both() -> pl.Expr:
    return pl.all_horizontal(at_least(name, ARRIVED) for name in ("train_accuracy", "valid_accuracy"))


def varying_settings(records: Records) -> list[str]:
    """``model``, ``seed`` and the settings in which runs of one model differ, seeds set apart only where they are."""
    frame = records.runs()
    fixed = {"run", "state", "step", "model", "seed", "q", "hidden_size"}
    apart = {s for s in _SEEDS if frame[s].equals(frame["seed"], check_names=False)}
    names = [name for name in frame.columns if name not in fixed | apart]
    return ["model", "seed", *(name for name in names if _of_models(frame, name) is None)]


def _of_models(frame: pl.DataFrame, name: str) -> dict[str, Any] | None:
    """What a setting is in all runs of each model that has it; None where runs of one model differ in it."""
    pairs = frame.select(pl.col("model").alias("of"), name).unique(maintain_order=True)
    found = dict(pairs.rows())
    return {model: value for model, value in found.items() if value is not None} if len(found) == len(pairs) else None


def provenance(records: Records, command: str) -> Section:
    """How the runs were made: settings in common, sessions, certificate, command."""
    shared = _shared_settings(records)
    sessions = [session for folder in records.cohorts() for session in folder.status()["sessions"]]
    environments = list(dict.fromkeys(_environment(session) for session in sessions))
    seconds = sum(session.get("seconds", 0.0) for session in sessions)
    certified, certificate_table = certificates(records.cohorts())
    paragraphs = [
        f"Made by: {command}",
        f"Settings in common: {shared}.",
        f"P, the learnable parameters without embeddings: {_sizes(records)}.",
        f"Trained in {counted(len(records.cohorts()), 'cohort')}, {counted(len(sessions), 'session')}, {seconds:,.0f} "
        "seconds of training "
        f"in all (cohorts may have run at the same time): {'; '.join(environments)}.",
        *certified,
    ]
    runs = per_run_table(records, varying_settings(records))
    return Section("How this was made", paragraphs, tables=[runs, *certificate_table])


def _shared_settings(records: Records) -> str:
    """``p 23, n_steps 4000 (lstm) 2600 (gpt), …``: what no run of the same model has otherwise."""
    frame = records.runs()
    models = frame["model"].n_unique()
    told = []
    for name in frame.columns:
        values = None if name in ("run", "state", "step", "seed", *_SEEDS) else _of_models(frame, name)
        if values and len(values) == models and len(set(values.values())) == 1:
            told.append(f"{name} {setting_text(next(iter(values.values())))}")
        elif values and name != "model":
            told.append(f"{name} " + " ".join(f"{setting_text(value)} ({model})" for model, value in values.items()))
    return ", ".join(told)


def _sizes(records: Records) -> str:
    from shoal.tasks.build import count_run_parameters  # needs torch, which tables do not

    sizes = dict.fromkeys((spec.model, count_run_parameters(spec)) for spec in records.specs.values())
    return ", ".join(f"{model} {size:,}" for model, size in sizes)


def _environment(session: Mapping[str, Any]) -> str:
    commit = (session["git_commit"] or "none")[:10]
    return (
        f"shoal {session['shoal']} (commit {commit}), torch {session['torch']}, Python {session['python']}, "
        f"{session['precision']} on {session['processor'] if session['device'] == 'cpu' else session['device']}, "
        f"{session.get('engine', 'plain')} engine, {session['threads']} threads per cohort"
    )
