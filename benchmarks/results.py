"""Results of the benchmark as tables, charts, numbers and a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import altair as alt
import polars as pl
import torch
import vl_convert

from benchmarks.cases import CONFIGURATIONS, METHODS, Case, Request
from benchmarks.harness import Outcome, Result, title
from shoal.lab.environment import environment
from shoal.lab.files import write
from shoal.report.figures import Figure, styled
from shoal.report.table import Cell, Table
from shoal.training.executor import cores

WIDTH, HEIGHT = 420, 240
LEAST_SET_UP = 0.1  # seconds; a difference between two windows, which differ by as much without
# Okabe and Ito's colours, told apart in grey by their dashes
COLOURS = {"shoal": "#0072B2", "plain": "#D55E00", "compiled": "#009E73", "torch_nn": "#CC79A7", "jax": "#000000"}
DASHES = {"shoal": [1, 0], "plain": [8, 3], "compiled": [4, 3], "torch_nn": [1.5, 2.5], "jax": [8, 3, 1.5, 3]}

HEADER = (
    "",
    "processes × threads",
    "ms",
    "× plain",
    "lowest, highest",
    "set-up (s)",
    "peak (MiB)",
    "GFLOP/s",
    "of products",
    "evaluation (ms)",
    "flush (ms)",
)
METHOD = """\
- **One run, alternating.** A window of `plain`, then one of the method, and again. × plain is the median of the ratio
  of such neighbours, beside its lowest and highest; above 1 is faster than `plain`.
- **A step** is a step on the default schedule, per member: training, its share of evaluations (201 in 10,001 steps; on
  a text 9 in 2,001, as nanoGPT has them, but of every token) and, for shoal, of flushes (one every 20 s of training;
  the baselines write nothing). In a window ordinary steps, an evaluation and a flush are timed, each on its own, and
  added in these proportions; the last two columns say what one evaluation and one flush take, per member. The model
  that is kept at the end of a run is left out.
- **As a reader would run it.** `plain`, `compiled`, `torch_nn` and `jax` are one process with all threads. shoal is one
  process per core, as `shoal train` runs it, each with its share of the members; the slowest counts. Where batches do
  not divide the training set, JAX draws full ones (with replacement) and the others take a smaller last one.
- **Set-up** is building, compiling (from an empty cache for `torch.compile`) and by how much the first window took
  longer than a later one; starting Python and importing is left out.
- **Peak** is the largest resident memory of the processes that train, summed, libraries included.
- **GFLOP/s** counts the operations of the models as they are written, 6 P B S per step and member, with P parameters
  without embeddings. A method that avoids work, as shoal does where equations begin alike, can show more than it
  computes, and more than the machine can. **Of products** is its share of what the machine does in `torch.mm` of the
  shape (B S, d) × (d, 4 d) in float32, one process per core, all at once, measured in the same run.
