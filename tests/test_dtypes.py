"""Every bit pattern of every data type, against `ml_dtypes` or exact rational arithmetic."""

import math
from fractions import Fraction
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilus import dtypes
from tilus.dtypes import (
    ALL_DTYPES,
    LOW_PRECISION,
    bfloat16,
    boolean,
    codebook,
    convert,
    data_type,
    dtype_from_name,
    float8_e4m3,
    float8_e5m2,
    float16,
    float32,
    float64,
    float_,
    int1b,
    int4b,
    int8,
    int32,
    int64,
    pack,
    storage_nbytes,
    tfloat32,
    ufloat8_e8m0,
    uint4b,
    uint64,
    unpack,
    void_p,
)
from tilus.errors import TilusError

ML_DTYPES = {
    "int2b": ml_dtypes.int2,
    "int4b": ml_dtypes.int4,
    "uint2b": ml_dtypes.uint2,
    "uint4b": ml_dtypes.uint4,
    "float4_e2m1": ml_dtypes.float4_e2m1fn,
    "float6_e2m3": ml_dtypes.float6_e2m3fn,
    "float6_e3m2": ml_dtypes.float6_e3m2fn,
    "float8_e4m3": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "ufloat8_e8m0": ml_dtypes.float8_e8m0fnu,
    "bfloat16": ml_dtypes.bfloat16,
}
SMALL_FLOATS = [float_(e, m) for e in range(1, 8) for m in range(8 - e)]
FINITE_ONLY = [dtype for dtype in SMALL_FLOATS if dtype not in (float8_e4m3, float8_e5m2)]
SMALL_INTEGERS = [dtype for dtype in LOW_PRECISION if dtype.is_integer()]
NF4 = codebook(4, [math.sin(k) for k in range(16)])


def all_bits(dtype):
    return np.arange(1 << dtype.nbits, dtype=np.uint16 if dtype.nbits == 16 else np.uint8)


def exact_magnitude(dtype, code):
    """language.md's formula for the sign-less bits `code`."""
    exponent, mantissa = divmod(code, 1 << dtype.mantissa_nbits)
    bias = 2 ** (dtype.exponent_nbits - 1) - 1
    fraction = Fraction(mantissa, 1 << dtype.mantissa_nbits)
    if exponent == 0:
        return Fraction(2) ** (1 - bias) * fraction
    return Fraction(2) ** (exponent - bias) * (1 + fraction)


def finite_magnitudes(dtype):
    greatest = Fraction(dtype.max_value)
    values = [exact_magnitude(dtype, code) for code in range(1 << (dtype.nbits - 1))]
    return [value for value in values if value <= greatest]


def nearest_even_codes(dtype, numbers):
    """The saturating cast of float64 numbers (no nan), by counting the exact midpoints below."""
    magnitudes = [float(value) for value in finite_magnitudes(dtype)]
    middles = np.array([(a + b) / 2 for a, b in pairwise(magnitudes)])
    below = np.searchsorted(middles, np.abs(numbers), side="left")
    tie = np.searchsorted(middles, np.abs(numbers), side="right") != below
    sign = np.signbit(numbers).astype(np.int64) << (dtype.nbits - 1)
    return (below + (tie & (below % 2 == 1))) | sign


# Names


