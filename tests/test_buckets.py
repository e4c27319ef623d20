"""Batches of several widths: which they are, who has them, and that nobody notices neighbours."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby, pairwise

import pytest
import ragged
import torch
from helpers import CPU, one_cohort
from hypothesis import given, settings
from hypothesis import strategies as st
from recording import recorded
from test_scheduling import begun, results

import shoal
from shoal.errors import UserError
from shoal.spec import RunSpec, grid
from shoal.tasks.base import Forms
from shoal.tasks.build import build_task, form_period
from shoal.tasks.pairs.buckets import Buckets, BucketSampler
from shoal.testing.tasks import TaskContract
from shoal.training import loop
from shoal.training.certificate import certify
from shoal.training.forms import check_forms
from shoal.training.launches import FIRST, Launches
from shoal.training.loop import Options, Session, train_cohort
from shoal.training.memory import stack_bytes
from shoal.training.roster import Roster
from shoal.training.stack import Stack
from shoal.training.step import evaluate, train_step, train_steps

some = settings(max_examples=30, deadline=None)
BASE = {"task": "ragged:Ragged", "model": "gpt", "num_layers": 1, "num_heads": 2, "embedding_size": 8}
BASE |= {"train_batch_size": 6, "n_steps": 30, "eval_first": 2, "eval_period": 6, "lr": 0.02, "weight_decay": 0.0}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# buckets

LENGTHS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=40)


def made(pairs: list[tuple[int, int]], **asked: object) -> Buckets:
    source, target = torch.tensor(pairs).T
    return Buckets(source, target, **asked)


@some
@given(LENGTHS, st.integers(1, 8), st.sampled_from([0.0, 0.1, 0.4, 1.0]), st.data())
def test_the_widths_of_a_bucket_take_its_pairs_and_those_of_the_buckets_before(pairs, multiple, least, data):
    drawn = data.draw(st.integers(1, len(pairs)))
    buckets = made(pairs, drawn=drawn, multiple=multiple, least=least)
    longest = [max(side) for side in zip(*pairs, strict=True)]
    for (s, t), bucket in zip(pairs, buckets.of.tolist(), strict=True):
        assert all(s <= width and t <= other for width, other in buckets.widths[bucket:])
        ends = [math.ceil(max(s, t) / multiple), math.ceil(max(buckets.widths[bucket]) / multiple)]
        assert ends[0] <= ends[1]
    for widths in buckets.widths:
        assert all(width % multiple == 0 or width == most for width, most in zip(widths, longest, strict=True))
    assert all(a <= b and c <= d for (a, c), (b, d) in pairwise(buckets.widths))
    held = buckets.of[:drawn].bincount(minlength=len(buckets.widths)).tolist()
    trained = held[:-1] if held[-1] == 0 else held  # those that are longer than every training pair
    assert all(n >= max(1, least * drawn) for n in trained)
    order = torch.tensor([max(pair) for pair in pairs]).argsort()
    assert buckets.of[order].diff().ge(0).all()  # sorted by the longer side


def test_buckets_of_a_few_pairs_by_hand():
    pairs = [(1, 2), (4, 3), (5, 2), (3, 8), (9, 9), (20, 1)]
    assert made(pairs, multiple=4, least=0).widths == ((4, 4), (8, 8), (12, 9), (20, 9))
    wide = made(pairs, multiple=4, least=0.3)  # of 6 pairs at least 2 in each
    assert wide.widths == ((4, 4), (8, 8), (20, 9)) and wide.of.tolist() == [0, 0, 1, 1, 2, 2]
    left = made(pairs, multiple=4, least=0.5)
    assert left.of.tolist() == [0, 0, 1, 1, 1, 1] or left.of.tolist() == [0] * 6
    beyond = made(pairs, drawn=4, multiple=4, least=0)
    assert beyond.widths == ((4, 4), (8, 8), (20, 9)) and beyond.of.tolist() == [0, 0, 1, 1, 2, 2]
    wanted = {"source": 42 / 56, "target": 25 / 42, "both": 67 / 98}
    assert made(pairs, multiple=4, least=0).real_share() == pytest.approx(wanted)


# the sampler

ASKED = {"batch_size": st.integers(1, 9), "batch_tokens": st.none() | st.integers(1, 90), "seed": st.integers(0, 5)}


def sampler_of(buckets: Buckets, keys: list[int], batch_size: int, **asked: object) -> BucketSampler:
    n = torch.full((len(keys),), len(buckets.drawn))
    return BucketSampler(torch.tensor(keys), n, batch_size, buckets, **asked)


def batches(sampler: BucketSampler, steps: range) -> list[tuple[object, list[list[int]]]]:
    """The form of each step and the pairs of each member."""
    found = []
    for step in steps:
        at = torch.full((len(sampler.keys),), step)
        assert sampler.prepare(at - 1) >= 1
        positions, counts = sampler(at)
        assert counts.all() and counts.shape == positions.shape == (len(sampler.keys), sampler.size)
        found.append((sampler.form, positions.tolist()))
    return found


@some
@given(pairs=LENGTHS, multiple=st.sampled_from([1, 4]), **ASKED)
def test_each_pair_is_seen_once_in_a_pass_in_widths_that_take_it(pairs, multiple, batch_size, batch_tokens, seed):
    buckets = made(pairs, multiple=multiple, least=0.1)
    sampler = sampler_of(buckets, [7, 8], batch_size, batch_tokens=batch_tokens, bucket_seed=seed)
    period, real, padded = sampler.period, torch.zeros(2), torch.zeros(2)
    passes = [batches(sampler, range(n * period + 1, (n + 1) * period + 1)) for n in range(3)]
    for found in passes:
        assert [form for form, _ in found] == [form for form, _ in passes[0]]
        assert [len(own) for _, (own, _) in found] == [len(own) for _, (own, _) in passes[0]]
        for member in (0, 1):
            assert sorted(pair for _, own in found for pair in own[member]) == list(range(len(pairs)))
    for widths, (own, _) in passes[0]:
        most = batch_size if batch_tokens is None else max(1, batch_tokens // max(widths))
        assert len(own) <= most + (most > 1)  # one that is left over goes with those before it
        assert len(own) > 1 or most == 1 or len(pairs) == 1
        lengths = torch.tensor([pairs[pair] for pair in own])
        assert (lengths <= torch.tensor(widths)).all()
        real += lengths.sum(0)
        padded += len(own) * torch.tensor(widths)
    share = buckets.real_share()
    assert (real / padded).tolist() == pytest.approx([share["source"], share["target"]])
    assert float(real.sum() / padded.sum()) == pytest.approx(share["both"])
    largest = max(len(own) * sum(widths) for widths, (own, _) in passes[0])
    assert buckets.batch_positions(batch_size, batch_tokens) == largest
    fewer = [n for n in map(len, (own for _, (own, _) in passes[0])) if n < batch_size]
    assert batch_tokens is not None or len(fewer) <= len(buckets.widths)  # one smaller batch of each bucket


@some
@given(pairs=LENGTHS, step=st.integers(1, 60), **ASKED)
def test_a_members_batches_hang_on_its_key_and_the_step_alone(pairs, step, batch_size, batch_tokens, seed):
    buckets = made(pairs, least=0.1)
    asked = {"batch_size": batch_size, "batch_tokens": batch_tokens, "bucket_seed": seed}
    whole = batches(sampler_of(buckets, [3, 7, 9], **asked), range(step, step + 4))
    one = sampler_of(buckets, [7], **asked)
    assert batches(one, range(step, step + 4)) == [(form, own[1:2]) for form, own in whole]
    late = sampler_of(buckets, [7, 4], **asked)  # beside one that is two passes further on
    late.prepare(torch.tensor([step - 1, step - 1 + 2 * late.period]))
    own, _ = late(torch.tensor([step, step + 2 * late.period]))
    assert (late.form, own[:1].tolist()) == batches(one, range(step, step + 1))[0]


@some
@given(pairs=LENGTHS, taken=st.integers(0, 60), **ASKED)
def test_what_was_prepared_is_of_one_form(pairs, taken, batch_size, batch_tokens, seed):
    buckets = made(pairs, least=0.1)
    asked = {"batch_size": batch_size, "batch_tokens": batch_tokens, "bucket_seed": seed}
    one, expected = sampler_of(buckets, [7], **asked), sampler_of(buckets, [7], **asked)
    n = one.prepare(torch.tensor([taken]))
    assert n <= one.period - taken % one.period
    form, size = one.form, one.size
    for step in range(taken + 1, taken + n + 1):
        assert (form, one(torch.tensor([step]))[0].tolist()) == batches(expected, range(step, step + 1))[0]
    batches(expected, range(taken + n + 1, taken + n + 2))
    assert (taken + n) % one.period == 0 or (expected.form, expected.size) != (form, size)


def test_all_batches_of_a_form_that_follow_one_another_are_prepared_at_once():
    sampler = sampler_of(made([(3, 3)] * 20), [7], 2)
    assert [sampler.prepare(torch.tensor([taken])) for taken in range(12)] == [*range(10, 0, -1), 10, 9]
    longer = sampler_of(made([(3, 3)] * 5 + [(9, 9)] * 3, least=0), [7], 1)
    found = [longer.prepare(torch.tensor([taken])) for taken in range(8)]
    forms = [form for form, _ in batches(longer, range(1, 9))]
    assert found == [len(list(next(groupby(forms[taken:]))[1])) for taken in range(8)] and max(found) > 1


def test_the_seed_of_buckets_shuffles_their_order_and_a_key_the_pairs():
    pairs = [(n, n) for n in range(1, 25) for _ in range(4)]
    orders, drawn = set(), set()
    for seed in range(4):
        for key in (3, 4):
            found = batches(sampler_of(made(pairs), [key], 4, bucket_seed=seed), range(1, 25))
            orders.add(tuple(form for form, _ in found))
            drawn.add(tuple(sorted(tuple(own[0]) for _, own in found)))
    assert len(orders) == 4 and len(drawn) == 2
    forms = [form for form, _ in found]
    assert forms != sorted(forms) and forms != sorted(forms, reverse=True)
    again = batches(sampler_of(made(pairs), [key], 4, bucket_seed=seed), range(25, 49))
    assert [form for form, _ in again] == forms and again != found  # and a pass the pairs, too


def test_members_at_different_places_of_a_pass_cannot_be_in_one_stack():
    sampler = sampler_of(made([(3, 3), (9, 9), (20, 20)], least=0), [1, 2], 1)
    with pytest.raises(AssertionError, match="same place"):
        sampler.prepare(torch.tensor([0, 1]))


# in a stack


def few(**values: object) -> list[RunSpec]:
    return grid(RunSpec(**BASE), **values)


class TestRagged(TaskContract):
    settings = BASE


def test_a_step_is_that_of_plain_pytorch_on_pairs_without_padding(atol=1e-5):
    specs = few(seed=[0, 1], optimizer=["sgd"], clip=[math.inf], lr=[0.5])
    stack = Stack(one_cohort(specs), CPU)
    models = [stack.built_model(place) for place in range(2)]
    task, forms = build_task(specs[0]), set()
    for _ in range(stack.sampler.period + 2):
        stack.sampler.prepare(stack.steps)
        drawn, _ = stack.sampler(stack.at + 1)
        forms.add(stack.form)
        train_step(stack)
        for place, model in enumerate(models):
            losses = []
            for pair in drawn[place]:
                widths = tuple(int(task.tensors[f"{side}_length"][pair]) for side in ("source", "target"))
                batch = ragged.joined(task.tensors, pair.unsqueeze(0), widths)
                scores = task.objective(model, batch)
                losses.append((scores["loss"] * scores["weight"], scores["weight"]))
            loss = sum(total for total, _ in losses).sum() / sum(n for _, n in losses).sum()
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= 0.5 * gradient
            for name, parameter in model.named_parameters():
                torch.testing.assert_close(stack.member(place)[name], parameter.detach(), atol=atol, rtol=0)
    assert len(forms) > 2


def test_evaluations_are_by_form_and_those_of_the_pairs_one_by_one(tol=1e-6):
    spec = RunSpec(**{**BASE, "eval_batch_size": 3})
    stack = Stack(one_cohort([spec]), CPU)
    task, model = build_task(spec), stack.built_model(0)
    assert all(part.shape[1] <= 3 for part, _ in stack.passes)
    assert len({form for _, form in stack.passes}) > 2
    assert all(task.form_of(part[0]) == form for part, form in stack.passes)
    values = evaluate(stack, {})
    every = torch.cat([part[0] for part, _ in stack.passes]).tolist()
    assert sorted(every) == sorted(torch.cat(list(task.scored.values())).tolist())
    for split, indices in task.scored.items():
        total = weight = 0.0
        for pair in indices:
            scores = task.objective(model, ragged.joined(task.tensors, pair.unsqueeze(0), ragged.LONGEST))
            total, weight = total + (scores["loss"] * scores["weight"]).item(), weight + scores["weight"].item()
        assert float(values[f"{split}_loss"]) == pytest.approx(total / weight, abs=tol)


def test_runs_whose_pairs_have_other_lengths_are_refused_in_one_stack():
    specs = few(is_split_by_seed=[True], seed=[0, 1])
    with pytest.raises(UserError, match="split_seed"):
        Stack(one_cohort(specs), CPU)
    Stack(one_cohort([spec.replace(split_seed=0) for spec in specs]), CPU)


def test_members_need_the_same_forms_and_not_the_same_examples():
    task = build_task(RunSpec(**BASE))
    each, of = task.forms.each, task.forms.of
    drawn = torch.arange(task.n_drawn)
    scored = {**task.scored, "train": len(drawn) - 1 - task.scored["train"]}
    swapped = replace(
        task, drawn=drawn.flip(0), scored=scored, forms=Forms(each, torch.cat([of[drawn].flip(0), of[len(drawn) :]]))
    )
    check_forms("ragged", [task, replace(task), replace(task, drawn=drawn), swapped])
    fewer = {**task.scored, "valid": task.scored["valid"][1:]}
    for other in (
        replace(swapped, forms=task.forms),  # other forms at the same steps
        replace(task, forms=Forms(each, of.flip(0))),
        replace(task, forms=Forms((*each[:-1], (99, 99)), of)),
        replace(task, forms=None),
        replace(task, scored=fewer),
    ):
        with pytest.raises(UserError, match="split_seed"):
            check_forms("ragged", [task, other])


# Members that leave early, keep their best, get tired, diverge; lengths that are no multiple of a pass.
MIXED = [
    *few(seed=[0, 1], n_steps=[7, 21]),
    *few(seed=[2], lr=[1e30], clip=[math.inf]),
    *few(seed=[3], n_steps=[3, 30]),
]
PERIOD = form_period(MIXED[0])
TIRED = few(seed=[0, 1], keep_best=[True], patience=[1], lr=[0.01, 0.04], eval_first=[0], eval_period=[4])


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What each run becomes alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: list[dict[str, object]] = [{}, {}]
    for own, specs in zip(found, (MIXED, TIRED), strict=True):
        for spec in specs:
            folder = begun(tmp_path_factory.mktemp("alone"), [spec], "plain")
            assert train_cohort(folder, Options()) == "done"
            own |= results(folder)
    torch.set_num_threads(threads)
    return found


def test_the_runs_of_these_tests_have_forms_of_which_a_pass_has_several():
    assert form_period(MIXED[0]) == PERIOD and form_period(RunSpec(p=5)) == 1
    stack = Stack(one_cohort(MIXED[:1]), CPU)
    assert len(set(stack.sampler.shapes)) > 3 and 6 < PERIOD < 12


def joins(monkeypatch) -> list[tuple[list[int], int]]:
    """The steps of all members of each stack that is made, and how many there are."""
    real, found = Roster.fill, []

    def fill(self):
        before = self.stack
        begins = real(self)
        if self.stack is not before and self.stack is not None:
            found.append((self.stack.steps.tolist(), len(self.members)))
        return begins

    monkeypatch.setattr(Roster, "fill", fill)
    return found


@pytest.mark.parametrize("places", [pytest.param(1, marks=pytest.mark.slow), 2, 3, None])
def test_members_that_join_late_learn_what_they_learn_alone(tmp_path, monkeypatch, places, expected):
    stacks = joins(monkeypatch)
    folder = begun(tmp_path, MIXED, "plain")
    assert train_cohort(folder, Options(places=places)) == "done"
    assert repr(results(folder)) == repr(expected[0])  # a loss may be NaN, which equals nothing
    assert all(len({step % PERIOD for step in steps}) == 1 for steps, _ in stacks)
    late = [steps for steps, _ in stacks if len(set(steps)) > 1]
    assert bool(late) == (places in (2, 3))


@pytest.mark.parametrize("places", [2, 4])
def test_patience_and_the_best_model_of_members_that_join_late(tmp_path, places, expected):
    folder = begun(tmp_path, TIRED, "plain")
    assert train_cohort(folder, Options(places=places)) == "done"
    found = results(folder)
    assert found == expected[1]
    assert len({ending["step"] for *_, ending in found.values()}) > 2  # they do leave at different steps
    assert sum(len(models) == 2 for _, models, _ in found.values()) > 1


@pytest.mark.parametrize("stops", [(3, 9, 2), pytest.param((5, 5, 5, 5), marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*ran out of memory")
def test_stacks_go_on_where_they_were_and_with_fewer_or_more_places(tmp_path, monkeypatch, stops, expected):
    folder, parked = begun(tmp_path, MIXED, "plain"), 0
    for steps, places in zip(stops, (4, 2, 1, 3), strict=False):
        asked = iter(range(steps))
        stop = lambda asked=asked: next(asked, None) is None  # noqa: E731
        assert train_cohort(folder, Options(places=places, stop=stop, flush_seconds=0)) == "interrupted"
        checkpoint = folder.load_checkpoint()
        assert checkpoint is not None
        parked += len(checkpoint[1]["parked"])
    assert train_cohort(folder, Options(places=3)) == "done"
    assert repr(results(folder)) == repr(expected[0])
    assert parked > 0


def test_parked_members_of_different_places_of_a_pass_do_not_meet():
    specs = few(seed=range(5))
    roster = Roster(specs, 3, CPU, "plain")
    roster.fill()
    train_steps(roster.stack, 5)
    state = {name: tensor.clone() for name, tensor in roster.state().items()}
    state["steps"] = torch.tensor([5, 5 + PERIOD, 6])  # as of stacks that were parked at different times
    where = {"members": [spec.id for spec in specs[:1]], "parked": [spec.id for spec in specs[1:3]], "finished": {}}
    again = Roster(specs, 4, CPU, "plain")
    again.restore(state, where, lambda state, like: None)
    assert again.until_joining() == 0  # the second of them is a whole pass ahead
    assert again.fill().tolist() == [False, False]
    assert (again.members, list(again.parked)) == ([specs[0].id, specs[1].id], [specs[2].id])
    assert again.until_joining() == 1 and again.is_settled
    train_steps(again.stack, 1)
    assert not again.is_settled
    assert again.fill().tolist() == [False] * 3 and again.until_joining() == PERIOD - 6
    train_steps(again.stack, PERIOD - 6)
    assert again.fill().tolist() == [False] * 3 + [True] and again.until_joining() > 10**9
    fewer = Roster(specs, 2, CPU, "plain")
    where = {"members": [spec.id for spec in specs[:3]], "parked": [], "finished": {specs[0].id: {"step": 5}}}
    fewer.restore(state, where, lambda state, like: None)
    assert fewer.members == [specs[1].id] and list(fewer.parked) == [specs[2].id]
    assert fewer.is_settled and fewer.until_joining() == 1
    for begins in ([False], [True, True]):  # when all have left, those come who are at the place of the first of them
        fewer.leave(0, {"state": "done", "step": 30})
        assert not fewer.is_done and fewer.fill().tolist() == begins
    assert fewer.members == [specs[3].id, specs[4].id] and fewer.until_joining() > 10**9
    for place in range(2):
        fewer.leave(place, {"state": "done", "step": 30})
    assert fewer.is_done


@pytest.mark.slow
def test_many_steps_between_two_looks_and_recordings_change_nothing(tmp_path, monkeypatch, expected):
    looks, stacks, real = [], joins(monkeypatch), Session._ahead
    monkeypatch.setattr(loop, "CHECKED", 1e9)
    monkeypatch.setattr("shoal.training.stack.Launches", lambda device: Launches(device, recorded))
    monkeypatch.setattr(Session, "_ahead", lambda self, stack: looks.append(real(self, stack)) or looks[-1])
    folder = begun(tmp_path, MIXED, "plain")
    train_cohort(folder, Options(places=3))
    assert max(looks) > 3
    assert any(len(set(steps)) > 1 for steps, _ in stacks)
    assert repr(results(folder)) == repr(expected[0])


def test_a_step_is_recorded_for_each_form_and_number_of_pairs():
    cohort = one_cohort(few(seed=[0, 1], n_steps=[60]))
    called, replayed = Stack(cohort, CPU), Stack(cohort, CPU)
    replayed.launches = Launches(CPU, recorded)
    for n in (5, 1, 40):
        for _ in range(n):
            train_step(called)
        train_steps(replayed, n)
        found = evaluate(replayed, {})
        assert all(torch.equal(column, found[name]) for name, column in evaluate(called, {}).items())
    names = {("step", form, size) for form, size in called.sampler.shapes}
    assert set(replayed.launches.done) == names | {"evaluation"}
    assert {name for name, _ in replayed.launches.recordings} == names
    assert all(replayed.launches.done[name] == FIRST for name in names)
    for name, tensor in called.state().items():
        assert torch.equal(replayed.state()[name], tensor), name


def test_memory_is_estimated_from_the_positions_of_a_batch(monkeypatch):
    spec = RunSpec(**BASE)
    before = stack_bytes(spec, 1, "plain")
    monkeypatch.setattr(ragged.Ragged, "batch_positions", lambda self, size: 10**6)
    assert stack_bytes(spec, 1, "plain") > before
    monkeypatch.undo()
    buckets = Buckets(*(build_task(spec).tensors[f"{side}_length"] for side in ("source", "target")), drawn=40)
    assert buckets.batch_positions(6) <= spec.task_part.batch_positions(6)


def test_a_lab_of_them_is_certified_to_the_bit(tmp_path):
    records = shoal.train(few(seed=[0, 1, 2]), tmp_path / "lab", workers=1, threads=1)
    (folder,) = records.cohorts()
    certificate = certify(folder, records.ids[:2], steps=PERIOD + 3)
    assert records.runs()["state"].to_list() == ["done"] * 3
    assert all(own["loss"] == own["parameters"] == 0 for own in certificate["alone"].values())
    assert certificate["record"] < 1e-6  # what is on record is float32
