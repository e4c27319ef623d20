"""What the studies say in words is computed: known inputs give known sentences."""

import numpy as np
import polars as pl
import pytest

import shoal
from shoal.analysis import at_least, decompose, first_step_at_least
from shoal.measures import EQUATIONS
from shoal.report import survival_table
from shoal.report.factorial import factorial_test
from shoal.report.panels import Axis
from shoal.studies import Form, Results, sanity
from shoal.studies.answers import Case, direction, how_it_goes
from shoal.studies.data_scaling import thresholds, why_there
from shoal.studies.mixed_orders import _gaps, which_first
from shoal.studies.model_scaling import with_size
from shoal.studies.parts import times_of
from shoal.studies.power_laws import power_laws
from shoal.studies.regularization import _mixed, norm_answers, norms
from shoal.studies.seed_variance import FACTORS, _answer
from shoal.studies.slopes import who_scales_better

SIZE = Axis("size", "size s", log=2)


def runs(slopes, seeds=6, noise=0.01, sizes=(1, 2, 4, 8)):
    """Losses 10^(slope · log2 size), a little apart by seed, the models in other directions."""
    shift = {"lstm": noise, "gpt": -noise}
    rows = [
        {"model": m, "size": s, "seed": seed, "train_loss": 1.0}
        | {"valid_accuracy": 0.5 + k * 0.1 * slope + shift[m] * (seed % 3 - 1) * (k - 1)}
        | {"valid_loss": 10 ** (slope * k + shift[m] * (seed % 3 - 1) * (k - 1))}
        for m, slope in slopes.items()
        for k, s in enumerate(sizes)
        for seed in range(seeds)
    ]
    return pl.DataFrame(rows)


def scaling(*cases):
    """The answer to one question that a page asks alone."""
    (answer,) = who_scales_better({"t": cases})
    return answer


def test_the_model_whose_loss_falls_faster_scales_better():
    sentences, table = scaling(Case("all", runs({"lstm": -0.5, "gpt": -0.1}), SIZE))
    assert [sentence.partition(" (")[0] for sentence in sentences] == [
        "In terms of log₁₀ L_val the LSTM scales better",
        "In terms of A_val the GPT scales better",
    ]
    loss = [cell.text for cell in table.rows[0][1]]
    assert loss[:4] == ["1 → 0.0316", "1 → 0.501", "−0.5", "−0.1"]
    assert loss[4].startswith("0.4 [0.")
    assert loss[5:] == ["< 0.0001", "< 0.0001", "6", "LSTM"]


def saturating(seeds=4):
    """The GPT is ahead until both are at 1; its line is less steep for that alone."""
    levels = {"lstm": (0.02, 0.2, 0.95, 1.0), "gpt": (0.12, 0.5, 0.9, 1.0)}
    rows = [
        (m, 2**k, seed, 0.1, 0.1, min(1.0, level + 0.004 * seed * (m == "gpt")), {"lstm": 40, "gpt": 26}[m])
        for m, own in levels.items()
        for k, level in enumerate(own)
        for seed in range(seeds)
    ]
    columns = ["model", "size", "seed", "train_loss", "valid_loss", "valid_accuracy", "n_steps"]
    return pl.DataFrame(rows, columns, orient="row")


def test_where_both_end_at_the_ceiling_slopes_give_no_verdict():
    sentences, table = scaling(Case("all", saturating(), SIZE))
    assert sentences[1] == (
        "In terms of A_val slopes do not tell which model scales better: both end at A_val ≥ 0.99, where a steeper "
        "line may only mean a worse start."
    )
    ahead = np.mean([0.1 + 0.3 - 0.05 + 3 * 0.004 * seed for seed in range(4)]) / 4
    assert sentences[2].startswith(f"Over all settings of size s the GPT is ahead in A_val: GPT − LSTM is {ahead:.3g}")
    assert sentences[3] == "These are models after different numbers of steps: the GPT up to 26 and the LSTM up to 40."
    assert [cell.text for cell in table.rows[1][1]][:2] == ["0.02 → 1", "0.126 → 1"]
    assert table.rows[1][1][-1].text == "ceiling"
    several = scaling(Case("one", saturating(), SIZE), Case("two", saturating(), SIZE))[0]
    assert "and 0 are open; in 2 both end at A_val ≥ 0.99, where" in several[1]
    assert not any("ahead" in sentence for sentence in several)
    assert "corrected" not in several[1]  # no verdict, whatever p
    apart = saturating().with_columns(size=pl.col("size") * pl.when(model="gpt").then(3).otherwise(1))  # as P
    told, table = scaling(Case("With P", apart, SIZE))
    assert told[1].startswith("In terms of A_val slopes do not tell")
    assert table.rows[1][1][-1].text == "ceiling"
    assert not any("ahead" in sentence for sentence in told)
    same = saturating().with_columns(valid_accuracy=pl.lit(1.0))
    assert scaling(Case("all", same, SIZE))[0][2] == (
        "Over all settings of size s neither is clearly ahead in A_val: GPT − LSTM is 0 in the mean."
    )
    below = saturating().with_columns(pl.col("valid_accuracy") * 0.98, n_steps=pl.lit(9))
    assert scaling(Case("all", below, SIZE))[0][1].startswith("In terms of A_val the LSTM scales better (")