def test_every_name_and_alias_is_declared():
    integers = {f"{sign}int{n}b": f"{sign or 'i'}{n}" for sign in ("", "u") for n in range(1, 8)}
    integers |= {f"{s}int{n}": f"{s or 'i'}{n}" for s in ("", "u") for n in (8, 16, 32, 64)}
    floats = "7_e5m1 7_e4m2 7_e3m3 7_e2m4 6_e4m1 6_e3m2 6_e2m3 5_e3m1 5_e2m2 5_e1m3 4_e2m1 4_e1m2"
    floats = f"{floats} 3_e1m1 3_e2m0 8_e4m3 8_e5m2".split()
    names = integers | {f"float{name}": f"f{name.replace('_', '')}" for name in floats}
    names |= {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64"}
    for name, alias in names.items():
        assert getattr(dtypes, name) is getattr(dtypes, alias)
        assert name == str(dtype_from_name(alias)) == repr(dtype_from_name(name))
    others = {"tfloat32", "boolean", "void_p", "ufloat8_e8m0"}
    assert {dtype.name for dtype in ALL_DTYPES} == names.keys() | others


@pytest.mark.parametrize(
    "dtype", [*ALL_DTYPES, *SMALL_FLOATS, NF4, ~float16, ~~int4b, ~NF4], ids=str
)
def test_the_name_reads_back(dtype):
    again = dtype_from_name(dtype.name)
    assert dtype == again
    assert hash(dtype) == hash(again)


def test_low_precision_is_every_integer_and_float_of_up_to_8_bits():
    expected = 2 * 8 + 2 + 2 + 3 + 3 + 4 + 2  # integers, then floats of 3, 4, 5, 6, 7 and 8 bits
    assert expected == len(LOW_PRECISION)
    assert all(dtype.nbits <= 8 for dtype in LOW_PRECISION)


def test_properties():
    assert (4, True, True, False) == (
        int4b.nbits,
        int4b.is_subbyte(),
        int4b.is_integer(),
        int4b.is_float(),
    )
    assert (2, 5, 10, 15) == (
        float16.nbytes,
        float16.exponent_nbits,
        float16.mantissa_nbits,
        float16.bias,
    )
    assert [True, True, False] == [d.is_any_float16() for d in (float16, bfloat16, float32)]
    assert (127, 1023, 127) == (bfloat16.bias, float64.bias, tfloat32.bias)
    assert [0, 0, 1, 3] == [float_(e, 1).bias for e in (1, 1, 2, 3)]
    pointer = ~float16
    assert ("~float16", float16, 64, 8) == (
        str(pointer),
        pointer.pointee,
        pointer.nbits,
        pointer.nbytes,
    )
    assert pointer.is_pointer()
    assert void_p.pointee is None
    assert pointer != ~bfloat16


def test_largest_numbers_are_those_of_the_language_page():
    expected = {
        "float7_e5m1": 98304, "float7_e4m2": 448, "float7_e3m3": 30, "float7_e2m4": 7.75,
        "float6_e4m1": 384, "float6_e3m2": 28, "float6_e2m3": 7.5, "float5_e3m1": 24,
        "float5_e2m2": 7, "float4_e2m1": 6, "float3_e1m1": 3, "float8_e4m3": 448,
        "float8_e5m2": 57344, "float16": 65504, "float32": float(np.finfo(np.float32).max),
        "float64": float(np.finfo(np.float64).max), "ufloat8_e8m0": 2.0**127,
        "bfloat16": float(ml_dtypes.finfo(ml_dtypes.bfloat16).max),
    }  # fmt: skip
    assert expected == {name: dtype_from_name(name).max_value for name in expected}
    for name in expected.keys() - {"ufloat8_e8m0"}:
        assert -expected[name] == dtype_from_name(name).min_value


def test_integer_ranges():
    assert (-1, 0) == (int1b.min_value, int1b.max_value)
    for dtype in (dtype for dtype in ALL_DTYPES if dtype.is_integer()):
        low = -(2 ** (dtype.nbits - 1)) if dtype.kind == "int" else 0
        assert (low, low + 2**dtype.nbits - 1) == (dtype.min_value, dtype.max_value)


# Decoding, all bit patterns


@pytest.mark.parametrize("name", ML_DTYPES)
def test_decode_equals_ml_dtypes(name):
    dtype, reference = dtype_from_name(name), ML_DTYPES[name]
    bits = all_bits(dtype)
    expected = bits.view(reference).astype(np.float32)
    np.testing.assert_array_equal(expected, dtype.decode(dtype.from_bits(bits)).astype(np.float32))


@pytest.mark.parametrize("dtype", FINITE_ONLY, ids=str)
def test_decode_equals_exact_rationals(dtype):
    half = 1 << (dtype.nbits - 1)
    magnitudes = [exact_magnitude(dtype, code) for code in range(half)]
    actual = [Fraction(float(number)) for number in dtype.decode(all_bits(dtype))]
    assert magnitudes + [-value for value in magnitudes] == actual
    assert np.signbit(dtype.decode(all_bits(dtype))[half:]).all()


@pytest.mark.parametrize("dtype", SMALL_INTEGERS, ids=str)
def test_decode_integers(dtype):
    n = dtype.nbits
    expected = [k - 2**n if dtype.kind == "int" and k >= 2 ** (n - 1) else k for k in range(2**n)]
    assert expected == dtype.decode(dtype.from_bits(all_bits(dtype))).tolist()


@pytest.mark.parametrize("dtype", [d for d in ALL_DTYPES if d not in (boolean, void_p)], ids=str)
def test_bits_survive_the_carrier(dtype):
    if dtype.nbits <= 16:
        bits = all_bits(dtype)
    else:
        bits = np.random.default_rng(0).integers(0, 2**63, 1000).astype(f"u{dtype.nbytes}")
    carrier = dtype.from_bits(bits.reshape(2, -1))
    assert dtype.carrier == carrier.dtype
    np.testing.assert_array_equal(bits.reshape(2, -1), dtype.to_bits(carrier))


def test_bytes_of_boolean_are_truth_values():
    assert [False, True, True] == boolean.from_bits(np.array([0, 1, 2], np.uint8)).tolist()
    assert [0, 1] == boolean.to_bits(np.array([False, True])).tolist()


# Encoding


@pytest.mark.parametrize(
    "dtype", [*LOW_PRECISION, *FINITE_ONLY, ufloat8_e8m0, NF4, float16, bfloat16], ids=str
)
def test_encode_inverts_decode(dtype):
    bits = all_bits(dtype)
    numbers = dtype.decode(dtype.from_bits(bits))
    finite = np.isfinite(numbers)
    np.testing.assert_array_equal(bits[finite], dtype.to_bits(dtype.encode(numbers[finite])))


@pytest.mark.parametrize("wide", [np.float64, np.float32])
@pytest.mark.parametrize("dtype", SMALL_FLOATS, ids=str)
def test_midpoints_tie_to_even_and_their_neighbours_do_not(dtype, wide):
    magnitudes = [float(value) for value in finite_magnitudes(dtype)]
    codes = np.arange(len(magnitudes) - 1)
    middle = np.array([(a + b) / 2 for a, b in pairwise(magnitudes)], wide)
    sign = 1 << (dtype.nbits - 1)
    np.testing.assert_array_equal(codes + codes % 2, dtype.encode(middle))
    np.testing.assert_array_equal(codes, dtype.encode(np.nextafter(middle, wide(0))))
    np.testing.assert_array_equal(codes + 1, dtype.encode(np.nextafter(middle, wide(np.inf))))
    np.testing.assert_array_equal((codes + codes % 2) | sign, dtype.encode(-middle))


@pytest.mark.parametrize("dtype", SMALL_FLOATS, ids=str)
def test_saturation_signs_and_nan(dtype):
    greatest, sign = len(finite_magnitudes(dtype)) - 1, 1 << (dtype.nbits - 1)
    huge = np.array([dtype.max_value * 1.01, 1e30, 1e300, np.inf])
    assert [greatest] * 4 == dtype.encode(huge).tolist()
    assert [greatest | sign] * 4 == dtype.encode(-huge).tolist()
    assert [0, sign, 0, sign] == dtype.encode([0.0, -0.0, 1e-300, -1e-300]).tolist()
    not_a_number = dtype.decode(dtype.encode([np.nan, -np.nan]))
    expected = math.nan if dtype in (float8_e4m3, float8_e5m2) else dtype.max_value
    np.testing.assert_array_equal([expected, expected], not_a_number)


@pytest.mark.parametrize("source", [float16, bfloat16], ids=str)
@pytest.mark.parametrize("dtype", SMALL_FLOATS, ids=str)
def test_every_16_bit_float_to_every_small_float(dtype, source):
    carrier = source.from_bits(all_bits(source))
    carrier = carrier[~np.isnan(source.decode(carrier))]
    numbers = source.decode(carrier).astype(np.float64)
    expected = nearest_even_codes(dtype, numbers)
    np.testing.assert_array_equal(expected, convert(carrier, source, dtype))
    np.testing.assert_array_equal(expected, dtype.encode(numbers))  # not through the table


@pytest.mark.parametrize("source", [float16, bfloat16], ids=str)
@pytest.mark.parametrize("name", [name for name in ML_DTYPES if name.startswith("float")])
def test_every_16_bit_float_as_ml_dtypes_but_saturating(name, source):
    dtype = dtype_from_name(name)
    carrier = source.from_bits(all_bits(source))
    carrier = carrier[~np.isnan(source.decode(carrier))]
    limited = np.clip(source.decode(carrier), dtype.min_value, dtype.max_value)
    expected = limited.astype(ML_DTYPES[name]).view(np.uint8)
    np.testing.assert_array_equal(expected, convert(carrier, source, dtype))


@pytest.mark.parametrize("name", ["float8_e4m3", "float8_e5m2", "ufloat8_e8m0"])
def test_without_saturation_as_ml_dtypes(name):
    dtype = dtype_from_name(name)
    prefixes = np.arange(1 << 16, dtype=np.uint32) << 16
    singles = np.concatenate([prefixes, prefixes | 1, prefixes | 0xFFFF]).view(np.float32)
    if dtype == ufloat8_e8m0:  # ml_dtypes rounds all subnormal float32 up; we round to nearest
        singles = singles[(np.abs(singles) >= 2.0**-126) | (singles == 0)]
    with np.errstate(over="ignore", invalid="ignore"):
        expected = singles.astype(ML_DTYPES[name]).astype(np.float32)
    np.testing.assert_array_equal(expected, dtype.decode(dtype.encode(singles, saturate=False)))


def test_scales_saturate_to_powers_of_two():
    assert [0, 1, 1] == ufloat8_e8m0.encode([2.0**-127 * 1.49, 2.0**-127 * 1.5, 2.0**-126]).tolist()
    encoded = ufloat8_e8m0.encode([0.0, 1e-300, 1.0, 1.49, 1.5, 3.0, 1e300, np.inf, -1.0, np.nan])
    assert [0, 0, 127, 127, 128, 129, 254, 254, 255, 255] == encoded.tolist()


def test_codebook_takes_the_nearest_value_and_the_lower_code_of_two():
    dtype = codebook(2, [1.0, -1.0, 0.0, 1.0])
    numbers = [-9.0, -0.51, -0.5, -0.49, 0.49, 0.5, 0.51, 9.0, np.inf, np.nan]
    assert [1, 1, 1, 2, 2, 0, 0, 0, 0, 0] == dtype.encode(numbers).tolist()
    assert [1.0, -1.0, 0.0, 1.0] == dtype.decode(np.arange(4, dtype=np.uint8)).tolist()


def test_codebook_rounds_exactly_between_values_far_apart():
    dtype = codebook(1, [2.0**-120, 1.0])  # the midpoint has more bits than a float64
    assert [0, 1] == dtype.encode([0.5, np.nextafter(0.5, 1)]).tolist()


# Wider floats


def neighbours_and_midpoints(dtype):
    """The finite numbers of a 16-bit float from 0 up, each with the exact midpoint to the next."""
    numbers = dtype.decode(dtype.from_bits(all_bits(dtype)[: 1 << 15]))
    numbers = numbers[np.isfinite(numbers)].astype(np.float64)
    return numbers[:-1], (numbers[:-1] + numbers[1:]) / 2


@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=str)
def test_double_to_16_bits_rounds_once(dtype):
    numbers, middle = neighbours_and_midpoints(dtype)
    codes = np.arange(len(numbers))
    np.testing.assert_array_equal(codes + codes % 2, dtype.to_bits(dtype.encode(middle)))
    below, above = np.nextafter(middle, 0), np.nextafter(middle, np.inf)
    np.testing.assert_array_equal(codes, dtype.to_bits(dtype.encode(below)))
    np.testing.assert_array_equal(codes + 1, dtype.to_bits(dtype.encode(above)))
    infinity = dtype.encode([1e300, np.inf, -1e300]).astype(np.float64)
    assert [np.inf, np.inf, -np.inf] == infinity.tolist()
    assert np.isnan(dtype.encode(np.nan))


