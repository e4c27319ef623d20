"""Answers in words on the slopes of two models over a setting, each computed with its evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import polars as pl

from shoal.analysis import SlopeDifference, slope_difference
from shoal.analysis.correction import Family
from shoal.analysis.trends import student
from shoal.report import Cell, Table
from shoal.report.panels import MODELS, Axis
from shoal.report.words import counted, listed, number, p_value, with_interval
from shoal.studies.answers import ASKED, LEVEL, Case, bare_p, with_logs
from shoal.studies.crossing import crossing

UNTESTED, CEILING, OPEN = "untested", "ceiling", "open"
HIGHEST = 0.99  # mean A_val from which a further rise would not show
_SAME_END = f"both end at A_val ≥ {HIGHEST}, where a steeper line may only mean a worse start"


@dataclass(frozen=True)
class _Comparison:
    """Comparison of the slopes of both models in one quantity of one case."""

    case: Case
    column: str
    symbol: str
    small: bool
    found: SlopeDifference

    @property
    def at_ceiling(self) -> bool:
        return self.found.units > 0 and _at_ceiling(self.case, self.column)

    @property
    def steeper(self) -> str:
        """Name of the model with the better slope, whatever its significance."""
        assert self.found.difference is not None
        return MODELS["gpt" if (self.found.difference < 0) == self.small else "lstm"]

    def verdict(self, p: float | None) -> str:
        """Name of the model that scales better by this p, or why there is none."""
        if self.found.difference is None:
            return UNTESTED
        if self.at_ceiling:
            return CEILING
        return OPEN if p is None or p >= LEVEL else self.steeper


@dataclass(frozen=True)
class _Lead:
    """Lead of the GPT in A_val, over all settings that both models have, for each seed."""

    axis: Axis
    per_seed: list[float]


def per(axis: Axis) -> str:
    """Unit of a slope, ``per doubling of the width d`` or ``per unit of r_train``."""
    return f"per doubling of {axis.title}" if axis.log else f"per unit of {axis.title}"


def who_scales_better(questions: Mapping[str, Sequence[Case]]) -> list[tuple[list[str], Table | None]]:
    """Comparisons of the slopes of both models over the seeds that both have, corrected for their number.

    Args:
        questions: all cases of a page, by the name of their table.

    Returns:
        For each question one sentence per quantity, and the table behind them; one sentence alone where there is one
        model, or no seed in which both models have two values of the setting.
    """
    compared = {name: _compared(cases) for name, cases in questions.items()}
    leads = {name: _lead(cases) for name, cases in questions.items()}
    tests = [one.found.p for comparisons in compared.values() for one in comparisons]
    tests += [student(lead.per_seed)[2] for lead in leads.values() if lead is not None]
    family = Family.of(tests)
    left = iter(family.corrected)
    corrected = {name: [next(left) for _ in comparisons] for name, comparisons in compared.items()}
    ahead = {name: [] if lead is None else [_ahead(lead, next(left), family.tests)] for name, lead in leads.items()}
    return [
        _answer(name, questions[name], comparisons, corrected[name], ahead[name], family.tests)
        for name, comparisons in compared.items()
    ]


def _compared(cases: Sequence[Case]) -> list[_Comparison]:
    out = []
    for case in cases:
        if not set(MODELS) <= set(case.frame["model"]):
            continue
        unit, within = crossing(case.frame, case.axis.column, ("model", *case.made_of))
        for column, symbol, small in ASKED:
            frame, log2 = with_logs(case.frame), case.axis.log is not None
            slopes = slope_difference(frame, case.axis.column, column, "model", "lstm", "gpt", unit, within, log2)
            out.append(_Comparison(case, column, symbol, small, slopes))
    return out


def _answer(
    name: str,
    cases: Sequence[Case],
    compared: Sequence[_Comparison],
    corrected: Sequence[float | None],
    ahead: list[str],
    tests: int,
) -> tuple[list[str], Table | None]:
    units = {one.found.units for one in compared if one.found.units}
    if not compared:
        return ["One model alone: there is nothing to compare its scaling with."], None
    if not units:
        return [f"Which model scales better cannot be tested: {_one_value(cases)}."], None
    both = list(zip(compared, corrected, strict=True))
    sentences = [_summary(symbol, [row for row in both if row[0].symbol == symbol], tests) for _, symbol, _ in ASKED]
    sentences += ahead + _unequal(pl.concat([case.frame for case in cases], how="diagonal"))
    if min(units) < 2:
        sentences.append("Some of these comparisons rest on one seed: without intervals they stay open.")
    elif min(units) == 2:
        sentences.append(
            "Two seeds leave one degree of freedom: only very large differences show; --seeds 5 shows more."
        )
    models = list(MODELS.values())
    slopes = [f"slope of {model}" for model in models]
    header = ["", *models, *slopes, "GPT − LSTM [95 %]", "p", "corrected p", "seeds", "scales better"]
    data = [
        {"case": one.case.name, "quantity": one.column}
        | asdict(one.found)
        | {"p_corrected": p, "scales_better": one.verdict(p)}
        for one, p in both
    ]
    rows = [_row(one, p) for one, p in both]
    setting = listed(list(dict.fromkeys(case.axis.title for case in cases)))
    caption = _caption(setting, tests, any(one.found.alone and one.found.units for one in compared))
    return sentences, Table(name, header, rows, caption, pl.DataFrame(data, infer_schema_length=None))


def _row(one: _Comparison, corrected: float | None) -> tuple[str, list[Cell]]:
    slopes = one.found
    left_out = f" ({counted(slopes.alone, 'run')} left out)" if slopes.alone and slopes.units else ""
    texts = [
        *(_levels(one.case, one.column, model) for model in MODELS),
        number(slopes.first_slope),
        number(slopes.second_slope),
        with_interval(slopes.difference, slopes.low, slopes.high),
        bare_p(slopes.p),
        bare_p(corrected),
        f"{slopes.units}{left_out}",
        one.verdict(corrected),
    ]
    return f"{one.symbol} {per(one.case.axis)}, {one.case.name}", [Cell(text) for text in texts]


def _caption(setting: str, tests: int, left_out: bool) -> str:
    return (
        f"How both models change with {setting}. Slope: of the least-squares line of each model, fitted within each "
        "seed that both have, with an intercept for each combination of other settings that vary, mean over seeds. "
        "Their difference has Student's 95 % interval over seeds, which two seeds leave wide and which is not "
        f"corrected. p: Student's test of it. Corrected: by Holm's method for {counted(tests, 'comparison')}, all "
        "that this page makes of both models. A loss scales better the more its logarithm falls, an accuracy the more "
        f"it rises. Open: the corrected p is 0.05 or more, or does not exist. Ceiling: {_SAME_END}. Untested: "
        "no seed has both models at two values. "
        + ("Left out: runs of a seed and other settings that one model lacks at two values. " if left_out else "")
        + "Before the slopes, the mean over runs (of L_val, the geometric) at the smallest and at the largest value of "
        "the setting."
    )


def _ends(case: Case, column: str, model: str) -> tuple[float, float]:
    """Means over a model's runs at the smallest and at the largest value of the setting."""
    means = with_logs(case.frame).filter(model=model).group_by(case.axis.column).agg(pl.col(column).mean())
    levels = means.sort(case.axis.column)[column]
    return float(levels[0]), float(levels[-1])


