"""Study of attention: the weights of a GPT that has generalised.

Source: the practical, problem 4, question 8: for two training equations a grid of layers × heads of attention weights,
with labelled axes; which positions are attended to, by all heads or by some.
"""

from itertools import chain

import polars as pl
import torch

from shoal.analysis import at_least
from shoal.analysis.attention import attention_by_position, attention_to_one, attention_weights, focus
from shoal.analysis.extrema import deviation
from shoal.analysis.knockout import knockouts
from shoal.lab import Records
from shoal.models import GPT
from shoal.report import Cell, Figure, Report, Section, Table
from shoal.report.attention import attention_grid
from shoal.report.words import counted, listed, with_deviation
from shoal.studies.base import Form, Grid
from shoal.studies.knockouts import knockout_answers, knockout_table
from shoal.studies.parts import finished
from shoal.studies.results import Results
from shoal.studies.settings import per_model
from shoal.tasks.arithmetic.data import ArithmeticData
from shoal.tasks.arithmetic.equations import EQ
from shoal.tasks.arithmetic.settings import equations_of

QUESTION = "Where do the heads of a GPT that has generalised look?"
GENERALISED = 0.9  # least A_val of the kept model
LITTLE = 0.05  # weights and shares below are left out of sentences
NEARLY_ALL = 0.9  # of the weight, for one position to have it alone
SAMPLES = 2


def grids(quick: bool) -> list[Grid]:
    """Grids of the GPTs of the sanity check."""
    return per_model(quick, models=("gpt",))


def report(results: Results, form: Form) -> Report:
    """Report with maps of two training equations of the first run that generalised, and attention of all that did."""
    runs = _generalised(results)
    if not runs:
        best = float(results.extrema["valid_accuracy"].max())  # type: ignore[arg-type]  # accuracies are numbers
        answer = (
            f"Of {counted(len(results.runs), 'run')} none has a kept model of A_val ≥ {GENERALISED} (the best A_val of "
            f"any step was {best:.3f}): there is no generalised model to look into. Train longer, or with more seeds."
        )
        return finished("attention", "Attention", QUESTION, [answer], [], results, form)
    shown = runs[0]
    spec, model = results.specs[shown], results.records.model(shown)
    data = equations_of(spec)
    names = position_names(data)
    pairs = data.train[:SAMPLES]
    figures = [
        _figure(data, attention_weights(model, data.rows(row.view(1))[0])[0], int(row), spec.seed) for row in pairs
    ]
    weights = {run: _weights(results.records, run) for run in runs}
    query = names.index(EQ)
    everywhere = pl.concat([attention_by_position(w).with_columns(run=pl.lit(run)) for run, w in weights.items()])
    alone = pl.concat(
        [attention_to_one(w, query, NEARLY_ALL).with_columns(run=pl.lit(run)) for run, w in weights.items()]
    )
    knocked = pl.concat([_knocked(results.records, run).with_columns(run=pl.lit(run)) for run in runs])
    which = _which(data)
    tables = [
        _by_head(weights[shown], f"run {shown}, seed {spec.seed}", names, which),
        _by_position(everywhere, names, which),
        _one_position(alone, names, which),
    ]
    return finished(
        "attention",
        "Attention",
        QUESTION,
        [*answers(everywhere, alone, names, which), *knockout_answers(knocked, everywhere, names, spec.q or spec.p)],
        [
            Section(
                "Two training equations",
                figures=figures,
                about="a map for each head: a bright cell is a position (column) that a position (row) looks at.",
            ),
            Section(
                f"Attention weights over all {which}",
                tables=tables,
                about="the same as means, so that two equations do not stand for all.",
            ),
            Section(
                "Attention knockout",
                tables=[knockout_table(knocked, names, which)],
                about="the results that stay right when a position may not be looked at; not all that is seen matters.",
            ),
        ],
        results,
        form,
    )