def test_tfloat32_keeps_10_mantissa_bits():
    step = 2.0**-10
    numbers = [1 + step, 1 + step / 2, 1 + 1.5 * step, 1 + step / 2 + 2.0**-50, 1e39, -np.inf]
    expected = [1 + step, 1.0, 1 + 2 * step, 1 + step, np.inf, -np.inf]
    assert expected == tfloat32.encode(numbers).tolist()
    assert np.isnan(tfloat32.encode(np.array([0x7FFFFFFF], np.uint32).view(np.float32))).all()
    assert [1.0] == tfloat32.decode(np.array([1 + step / 2], np.float32)).tolist()


@pytest.mark.parametrize("exponent", range(9, 63))
def test_integers_round_once(exponent):
    middle = (
        0b1_0000_0001 << exponent
    ) >> 8  # between 1 and 1 + 2^-7 times 2^exponent: bfloat16 neighbours
    lower, upper = 2.0**exponent, 2.0**exponent * (1 + 2.0**-7)
    for sign in (1, -1):
        numbers = np.array([middle - 1, middle, middle + 1], np.int64) * sign
        expected = [lower * sign, lower * sign, upper * sign]
        assert expected == bfloat16.encode(numbers).astype(np.float64).tolist()
    assert [lower, lower, upper] == bfloat16.encode(abs(numbers).astype(np.uint64)).tolist()


