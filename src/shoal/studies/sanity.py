"""Study of the sanity check: an LSTM and a GPT memorise modular addition, and much later generalise.

Source: the practical, problem 4, questions 1 and 2: default settings, seeds 0 and 42, four figures and a table of ten
numbers per model.
"""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from shoal.analysis import median_time
from shoal.report import Figure, Report, Section, learning_curves
from shoal.report.figures import lines_note
from shoal.report.panels import MODEL, MODELS
from shoal.report.summary import ten_figures
from shoal.report.survival import bound_sign
from shoal.report.words import counted, in_ranges, listed, number
from shoal.spec import RunSpec
from shoal.studies.base import Form, Grid
from shoal.studies.parts import BEST_VALUES, LEARNING, finished, times_of, times_sections
from shoal.studies.results import Results
from shoal.studies.settings import per_model
from shoal.tasks.arithmetic.equations import FORMATS
from shoal.tasks.arithmetic.settings import Arithmetic, equations_of

QUESTION = "Modular addition: do the models memorise the training equations, and do they generalise later?"
GENERALISED = 0.99
NEAR = 0.05  # in accuracy, from what the mirror images alone give
LEARNED = 0.9  # accuracy from which training equations count as memorised, and others as learned
MEANINGS = {
    "loss": "Loss: in nats per scored token, on a logarithmic axis.",
    "accuracy": "Accuracy: the share of equations whose right-hand side is predicted whole.",
}


def grids(quick: bool) -> list[Grid]:
    """Grids of both models over the seeds."""
    return per_model(quick)


def report(results: Results, form: Form) -> Report:
    """Report with four figures, the table of ten numbers per model, and the answers in words."""
    labels = {run: MODELS[spec.model] for run, spec in results.specs.items()}
    figures = [_figure(results, model, quantity) for model in results.models for quantity in ("loss", "accuracy")]
    return finished(
        "sanity",
        "Sanity check",
        QUESTION,
        [answer(results.of(model=model), form) for model in results.models],
        [
            Section("Learning curves", plateau(results, form), figures=figures, about=LEARNING),
            Section("Ten numbers per model", tables=[ten_figures(results.extrema, labels)], about=BEST_VALUES),
            *times_sections(results, {"": MODEL}, form),
        ],
        results,
        form,
    )


def answer(results: Results, form: Form) -> str:
    """Sentence on the steps at which the runs of one model memorised and generalised."""
    memorised = times_of(results, replace(form, stay=1), 1.0, "train_accuracy")
    generalised = times_of(results, form, GENERALISED)
    return (
        f"{MODELS[results.models[0]]}: {_reached(memorised)} training accuracy 1{_at(memorised)}, and "
        f"{_reached(generalised)} validation accuracy {GENERALISED}{form.stayed}{_at(generalised)}"
        f"{_fell_back(generalised)}."
    )


def _fell_back(times: pl.DataFrame) -> str:
    """Clause on the runs that were below the threshold again after reaching it; empty where there are none."""
    n = int(times["fell_back"].fill_null(False).sum())
    return f"; {n} of them {'was' if n == 1 else 'were'} below it again at a later evaluation" if n else ""


def plateau(results: Results, form: Form) -> list[str]:
    """Paragraph on the accuracy that the symmetry of the operation alone gives, beside that on the way to generalising.

    Empty where the operation is not symmetric in its operands, or the equations are not of two.
    """
    specs = list(results.specs.values())
    if not all(map(_is_symmetric, specs)):
        return []
    shares = sorted({mirrored_share(spec) for spec in specs})
    span = " to ".join(dict.fromkeys(f"{100 * share:.0f}" for share in (shares[0], shares[-1])))
    operators = listed(sorted({f"a {spec.operator} b = b {spec.operator} a" for spec in specs}))
    between = [
        f"{MODELS[model]} {value}"
        for model in results.models
        if (value := _on_the_way(results.of(model=model), shares))
    ]
    rests = (
        f" Between memorising (A_train ≥ {LEARNED}) and generalising (A_val ≥ {LEARNED}) A_val is, in the median of "
        f"the evaluations [range of the middle 80 %]: {'; '.join(between)}."
    )
    return [
        f"A model that has learned {operators}, and nothing more, can answer {span} % of the validation equations, "
        f"those whose mirror image is trained on.{rests * bool(between)}"
    ]


def _is_symmetric(spec: RunSpec) -> bool:
    """Return True for equations of two operands that may be exchanged, each order of them an equation of its own."""
    task = spec.task_part
    if not isinstance(task, Arithmetic) or task.is_symmetric:
        return False
    return task.operator in ("+", "*") and task.operation_orders == (2,)


def mirrored_share(spec: RunSpec) -> float:
    """Share of a run's validation equations ``a ∘ b`` of two operands whose mirror image ``b ∘ a`` trains."""
    data, form = equations_of(spec), FORMATS[spec.equation_format]
    operands = data.tokens[:, [form.first, form.first + form.stride]].tolist()
    trained = {(a, b) for a, b in (operands[row] for row in data.train.tolist())}
    mirrors = [(b, a) in trained for a, b in (operands[row] for row in data.valid.tolist())]
    return sum(mirrors) / len(mirrors)


def _on_the_way(results: Results, shares: Sequence[float]) -> str:
    """Median and range of A_val between memorising and generalising, over evaluations of all runs; empty for none.

    Args:
        results: runs of one model.
        shares: validation equations whose mirror image is trained on, in order.
    """
    curves = results.curves.select("run", "step", "train_accuracy", "valid_accuracy").sort("run", "step")
    memorised = (pl.col("train_accuracy") >= LEARNED).cum_max().over("run")
    learned = (pl.col("valid_accuracy") >= LEARNED).cum_max().over("run")
    values = curves.filter(memorised, ~learned)["valid_accuracy"]
    if not len(values):
        return ""
    low, middle, high = (float(values.quantile(q, "linear") or 0) for q in (0.1, 0.5, 0.9))
    near = "less than" if middle < shares[0] - NEAR else "more than" if middle > shares[-1] + NEAR else "about what"
    return f"{middle:.2f} [{low:.2f}, {high:.2f}], {near} this alone gives"


def _reached(times: pl.DataFrame) -> str:
    return f"{times['observed'].sum()} of {counted(len(times), 'run')} reached"


def _at(times: pl.DataFrame) -> str:
    """Steps at which runs reached the threshold, and the median over all runs, where others count as later."""
    reached = sorted(times.filter("observed")["time"].to_list())
    if not reached:
        return ""
    if reached[0] == reached[-1]:
        return f" (at step {reached[0]:,})"  # of those that reached it; no median
    median, span = median_time(times), f"{reached[0]:,} to {reached[-1]:,}"
    sign = bound_sign(len(reached), len(times))
    return f" (at steps {span})" if median is None else f" (at step {sign}{number(median)} in the median, {span})"


def _figure(results: Results, model: str, quantity: str) -> Figure:
    curves = results.curves.filter(pl.col("model") == model)
    n = curves["run"].n_unique()
    symbol = {"loss": "L", "accuracy": "A"}[quantity]
    seeds = in_ranges(curves["seed"].unique().to_list())
    caption = (
        f"{quantity.capitalize()} {symbol}_train and {symbol}_val of the {MODELS[model]}. "
        f"{lines_note(n, f' (seeds {seeds})')} {MEANINGS[quantity]}"
    )
    title = f"{MODELS[model]}: {quantity}"
    return Figure(f"{model}-{quantity}", learning_curves(curves, quantity, title), caption)