def test_no_model_scales_better_when_both_are_alike_and_few_seeds_are_said():
    sentences, table = scaling(Case("all", runs({"lstm": -0.2, "gpt": -0.2}, seeds=2), SIZE))
    assert sentences[0].startswith("In terms of log₁₀ L_val no model clearly scales better (slopes differ with p = ")
    assert sentences[-1].startswith("Two seeds leave one degree of freedom")
    assert [cells[-1].text for _, cells in table.rows] == ["open", "open"]
    alone, nothing = scaling(Case("all", runs({"gpt": -0.2}), SIZE))
    assert (alone, nothing) == (["One model alone: there is nothing to compare its scaling with."], None)


def test_with_one_setting_it_cannot_be_told_who_scales_better():
    one = Case("one", runs({"lstm": -0.5, "gpt": -0.1}, sizes=(4,)), SIZE)
    told = ["Which model scales better cannot be tested: there is one value of size s alone, 4."], None
    assert scaling(one) == told
    assert scaling(one, one) == told
    apart = Case(
        "apart", runs({"lstm": -0.5, "gpt": -0.1}).filter((pl.col("model") == "gpt") | (pl.col("size") < 2)), SIZE
    )
    assert scaling(apart)[0] == [
        "Which model scales better cannot be tested: no seed has both models at two values of size s."
    ]
    sentences, table = scaling(Case("all", runs({"lstm": -0.5, "gpt": -0.1}), SIZE), one)
    assert sentences == [
        f"In terms of {symbol}, of 2 comparisons the LSTM scales better in {lstm}, the GPT in {gpt}, and 0 are open; 1 "
        f"cannot be tested (corrected for 2 comparisons; uncorrected the LSTM in {lstm} and the GPT in {gpt})."
        for symbol, lstm, gpt in (("log₁₀ L_val", 1, 0), ("A_val", 0, 1))
    ]
    assert [cells[-1].text for _, cells in table.rows] == ["LSTM", "GPT", "untested", "untested"]


def test_directions_follow_the_interval_of_the_rank_correlation():
    cases = [Case("falls", runs({"gpt": -0.5}), SIZE), Case("one", runs({"gpt": -0.5}, sizes=(1,)), SIZE)]
    (falls, same, one, _), table = how_it_goes(cases, [("log_valid_loss", "L"), ("train_loss", "T")], "t")
    assert direction(falls, True).startswith("improves (ρ = −")
    assert direction(falls, False).startswith("worsens")
    assert direction(falls, None).startswith("falls (ρ = −")
    assert direction(same, True) == "is the same everywhere"
    noise = runs({"gpt": 0}).with_columns(train_loss=pl.Series([1.0, 3, 2, 5, 4, 6, 2, 1, 6, 3, 5, 4] * 2))
    (unclear,), _ = how_it_goes([Case("noise", noise, SIZE)], [("train_loss", "T")], "t")
    assert direction(unclear, True).startswith("shows no clear rise or fall (ρ = ")
    assert direction(one, True).startswith("cannot be tested (")
    assert len(table.rows) == 4


def numbered(frame):
    return frame.with_row_index("run").with_columns(pl.col("run").cast(pl.String))


