"""Programs whose products are of operands rounded to bfloat16: against autograd, neighbours, and what is on record."""

import math
from unittest import mock

import pytest
import torch
from helpers import CPU, one_cohort, theta, tiny_grid
from torch import Tensor

import shoal
from shoal.errors import LabError, UserError
from shoal.fast import matmul, multiplication
from shoal.fast.build import Kernels
from shoal.fast.engine import choose_engine, engine_kernels
from shoal.fast.ops import TorchOps
from shoal.fast.program import Arena, Program
from shoal.fast.scorer import PrefixScorer
from shoal.fast.window_ops import TorchWindowOps
from shoal.fast.windows import WindowScorer
from shoal.lab.cohort import CohortFolder
from shoal.lab.files import write_json
from shoal.spec import RunSpec
from shoal.training.certificate import certify
from shoal.training.continuation import engine_of, products_of
from shoal.training.loop import Options, Session, train_cohort
from shoal.training.plan import Cohort
from shoal.training.requests import check_precision
from shoal.training.stack import Stack
from shoal.training.step import train_steps

pytestmark = pytest.mark.skipif(engine_kernels("windows", CPU).library_for is None, reason="no compiler")
OF_EQUATIONS = {"p": 7, "embedding_size": 20, "train_batch_size": 16, "precision": "bfloat16", "num_layers": 2}
OF_TEXT = {"task": "text", "embedding_size": 16, "num_layers": 2, "context_length": 9, "eval_stride": 5}
OF_TEXT |= {"train_batch_size": 5, "n_steps": 30, "precision": "bfloat16"}
OF_PAIRS = {**OF_TEXT, "task": "sorting", "min_length": 2, "max_length": 6, "digits": 8, "num_heads": 2}
OF_PAIRS |= {"train_examples": 40, "valid_examples": 12, "context_length": None, "eval_stride": None}
FAMILIES = {
    "lstm of equations": {**OF_EQUATIONS, "model": "lstm"},
    "gpt of equations": {**OF_EQUATIONS, "model": "gpt"},
    "lstm of a text": {**OF_TEXT, "model": "lstm"},
    "gpt of a text": {**OF_TEXT, "model": "gpt", "num_heads": 2, "dropout": 0.2},
}

OTHERS = {  # families of which one test is enough
    "encoder_decoder of pairs": {**OF_PAIRS, "model": "encoder_decoder", "tie_embeddings": "all"},
    "lstm_encoder_decoder of pairs": {**OF_PAIRS, "model": "lstm_encoder_decoder", "num_heads": None},
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 12)
    return str(path)


def runs(text, family, members=2, **changes):
    """Runs that differ in their seeds."""
    settings = {**FAMILIES, **OTHERS}[family] | changes
    if "task" not in settings:
        return tiny_grid(settings, seed=list(range(members)))
    settings = {name: value for name, value in settings.items() if value is not None}
    of_text = {"text": text} if settings["task"] == "text" else {}
    return [RunSpec(**settings, **of_text, seed=seed) for seed in range(members)]


def stack_of(specs, products, engine=None):
    """A stack away from its initial values, so that biases and norms matter."""
    usual = "compiled" if specs[0].task == "arithmetic" else "windows"
    stack = Stack(Cohort(tuple(specs)), CPU, engine or usual, products)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        stack.theta += 0.2 * torch.randn(stack.theta.shape[1], generator=noise)
    return stack


def gradient_of(stack):
    """Losses and gradient of the first training batch."""
    stack.sampler.prepare(stack.steps)
    stack.at += 1
    scores, gradient = stack.gradient(*stack.draw())
    return scores["loss"].detach().clone(), gradient.clone()


class RoundedProduct(torch.autograd.Function):
    """Product of rounded operands in float64, and those of its gradients."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return (x.bfloat16().double() @ weight.mT.bfloat16().double()).float()

    @staticmethod
    def backward(ctx, d_y: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = (each.bfloat16().double() for each in ctx.saved_tensors)
        d_y = d_y.bfloat16().double()
        return (d_y @ weight).float(), (d_y.mT @ x).float()


class Rounding:
    """Linear layers whose operands are rounded, forwards and backwards."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        product = RoundedProduct.apply(x, weight)
        return product if bias is None else product + bias.unsqueeze(1)


class RoundingOps(Rounding, TorchOps): ...


class RoundingWindowOps(Rounding, TorchWindowOps): ...


