"""Scaling compute: batch size and number of steps under a budget.

Source: the practical, problem 4, question 6: B from 2^5 to 2^9, T = 2·10⁴ + 1, the best figures under αT steps for α
from 0.1 to 1, and the best (B, T) for a budget C = P·B·T. The practical counts sequences; floating-point operations
are reported beside them.
"""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from shoal.analysis.accounts import sequences_per_step
from shoal.analysis.budgets import budgeted, frontier, iso_compute
from shoal.report import Cell, Figure, Report, Section, Table
from shoal.report.panels import CURVES, MODELS, Axis, band_note, budget_panels, summary_panels
from shoal.report.quantities import Panel
from shoal.report.summary import show
from shoal.report.words import counted, listed, number
from shoal.studies.answers import Case, direction, how_it_goes
from shoal.studies.base import Form, Grid
from shoal.studies.parts import LEARNING, POINTS_NOTE, curves_figure, finished, summary_figure, times_sections
from shoal.studies.power_laws import power_laws
from shoal.studies.results import Results, number_of_runs, trained_equations
from shoal.studies.settings import per_model

QUESTION = "For a budget of compute, which batch size and how many steps generalise best?"
BATCH = Axis("train_batch_size", "batch size B", log=2)
BUDGET = Axis("compute", "C = P·B·T", log=10)
SHARE = Axis("share", "share α of the steps")
VALIDATION = (CURVES[1], CURVES[3])
QUANTITIES = {"valid_loss": ("L_val", True), "valid_accuracy": ("A_val", False)}


def grids(quick: bool) -> list[Grid]:
    """Grids of both models over the batch size and the seeds."""
    if quick:
        return per_model(quick, train_batch_size=[32, 64, 128, 256])
    return per_model(quick, {"n_steps": 20_001}, train_batch_size=[32, 64, 128, 256, 512])


def report(results: Results, form: Form) -> Report:
    """Report with curves by B, the eight figures against B for each α, the frontier, and the answers."""
    spent = budgeted(results.curves, _accounts(results))
    curves, summaries, frontiers, tables = [], [], [], []
    for model in results.models:
        of_model, name = results.of(model=model), MODELS[model]
        frame = spent.filter(model=model)
        curves.append(curves_figure(of_model, BATCH, f"curves-{model}", f"{name} by batch size"))
        title = f"{name} against B, under a share α of the steps"
        summaries.append(summary_figure(of_model, BATCH, SHARE, f"summary-{model}", title, frame))
        frontiers += [_frontier_figure(frame, model), _iso_figure(of_model, model)]
        tables.append(_best_table(frame, model))
    distinct, notes = _distinct(spent, trained_equations(results.spec()))
    answers, trends = _trends(distinct, results.models)
    laws, law_table = power_laws(distinct.filter(pl.col("steps") > 0), BUDGET, "C", "power-laws", BATCH.column)
    tables += [law_table] if law_table else []
    return finished(
        "compute-scaling",
        "Scaling compute",
        QUESTION,
        [*notes, *answers, *laws],
        [
            Section("Learning curves", figures=curves, about=LEARNING),
            Section(
                "Under a share of the steps",
                figures=summaries,
                tables=[trends],
                about="the best values of runs that had been stopped earlier, against the batch size.",
            ),
            Section(
                "The best way to spend a budget",
                [_counting(spent), *notes],
                frontiers,
                tables,
                "which batch size and number of steps leave the lowest loss for the same compute.",
            ),
            *times_sections(results, {"": BATCH}, form),
        ],
        results,
        form,
    )


def _accounts(results: Results) -> pl.DataFrame:
    """Runs with ``sequences``, the mean number in a step's batch, and ``tokens`` of each sequence."""
    seen, tokens = {}, {}
    for run, spec in results.specs.items():
        seen[run] = sequences_per_step(spec.task_part.counts().drawn, spec.train_batch_size)
        tokens[run] = spec.task_part.sizes().sequence_length
    of_run = pl.col("run")
    return results.runs.drop("state", "step").with_columns(
        of_run.replace_strict(seen, return_dtype=pl.Float64).alias("sequences"),
        of_run.replace_strict(tokens, return_dtype=pl.Int64).alias("tokens"),
    )


def _distinct(spent: pl.DataFrame, equations: int) -> tuple[pl.DataFrame, list[str]]:
    """Runs without duplicates, and a sentence where there are such: from the first batch size that holds the whole
    training set on, every step is the same."""
    whole = sorted(size for size in spent["train_batch_size"].unique() if size >= equations)
    if len(whole) < 2:
        return spent, []
    note = (
        f"B = {listed(whole)} hold all {equations} training equations: every step sees the whole training set, and "
        f"these runs differ in name alone. Trends and power laws leave out B > {whole[0]}; figures and tables show "
        "them all, at a C that counts B."
    )
    return spent.filter(pl.col("train_batch_size") <= whole[0]), [note]


def _counting(spent: pl.DataFrame) -> str:
    over = spent.filter(pl.col("sequences") < pl.col("train_batch_size"))
    text = (
        "C = P·B·T counts parameter-sequences, as the practical defines it; FLOP = 6·P·B·S·T counts the operations of "
        "training over S tokens per sequence, attention over the sequence left out."
    )
    if over.is_empty():
        return text
    pairs = over.select("train_batch_size", "sequences").unique().sort("train_batch_size")
    seen = ", ".join(f"{sequences:.3g} at B = {size}" for size, sequences in pairs.rows())
    return (
        f"{text} Where B does not divide the training set, the last batch of a pass is smaller, and a step sees fewer "
        f"equations in the mean ({seen}): FLOP counts these, C counts B."
    )


