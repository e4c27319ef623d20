"""Quantisation: bits of bitsandbytes, the cases of the document, and bytes that are counted."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from shoal.errors import UserError
from shoal.quantisation import quantise_absmax, quantise_blocks
from shoal.quantisation.packing import pack, unpack

VECTORS = load_file(Path(__file__).with_name("vectors") / "blocks.safetensors")
MATRICES = [name for name in VECTORS if "." not in name]


def same_bits(one, other):
    kind = torch.int32 if one.dtype == torch.float32 else torch.uint8
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one.view(kind), other.view(kind))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("name", MATRICES)
def test_codes_and_scales_have_the_bits_of_bitsandbytes(name, kind):
    expected = {part: VECTORS[f"{name}.{kind}.{part}"] for part in ("codes", "absmax", "values", "scales", "offset")}
    single, double = (quantise_blocks(VECTORS[name], kind, double) for double in (False, True))
    for part in ("codes", "absmax"):
        assert same_bits(single.tensors[part], expected[part]), part
    for part in ("absmax_codes", "absmax_absmax", "offset"):
        assert same_bits(double.tensors[part], VECTORS[f"{name}.{kind}.{part}"]), part
    assert same_bits(double.scales(), expected["scales"])
    assert same_bits(single.dequantise(), expected["values"])


@pytest.mark.slow
def test_large_matrices_have_the_bits_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    torch.manual_seed(1)
    for kind in ("nf4", "fp4"):
        weight = torch.randn(1000, 1024)
        codes, state = functional.quantize_4bit(weight, blocksize=64, quant_type=kind, compress_statistics=True)
        ours = quantise_blocks(weight, kind, double=True)
        assert torch.equal(codes.reshape(-1), ours.codes) and torch.equal(state.absmax, ours.tensors["absmax_codes"])
        assert torch.equal(functional.dequantize_4bit(codes, state), ours.dequantise())


@given(st.integers(1, 8), st.lists(st.integers(0, 255), max_size=40))
@settings(max_examples=60, deadline=None)
def test_packed_codes_come_back_and_take_their_bits(bits, numbers):
    codes = torch.tensor([number % 2**bits for number in numbers], dtype=torch.uint8)
    packed = pack(codes, bits)
    assert unpack(packed, bits, len(codes)).tolist() == codes.tolist()
    whole = 2 if bits == 4 else 1 if bits == 8 else 8
    assert len(packed) == math.ceil(len(codes) / whole) * whole * bits // 8


# By hand, from Δ = max |W| / (2^(m - 1) - 1).
CASES = [
    (4, "nearest", [-7, 2, 5, 7]),
    (4, "floor", [-7, 1, 4, 7]),
    (8, "nearest", [-127, 32, 83, 127]),
    (8, "floor", [-127, 31, 82, 127]),
]


@pytest.mark.parametrize(("bits", "rounding", "integers"), CASES)
def test_absmax_is_that_of_the_document(bits, rounding, integers):
    codes = quantise_absmax(torch.tensor([-4.0, 1.0, 2.6, 4.0]), bits, rounding)
    assert codes.integers().tolist() == integers
    delta = 4 / (2 ** (bits - 1) - 1)
    assert codes.dequantise().tolist() == pytest.approx([integer * delta for integer in integers])


@pytest.mark.parametrize("bits", range(2, 9))
def test_absmax_errs_by_half_a_step_and_the_floor_by_a_whole_one(bits):
    torch.manual_seed(bits)
    weight = torch.randn(13, 7)
    nearest, floor = (quantise_absmax(weight, bits, rounding) for rounding in ("nearest", "floor"))
    step = float(nearest.delta)
    assert (nearest.dequantise() - weight).abs().max() <= step / 2 * 1.0001
    below = weight - floor.dequantise()
    assert below.min() >= -1e-5 and below.max() <= step * 1.0001
    assert nearest.codes.numel() <= (91 + 7) * bits / 8 + 1


@pytest.mark.parametrize("rounding", ["nearest", "floor"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_the_largest_becomes_the_largest_integer(bits, rounding):
    """Also where the quotient in float32 is below the integer, as for a tenth of these numbers in 4 bits."""
    largest = torch.rand(300, generator=torch.Generator().manual_seed(0))
    for value in largest.tolist():
        integers = quantise_absmax(torch.tensor([value, -value, 0.3 * value]), bits, rounding).integers()
        assert integers[:2].tolist() == [2 ** (bits - 1) - 1, 1 - 2 ** (bits - 1)], value


def test_zeros_stay_zeros():
    assert quantise_absmax(torch.zeros(3, 5), 4).dequantise().equal(torch.zeros(3, 5))
    for double in (False, True):
        assert quantise_blocks(torch.zeros(3, 64), "nf4", double).dequantise().equal(torch.zeros(3, 64))
    assert quantise_blocks(torch.zeros(1, 64)).codes.tolist() == [0x77] * 32


def test_four_bits_take_half_a_byte_and_scales():
    weight = torch.randn(96, 100)
    single, double = quantise_blocks(weight), quantise_blocks(weight, double=True)

    def stored(codes):
        return sum(tensor.numel() * tensor.element_size() for tensor in codes.tensors.values())

    assert stored(single) == 9600 / 2 + 150 * 4
    assert stored(double) == 9600 / 2 + 150 + 4 + 4
    assert stored(double) / 9600 < 0.6


@pytest.mark.parametrize(
    "asked",
    [
        lambda: quantise_absmax(torch.ones(2), 1),
        lambda: quantise_absmax(torch.ones(2), 9),
        lambda: quantise_absmax(torch.ones(2), 4, "ceiling"),
        lambda: quantise_absmax(torch.tensor([math.nan])),
        lambda: quantise_blocks(torch.ones(2), "nf5"),
        lambda: quantise_blocks(torch.tensor([math.inf])),
    ],
)
def test_what_has_no_codes_is_refused(asked):
    with pytest.raises(UserError):
        asked()