def test_integers_to_float16_and_float32():
    small = np.arange(-70000, 70001, dtype=np.int64)
    with np.errstate(over="ignore"):
        expected = small.astype(np.float64).astype(np.float16)
    np.testing.assert_array_equal(expected, float16.encode(small))
    large = [2**24 + 1, 2**24 + 3, 2**63 - 1, -(2**63)]
    assert [2.0**24, 2.0**24 + 4, 2.0**63, -(2.0**63)] == float32.encode(large).tolist()


# Casts to integers


@pytest.mark.parametrize("dtype", [d for d in ALL_DTYPES if d.is_integer()], ids=str)
@pytest.mark.parametrize("source", [float16, float32, float64], ids=str)
def test_floats_truncate_and_saturate(dtype, source):
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(source.carrier)
    if source != float16:
        edges = [2.0**k + d for k in (7, 8, 31, 32, 63, 64) for d in (-1.0, -0.5, 0.0, 1.0)]
        numbers = np.concatenate([numbers, np.array([*edges, 1e30], source.carrier)])

    def cast(number):
        if math.isnan(number):
            return 0
        limited = min(max(number, dtype.min_value), dtype.max_value)
        return math.trunc(limited)

    expected = [cast(number) for number in numbers.tolist()]
    assert expected == dtype.decode(convert(numbers, source, dtype)).tolist()


