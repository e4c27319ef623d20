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
GENERALISES, MEMORISES, ONLY = 0.9, 0.99, 0.5  # least A_val, least A_train, largest A_val of memorising only
RISES = 0.01  # least difference of mean A_val between two quarters of the steps


def grids(quick: bool) -> list[Grid]:
    """Grids of both models over r_train and the seeds."""
    if quick:
        # the whole training set at every step, as in the full form: a last batch of a few equations would be noise
        return per_model(quick, {"train_batch_size": 512}, r_train=[0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    return per_model(quick, r_train=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])


def report(results: Results, form: Form) -> Report:
    """Report with curves, eight summary plots, the table, and the answers."""
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
        [*scaling, *(line for model in results.models for line in _of_one(results.of(model=model), form)), *laws],
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


def _of_one(results: Results, form: Form) -> list[str]:
    return [thresholds(results), *why_there(results, form)]


def _shares(results: Results) -> tuple[list[float], list[float], list[float]]:
    """Values of r_train at which all runs generalise, at least one does, and all only memorise, in order."""
    generalises, memorises = at_least("valid_accuracy", GENERALISES), at_least("train_accuracy", MEMORISES)
    by_share = results.extrema.group_by("r_train").agg(
        generalises.all().alias("all_generalise"),
        generalises.any().alias("one_generalises"),
        (memorises & (pl.col("valid_accuracy") <= ONLY)).all().alias("all_memorise"),
    )
    all_, one, none = (
        sorted(by_share.filter(name)["r_train"]) for name in ("all_generalise", "one_generalises", "all_memorise")
    )
    return all_, one, none


def thresholds(results: Results) -> str:
    """Sentence on the smallest r_train that generalises, the largest that only memorises, and the gap, of one model."""
    general, first, memorise = _shares(results)
    name = MODELS[results.models[0]]
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
    return f"{text}: {_gap(results, min(general), max(memorise))}" if general else f"{text}."


def why_there(results: Results, form: Form) -> list[str]:
    """Sentences that show whether the data or the number of steps set the thresholds of one model; may be empty.

    Fewer training equations take longer to generalise; a run that only memorises may have had too few steps.
    """
    name, (general, _, memorise), out = MODELS[results.models[0]], _shares(results), []
    if len(general) > 1:
        times = times_of(results, form, GENERALISES)
        most, least = (number(median_time(times.filter(r_train=share))) for share in (max(general), min(general)))
        out.append(
            f"{name}: the median step of A_val ≥ {GENERALISES}{form.stayed} goes from {most} at r_train "
            f"{max(general):g} to {least} at {min(general):g}."
        )
    from_ = pl.col("r_train") >= max(memorise, default=0.0)
    late = results.extrema.filter(~at_least("valid_accuracy", GENERALISES) & from_)
    if rises := _rises(results.curves.join(late.select("run"), on="run", how="semi")):
        out.append(f"{name}, {_still_rising(rises)}")
    return out


def _rises(curves: pl.DataFrame) -> dict[float, list[tuple[float, float]]]:
    """Mean A_val in the third and in the last quarter of the steps, for each run of each share in order."""
    step, accuracy = pl.col("step"), pl.col("valid_accuracy")
    quarter = (4 * step / step.max().over("run")).ceil()
    means = (
        curves.with_columns(quarter=quarter)
        .group_by("r_train", "run")
        .agg(*(accuracy.filter(pl.col("quarter") == n).mean().alias(name) for n, name in ((3, "third"), (4, "last"))))
        .drop_nulls()
        .sort("r_train", "run")
    )
    by_share: dict[float, list[tuple[float, float]]] = {}
    for share, third, last in means.select("r_train", "third", "last").iter_rows():
        by_share.setdefault(share, []).append((third, last))
    return by_share


def _still_rising(rises: Mapping[float, Sequence[tuple[float, float]]]) -> str:
    changes, lift = [], []
    for share, runs in rises.items():
        third, last = (sum(ends) / len(runs) for ends in zip(*runs, strict=True))
        rising = sum(after - before >= RISES for before, after in runs)
        changes.append(f"at {share:g} from {third:.3f} to {last:.3f} (by {RISES} or more in {rising} of {len(runs)})")
        lift += [share] * (rising == len(runs))
    text = (
        f"runs from r_train {min(rises):g} on that did not generalise: from the third to the last quarter of the steps "
        f"mean A_val goes {listed(changes)}. "
    )
    if len(lift) == len(rises):
        return text + "It still rises in all of them: more steps may move these thresholds down."
    where = f"At {listed([f'{share:g}' for share in lift])} it still rises in every run. " if lift else ""
    return f"{text}{where}Where it does not, these steps cannot distinguish a plateau before generalising from an end."


def _gap(results: Results, smallest: float, largest: float) -> str:
    """Description of the gap between the largest share that only memorises and the smallest that generalises."""
    if smallest <= largest:
        return "these runs do not generalise more the more they are shown."
    sizes = {spec.r_train: trained_equations(spec) for spec in results.specs.values()}
    width = (
        f"a gap of {smallest - largest:.2g}, {sizes[smallest] - sizes[largest]} equations "
        f"({sizes[largest]} → {sizes[smallest]})"
    )
    between = results.extrema.filter(pl.col("r_train").is_between(largest, smallest, closed="none"))
    if between.is_empty():
        return f"{width}, one step of this grid: the change may be as sharp as that, or sharper."
    generalised = len(between.filter(at_least("valid_accuracy", GENERALISES)))
    shares = listed([f"{share:g}" for share in sorted(between["r_train"].unique())])
    return f"{width}; in between, at {shares}, {generalised} of {len(between)} runs generalise."