def _generalised(results: Results) -> list[str]:
    """Runs whose last kept model was evaluated and reaches the threshold, in order."""
    last_models = {run: max(files) for run in results.runs["run"] if (files := results.records.model_files(run))}
    at_kept = pl.col("step") == pl.col("run").replace_strict(last_models, default=None, return_dtype=pl.Int64)
    good = set(results.curves.filter(at_kept & at_least("valid_accuracy", GENERALISED))["run"])
    return [run for run in last_models if run in good]


def position_names(data: ArithmeticData) -> list[str]:
    """Names of the input positions of an equation of the longest order, ``BOS a + b = r``, each distinct:
    ``BOS a +₁ b +₂ c = r``."""
    letters, out = iter("abc"), list[str]()
    for token in data.tokenizer.decode(data.rows(_longest(data)[:1])[0][0]).split():
        out.append((next(letters, "r") if EQ not in out else "r") if token.isdigit() else token)
    return [
        f"{name}{'₁₂₃₄'[out[:place].count(name)]}" if out.count(name) > 1 else name for place, name in enumerate(out)
    ]


def _longest(data: ArithmeticData) -> torch.Tensor:
    """Rows of the equations of the longest order, whose positions :func:`position_names` names."""
    return (data.order == data.order.max()).nonzero().flatten()


def _which(data: ArithmeticData) -> str:
    """Description of these equations in words."""
    longest = _longest(data)
    some = f" with {int(data.order.max())} operands" if len(longest) < len(data.order) else ""
    return f"{len(longest):,} equations{some}"


def _weights(records: Records, run: str) -> torch.Tensor:
    """Attention weights for every equation of the run's longest order, ``(N, L, H, S, S)``."""
    data = equations_of(records.specs[run])
    inputs, model = data.rows(_longest(data))[0], records.model(run)
    return torch.cat([attention_weights(model, part) for part in torch.split(inputs, 2048)])


def _knocked(records: Records, run: str) -> pl.DataFrame:
    """Accuracy over the same equations without attention to each position."""
    data, model = equations_of(records.specs[run]), records.model(run)
    assert isinstance(model, GPT)  # the study's grid has no others
    return knockouts(model, *data.rows(_longest(data)))


def answers(everywhere: pl.DataFrame, alone: pl.DataFrame, names: list[str], which: str) -> list[str]:
    """Sentences on the positions that are attended to, and by how many heads.

    Args:
        everywhere: ``run`` and the columns of :func:`shoal.analysis.attention.attention_by_position`.
        alone: ``run`` and the columns of :func:`shoal.analysis.attention.attention_to_one`, from '='.
        names: names of the positions.
        which: the equations in words.

    Keys are compared from one query alone, which sees them all.
    """
    runs = counted(everywhere["run"].n_unique(), "run")
    query = names.index(EQ)
    seen = everywhere.filter(query=query).sort("weight", "key", descending=[False, True])  # of equals the first key
    heads = seen.group_by("run", "layer", "head").agg(pl.col("key").last())
    tops = heads["key"].value_counts().sort(["count", "key"], descending=[True, False]).to_dicts()
    counts = listed([f"{names[top['key']]!r} for {top['count']} of {len(heads)} heads" for top in tops])
    return [
        f"In {runs} whose model has A_val ≥ {GENERALISED}, over all {which}: from '=', where the result is predicted, "
        f"most weight is on {counts} (mean over equations).",
        *chain.from_iterable(
            zip(_by_layer(everywhere, names, query, runs), _alone_by_layer(alone, names), strict=True)
        ),
        _before(everywhere, names, query),
    ]


