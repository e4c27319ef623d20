"""Scaling data: how much of the table of sums must train before the rest is understood.

Source: the practical, problem 4, question 3: r_train from 0.1 to 0.9, curves coloured by r_train, eight summary plots,
the thresholds of generalisation (A_val >= 0.9) and of pure memorisation (A_train = 1 with A_val <= 0.5), and why they
may be close.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from shoal.analysis import at_least, median_time
from shoal.report import Report, Section
from shoal.report.panels import MODEL, MODELS, Axis
from shoal.report.words import listed, number
from shoal.studies.answers import Case
from shoal.studies.base import Form, Grid
from shoal.studies.parts import (
    LEARNING,
    curves_figure,
    finished,
    summary_figure,
    summary_table,
    times_of,
    times_sections,
)
from shoal.studies.power_laws import power_laws
from shoal.studies.results import Results, trained_equations
from shoal.studies.settings import per_model
from shoal.studies.slopes import who_scales_better

QUESTION = "How much of the table of sums has to train before the rest is understood, and which model needs less?"
R_TRAIN = Axis("r_train", "r_train")
EQUATIONS = Axis("equations", "training equations n", log=10)
GENERALISES, MEMORISES, ONLY = 0.9, 0.99, 0.5  # A_val from which, A_train from which, A_val up to which
RISES = 0.01  # by which mean A_val has to differ from one quarter of the steps to the next


def grids(quick: bool) -> list[Grid]:
    """Both models over r_train and the seeds."""
    if quick:
        # the whole training set at every step, as in the full form: a last batch of a few equations would be noise
        return per_model(quick, {"train_batch_size": 512}, r_train=[0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    return per_model(quick, r_train=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])


def report(results: Results, form: Form) -> Report:
    """Curves, eight summary plots, the table, and the answers."""
    curves = [
        curves_figure(results.of(model=model), R_TRAIN, f"curves-{model}", f"{MODELS[model]} by r_train")
        for model in results.models
    ]
    ((scaling, slopes),) = who_scales_better({"slopes": [Case("over r_train", results.extrema, R_TRAIN)]})
    equations = {run: trained_equations(spec) for run, spec in results.specs.items()}
    column = pl.col("run").replace_strict(equations, return_dtype=pl.Int64).alias(EQUATIONS.column)
    laws, law_table = power_laws(results.extrema.with_columns(column), EQUATIONS, "n", "power-laws")
    tables = [summary_table(results, [R_TRAIN], "by-r-train"), slopes, law_table]
    summary = summary_figure(results, R_TRAIN, MODEL, "summary", "Both models against r_train")
    return finished(
        "data-scaling",
        "Scaling data",
        QUESTION,
        [*scaling, *(told for model in results.models for told in _of_one(results.of(model=model), form)), *laws],
        [
            Section("Learning curves", figures=curves, about=LEARNING),
            Section(
                "Against the share of training data",
                figures=[summary],
                tables=[t for t in tables if t],
                about="how the best values, and the steps they take, change as more equations train.",
            ),
            *times_sections(results, {"": R_TRAIN}, form),
        ],
        results,
        form,
    )


def _of_one(own: Results, form: Form) -> list[str]:
    return [thresholds(own), *why_there(own, form)]


def _shares(own: Results) -> tuple[list[float], list[float], list[float]]:
    """Every r_train at which all runs generalise, at which one does, and at which all only memorise, in order."""
    generalises, memorises = at_least("valid_accuracy", GENERALISES), at_least("train_accuracy", MEMORISES)
    found = own.extrema.group_by("r_train").agg(
        generalises.all().alias("all_generalise"),
        generalises.any().alias("one_generalises"),
        (memorises & (pl.col("valid_accuracy") <= ONLY)).all().alias("all_memorise"),
    )
    all_, one, none = (
        sorted(found.filter(name)["r_train"]) for name in ("all_generalise", "one_generalises", "all_memorise")
    )
    return all_, one, none


def thresholds(own: Results) -> str:
    """The smallest r_train that generalises and the largest that only memorises, of one model, and what is between."""
    general, first, memorise = _shares(own)
    name = MODELS[own.models[0]]
    if general:
        text = (
            f"{name}: the smallest r_train at which every run generalises (A_val ≥ {GENERALISES}) is {min(general):g}"
        )
    else:
        text = f"{name}: at no r_train tried does every run generalise (A_val ≥ {GENERALISES})"
    if first and first != general and min(first) != min(general, default=None):
        text += f" (at {min(first):g} at least one does)"
    if not memorise:
        return f"{text}; at none do all runs only memorise (A_train ≥ {MEMORISES}, A_val ≤ {ONLY})."
    text += f"; the largest at which all only memorise (A_train ≥ {MEMORISES}, A_val ≤ {ONLY}) is {max(memorise):g}"
    return f"{text}: {_gap(own, min(general), max(memorise))}" if general else f"{text}."


def why_there(own: Results, form: Form) -> list[str]:
    """Whether the thresholds are those of the data or of the number of steps, of one model, in sentences; or none.

    Generalising takes the longer the fewer equations train; so a run that only memorises may be one that had no time.
    """
    name, (general, _, memorise), out = MODELS[own.models[0]], _shares(own), []
    if len(general) > 1:
        times = times_of(own, form, GENERALISES)
        most, least = (number(median_time(times.filter(r_train=share))) for share in (max(general), min(general)))
        out.append(
            f"{name}: the median step of A_val ≥ {GENERALISES}{form.stayed} goes from {most} at r_train "
            f"{max(general):g} to {least} at {min(general):g}."
        )
    from_ = pl.col("r_train") >= max(memorise, default=0.0)
    late = own.extrema.filter(~at_least("valid_accuracy", GENERALISES) & from_)
    if rises := _rises(own.curves.join(late.select("run"), on="run", how="semi")):
        out.append(f"{name}, {_still_rising(rises)}")
    return out


def _rises(curves: pl.DataFrame) -> dict[float, list[tuple[float, float]]]:
    """Mean A_val in the third and in the last quarter of the steps, of each run of each share in order."""
    step, accuracy = pl.col("step"), pl.col("valid_accuracy")
    quarter = (4 * step / step.max().over("run")).ceil()
    means = (
        curves.with_columns(quarter=quarter)
        .group_by("r_train", "run")
        .agg(*(accuracy.filter(pl.col("quarter") == n).mean().alias(name) for n, name in ((3, "third"), (4, "last"))))
        .drop_nulls()
        .sort("r_train", "run")
    )
    found: dict[float, list[tuple[float, float]]] = {}
    for share, third, last in means.select("r_train", "third", "last").iter_rows():
        found.setdefault(share, []).append((third, last))
    return found


def _still_rising(rises: Mapping[float, Sequence[tuple[float, float]]]) -> str:
    told, lift = [], []
    for share, runs in rises.items():
        third, last = (sum(ends) / len(runs) for ends in zip(*runs, strict=True))
        rising = sum(after - before >= RISES for before, after in runs)
        told.append(f"at {share:g} from {third:.3f} to {last:.3f} (by {RISES} or more in {rising} of {len(runs)})")
        lift += [share] * (rising == len(runs))
    text = (
        f"runs from r_train {min(rises):g} on that did not generalise: from the third to the last quarter of the steps "
        f"mean A_val goes {listed(told)}. "
    )
    if len(lift) == len(rises):
        return text + "It still rises in all of them: more steps may move these thresholds down."
    where = f"At {listed([f'{share:g}' for share in lift])} it still rises in every run. " if lift else ""
    return f"{text}{where}Where it does not, these steps cannot tell a plateau before generalising from an end."


def _gap(own: Results, smallest: float, largest: float) -> str:
    """What lies between the largest share that only memorises and the smallest that generalises."""
    if smallest <= largest:
        return "these runs do not generalise more the more they are shown."
    sizes = {spec.r_train: trained_equations(spec) for spec in own.specs.values()}
    width = (
        f"a gap of {smallest - largest:.2g}, {sizes[smallest] - sizes[largest]} equations "
        f"({sizes[largest]} → {sizes[smallest]})"
    )
    between = own.extrema.filter(pl.col("r_train").is_between(largest, smallest, closed="none"))
    if between.is_empty():
        return f"{width}, one step of this grid: the change may be as sharp as that, or sharper."
    generalised = len(between.filter(at_least("valid_accuracy", GENERALISES)))
    shares = listed([f"{share:g}" for share in sorted(between["r_train"].unique())])
    return f"{width}; in between, at {shares}, {generalised} of {len(between)} runs generalise."