@pytest.mark.parametrize("dtype", [d for d in ALL_DTYPES if d.is_integer()], ids=str)
def test_integers_wrap_around(dtype):
    numbers = np.array([0, 1, -1, 7, 8, -8, 127, 128, -129, 2**31, 2**40 + 5, -(2**63), 2**63 - 1])
    n, signed = dtype.nbits, dtype.kind == "int"

    def wrap(number):
        low = number % 2**n
        return low - 2**n if signed and low >= 2 ** (n - 1) else low

    expected = [wrap(number) for number in numbers.tolist()]
    assert expected == dtype.decode(dtype.encode(numbers)).tolist()
    assert expected == dtype.decode(convert(numbers, int64, dtype)).tolist()


def test_booleans():
    assert [False, True, True, True] == boolean.encode([0.0, -0.5, np.nan, np.inf]).tolist()
    assert [0, 1] == int4b.encode(np.array([False, True])).tolist()
    assert [0.0, 1.0] == convert(np.array([False, True]), boolean, float16).tolist()
    assert [True, False] == convert(np.array([8, 0], np.uint8), int4b, boolean).tolist()


# Converting


@pytest.mark.parametrize("source", LOW_PRECISION, ids=str)
def test_convert_between_all_low_precision_types(source):
    carrier = source.from_bits(all_bits(source))
    numbers = source.decode(carrier)
    for target in {*LOW_PRECISION, float16, bfloat16, float32, int32, NF4} - {source}:
        expected = target.to_bits(target.encode(numbers))
        actual = convert(carrier.reshape(1, -1), source, target)
        assert target.carrier == actual.dtype
        np.testing.assert_array_equal(expected.reshape(1, -1), target.to_bits(actual))


