"""Runs that keep the model of their lowest validation loss, and that end when it no longer falls."""

import math

import pytest
import torch
from helpers import CPU, one_cohort, theta, tiny, tiny_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scheduling import begun, results, theta_bytes

from shoal.errors import UserError
from shoal.lab.cohort import CohortFolder
from shoal.spec import RunSpec
from shoal.training.loop import Options, train_cohort
from shoal.training.stack import Stack
from shoal.training.step import evaluate, train_step

# the validation loss falls, then rises while the training set is memorised
BASE = {"p": 7, "r_train": 0.5, "lr": 0.03, "weight_decay": 0.0, "embedding_size": 16}
BASE |= {"n_steps": 80, "eval_first": 0, "eval_period": 4}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def done(path, specs: list[RunSpec], **options) -> CohortFolder:
    folder = begun(path, specs)
    assert train_cohort(folder, Options(**options)) == "done"
    return folder


def curve(folder: CohortFolder, run: str) -> list[tuple[int, float]]:
    """Steps and validation losses of a run."""
    return folder.metrics().filter(run=run).sort("step").select("step", "valid_loss").rows()


def ending(losses: list[tuple[int, float]], patience: float) -> tuple[int, int]:
    """The step at which a run of this curve ends, and the step of its lowest loss until then."""
    lowest, best, since = math.inf, 0, 0
    for step, loss in losses:
        if loss < lowest:
            lowest, best, since = loss, step, 0
        else:
            since += 1
        if since >= patience:
            return step, best
    return losses[-1][0], best


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that keep every model, and their curves."""
    specs = tiny_grid({**BASE, "save_model_step": 4}, seed=[0, 1, 2])
    folder = done(tmp_path_factory.mktemp("whole"), specs)
    curves = [curve(folder, spec.id) for spec in specs]
    assert all(0 < ending(losses, math.inf)[1] < 80 for losses in curves)
    return [(losses, folder.models(spec.id)) for losses, spec in zip(curves, specs, strict=True)]


@pytest.mark.parametrize("patience", [1, 3])
def test_a_run_ends_after_so_many_evaluations_without_a_lower_loss(tmp_path, whole, patience):
    specs = tiny_grid({**BASE, "patience": patience}, seed=[0, 1, 2])
    folder = done(tmp_path, specs)
    ends = [ending(losses, patience)[0] for losses, _ in whole]
    assert max(ends) < 80  # or nothing is tried
    for spec, end, (losses, _) in zip(specs, ends, whole, strict=True):
        assert folder.status()["members"][spec.id] == {"state": "done", "step": end}
        assert curve(folder, spec.id) == [(step, loss) for step, loss in losses if step <= end]
        assert list(folder.models(spec.id)) == [end]


@pytest.mark.parametrize("patience", [None, 3])
@pytest.mark.parametrize("places", [1, 2, None])
def test_the_model_of_the_lowest_loss_is_kept_beside_the_last(tmp_path, whole, patience, places):
    specs = tiny_grid({**BASE, "keep_best": True, "patience": patience}, seed=[0, 1, 2])
    folder = done(tmp_path, specs, places=places)
    for spec, (losses, models) in zip(specs, whole, strict=True):
        end, best = ending(losses, patience or math.inf)
        kept = folder.models(spec.id)
        assert list(kept) == [best, end]
        assert theta_bytes(kept[best]) == theta_bytes(models[best])
        assert theta_bytes(kept[best]) != theta_bytes(kept[end])
        if end in models:
            assert theta_bytes(kept[end]) == theta_bytes(models[end])


def test_where_the_last_model_is_the_best_there_is_one(tmp_path):
    spec = tiny(**{**BASE, "n_steps": 4, "lr": 1e-4}, keep_best=True)
    folder = done(tmp_path, [spec])
    losses = curve(folder, spec.id)
    assert ending(losses, math.inf) == (4, 4)
    assert list(folder.models(spec.id)) == [4]


@pytest.mark.parametrize("stops", [(30,), (5, 20, 17), (79,)])
def test_the_best_model_is_the_same_after_interruptions(tmp_path, stops):
    specs = tiny_grid({**BASE, "keep_best": True}, seed=[0, 1])
    folder = begun(tmp_path / "stopped", specs)
    for steps in stops:
        asked = iter(range(steps))
        stop = lambda asked=asked: next(asked, None) is None  # noqa: E731
        assert train_cohort(folder, Options(stop=stop)) == "interrupted"
    assert train_cohort(folder, Options()) == "done"
    assert results(folder) == results(done(tmp_path / "whole", specs))


def test_patience_goes_on_where_it_was_after_an_interruption(tmp_path, whole):
    specs = tiny_grid({**BASE, "patience": 3}, seed=[0, 1, 2])
    first = min(ending(losses, 3)[0] for losses, _ in whole)
    folder, asked = begun(tmp_path, specs), iter(range(first - 2))  # between two evaluations that count against it
    assert train_cohort(folder, Options(stop=lambda: next(asked, None) is None)) == "interrupted"
    assert train_cohort(folder, Options()) == "done"
    for spec, (losses, _) in zip(specs, whole, strict=True):
        assert folder.status()["members"][spec.id]["step"] == ending(losses, 3)[0]


def test_a_run_that_diverges_keeps_its_best_model(tmp_path):
    spec = tiny(lr=1e15, clip=math.inf, eval_period=1, keep_best=True)  # parameters grow as (lr weight_decay)^step
    folder = done(tmp_path, [spec])
    status = folder.status()["members"][spec.id]
    assert status["state"] == "diverged" and status["step"] > 1
    kept = folder.models(spec.id)
    assert list(kept) == [0, status["step"] - 1]
    first = Stack(one_cohort([spec]), CPU).member(0)
    assert theta_bytes(kept[0]) == b"".join(tensor.numpy().tobytes() for _, tensor in sorted(first.items()))


# in a stack

LOSS = st.sampled_from([0.5, 1.0, 1.5, 2.0, math.inf, math.nan])
EVALUATION = st.tuples(st.lists(LOSS, min_size=2, max_size=2), st.lists(st.booleans(), min_size=2, max_size=2))


@settings(max_examples=50, deadline=None)
@given(evaluations=st.lists(EVALUATION, min_size=1, max_size=8), patience=st.integers(1, 3))
def test_what_is_remembered_of_evaluations_is_that_of_a_loop(evaluations, patience):
    stack = Stack(one_cohort(tiny_grid({"keep_best": True, "patience": patience}, seed=[0, 1])), CPU)
    expected = [{"loss": math.inf, "step": 0, "since": 0, "theta": theta(stack, r)} for r in range(2)]
    for n, (losses, evaluated) in enumerate(evaluations, start=1):
        stack.set_steps(torch.tensor([n, 2 * n]))
        with torch.no_grad():
            stack.theta += 1
        tired = stack.keep_best(torch.tensor(losses, dtype=torch.float64), torch.tensor(evaluated))
        for r, own in enumerate(expected):
            if evaluated[r] and losses[r] < own["loss"]:
                own |= {"loss": losses[r], "step": (n, 2 * n)[r], "since": 0, "theta": theta(stack, r)}
            elif evaluated[r]:
                own["since"] += 1
            assert bool(tired[r]) == (own["since"] >= patience)
            found = stack.best_member(r)
            if own["step"] == (n, 2 * n)[r]:
                assert found is None
            else:
                assert found[0] == own["step"]
                flat = torch.cat([found[1][slot.name].flatten() for slot in stack.layout])
                assert torch.equal(flat, own["theta"])


def test_a_checkpoint_holds_the_best_and_only_where_it_is_asked_for():
    plain = Stack(one_cohort([tiny()]), CPU)
    assert not any(name.startswith("best") for name in plain.state())
    assert plain.best_member(0) is None
    assert not plain.keep_best(torch.tensor([1.0]), torch.tensor([True])).any()
    specs = tiny_grid({"keep_best": True}, seed=[0, 1])
    stack, other = Stack(one_cohort(specs), CPU), Stack(one_cohort(specs), CPU)
    for _ in range(3):
        stack.keep_best(evaluate(stack, {})["valid_loss"], torch.tensor([True, True]))
        train_step(stack)
    other.load_state({name: tensor.clone() for name, tensor in stack.state().items()})
    for r in range(2):
        (step, model), (again, same) = stack.best_member(r), other.best_member(r)
        assert step == again and all(torch.equal(model[name], same[name]) for name in model)


@pytest.mark.parametrize(("name", "value"), [("patience", 0), ("patience", -1), ("patience", 1.5), ("keep_best", 2)])
def test_a_patience_of_nothing_is_refused(name, value):
    with pytest.raises(UserError, match=f"^{name} must be"):
        RunSpec(**{name: value})