def by_autograd(specs, ops, window_ops):
    """Losses and gradient by PyTorch's operations."""
    if specs[0].task == "arithmetic":
        stack = stack_of(specs, "torch", "prefixes")
        stack.scorer.ops = ops
    else:
        stack = stack_of(specs, "torch")
        stack.scorer = WindowScorer(stack.scorer.members, None)
    with mock.patch("shoal.fast.windows.TorchWindowOps", lambda: window_ops):
        return gradient_of(stack)


def distances(one, other):
    """Distance of each member's numbers, relative to their size."""
    return (one - other).norm(dim=1) / other.norm(dim=1)


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_gradients_are_those_of_autograd_with_rounded_operands(text, family):
    """A last bit that differs may round an operand to its other neighbour, but rarely in such small models."""
    small = {"context_length": 4, "eval_stride": 3} if "text" in family else {}
    specs = runs(text, family, members=5, num_layers=1, train_batch_size=3, **small)
    own = by_autograd(specs, RoundingOps(), RoundingWindowOps())
    rounded = torch.bfloat16  # the results are rounded too; an LSTM on windows rounds the sum of two
    by_torch = by_autograd(specs, TorchOps(rounded), TorchWindowOps(rounded))
    for products, expected, error in (("own", own, 1e-5), ("torch", by_torch, 5e-3)):
        for one, other in zip(expected, gradient_of(stack_of(specs, products)), strict=True):
            assert distances(other, one).median() < error
            assert distances(other, one).max() < 2e-2
    _, exact = gradient_of(stack_of([spec.replace(precision="float32") for spec in specs], "own"))
    assert distances(exact, own[1]).median() > 1e-3


