"""Sections and sentences of the studies of hidden Markov models, made from what they have measured."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from shoal.report import Figure, Section, Table
from shoal.report.fits import degenerate_sentences, impossible_sentences
from shoal.report.hmm_figures import by_states, emissions, restarts, updates
from shoal.report.table import Cell
from shoal.report.words import NOTHING, counted, listed, number, with_interval
from shoal.studies.hmm_scores import pairs_of_updates

Measured = Mapping[str, Any]
MOST_OF_RANGE = 40  # resamples of which the percentiles 2.5 and 97.5 are the smallest and the largest
ABOUT_NUMBERS = "what more states are worth: by criteria that count parameters, and on sequences that did not train."


def number_name(K: int) -> str:
    """Name of a number of states in sentences: ``3 states``."""
    return counted(K, "state")


def states_section(measured: Measured) -> Section:
    """Section on the number of states: log-likelihood, AIC, BIC and held-out likelihood of the best fit of each."""
    rows = measured["numbers"]
    caption = (
        "Left: log-likelihood per observation of the sequences that did not train, of the best fit of each number of "
        "states; lines: Student's intervals (95 %), which take whole sequences as independent. Right: AIC and BIC of "
        "the training sequences above their smallest, on an axis that is linear near 0 and logarithmic beyond."
    )
    figure = Figure("states", by_states(rows, "Numbers of states"), caption)
    return Section("Number of states", figures=[figure], tables=[_numbers_table(rows)], about=ABOUT_NUMBERS)


def _numbers_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    header = ["K", "found again", "degenerate", "P", "log L", "AIC", "BIC", "held out [95 %]", "below the best [95 %]"]
    least = {name: min(row[name] for row in rows) for name in ("aic", "bic")}
    most = max(row["held"] for row in rows)
    body = [
        (
            str(row["num_states"]),
            [
                Cell(f"{row['again']} of {row['restarts']}"),
                Cell(str(row["degenerate"])),
                Cell(f"{row['parameters']:,}"),
                Cell(_nats(row["log_likelihood"])),
                Cell(_nats(row["aic"]), best=row["aic"] == least["aic"]),
                Cell(_nats(row["bic"]), best=row["bic"] == least["bic"]),
                Cell(_interval(row, "held"), best=row["held"] == most > -math.inf),
                Cell(NOTHING if row["held"] == most else _interval(row, "below")),
            ],
        )
        for row in rows
    ]
    caption = (
        "Best of the restarts of each number of states K, among fits without a problem. Found again: restarts within "
        "0.1 nats of the best, itself included. Degenerate: fits that are never the best. P: free parameters. log L: "
        "of the training sequences, in nats. AIC, BIC: the smaller the better. Held out: log-likelihood per "
        "observation of the validation sequences (nats), with Student's interval, which takes whole sequences as "
        "independent. Below the best: the difference from the highest, sequence by sequence, with intervals that hold "
        "together for all pairs of numbers of states (Bonferroni). Bold: the best of each."
    )
    return Table("states", header, body, caption, pl.DataFrame(list(rows), infer_schema_length=None))


def states_sentences(measured: Measured) -> list[str]:
    """Sentences on the number of states that each criterion chooses, and on what cannot be told apart."""
    rows = measured["numbers"]
    chosen = {
        "AIC": min(rows, key=lambda row: float(row["aic"])),
        "BIC": min(rows, key=lambda row: float(row["bic"])),
    }
    top = max(rows, key=lambda row: float(row["held"]))
    impossible = _impossible_sentences(rows)
    of_numbers = f"Of K = {rows[0]['num_states']} to {rows[-1]['num_states']} states"
    if top["held"] == -math.inf:
        words = listed([f"{name} chooses {row['num_states']}" for name, row in chosen.items()])
        return [f"{of_numbers} {words}.", *impossible]
    chosen["held-out likelihood"] = top
    words = ", ".join(f"{name} chooses {row['num_states']}" for name, row in chosen.items())
    held = f"Held out, K = {top['num_states']} has {_interval(top, 'held')} nats per observation"
    others = [row for row in rows if row is not top]
    compared = f"; {_compared(top, others)}" if others else ""
    if others and top is rows[-1]:
        compared += f"; {top['num_states']} is the largest number tried, and a larger one may be better"
    return [f"{of_numbers} {words}. {held}{compared}.", *impossible]


def _compared(top: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """Words for the numbers of states that the validation sequences tell from the one that is likeliest on them."""
    possible = [row for row in others if row["below"] > -math.inf]  # the rest hold a sequence impossible
    if not possible:
        return "every other number holds one of these sequences impossible"
    if all(math.isnan(row["below_high"]) for row in possible):
        return "nothing is told apart: no difference has an interval, which takes two sequences that are not alike"
    alike = [row["num_states"] for row in possible if not row["below_high"] < 0]
    if not alike:
        return "every other number is below it, and no interval of the differences reaches 0"
    fewest = min([*alike, top["num_states"]])
    return (
        f"K = {', '.join(map(str, alike))} cannot be told from it: these sequences do not show that more than {fewest} "
        "help"
    )


def _impossible_sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    named = pl.DataFrame(
        {
            "setting": [f"K = {row['num_states']}" for row in rows],
            "valid_log_likelihood": [row["valid_log_likelihood"] for row in rows],
            "valid_problem": [row.get("valid_problem", "") for row in rows],  # not measured by earlier versions
        }
    )
    return impossible_sentences(named)


def restarts_section(measured: Measured) -> Section:
    """Section on which restarts agree."""
    rows = measured["restarts"]
    caption = (
        "Each point is a restart: how far its log-likelihood is below that of the best fit with as many states, in "
        "nats, on an axis that is linear near 0. Crosses: degenerate fits, which may lie above it and are drawn at 0 "
        "then."
    )
    figure = Figure("restarts", restarts(rows, "Restarts below the best"), caption)
    frame = pl.DataFrame(list(rows), infer_schema_length=None)
    table = (
        frame.filter(pl.col("problem") == "")
        .with_columns(again=pl.col("below") <= 0.1)
        .group_by("num_states", "again", maintain_order=True)
        .agg(pl.len(), pl.col("below").max(), pl.col("distance").max(), pl.col("agreement").min())
    )
    body = [
        (
            f"K = {K}, {'found again' if again else 'other optima'}",
            [Cell(str(n)), Cell(number(below)), Cell(number(distance)), Cell(f"{agreement:.4f}")],
        )
        for K, again, n, below, distance, agreement in table.rows()
    ]
    text = (
        "Restarts within 0.1 nats of the best of their number of states, and the others, degenerate ones left out. "
        "Nats below: of the worst. Distance: largest distance of a model from the best, of 3 at most, after its states "
        "are matched. Agreement: smallest share of the posterior of states in common with the best on the held-out "
        "sequences."
    )
    header = ["restarts", "number", "nats below", "distance", "agreement"]
    about = "whether different random starts come to the same model, whose states may have other numbers."
    return Section("Restarts", figures=[figure], tables=[Table("restarts", header, body, text, frame)], about=about)


def restarts_sentences(measured: Measured) -> list[str]:
    """Sentences on how often the best was found again, with a warning where it was not, and on degenerate fits."""
    rows = measured["numbers"]
    words = ", ".join(f"{row['again']} of {row['restarts']} at K = {row['num_states']}" for row in rows)
    once = [str(row["num_states"]) for row in rows if row["again"] < 2]
    warning = f" At K = {', '.join(once)} it was found once: a better one may not have been found." if once else ""
    fits = pl.DataFrame(measured["fits"], infer_schema_length=None)
    return [
        f"The best of the restarts was found again by {words}.{warning}",
        *degenerate_sentences(fits.filter(pl.col("part") != "the other update")),
    ]


def emissions_section(measured: Measured, title: str, about: str) -> Section:
    """Section on the emissions of the best model, with intervals over resamples, and the truth where it is known."""
    model, symbols = measured["model"], measured["symbols"]
    K = measured["n_states"]
    intervals = (
        f" Lines: {spread(model['resamples'])} of the training sequences, states matched; the farthest of them is at "
        f"a distance of {number(model['farthest'])} (of 3 at most)."
        if model["low"]
        else ""
    )
    ticks = " Ticks: the model that the sequences were drawn from." if "truth" in measured else ""
    if not symbols:
        return Section(title, tables=[transitions_table(measured), _means_table(measured)], about=about)
    frame = emission_rows(measured)
    caption = f"Probability of each symbol in each of {K} states of the best fit.{intervals}{ticks}"
    figure = Figure("emissions", emissions(frame, title), caption)
    return Section(title, figures=[figure], tables=[transitions_table(measured)], about=about)


def spread(resamples: int) -> str:
    """Words for the ends beside a number: percentiles over the best fits of resamples, or the range of a few.

    >>> spread(100), spread(24)
    ('percentile intervals (95 %) over the best fits of 100 resamples', 'ranges over the best fits of 24 resamples')
    """
    kind = "ranges" if resamples <= MOST_OF_RANGE else "percentile intervals (95 %)"
    return f"{kind} over the best fits of {resamples} resamples"


def emission_rows(measured: Measured) -> pl.DataFrame:
    """``symbol``, ``state``, ``probability``, ``low``, ``high`` and ``true`` of each symbol in each state."""
    model, truth = measured["model"], measured.get("truth")
    rows = []
    for k, row in enumerate(model["arrays"]["probabilities"]):
        for v, value in enumerate(row):
            ends = {end: model[end]["probabilities"][k][v] if model[end] else None for end in ("low", "high")}
            true = None if truth is None else truth["arrays"]["probabilities"][k][v]
            name = measured["symbols"][v]
            rows.append(
                {
                    "symbol": "space" if name == " " else name,
                    "state": f"state {k}",
                    "probability": value,
                    **ends,
                    "true": true,
                }
            )
    return pl.DataFrame(rows, schema_overrides={"low": pl.Float64, "high": pl.Float64, "true": pl.Float64})


def transitions_table(measured: Measured) -> Table:
    """Table of start and transitions of the best model, with intervals, and of the truth where it is known."""
    model, truth = measured["model"], measured.get("truth")
    K = measured["n_states"]
    places = {j: [("start", j), *(("transitions", j, k) for k in range(K))] for j in range(K)}
    body = [(f"from state {j}", [Cell(_with_truth(model, truth, place)) for place in row]) for j, row in places.items()]
    raw = [
        {"from": None if place[0] == "start" else place[1], "to": place[-1], **_numbers_at(model, truth, place)}
        for row in places.values()
        for place in row
    ]
    beside = "; after a slash the model that the sequences were drawn from" if truth else ""
    around = f", with {spread(model['resamples'])}" if model["low"] else ""
    caption = f"Transitions P of the best fit, and start π{around}{beside}."
    return Table("transitions", ["", "π", *(f"to state {k}" for k in range(K))], body, caption, _frame(raw))


def _means_table(measured: Measured) -> Table:
    model, truth = measured["model"], measured.get("truth")
    K, D = np.array(model["arrays"]["means"]).shape
    body = [(f"state {k}", [Cell(_with_truth(model, truth, ("means", k, d))) for d in range(D)]) for k in range(K)]
    raw = [
        {"state": k, "dimension": d, **_numbers_at(model, truth, ("means", k, d))} for k in range(K) for d in range(D)
    ]
    around = f", with {spread(model['resamples'])}" if model["low"] else ""
    caption = f"Means of the best fit{around}{'; after a slash the true ones' if truth else ''}."
    return Table("means", ["", *(f"dimension {d}" for d in range(D))], body, caption, _frame(raw))


def _frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(("value", "low", "high", "true"), pl.Float64))


def _numbers_at(
    model: Mapping[str, Any], truth: Mapping[str, Any] | None, place: tuple[Any, ...]
) -> dict[str, float | None]:
    """A number of the best model, the ends of its interval, and the true one."""
    ends = {name: _at(model[part], place) for name, part in (("value", "arrays"), ("low", "low"), ("high", "high"))}
    return {**ends, "true": None if truth is None else _at(truth["arrays"], place)}


def _with_truth(model: Mapping[str, Any], truth: Mapping[str, Any] | None, place: tuple[Any, ...]) -> str:
    numbers = _numbers_at(model, truth, place)
    text = with_interval(numbers["value"], numbers["low"], numbers["high"])
    return text if numbers["true"] is None else f"{text} / {number(numbers['true'])}"


def _at(arrays: Mapping[str, Any], place: tuple[Any, ...]) -> float | None:
    if place[0] not in arrays:
        return None
    value = arrays[place[0]]
    for index in place[1:]:
        value = value[index]
    return float(value)


def update_section(measured: Measured) -> Section:
    """Section on the update of the document beside EM."""
    example = measured["example"]
    figure = Figure(
        "updates",
        updates(example, "Two updates of the transitions"),
        "Log-likelihood of y = 0 0 0 1 1 1 after each update of the transitions alone, from π = (½, ½) and P = E = "
        "((0.9, 0.1), (0.1, 0.9)). EM takes them from the pairwise posteriors p(Zᵢ = j, Zᵢ₊₁ = k | y), and its "
        "likelihood never falls. With the conditional p(Zᵢ₊₁ = k | Zᵢ = j, y) in their place, as the document writes "
        "them, it does.",
    )
    pairs = pairs_of_updates(measured["fits"], measured["n_states"])
    body = [
        (
            str(row["seed"]),
            [
                Cell(_nats(row["log_likelihood"])),
                Cell(_nats(row["log_likelihood_other"])),
                Cell(number(row["log_likelihood_other"] - row["log_likelihood"])),
                Cell(row["problem_other"] or NOTHING),
            ],
        )
        for row in pairs
    ]
    caption = (
        "Where both updates ended from the same starts, on the sequences of this page: log-likelihood of the training "
        "sequences in nats, the difference, and what is noted of the conditional update."
    )
    header = ["seed", "EM", "conditional", "difference", "noted"]
    tables = [Table("updates", header, body, caption, pl.DataFrame(pairs))] if pairs else []
    about = "the update with conditional posteriors is not EM, and its likelihood falls."
    return Section("The document's update", figures=[figure], tables=tables, about=about)


def update_sentences(measured: Measured) -> list[str]:
    """Sentences on the two updates, on the example and on the sequences of the page."""
    example = measured["example"]
    falls = sum(
        after < before for before, after in zip(example["conditional"], example["conditional"][1:], strict=False)
    )
    ends = {name: f"{values[-1]:.5f}".replace("-", "−") for name, values in example.items()}
    out = [
        f"The document's update, with conditional in place of pairwise posteriors, is not EM: on six observations its "
        f"log-likelihood falls in {falls} of {len(example['conditional']) - 1} updates and ends at "
        f"{ends['conditional']}, where EM rises in each to {ends['pairwise']}."
    ]
    pairs = pairs_of_updates(measured["fits"], measured["n_states"])
    if pairs:
        fell = sum("fell" in row["problem_other"] for row in pairs)
        gaps = sorted(row["log_likelihood"] - row["log_likelihood_other"] for row in pairs)
        out.append(
            f"On the sequences of this page it fell in {fell} of {counted(len(pairs), 'run')}, and ended "
            f"{number(gaps[0])} to {number(gaps[-1])} nats below EM from the same start."
        )
    return out


def _nats(value: float) -> str:
    return f"{value:,.1f}".replace("-", "−")


def _interval(row: Mapping[str, Any], name: str) -> str:
    values = [row[f"{name}{end}"] for end in ("", "_low", "_high")]
    texts = [f"{x:.4f}".replace("-", "−") if math.isfinite(x) else number(x) for x in values]
    return texts[0] if math.isnan(values[1]) else f"{texts[0]} [{texts[1]}, {texts[2]}]"