def _by_layer(everywhere: pl.DataFrame, names: list[str], query: int, runs: str) -> list[str]:
    """Sentences on the keys that each layer attends to from one query, mean over heads, small weights left out."""
    per_run = (
        everywhere.filter(query=query).group_by("layer", "run", "key", maintain_order=True).agg(pl.col("weight").mean())
    )
    means = per_run.group_by("layer", "key").agg(pl.col("weight").mean(), deviation("weight").alias("std"))
    out = []
    means = means.sort("layer", "weight", "key", descending=[False, True, False])
    for (layer,), of_layer in means.group_by("layer", maintain_order=True):
        seen = of_layer.filter(pl.col("weight") >= LITTLE).to_dicts()
        shown = listed([f"{with_deviation(row['weight'], row['std'], 2)} at {names[row['key']]!r}" for row in seen])
        rest = f", and less than {LITTLE} at any other" if len(seen) < len(of_layer) else ""
        spread = f" ± standard deviation over {runs}" if everywhere["run"].n_unique() > 1 else ""
        out.append(f"Layer {int(str(layer)) + 1}, from '=': {shown}{rest} (mean over equations and heads{spread}).")
    return out


def _alone_by_layer(alone: pl.DataFrame, names: list[str]) -> list[str]:
    """Sentences on the equations in which one position has nearly all the weight, and on the heads in which that
    position depends on the equation."""
    out = []
    for (layer,), of_layer in alone.sort("layer").group_by("layer", maintain_order=True):
        means = of_layer.group_by("key").agg(pl.col("share").mean()).sort("share", "key", descending=[True, False])
        seen = means.filter(pl.col("key").is_not_null(), pl.col("share") >= LITTLE).to_dicts()
        shown = [f"in {row['share']:.0%} at {names[row['key']]!r}" for row in seen]
        divided = float(means.filter(pl.col("key").is_null())["share"].item())
        heads = of_layer.filter(pl.col("key").is_not_null(), pl.col("share") >= LITTLE).group_by("run", "head").len()
        changing = int((heads["len"] > 1).sum())
        n = of_layer.select("run", "head").n_unique()
        which = f": {listed(shown)}" if shown else ""
        out.append(
            f"Single heads in layer {int(str(layer)) + 1}: in {1 - divided:.0%} of the equations, mean over heads, a "
            f"head looks almost only at one position (more than {NEARLY_ALL} of its weight){which}. "
            + _switching(changing, n)
        )
    return out


def _switching(changing: int, heads: int) -> str:
    """Sentence on the heads that look almost only at another position in other equations."""
    if not changing:
        return f"None of {counted(heads, 'head')} switches between positions."
    return (
        f"{changing} of {counted(heads, 'head')} switch between two positions or more, looking almost only at each in "
        f"at least {LITTLE:.0%} of the equations, which the mean hides."
    )


def _before(everywhere: pl.DataFrame, names: list[str], query: int) -> str:
    """Sentence on the keys that positions before ``query`` attend to most, but the first, which sees only itself."""
    means = everywhere.filter(pl.col("query").is_between(1, query - 1)).group_by("layer", "query", "key")
    weights = means.agg(pl.col("weight").mean()).sort("weight", "key", descending=[False, True])
    tops = weights.group_by("layer", "query").last().sort("layer", "query")
    layers = []
    for (layer,), of_layer in tops.group_by("layer", maintain_order=True):
        looks = [
            f"{names[row['query']]!r} at {names[row['key']]!r} ({row['weight']:.2f})" for row in of_layer.to_dicts()
        ]
        layers.append(f"in layer {int(str(layer)) + 1} {listed(looks)}")
    return f"Before '=', each position looks most, mean over heads and runs: {'; '.join(layers)}."


def _figure(data: ArithmeticData, weights: torch.Tensor, row: int, seed: int) -> Figure:
    tokens = data.tokenizer.decode(data.rows(torch.tensor([row]))[0][0]).split()
    text = " ".join(tokens)
    caption = (
        f"Attention weights of the GPT of seed {seed} for the training equation “{text}”. Rows of the grid are layers, "
        "columns heads. In each map a row is the query, a column the key that it looks at; each row adds up to 1. Keys "
        "after the query cannot be seen and are left blank."
    )
    number = "-".join(token for token in tokens if token.isdigit())
    return Figure(f"attention-{number}", attention_grid(weights, tokens, f"“{text}”"), caption)


