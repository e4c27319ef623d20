"""Regularisation: weight decay and the norm of the parameters.

Source: the practical, problem 4, question 7: an LSTM with weight decay 1/4 to 1 for 4·10⁴ + 1 steps, with the ℓ₂ norm
of its parameters; how the figures change with the weight decay, and whether the norm moves before generalisation.
"""

from shoal.report import Report, Section
from shoal.report.panels import CURVES, MODEL, MODELS, Axis, Panel
from shoal.studies.base import Form, Grid
from shoal.studies.parts import curves_figure, finished, summary_figure, summary_table
from shoal.studies.results import Results
from shoal.studies.settings import per_model

ABOUT = "weight decay, and the norm of the parameters before and after generalisation"
WEIGHT_DECAY = Axis("weight_decay", "weight decay")
NORM = Panel("l2_norm", "‖θ‖₂")


def grids(quick: bool) -> list[Grid]:
    """An LSTM over weight decay and the seeds."""
    settings = {} if quick else {"n_steps": 40_001}
    return per_model(quick, settings, models=("lstm",), weight_decay=[0.25, 0.5, 0.75, 1.0])


def report(results: Results, form: Form) -> Report:
    """Curves with the norm, the eight figures against the weight decay, the table, and the answers."""
    model = results.models[0]
    title = f"{MODELS[model]} by weight decay"
    curves = curves_figure(results, WEIGHT_DECAY, "curves", title, (*CURVES, NORM))
    summary = summary_figure(results, WEIGHT_DECAY, MODEL, "summary", f"{MODELS[model]} against weight decay")
    return finished(
        "regularization",
        "Regularisation",
        [],
        [
            Section("Learning curves and norm", figures=[curves]),
            Section(
                "Against the weight decay",
                figures=[summary],
                tables=[summary_table(results, [WEIGHT_DECAY], "by-weight-decay")],
            ),
        ],
        results,
        form,
    )
