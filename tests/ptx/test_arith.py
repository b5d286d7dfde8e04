"""Arithmetic of the PTX emulator against Python integers, fractions and ml_dtypes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.ptx.kernels import apply, pairs, triples

Array = np.ndarray[Any, Any]
BF16 = ml_dtypes.bfloat16
INTEGERS = {
    "u16": np.uint16, "s16": np.int16, "u32": np.uint32, "s32": np.int32,
    "u64": np.uint64, "s64": np.int64,
}  # fmt: skip
FLOATS: dict[str, Any] = {"f16": np.float16, "bf16": BF16, "f32": np.float32}


def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def edges(kind: str) -> Array:
    """The ends of an integer type, values beside them and beside 0, and some at random."""
    info = np.iinfo(INTEGERS[kind])
    ends = {0, 1, 2, 3, 7, 10, info.max, info.max - 1, info.max // 2, info.min, info.min + 1}
    if info.min < 0:
        ends |= {-1, -2, -3, -7}
    some = rng().integers(info.min, info.max, 6, INTEGERS[kind], endpoint=True)
    return np.concatenate([np.array(sorted(ends), INTEGERS[kind]), some])


def wrapped(values: list[int], kind: str) -> Array:
    bits = int(kind[1:])
    unsigned = [v & ((1 << bits) - 1) for v in values]
    return np.array(unsigned, f"u{bits // 8}").view(INTEGERS[kind])


def truncated(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


# ---- integers -----------------------------------------------------------------------------------


def integer_functions(kind: str) -> dict[str, Callable[[int, int], int]]:
    bits = int(kind[1:])
    return {
        f"add.{kind}": operator.add,
        f"sub.{kind}": operator.sub,
        f"mul.lo.{kind}": operator.mul,
        f"mul.hi.{kind}": lambda a, b: a * b >> bits,
        f"min.{kind}": min,
        f"max.{kind}": max,
        f"and.b{bits}": operator.and_,
        f"or.b{bits}": operator.or_,
        f"xor.b{bits}": operator.xor,
    }


@pytest.mark.parametrize("kind", INTEGERS)
def test_integer_operations(kind: str):
    a, b = pairs(edges(kind))
    for name, function in integer_functions(kind).items():
        wanted = wrapped([function(int(x), int(y)) for x, y in zip(a, b, strict=True)], kind)
        got = apply(f"{name} {{out}}, {{0}}, {{1}};", [a, b], INTEGERS[kind])
        np.testing.assert_array_equal(got, wanted, name)


@pytest.mark.parametrize("kind", INTEGERS)
def test_integer_division(kind: str):
    a, b = pairs(edges(kind))
    info = np.iinfo(INTEGERS[kind])
    defined = (b != 0) & ~((a == info.min) & (b.astype(object) == -1))
    a, b = a[defined], b[defined]
    quotients = [truncated(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    rests = [int(x) - q * int(y) for x, y, q in zip(a, b, quotients, strict=True)]
    for name, wanted in (("div", quotients), ("rem", rests)):
        got = apply(f"{name}.{kind} {{out}}, {{0}}, {{1}};", [a, b], INTEGERS[kind])
        np.testing.assert_array_equal(got, wrapped(wanted, kind), name)


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32"])
def test_wide_products(kind: str):
    wide = f"{kind[0]}{2 * int(kind[1:])}"
    a, b = pairs(edges(kind))
    c = np.resize(edges(wide), len(a))
    products = [int(x) * int(y) for x, y in zip(a, b, strict=True)]
    got = apply(f"mul.wide.{kind} {{out}}, {{0}}, {{1}};", [a, b], INTEGERS[wide])
    np.testing.assert_array_equal(got, wrapped(products, wide))
    sums = [p + int(z) for p, z in zip(products, c, strict=True)]
    got = apply(f"mad.wide.{kind} {{out}}, {{0}}, {{1}}, {{2}};", [a, b, c], INTEGERS[wide])
    np.testing.assert_array_equal(got, wrapped(sums, wide))


@pytest.mark.parametrize("kind", INTEGERS)
def test_multiply_add(kind: str):
    a, b = pairs(edges(kind))
    c = np.resize(edges(kind), len(a))
    for name, shift in (("lo", 0), ("hi", int(kind[1:]))):
        wanted = [
            (int(x) * int(y) >> shift) + int(z) for x, y, z in zip(a, b, c, strict=True)
        ]  # fmt: skip
        got = apply(f"mad.{name}.{kind} {{out}}, {{0}}, {{1}}, {{2}};", [a, b, c], INTEGERS[kind])
        np.testing.assert_array_equal(got, wrapped(wanted, kind), name)


def test_saturating_sums():
    a, b = pairs(edges("s32"))
    for name, function in (("add", operator.add), ("sub", operator.sub)):
        exact = [function(int(x), int(y)) for x, y in zip(a, b, strict=True)]
        wanted = [min(max(v, -(2**31)), 2**31 - 1) for v in exact]
        got = apply(f"{name}.sat.s32 {{out}}, {{0}}, {{1}};", [a, b], np.int32)
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("kind", INTEGERS)
def test_shifts(kind: str):
    bits = int(kind[1:])
    amounts = np.array([0, 1, bits - 1, bits, bits + 1, 63, 64, 255, 2**31, 2**32 - 1], np.uint32)
    values = edges(kind)
    a, n = np.repeat(values, len(amounts)), np.tile(amounts, len(values))
    # Beyond the width every bit is gone, or is the sign.
    left = [int(x) << min(int(y), bits) for x, y in zip(a, n, strict=True)]
    right = [int(x) >> min(int(y), bits) for x, y in zip(a, n, strict=True)]
    got = apply(f"shl.b{bits} {{out}}, {{0}}, {{1}};", [a, n], INTEGERS[kind])
    np.testing.assert_array_equal(got, wrapped(left, kind))
    got = apply(f"shr.{kind} {{out}}, {{0}}, {{1}};", [a, n], INTEGERS[kind])
    np.testing.assert_array_equal(got, wrapped(right, kind))


@pytest.mark.parametrize("mode", ["wrap", "clamp"])
def test_funnel_shifts(mode: str):
    low, high = pairs(edges("u32"))
    amount = np.resize(np.array([0, 1, 5, 31, 32, 33, 63, 64, 2**32 - 1], np.uint32), len(low))
    left: list[int] = []
    right: list[int] = []
    for x, y, n in zip(low.tolist(), high.tolist(), amount.tolist(), strict=True):
        shift = n % 32 if mode == "wrap" else min(n, 32)
        left.append((y << 32 | x) << shift >> 32)
        right.append((y << 32 | x) >> shift)
    for direction, wanted in (("l", left), ("r", right)):
        body = f"shf.{direction}.{mode}.b32 {{out}}, {{0}}, {{1}}, {{2}};"
        got = apply(body, [low, high, amount], np.uint32)
        np.testing.assert_array_equal(got, wrapped(wanted, "u32"))


def test_lop3_tables():
    a, b, c = rng().integers(0, 2**32, (3, 4), np.uint32)
    for table in range(256):
        got = apply(f"lop3.b32 {{out}}, {{0}}, {{1}}, {{2}}, {table};", [a, b, c], np.uint32)
        for x, y, z, word in zip(a.tolist(), b.tolist(), c.tolist(), got.tolist(), strict=True):
            row = [(x >> n & 1) << 2 | (y >> n & 1) << 1 | (z >> n & 1) for n in range(32)]
            assert word == sum((table >> r & 1) << n for n, r in enumerate(row)), table


def test_prmt_selectors():
    nibbles = np.arange(16, dtype=np.uint32)
    selectors = [nibbles << np.uint32(4 * place) for place in range(4)]
    selector = np.concatenate([*selectors, rng().integers(0, 2**32, 64, np.uint32)])
    a, b = rng().integers(0, 2**32, (2, len(selector)), np.uint32)
    wanted: list[int] = []
    for x, y, s in zip(a.tolist(), b.tolist(), selector.tolist(), strict=True):
        source = x.to_bytes(4, "little") + y.to_bytes(4, "little")
        picked = [(source[s >> 4 * n & 7], s >> 4 * n & 8) for n in range(4)]
        octets = [(255 if v >= 128 else 0) if sign else v for v, sign in picked]
        wanted.append(int.from_bytes(bytes(octets), "little"))
    got = apply("prmt.b32 {out}, {0}, {1}, {2};", [a, b, selector], np.uint32)
    np.testing.assert_array_equal(got, np.array(wanted, np.uint32))


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_bit_fields(kind: str):
    bits = int(kind[1:])
    starts = np.array([0, 1, 5, 31, 32, 63, 64, 200, 255, 256, 258], np.uint32)
    start, length = pairs(starts)
    value = np.resize(edges(kind), len(start))
    base = np.resize(edges(kind)[::-1], len(start))
    extracted: list[int] = []
    inserted: list[int] = []
    for v, w, s, n in zip(value, base, start.tolist(), length.tolist(), strict=True):
        s, n = s & 255, n & 255
        source, kept = int(v) & (1 << bits) - 1, int(w) & (1 << bits) - 1
        sign = source >> min(s + n - 1, bits - 1) & 1 if kind[0] == "s" and n else 0
        field = [source >> s + i & 1 if s + i < bits else sign for i in range(min(n, bits))]
        field += [sign] * (bits - len(field))
        extracted.append(sum(bit << i for i, bit in enumerate(field)))
        for i in range(n):
            if s + i < bits:
                kept = kept & ~(1 << s + i) | (source >> i & 1) << s + i
        inserted.append(kept)
    got = apply(f"bfe.{kind} {{out}}, {{0}}, {{1}}, {{2}};", [value, start, length], value.dtype)
    np.testing.assert_array_equal(got, wrapped(extracted, kind))
    body = f"bfi.b{bits} {{out}}, {{0}}, {{1}}, {{2}}, {{3}};"
    got = apply(body, [value, base, start, length], value.dtype)
    np.testing.assert_array_equal(got, wrapped(inserted, kind))


@pytest.mark.parametrize("kind", ["u32", "u64"])
def test_bit_counts(kind: str):
    bits, value = int(kind[1:]), edges(kind)
    texts = [f"{int(v):0{bits}b}" for v in value]
    wanted = {
        "popc": [t.count("1") for t in texts],
        "clz": [len(t) - len(t.lstrip("0")) for t in texts],
    }
    for name, counts in wanted.items():
        got = apply(f"{name}.b{bits} {{out}}, {{0}};", [value], np.uint32)
        np.testing.assert_array_equal(got, counts, name)
    got = apply(f"brev.b{bits} {{out}}, {{0}};", [value], value.dtype)
    np.testing.assert_array_equal(got, wrapped([int(t[::-1], 2) for t in texts], kind))


# ---- floats -------------------------------------------------------------------------------------


def float_edges(kind: str) -> Array:
    """Zeros, subnormals, ends, infinities, nan, and numbers of all sizes."""
    info = ml_dtypes.finfo(FLOATS[kind])
    tiny, least = float(info.tiny), float(info.smallest_subnormal)
    some = [1.0, 1.5, 1 + float(info.eps), 3.0, float(info.max), tiny, least, 2 * least, 3 * least]
    some += [tiny - least, math.sqrt(tiny), math.inf, 0.0, 1 - float(info.epsneg)]
    values = [*some, *(-v for v in some), math.nan]
    return np.array(values).astype(FLOATS[kind])


def rounded(exact: Fraction, kind: str, mode: str = "rn") -> float:
    """One rounding of a fraction to a float type, from the definition of the type."""
    info = ml_dtypes.finfo(FLOATS[kind])
    if exact == 0:
        return 0.0
    digits, lowest = info.nmant, Fraction(float(info.smallest_subnormal))
    exponent = math.frexp(float(exact))[1] - 1 if abs(exact) > Fraction(2) ** -1000 else -1000
    while abs(exact) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(exact) < Fraction(2) ** exponent and exponent > -1000:
        exponent -= 1
    unit = max(Fraction(2) ** (exponent - digits), lowest)
    quotient = exact / unit
    function: dict[str, Callable[[Fraction], int]] = {
        "rn": round, "rz": math.trunc, "rm": math.floor, "rp": math.ceil,
    }  # fmt: skip
    result = function[mode](quotient) * unit
    greatest = Fraction(float(info.max))
    if abs(result) > greatest:
        inward = mode == "rz" or (mode == "rm" and result > 0) or (mode == "rp" and result < 0)
        return math.copysign(float(greatest) if inward else math.inf, float(exact))
    return math.copysign(float(result), 1 if exact > 0 else -1)


def check_floats(got: Array, wanted: list[float], kind: str, what: str) -> None:
    """Equal numbers, with equal signs of zeros; a nan has the bits that the hardware gives."""
    expected = np.array(wanted).astype(FLOATS[kind])
    actual = got.view(FLOATS[kind])
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected), what)
    number = ~np.isnan(expected)
    bits = f"u{got.dtype.itemsize}"
    differ = actual.view(bits)[number] != expected.view(bits)[number]
    assert not differ.any(), (what, np.flatnonzero(number)[differ][:3], expected[number][differ])
    nans = actual[~number].view(bits)
    assert (nans == (0x7FFFFFFF if kind == "f32" else 0x7FFF)).all(), what


def exact_fma(a: float, b: float, c: float, kind: str, mode: str) -> float:
    if not all(map(math.isfinite, (a, b, c))):
        return a * b + c
    total = Fraction(a) * Fraction(b) + Fraction(c)
    if total:
        return rounded(total, kind, mode)
    positive = math.copysign(1, a) * math.copysign(1, b), math.copysign(1, c)
    if positive[0] == positive[1]:
        return math.copysign(0.0, positive[0])
    return -0.0 if mode == "rm" else 0.0


def stored(values: Array) -> Array:
    return values.view(np.uint16) if values.dtype == BF16 else values


MODES = [("f16", "rn"), ("bf16", "rn")] + [("f32", mode) for mode in ("rn", "rz", "rm", "rp")]


@pytest.mark.parametrize(("kind", "mode"), MODES)
def test_float_arithmetic_rounds_once(kind: str, mode: str):
    a, b = pairs(float_edges(kind))
    x, y = a.astype(np.float64).tolist(), b.astype(np.float64).tolist()
    cases = {
        "add": [exact_fma(u, 1.0, v, kind, mode) for u, v in zip(x, y, strict=True)],
        "sub": [exact_fma(v, -1.0, u, kind, mode) for u, v in zip(x, y, strict=True)],
        "mul": [
            exact_fma(u, v, math.copysign(0.0, u) * math.copysign(1.0, v), kind, mode)
            for u, v in zip(x, y, strict=True)
        ],
    }
    for name, wanted in cases.items():
        body = f"{name}.{mode}.{kind} {{out}}, {{0}}, {{1}};"
        got = apply(body, [stored(a), stored(b)], stored(a).dtype)
        check_floats(got, wanted, kind, body)


@pytest.mark.parametrize(("kind", "mode"), MODES)
def test_fma_rounds_once(kind: str, mode: str):
    a, b, c = triples(float_edges(kind)[::2])
    wanted = [
        exact_fma(x, y, z, kind, mode)
        for x, y, z in zip(*(v.astype(np.float64).tolist() for v in (a, b, c)), strict=True)
    ]
    body = f"fma.{mode}.{kind} {{out}}, {{0}}, {{1}}, {{2}};"
    got = apply(body, [stored(v) for v in (a, b, c)], stored(a).dtype)
    check_floats(got, wanted, kind, body)


def test_fma_of_float32_is_not_rounded_twice():
    # 8392705 * 8384513 = 2^46 + 1: the product is just above half a unit of 1, which float64 loses.
    a, b = np.array([8392705.0], np.float32), np.array([8384513 * 2.0**-70], np.float32)
    one = np.ones(1, np.float32)
    body = "fma.rn.f32 {out}, {0}, {1}, {2};"
    assert apply(body, [a, b, one], np.float32) == np.nextafter(one, np.float32(2))
    below = np.nextafter(one, np.float32(2))  # its last bit is odd: a tie would go down to 1
    assert apply(body, [-a, b, below], np.float32) == one
    assert apply(body, [a, b, -below], np.float32) == -one


def test_fma_of_float64_rounds_once():
    values = np.array([1 + 2.0**-52, 2.0**-600, -(2.0**-600), 1e300, -1.0, 0.0, -0.0, np.inf, 3.1])
    a, b, c = triples(values)
    got = apply("fma.rn.f64 {out}, {0}, {1}, {2};", [a, b, c], np.float64)
    for x, y, z, result in zip(a.tolist(), b.tolist(), c.tolist(), got.tolist(), strict=True):
        if all(map(math.isfinite, (x, y, z))):
            exact = Fraction(x) * Fraction(y) + Fraction(z)
            if abs(exact) > Fraction(2) ** 1024:
                assert result == (math.inf if exact > 0 else -math.inf)
            else:
                assert result == float(exact)
        else:
            np.testing.assert_equal(result, x * y + z)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_packed_arithmetic_works_on_both_halves(kind: str):
    values = float_edges(kind)
    a, b = pairs(values)
    c = np.resize(values[::-1], len(a))
    words = [
        np.stack([v, np.roll(v, 5)], -1).reshape(-1).view(np.uint32)
        for v in (stored(a), stored(b), stored(c))
    ]
    for name, count in (("add", 2), ("sub", 2), ("mul", 2), ("fma.rn", 3), ("min", 2), ("max", 2)):
        places = ", ".join(f"{{{n}}}" for n in range(count))
        got = apply(f"{name}.{kind}x2 {{out}}, {places};", words[:count], np.uint32)
        single = apply(
            f"{name}.{kind} {{out}}, {places};",
            [stored(v) for v in (a, b, c)][:count],
            stored(a).dtype,
        )
        halves = got.view(np.uint16).reshape(-1, 2)
        np.testing.assert_array_equal(halves[:, 0], single.view(np.uint16), name)
        np.testing.assert_array_equal(halves[:, 1], np.roll(single.view(np.uint16), 5), name)


@pytest.mark.parametrize("kind", FLOATS)
def test_extremes_and_nan(kind: str):
    a, b = pairs(float_edges(kind))

    def key(value: float) -> tuple[float, float]:
        return value, math.copysign(1, value)  # -0 is below +0

    for name, function in (("min", min), ("max", max)):
        number: list[float] = []
        for x, y in zip(a.astype(float).tolist(), b.astype(float).tolist(), strict=True):
            real = [v for v in (x, y) if not math.isnan(v)]
            number.append(function(real, key=key) if real else math.nan)
        either = np.isnan(a.astype(float)) | np.isnan(b.astype(float))
        nan = np.where(either, np.nan, number).tolist()
        for modifier, wanted in (("", number), (".NaN", nan)):
            body = f"{name}{modifier}.{kind} {{out}}, {{0}}, {{1}};"
            check_floats(apply(body, [stored(a), stored(b)], stored(a).dtype), wanted, kind, body)


def test_flush_to_zero_of_inputs_and_results():
    tiny = float(np.finfo(np.float32).tiny)
    a = np.array([tiny / 2, -tiny / 2, tiny, -tiny], np.float32)
    b = np.array([2.0, 2.0, 0.5, 0.5], np.float32)
    got = apply("mul.ftz.f32 {out}, {0}, {1};", [a, b], np.float32)
    check_floats(got, [0.0, -0.0, 0.0, -0.0], "f32", "mul.ftz")
    got = apply("mul.f32 {out}, {0}, {1};", [a, b], np.float32)
    check_floats(got, [tiny, -tiny, tiny / 2, -tiny / 2], "f32", "mul")


def test_saturation_of_floats():
    a = np.array([-1.0, 0.25, 2.0, np.nan, np.inf, -np.inf, -0.0], np.float32)
    got = apply("add.sat.f32 {out}, {0}, {1};", [a, np.zeros(7, np.float32)], np.float32)
    check_floats(got, [0.0, 0.25, 1.0, 0.0, 1.0, 0.0, 0.0], "f32", "add.sat")


# ---- comparison and selection -------------------------------------------------------------------

ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le,
    "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip


@pytest.mark.parametrize("kind", FLOATS)
def test_comparisons_of_floats(kind: str):
    a, b = pairs(float_edges(kind))
    x, y = a.astype(float), b.astype(float)
    unordered = np.isnan(x) | np.isnan(y)
    wanted = {"num": ~unordered, "nan": unordered}
    for name, function in ORDERED.items():
        result = np.array([function(u, v) for u, v in zip(x.tolist(), y.tolist(), strict=True)])
        wanted[name], wanted[f"{name}u"] = result & ~unordered, result | unordered
    for name, result in wanted.items():
        body = f"setp.{name}.{kind} %q0|%q1, {{0}}, {{1}};\n"
        body += "selp.u32 %r1, 1, 0, %q0; selp.u32 %r2, 2, 0, %q1; or.b32 {out}, %r1, %r2;"
        got = apply(body, [stored(a), stored(b)], np.uint32)
        np.testing.assert_array_equal(got, np.where(result, 1, 2), body)


@pytest.mark.parametrize("kind", ["u16", "s32", "u32", "s64", "u64"])
def test_comparisons_of_integers(kind: str):
    a, b = pairs(edges(kind))
    names = dict(ORDERED)
    if kind[0] == "u":
        names |= {"lo": operator.lt, "ls": operator.le, "hi": operator.gt, "hs": operator.ge}
    for name, function in names.items():
        wanted = [function(int(x), int(y)) for x, y in zip(a, b, strict=True)]
        body = f"setp.{name}.{kind} %q0, {{0}}, {{1}};\nselp.b32 {{out}}, 7, 9, %q0;"
        got = apply(body, [a, b], np.uint32)
        np.testing.assert_array_equal(got, np.where(wanted, 7, 9), name)


@pytest.mark.parametrize("combine", ["and", "or", "xor"])
def test_comparisons_combine_with_a_predicate(combine: str):
    a, b, c = triples(np.arange(2, dtype=np.uint32))
    function = getattr(np, f"logical_{combine}")
    body = f"""setp.ne.u32 %q2, {{2}}, 0;
        setp.lt.{combine}.u32 %q0|%q1, {{0}}, {{1}}, !%q2;
        selp.u32 %r1, 1, 0, %q0; selp.u32 %r2, 2, 0, %q1; or.b32 {{out}}, %r1, %r2;"""
    less, other = a < b, c == 0
    wanted = function(less, other) * 1 + function(~less, other) * 2
    np.testing.assert_array_equal(apply(body, [a, b, c], np.uint32), wanted)


def test_packed_comparison_gives_a_predicate_for_each_half():
    a = np.array([1.0, 2.0, np.nan, 5.0], np.float16).view(np.uint32)
    b = np.array([2.0, 1.0, 1.0, 6.0], np.float16).view(np.uint32)
    body = """setp.lt.f16x2 %q0|%q1, {0}, {1};
        selp.u32 %r1, 1, 0, %q0; selp.u32 %r2, 2, 0, %q1; or.b32 {out}, %r1, %r2;"""
    assert apply(body, [a, b], np.uint32).tolist() == [1, 2]


# ---- conversion ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["f16", "bf16"])
@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
def test_narrowing(target: str, mode: str):
    info = ml_dtypes.finfo(FLOATS[target])
    step, least = float(info.eps), float(info.smallest_subnormal)
    values = [0.0, 1.0, 1 + step / 2, 1 + 1.5 * step, 1 + step * 0.51, float(info.max), least / 2]
    values += [float(info.max) * (1 + step / 4), least * 0.51, 2.5 * least, 3e38, 1e-40, 0.1]
    a = np.array([*values, *(-v for v in values)], np.float32)
    signed = [
        math.copysign(rounded(Fraction(v), target, mode), v) for v in a.astype(float).tolist()
    ]
    got = apply(f"cvt.{mode}.{target}.f32 {{out}}, {{0}};", [a], np.uint16)
    check_floats(got, signed, target, mode)


WHOLE: dict[str, Callable[[float], int]] = {
    "rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil,
}  # fmt: skip
SIZES = {"u8": np.uint8, "s8": np.int8} | INTEGERS


@pytest.mark.parametrize("mode", WHOLE)
@pytest.mark.parametrize("source", ["f16", "f32", "f64"])
def test_floats_to_integers(mode: str, source: str):
    halves = [0.0, 0.4, 0.5, 1.5, 2.5, 99.6, 127.5, 128.0, 255.4, 255.5, 300.0, 40000.0]
    if source != "f16":
        halves += [2.0**31, 2.0**32, 2.0**63, 2.0**64, 2147483520.0, 1e30]
    finite = [*halves, *(-v for v in halves)]
    a = np.array([*finite, math.inf, -math.inf, math.nan]).astype(source.replace("f", "float"))
    for kind, dtype in SIZES.items():
        info = np.iinfo(dtype)
        numbers = [WHOLE[mode](v) for v in a[: len(finite)].astype(float).tolist()]
        wanted = [min(max(v, int(info.min)), int(info.max)) for v in numbers]
        wide = source == "f64" or info.bits == 64
        high_bit = int(info.min) if info.min < 0 else 1 << info.bits - 1
        wanted += [int(info.max), int(info.min), high_bit if wide else 0]
        # A register of 64 bits holds a narrower result extended by its sign.
        got = apply(f"cvt.{mode}.{kind}.{source} {{out}}, {{0}};", [a], np.uint64)
        np.testing.assert_array_equal(got, wrapped(wanted, "u64"), f"{kind} {mode}")


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("source", INTEGERS)
def test_integers_to_floats(mode: str, source: str):
    more = [2**24 + 1, 2**24 + 3, 2**31 - 1, 2**53 + 1, 2**54 + 2**30 + 1, 2**63 - 1]
    info = np.iinfo(INTEGERS[source])
    fitting = [v for v in more if v <= info.max]
    fitting += [-v for v in fitting if info.min < 0]
    a = np.concatenate([edges(source), np.array(fitting, INTEGERS[source])])
    for target in ("f16", "bf16", "f32"):
        wanted = [rounded(Fraction(int(v)), target, mode) for v in a]
        size = np.uint32 if target == "f32" else np.uint16
        got = apply(f"cvt.{mode}.{target}.{source} {{out}}, {{0}};", [a], size)
        check_floats(got, wanted, target, f"{target} {mode}")


@pytest.mark.parametrize("source", INTEGERS)
def test_integers_to_integers(source: str):
    a = edges(source)
    for target, dtype in SIZES.items():
        info = np.iinfo(dtype)
        bits = int(target[1:])
        cut = [int(v) & (1 << bits) - 1 for v in a]
        cut = [v - (1 << bits) if info.min < 0 and v >> bits - 1 else v for v in cut]
        clamped = [min(max(int(v), int(info.min)), int(info.max)) for v in a]
        for modifier, wanted in (("", cut), (".sat", clamped)):
            got = apply(f"cvt{modifier}.{target}.{source} {{out}}, {{0}};", [a], np.uint64)
            np.testing.assert_array_equal(got, wrapped(wanted, "u64"), f"{target}{modifier}")


def test_whole_floats_and_saturation():
    a = np.array([0.5, 1.5, -0.5, -1.5, 2.7, -2.7, np.inf], np.float32)
    for mode, function in (("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor)):
        got = apply(f"cvt.{mode}.f32.f32 {{out}}, {{0}};", [a], np.float32)
        check_floats(got, function(a).tolist(), "f32", mode)
    got = apply("cvt.sat.f32.f32 {out}, {0};", [a], np.float32)
    check_floats(got, [0.5, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0], "f32", "sat")


def test_pairs_of_floats():
    high, low = pairs(float_edges("f32"))
    with np.errstate(all="ignore"):
        for name, dtype in (("f16x2", np.float16), ("bf16x2", BF16)):
            got = apply(f"cvt.rn.{name}.f32 {{out}}, {{0}}, {{1}};", [high, low], np.uint32)
            parts = got.view(np.uint16).reshape(-1, 2)
            for part, wanted in ((parts[:, 0], low), (parts[:, 1], high)):
                expected = wanted.astype(dtype).astype(float).tolist()
                check_floats(np.ascontiguousarray(part), expected, name[:-2], name)


@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
def test_float8(kind: str):
    dtype: Any = ml_dtypes.float8_e4m3fn if kind == "e4m3" else ml_dtypes.float8_e5m2
    codes = np.arange(256, dtype=np.uint16)
    got = apply(f"cvt.rn.f16x2.{kind}x2 {{out}}, {{0}};", [codes | codes[::-1] << 8], np.uint32)
    known = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float16)
    parts = got.view(np.float16).reshape(-1, 2)
    np.testing.assert_array_equal(parts[:, 0], known)
    np.testing.assert_array_equal(parts[:, 1], known[::-1])
    finite = known[np.isfinite(known)].astype(np.float32)
    middle = np.sort(finite)
    a = np.concatenate([finite, (middle[1:] + middle[:-1]) / 2, rng().normal(0, 9, 50)])
    a = np.append(a, [1e9, -1e9, np.inf]).astype(np.float32)
    b = np.roll(a, 3)
    got = apply(f"cvt.rn.satfinite.{kind}x2.f32 {{out}}, {{0}}, {{1}};", [a, b], np.uint16)
    greatest = float(ml_dtypes.finfo(dtype).max)
    for part, value in ((got >> 8, a), (got & 255, b)):
        wanted = np.clip(value, -greatest, greatest).astype(dtype).view(np.uint8)
        np.testing.assert_array_equal(part, wanted)