def _frontier_figure(frame: pl.DataFrame, model: str) -> Figure:
    n = number_of_runs(frame, ["train_batch_size", "share"])
    caption = (
        f"{MODELS[model]}: best L_val and A_val of runs that have spent a budget C = P·B·T (P fixed). One line per "
        "batch size B, coloured by B (logarithmic), points at the shares α of the steps. Black: the best (B, T) for "
        f"each budget. Vertical lines of the grid are lines of equal compute. Mean over {n} runs (seeds). Both axes "
        "of the loss are logarithmic."
    )

    def best(runs: pl.DataFrame, panel: Panel) -> pl.DataFrame:
        return frontier(runs, BATCH.column, panel.column, QUANTITIES[panel.column][1])

    spent = replace(BUDGET, title=f"{BUDGET.title} (parameter-sequences)")
    chart = budget_panels(frame, spent, BATCH, f"{MODELS[model]}: performance for a budget", VALIDATION, best)
    return Figure(f"frontier-{model}", chart, caption)


def _iso_figure(of_model: Results, model: str) -> Figure:
    frame = iso_compute(of_model.curves, _accounts(of_model))
    title = f"{MODELS[model]}: along lines of equal compute"
    n = number_of_runs(frame, ["train_batch_size", "compute"])
    caption = (
        f"{title}. L_val and A_val against the batch size B where T = C / (P·B), one line per budget C, coloured by C "
        f"(logarithmic). {band_note(n)} {POINTS_NOTE}"
    )
    chart = summary_panels(frame, BATCH, BUDGET, title, VALIDATION, columns=2)
    return Figure(f"iso-compute-{model}", chart, caption)


def _best_table(frame: pl.DataFrame, model: str) -> Table:
    """Table of the best batch size for each budget that one of them spends."""
    rows, data = [], []
    budgets = sorted(frame["compute"].unique().to_list())
    chosen = sorted({budgets[round(k * (len(budgets) - 1) / 9)] for k in range(10)})
    best = {c: frontier(frame, "train_batch_size", c, small) for c, (_, small) in QUANTITIES.items()}
    for budget in chosen:
        cells = []
        for column, optima in best.items():
            row = optima.filter(pl.col("compute") == budget).to_dicts()[0]
            cells += [
                Cell(f"{row['train_batch_size']}"),
                Cell(f"{row['steps']:,}"),
                Cell(f"{row['flop']:.3g}"),
                Cell(show(row[column], row["std"], False)),
            ]
            data.append({"compute": budget, "for": column, **row, "mean": row[column]})
        rows.append((f"{budget:.3g}", cells))
    header = ["C"]
    for symbol, _ in QUANTITIES.values():
        header += [*(f"{what} for {symbol}" for what in ("B", "T", "FLOP")), symbol]
    caption = (
        f"{MODELS[model]}: the best use of each budget. Of a budget C = P·B·T (parameter-sequences) the batch size B "
        "and the number of steps T, of those that spend no more, with the smallest mean L_val and with the largest "
        "mean A_val, and the FLOP these take; mean ± population standard deviation over seeds."
    )
    numbers = pl.DataFrame(data).drop(QUANTITIES, strict=False)
    return Table(f"best-{model}", header, rows, caption, numbers)


def _trends(spent: pl.DataFrame, models: Sequence[str]) -> tuple[list[str], Table]:
    """Trends of validation with B, at the smallest, the middle and the largest α, and changes with α.

    Along α a best value can only improve, so that there is nothing to test.
    """
    cases, longer = [], []
    for model in models:
        of_model = spent.filter(model=model)
        shares, sizes = (sorted(of_model[name].unique().to_list()) for name in ("share", "train_batch_size"))
        cases += [
            Case(f"{MODELS[model]} with B at α = {share:g}", of_model.filter(share=share), BATCH)
            for share in (shares[0], shares[len(shares) // 2 - 1], shares[-1])
        ]
        longer += [
            _longer(of_model.filter(train_batch_size=size), f"{MODELS[model]} at B = {size}")
            for size in dict.fromkeys((sizes[0], sizes[-1]))
        ]
    columns = [("log_valid_loss", "log₁₀ L_val"), ("valid_accuracy", "A_val")]
    trends, table = how_it_goes(cases, columns, "trends")
    sentences = []
    for case, loss, accuracy in zip(cases, trends[::2], trends[1::2], strict=True):
        best = [_best_at(case.frame, column) for column in QUANTITIES]
        sentences.append(
            f"{case.name}: L_val {direction(loss, True)}, A_val {direction(accuracy, False)}; the best mean L_val is "
            f"at B = {best[0]}, the best mean A_val at B = {best[1]}."
        )
    return [*sentences, *longer], table


def _best_at(runs: pl.DataFrame, column: str) -> str:
    """Batch sizes with the best mean, usually one, which a trend does not show."""
    means = runs.group_by("train_batch_size").agg(pl.col(column).mean()).sort("train_batch_size")
    best = means[column].min() if QUANTITIES[column][1] else means[column].max()
    return listed(means.filter(pl.col(column) == best)["train_batch_size"].to_list())


def _longer(frame: pl.DataFrame, name: str) -> str:
    """Sentence on the change of the best values from the smallest α to the largest, for a batch size."""
    shares = sorted(frame["share"].unique().to_list())
    first, last = (frame.filter(share=share) for share in (shares[0], shares[-1]))
    moves = [
        f"{symbol} goes from {number(first[column].mean())} to {number(last[column].mean())}"  # type: ignore[arg-type]  # mean of floats
        for column, (symbol, _) in QUANTITIES.items()
    ]
    runs = counted(frame["run"].n_unique(), "run")
    return f"{name}, from α = {shares[0]:g} to {shares[-1]:g} the best {' and '.join(moves)} (mean over {runs})."