@pytest.mark.parametrize("dtype", [*ALL_DTYPES, NF4], ids=str)
def test_convert_to_the_same_type_keeps_the_bits(dtype):
    bits = (np.arange(256) * 257).astype(f"u{dtype.carrier.itemsize}")
    carrier = dtype.from_bits(bits)
    np.testing.assert_array_equal(
        dtype.to_bits(carrier), dtype.to_bits(convert(carrier, dtype, dtype))
    )


def test_convert_of_one_element_keeps_rank_0():
    assert () == convert(np.asarray(np.uint8(3)), uint4b, float16).shape
    assert () == convert(np.asarray(np.float32(3)), float32, float8_e4m3).shape


def test_convert_pointers():
    addresses = np.array([0, 2**40], np.int64)
    assert [0, 2**40] == convert(addresses, ~float16, uint64).tolist()
    assert [0, 2**40] == convert(addresses, void_p, ~int8).tolist()
    with pytest.raises(TilusError, match="cannot cast ~float16 to float32"):
        convert(addresses, ~float16, float32)
    with pytest.raises(TilusError, match="cannot cast a float to void_p"):
        void_p.encode([1.0])


def test_carriers_and_numbers_are_checked():
    with pytest.raises(TilusError, match="does not hold int4b") as caught:
        convert(np.zeros(3, np.int32), int4b, float16)
    assert caught.value.expected == "its carrier, uint8"
    with pytest.raises(TilusError, match="only real numbers"):
        float16.encode([1 + 2j])
    with pytest.raises(TilusError, match="only real numbers"):
        uint64.encode([2**64])


# Packing


def naive_stream(codes, nbits):
    stream = sum(code << (index * nbits) for index, code in enumerate(codes))
    return list(stream.to_bytes((len(codes) * nbits + 7) // 8, "little"))


@given(st.data(), st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64]))
def test_pack_is_the_bit_stream_and_unpack_its_inverse(data, nbits):
    codes = data.draw(st.lists(st.integers(0, 2**nbits - 1), max_size=40))
    dtype = f"u{max(8, nbits) // 8}"
    stream = pack(np.array(codes, dtype), nbits)
    assert naive_stream(codes, nbits) == stream.tolist()
    assert codes == unpack(stream, nbits, len(codes)).tolist()
    assert np.dtype(dtype) == unpack(stream, nbits, len(codes)).dtype