def _by_head(weights: torch.Tensor, run: str, names: list[str], which: str) -> Table:
    query = names.index(EQ)
    mean, concentration = weights.double().mean(0)[:, :, query], focus(weights)[:, :, query]  # (L, H, S), (L, H)
    rows, raw = [], []
    for layer in range(mean.shape[0]):
        for head in range(mean.shape[1]):
            weights_to = mean[layer, head, : query + 1]
            cells = [Cell(f"{w:.3f}", bool(w == weights_to.max())) for w in weights_to]
            place = {"layer": layer + 1, "head": head + 1, "focus": float(concentration[layer, head])}
            raw += [{**place, "key": key, "at": names[key], "weight": float(w)} for key, w in enumerate(weights_to)]
            rows.append((f"layer {layer + 1}, head {head + 1}", [*cells, Cell(f"{concentration[layer, head]:.2f}")]))
    caption = (
        f"From the query '=' (where the result is predicted) to each key, mean over all {which}; "
        f"{run}; the largest in bold. focus: 1 − entropy / its largest value: 0 looks "
        "everywhere alike, 1 at one key."
    )
    return Table("by-head", ["", *names[: query + 1], "focus"], rows, caption, pl.DataFrame(raw))


def _by_position(everywhere: pl.DataFrame, names: list[str], which: str) -> Table:
    per_run = everywhere.group_by("run", "layer", "query", "key", maintain_order=True).agg(pl.col("weight").mean())
    means = per_run.group_by("layer", "query", "key").agg(pl.col("weight").mean(), deviation("weight").alias("std"))
    rows = []
    for (layer, query), of_query in means.sort("layer", "query", "key").group_by("layer", "query", maintain_order=True):
        top = of_query["weight"].max()
        texts = {
            row["key"]: Cell(with_deviation(row["weight"], row["std"], 2), row["weight"] == top)
            for row in of_query.to_dicts()
        }
        cells = [texts.get(key, Cell("")) for key in range(len(names))]
        rows.append((f"layer {int(str(layer)) + 1}, from {names[int(str(query))]}", cells))
    runs = everywhere["run"].n_unique()
    spread = f", ± population standard deviation over {counted(runs, 'run')}" if runs > 1 else " of the one run"
    caption = (
        f"Mean weight over heads and all {which}{spread} whose model has A_val ≥ {GENERALISED}; rows: query, columns: "
        "key; the largest in bold."
    )
    labels = pl.col("query", "key").replace_strict(dict(enumerate(names)), return_dtype=pl.String).name.prefix("at_")
    data = means.with_columns(labels, pl.col("layer") + 1, N=pl.lit(runs))
    return Table("by-position", ["", *names], rows, caption, data.sort("layer", "query", "key"))


def _one_position(alone: pl.DataFrame, names: list[str], which: str) -> Table:
    """Table of the shares of equations in which a head of a run attends from '=' to one position alone."""
    query = names.index(EQ)
    rows = []
    for (run, layer, head), of_head in alone.group_by("run", "layer", "head", maintain_order=True):
        shares = dict(of_head.select("key", "share").iter_rows())
        cells = [Cell(f"{shares[key]:.3f}", shares[key] == max(shares.values())) for key in (*range(query + 1), None)]
        label = f"{str(run)[:8]}, layer {int(str(layer)) + 1}, head {int(str(head)) + 1}"
        rows.append((label, cells))
    caption = (
        f"Share of all {which} in which a head puts more than {NEARLY_ALL} of its weight from '=' on this position; "
        "last, on no position alone; the largest in bold; rows: run, layer and head."
    )
    at = pl.col("key").replace_strict(dict(enumerate(names)), default="none", return_dtype=pl.String).alias("at_key")
    data = alone.with_columns(at, pl.col("layer") + 1, pl.col("head") + 1)
    return Table("one-position", ["", *names[: query + 1], "none"], rows, caption, data)
