"""A study of one's own: how many steps it takes to reverse longer sequences."""

from dataclasses import dataclass
from typing import Any

from shoal.parts import Cell, Form, Grid, Report, Results, Section, Table

PARTS: dict[str, Any] = {"task": "tidepool.tasks:Reverse", "model": "tidepool.models:GRU", "lr": 3e-3}


@dataclass(frozen=True)
class Lengths:
    """Reversal at several lengths, over seeds."""

    about: str = "how many steps a GRU takes to reverse longer sequences"
    longest: int = 8

    def grids(self, quick: bool) -> list[Grid]:
        """What is trained; the quick form has two lengths and few steps."""
        own = {"n_steps": 301, "sequences": 64, "eval_first": 0} if quick else {"n_steps": 4001}
        lengths = (2, 3) if quick else range(2, self.longest + 1)
        return [Grid({**PARTS, **own}, {"length": lengths, "seed": (0, 1) if quick else (0, 1, 2, 3)})]

    def report(self, results: Results, form: Form) -> Report:
        """The best share of sequences reversed, by length."""
        import polars as pl

        best = results.curves.group_by("run", "length").agg(pl.col("valid_right").max())
        by_length = best.group_by("length").agg(pl.len().alias("runs"), pl.col("valid_right").mean()).sort("length")
        rows = [(str(n), [Cell(str(runs)), Cell(f"{right:.2f}")]) for n, runs, right in by_length.iter_rows()]
        table = Table(
            "right",
            ["length", "runs", "R_val"],
            rows,
            "R_val: largest share of the held-out sequences that a run reversed whole, mean over the runs.",
            by_length,
        )
        longest = max((n for n, _, right in by_length.iter_rows() if right >= 0.95), default=None)
        answer = (
            "No length was reversed in 95 % of the held-out sequences."
            if longest is None
            else f"The longest sequences reversed in 95 % of the held-out ones on average have {longest} symbols."
        )
        return Report(
            title=form.title("Reversal by length"),
            lead="How long may a sequence be that a GRU learns to reverse?",
            sections=[Section("By length", tables=[table])],
            answers=[*results.shortcomings(), answer],
        )


lengths = Lengths()
