"""Fits by EM from several starts: the best of each setting, and how often it was found again."""

from collections.abc import Sequence

import polars as pl

from shoal.hmm.selection import AGAIN


def best_of_restarts(fits: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Best fit of each setting among those without a problem, and how many of its restarts found it again.

    Args:
        fits: one row per run, as :meth:`shoal.lab.Records.fits`, with the columns of ``by``.
        by: columns in which restarts of one setting agree.

    Returns:
        One row per setting, in order: ``by``; ``restarts``; ``degenerate``, how many have a problem; the ``run`` of
        the best and its ``log_likelihood``, ``valid_log_likelihood``, ``valid_problem``, ``parameters``, ``aic``,
        ``bic`` and ``converged``; and ``again``, how many, itself included, are without a problem and within 0.1 nats
        of it. Where every restart has a problem, the run and what is of it are null, and ``again`` is 0.
    """
    is_sound = pl.col("problem") == ""
    counts = fits.group_by(by, maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("restarts"), (~is_sound).sum().cast(pl.Int64).alias("degenerate")
    )
    sound = fits.filter(is_sound)
    best = sound.sort("log_likelihood", descending=True, maintain_order=True).group_by(by, maintain_order=True).first()
    top = best.select(*by, pl.col("log_likelihood").alias("top"))
    again = (
        sound.join(top, on=list(by), nulls_equal=True)
        .filter(pl.col("log_likelihood") >= pl.col("top") - AGAIN)
        .group_by(by)
        .agg(pl.len().cast(pl.Int64).alias("again"))
    )
    names = ("run", "log_likelihood", "valid_log_likelihood", "valid_problem", "parameters", "aic", "bic", "converged")
    return (
        counts.join(best.select(*by, *names), on=list(by), how="left", nulls_equal=True, maintain_order="left")
        .join(again, on=list(by), how="left", nulls_equal=True, maintain_order="left")
        .with_columns(pl.col("again").fill_null(0))
    )