@given(st.integers(1, 8), st.integers(0, 3), st.integers(0, 20))
def test_pack_works_along_the_last_axis(nbits, rows, count):
    codes = np.random.default_rng(count).integers(0, 2**nbits, (2, rows, count)).astype(np.uint8)
    stream = pack(codes, nbits)
    assert (2, rows, (count * nbits + 7) // 8) == stream.shape
    np.testing.assert_array_equal(codes, unpack(stream, nbits, count))
    for row in range(rows):
        np.testing.assert_array_equal(pack(codes[1, row], nbits), stream[1, row])


def test_pack_takes_strided_arrays_and_ignores_upper_bits():
    codes = np.arange(32, dtype=np.uint32).reshape(4, 8).T
    np.testing.assert_array_equal(codes % 8, unpack(pack(codes, 3), 3, 4))


def test_storage_and_packing_errors():
    assert [0, 1, 2, 6] == [storage_nbytes(dtypes.int5b, count) for count in (0, 1, 3, 9)]
    with pytest.raises(TilusError, match="cannot be packed"):
        pack(np.zeros(1, np.uint8), 9)
    with pytest.raises(TilusError, match="cannot read 3 elements of 4 bits") as caught:
        unpack(np.zeros(1, np.uint8), 4, 3)
    assert "at least 2 bytes" in caught.value.expected


# Constants and mistakes


def test_constants():
    assert [-8, 7, 0, 1] == [int4b.constant(v) for v in (-8, 7.0, False, np.int64(1))]
    assert type(int4b.constant(7.0)) is int
    assert 0.0999755859375 == float16.constant(0.1)
    assert -math.inf == float32.constant(-math.inf)
    assert math.isnan(float8_e4m3.constant(math.nan))
    assert boolean.constant(1) is True
    assert (0, 1, 0.0, 1.0, False, True) == tuple(
        number for dtype in (uint4b, float16, boolean) for number in (dtype.zero, dtype.one)
    )


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        (int4b, 8, "out of range of int4b"),
        (uint64, -1, "out of range of uint64"),
        (int1b, 1, "out of range of int1b"),
        (boolean, 2, "out of range of boolean"),
        (float16, 65520, "out of range of float16"),
        (float32, 10**400, "out of range of float32"),
        (float_(2, 1), 6.1, "out of range of float4_e2m1"),
        (float_(2, 1), math.inf, "out of range of float4_e2m1"),
        (float8_e4m3, math.inf, "out of range of float8_e4m3"),
        (ufloat8_e8m0, 0, "out of range of ufloat8_e8m0"),
        (float_(2, 1), math.nan, "float4_e2m1 has no nan"),
        (int8, 2.5, "2.5 is no value of int8"),
        (int8, math.nan, "nan is no value of int8"),
        (int8, "3", "a constant of int8 is a number"),
        (float16, 1j, "a constant of float16 is a number"),
    ],
    ids=str,
)
def test_constants_that_do_not_fit(dtype, value, message):
    with pytest.raises(TilusError, match=message):
        dtype.constant(value)


def test_sub_byte_types_have_no_bytes():
    with pytest.raises(TilusError, match="int4b has no size in bytes") as caught:
        int4b.nbytes  # noqa: B018
    assert "storage_nbytes" in caught.value.hint


def test_one_is_exact_or_an_error():
    with pytest.raises(TilusError, match="cannot represent 0"):
        codebook(1, [-1.0, 1.0]).zero  # noqa: B018


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("float61", "float64"),
        ("int4", "int4b"),
        ("float6_e3m3", "float7_e3m3"),
        ("~flaot32", "float32"),
    ],
)
def test_unknown_names_suggest_the_nearest(name, hint):
    with pytest.raises(TilusError, match="unknown data type") as caught:
        dtype_from_name(name)
    assert f"did you mean {hint}?" == caught.value.hint


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: float_(0, 3), "no such low-precision float"),
        (lambda: float_(5, 3), "no such low-precision float"),
        (lambda: codebook(9, [0.0] * 512), "1..8 bits"),
        (lambda: codebook(2, [0.0]), "one value for each"),
        (lambda: codebook(1, [0.0, math.inf]), "finite"),
        (lambda: codebook(1, [0.0, 1e39]), "finite"),
        (lambda: dtype_from_name("codebook1[1.0,x]"), "no number"),
        (lambda: dtype_from_name("nonsense"), "unknown data type"),
    ],
)
def test_types_that_do_not_exist(make, message):
    with pytest.raises(TilusError, match=message):
        make()


def test_float_finds_the_declared_types():
    assert float_(4, 3) is float8_e4m3
    assert float_(3, 2) is dtypes.float6_e3m2
    assert ("float2_e1m0", 2) == (float_(1, 0).name, float_(1, 0).nbits)


def test_calling_a_dtype_makes_a_constant(monkeypatch):
    monkeypatch.setattr(data_type, "_constant_factory", dtypes.DataType.constant)
    assert 3 == int4b(3)
    dtypes.set_constant_factory(lambda dtype, value: (dtype, value))
    assert (int4b, 3) == int4b(3)