def _levels(case: Case, column: str, model: str) -> str:
    first, last = (10**end if column.startswith("log_") else end for end in _ends(case, column, model))
    return f"{number(first)} → {number(last)}"


def _at_ceiling(case: Case, column: str) -> bool:
    """Return True if both models end where an accuracy cannot rise, so that a steeper slope may mean a worse start."""
    both = set(MODELS) <= set(case.frame["model"])
    return both and column == "valid_accuracy" and all(_ends(case, column, model)[1] >= HIGHEST for model in MODELS)


def _lead(cases: Sequence[Case]) -> _Lead | None:
    """Lead in A_val, for cases in which slopes give no verdict.

    It is of one case alone, and None where the models share no setting, as with P.
    """
    if len(cases) != 1 or not _at_ceiling(cases[0], "valid_accuracy"):
        return None
    (case,) = cases
    unit, within = crossing(case.frame, case.axis.column, ("model", *case.made_of))
    cell = [*unit, *within, case.axis.column]
    means = case.frame.group_by("model", *cell).agg(pl.col("valid_accuracy").mean())
    wide = means.pivot("model", index=cell, values="valid_accuracy").drop_nulls(list(MODELS))
    wide = wide.sort(cell)  # sums in one order
    ahead = wide.group_by(unit, maintain_order=True).agg((pl.col("gpt") - pl.col("lstm")).mean().alias("ahead"))
    return _Lead(case.axis, ahead["ahead"].to_list()) if len(ahead) else None


