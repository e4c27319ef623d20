"""Study of regularisation: weight decay and the norm of the parameters.

Source: the practical, problem 4, question 7: an LSTM with weight decay 1/4 to 1 for 4·10⁴ + 1 steps, with the ℓ₂ norm
of its parameters; how the figures change with the weight decay, and whether the norm moves before generalisation.
"""

import numpy as np
import polars as pl

from shoal.analysis import at_least, first_step_at_least
from shoal.report import Cell, Report, Section, Table
from shoal.report.panels import CURVES, MODEL, MODELS, Axis
from shoal.report.quantities import Panel, is_open
from shoal.report.words import counted, listed, with_deviation
from shoal.studies.answers import Case, direction, how_it_goes
from shoal.studies.base import Form, Grid
from shoal.studies.parts import curves_figure, finished, summary_figure, summary_table, times_sections
from shoal.studies.results import Results
from shoal.studies.settings import per_model

QUESTION = (
    "What does weight decay do to loss, accuracy and the steps they take, and what does the norm of the parameters do?"
)
WEIGHT_DECAY = Axis("weight_decay", "weight decay")
STEPS = (("t_valid_loss", "t_f(L_val)"), ("t_valid_accuracy", "t_f(A_val)"))
MEMORISED, GENERALISED = 0.99, 0.99  # A_train and A_val
_BOTH = f"A_train ≥ {MEMORISED}, A_val ≥ {GENERALISED}"
NORM = Panel("l2_norm", "ℓ2 norm of θ", about="‖θ‖₂: the ℓ₂ norm of all parameters")


def grids(quick: bool) -> list[Grid]:
    """Grids of an LSTM over weight decay and the seeds."""
    settings = {} if quick else {"n_steps": 40_001}
    return per_model(quick, settings, models=("lstm",), weight_decay=[0.25, 0.5, 0.75, 1.0])


def report(results: Results, form: Form) -> Report:
    """Report with curves and the norm, the eight figures against the weight decay, the table, and the answers."""
    model = results.models[0]
    title = f"{MODELS[model]} by weight decay"
    curves = curves_figure(results, WEIGHT_DECAY, "curves", title, (*CURVES, NORM))
    summary = summary_figure(results, WEIGHT_DECAY, MODEL, "summary", f"{MODELS[model]} against weight decay")
    columns = [("log_valid_loss", "log₁₀ L_val"), ("valid_accuracy", "A_val"), *STEPS]
    trends, table = how_it_goes([Case("all runs", results.extrema, WEIGHT_DECAY)], columns, "trends")
    answers = [
        f"With the weight decay L_val {direction(trends[0], True)}, and A_val {direction(trends[1], False)}.",
        f"With the weight decay t_f(L_val) {direction(trends[2], None)}, and t_f(A_val) {direction(trends[3], None)}. "
        + _mixed(results, form.thresholds[0])
        + _unsettled(results),
        _best(results),
        *norm_answers(results),
    ]
    return finished(
        "regularization",
        "Regularisation",
        QUESTION,
        answers,
        [
            Section(
                "Learning curves and norm",
                figures=[curves],
                tables=[_norm_table(results)],
                about="loss, accuracy and the norm of all parameters while training, for each weight decay.",
            ),
            Section(
                "Against the weight decay",
                figures=[summary],
                tables=[summary_table(results, [WEIGHT_DECAY], "by-weight-decay"), table],
                about="how the best values, and the steps they take, change with the weight decay.",
            ),
            *times_sections(results, {"": WEIGHT_DECAY}, form),
        ],
        results,
        form,
    )


def _mixed(results: Results, threshold: float) -> str:
    """Sentence on the number of runs for which the first step of the best accuracy is a time to generalise."""
    generalised = at_least("valid_accuracy", threshold)
    counts = results.extrema.group_by("weight_decay").agg(generalised.sum().alias("n"), pl.len().alias("N"))
    n, runs = (int(counts[name].sum()) for name in ("n", "N"))
    by_decay = listed(
        [f"{row['n']} of {row['N']} at {row['weight_decay']:g}" for row in counts.sort("weight_decay").to_dicts()]
    )
    if n == runs:
        return f"These are first steps of the best values; every run generalised (A_val ≥ {threshold:g}; {by_decay})."
    return (
        f"These are first steps of the best values: {n} of {runs} runs generalised (A_val ≥ {threshold:g}; "
        f"{by_decay}), and only of these is t_f(A_val) a time to generalise. Of the others it is where they "
        "got no better."
    )


def _unsettled(results: Results) -> str:
    """Sentence on the number of runs for which t_f(L_val) is only the end of training; may be empty."""
    counts = results.extrema.group_by("weight_decay").agg(is_open("t_valid_loss").sum().alias("n"), pl.len().alias("N"))
    if not (n := int(counts["n"].sum())):
        return ""
    rows = counts.filter(pl.col("n") > 0).sort("weight_decay").to_dicts()
    by_decay = listed([f"{row['n']} of {row['N']} at {row['weight_decay']:g}" for row in rows])
    return (
        f" In {counted(n, 'run')} ({by_decay}) L_val is smallest at the last evaluation, and may have gone on falling."
    )


