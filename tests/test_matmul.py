"""Products of many members in one call: right within rounding, the same bits anywhere, nothing touched beyond."""

import ctypes
import mmap
import os
import shutil
import subprocess
import warnings
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from shoal.fast import matmul
from shoal.fast.build import FLAGS, PLAIN_FLAGS, Kernels
from shoal.fast.panels import COLUMNS, WORTH, Panels, Rounded, Whole, right_matrix
from shoal.fast.program import Arena, Program

pytestmark = pytest.mark.skipif(matmul.library().library is None, reason=matmul.library().note)
some = settings(max_examples=40, deadline=None)
many = settings(max_examples=400, deadline=None)
precisions = pytest.mark.parametrize("precision", matmul.SOURCES)
EPSILON = 2.0**-24  # half of a unit in the last place of 1
GUARD = 12345.0
PROCESSORS = {  # vectors of 512 bits or fewer, the same without products in bfloat16, of 256 or fewer, of 128
    "this": FLAGS,
    "without AVX512_BF16": (*FLAGS, "-mno-avx512bf16"),
    "without AVX-512": (*FLAGS, "-mno-avx512f"),
    "any": PLAIN_FLAGS,
}
sizes = st.one_of(st.integers(1, 20), st.sampled_from([16, 31, 32, 33, 48, 64, 65, 70, 128]))
depths = st.one_of(sizes, st.sampled_from([255, 256, 257, 300, 600]))


@dataclass(frozen=True)
class Case:
    """A product; a stride of 0 over members, or groups, is that of an operand which they share."""

    M: int
    N: int
    K: int
    R: int = 1
    G: int = 1
    S: int = 1
    a_transposed: bool = False
    b_transposed: bool = False
    a_shared: bool = False
    b_shared: bool = False
    bias: bool = False
    accumulate: bool = False
    alpha: float = 1.0
    gap: int = 0  # numbers between rows, and between matrices
    offset: int = 0  # numbers before the first

    @property
    def work(self) -> int:
        return self.M * self.N * self.K * self.R * self.G * self.S


cases = st.builds(
    Case,
    *(sizes, sizes, depths),
    R=st.integers(1, 3),
    G=st.integers(1, 3),
    S=st.integers(1, 3),
    alpha=st.sampled_from([1.0, 0.25, -1.7]),
    gap=st.sampled_from([0, 1, 5]),
    offset=st.integers(0, 17),
    **{name: st.booleans() for name in ("a_transposed", "b_transposed", "a_shared", "b_shared", "bias", "accumulate")},
).filter(lambda case: case.work < 3_000_000)


def laid(values: Tensor, case: Case, transposed: bool = False) -> tuple[Tensor, Tensor]:
    """A view with these values, and all memory around it, whose other numbers are guards."""
    values = values.mT if transposed else values
    *leading, rows, columns = values.shape
    matrix = rows * (columns + case.gap) + case.gap
    strides = [columns + case.gap, 1]
    for size in reversed(leading):
        strides.insert(0, matrix)
        matrix *= size
    memory = torch.full((case.offset + matrix + 16,), GUARD)
    view = memory.as_strided(values.shape, strides, case.offset)
    view.copy_(values)
    return (view.mT if transposed else view), memory