def _ahead(lead: _Lead, corrected: float | None, tests: int) -> str:
    low, high, p = student(lead.per_seed)
    mean = sum(lead.per_seed) / len(lead.per_seed)
    if corrected is None or corrected >= LEVEL:
        who = "neither is clearly ahead"
    else:
        who = f"the {MODELS['gpt' if mean > 0 else 'lstm']} is ahead"
    value = with_interval(mean, low, high)
    if p is not None:
        value += f" in the mean [95 % over seeds] ({p_value(p)}{_also(corrected, tests)})"
    else:
        value += " in the mean"
    return f"Over all settings of {lead.axis.title} {who} in A_val: GPT − LSTM is {value}."


def _also(corrected: float | None, tests: int) -> str:
    return "" if corrected is None or tests < 2 else f", corrected {bare_p(corrected)}"


def _unequal(frame: pl.DataFrame) -> list[str]:
    """Sentence where the models were not trained for the same number of steps."""
    if "n_steps" not in frame.columns:
        return []
    steps = frame.group_by("model").agg(pl.col("n_steps").max())
    if steps["n_steps"].n_unique() == 1:
        return []
    steps_of_models = listed([f"the {MODELS[model]} up to {n:,}" for model, n in steps.sort("model").iter_rows()])
    return [f"These are models after different numbers of steps: {steps_of_models}."]


def _summary(symbol: str, rows: Sequence[tuple[_Comparison, float | None]], tests: int) -> str:
    verdicts = [one.verdict(corrected) for one, corrected in rows]
    counts = {who: verdicts.count(who) for who in (*MODELS.values(), OPEN, CEILING, UNTESTED)}
    if len(verdicts) == 1:
        ((one, corrected),) = rows
        p = one.found.p
        evidence = "" if p is None else f" (slopes differ with {p_value(p)}{_also(corrected, tests)})"
        texts = {
            OPEN: f"no model clearly scales better{evidence}",
            UNTESTED: "it cannot be tested which model scales better",
            CEILING: f"slopes do not tell which model scales better: {_SAME_END}",
        }
        return f"In terms of {symbol} {texts.get(verdicts[0], f'the {verdicts[0]} scales better{evidence}')}."
    alone = [one.verdict(one.found.p) for one, _ in rows]
    uncorrected = [f"the {who} in {alone.count(who)}" for who in MODELS.values()]
    clear = tests > 1 and any(who in alone for who in MODELS.values())
    return (
        f"In terms of {symbol}, of {len(verdicts)} comparisons the LSTM scales better in {counts['LSTM']}, the GPT in "
        f"{counts['GPT']}, and {counts[OPEN]} {'is' if counts[OPEN] == 1 else 'are'} open"
        + (f"; in {counts[CEILING]} {_SAME_END}" if counts[CEILING] else "")
        + (f"; {counts[UNTESTED]} cannot be tested" if counts[UNTESTED] else "")
        + (f" (corrected for {counted(tests, 'comparison')}; uncorrected {listed(uncorrected)})." if clear else ".")
    )


def _one_value(cases: Sequence[Case]) -> str:
    """Reason why there is nothing to compare, such as a setting that takes one value."""
    (title,) = {case.axis.title for case in cases}
    values = pl.concat([case.frame[case.axis.column] for case in cases]).unique()
    if len(values) == 1:
        return f"there is one value of {title} alone, {values[0]:g}"
    return f"no seed has both models at two values of {title}"