"""


def tables(results: Sequence[Result]) -> list[Table]:
    """Tables of each case, the fastest method in bold."""
    return [_table(case, [r for r in results if r.case == case]) for case in dict.fromkeys(r.case for r in results)]


def _table(case: Case, case_results: Sequence[Result]) -> Table:
    best = max(median(result.ratios) for result in case_results)
    rows = []
    for result in case_results:
        ratio = median(result.ratios)
        texts = [
            f"{result.processes} × {result.threads}",
            short(median(result.milliseconds)),
            f"{ratio:.2f}",
            "" if result.subject.method == "plain" else f"{min(result.ratios):.2f}, {max(result.ratios):.2f}",
            f"{result.set_up:.1f}" if result.set_up >= LEAST_SET_UP else f"< {LEAST_SET_UP}",
            f"{result.peak:,.0f}",
            short(result.rate / 1e9),
            f"{result.share:.2f}",
            short(result.evaluation),
            "–" if result.subject.method != "shoal" else short(result.flush),
        ]
        cells = [Cell(text, column in (1, 2) and ratio == best) for column, text in enumerate(texts)]
        rows.append((title(result.subject) + (f" (engine: {result.engine})" if result.engine else ""), cells))
    n = min(len(result.ratios) for result in case_results)  # plain stands beside each of the others
    spread = f"{short(min(case_results[0].milliseconds))} to {short(max(case_results[0].milliseconds))}"
    caption = (
        f"{case.model.upper()}, {case.configuration.about}. Milliseconds per member and step; N = {n} "
        f"pair{'s' * (n != 1)} of windows for each method. `plain` took {spread} ms over all its windows, "
        f"N = {len(case_results[0].milliseconds)}. The machine's products: "
        f"{short(case_results[0].machine_rate / 1e9)} GFLOP/s."
    )
    return Table(case.name, HEADER, rows, caption)


def short(value: float) -> str:
    """Number with three digits, without an exponent for large ones."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def frame(results: Sequence[Result]) -> pl.DataFrame:
    """Frame of one row per case, method and number of members; medians with lowest and highest."""
    return pl.DataFrame(
        [
            {
                **_names(result),
                "processes": result.processes,
                "threads": result.threads,
                "engine": result.engine,
                "windows": len(result.milliseconds),
                **_spread("milliseconds", result.milliseconds),
                **_spread("times_plain", result.ratios),
                "evaluation_milliseconds": result.evaluation,
                "flush_milliseconds": result.flush,
                "set_up_seconds": result.set_up,
                "peak_mib": result.peak,
                "gflop_per_second": result.rate / 1e9,
                "machine_gflop_per_second": result.machine_rate / 1e9,
                "share": result.share,
            }
            for result in results
        ]
    )


def pairs(results: Sequence[Result]) -> pl.DataFrame:
    """Frame of one row per pair of windows: milliseconds per member and step of the method and of ``plain``."""
    return pl.DataFrame(
        [
            {**_names(result), "pair": pair, "milliseconds": method, "plain_milliseconds": plain}
            for result in results
            for pair, (method, plain) in enumerate(zip(result.milliseconds, result.plain, strict=True))
        ]
    )


def _names(result: Result) -> dict[str, str | int]:
    case, subject = result.case, result.subject
    names = {"configuration": case.configuration.name, "model": case.model, "method": subject.method}
    return {**names, "members": subject.members}


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    return {name: median(values), f"{name}_lowest": min(values), f"{name}_highest": max(values)}


def figures(results: Sequence[Result]) -> list[Figure]:
    """Figures of the cost of a member's step against the number of members, where shoal was measured with several."""
    rows = frame(results)
    made = []
    for case in dict.fromkeys(result.case for result in results):
        of_case = rows.filter(configuration=case.configuration.name, model=case.model)
        if of_case.filter(method="shoal")["members"].n_unique() > 1:
            caption = (
                f"{case.model.upper()}, {case.configuration.about}: milliseconds per member and step against the "
                "number of members R that train at once. Points: medians; bars: lowest to highest; "
                "horizontal lines: one run at a time."
            )
            made.append(Figure(case.name, _chart(of_case, f"{case.model.upper()}, {case.configuration.name}"), caption))
    return made


