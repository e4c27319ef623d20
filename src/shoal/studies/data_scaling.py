"""Scaling data: how much of the table of sums must train before the rest is understood.

Source: the practical, problem 4, question 3: r_train from 0.1 to 0.9, curves coloured by r_train, eight summary plots,
and the thresholds of generalisation (A_val >= 0.9) and of pure memorisation (A_train = 1 with A_val <= 0.5).
"""

from shoal.report import Report, Section
from shoal.report.panels import MODEL, MODELS, Axis
from shoal.studies.base import Form, Grid
from shoal.studies.parts import curves_figure, finished, summary_figure, summary_table
from shoal.studies.results import Results
from shoal.studies.settings import per_model

ABOUT = "how much training data it takes to generalise: r_train from 0.1 to 0.9"
R_TRAIN = Axis("r_train", "r_train")


def grids(quick: bool) -> list[Grid]:
    """Both models over r_train and the seeds."""
    if quick:
        return per_model(quick, r_train=[0.3, 0.4, 0.5, 0.6, 0.7, 0.8], seed=[0, 1])
    return per_model(quick, r_train=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])


def report(results: Results, form: Form) -> Report:
    """Curves, eight summary plots, the table, and the answers."""
    curves = [
        curves_figure(results.of(model=model), R_TRAIN, f"curves-{model}", f"{MODELS[model]} by r_train")
        for model in results.models
    ]
    summary = summary_figure(results, R_TRAIN, MODEL, "summary", "Both models against r_train")
    return finished(
        "data-scaling",
        "Scaling data",
        [],
        [
            Section("Learning curves", figures=curves),
            Section(
                "Against the share of training data",
                figures=[summary],
                tables=[summary_table(results, [R_TRAIN], "by-r-train")],
            ),
        ],
        results,
        form,
    )
