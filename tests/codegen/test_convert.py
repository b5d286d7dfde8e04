"""Conversions: every bit pattern of every type through the sequences, and all of them as CUDA."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilus import dtypes
from tilus.codegen.convert import CHUNK, conversion, supports
from tilus.codegen.gather import Gatherer, Pattern
from tilus.codegen.prelude import HELPERS, prelude
from tilus.codegen.words import OPS, Builder, round_to_bfloat16
from tilus.dtypes import (
    LOW_PRECISION,
    bfloat16,
    codebook,
    convert,
    dtype_from_name,
    float16,
    float32,
    float_,
    int4b,
    int8,
    uint4b,
    uint8,
)
from tilus.errors import TilusError
from tilus.ir.layout.bits import BitLayout
from tilus.runtime.nvrtc import compile_cuda

NF4 = codebook(
    4, [-1, -0.7, -0.5, -0.4, -0.3, -0.2, -0.1, 0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1]
)
CODEBOOKS = (
    codebook(1, [0.3, -7]),
    codebook(2, [1, -1, 3, -5.5]),
    codebook(3, [3, -1, 0.5, 0, 9, -7, 3, 0.1]),  # unsorted, and 3 twice
    NF4,
    codebook(5, [float(k * k * (-1) ** k) / 7 for k in range(32)]),
)
UNUSUAL = (
    *(float_(e, m) for e, m in ((1, 0), (1, 6), (2, 5), (3, 4), (5, 0), (6, 0), (6, 1), (7, 0))),
    dtypes.ufloat8_e8m0,
)
NARROW = (*LOW_PRECISION, *UNUSUAL, *CODEBOOKS)
WIDE = (float16, bfloat16, float32, int8, uint8)
INTEGERS = tuple(dtype_from_name(n) for n in ("i3", "u5", "i8", "u8", "i16", "u16", "i32", "u32"))


def every_code(nbits, count):
    """(2^nbits, count): every code at every element, with different neighbours."""
    codes = np.arange(1 << nbits)[:, None] + np.arange(count) * 7
    return (codes & ((1 << nbits) - 1)).astype(np.uint32)


def packed_in_noise(bits, codes):
    """The words of these codes, with anything in the bits that belong to no element."""
    words = bits.pack(codes)
    unused = np.packbits(bits.inverse() < 0, bitorder="little").view("<u4")
    return words | (np.random.default_rng(0).integers(0, 2**32, words.shape, np.uint32) & unused)


def check(src, dst, codes, bits=None, to_bits=None):
    """Run the sequence on all rows of `codes` and compare with `dtypes.convert`."""
    count = codes.shape[1]
    sequence = conversion(src, dst, count, bits, to_bits)
    source = bits or BitLayout.stream(count, src.nbits)
    target = to_bits or BitLayout.stream(count, dst.nbits)
    results = target.unpack(sequence.evaluate(packed_in_noise(source, codes)))
    expected = dst.to_bits(convert(src.from_bits(codes), src, dst))
    wrong = results != expected
    if dst.is_float():  # any nan is as good as another
        wrong &= ~(is_nan(dst, results) & is_nan(dst, expected))
    if wrong.any():
        row, k = np.argwhere(wrong)[0]
        pytest.fail(
            f"{src} {codes[row, k]:#x} at element {k} of {count} became {dst} "
            f"{results[row, k]:#x}, not {expected[row, k]:#x}"
        )
    return sequence


def is_nan(dtype, codes):
    return np.isnan(dtype.decode(dtype.from_bits(codes)))


@pytest.mark.parametrize("src", NARROW, ids=lambda d: d.name[:16])
def test_every_pattern_widens_at_every_element(src):
    for dst in WIDE:
        for count in (1, 2, 5, 8, 32):
            check(src, dst, every_code(src.nbits, count))


@pytest.mark.parametrize("src", [uint4b, dtypes.int3b, dtypes.float6_e3m2], ids=str)
def test_long_tiles_repeat_one_chunk(src):
    sequence = check(src, float16, every_code(src.nbits, 3 * CHUNK))
    chunk = conversion(src, float16, CHUNK)
    assert 3 * chunk.cost == sequence.cost and chunk.counts() == sequence.counts()


@pytest.mark.parametrize("dst", NARROW, ids=lambda d: d.name[:16])
def test_narrowing(dst):
    every = np.arange(1 << 16, dtype=np.uint32).reshape(-1, 8)
    check(float16, dst, every)
    check(bfloat16, dst, every)
    rng = np.random.default_rng(1)
    shape = (2000, 8)
    patterns = rng.integers(0, 1 << 32, shape, dtype=np.uint32)
    ties = rng.integers(-64, 64, shape) * np.exp2(rng.integers(-12, 8, shape))
    for numbers in (ties, np.nextafter(ties.astype(np.float32), np.float32(9))):
        patterns = np.concatenate([patterns, numbers.astype(np.float32).view(np.uint32)])
    check(float32, dst, patterns)


def test_wide_floats_convert_to_each_other():
    every = np.arange(1 << 16, dtype=np.uint32).reshape(-1, 8)
    for src, dst in ((float16, bfloat16), (bfloat16, float16)):
        check(src, dst, every)
        check(src, dst, every[:, :7])
        check(src, float32, every[:, :5])
    patterns = np.random.default_rng(2).integers(0, 1 << 32, (20000, 7), dtype=np.uint32)
    for dst in (float16, bfloat16, float32):
        check(float32, dst, patterns)


@pytest.mark.parametrize(
    "src", [*NARROW[:14:3], *NARROW[14:32:4], *UNUSUAL[::3], NF4], ids=lambda d: d.name[:16]
)
def test_narrow_types_convert_to_each_other(src):
    for dst in NARROW:
        check(src, dst, every_code(src.nbits, 6))


@pytest.mark.parametrize("src", INTEGERS, ids=str)
def test_integers_keep_their_low_bits(src):
    codes = np.random.default_rng(3).integers(0, 1 << src.nbits, (500, 7), dtype=np.uint32)
    for dst in INTEGERS:
        check(src, dst, codes)


def scattered(rng, count, nbits):
    words = -(-count * nbits // 32) + 1
    return BitLayout.table(count, nbits, rng.permutation(words * 32)[: count * nbits])


@pytest.mark.parametrize("name", ["u1", "i4", "u8", "i8", "f3e1m1", "f6e3m2", "f8e4m3", "f8e5m2"])
def test_bit_layouts_are_honoured(name):
    src, rng = dtype_from_name(name), np.random.default_rng(4)
    codes = every_code(src.nbits, 8)
    permuted = BitLayout.stream(8, src.nbits).permute_elements([5, 0, 7, 2, 1, 4, 3, 6])
    for dst in (float16, bfloat16, float32, int8):
        check(src, dst, codes, permuted)
        check(src, dst, codes, scattered(rng, 8, src.nbits))
        check(src, dst, codes, permuted, scattered(rng, 8, dst.nbits))
        check(dst, src, every_code(8, 8) << (dst.nbits - 8), scattered(rng, 8, dst.nbits), permuted)


# the element order of performance.md: k and k + 4 in the halves of a word
PAIRED_NIBBLES = BitLayout.strided(8, 4, [2, 4, 4], [16, 4, 1])


@pytest.mark.parametrize(
    ("src", "dst", "bits", "instructions"),
    [
        ("u1", float16, None, 36),
        ("u4", float16, None, 48),
        ("i4", float16, None, 48),
        ("u8", float16, None, 32),
        ("i8", float16, None, 40),
        ("u4", bfloat16, None, 52),
        ("i8", bfloat16, None, 64),
        ("u8", bfloat16, None, 80),
        ("f4e2m1", float16, None, 68),
        ("f8e4m3", float16, None, 112),
        ("f8e5m2", float16, None, 16),
        ("u4", int8, None, 20),
        ("i4", int8, None, 36),
        ("u4", float16, PAIRED_NIBBLES.permute_elements([0, 4, 1, 5, 2, 6, 3, 7]).repeat(4), 36),
        ("i4", float16, PAIRED_NIBBLES.permute_elements([0, 4, 1, 5, 2, 6, 3, 7]).repeat(4), 36),
    ],
)
def test_instructions_of_32_elements(src, dst, bits, instructions):
    dtype = dtype_from_name(src)
    sequence = check(dtype, dst, every_code(dtype.nbits, 32), bits)
    assert instructions == sequence.cost


@pytest.mark.parametrize("dst", [float16, bfloat16, int8], ids=str)
def test_widening_is_not_done_element_by_element(dst):
    """At most 5 instructions an element; none is a conversion but of a pair to bfloat16."""
    for src in LOW_PRECISION:
        if src.is_integer() or (not dst.is_integer() and src != dtypes.float7_e5m1):
            counts = conversion(src, dst, 32).counts()
            assert counts["total"] <= 5
            assert counts["other"] == (0.5 if (src.name, dst) == ("float8_e5m2", bfloat16) else 0)


def test_the_text_of_a_sequence():
    sequence = conversion(int4b, float16, 4)
    assert [
        "    const uint32_t t0 = prmt(x[0], 0x0u, 0x1010u);",
        "    const uint32_t t1 = and_xor(t0, 0xf0000fu, 0x54806408u);",
        "    y[0] = sub_f16x2(t1, 0x54806408u);",
        "    const uint32_t t3 = prmt(x[0], 0x0u, 0x2121u);",
        "    const uint32_t t4 = and_xor(t3, 0xf0000fu, 0x54806408u);",
        "    y[1] = sub_f16x2(t4, 0x54806408u);",
    ] == sequence.cuda(["x[0]"], ["y[0]", "y[1]"], indent=4)
    assert {"prmt", "and_xor", "sub_f16x2"} == sequence.helpers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((dtypes.float64, float16, 2), "no sequence converts float64 to float16"),
        ((int4b, dtypes.int64, 2), "no sequence converts int4b to int64"),
        ((int4b, float16, 2, BitLayout.stream(3, 4)), "does not fit the int4b tile"),
        ((int4b, int8, 2, None, BitLayout.stream(2, 4)), "does not fit the int8 tile"),
    ],
)
def test_what_cannot_be_converted(arguments, message):
    with pytest.raises(TilusError, match=message):
        conversion(*arguments)


# ---- the parts ----


@st.composite
def patterns(draw):
    """A pattern over two source words, and the source words."""
    places = draw(st.lists(st.integers(0, 31), unique=True, min_size=1, max_size=12))
    run = draw(st.integers(1, 4))  # runs of bits, as fields have them
    want = {d: (draw(st.integers(0, 63)) if i % run == 0 else 0) for i, d in enumerate(places)}
    for before, d in pairwise(places):
        want[d] = want[d] or (want[before] + d - before) % 64
    mask = st.integers(0, 0xFFFFFFFF)
    wanted = sum(1 << d for d in want)
    ones, free = draw(mask) & ~wanted, draw(mask) & ~wanted
    words = draw(st.lists(mask, min_size=2, max_size=2))
    return Pattern(want, ones & ~free, draw(mask) & wanted, free), words


@settings(max_examples=200, deadline=None)
@given(patterns())
def test_gather_brings_every_bit(case):
    pattern, words = case
    builder = Builder(2)
    gatherer = Gatherer(builder, [0, 1])
    twice = [gatherer.gather(pattern), gatherer.gather(pattern)]
    sequence = builder.finish(twice, 1)
    stream = words[0] | words[1] << 32
    expected = pattern.ones ^ pattern.flip
    expected ^= sum(((stream >> source) & 1) << d for d, source in pattern.want.items())
    cared = ~pattern.free & 0xFFFFFFFF
    for word in sequence.evaluate(np.array(words, np.uint32)).tolist():
        assert expected & cared == word & cared


@given(st.lists(st.integers(0, 0xFFFFFFFF), min_size=3, max_size=3))
def test_prmt_is_what_the_manual_says(words):
    a, b, selector = words
    pool = [*a.to_bytes(4, "little"), *b.to_bytes(4, "little")]
    expected = []
    for nibble in (selector >> shift & 0xF for shift in (0, 4, 8, 12)):
        byte = pool[nibble & 7]
        expected.append((0xFF if byte & 0x80 else 0) if nibble & 8 else byte)
    result = OPS["prmt"].evaluate(*(np.array([w], np.uint32) for w in words))
    assert int.from_bytes(bytes(expected), "little") == int(result[0])


def test_bfloat16_is_rounded_once():
    # 1 + 2^-8 lies between two bfloat16; 2^-40 more decides, and is lost in float32
    above, tie = 1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8
    assert [1 + 2.0**-7, 1.0] == round_to_bfloat16(np.array([above, tie])).astype(float).tolist()


def test_a_builder_computes_constants_and_drops_what_changes_nothing():
    b = Builder(1)
    assert 12 == b.constant(b.emit("shl", b.const(3), b.const(2)))
    assert 0 == b.emit("and_or", 0, b.const(0xFFFFFFFF), b.const(0))
    unneeded = b.emit("shr", 0, b.const(1))
    assert unneeded != 0 and 0 == b.finish([0], 1).cost


# ---- CUDA ----


def kernel(name, sequence):
    inputs = [f"x[{i}]" for i in range(sequence.inputs)]
    outputs = [f"y[{i}]" for i in range(len(sequence.outputs))]
    lines = sequence.cuda(inputs, outputs, indent=4)
    head = f'extern "C" __global__ void {name}(const uint32_t* x, uint32_t* y) {{'
    return "\n".join([head, *lines, "}", ""])


def compiled_size(text, arch):
    return len(compile_cuda(text, "conversions.cu", arch).cubin)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_every_sequence_is_cuda(arch):
    pairs = [(src, dst) for src in NARROW for dst in WIDE if supports(src, dst)]
    pairs += [(float32, dst) for dst in NARROW] + [(float16, bfloat16), (bfloat16, float16)]
    sequences = [conversion(src, dst, 4) for src, dst in pairs]
    helpers = sorted(set().union(*(sequence.helpers for sequence in sequences)))
    kernels = [kernel(f"convert{i}", sequence) for i, sequence in enumerate(sequences)]
    assert compiled_size(prelude(helpers) + "\n".join(kernels), arch) > 1000 * len(kernels)


@pytest.mark.parametrize("row", OPS.values(), ids=lambda row: row.name)
def test_every_operation_names_its_helper(row):
    called = row.cuda.partition("(")[0] if "(" in row.cuda else None
    assert called == row.helper and (called is None or called in HELPERS)


USES = """
extern "C" __global__ void uses(
    uint32_t* w, float* f, double* d, int* i, int64_t* l, uint16_t* h) {
    put<3>(w, 10, take<3>(w, 21));
    put<32>(w, 3, take<32>(w, 4));
    constexpr int places[] = {1, 4, 35};
    put_placed<3>(w, places, take_placed<3>(w, places));
    w[0] = add_f16x2(w[0], w[1]) ^ fma_f16x2(w[1], w[2], w[3]) ^ neg_f16x2(w[4]) ^ abs_f16x2(w[5]);
    w[1] = add_bf16x2(w[0], w[1]) ^ sub_bf16x2(w[1], w[2]) ^ mul_bf16x2(w[3], w[4]);
    w[2] = min_f16x2(w[0], w[1]) ^ max_f16x2(w[1], w[2]) ^ min_bf16x2(w[3], w[4]);
    w[3] = max_bf16x2(w[0], w[1]) ^ neg_bf16x2(w[4]) ^ abs_bf16x2(w[5]);
    w[4] = pair_f16(f[0]) ^ pair_bf16(f[1]);
    f[0] = f16_to_f32(h[0]) + bf16_to_f32(h[1]) + round_f16(f[2]) + round_bf16(f[3]);
    f[1] = round_tf32(f[0]) + f64_to_f32_odd(d[0]) + sigmoid(f[4]) + quiet_nan() + infinity();
    f[2] = floordiv_float(f[0], f[1]) + mod_float(f[0], f[1]);
    d[0] = floordiv_float(d[0], d[1]) + mod_float(d[0], d[1]) + sigmoid(d[2]);
    h[0] = f32_to_f16(f[0]);
    h[1] = f32_to_bf16(f[1]);
    i[0] = float_to_int8(f[0]) + float_to_int16(d[0]) + float_to_int32(f[0]) + float_to_uint8(d[1]);
    i[1] = float_to_uint16(f[0]) + float_to_uint32(d[0]) + floordiv(i[0], i[1]) + mod(i[2], i[3]);
    l[0] = float_to_int64(f[0]) + float_to_uint64(d[0]) + floordiv(l[0], l[1]) + mod(l[2], l[3]);
    f[3] = decode_minifloat<4, 3, 1>(w[0]) + decode_minifloat<5, 2, 2>(w[1]) + decode_e8m0(w[2]);
    w[5] = encode_minifloat<4, 3, 1>(f[0]) ^ encode_minifloat<1, 0, 0>(f[1]) ^ encode_e8m0(f[2]);
}
"""


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_120a"])
def test_every_helper_is_cuda(arch):
    assert compiled_size(prelude(sorted(HELPERS)) + USES, arch) > 1000