def _chart(rows: pl.DataFrame, heading: str) -> alt.LayerChart:
    stacked = rows.filter(pl.col("members").n_unique().over("method") > 1)
    alone = rows.filter(pl.col("members").n_unique().over("method") == 1)
    shown = [method for method in COLOURS if method in rows["method"]]
    x = alt.X(
        "members:Q",
        title="members R",
        scale=alt.Scale(type="log", base=2, nice=False, padding=12),
        axis=alt.Axis(values=stacked["members"].unique().sort().to_list(), format="d"),
    )
    y = alt.Y("milliseconds:Q", title="ms per member and step", scale=alt.Scale(zero=True), axis=alt.Axis(format="~f"))
    legend = alt.Legend(orient="top", symbolType="stroke", symbolOpacity=1, symbolSize=400)
    scale = alt.Scale(domain=shown, range=[COLOURS[method] for method in shown])
    colour = alt.Color("method:N", title=None, scale=scale, legend=legend)
    dashes: Any = [DASHES[method] for method in shown]  # altair's type knows no lists of lists
    dash = alt.StrokeDash("method:N", title=None, scale=alt.Scale(domain=shown, range=dashes), legend=legend)
    layers = [
        alt.Chart(alone).mark_rule(strokeWidth=1.6).encode(y, colour, dash),
        alt.Chart(stacked)
        .mark_rule(opacity=0.5)
        .encode(x, alt.Y("milliseconds_lowest:Q"), alt.Y2("milliseconds_highest"), colour),
        alt.Chart(stacked).mark_line(strokeWidth=2.2).encode(x, y, colour, dash),
        alt.Chart(stacked).mark_point(filled=True, opacity=1, size=45).encode(x, y, colour),
    ]
    texts = [f"{row['method']}, R = {row['members']}: {row['milliseconds']:.3g}" for row in rows.to_dicts()]
    alternative = f"{heading}. Milliseconds per member and step: {'; '.join(texts)}."
    chart = styled(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=heading), alternative)
    assert isinstance(chart, alt.LayerChart)
    return chart


def write_results(outcome: Outcome, request: Request, command: str, load: float, folder: Path) -> Path:
    """Write ``bench.md``, ``bench.csv``, ``bench/pairs.csv`` and ``bench/CASE.svg``.

    Returns:
        The page's path.
    """
    drawn = figures(outcome.results)
    for figure in drawn:
        write(folder / "bench" / f"{figure.name}.svg", vl_convert.vegalite_to_svg(figure.spec).encode())
    write(folder / "bench.csv", frame(outcome.results).write_csv(float_precision=6).encode())
    write(folder / "bench" / "pairs.csv", pairs(outcome.results).write_csv(float_precision=6).encode())
    page = folder / "bench.md"
    write(page, _page(outcome, request, command, load, {figure.name: figure for figure in drawn}).encode())
    return page


def _page(outcome: Outcome, request: Request, command: str, load: float, drawn: Mapping[str, Figure]) -> str:
    parts = [
        f"# Speed: shoal beside the same runs trained by other means, on {_processor(request)}\n",
        f"    {command}\n",
        _machine(load, request) + "\n",
        "\n".join(f"- `{name}`: {about}" for name, about in METHODS.items()) + "\n",
        *(f"**Not measured:** {name}: {why}\n" for name, why in outcome.missing.items()),
    ]
    for table in tables(outcome.results):
        parts += [f"## {table.name}\n", table.to_markdown()]
        if table.name in drawn:
            figure = drawn[table.name]
            parts.append(f"![{table.name}](bench/{figure.name}.svg)\n\n{figure.caption}\n")
    parts += ["## How it was measured\n", METHOD]
    parts.append("Numbers: [bench.csv](bench.csv); every pair: [pairs.csv](bench/pairs.csv).\n")
    return "\n".join(parts)


def _processor(request: Request) -> str:
    return str(environment(torch.device(request.device))["processor"])


def _machine(load: float, request: Request) -> str:
    """Description of the machine, the time and the versions of the measurement."""
    here = environment(torch.device(request.device))
    configurations = "; ".join(
        f"{name}: {CONFIGURATIONS[name].about}" for name in dict.fromkeys(request.configurations)
    )
    seed = request.cases()[0].seed
    return (
        f"{here['time']}; {here['processor']}, {cores()} cores, {torch.backends.cpu.get_cpu_capability()}; "
        f"torch {here['torch']}, Python {here['python']}, float32; "
        f"shoal {here['shoal']} at commit {here['git_commit']}. "
        f"Load average before the run: {load:.2f}. Seeds: from {seed} on, one for each member. "
        f"{configurations}."
    )