def test_a_power_law_is_found_with_its_exponent():
    sentences, table = power_laws(numbered(runs({"lstm": -0.1, "gpt": -0.2}, noise=0)), SIZE, "s", "laws")
    assert [sentence.partition(" [")[0] for sentence in sentences] == [
        "LSTM: L_val ∝ sᵇ with b = −0.332",  # 10^(−0.1 log2 s)
        "GPT: L_val ∝ sᵇ with b = −0.664",
    ]
    assert all(sentence.endswith("R² = 1.") for sentence in sentences)
    assert [(label, cells[0].text, cells[-1].text) for label, cells in table.rows] == [
        ("LSTM", "1", "24"),
        ("GPT", "1", "24"),
    ]


def test_a_jump_is_not_taken_for_a_power_law_and_few_points_for_none():
    jump = numbered(runs({"gpt": 0})).with_columns(
        pl.when(pl.col("size") == 8).then(1e-4).otherwise(3.0).alias("valid_loss")
    )
    (sentence,), table = power_laws(jump, SIZE, "s", "laws")
    R2 = float(sentence.partition("R² = ")[2].partition(",")[0].replace("−", "-"))
    assert R2 < 0.8  # of a law that goes through neither
    assert "no power law" in sentence
    assert "b =" not in sentence
    ((_, cells),) = table.rows
    assert [cell.text for cell in cells[:2]] == ["–", "–"]  # neither coefficient nor exponent
    (sentence,), table = power_laws(jump.filter(size=8), SIZE, "s", "laws")
    assert sentence.startswith("GPT: no power law in s: a power law of 2 parameters needs more than 2 points")
    (alone,), _ = power_laws(jump.filter(size=8).head(1), SIZE, "s", "laws")
    assert alone.endswith("got 1 point at 1.")
    assert table is None


def exponent_interval(sentence):
    ends = sentence.partition("[")[2].partition("]")[0].replace("−", "-").split(", ")
    return tuple(map(float, ends))


