"""Proposals of settings by samplers of optuna, as a pure function of the seed, the generation and earlier trials."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from shoal.errors import UserError
from shoal.tuning.space import Axis, Space
from shoal.tuning.trials import Trial

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("random", "qmc", "tpe")
_ASKS = 50  # for each setting that is wanted: samplers propose again what was tried


def check_optuna() -> None:
    """Raise :class:`UserError` where optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UserError("tuning needs optuna, which is not installed: pip install 'shoal[tune]'") from None


def propose(
    space: Space, sampler: str, seed: int, generation: int, trials: Sequence[Trial], n: int, higher_is_better: bool
) -> list[dict[str, Any]]:
    """Up to ``n`` new settings; fewer where the space has no more, or the sampler repeats what was tried.

    ``random`` and ``qmc`` walk one sequence and pass over what was tried; ``tpe`` begins anew for each generation with
    all earlier trials, in their order. So nothing but their arguments moves them, and fewer are a beginning of more.

    Args:
        space: search space.
        sampler: one of :data:`SAMPLERS`.
        seed: seed of the proposals.
        generation: number of the generation, from 0.
        trials: earlier trials.
        n: number of settings.
        higher_is_better: true where the largest value is the best.
    """
    tried = {_key(space, trial.settings) for trial in trials}
    n = int(min(n, space.count - len(tried)))
    if n <= 0:
        return []
    new: dict[tuple[Any, ...], dict[str, Any]] = {}
    with _quiet():
        study = _study(space, sampler, seed, generation, trials, higher_is_better)
        for settings in islice(_asked(study, space), len(tried) + _ASKS * n):
            key = _key(space, settings)
            if key not in tried:
                new.setdefault(key, settings)
            if len(new) == n:
                break
    return list(new.values())


def _key(space: Space, settings: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(repr(settings[name]) for name in space.names)


def _study(
    space: Space, sampler: str, seed: int, generation: int, trials: Sequence[Trial], higher_is_better: bool
) -> "optuna.Study":
    import optuna

    samplers: dict[str, Any] = {
        "random": lambda: optuna.samplers.RandomSampler(seed),
        "qmc": lambda: optuna.samplers.QMCSampler(seed=seed, scramble=True),
        "tpe": lambda: optuna.samplers.TPESampler(seed=(seed * 1_000_003 + generation) % 2**32),
    }
    study = optuna.create_study(sampler=samplers[sampler](), direction="maximize" if higher_is_better else "minimize")
    for trial in trials if sampler == "tpe" else ():
        study.add_trial(_told(space, trial))
    return study


def _told(space: Space, trial: Trial) -> "optuna.trial.FrozenTrial":
    """A trial as optuna ranks it: finished ones by value, then others by how far they came, diverged ones last."""
    import optuna

    is_finished = trial.state == "finished"
    return optuna.trial.create_trial(
        params={axis.name: _param(axis, trial.settings[axis.name]) for axis in space.axes},
        distributions={axis.name: _distribution(axis) for axis in space.axes},
        state=optuna.trial.TrialState.COMPLETE if is_finished else optuna.trial.TrialState.PRUNED,
        value=trial.value if is_finished else None,
        intermediate_values={} if trial.value is None or is_finished else {trial.step: trial.value},
    )


def _asked(study: "optuna.Study", space: Space) -> Iterator[dict[str, Any]]:
    """Settings that the sampler proposes, one after the other."""
    distributions = {axis.name: _distribution(axis) for axis in space.axes}
    while True:
        params = study.ask(distributions).params
        yield {
            axis.name: axis.choices[params[axis.name]] if axis.choices else axis.rounded(params[axis.name])
            for axis in space.axes
        }


def _distribution(axis: Axis) -> Any:
    from optuna import distributions

    if axis.choices:
        return distributions.CategoricalDistribution(range(len(axis.choices)))
    if axis.is_integer:
        return distributions.IntDistribution(int(axis.low), int(axis.high), log=axis.is_log)
    return distributions.FloatDistribution(axis.low, axis.high, log=axis.is_log)


def _param(axis: Axis, value: Any) -> Any:
    return axis.choices.index(value) if axis.choices else value


@contextmanager
def _quiet() -> Iterator[None]:
    """Context in which optuna prints nothing and does not warn of samplers that it calls experimental."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
