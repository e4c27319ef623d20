"""Study of model scaling: depth and width.

Source: the practical, problem 4, question 5: L in 1, 2, 3 and d in 64, 128, 256 (the LSTM's hidden size is d), curves
for each L coloured by log2 d, the eight figures against d, L and P, the parameters without embeddings.
"""

import polars as pl

from shoal.report import Report, Section, Table
from shoal.report.panels import MODEL, MODELS, Axis
from shoal.report.words import number
from shoal.studies.answers import ASKED, Case, direction, how_it_goes
from shoal.studies.base import Form, Grid
from shoal.studies.parts import LEARNING, curves_figure, finished, summary_figure, summary_table, times_sections
from shoal.studies.power_laws import power_laws
from shoal.studies.results import Results
from shoal.studies.settings import per_model
from shoal.studies.slopes import who_scales_better

QUESTION = "Does a deeper, wider or larger model generalise better or sooner, and which model gains more from it?"
WIDTH = Axis("embedding_size", "width d", log=2)
DEPTH = Axis("num_layers", "layers L")
SIZE = Axis("parameters", "parameters P", log=10)
_SIZES = (WIDTH.column, DEPTH.column)  # settings that determine P


def grids(quick: bool) -> list[Grid]:
    """Grids of both models over depth, width and the seeds."""
    if quick:
        return per_model(quick, num_layers=[1, 2], embedding_size=[16, 32, 64])
    return per_model(quick, num_layers=[1, 2, 3], embedding_size=[64, 128, 256])


def report(results: Results, form: Form) -> Report:
    """Report with curves per depth, summaries against d, L and P, the table, times by d and by L, and the answers."""
    curves = [
        curves_figure(part, WIDTH, f"curves-{model}-{depth}", f"{MODELS[model]}, L = {depth}")
        for model in results.models
        for depth in results.of(model=model).values("num_layers")
        if not (part := results.of(model=model, num_layers=depth)).curves.is_empty()
    ]
    summaries = []
    for model in results.models:
        of_model, name = results.of(model=model), MODELS[model]
        summaries += [
            summary_figure(of_model, WIDTH, DEPTH, f"by-width-{model}", f"{name} against d, by L"),
            summary_figure(of_model, DEPTH, WIDTH, f"by-depth-{model}", f"{name} against L, by d"),
        ]
    summaries.append(summary_figure(results, SIZE, MODEL, "by-size", "Both models against P"))
    table = summary_table(results, [DEPTH, WIDTH], "by-depth-and-width")
    sizes, trends = with_size(results)
    scaling, slopes = _comparisons(results)
    laws, law_table = power_laws(results.extrema, SIZE, "P", "power-laws")
    return finished(
        "model-scaling",
        "Scaling models",
        QUESTION,
        [*sizes, *scaling, *laws],
        [
            Section("Learning curves", figures=curves, about=LEARNING),
            Section(
                "Against size",
                figures=summaries,
                tables=[table, trends, *([law_table] if law_table else [])],
                about="how the best values change with depth, with width and with the number of parameters.",
            ),
            Section(
                "Comparison of scaling",
                tables=slopes,
                about="how steeply LSTM and GPT improve as they grow, and whether the difference is more than chance.",
            ),
            *times_sections(results, {"by width": WIDTH, "by depth": DEPTH}, form),
        ],
        results,
        form,
    )


def with_size(results: Results) -> tuple[list[str], Table]:
    """Trends of each model's validation with d at each L, with L at each d, and with P; and the best size."""
    cases = [
        Case(
            f"{MODELS[model]} with {axis.title}", results.of(model=model).extrema, axis, _SIZES if axis is SIZE else ()
        )
        for model in results.models
        for axis in (WIDTH, DEPTH, SIZE)
    ]
    trends, table = how_it_goes(cases, [(column, symbol) for column, symbol, _ in ASKED], "trends")
    sentences = [
        f"{case.name}: L_val {direction(loss, True)}, A_val {direction(accuracy, False)}."
        for case, loss, accuracy in zip(cases, trends[::2], trends[1::2], strict=True)
    ]
    return [*sentences, *(_best(results.of(model=model).extrema, MODELS[model]) for model in results.models)], table


def _best(extrema: pl.DataFrame, name: str) -> str:
    """Sentence on the size with the smallest mean L_val, which a trend does not show."""
    means = extrema.group_by("num_layers", "embedding_size", "parameters").agg(pl.col("valid_loss").mean())
    best = means.sort("valid_loss", "parameters").row(0, named=True)
    largest = int(means["parameters"].max() or 0)  # type: ignore[arg-type]  # counts are integers
    return (
        f"{name}: the smallest mean L_val, {number(best['valid_loss'])}, is at L = {best['num_layers']} and "
        f"d = {best['embedding_size']}, P = {best['parameters']:,}, of up to {largest:,}."
    )


def _comparisons(results: Results) -> tuple[list[str], list[Table]]:
    """Comparisons of both models' scaling with d for each L, with L for each d, and with P: sentences and tables."""
    groups = {
        "For fixed L, with d": [
            Case(f"L = {depth}", results.of(num_layers=depth).extrema, WIDTH) for depth in results.values("num_layers")
        ],
        "For fixed d, with L": [
            Case(f"d = {width}", results.of(embedding_size=width).extrema, DEPTH)
            for width in results.values("embedding_size")
        ],
        "With P": [Case("all runs", results.extrema, SIZE, _SIZES)],
    }
    names = ("slopes-width", "slopes-depth", "slopes-size")
    comparisons = who_scales_better(
        {
            name: [case for case in cases if not case.frame.is_empty()]
            for name, cases in zip(names, groups.values(), strict=True)
        }
    )
    answers = [
        f"{question}: {' '.join(sentences)}" for question, (sentences, _) in zip(groups, comparisons, strict=True)
    ]
    return answers, [table for _, table in comparisons if table is not None]
