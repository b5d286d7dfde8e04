"""Bit layouts: placements of elements in 32-bit words; and the plans that unpack them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layout_strategies import bit_layouts
from tilus.dtypes import (
    LOW_PRECISION,
    bfloat16,
    codebook,
    dtype_from_name,
    float4_e2m1,
    float8_e4m3,
    float8_e5m2,
    float16,
    float32,
    float_,
    int4b,
    int8,
    int16,
    uint1b,
    uint2b,
    uint3b,
    uint4b,
    uint8,
)
from tilus.errors import TilusError
from tilus.ir.layout import BitLayout, LayoutError, bit_layout
from tilus.ir.layout.bit_codebook import nearest_factor
from tilus.ir.layout.bit_machine import Constant, Step
from tilus.ir.layout.bit_search import NF4, plan_unpack


def reference_pack(layout, codes):
    """Bit by bit, on Python integers."""
    words = [0] * layout.words
    for k, code in enumerate(codes):
        for bit in range(layout.nbits):
            position = int(layout.positions()[k, bit])
            words[position // 32] |= (code >> bit & 1) << (position % 32)
    return words


@pytest.mark.parametrize("nbits", range(1, 9))
def test_stream_is_little_endian(nbits):
    layout = BitLayout.stream(12, nbits)
    assert -(-12 * nbits // 32) == layout.words
    assert layout.is_stream
    codes = [(k * 37 + 5) % (1 << nbits) for k in range(12)]
    number = sum(code << (k * nbits) for k, code in enumerate(codes))
    packed = layout.pack(np.array(codes))
    assert number == sum(int(word) << (32 * w) for w, word in enumerate(packed))
    assert np.uint32 == packed.dtype


def test_interleaved_nibbles():
    layout = bit_layout(8, 4, [2, 4, 4], [4, 8, 1])
    assert [0x73625140] == layout.pack(np.arange(8)).tolist()


def test_modes_number_words_and_bits():
    # element = (word, byte), bits in the low nibble of each byte: 4-bit values in bytes
    split = BitLayout.modes(8, 8, [2, 4, 8], [0], [1, 2])
    assert BitLayout.stream(8, 8) == split
    crossed = BitLayout.modes(8, 4, [4, 2, 4], [1], [0, 2])
    assert [[0, 1, 2, 3], [32, 33, 34, 35], [4, 5, 6, 7]] == crossed.positions()[:3].tolist()
    assert 2 == crossed.words


@given(bit_layouts(), st.data())
def test_pack_is_the_definition_and_unpack_its_inverse(layout, data):
    code = st.integers(0, (1 << layout.nbits) - 1)
    codes = [
        data.draw(st.lists(code, min_size=layout.count, max_size=layout.count)) for _ in range(2)
    ]
    words = layout.pack(np.array(codes).reshape(2, 1, layout.count))
    assert [[reference_pack(layout, row)] for row in codes] == words.tolist()
    assert [[row] for row in codes] == layout.unpack(words).tolist()


@given(bit_layouts())
def test_inverse(layout):
    inverse = layout.inverse()
    assert layout.words * 32 == inverse.size
    assert np.array_equal(
        np.arange(layout.count * layout.nbits), inverse[layout.positions().ravel()]
    )
    assert layout.count * layout.nbits == np.count_nonzero(inverse >= 0)


@given(bit_layouts(), st.data())
def test_permute_elements(layout, data):
    order = data.draw(st.permutations(range(layout.count)))
    moved = layout.permute_elements(order)
    assert np.array_equal(layout.positions()[list(order)], moved.positions())


@given(bit_layouts(), st.integers(1, 3))
def test_repeat(layout, times):
    repeated = layout.repeat(times)
    codes = np.arange(layout.count * times) % (1 << layout.nbits)
    expected = layout.pack(codes.reshape(times, -1)).ravel()
    assert np.array_equal(expected, np.resize(repeated.pack(codes), expected.shape))


@pytest.mark.parametrize("nbits", [12, 16, 24, 32, 64])
def test_wide_elements(nbits):
    layout = BitLayout.stream(3, nbits)
    codes = np.array([0, (1 << nbits) - 1, 1 << (nbits - 1)], dtype=np.uint64)
    assert codes.tolist() == layout.unpack(layout.pack(codes)).tolist()


def test_signed_codes_keep_their_low_bits():
    assert [0xFE] == BitLayout.stream(2, 4).pack(np.array([-2, -1], dtype=np.int8)).tolist()


def test_text():
    assert "bit_layout(8, 4)" == str(BitLayout.stream(8, 4))
    assert "bit_layout(8, 4, [2, 4, 4], [4, 8, 1])" == str(bit_layout(8, 4, [2, 4, 4], [4, 8, 1]))
    assert "bit_layout(3, 1, table=[2, 0, 5])" == str(BitLayout.table(3, 1, [2, 0, 5]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BitLayout.stream(0, 4), "at least 1"),
        (lambda: BitLayout.stream(4, 65), "too wide"),
        (lambda: BitLayout.table(2, 2, [0, 1, 2]), "needs a position"),
        (lambda: BitLayout.table(2, 2, [0, 1, 2, 2]), "share a position"),
        (lambda: BitLayout.table(2, 1, [0, -1]), "at least 0"),
        (lambda: BitLayout.table(2, 1, [0.5, 1.0]), "must be integers"),
        (lambda: BitLayout.strided(2, 4, [2, 4], [1, 1]), "share a position"),
        (lambda: BitLayout.strided(2, 4, [2, 3], [3, 1]), "does not split"),
        (lambda: BitLayout.strided(2, 4, [2, 4], [1]), "one stride"),
        (lambda: BitLayout.modes(8, 8, [8, 8], [], [0, 1]), "exceed a word"),
        (lambda: BitLayout.modes(8, 4, [8, 4], [0], [0]), "exactly one of"),
        (lambda: bit_layout(8, 4, [32]), "modes with their strides"),
        (lambda: BitLayout.stream(4, 4).permute_elements([0, 1, 2, 2]), "permutation"),
        (lambda: BitLayout.stream(4, 4).pack(np.zeros(3, dtype=int)), "integer codes"),
        (lambda: BitLayout.stream(4, 4).pack(np.zeros(4)), "integer codes"),
        (lambda: BitLayout.stream(4, 4).unpack(np.zeros(2, np.uint32)), "words of this layout"),
        (lambda: BitLayout.stream(4, 4).unpack(np.zeros(1, np.int64)), "words of this layout"),
    ],
)
def test_mistakes_are_explained(build, message):
    with pytest.raises(LayoutError) as caught:
        build()
    assert message in caught.value.message


# ---- unpack plans ----------------------------------------------------------------------------

# Instructions a pair: (float16, bfloat16); None where the dtype cannot be unpacked to it.
COSTS = {
    "u1": (1.125, 1.125), "u2": (1.125, 1.25), "u3": (1.3125, 1.5), "u4": (1.25, 1.75),
    "u5": (1.5625, 2.0625), "u6": (1.875, 2.125), "u7": (2.0625, 2.3125), "u8": (1.0, 3.0),
    "f3e1m1": (2.8125, 2.8125), "f3e2m0": (2.4375, 2.8125), "f4e1m2": (1.75, 2.75),
    "f4e2m1": (2.5, 2.25), "f4e3m0": (2.75, 2.75), "f5e1m3": (2.6875, 2.6875),
    "f5e2m2": (2.6875, 2.6875), "f5e3m1": (2.8125, 2.6875), "f5e4m0": (2.6875, 2.6875),
    "f6e2m3": (2.75, 2.75), "f6e3m2": (2.625, 2.625), "f6e4m1": (2.625, 2.75),
    "f7e2m4": (2.75, 2.75), "f7e3m3": (2.75, 2.875), "f7e4m2": (3.0625, 2.875),
    "f7e5m1": (6.3125, 2.75), "f6e5m0": (6.125, 2.75),
    "f8e4m3": (2.5, 2.5), "f8e5m2": (1.0, 2.5), "f8e3m4": (2.5, 2.5),
    "f8e1m6": (2.5, 2.5), "f8e6m1": (None, 2.5), "uf8e8m0": (None, 1.5),
}  # fmt: skip
INT8_COSTS = (0.9375, 0.875, 1.0625, 0.75, 1.1875, 1.125, 1.3125, 0.5)
BYTES = codebook(3, [0, 1, 2, 3, -1, -2, -3, 1.5])  # the lower bytes of these halves are 0
FINE = codebook(3, [0.1 * k for k in range(8)])
QUARTER = codebook(2, [-1, -0.3, 0.3, 1])
CODEBOOK_COSTS = ((NF4, 5.25), (BYTES, 2.3125), (FINE, 2.3125), (QUARTER, 2.125))


def plan_bounds():
    for name, costs in COSTS.items():
        for target, cost in zip((float16, bfloat16), costs, strict=True):
            if cost is not None:
                yield dtype_from_name(name), target, cost
                if name.startswith("u") and name[1].isdigit():
                    yield dtype_from_name("i" + name[1:]), target, cost
    for nbits, cost in enumerate(INT8_COSTS, 1):
        for kind in "iu":
            yield dtype_from_name(f"{kind}{nbits}"), int8, cost
    for dtype, cost in CODEBOOK_COSTS:
        yield dtype, float16, cost


PLANS = list(plan_bounds())


def test_every_low_precision_type_is_planned():
    for dtype in LOW_PRECISION:
        targets = {target for planned, target, _ in PLANS if planned == dtype}
        assert {float16, bfloat16} <= targets


@pytest.mark.parametrize(("dtype", "target", "cost"), PLANS, ids=str)
def test_plans_are_right_and_short(dtype, target, cost):
    plan = plan_unpack(dtype, target)
    plan.prove()
    assert plan.issue_per_pair <= cost
    assert plan.alu_per_pair <= plan.issue_per_pair
    places = [place for bits in plan.placement for place in bits]
    assert {(w, b) for w in range(plan.words) for b in range(32)} == set(places)
    assert plan.words * 32 == len(places) == plan.elements * dtype.nbits
    assert len(plan.outputs) * (4 if target == int8 else 2) == plan.elements


@given(st.sampled_from(PLANS), st.data())
def test_packing_is_a_bijection_of_words_and_codes(planned, data):
    plan = plan_unpack(*planned[:2])
    word = st.integers(0, (1 << 32) - 1)
    words = np.array(data.draw(st.lists(word, min_size=plan.words, max_size=plan.words)), np.uint32)
    assert words.tolist() == plan.pack(plan.unpack_codes(words)).tolist()


@pytest.mark.parametrize(("dtype", "target"), [(uint3b, float16), (NF4, float16), (int8, bfloat16)])
def test_the_proof_finds_every_broken_step(dtype, target):
    plan = plan_unpack(dtype, target)
    zeros = Step("lop3", (0, 0, 0), 0)
    for index in range(len(plan.steps)):
        steps = (*plan.steps[:index], zeros, *plan.steps[index + 1 :])
        with pytest.raises(TilusError, match="is wrong at element"):
            replace(plan, steps=steps).prove()


def test_the_proof_finds_a_wrong_base_and_scale():
    plan = plan_unpack(uint3b, float16)
    for changed in (replace(plan, scale=2.0), replace(plan, base=(1.0, *plan.base[1:]))):
        with pytest.raises(TilusError, match="is wrong at element"):
            changed.prove()


def test_steps_do_what_the_manual_says():
    plan = plan_unpack(uint8, bfloat16)
    words = np.array([0x04030201], np.uint32)

    def run(step):
        return int(replace(plan, steps=(step,), outputs=(1,)).run(words)[0])

    assert 0x04030201 & 0xFF == run(Step("lop3", (0, Constant(0xFF), Constant(0)), 0xC0))
    assert 0x03020104 == run(Step("shf", (0, 0), 8))
    assert 0x00040302 == run(Step("shf", (0, Constant(0)), 24))
    assert 0xFF8001FF == run(Step("prmt", (0, Constant(0x80), Constant(0xC40C))))
    half = Constant(0x3F803F80)  # bfloat16 1.0, twice
    assert 0x40004000 == run(Step("hfma2", (half, half, half)))


@pytest.mark.parametrize("dtype", [uint4b, uint8, NF4])
def test_runs_words_of_any_rank(dtype):
    plan = plan_unpack(dtype, bfloat16)
    codes = np.arange(2 * 3 * plan.elements).reshape(2, 3, plan.elements) % (1 << dtype.nbits)
    outputs = plan.run(plan.pack(codes))
    assert (2, 3, len(plan.outputs)) == outputs.shape
    assert outputs[1, 2].tolist() == plan.run(plan.pack(codes[1, 2])).tolist()


def test_bases():
    assert (16.0, 16.0, 256.0, 256.0) == plan_unpack(uint4b, float16).base_by_register
    signed = plan_unpack(int4b, float16).base
    assert tuple(b + 8 for b in plan_unpack(uint4b, float16).base) == signed
    assert plan_unpack(uint3b, float16).base_by_register is None


def test_bases_do_not_drown_the_values():
    """In sums of float32 that are rounded to `precision` bits; see `_most_base`."""
    assert (64, 256) == tuple(max(plan_unpack(d, float16).base) for d in (uint1b, uint2b))
    for dtype in LOW_PRECISION:
        for target, most in ((float16, 128), (bfloat16, 1024)):
            values = (1 << dtype.nbits) - 1
            assert max(map(abs, plan_unpack(dtype, target).base)) <= most * values + values


@pytest.mark.parametrize("dtype", [float_(5, 1), float_(5, 0)], ids=str)
def test_finite_numbers_beyond_float16(dtype):
    """All of them are exact, -0 and the largest ones that share the exponent of inf."""
    plan = plan_unpack(dtype, float16)
    assert tuple(range(1 << dtype.nbits)) == plan.exact_codes
    assert 2.0**-8 == plan.scale and float(dtype.max_value) > 65504
    zeros = np.full(plan.elements, 1 << (dtype.nbits - 1))
    assert np.signbit(plan.numbers(plan.run(plan.pack(zeros)))).all()


def codebook_error(factor, values, target, codes):
    """Root mean square, of the values that `codes` select."""
    found = target.encode(factor * values).astype(np.float64) / factor
    return np.sqrt(((found - values)[codes] ** 2).mean())


@pytest.mark.parametrize(("target", "most"), [(float16, 0.5), (bfloat16, 0.6)], ids=str)
def test_the_factor_of_nf4_halves_its_error(target, most):
    """As no factor of a fine grid does better, for weights as those that it is chosen for."""
    values = np.array(NF4.values)
    generator = np.random.default_rng(0)
    weights = np.concatenate([generator.normal(0, d, 4096) for d in (1 / 2, 1 / 3, 1 / 4)])
    codes = np.abs(weights[:, None] - values).argmin(-1)
    plan = plan_unpack(NF4, target)
    error = codebook_error(plan.scale, values, target, codes)
    assert error <= most * codebook_error(1.0, values, target, codes)
    grid = np.linspace(1, 2, 2000, endpoint=False)
    assert error <= 1.02 * min(codebook_error(factor, values, target, codes) for factor in grid)
    assert np.array_equal(target.encode(plan.scale * values), plan.scaled_values)


@given(
    st.integers(2, 4).flatmap(
        lambda nbits: st.lists(
            st.floats(-1e4, 1e4, width=32).filter(lambda v: v == 0 or abs(v) > 1e-4),
            min_size=1 << nbits,
            max_size=1 << nbits,
        )
    ),
    st.sampled_from([float16, bfloat16]),
)
def test_any_codebook_has_a_factor(values, target):
    """Its largest value goes to [1, 4), and no value is further off than half a step there."""
    plan = plan_unpack(tuple(values), target)
    plan.prove()
    numbers = np.array(plan.dtype.values)
    largest = np.abs(plan.scale * numbers).max()
    exact = np.array_equal(target.encode(numbers).astype(np.float64), numbers)
    assert 1 == plan.scale if exact else 1 <= largest < 4
    steps = largest * 2.0 ** -(target.mantissa_nbits + 1)
    assert np.all(np.abs(plan.scaled_values - plan.scale * numbers) <= steps)


def test_a_factor_that_makes_a_codebook_exact():
    """And lower bytes 0, which need no lookup; single values that are no float32 exact before."""
    assert 1.0 == nearest_factor(np.array([0.0, 1.0, -2.5, 96.0]), bfloat16)
    plan = plan_unpack(QUARTER, float16)
    scaled = plan.scaled_values
    assert np.allclose(scaled / scaled[-1], QUARTER.values, rtol=1e-7)
    assert not (scaled.astype(np.float16).view(np.uint16) & 0xFF).any()


def test_codebooks_beyond_the_range_of_the_target():
    plan = plan_unpack(codebook(2, [0, 1, 2, 1e6]), float16)
    plan.prove()
    assert np.allclose(plan.scaled_values / plan.scale, [0, 1, 2, 1e6], rtol=0, atol=0.02)


def test_special_codes():
    assert 256 == len(plan_unpack(float8_e5m2, float16).exact_codes)
    infinite = [0x7C, 0x7D, 0x7E, 0x7F, 0xFC, 0xFD, 0xFE, 0xFF]
    exact = plan_unpack(float8_e5m2, bfloat16).exact_codes
    assert infinite == sorted(set(range(256)) - set(exact))
    assert [0x7F, 0xFF] == sorted(
        set(range(256)) - set(plan_unpack(float8_e4m3, float16).exact_codes)
    )


def test_a_tuple_of_values_is_a_codebook():
    assert plan_unpack(NF4, float16) == plan_unpack(NF4.values, float16)


def test_a_plan_prints_its_placement_and_steps():
    text = str(plan_unpack(uint4b, float16)).splitlines()
    assert "uint4b -> float16: 8 elements in 1 words, 5 steps, 1.25 a pair" == text[0]
    assert "r0 bits 31..16" == text[2][:14] and "r0 bits 15..0 " == text[3][:14]
    assert 32 == sum(line.count(".") for line in text[2:4]) - 4
    assert ["r1", "r2", "r3", "r4", "r5"] == [line.split()[0] for line in text[4:]]
    assert 4 == sum("  output " in line for line in text)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: plan_unpack(int16, float16), "int16 cannot be unpacked"),
        (lambda: plan_unpack(float_(1, 0), float16), "cannot be unpacked"),
        (lambda: plan_unpack(uint4b, float32), "no unpacking to float32"),
        (lambda: plan_unpack(float4_e2m1, int8), "cannot be unpacked to int8"),
        (lambda: plan_unpack(float_(6, 1), float16), "does not fit float16"),
        (lambda: plan_unpack((0.0, 1.0, 2.0), float16), "one value for each"),
        (lambda: plan_unpack(uint4b, float16).run(np.zeros(2, np.uint32)), "words of its"),
    ],
)
def test_impossible_plans_are_explained(build, message):
    with pytest.raises(TilusError) as caught:
        build()
    assert message in caught.value.message


def test_the_page_of_the_manual_runs(capsys):
    page = (Path(__file__).parents[3] / "docs" / "bits.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(snippet, names)
    assert 2 == len(snippets)
    assert f"{plan_unpack(uint4b, float16)}\n" == capsys.readouterr().out
