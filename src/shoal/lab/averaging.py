"""The mean of kept models (Vaswani et al. 2017, section 6.1; ``average_checkpoints`` of fairseq)."""

from collections.abc import Sequence

from torch import Tensor, nn

from shoal.lab.cohort import CohortFolder
from shoal.lab.tensors import load_tensors


def averaged(folder: CohortFolder, run: str, steps: Sequence[int], model: nn.Module) -> nn.Module:
    """A model with the mean of the parameters that a run had at several steps, and the buffers of the last of them.

    Means are taken in float64.

    Args:
        folder: the run's cohort.
        run: its id.
        steps: of kept models.
        model: of the run; it is changed.

    Raises:
        LabError: a file is damaged.
    """
    files, like = folder.models(run), model.state_dict()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    sums: dict[str, Tensor] = {}
    for step in steps:
        with folder.with_way_out():
            state, metadata = load_tensors(files[step], like=like)
        folder.check_model(run, step, metadata)
        sums = {name: sums.get(name, 0) + state[name].double() for name in parameters}
    means = {name: (total / len(steps)).to(state[name].dtype) for name, total in sums.items()}
    model.load_state_dict({name: means.get(name, tensor) for name, tensor in state.items()})
    return model
