"""Integer and bit operations of the emulator against Python integers and the manual's tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ptx.kernels import apply, pairs, triples
from tests.ptx.test_arith import edges, rng, wrapped

Array = np.ndarray[Any, Any]


def as_lists(*arrays: Array) -> zip[Any]:
    return zip(*(a.tolist() for a in arrays), strict=True)


# ---- carries ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["u32", "s32", "u64"])
def test_sums_of_two_words(kind: str):
    bits = int(kind[1:])
    low_a, low_b = pairs(edges(kind))
    high_a, high_b = (np.resize(v, len(low_a)) for v in (edges(kind)[::-1], edges(kind)))
    mask = (1 << bits) - 1
    for name, sign in (("add", 1), ("sub", -1)):
        register = "%r1" if bits == 32 else "%d1"
        body = f"""{name}.cc.{kind} {register}, {{0}}, {{1}};
            {name}c.{kind} {{out}}, {{2}}, {{3}};"""
        got = apply(body, [low_a, low_b, high_a, high_b], low_a.dtype)
        totals = [
            ((ha & mask) << bits | la & mask) + sign * ((hb & mask) << bits | lb & mask)
            for la, lb, ha, hb in as_lists(low_a, low_b, high_a, high_b)
        ]
        np.testing.assert_array_equal(got, wrapped([t >> bits for t in totals], kind), name)


def test_a_carry_goes_through_three_words():
    ones = np.full(4, 2**32 - 1, np.uint32)
    one = np.array([0, 1, 2, 2**31], np.uint32)
    body = """add.cc.u32 %r1, {0}, {1}; addc.cc.u32 %r2, {0}, 0; addc.u32 {out}, 5, 0;"""
    assert apply(body, [ones, one], np.uint32).tolist() == [5, 6, 6, 6]


def test_a_product_of_two_words_by_mad_and_carry():
    a, b = pairs(edges("u32"))
    body = """mul.lo.u32 %r1, {0}, {1}; mad.lo.cc.u32 %r2, {0}, {1}, %r1;
        madc.hi.u32 {out}, {0}, {1}, 0;"""
    wanted = [(x * y + (x * y & 0xFFFFFFFF)) >> 32 for x, y in as_lists(a, b)]
    np.testing.assert_array_equal(apply(body, [a, b], np.uint32), wrapped(wanted, "u32"))


# ---- products of parts --------------------------------------------------------------------------


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


@pytest.mark.parametrize("kind", ["u32", "s32"])
def test_products_of_24_bits(kind: str):
    a, b = pairs(edges(kind))
    c = np.resize(edges(kind), len(a))
    cut = (lambda v: signed(v, 24)) if kind == "s32" else (lambda v: v & 0xFFFFFF)
    for part, shift in (("lo", 0), ("hi", 16)):
        products = [cut(x) * cut(y) >> shift for x, y in as_lists(a, b)]
        got = apply(f"mul24.{part}.{kind} {{out}}, {{0}}, {{1}};", [a, b], a.dtype)
        np.testing.assert_array_equal(got, wrapped(products, kind))
        sums = [p + z for p, z in zip(products, c.tolist(), strict=True)]
        got = apply(f"mad24.{part}.{kind} {{out}}, {{0}}, {{1}}, {{2}};", [a, b, c], a.dtype)
        np.testing.assert_array_equal(got, wrapped(sums, kind))


@pytest.mark.parametrize("left", ["u32", "s32"])
@pytest.mark.parametrize("right", ["u32", "s32"])
def test_dots(left: str, right: str):
    a, b, c = rng().integers(0, 2**32, (3, 64), np.uint32)

    def parts(word: int, bits: int, kind: str) -> list[int]:
        values = [word >> n & (1 << bits) - 1 for n in range(0, 32, bits)]
        return [signed(v, bits) for v in values] if kind == "s32" else values

    def dot(x: list[int], y: list[int]) -> int:
        return sum(u * v for u, v in zip(x, y, strict=True))

    rows = list(as_lists(a, b, c))
    cases = {
        "dp4a": [z + dot(parts(x, 8, left), parts(y, 8, right)) for x, y, z in rows],
        "dp2a.lo": [z + dot(parts(x, 16, left), parts(y, 8, right)[:2]) for x, y, z in rows],
        "dp2a.hi": [z + dot(parts(x, 16, left), parts(y, 8, right)[2:]) for x, y, z in rows],
    }
    for name, wanted in cases.items():
        got = apply(f"{name}.{left}.{right} {{out}}, {{0}}, {{1}}, {{2}};", [a, b, c], np.uint32)
        np.testing.assert_array_equal(got, wrapped(wanted, "u32"), name)


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_sums_of_absolute_differences(kind: str):
    a, b = pairs(edges(kind))
    c = np.resize(edges(kind), len(a))
    wanted = wrapped([abs(x - y) + z for x, y, z in as_lists(a, b, c)], kind)
    got = apply(f"sad.{kind} {{out}}, {{0}}, {{1}}, {{2}};", [a, b, c], a.dtype)
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("kind", ["u16", "s16"])
def test_packed_integers(kind: str):
    a, b = (np.resize(v, 400 // 2 * 2) for v in pairs(edges(kind)))
    functions = {"add": lambda x, y: x + y, "min": min, "max": max}
    for name, function in functions.items():
        words = [v.view(np.uint32) for v in (a, b)]
        got = apply(f"{name}.{kind}x2 {{out}}, {{0}}, {{1}};", words, np.uint32)
        wanted = wrapped([function(x, y) for x, y in as_lists(a, b)], kind)
        np.testing.assert_array_equal(got.view(a.dtype), wanted, name)


def test_clamped_extremes():
    a, b = pairs(edges("s32"))
    got = apply("max.relu.s32 {out}, {0}, {1};", [a, b], np.int32)
    assert got.tolist() == [max(x, y, 0) for x, y in as_lists(a, b)]
    got = apply("min.relu.s32 {out}, {0}, {1};", [a, b], np.int32)
    assert got.tolist() == [max(min(x, y), 0) for x, y in as_lists(a, b)]


# ---- bits ---------------------------------------------------------------------------------------

# The table of "prmt": for each mode and selector, the bytes 3, 2, 1, 0 of the result.
PRMT = {
    "f4e": ["3210", "4321", "5432", "6543"],
    "b4e": ["5670", "6701", "7012", "0123"],
    "rc8": ["0000", "1111", "2222", "3333"],
    "ecl": ["3210", "3211", "3222", "3333"],
    "ecr": ["0000", "1110", "2210", "3210"],
    "rc16": ["1010", "3232", "1010", "3232"],
}


@pytest.mark.parametrize("mode", PRMT)
def test_prmt_modes(mode: str):
    selector = np.arange(8, dtype=np.uint32)  # only two bits count
    a, b = rng().integers(0, 2**32, (2, 8), np.uint32)
    got = apply(f"prmt.b32.{mode} {{out}}, {{0}}, {{1}}, {{2}};", [a, b, selector], np.uint32)
    for x, y, s, word in as_lists(a, b, selector, got):
        source = x.to_bytes(4, "little") + y.to_bytes(4, "little")
        assert word.to_bytes(4, "big") == bytes(source[int(n)] for n in PRMT[mode][s & 3])


@pytest.mark.parametrize("combine", ["and", "or"])
def test_lop3_with_a_predicate(combine: str):
    a, b, c = triples(np.array([0, 1, 3], np.uint32))
    body = f"""setp.eq.u32 %q1, {{2}}, 1;
        lop3.{combine}.b32 %r1|%q0, {{0}}, {{1}}, 0, 0xC0, %q1;
        selp.u32 %r2, 256, 0, %q0; or.b32 {{out}}, %r1, %r2;"""
    got = apply(body, [a, b, c], np.uint32)
    function = {"and": np.logical_and, "or": np.logical_or}[combine]
    held = function((a & b) != 0, c == 1)
    np.testing.assert_array_equal(got, (a & b) | np.where(held, 256, 0))


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_the_highest_bit(kind: str):
    bits, a = int(kind[1:]), edges(kind)
    places = [(~v if v < 0 else v).bit_length() - 1 for v in a.tolist()]
    got = apply(f"bfind.{kind} {{out}}, {{0}};", [a], np.uint32)
    np.testing.assert_array_equal(got, wrapped(places, "u32"))
    got = apply(f"bfind.shiftamt.{kind} {{out}}, {{0}};", [a], np.uint32)
    shifts = [bits - 1 - p if p >= 0 else -1 for p in places]
    np.testing.assert_array_equal(got, wrapped(shifts, "u32"))


@pytest.mark.parametrize("mode", ["clamp", "wrap"])
def test_masks_and_extensions(mode: str):
    amounts = np.array([0, 1, 5, 16, 31, 32, 33, 64, 2**32 - 1], np.uint32)
    a, b = pairs(amounts)

    def count(n: int) -> int:
        return n % 32 if mode == "wrap" else min(n, 32)

    wanted = [((1 << count(y)) - 1 << count(x)) & 0xFFFFFFFF for x, y in as_lists(a, b)]
    got = apply(f"bmsk.{mode}.b32 {{out}}, {{0}}, {{1}};", [a, b], np.uint32)
    assert got.tolist() == wanted
    value = np.resize(edges("u32"), len(b))
    fields = [(x, count(y)) for x, y in as_lists(value, b)]
    got = apply(f"szext.{mode}.u32 {{out}}, {{0}}, {{1}};", [value, b], np.uint32)
    assert got.tolist() == [x & (1 << n) - 1 for x, n in fields]
    got = apply(f"szext.{mode}.s32 {{out}}, {{0}}, {{1}};", [value, b], np.uint32)
    assert got.tolist() == [signed(x, n) & 0xFFFFFFFF if n else 0 for x, n in fields]


def test_conditional_not():
    a = np.array([0, 1, 2**31], np.uint32)
    assert apply("cnot.b32 {out}, {0};", [a], np.uint32).tolist() == [1, 0, 0]


# ---- selection ----------------------------------------------------------------------------------


def test_slct_chooses_by_sign():
    a, b = np.arange(8, dtype=np.uint32), np.arange(8, 16, dtype=np.uint32)
    number = np.array([1.0, -1.0, 0.0, -0.0, np.nan, np.inf, -np.inf, -1e-40], np.float32)
    wanted = np.where(number >= 0, a, b)
    got = apply("slct.u32.f32 {out}, {0}, {1}, {2};", [a, b, number], np.uint32)
    np.testing.assert_array_equal(got, wanted)
    wanted[7] = a[7]  # flushed, it is -0
    got = apply("slct.ftz.u32.f32 {out}, {0}, {1}, {2};", [a, b, number], np.uint32)
    np.testing.assert_array_equal(got, wanted)
    chooser = np.array([0, 1, -1, 5, -5, 7, -(2**31), 2**31 - 1], np.int32)
    got = apply("slct.u32.s32 {out}, {0}, {1}, {2};", [a, b, chooser], np.uint32)
    np.testing.assert_array_equal(got, np.where(chooser >= 0, a, b))


def test_set_gives_numbers():
    a, b = np.array([1, 5, 5], np.int32), np.array([5, 5, 1], np.int32)
    got = apply("set.lt.u32.s32 {out}, {0}, {1};", [a, b], np.uint32)
    assert got.tolist() == [2**32 - 1, 0, 0]
    got = apply("set.le.f32.s32 {out}, {0}, {1};", [a, b], np.float32)
    assert got.tolist() == [1.0, 1.0, 0.0]
    body = "setp.eq.s32 %q1, {0}, 5; set.lt.or.f32.s32 {out}, {0}, {1}, %q1;"
    assert apply(body, [a, b], np.float32).tolist() == [1.0, 1.0, 1.0]


def test_set_of_packed_halves():
    a = np.array([1.0, 2.0, np.nan, 5.0], np.float16).view(np.uint32)
    b = np.array([2.0, 1.0, 1.0, 6.0], np.float16).view(np.uint32)
    got = apply("set.lt.f16x2.f16x2 {out}, {0}, {1};", [a, b], np.uint32)
    assert got.view(np.float16).tolist() == [1.0, 0.0, 0.0, 1.0]
    got = apply("set.ltu.u32.f16x2 {out}, {0}, {1};", [a, b], np.uint32)
    assert got.tolist() == [0x0000FFFF, 0xFFFFFFFF]


def test_a_target_of_setp_may_be_its_source():
    a = np.arange(4, dtype=np.uint32)
    body = """setp.ge.u32 %q0, {0}, 2;
        setp.eq.and.u32 %q0|%q1, {0}, {0}, %q0;
        selp.u32 %r1, 1, 0, %q0; selp.u32 %r2, 2, 0, %q1; or.b32 {out}, %r1, %r2;"""
    assert apply(body, [a], np.uint32).tolist() == [0, 0, 1, 1]
