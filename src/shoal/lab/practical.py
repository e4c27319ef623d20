"""Functions of the practical that read trials, over the records of a lab."""

from typing import Any

from shoal.lab.records import Records


def get_all_checkpoints(records: Records, run: str, just_files: bool = True) -> tuple[list[Any], dict[str, Any]]:
    """The practical's reading of one trial: its kept models in order of steps, and its metrics.

    Args:
        records: the runs.
        run: a run's id, or an unambiguous beginning of it.
        just_files: return the models' paths instead of the models.

    Returns:
        Models (or paths), and ``all_metrics`` as in :meth:`Records.all_metrics`.
    """
    files = records.model_files(run)
    models: list[Any] = [files[step] if just_files else records.model(run, step) for step in files]
    return models, records.all_metrics(run)


def get_all_checkpoints_per_trials(records: Records, just_files: bool = True) -> tuple[list[list[Any]], dict[str, Any]]:
    """The practical's reading of several trials; ``all_metrics`` holds one list per trial under the keys of one trial.

    :func:`shoal.analysis.get_extrema_performance_steps_per_trials` takes the result.
    """
    trials = [get_all_checkpoints(records, run, just_files) for run in records.ids]
    metrics, names = [trial[1] for trial in trials], [measure.name for measure in records.measures().recorded]
    together: dict[str, Any] = {
        split: {q: [m[split].get(q) for m in metrics] for q in names} for split in ("train", "test")
    }
    together |= {name: [m[name] for m in metrics] for name in ("all_steps", "l2_norm")}
    return [trial[0] for trial in trials], together