def _best(results: Results) -> str:
    means = results.extrema.group_by("weight_decay").agg(pl.col("valid_loss").mean()).sort("valid_loss", "weight_decay")
    best = means.to_dicts()[0]
    return f"The smallest mean L_val, {best['valid_loss']:.3g}, is at weight decay {best['weight_decay']:g}."


def norms(results: Results) -> pl.DataFrame:
    """Norm ‖θ‖₂ of each run at its start, on memorising, at its peak from there until it generalised or ended, on
    generalising, and at its end.

    Returns:
        ``run``, ``weight_decay``, ``t_memorised``, ``t_generalised``, ``start``, ``memorised``, ``peak``,
        ``generalised`` and ``end``; null where it did not memorise or generalise.
    """
    curves = results.curves.sort("step").filter(pl.col("l2_norm").is_finite())
    memorised = first_step_at_least(curves, "train_accuracy", MEMORISED).rename({"step": "t_memorised"})
    generalised = first_step_at_least(curves, "valid_accuracy", GENERALISED).rename({"step": "t_generalised"})
    timed = curves.join(memorised, on="run").join(generalised, on="run")
    norm, step = pl.col("l2_norm"), pl.col("step")
    between = (step >= pl.col("t_memorised")) & (step <= pl.col("t_generalised").fill_null(pl.col("step").max()))
    return timed.group_by("run", "weight_decay", maintain_order=True).agg(
        pl.col("t_memorised", "t_generalised").first(),
        norm.first().alias("start"),
        norm.filter(step == pl.col("t_memorised")).first().alias("memorised"),
        norm.filter(between).max().alias("peak"),
        norm.filter(step == pl.col("t_generalised")).first().alias("generalised"),
        norm.last().alias("end"),
    )


def norm_answers(results: Results) -> list[str]:
    """Sentences on the change of the norm before generalisation."""
    frame = norms(results)
    reached = frame.drop_nulls(["memorised", "generalised"])
    both = reached.filter(pl.col("t_memorised") < pl.col("t_generalised"))
    if both.is_empty():
        return [f"No run memorised and later generalised ({_BOTH}): the norm cannot be followed there."]
    change, peak, start = (both["generalised"] / both[name] - 1 for name in ("memorised", "peak", "start"))
    fell = int((change < 0).sum())
    out = [
        f"Between memorising and generalising ({_BOTH}) ‖θ‖₂ fell in {fell} of {len(both)} runs; it "
        f"changed by {_percent(change)} in the mean ({_percent(change.sort()[:1])} to {_percent(change.sort()[-1:])}). "
        f"At generalisation it stood at {_percent(peak)} from its peak in between and at {_percent(start)} from its "
        "first value, in the mean.",
        _reading(change),
    ]
    if len(together := reached.filter(pl.col("t_memorised") >= pl.col("t_generalised"))):
        out.append(f"{counted(len(together), 'run')} generalised no later than memorising, and does not count here.")
    rest = frame.filter(pl.col("generalised").is_null()).drop_nulls("peak")
    if len(rest):
        end = rest["end"] / rest["peak"] - 1
        out.append(
            f"The runs that memorised and did not generalise by this measure ({len(rest)} without A_val ≥ "
            f"{GENERALISED}) ended at {_percent(end)} from their peak after memorising, in the mean."
        )
    return out


def _reading(change: pl.Series) -> str:
    """Interpretation of the changes of the norm between memorising and generalising."""
    if (change < 0).mean() > 0.5 and change.mean() < 0:  # type: ignore[operator]  # means of numbers
        return (
            "That is what weight decay would do if, once the training equations are known, it led along solutions that "
            "all fit them to one of small norm; the numbers show the order of events, not that one causes the other."
        )
    return (
        f"On the whole the norm does not fall between the two: here generalising (A_val ≥ {GENERALISED}) does not wait "
        "for it."
    )


def _percent(values: pl.Series) -> str:
    """Mean change in percent, ``+3 %``."""
    return f"{100 * float(np.mean(values.to_numpy())):+.0f} %".replace("-", "−")


def _norm_table(results: Results) -> Table:
    """Table of the norm, mean ± std, at the events of each weight decay."""
    stations = ("start", "memorised", "peak", "generalised", "end")
    rows, data = [], []
    for (decay,), of_decay in norms(results).sort("weight_decay").group_by("weight_decay", maintain_order=True):
        cells = []
        for station in stations:
            known = of_decay[station].drop_nulls()
            values = known.to_numpy()
            std = float(values.std()) if len(values) > 1 else None
            spread = f"{with_deviation(float(values.mean()), std, 1)} ({len(values)})" if len(values) else "–"
            cells.append(Cell(spread))
            mean = float(values.mean()) if len(values) else None
            data.append({"weight_decay": decay, "at": station, "mean": mean, "std": std, "N": len(values)})
        rows.append((f"weight decay {decay:g}", cells))
    caption = (
        f"‖θ‖₂, the ℓ₂ norm of all parameters, at the first step, where A_train first was ≥ {MEMORISED}, at its "
        f"largest from there on until A_val first was ≥ {GENERALISED} (or the end, where it never was), there, and at "
        "the last step; mean ± population standard deviation over the (number of) runs that reached it."
    )
    return Table("norms", ["", *stations], rows, caption, pl.DataFrame(data, infer_schema_length=None))