def test_whole_settings_are_drawn_again():
    """Runs that say the same as others of their setting make no interval shorter."""
    sizes = 2.0 ** np.arange(9)
    losses = sizes**-0.5 * np.exp(0.5 * np.random.default_rng(5).standard_normal(9))
    once = numbered(pl.DataFrame({"size": sizes, "valid_loss": losses}).with_columns(model=pl.lit("gpt")))
    four = numbered(pl.concat([once.drop("run")] * 4))
    (low, high), (low4, high4) = (
        exponent_interval(power_laws(frame, SIZE, "s", "laws")[0][0]) for frame in (once, four)
    )
    assert high4 - low4 > 0.9 * (high - low)
    # likewise where a setting's runs have values of their own on the axis
    spread = four.with_columns(pl.col("size") * (1 + 0.01 * (pl.col("run").cast(pl.Int64) // 9)), setting="size")
    low4, high4 = exponent_interval(power_laws(spread, SIZE, "s", "laws", "setting")[0][0])
    assert high4 - low4 > 0.9 * (high - low)


class Told:
    """Results of runs whose extrema, curves and settings are given."""

    measures, settings = EQUATIONS, ()

    def __init__(self, extrema=None, curves=None, specs=None):
        self.extrema, self.curves, self.specs = extrema, curves, specs or {}
        frame = extrema if extrema is not None else curves
        settings = [name for name in ("run", "model", "r_train") if name in frame.columns]
        self.runs = frame.select(settings).unique(maintain_order=True).with_columns(state=pl.lit("done"), step=0)
        self.runs = self.runs.with_columns(stop_after_generalizing=pl.lit(None))
        self.followed = frame.group_by("run", maintain_order=True).agg(followed=pl.lit(0))
        self.models = frame["model"].unique(maintain_order=True).to_list() if "model" in frame.columns else ["lstm"]

    def of(self, **settings):
        return Told(self.extrema.filter(**settings))

    def spec(self):
        return next(iter(self.specs.values()))


def shares(accuracies):
    """For each r_train the validation accuracies of its runs, all of which memorise."""
    rows = [(f"{r}-{i}", r, a, 1.0) for r, own in accuracies.items() for i, a in enumerate(own)]
    extrema = pl.DataFrame(rows, ["run", "r_train", "valid_accuracy", "train_accuracy"], orient="row")
    return Told(extrema, specs={run: shoal.RunSpec(r_train=r) for run, r, _, _ in rows})


def test_what_size_does_for_each_model_and_where_it_is_best():
    # the LSTM gains by width alone, to d = 64 and not to 128; the GPT by nothing, whatever its seed or size
    losses = {16: 1.0, 32: 0.1, 64: 0.001, 128: 0.002}
    rows = [
        (f"{model}{seed}{depth}{width}", model, seed, depth, width, 10 * depth + 100 * width)
        + ((losses[width] + seed / 1e5 + depth % 2 / 1e6, 1 - losses[width]) if model == "lstm" else (0.25, 0.5))
        for model in ("lstm", "gpt")
        for seed in (0, 42)
        for depth in (1, 2, 3)
        for width in losses
    ]
    settings = ["run", "model", "seed", "num_layers", "embedding_size", "parameters"]
    frame = pl.DataFrame(rows, [*settings, "valid_loss", "valid_accuracy"], orient="row")
    told, table = with_size(Told(frame.with_columns(train_loss=pl.col("valid_loss"))))
    assert told[0].startswith("LSTM with width d: L_val improves (ρ = −0.")
    assert "A_val improves (ρ = 0." in told[0]
    assert told[1].startswith("LSTM with layers L: L_val shows no clear rise or fall")
    assert told[2].startswith("LSTM with parameters P: L_val improves")
    assert told[3:6] == [
        f"GPT with {x}: L_val is the same everywhere, A_val is the same everywhere."
        for x in ("width d", "layers L", "parameters P")
    ]
    assert told[6] == ("LSTM: the smallest mean L_val, 0.00121, is at L = 2 and d = 64, P = 6,420, of up to 12,830.")
    assert len(table.rows) == 12


def test_thresholds_of_generalisation_and_of_pure_memorisation():
    wide = thresholds(shares({0.1: [0.1, 0.2], 0.3: [0.4, 0.6], 0.5: [0.95, 0.7], 0.7: [0.95, 1.0]}))
    assert wide == (
        "LSTM: the smallest r_train at which every run generalises (A_val ≥ 0.9) is 0.7 (at 0.5 at least one does); "
        "the largest at which all only memorise (A_train ≥ 0.99, A_val ≤ 0.5) is 0.1: a gap of 0.6, 577 equations (96 "
        "→ 673); in between, at 0.3 and 0.5, 1 of 4 runs generalise."
    )
    assert thresholds(shares({0.3: [0.1], 0.4: [0.95]})).endswith(
        "one step of this grid: the change may be as sharp as that, or sharper."
    )
    assert thresholds(shares({0.3: [0.95], 0.5: [0.1]})).endswith(
        "these runs do not generalise more the more they are shown."
    )
    assert thresholds(shares({0.3: [0.6]})) == (
        "LSTM: at no r_train tried does every run generalise (A_val ≥ 0.9); at none do all runs only memorise "
        "(A_train ≥ 0.99, A_val ≤ 0.5)."
    )


def test_whether_more_steps_would_help_is_computed():
    def told(ends):
        """Runs of 8 evaluations: at 0.6 and 0.7 they generalise at steps 5 and 3, elsewhere they end as given."""
        late = {share: [[0.0] * 4 + [a] * 2 + [b] * 2 for a, b in own] for share, own in ends.items()}
        late |= {0.6: [[0.0] * 4 + [1.0] * 4], 0.7: [[0.0] * 2 + [1.0] * 6]}
        found = shares({share: [max(values) for values in own] for share, own in late.items()})
        rows = [
            (f"{share}-{i}", share, step, value)
            for share, own in late.items()
            for i, values in enumerate(own)
            for step, value in enumerate(values, 1)
        ]
        found.curves = pl.DataFrame(rows, ["run", "r_train", "step", "valid_accuracy"], orient="row")
        return why_there(found, Form())

    flat, rising = [(0.3, 0.3), (0.2, 0.208)], [(0.1, 0.3), (0.6, 0.8)]
    assert told({0.1: rising[:1], 0.3: flat, 0.5: [*rising, (0.4, 0.95)]}) == [
        "LSTM: the median step of A_val ≥ 0.9 goes from 3 at r_train 0.7 to 5 at 0.6.",
        "LSTM, runs from r_train 0.3 on that did not generalise: from the third to the last quarter of the steps mean "
        "A_val goes at 0.3 from 0.250 to 0.254 (by 0.01 or more in 0 of 2) and at 0.5 from 0.350 to 0.550 (by 0.01 or "
        "more in 2 of 2). At 0.5 it still rises in every run. Where it does not, these steps cannot distinguish a "
        "plateau before generalising from an end.",
    ]
    assert told({0.3: flat})[1].endswith(
        "in 0 of 2). Where it does not, these steps cannot distinguish a plateau before generalising from an end."
    )
    assert "at 0.8 from 0.600 to 0.800 (" in told({0.3: flat, 0.8: [(0.6, 0.8)]})[1]  # above the smallest
    assert told({0.3: [(0.1, 0.3)]})[1].endswith("in all of them: more steps may move these thresholds down.")
    done = shares({0.6: [1.0]})
    done.curves = done.extrema.select("run", "r_train", step=pl.lit(1), valid_accuracy=pl.lit(1.0))
    assert why_there(done, Form()) == []


def timed(model, **accuracies):
    """Results of runs evaluated every 50 steps: A_val of each; all memorise at step 50."""
    rows = [
        (run, model, 50 * k, 1.0 if k else 0.1, value) for run, own in accuracies.items() for k, value in enumerate(own)
    ]
    columns = ["run", "model", "step", "train_accuracy", "valid_accuracy"]
    return Told(curves=pl.DataFrame(rows, columns, orient="row"))


def median_of(results, form, threshold=0.99):
    """The median as the table of times shows it."""
    table = survival_table("t", times_of(results, form, threshold), "model")
    return table.rows[0][1][table.header[1:].index("median step")].text


def test_the_sentence_and_the_table_have_one_median():
    """Of an even number of runs, of runs that never get there, of those that do not stay."""
    early, late = [0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]
    never, once = [0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]
    for form in (Form(), Form(stay=2)):
        for runs_ in ({"a": early, "b": late}, {"a": early, "b": late, "c": never}, {"a": early, "b": late, "c": once}):
            results = timed("gpt", **runs_)
            told = sanity.answer(results, form).partition("validation")[2]
            assert f"at step {median_of(results, form)} in the median" in told
    assert median_of(timed("gpt", a=early, b=late), Form()) == "125"
    # where most have not got there, neither has a median
    few = timed("gpt", a=early, b=late, c=never, d=never, e=never)
    assert median_of(few, Form()) == "–"
    assert "2 of 5 runs reached validation accuracy 0.99 (at steps 50 to 200)." in sanity.answer(few, Form())
    assert sanity.answer(timed("gpt", a=early), Form()) == (
        "GPT: 1 of 1 run reached training accuracy 1 (at step 50), and 1 of 1 run reached validation accuracy 0.99 "
        "(at step 50)."
    )


def test_the_medians_of_data_scaling_are_those_of_its_table():
    results = timed("lstm", a=[0, 1, 1, 1], b=[0, 0, 0, 1], c=[0, 0, 1, 1], d=[0, 0, 1, 1])
    share = pl.when(pl.col("run").is_in(["a", "b"])).then(0.5).otherwise(0.7)
    results.curves = results.curves.with_columns(r_train=share)
    results.runs = results.runs.with_columns(r_train=share)
    results.extrema = results.curves.group_by("run", "r_train").agg(pl.col("train_accuracy", "valid_accuracy").max())
    (told,) = why_there(results, Form())
    times = times_of(results, Form(), 0.9).with_columns(pl.col("r_train").cast(pl.String))
    rows = dict(survival_table("t", times, "r_train").rows)
    for share in ("0.7", "0.5"):
        assert rows[share][-2].text in told
    assert "from 100 at r_train 0.7 to 100 at 0.5" in told  # of 50 and 150


def test_a_source_that_can_be_told_from_none_is_named():
    """Initialisation × split alone, as its F test with Holm's correction finds it."""
    rng = np.random.default_rng(1)
    cells = [(i, s, o) for i in range(3) for s in range(3) for o in range(3)]
    both = 3 * rng.standard_normal((3, 3))
    times = pl.DataFrame(cells, list(FACTORS), orient="row").with_columns(
        time=pl.Series([2 ** (12 + both[i, s] + 0.1 * rng.standard_normal()) for i, s, _ in cells]),
        observed=pl.lit(True),
    )
    told = factorial_test(decompose(times, "time", list(FACTORS), observed="observed"))
    assert "variance of 1 of 6 sources differs from 0: initialisation × split (p " in told
    noise = times.with_columns(time=2 ** (12 + pl.Series(rng.standard_normal(27))))
    told = factorial_test(decompose(noise, "time", list(FACTORS), observed="observed"))
    assert "none of 6 sources" in told


def test_what_a_seed_brings_is_told_with_what_cannot_be_told():
    rng = np.random.default_rng(0)
    cells = [(i, s, o) for i in range(3) for s in range(3) for o in range(3)]
    times = pl.DataFrame(cells, list(FACTORS), orient="row").with_columns(
        time=pl.Series(1000 + rng.integers(0, 900, 27)), observed=pl.lit(True), state=pl.lit("done")
    )
    found = decompose(times, "time", list(FACTORS), observed="observed")
    told = _answer(found, "LSTM", "A_val ≥ 0.9")
    assert len(found.table) == 7
    for row in found.table.to_dicts():  # no share without its interval
        share = f"{row['component_share']:.0%} [{row['low']:.0%}, {row['high']:.0%}]"
        last = len(row["source"]) == len(FACTORS)
        assert (share if last else f"{' × '.join(FACTORS[name] for name in row['source'])} {share}") in told
    assert told.startswith("LSTM, A_val ≥ 0.9: of the variance of log time, initialisation ")
    assert "with one run per cell it cannot be separated from noise" in told
    assert told.endswith("All 27 runs reached it.")
    cut = times.with_columns(time=pl.col("time").clip(upper_bound=1500), observed=pl.col("time") <= 1500)
    never = int((~cut["observed"]).sum())
    told = _answer(decompose(cut, "time", list(FACTORS), observed="observed"), "LSTM", "A_val ≥ 0.9")
    assert told.endswith(f"{never} of 27 runs, which had not reached it, count with the horizon, step 1,500.")


def test_which_order_is_learned_first():
    rows = []
    for run, (two, three) in {"a": (10, 30), "b": (20, 60), "c": (50, 40), "d": (None, None), "e": (40, 40)}.items():
        for step in range(0, 70, 10):
            reached = {2: two is not None and step >= two, 3: three is not None and step >= three}
            rows.append(
                {"run": run, "step": step}
                | {f"{split}_accuracy_order{o}": float(reached[o]) for split in ("train", "valid") for o in (2, 3)}
            )
    told = which_first(Told(curves=pl.DataFrame([row for row in rows if row["run"] != "e"])))
    assert told == (
        "LSTM, 4 runs. Memorised (A_train of that order ≥ 0.99): binary equations first in 2, ternary equations first "
        "in 1 and neither in 1 (ternary after binary, in the 3 runs with both: −10, +20 and +40 steps). Generalised "
        "(A_val of that order ≥ 0.9): binary equations first in 2, ternary equations first in 1 and neither in 1 "
        "(ternary after binary, in the 3 runs with both: −10, +20 and +40 steps)."
    )
    nothing = which_first(Told(curves=pl.DataFrame([row for row in rows if row["run"] == "d"])))
    assert nothing == (
        "LSTM, 1 run. Memorised (A_train of that order ≥ 0.99): neither in 1. Generalised (A_val of that order ≥ 0.9): "
        "neither in 1."
    )
    late = which_first(Told(curves=pl.DataFrame([row for row in rows if row["run"] == "c"])))
    assert "ternary equations first in 1 (ternary after binary, in the 1 run with both: −10 steps)" in late
    at_once = which_first(Told(curves=pl.DataFrame([row for row in rows if row["run"] == "e"])))
    assert "(A_train of that order ≥ 0.99): both at the same evaluation in 1. Generalised" in at_once
    assert (
        _gaps([-1200, 0, 0, 20, 40])
        == " (ternary after binary, in 5 runs with both: median 0, from −1,200 to +40 steps)"
    )


def test_what_first_steps_of_the_best_accuracy_mix_is_counted():
    rows = [("a", 0.25, 0.1), ("b", 0.25, 0.9), ("c", 1.0, 1.0), ("d", 1.0, 0.95)]
    extrema = pl.DataFrame(rows, ["run", "weight_decay", "valid_accuracy"], orient="row")
    told = "3 of 4 runs generalised (A_val ≥ 0.9; 1 of 2 at 0.25 and 2 of 2 at 1)"
    assert told in _mixed(Told(extrema), 0.9)
    assert "1 of 4 runs generalised (A_val ≥ 0.99; 0 of 2 at 0.25 and 1 of 2 at 1)" in _mixed(Told(extrema), 0.99)


def test_the_norm_before_and_at_generalisation():
    stations = [
        (0, 0.0, 0.0, 10.0),
        (10, 1.0, 0.1, 20.0),
        (20, 1.0, 0.5, 25.0),
        (30, 1.0, 1.0, 15.0),
        (40, 1.0, 1.0, 40.0),
    ]
    names = ["step", "train_accuracy", "valid_accuracy", "l2_norm"]
    learned = pl.DataFrame(stations, names, orient="row").with_columns(run=pl.lit("a"), weight_decay=pl.lit(1.0))
    never = learned.with_columns(run=pl.lit("b"), valid_accuracy=pl.lit(0.0))
    found = norms(Told(curves=pl.concat([learned, never])))
    assert found.sort("run").rows() == [
        ("a", 1.0, 10, 30, 10.0, 20.0, 25.0, 15.0, 40.0),
        ("b", 1.0, 10, None, 10.0, 20.0, 40.0, None, 40.0),
    ]
    first, reading, second = norm_answers(Told(curves=pl.concat([learned, never])))
    assert first == (
        "Between memorising and generalising (A_train ≥ 0.99, A_val ≥ 0.99) ‖θ‖₂ fell in 1 of 1 runs; it changed by "
        "−25 % in the mean (−25 % to −25 %). At generalisation it stood at −40 % from its peak in between and at +50 % "
        "from its first value, in the mean."
    )
    assert reading.startswith("That is what weight decay would do if")
    assert second.startswith(
        "The runs that memorised and did not generalise by this measure (1 without A_val ≥ 0.99) ended at +0 % from "
        "their peak"
    )
    high = learned.with_columns(l2_norm=pl.when(pl.col("step") == 0).then(90.0).otherwise("l2_norm"))
    assert norms(Told(curves=high))["peak"].to_list() == [25.0]  # not what it began with
    risen = learned.with_columns(l2_norm=pl.col("step").cast(pl.Float64))
    assert norm_answers(Told(curves=risen))[1].startswith("On the whole the norm does not fall between the two")
    assert norm_answers(Told(curves=never))[0].startswith("No run memorised and later generalised")


def test_of_runs_that_generalise_before_they_memorise_the_norm_in_between_is_not_told():
    names = ["step", "train_accuracy", "valid_accuracy", "l2_norm"]
    stations = [(0, 0.0, 0.0, 60.0), (100, 0.5, 1.0, 50.0), (200, 1.0, 1.0, 40.0)]
    early = pl.DataFrame(stations, names, orient="row").with_columns(run=pl.lit("a"), weight_decay=pl.lit(1.0))
    assert norm_answers(Told(curves=early))[0].startswith("No run memorised and later generalised")
    swapped = {"train_accuracy": "valid_accuracy", "valid_accuracy": "train_accuracy"}
    late = early.rename(swapped).select(early.columns).with_columns(run=pl.lit("b"))
    answers = norm_answers(Told(curves=pl.concat([early, late])))
    assert "‖θ‖₂ fell in 1 of 1 runs; it changed by −20 %" in answers[0]
    assert answers[-1] == "1 run generalised no later than memorising, and does not count here."
    assert not any("nan" in answer for answer in answers)


def test_thresholds_are_met_by_accuracies_as_they_are_recorded():
    kept = pl.DataFrame({"run": ["a"], "step": [10], "valid_accuracy": pl.Series([432 / 480], dtype=pl.Float32)})
    widened = kept.with_columns(pl.col("valid_accuracy").cast(pl.Float64))  # 0.8999999761581421
    assert first_step_at_least(widened, "valid_accuracy", 0.9)["step"].to_list() == [10]
    assert len(widened.filter(at_least("valid_accuracy", 0.9))) == 1
    assert len(widened.filter(at_least("valid_accuracy", 0.9001))) == 0


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    small = {"p": 5, "num_layers": 1, "embedding_size": 8, "optimizer": "sgd", "clip": float("inf")}
    specs = [shoal.RunSpec(seed=0, n_steps=6, **small), shoal.RunSpec(seed=0, n_steps=6, lr=1e38, **small)]
    return shoal.train(specs, tmp_path_factory.mktemp("labs") / "lab", workers=1)


def test_what_is_missing_or_diverged_is_named(two_runs):
    results = Results(two_runs)
    (diverged,) = results.shortcomings()
    assert diverged.startswith("Diverged: 1 of 2 runs (")
    assert results.of(lr=1e38).shortcomings() == [diverged.replace("1 of 2 runs", "1 of 1 run")]
    assert Results(two_runs).of(lr=1e-3).shortcomings() == []
    assert results.models == ["lstm"]
    assert results.values("lr") == [1e-3, 1e38]
    assert Form().thresholds == (0.9, 0.99)
