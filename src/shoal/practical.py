"""Functions of the practical under their own names, with their signatures and dictionaries, on shoal's engine and lab.

Source: the practical on modular arithmetic, problem 4, whose released code has ``train.py``, ``trainer.py``,
``checkpointing.py`` and ``plotter.py``. Everything here trains into a lab and can be read by everything else of shoal;
``docs/practical.md`` says for each function of the practical what there is besides.

>>> args = Arguments(p=7, model="gpt", n_steps=100)
>>> args.seed = 3
>>> spec_of(args)
<RunSpec 96bac2f250f77b3b: model='gpt', p=7, n_steps=100, seed=3>
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn

from shoal.analysis import get_extrema_performance_steps, get_extrema_performance_steps_per_trials
from shoal.errors import UserError, nearest
from shoal.lab import Lab, Records, get_all_checkpoints, get_all_checkpoints_per_trials
from shoal.measures import LOSS_AND_ACCURACY
from shoal.models import GPT, LSTMLM
from shoal.objectives import get_loss_and_accuracy
from shoal.output import notebook_display, say
from shoal.report.loss_accs import FIGSIZE, FONTSIZE, LINEWIDTH, loss_accs
from shoal.report.plots import Plot
from shoal.spec import RunSpec
from shoal.spec.known import known_settings
from shoal.spec.names import named_parts
from shoal.spec.run import classes_of
from shoal.tasks import get_arithmetic_dataset
from shoal.training import train as train_runs
from shoal.training.requests import choose_device

__all__ = [
    "GPT",
    "LSTMLM",
    "Arguments",
    "eval_model",
    "get_all_checkpoints",
    "get_all_checkpoints_per_trials",
    "get_arithmetic_dataset",
    "get_extrema_performance_steps",
    "get_extrema_performance_steps_per_trials",
    "get_loss_and_accuracy",
    "plot_loss_accs",
    "spec_of",
    "train",
    "train_m_models",
]

_SPLITS = {"train": "train", "test": "valid"}  # of the practical's dictionaries -> of data frames
# Arguments that are no settings of a run: where it is kept, what is called how, and what is printed.
_BESIDE: Mapping[str, Any] = {
    "device": None,
    "exp_id": 0,
    "exp_name": "test",
    "log_dir": "lab",
    "num_workers": 0,
    "print_step": 100,
    "verbose": True,
}
# Settings that the practical's arguments hold whatever the model and the optimizer are.
_OF_SOME = ("num_heads", "hidden_size", "momentum")


class Arguments:
    """Arguments of the practical's functions: every setting of a run by its name, its lab and its device.

    A setting that is not given has the default of the task and the model, which for equations, LSTM and GPT are the
    practical's. One that the chosen model lacks (``num_heads`` of an LSTM) is passed over where the practical's own
    class has it for both.

    Args:
        arguments: settings of a run, as of :class:`shoal.RunSpec`; ``log_dir``, the lab; ``exp_name``, the name of the
            figure; ``device``; ``verbose``, whether progress is shown; ``exp_id``, ``num_workers`` and ``print_step``,
            which have no effect here: runs are named by what they are, data lies in memory, and progress is one line.

    Raises:
        UserError: there is no such argument.
    """

    def __init__(self, **arguments: Any) -> None:
        for name, value in {**_BESIDE, **arguments}.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        _check_argument(name)
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"Arguments({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def spec_of(args: Any) -> RunSpec:
    """Spec of the run that arguments ask for.

    Args:
        args: :class:`Arguments`, a :class:`shoal.RunSpec`, or any object with the practical's attributes, such as an
            instance of its own ``Arguments`` or what ``argparse`` returns.

    Raises:
        UserError: an argument is unknown, or does not allow its value.
    """
    if isinstance(args, RunSpec):
        return args
    given = {name: value for name, value in _attributes(args).items() if name not in _BESIDE}
    there = {name for part in classes_of(**named_parts(given)).values() for name in part.model_fields}
    return RunSpec(**{name: value for name, value in given.items() if name in there or name not in _OF_SOME})


def _attributes(args: Any) -> dict[str, Any]:
    """Attributes of an object and of its class, by name."""
    if args is None or isinstance(args, str | int | float | Mapping | Sequence):
        raise UserError(f"args must be Arguments, a RunSpec or an object with the practical's attributes, got {args!r}")
    names = [name for name in dir(args) if not name.startswith("_") and not callable(getattr(args, name))]
    for name in names:
        _check_argument(name)
    return {name: getattr(args, name) for name in names}


def _check_argument(name: str) -> None:
    known = ["task", "model", "optimizer", *known_settings(), *_BESIDE]
    if name not in known:
        raise UserError(f"unknown argument {name!r}{nearest(name, known)}")


def _beside(args: Any) -> dict[str, Any]:
    """Arguments that are no settings of a run, with their defaults."""
    return {name: getattr(args, name, value) for name, value in _BESIDE.items()}


def train(args: Any) -> tuple[dict[str, Any], Path]:
    """Train one run, or read it from the lab where it has been trained.

    Args:
        args: see :func:`spec_of`; ``args.log_dir`` is the lab.

    Returns:
        ``all_metrics``, as in :meth:`shoal.lab.Records.all_metrics`, and the folder of the kept models.
    """
    beside = _beside(args)
    records = _trained([spec_of(args)], beside)
    return records[0].metrics(), _checkpoint_path(records, records.ids[0])


def _trained(specs: list[RunSpec], beside: Mapping[str, Any]) -> Records:
    device = beside["device"]
    device = device if device is None else str(device).partition(":")[0]
    return train_runs(specs, beside["log_dir"], device=device, progress=None if beside["verbose"] else False)


def _checkpoint_path(records: Records, run: str) -> Path:
    return records.cohort_of(run).path / "models" / run


def train_m_models(
    args: Any, M: int | None = None, seeds: Sequence[int] | None = None
) -> tuple[list[list[Any]], dict[str, Any], list[Path]]:
    """Train the same run from several seeds, side by side, and draw their curves.

    The figure goes to ``reports/practical/EXP_NAME-M2.pdf`` in the lab, with ``args.exp_name`` and the number of seeds.

    Args:
        args: see :func:`spec_of`.
        M: how many seeds, counted up from ``args.seed``; where ``seeds`` are given they count.
        seeds: the seeds.

    Returns:
        Of each seed the files of its kept models; ``all_metrics``, in which each curve is a list of one per seed; and
        of each seed the folder of its models.

    Raises:
        UserError: neither ``M`` nor ``seeds`` says how many, or they say it wrongly.
    """
    spec, beside = spec_of(args), _beside(args)
    specs = [spec.replace(seed=seed) for seed in _seeds(spec.seed, M, seeds)]
    records = _trained(specs, beside)
    models, all_metrics = get_all_checkpoints_per_trials(records)
    name = f"{beside['exp_name']}-M{len(specs)}"
    folder = Lab(beside["log_dir"]).report_folder("practical")
    plot_loss_accs(all_metrics, multiple_runs=True, fileName=name, filePath=folder, show=False)
    return models, all_metrics, [_checkpoint_path(records, run) for run in records.ids]


def _seeds(first: int, M: int | None, seeds: Sequence[int] | None) -> list[int]:
    if seeds is not None:
        if isinstance(seeds, str) or not isinstance(seeds, Iterable) or not (numbers := list(seeds)):
            raise UserError(f"seeds must be one integer or more, got {seeds!r}")
        return numbers
    if M is None:
        raise UserError("train_m_models needs M, the number of seeds, or seeds, a list of them")
    if isinstance(M, bool) or not isinstance(M, int) or M < 1:
        raise UserError(f"M must be an integer of at least 1, got {M!r}")
    return [first + m for m in range(M)]


def eval_model(model: nn.Module, loader: Iterable[Sequence[Tensor]], device: str | torch.device) -> dict[str, float]:
    """Loss and accuracy of a model over a data set.

    What it returns of a kept model is what training recorded at its step, but for rounding. Further quantities are
    recorded at every evaluation by ``shoal.train(…, metrics={name: function})``; the norm of the parameters always is.

    Args:
        model: returns logits ``(B, S, V)`` first, as the practical's models and shoal's do.
        loader: batches of inputs ``(B, S)``, targets ``(B, S)``, positions of ``=`` in the targets ``(B,)`` and mask
            ``(B, S)``: a ``DataLoader`` over a data set of :func:`get_arithmetic_dataset`.
        device: on which to compute.

    Returns:
        ``loss`` (nats) and ``accuracy``, means over the examples.

    Raises:
        UserError: the loader gives no batch, or batches of another form, or there is no such device here.
    """
    choose_device(str(device).partition(":")[0])
    if not isinstance(model, nn.Module) or not isinstance(loader, Iterable):
        raise UserError(f"eval_model takes a torch.nn.Module and batches, got {model!r} and {loader!r}")
    was_training, total, n = model.training, {"loss": 0.0, "accuracy": 0.0}, 0
    model = model.to(device).eval()
    try:
        with torch.no_grad():
            for batch in loader:
                inputs, targets, eq_positions, mask = (part.to(device) for part in _four(batch))
                losses = get_loss_and_accuracy(model(inputs)[0], targets, eq_positions, mask, reduction="sum")
                for name, value in zip(total, losses, strict=True):
                    total[name] += float(value)
                n += len(inputs)
    finally:
        model.train(was_training)
    if not n:
        raise UserError("there is nothing to evaluate: the loader gives no batch")
    return {name: value / n for name, value in total.items()}


def _four(batch: Any) -> Sequence[Tensor]:
    if not isinstance(batch, Sequence) or len(batch) != 4 or not all(isinstance(part, Tensor) for part in batch):
        raise UserError(
            "a batch must be inputs, targets, positions of '=' and mask, as get_arithmetic_dataset gives them"
        )
    return batch


def plot_loss_accs(
    statistics: Mapping[str, Any],
    multiple_runs: bool = False,
    log_x: bool = False,
    log_y: bool = False,
    figsize: tuple[float, float] = FIGSIZE,
    linewidth: float = LINEWIDTH,
    fontsize: float = FONTSIZE,
    fileName: str | None = None,
    filePath: str | Path | None = None,
    show: bool = True,
) -> Plot | None:
    """Accuracy and loss on both splits against the training step, side by side: the charts of pages.

    Args:
        statistics: ``all_metrics`` of one run, or with ``multiple_runs`` of several.
        multiple_runs: each curve is a list of one per run, drawn as thin lines with their mean and a band of one
            standard deviation.
        log_x: a logarithmic axis of steps, from step 1.
        log_y: a logarithmic axis of losses; accuracies are between 0 and 1 in any case.
        figsize: inches of each panel.
        linewidth: of the mean, 2 on pages.
        fontsize: of the titles of axes, in points.
        fileName: name of a PDF file, without ``.pdf``; written where ``filePath``, its folder, is given too.
        filePath: the folder.
        show: display the figure now, in a notebook.

    Returns:
        The figure with ``show=False``; None where it is shown.

    Raises:
        UserError: ``statistics`` are of another form, or the file cannot be written.
    """
    curves = _curves(statistics, multiple_runs)
    figure = loss_accs(curves, log_x, log_y, figsize, linewidth, fontsize)
    if fileName is not None and filePath is not None:
        figure.save(Path(filePath) / f"{fileName}.pdf")
    if not show:
        return figure
    _display(figure)
    return None


def _curves(statistics: Mapping[str, Any], multiple_runs: bool) -> pl.DataFrame:
    """Data frame of the practical's dictionary: ``run``, ``step``, ``train_loss`` and so on, one row per evaluation."""
    all_steps = _curve(statistics, "all_steps")
    trials = all_steps if multiple_runs else [all_steps]
    frames = []
    for place, steps in enumerate(trials):
        if not isinstance(steps, Sequence):
            raise UserError("all_steps holds numbers, those of one run: several runs have a list each (multiple_runs)")
        columns = {"run": [str(place)] * len(steps), "step": steps}
        for split, name in _SPLITS.items():
            for measure in LOSS_AND_ACCURACY.recorded:
                several = _curve(statistics, split, measure.name)
                values = several[place] if multiple_runs and len(several) == len(trials) else several
                if not isinstance(values, Sequence) or len(values) != len(steps):
                    raise UserError(f"{split} {measure.name} of run {place} is not one value for each of its steps")
                columns[f"{name}_{measure.name}"] = values
        frames.append(_frame(columns))
    if not frames or not any(map(len, frames)):
        raise UserError("there is nothing to plot: statistics hold no evaluation")
    return pl.concat(frames)


def _frame(columns: Mapping[str, Sequence[Any]]) -> pl.DataFrame:
    kinds = {name: pl.String if name == "run" else pl.Int64 if name == "step" else pl.Float64 for name in columns}
    try:
        return pl.DataFrame(columns, kinds)
    except (pl.exceptions.PolarsError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"statistics must hold numbers; several runs have a list each (multiple_runs): {reason}"
        ) from None


def _curve(statistics: Mapping[str, Any], *keys: str) -> Sequence[Any]:
    curve: Any = statistics
    for key in keys:
        if not isinstance(curve, Mapping) or key not in curve:
            raise UserError(f"statistics have no {' '.join(keys)}; they are what train and train_m_models return")
        curve = curve[key]
    if not isinstance(curve, Sequence) or isinstance(curve, str):
        raise UserError(f"{' '.join(keys)} must be a list, got {curve!r}")
    return curve


def _display(figure: Plot) -> None:
    notebook = notebook_display()
    if notebook is None:
        say("no notebook here to show a figure in; fileName and filePath write it, and show=False returns it")
    else:
        notebook.display(figure)
