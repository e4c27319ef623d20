"""Study of adapters: a kept model goes on with another text, by full fine-tuning, LoRA or QLoRA.

Source: document R, question 4. The base (``--base-model FILE``, a kept model of a text in bytes) and the text that it
goes on with (``--text FILE``) are the same for all. Every method is trained over the same seeds at each of its learning
rates, and stands with the rate whose mean validation loss is lowest: each method has as many rates to choose from.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from shoal.analysis.correction import Family
from shoal.analysis.trends import student
from shoal.report import Cell, Report, Section, Table
from shoal.report.panels import Axis
from shoal.report.words import NOTHING, listed, number, with_interval
from shoal.spec import RunSpec
from shoal.studies.answers import bare_p
from shoal.studies.base import Form, Grid
from shoal.studies.parts import curves_figure, finished
from shoal.studies.results import Results

QUESTION = (
    "How much of what full fine-tuning gains on another text do adapters of rank r gain, on a base in full precision "
    "or in a few bits, and what do they cost?"
)
FULL, TIMED = "full fine-tuning", 3
NEEDS = ("base_model", "text")  # settings that have no default
SEEDS = {True: 3, False: 5}
RANKS = {True: (1, 4), False: (1, 2, 4, 8, 16)}
BITS = {True: (2, 4), False: (2, 3, 4, 8)}
RANK = {True: 4, False: 8}  # of the adapters on a quantised base
# Powers of 2 around the usual rates, 1e-3 of full fine-tuning and 4e-3 of adapters; no others were tried.
RATES: Mapping[bool, Mapping[str, Sequence[float]]] = {
    True: {"full": (1e-3, 2e-3, 4e-3), "lora": (4e-3, 8e-3, 1.6e-2)},
    False: {"full": (5e-4, 1e-3, 2e-3), "lora": (2e-3, 4e-3, 8e-3)},
}
COMMON: Mapping[bool, Mapping[str, Any]] = {
    True: {"n_steps": 200, "eval_period": 50, "train_batch_size": 8},
    False: {"n_steps": 1_000, "eval_period": 100, "train_batch_size": 16},
}
LOSSES = (
    "the validation loss in the end, of each method at its best learning rate, and its difference to full fine-tuning, "
    "paired by seeds. The loss at first is that of the base before any step: what quantisation alone costs."
)
COSTS = (
    "the parameters that each run trains; the bytes of the base, which all adapters share, but of which full "
    "fine-tuning has one for each run; the bytes of a run's parameters, gradient and two moments; and the processor "
    "time of one training step of one run, which on a CPU is not shorter with adapters unless batches are small."
)


def grids(quick: bool) -> list[Grid]:
    """Grids of full fine-tuning, of LoRA over ranks, and of QLoRA over bits and over 4-bit floats."""
    seeds, rates, rank = range(SEEDS[quick]), RATES[quick], RANK[quick]
    common = {"task": "text", "model": "finetuned", "tokenizer": "bytes", "lr_schedule": "cosine", **COMMON[quick]}
    lora = {**common, "lora_alpha": 16.0}
    coded = {**lora, "adapter": "qlora", "lora_rank": rank}
    return [
        Grid({**common, "adapter": "full"}, {"lr": rates["full"], "seed": seeds}, FULL),
        Grid(
            {**lora, "adapter": "lora", "lora_width": max(RANKS[quick])},
            {"lora_rank": RANKS[quick], "lr": rates["lora"], "seed": seeds},
            "LoRA",
        ),
        Grid(
            {**coded, "quantization": "absmax"},
            {"quantization_bits": BITS[quick], "lr": rates["lora"], "seed": seeds},
            "QLoRA, absmax",
        ),
        Grid(coded, {"quantization": ("nf4", "fp4"), "lr": rates["lora"], "seed": seeds}, "QLoRA, 4-bit floats"),
    ]


def method_of(spec: RunSpec) -> str:
    """Method of a run, in words.

    >>> from types import SimpleNamespace
    >>> method_of(SimpleNamespace(adapter="lora", lora_rank=4, quantization=None))
    'LoRA, rank 4'
    """
    if spec.adapter == "full":
        return FULL
    if spec.adapter == "lora":
        return f"LoRA, rank {spec.lora_rank}"
    bits = f" of {spec.quantization_bits} bits" if spec.quantization == "absmax" else ""
    return f"QLoRA, rank {spec.lora_rank}, {spec.quantization}{bits}"


def measure(form: Form) -> dict[str, Any]:
    """Costs of each method: ``parameters``, ``base_bytes``, ``run_bytes`` and ``seconds`` of a step of one run."""
    costs: dict[str, Any] = {}
    for spec in form.specs(sys.modules[__name__]):
        if (method := method_of(spec)) not in costs:
            costs[method] = _costs(spec)
    return {"costs": costs}


def _costs(spec: RunSpec) -> dict[str, float]:
    import torch

    from shoal.models.adapters import stored_bytes
    from shoal.models.finetuned import size_of
    from shoal.training.plan import Cohort
    from shoal.training.stack import Stack
    from shoal.training.step import train_steps

    size = size_of(str(spec.base_settings))
    stack = Stack(Cohort((spec,)), torch.device("cpu"))
    train_steps(stack, 1)
    begun = time.process_time()
    train_steps(stack, TIMED)
    seconds = (time.process_time() - begun) / TIMED
    stored = stored_bytes(stack.model)
    trained = stack.theta.shape[1] if spec.adapter == "full" else int(stack.theta.shape[1] * _share(spec))
    state = (2 + len(stack.optimizer_state)) * 4 * stack.theta.shape[1]
    base = 4 * (size["all"] - stored["parameters"]) + stored["bytes"]
    return {"parameters": trained, "base_bytes": base, "run_bytes": state, "seconds": seconds}


def _share(spec: RunSpec) -> float:
    """Share of an adapter that is no padding."""
    return float(spec.lora_rank) / float(spec.lora_width)


def report(results: Results, form: Form) -> Report:
    """Report with losses and their differences to full fine-tuning, costs, and learning curves."""
    methods = {run: method_of(spec) for run, spec in results.specs.items()}
    named = results.renamed([pl.col("run").replace_strict(methods).alias("method")])
    table = compared(named.curves)
    chosen = dict(table.select("method", "lr").iter_rows())
    runs = [run for run, spec in results.specs.items() if spec.lr == chosen.get(methods[run])]
    colour = Axis("method", "method", names=tuple((name, name) for name in chosen))
    sections = [
        Section("Losses", tables=[_losses_table(table)], about=LOSSES),
        Section("Costs", tables=_costs_tables(results.measured), about=COSTS),
        Section(
            "Learning curves",
            figures=[curves_figure(named.only(runs), colour, "curves", "Curves by method at its best learning rate")],
            about="losses and accuracies while the base goes on with the text.",
        ),
    ]
    sentences = [*answers(table), *edges(table, named.curves)]
    return finished("adapters", "Adapters", QUESTION, sentences, sections, results, form)


def compared(curves: pl.DataFrame) -> pl.DataFrame:
    """Validation losses of methods in the end, each at the learning rate of its lowest mean.

    Args:
        curves: ``run``, ``step``, ``valid_loss``, ``method``, ``lr`` and ``seed``.

    Returns:
        One row per method: ``method``, ``lr``, ``n``, ``first`` (mean before any step), ``loss`` with Student's 95 %
        interval ``low``, ``high``, ``difference`` to full fine-tuning at its best rate over common seeds with
        ``difference_low``, ``difference_high``, ``p``, and ``p_holm``, corrected for all of these.
    """
    ends = curves.sort("step").group_by("method", "lr", "seed", maintain_order=True)
    values = pl.col("valid_loss")
    each = ends.agg(values.first().alias("first"), values.last().alias("loss"), pl.col("step").last().alias("end"))
    each = each.filter(pl.col("end") == pl.col("end").max())  # a run that has not come as far has no loss in the end
    means = each.group_by("method", "lr", maintain_order=True).agg(pl.col("loss").mean().alias("mean"))
    best = means.sort("mean", nulls_last=True).group_by("method", maintain_order=True).first().select("method", "lr")
    order = {method: place for place, method in enumerate(curves["method"].unique(maintain_order=True))}
    losses = {
        method: dict(each.filter(method=method, lr=lr).select("seed", "loss").iter_rows())
        for method, lr in sorted(best.iter_rows(), key=lambda row: order[row[0]])
    }
    rates, rows = dict(best.iter_rows()), []
    for method, by_seed in losses.items():
        low, high, _ = student([*by_seed.values()])
        full = losses.get(FULL, {})
        pairs = [by_seed[seed] - full[seed] for seed in by_seed if seed in full and method != FULL]
        ends_of_pairs = student(pairs) if pairs else (None, None, None)
        first = each.filter(method=method, lr=rates[method])["first"].mean()
        row = {"method": method, "lr": rates[method], "n": len(by_seed), "first": first}
        row |= {"loss": sum(by_seed.values()) / len(by_seed), "low": low, "high": high}
        row |= {"difference": sum(pairs) / len(pairs) if pairs else None}
        rows.append(row | dict(zip(("difference_low", "difference_high", "p"), ends_of_pairs, strict=True)))
    floats = ("first", "loss", "low", "high", "difference", "difference_low", "difference_high", "p")
    frame = pl.DataFrame(rows, schema_overrides=dict.fromkeys(floats, pl.Float64), infer_schema_length=None)
    corrected = Family.of(frame["p"].to_list()).corrected
    return frame.with_columns(pl.Series("p_holm", corrected, dtype=pl.Float64))


def answers(table: pl.DataFrame) -> list[str]:
    """Sentences on the losses: what full fine-tuning gains, and each method that differs from it, or does not."""
    full = table.filter(method=FULL)
    if full.is_empty():
        return []
    row = full.row(0, named=True)
    sentences = [
        f"Full fine-tuning lowers the loss from {number(row['first'], 4)} to "
        f"{with_interval(row['loss'], row['low'], row['high'], 4)} nats per token."
    ]
    for row in table.filter(pl.col("method") != FULL).iter_rows(named=True):
        is_below = (row["difference"] or 0) < 0
        ends = [row["difference"], row["difference_low"], row["difference_high"]]
        if is_below:
            ends = [None if end is None else -end for end in (ends[0], ends[2], ends[1])]
        gap, side = with_interval(*ends), "below" if is_below else "above"
        p = row["p_holm"]
        if p is None:
            verdict = "too few seeds for a test"
        else:
            verdict = f"p {bare_p(p)}{'' if p < 0.05 else ', no difference shown'}"
        sentences.append(f"{row['method']}: {gap} nats per token {side} full fine-tuning ({verdict}).")
    return sentences


def edges(table: pl.DataFrame, curves: pl.DataFrame) -> list[str]:
    """Sentence on the methods whose best learning rate is the largest or smallest tried: others may be better."""
    tried = {method: sorted(group["lr"].unique()) for (method,), group in curves.group_by("method")}
    at_edge = [m for m, lr in table.select("method", "lr").iter_rows() if lr in (tried[m][0], tried[m][-1])]
    if not at_edge:
        return []
    whose = "all methods" if len(at_edge) == len(table) else listed(at_edge)
    return [f"The best learning rate of {whose} is at an edge of those tried: a longer search could change the gaps."]


def _losses_table(table: pl.DataFrame) -> Table:
    rows = [
        (
            f"{row['method']} (N = {row['n']})",
            [
                Cell(f"{row['lr']:g}"),
                Cell(number(row["first"], 4)),
                Cell(with_interval(row["loss"], row["low"], row["high"], 4)),
                Cell(with_interval(row["difference"], row["difference_low"], row["difference_high"])),
                Cell(NOTHING if row["p_holm"] is None else bare_p(row["p_holm"])),
            ],
        )
        for row in table.iter_rows(named=True)
    ]
    caption = (
        "Mean over N seeds with Student's 95 % interval, nats per token on the whole validation split; p of the paired "
        "t test, corrected by Holm for all rows. Learning rates are chosen on this split, three per method."
    )
    header = ["method", "learning rate", "L_val at first", "L_val in the end", "difference to full", "p"]
    return Table("losses", header, rows, caption, table)


def _costs_tables(measured: Mapping[str, Any]) -> Sequence[Table]:
    costs = measured.get("costs", {})
    if not costs:
        return []
    rows = [
        (
            method,
            [
                Cell(f"{cost['parameters']:,}"),
                Cell(f"{cost['base_bytes'] / 1e6:.3f}"),
                Cell(f"{cost['run_bytes'] / 1e6:.3f}"),
                Cell(f"{cost['seconds'] * 1e3:.1f}"),
            ],
        )
        for method, cost in costs.items()
    ]
    header = ["method", "parameters", "base, MB", "run, MB", "ms per step"]
    caption = (
        "Ranks that train together are padded to the largest, which the bytes of a run include. 1 MB is 10⁶ bytes."
    )
    data = pl.DataFrame([{"method": method, **cost} for method, cost in costs.items()])
    return [Table("costs", header, rows, caption, data)]