@pytest.mark.parametrize("products", ["own", pytest.param("torch", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FAMILIES)
def test_alone_in_a_stack_and_resumed_a_member_has_the_same_bits(text, family, products):
    specs = runs(text, family, members=3)
    together, alone = stack_of(specs, products), [stack_of([spec], products) for spec in specs]
    train_steps(together, 2)
    again = stack_of(specs, products)
    again.load_state({name: tensor.clone() for name, tensor in together.state().items()})
    for stack in (together, again):
        train_steps(stack, 2)
    assert torch.equal(again.theta, together.theta)
    for place, stack in enumerate(alone):
        train_steps(stack, 4)
        assert torch.equal(theta(together, place), theta(stack, 0)), place


def test_the_engines_and_products_of_lower_precision_are_chosen(text, monkeypatch):
    of_text, of_equations = (runs(text, f"gpt of {kind}", 1)[0] for kind in ("a text", "equations"))
    for products, ratio in (("own", 2.0), ("torch", 0.5)):
        ratios = {"float32": 1 / ratio, "bfloat16": ratio}
        monkeypatch.setattr(
            multiplication,
            "measured",
            lambda precision, ratios=ratios: dict.fromkeys(multiplication.CLASSES, ratios[precision]),
        )
        for spec, engine in ((of_text, "windows"), (of_equations, "compiled")):
            choice = choose_engine(spec, math.inf, CPU)
            assert (choice.engine, choice.products) == (engine, products)
    with mock.patch("shoal.fast.engine.is_compiled", lambda *sources: False):
        assert choose_engine(of_text, 1.0, CPU).engine == "windows"  # plain has no bfloat16
        assert choose_engine(of_equations, 1.0, CPU).engine == "prefixes"


def test_each_precision_is_measured_apart(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    multiplication.measured.cache_clear()
    monkeypatch.setattr(
        multiplication, "_ratio", lambda sizes, repeats, precision: {"float32": 0.5, "bfloat16": 2.0}[precision]
    )
    for _ in range(2):  # measured, and read
        for precision, products in (("float32", "torch"), ("bfloat16", "own")):
            assert multiplication.choose_products(128, CPU, precision) == products
        multiplication.measured.cache_clear()
    assert len(list((tmp_path / "shoal").glob("products-*.json"))) == 2
    monkeypatch.undo()
    assert 0 < multiplication._ratio((1, 4, 4, 4), 1, "bfloat16") < 100


def without(precision):
    """A machine that has no library of products in a precision."""
    there = matmul.library
    return mock.patch.object(
        matmul, "library", lambda asked="float32": Kernels(None, "none here") if asked == precision else there(asked)
    )


def begun(lab, specs, engine, products) -> CohortFolder:
    cohort = one_cohort(specs)
    folder = shoal.Lab(lab).create().cohort(cohort.id)
    folder.create(list(cohort.members), threads=1, engine=engine, products=products)
    return folder


@pytest.mark.parametrize("family", ["lstm of equations", "gpt of a text"])
def test_a_cohort_keeps_its_products_and_is_told_where_they_are_lacking(text, tmp_path, family, monkeypatch):
    monkeypatch.setattr(multiplication, "measured", lambda precision: dict.fromkeys(multiplication.CLASSES, 2.0))
    specs = runs(text, family, n_steps=4, eval_first=2)
    records = shoal.train(specs, tmp_path, workers=1, threads=1, engine="windows" if "text" in family else "compiled")
    (folder,) = records.cohorts()
    session = folder.status()["sessions"][0]
    assert (session["products"], session["precision"]) == ("own", "bfloat16")
    assert session["kernels"].endswith(matmul.library("bfloat16").key)
    certificate = certify(folder, records.ids, steps=4)
    assert certificate["record"] == 0 and all(member["loss"] == 0 for member in certificate["alone"].values())
    with without("float32"):
        assert products_of(folder, CPU) == "own"
    with without("bfloat16"), pytest.warns(UserWarning, match="last bits"):
        assert products_of(folder, CPU) == "torch"


def test_a_cohort_that_pytorchs_operations_began_goes_on_with_them(text, tmp_path):
    specs = runs(text, "gpt of equations", n_steps=4)
    folder = begun(tmp_path, specs, "prefixes", "torch")
    manifest = {name: value for name, value in folder.manifest().items() if name != "products"}
    write_json(folder.path / "cohort.json", manifest)  # as of earlier versions
    folder = CohortFolder(folder.path)
    assert (engine_of(folder, CPU), products_of(folder, CPU)) == ("prefixes", "torch")
    stops = iter([False] * 2 + [True] * 99)
    assert train_cohort(folder, Options(stop=lambda: next(stops))) == "interrupted"
    scorer = Session(folder, Options()).roster.stack.scorer
    assert type(scorer) is PrefixScorer and scorer.ops.products == torch.bfloat16


def test_a_text_is_not_trained_in_float32_where_bfloat16_was_asked_for(text, tmp_path):
    (spec,) = specs = runs(text, "gpt of a text", 1)
    folder = begun(tmp_path, specs, "windows", "own")
    nothing = Kernels(None, "there is no C compiler on this machine")
    with pytest.raises(UserError, match="plain"):
        Stack(Cohort((spec,)), CPU, "plain")
    with mock.patch("shoal.fast.engine.window_kernels", lambda: nothing):
        for device in (CPU, torch.device("cuda")):
            with pytest.raises(UserError, match="bfloat16"):
                check_precision(specs, device, None)
        with pytest.warns(UserWarning), pytest.raises(LabError, match="no C compiler"):
            Session(folder, Options())


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("gpt of equations", {"dropout": 0.1}, "dropout"),
        ("gpt of a text", {"precision": "tf32"}, "text"),
        (
            "gpt of a text",
            {"model": "outside:HalfFrozen", "num_layers": None, "num_heads": None, "dropout": None},
            "windows",
        ),
    ],
)
def test_runs_that_no_engine_computes_in_a_precision_are_refused(text, family, changes, said):
    with pytest.raises(UserError, match=said):
        runs(text, family, 1, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_a_small_run_learns_as_with_pytorchs_operations(model):
    base = {"model": model, "p": 7, "embedding_size": 32, "precision": "bfloat16", "lr": 3e-3, "n_steps": 301}
    specs, accuracies = tiny_grid(base, seed=list(range(8))), []
    for engine, products in (("compiled", "own"), ("prefixes", "torch")):
        stack = Stack(one_cohort(specs), CPU, engine, products)
        train_steps(stack, 301)
        with torch.no_grad():
            accuracies.append(stack.score(stack.scored["train"])["accuracy"].mean(1))
    one, other = accuracies
    assert one.mean() > 0.97 and (one.mean() - other.mean()).abs() < 0.02


def test_pytorchs_product_of_a_member_does_not_depend_on_its_neighbours():
    """PyTorch adds up the products of several members in another order, which one of some 70,000 sums shows."""
    a, b = (torch.randn(900, *shape, generator=torch.Generator().manual_seed(0)) for shape in ((30, 16), (16, 8)))
    together, x, y, alone = (torch.empty(*s) for s in ((900, 30, 8), (1, 30, 16), (1, 16, 8), (1, 30, 8)))
    for out, left, right in ((together, a, b), (alone, x, y)):
        program = Program(Arena(), torch.zeros(len(out), 1), False, "torch", "bfloat16")
        program.multiply(out, left, right)
        if out is together:
            program.forward()
    for member in range(len(a)):
        x.copy_(a[member]), y.copy_(b[member])
        program.forward()
        assert torch.equal(alone[0], together[member]), member