def drawn(case: Case, seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    R, G, S = case.R, case.G, case.S
    return {
        "a": normal(1 if case.a_shared else R, G, S, case.M, case.K),
        "b": normal(1 if case.b_shared else R, G, S, case.K, case.N),
        "bias": normal(R, case.N),
        "out": normal(R, G, case.M, case.N) if case.accumulate else torch.full((R, G, case.M, case.N), torch.nan),
    }


def computed(case: Case, values: dict[str, Tensor], precision: str) -> tuple[Tensor, Tensor]:
    """The product in an array among guards, and the memory around it."""
    a, _ = laid(values["a"], case, case.a_transposed)
    b, _ = laid(values["b"], case, case.b_transposed)
    out, memory = laid(values["out"], case)
    bias = laid(values["bias"].unsqueeze(0), case)[0].squeeze(0) if case.bias else None
    how = {"alpha": case.alpha, "accumulate": case.accumulate, "summed": True, "precision": precision}
    matmul.multiply(out, a, b, bias=bias, **how)
    return out, memory


def expected(case: Case, values: dict[str, Tensor], precision: str) -> tuple[Tensor, Tensor]:
    """The product in float64 of the rounded operands, and a bound of the error of any order of its sums."""
    a, b = (values[name].to(getattr(torch, precision)).double() for name in ("a", "b"))
    found, size = case.alpha * (a @ b).sum(2), abs(case.alpha) * (a.abs() @ b.abs()).sum(2)
    if case.bias:
        found, size = found + values["bias"][:, None, None], size + values["bias"].abs()[:, None, None]
    if case.accumulate:
        found, size = found + values["out"], size + values["out"].abs()
    return found, 1.01 * (case.K * case.S + 4) * EPSILON * size


def check(case: Case, seed: int, precision: str) -> None:
    values = drawn(case, seed)
    out, memory = computed(case, values, precision)
    found, bound = expected(case, values, precision)
    assert ((out - found).abs() <= bound).all()
    out.fill_(GUARD)
    assert (memory == GUARD).all()  # nothing beside it was written


@precisions
@some
@example(Case(17, 65, 1101, R=2, a_transposed=True), 0)
@example(Case(3, 900, 1101, b_transposed=True), 0)
@given(cases, st.integers(0, 2**31))
def test_every_product_is_that_of_float64_within_rounding(precision, case, seed):
    check(case, seed, precision)


def built(folder: os.PathLike, name: str, precision: str) -> ctypes.CDLL | None:
    """The library as another processor would have it, if this compiler and this processor know it."""
    made, compiler = folder / "products.so", shutil.which("cc")
    command = [compiler or "", "-o", made, matmul.SOURCES[precision], *PROCESSORS[name], "-lm"]
    is_made = compiler and not subprocess.run(command, capture_output=True).returncode
    return ctypes.CDLL(str(made)) if is_made else None


@pytest.mark.slow
@precisions
@pytest.mark.parametrize("processor", PROCESSORS)
def test_every_processor_finds_it(tmp_path, processor, precision):
    library = built(tmp_path, processor, precision)
    if library is None:
        pytest.skip(f"no library for {processor}")

    @many
    @given(cases, st.integers(0, 2**31))
    def holds(case, seed):
        check(case, seed, precision)
        check_bits(case, seed, precision)

    with mock.patch.object(matmul, "library", lambda precision: Kernels(library, "")):
        holds()
        if precision == "bfloat16":
            check_rounding()


def check_bits(case: Case, seed: int, precision: str) -> None:
    """A member alone, elsewhere in memory, with fewer rows and columns, has the bits that it has in the stack."""
    values = drawn(case, seed)
    stacked, _ = computed(case, values, precision)
    r, rows, columns = case.R - 1, max(1, case.M // 2), max(1, case.N // 2)
    own = {name: value if len(value) == 1 else value[r : r + 1] for name, value in values.items()}
    own["a"], own["b"] = own["a"][..., :rows, :], own["b"][..., :columns]
    own["bias"], own["out"] = own["bias"][:, :columns], own["out"][..., :rows, :columns]
    gap, offset = (case.gap + 3) % 7, case.offset + 5
    alone = Case(**{**vars(case), "R": 1, "M": rows, "N": columns, "gap": gap, "offset": offset})
    alone = Case(**{**vars(alone), "a_transposed": not case.a_transposed, "b_transposed": not case.b_transposed})
    found, _ = computed(alone, own, precision)
    assert torch.equal(found, stacked[r : r + 1, :, :rows, :columns])


@precisions
@some
@example(Case(40, 40, 600, R=2), 0)
@example(Case(40, 40, 200, R=2, a_transposed=True), 0)
@example(Case(2, 70, 300, R=2, b_transposed=True), 0)
@given(cases, st.integers(0, 2**31))
def test_bits_depend_on_a_row_and_the_right_matrix_alone(precision, case, seed):
    check_bits(case, seed, precision)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@precisions
@pytest.mark.parametrize(
    "case",
    [
        Case(150, 70, 300, R=1, b_transposed=True, bias=True, accumulate=True),
        Case(20, 300, 300, R=1, a_transposed=True, accumulate=True),
        Case(60, 60, 260, R=3, S=2, a_transposed=True),
        Case(3, 5, 2000, R=40, b_transposed=True),
    ],
    ids=str,
)
def test_bits_are_those_of_one_thread(case, threads, precision):
    values = drawn(case, 0)
    found = []
    for n in (1, 2, 3):
        threads(n)
        found.append(computed(case, values, precision)[0].clone())
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@precisions
@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("transposed", [False, True])
def test_what_is_not_finite_comes_out_where_it_belongs(odd, transposed, precision):
    case = Case(33, 35, 40, R=2, a_transposed=transposed, b_transposed=transposed)
    values = drawn(case, 1)
    values["a"][1, 0, 0, 32, 7] = odd
    values["b"][0, 0, 0, 3, 34] = odd
    values["a"][0, 0, 0, 5, 3] = 0.0  # times infinity is no number
    out, _ = computed(case, values, precision)
    by_hand = (values["a"] * 1.0) @ values["b"]
    np.testing.assert_array_equal(torch.isnan(out), torch.isnan(by_hand[:, :, 0]))
    np.testing.assert_array_equal(torch.isposinf(out), torch.isposinf(by_hand[:, :, 0]))
    np.testing.assert_array_equal(torch.isneginf(out), torch.isneginf(by_hand[:, :, 0]))
    assert torch.isfinite(out[1, 0, :32]).all() and torch.isfinite(out[0, 0, :, :34]).all()


class Guarded:
    """Memory between two pages that nobody may touch."""

    def __init__(self, numbers: int, at_end: bool) -> None:
        page = mmap.PAGESIZE
        inner = -(-numbers * 4 // page) * page
        self.map = mmap.mmap(-1, inner + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        protect = ctypes.CDLL(None).mprotect
        for place in (start, start + page + inner):
            assert protect(ctypes.c_void_p(place), ctypes.c_size_t(page), 0) == 0
        first = page + (inner - numbers * 4 if at_end else 0)
        self.array = torch.frombuffer(self.map, dtype=torch.float32, count=numbers, offset=first)

    def holding(self, values: Tensor, transposed: bool) -> Tensor:
        view = self.array.view(values.mT.shape if transposed else values.shape)
        view = view.mT if transposed else view
        return view.copy_(values)


GUARDED = [
    *((1, 1, 1), (14, 32, 3), (15, 33, 17), (30, 47, 20), (29, 64, 40), (3, 100, 260), (100, 9, 33)),
    *((100, 40, 100), (20, 40, 1024)),  # of which columns, and rows, of the left matrix are copied
]


def guarded_products(precision: str) -> None:
    """Products whose operands all end, or all begin, where memory does."""
    for at_end in (True, False):
        for M, N, K in GUARDED:
            for turned in range(4):
                case = Case(M, N, K, R=2, a_transposed=turned % 2 > 0, b_transposed=turned > 1, bias=True)
                values, held = drawn(case, 0), {}
                for name, value in values.items():
                    is_turned = {"a": case.a_transposed, "b": case.b_transposed}.get(name, False)
                    value = value.flatten(1, -3) if value.ndim > 3 else value
                    value = value.flatten(0, 1) if value.ndim > 3 else value
                    held[name] = Guarded(value.numel(), at_end).holding(value, is_turned)
                matmul.multiply(held["out"], held["a"], held["b"], bias=held["bias"], precision=precision)
                a, b = (held[name].to(getattr(torch, precision)).float() for name in ("a", "b"))
                reference = torch.baddbmm(held["bias"].unsqueeze(1), a, b)
                assert torch.allclose(held["out"], reference, atol=1e-3)


@precisions
def test_nothing_outside_the_operands_is_read(precision):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a process that forks with threads: none computes here
        child = os.fork()
    if not child:
        status = 1
        try:
            torch.set_num_threads(1)
            guarded_products(precision)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@precisions
def test_a_transposed_result_is_the_product_of_the_transposed(precision):
    a, b = torch.randn(2, 20, 30), torch.randn(2, 30, 40)
    places = torch.empty(2, 20, 40), torch.empty(2, 40, 20).mT
    out, turned = (matmul.multiply(place, a, b, precision=precision) for place in places)
    assert torch.equal(out, turned)


def check_rounding() -> None:
    """Operands are rounded to nearest, ties to even, in every order of memory, as PyTorch does."""
    bits = torch.randint(-(2**31), 2**31, (67, 70), generator=torch.Generator().manual_seed(0))
    bits[:, ::2] = bits[:, ::2] & ~0xFFFF | 0x8000  # ties
    numbers = bits.to(torch.int32).view(torch.float32)
    numbers = torch.where((numbers.abs() < 2.0**-120) | numbers.isnan(), 1.0, numbers)  # denormal ones may be 0
    numbers[0, :3] = torch.tensor([0x7F7FFFFF, 0x7F7F8000, 0x7F7F7FFF], dtype=torch.int32).view(torch.float32)
    assert numbers.bfloat16()[0, :3].isinf().tolist() == [True, True, False]
    row, one = numbers.flatten().unsqueeze(0), torch.ones(1, 1)
    for a, b in ((row.mT, one), (one, row)):
        out = matmul.multiply(torch.empty(len(a), b.shape[1]), a, b, precision="bfloat16")
        assert torch.equal(out.flatten(), numbers.bfloat16().float().flatten())
    finite = numbers.where(numbers.abs() < 3.38e38, 1.0)
    for x in (finite, finite.mT):
        for lying in (x.contiguous(), x.mT.contiguous().mT):
            for a, b in ((lying, torch.eye(x.shape[1])), (torch.eye(len(x)), lying)):
                out = matmul.multiply(torch.empty(x.shape), a, b, precision="bfloat16")
                assert torch.equal(out, x.bfloat16().float())


def test_operands_are_rounded_to_the_nearest_bfloat16():
    check_rounding()


@precisions
def test_numbers_of_an_operand_may_lie_any_distance_apart(precision):
    a, b = torch.randn(2, 60, 15).mT[:, ::2, ::3], torch.randn(2, 60, 90)[:, ::3, ::2]  # (2, 8, 20), (2, 20, 45)
    found, lying = (
        matmul.multiply(torch.empty(2, 8, 45), *operands, precision=precision)
        for operands in ((a, b), (a.contiguous(), b.contiguous()))
    )
    assert torch.equal(found, lying)


def test_heads_are_views_of_one_array():
    R, B, S, H, K = 2, 3, 5, 4, 8
    q, k = (torch.randn(R, B, S, H * K).view(R, B, S, H, K).transpose(2, 3) for _ in range(2))  # (R, B, H, S, K)
    scores = matmul.multiply(torch.empty(R, B, H, S, S), q, k.mT, alpha=K**-0.5)
    assert torch.allclose(scores, q @ k.mT * K**-0.5, atol=1e-6)


def test_one_matrix_is_a_product_too():
    a, b = torch.randn(6, 7), torch.randn(7, 8)
    assert torch.allclose(matmul.multiply(torch.empty(6, 8), a, b, bias=torch.ones(8)), a @ b + 1, atol=1e-5)


@pytest.mark.parametrize(
    ("out", "a", "b", "options"),
    [
        ((2, 3, 4), (2, 3, 5), (2, 6, 4), {}),
        ((2, 3, 4), (3, 3, 5), (2, 5, 4), {}),
        ((2, 3, 4), (2, 3, 0), (2, 0, 4), {}),
        ((2, 3, 4), (2, 3, 5), (2, 5, 4), {"bias": torch.zeros(3)}),
    ],
)
def test_shapes_that_do_not_fit_are_refused(out, a, b, options):
    with pytest.raises(ValueError):
        matmul.multiply(torch.zeros(out), torch.zeros(a), torch.zeros(b), **options)


def test_other_types_are_refused():
    with pytest.raises(ValueError, match="float64"):
        matmul.multiply(torch.zeros(2, 2).double(), torch.zeros(2, 2), torch.zeros(2, 2))


@settings(max_examples=25, deadline=None)
@given(R=st.integers(1, 3), M=st.integers(1, 40), K=st.integers(1, 70), panels=st.integers(1, 3), turned=st.booleans())
def test_panels_of_a_matrix_change_no_bit_of_its_products(R, M, K, panels, turned):
    """The parameters may change between two runs of a program, and the results lie in a part of an array."""
    N = COLUMNS * panels
    whole = torch.randn(R, *((N, K + 3) if turned else (K + 3, N)))
    matrix = whole[:, :, 3:].mT if turned else whole[:, 3:]
    results = {}
    for count in (WORTH - 1, WORTH):
        program = Program(Arena(), torch.zeros(R, 1), products="own")
        array, a = torch.zeros(R, M + 2, N), torch.full((R, M, K), 0.5)
        right = right_matrix(program, matrix, count)
        right.multiply(array[:, 1:-1], a)
        right.multiply(array[:, 1:-1], a, add=True)
        right.give_back()
        program.finish()
        program.forward()
        whole.add_(1)
        a.uniform_(generator=torch.Generator().manual_seed(1))
        program.forward()
        whole.sub_(1)
        results[type(right)] = array
    assert set(results) == {Whole, Panels}
    assert torch.equal(results[Whole], results[Panels]) and not results[Whole][:, 0].any()
    assert (results[Whole][:, 1:-1] - 2 * (a.double() @ (matrix + 1).double())).abs().max() < 1e-3


@settings(max_examples=25, deadline=None)
@example(R=2, M=3, K=1101, N=900, turned=False)
@given(R=st.integers(1, 3), M=st.integers(1, 40), K=depths, N=sizes, turned=st.booleans())
def test_a_rounded_copy_of_a_matrix_changes_no_bit_of_its_products(R, M, K, N, turned):
    """As with panels: the parameters may change between two runs, and the results lie in a part of an array."""
    whole = torch.randn(R, *((N, K + 3) if turned else (K + 3, N)))
    matrix = whole[:, :, 3:].mT if turned else whole[:, 3:]
    results = {}
    for count in (1, 2):
        program = Program(Arena(), torch.zeros(R, 1), products="own", precision="bfloat16")
        array, a = torch.zeros(R, M + 2, N), torch.full((R, M, K), 0.5)
        right = right_matrix(program, matrix, count)
        right.multiply(array[:, 1:-1], a)
        right.multiply(array[:, 1:-1], a, add=True)
        right.multiply(array[:, :0], a[:, :0])
        right.give_back()
        program.finish()
        program.forward()
        whole.add_(1)
        a.uniform_(generator=torch.Generator().manual_seed(1))
        program.forward()
        by_hand = 2 * (a.bfloat16().double() @ matrix.bfloat16().double())
        whole.sub_(1)
        results[type(right)] = array
    assert set(results) == {Whole, Rounded}
    assert torch.equal(results[Whole], results[Rounded]) and not results[Whole][:, 0].any()
    assert (results[Whole][:, 1:-1] - by_hand).abs().max() < 2e-6 * K


@settings(max_examples=25, deadline=None)
@given(sizes=st.tuples(*(st.integers(0, 20) for _ in range(4))), turned=st.booleans(), add=st.booleans())
def test_a_program_multiplies_rounded_operands_by_either_library(sizes, turned, add):
    R, M, K, N = (sizes[0] % 3 + 1, *sizes[1:])
    a, b, bias = torch.randn(R, M, K), torch.randn(R, K, N), torch.randn(R, N) if M * K * N and not add else None
    b = b.mT.contiguous().mT if turned else b
    exact = a.bfloat16().double() @ b.bfloat16().double()
    for products, error in (("own", 1e-5), ("torch", 2.0**-8)):
        array = torch.ones(R, M + 1, N)
        program = Program(Arena(), torch.zeros(R, 1), products=products, precision="bfloat16")
        program.multiply(array[:, 1:], a, b, bias, add=add)
        program.finish()
        program.forward()
        found = array[:, 1:] - (float(add) if bias is None else bias.unsqueeze(1))
        assert ((found - exact).abs() <= error * exact.abs() + 1e-5).all()
        assert (array[:, 0] == 1).all()
