"""Every rounding of the float operations, and their forms with modifiers, from exact fractions."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.ptx.kernels import apply, pairs
from tests.ptx.test_arith import check_floats, float_edges, rounded, stored
from tilus.errors import TilusError

Array = np.ndarray[Any, Any]
BF16 = ml_dtypes.bfloat16
MODES = ("rn", "rz", "rm", "rp")
ALL_HALVES = np.arange(1 << 16, dtype=np.uint16)


def quotient(a: float, b: float, kind: str, mode: str) -> float:
    if math.isfinite(a) and math.isfinite(b) and a and b:
        return rounded(Fraction(a) / Fraction(b), kind, mode)
    with np.errstate(all="ignore"):
        return float(np.float64(a) / np.float64(b))


def root(a: float, kind: str, mode: str) -> float:
    """The square root, rounded once: an integer of many bits, one of which is for the rest."""
    if not a > 0 or math.isinf(a):
        return math.nan if a < 0 else a
    scaled = Fraction(a) * 2**2400
    whole = math.isqrt(int(scaled))
    rest = 0 if whole * whole == scaled else 1
    return rounded(Fraction(2 * whole + rest, 2**1201), kind, mode)


@pytest.mark.parametrize("mode", MODES)
def test_quotients_and_roots_of_float32(mode: str):
    edges = np.concatenate([float_edges("f32"), np.array([7.0, 0.1, 1e-39, 1e38], np.float32)])
    a, b = pairs(edges)
    x, y = a.astype(float).tolist(), b.astype(float).tolist()
    wanted = [quotient(u, v, "f32", mode) for u, v in zip(x, y, strict=True)]
    got = apply(f"div.{mode}.f32 {{out}}, {{0}}, {{1}};", [a, b], np.float32)
    check_floats(got, wanted, "f32", "div")
    numbers = edges.astype(float).tolist()
    got = apply(f"rcp.{mode}.f32 {{out}}, {{0}};", [edges], np.float32)
    check_floats(got, [quotient(1.0, v, "f32", mode) for v in numbers], "f32", "rcp")
    got = apply(f"sqrt.{mode}.f32 {{out}}, {{0}};", [edges], np.float32)
    check_floats(got, [root(v, "f32", mode) for v in numbers], "f32", "sqrt")


def rounded64(exact: Fraction, mode: str) -> float:
    """A fraction as float64: the two neighbours of it, from which the mode chooses."""
    near = float(exact) if abs(exact) < 2**1024 else (math.inf if exact > 0 else -math.inf)
    if (math.isfinite(near) and Fraction(near) == exact) or mode == "rn":
        return near
    over = near > exact
    low, high = (
        (math.nextafter(near, -math.inf), near) if over else (near, math.nextafter(near, math.inf))
    )
    return low if mode == "rm" or (mode == "rz" and exact > 0) else high


FLOAT64 = np.array(
    [1.0, -3.0, 0.1, 1 + 2.0**-52, 2.0**-600, -1e300, 5e-324, 1.7e308, 2.2250738585072014e-308]
)


@pytest.mark.parametrize("mode", MODES)
def test_operations_on_float64_round_once(mode: str):
    a, b = pairs(FLOAT64)
    functions: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
        "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y,
        "div": lambda x, y: x / y, "fma": lambda x, y: x * y + Fraction(3),
    }  # fmt: skip
    for name, function in functions.items():
        third = ", 0d4008000000000000" if name == "fma" else ""
        got = apply(f"{name}.{mode}.f64 {{out}}, {{0}}, {{1}}{third};", [a, b], np.float64)
        for x, y, result in zip(a.tolist(), b.tolist(), got.tolist(), strict=True):
            exact = function(Fraction(x), Fraction(y))
            wanted = rounded64(exact, mode) if exact else (-0.0 if mode == "rm" else 0.0)
            assert (result, math.copysign(1, result)) == (wanted, math.copysign(1, wanted)), (
                name,
                x,
                y,
            )
    got = apply(f"rcp.{mode}.f64 {{out}}, {{0}};", [FLOAT64], np.float64)
    assert got.tolist() == [rounded64(1 / Fraction(v), mode) for v in FLOAT64.tolist()]


@pytest.mark.parametrize("mode", MODES)
def test_roots_of_float64(mode: str):
    a = np.abs(FLOAT64)
    got = apply(f"sqrt.{mode}.f64 {{out}}, {{0}};", [a], np.float64)
    for number, result in zip(a.tolist(), got.tolist(), strict=True):
        below, above = (math.nextafter(result, to) for to in (0.0, math.inf))
        square = {v: Fraction(v) ** 2 for v in (below, result, above)}
        exact = Fraction(number)
        if mode in ("rz", "rm"):
            assert square[result] <= exact < square[above]
        elif mode == "rp":
            assert square[below] < exact <= square[result]
        else:
            assert ((Fraction(below) + Fraction(result)) / 2) ** 2 <= exact
            assert exact <= ((Fraction(above) + Fraction(result)) / 2) ** 2


# ---- approximate functions: of 16 bits every value ----------------------------------------------

FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "ex2.approx": np.exp2, "lg2.approx": np.log2, "sin.approx": np.sin, "cos.approx": np.cos,
    "tanh.approx": np.tanh, "rsqrt.approx": lambda x: 1 / np.sqrt(x), "rcp.approx": lambda x: 1 / x,
    "sqrt.approx": np.sqrt,
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_approximate_functions_of_float32(name: str):
    a = np.concatenate([float_edges("f32"), np.linspace(-20, 20, 301, dtype=np.float32)])
    with np.errstate(all="ignore"):
        wanted = FUNCTIONS[name](a.astype(np.float64)).astype(np.float32)
    check_floats(
        apply(f"{name}.f32 {{out}}, {{0}};", [a], np.float32), wanted.tolist(), "f32", name
    )


@pytest.mark.parametrize("name", ["tanh.approx", "ex2.approx"])
@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_approximate_functions_of_every_half(name: str, kind: str):
    dtype: Any = np.float16 if kind == "f16" else BF16
    ftz = ".ftz" if (name, kind) == ("ex2.approx", "bf16") else ""
    a = ALL_HALVES.view(dtype)
    with np.errstate(invalid="ignore"):
        exact = a.astype(np.float64)
    if ftz:
        exact = np.where(np.abs(exact) < 2.0**-126, np.copysign(0, exact), exact)
    with np.errstate(all="ignore"):
        wanted = FUNCTIONS[name](exact).astype(dtype)
    if ftz:
        small = np.abs(wanted.astype(float)) < 2.0**-126
        wanted = np.where(small, np.zeros_like(wanted), wanted)
    got = apply(f"{name}{ftz}.{kind} {{out}}, {{0}};", [ALL_HALVES[:1024]], np.uint16)
    check_floats(got, wanted[:1024].astype(float).tolist(), kind, name)
    words = ALL_HALVES.view(np.uint32)
    for start in range(0, len(words), 1024):
        part = words[start : start + 1024]
        got = apply(f"{name}{ftz}.{kind}x2 {{out}}, {{0}};", [part], np.uint32)
        expected = wanted[2 * start : 2 * start + 2048].astype(float).tolist()
        check_floats(got.view(np.uint16), expected, kind, f"{name} packed")


def test_divisors_of_approximate_division_may_be_too_great():
    a = np.array([1.0, -1.0, np.inf, 3.0, np.nan], np.float32)
    b = np.array([2.0**127, 2.0**127, 2.0**127, 2.0**126, 2.0**127], np.float32)
    got = apply("div.approx.f32 {out}, {0}, {1};", [a, b], np.float32)
    check_floats(got, [0.0, -0.0, math.nan, 3 * 2.0**-126, math.nan], "f32", "div.approx")
    got = apply("div.full.f32 {out}, {0}, {1};", [a, b], np.float32)
    check_floats(got[:2], [2.0**-127, -(2.0**-127)], "f32", "div.full")


def test_the_gross_reciprocal_has_half_a_mantissa():
    a = np.array([3.0, -7.0, 1e300])
    got = apply("rcp.approx.ftz.f64 {out}, {0};", [a], np.float64)
    assert (got.view(np.uint64) & np.uint64(0xFFFFFFFF) == 0).all()
    np.testing.assert_allclose(got, 1 / a, rtol=2.0**-20)
    got = apply("rsqrt.approx.ftz.f64 {out}, {0};", [np.abs(a)], np.float64)
    assert (got.view(np.uint64) & np.uint64(0xFFFFFFFF) == 0).all()
    np.testing.assert_allclose(got, 1 / np.sqrt(np.abs(a)), rtol=2.0**-20)


GROSS_NAN = 0x7FFFFFFF00000000
INPUTS = np.array(
    [-np.inf, -5e-324, -1e-310, -0.0, 0.0, 1e-310, np.inf, np.nan, -1.0, 2.0**1023, 4 + 2.0**-32]
)


def test_special_numbers_of_gross_reciprocals():
    """Source: PTX ISA, the tables of "rcp.approx.ftz.f64" and "rsqrt.approx.ftz.f64"."""
    inf, nan = np.inf, np.uint64(GROSS_NAN).view(np.float64)
    # The lower 32 bits of the input are ignored, and results that are subnormal are flushed.
    rcp = [-0.0, -inf, -inf, -inf, inf, inf, 0.0, nan, -1.0, 0.0, 0.25]
    got = apply("rcp.approx.ftz.f64 {out}, {0};", [INPUTS], np.float64)
    assert got.view(np.uint64).tolist() == np.array(rcp).view(np.uint64).tolist()
    got = apply("rsqrt.approx.ftz.f64 {out}, {0};", [INPUTS], np.float64)[[*range(9), 10]]
    rsqrt = [nan, -inf, -inf, -inf, inf, inf, 0.0, nan, nan, 0.5]
    assert got.view(np.uint64).tolist() == np.array(rsqrt).view(np.uint64).tolist()


def test_rsqrt_of_float64_is_precise():
    """Source: PTX ISA, "rsqrt": in software, with subnormal numbers."""
    a = np.array([2.0, 3.0, 1e-310, 5e-324, 1.7e308, 0.1, 1 + 2.0**-52])
    got = apply("rsqrt.approx.f64 {out}, {0};", [a], np.float64)
    for number, result in zip(a.tolist(), got.tolist(), strict=True):
        error = Fraction(result) ** 2 * Fraction(number) - 1  # twice that of the result
        assert abs(error) <= 2 * Fraction(1, 2**52)
    special = apply(
        "rsqrt.approx.f64 {out}, {0};", [np.array([0.0, -0.0, np.inf, -1.0])], np.float64
    )
    np.testing.assert_array_equal(special, [np.inf, -np.inf, 0.0, np.nan])


# ---- modifiers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["f16", "bf16", "f32"])
@pytest.mark.parametrize("name", ["min", "max"])
def test_extremes_of_magnitudes(name: str, kind: str):
    a, b = pairs(float_edges(kind))
    x, y = a.astype(float), b.astype(float)
    with np.errstate(all="ignore"):
        magnitude = getattr(np, f"f{name}")(np.abs(x), np.abs(y))
    wanted = np.where(np.signbit(x) ^ np.signbit(y), -magnitude, magnitude)
    body = f"{name}.xorsign.abs.{kind} {{out}}, {{0}}, {{1}};"
    got = apply(body, [stored(a), stored(b)], stored(a).dtype)
    check_floats(got, wanted.tolist(), kind, body)


def test_three_way_extremes():
    a, b, c = np.random.default_rng(2).normal(size=(3, 64)).astype(np.float32)
    got = apply("max.f32 {out}, {0}, {1}, {2};", [a, b, c], np.float32)
    np.testing.assert_array_equal(got, np.maximum(np.maximum(a, b), c))


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_fma_relu(kind: str):
    a, b = pairs(float_edges(kind))
    one = "0x3C00" if kind == "f16" else "0x3F80"
    places = [stored(a), stored(b)]
    body = f"mov.b16 %h1, {one}; fma.rn{{relu}}.{kind} {{out}}, {{0}}, %h1, {{1}};"
    plain, clamped = (
        apply(body.replace("{relu}", relu), places, stored(a).dtype) for relu in ("", ".relu")
    )
    values = plain.view(a.dtype).astype(float)
    wanted = np.where(values <= 0, 0.0, values)
    check_floats(clamped, wanted.tolist(), kind, "relu")


@pytest.mark.parametrize("kind", ["f16", "bf16", "f32", "f64"])
def test_signs(kind: str):
    dtype: Any = {"f16": np.uint16, "bf16": np.uint16, "f32": np.uint32, "f64": np.uint64}[kind]
    bits = 8 * np.dtype(dtype).itemsize
    a = np.random.default_rng(5).integers(0, 2**bits, 256, dtype)
    sign = dtype(1 << bits - 1)
    np.testing.assert_array_equal(apply(f"neg.{kind} {{out}}, {{0}};", [a], dtype), a ^ sign)
    np.testing.assert_array_equal(apply(f"abs.{kind} {{out}}, {{0}};", [a], dtype), a & ~sign)


CLASSES: dict[str, Callable[[float], bool]] = {
    "finite": math.isfinite,
    "infinite": math.isinf,
    "number": lambda x: not math.isnan(x),
    "notanumber": math.isnan,
    "normal": lambda x: math.isfinite(x) and abs(x) >= 2.0**-126,
    "subnormal": lambda x: 0 < abs(x) < 2.0**-126,
}


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name: str):
    a = float_edges("f32")
    got = apply(f"testp.{name}.f32 %q0, {{0}}; selp.u32 {{out}}, 1, 0, %q0;", [a], np.uint32)
    assert got.tolist() == [CLASSES[name](v) for v in a.astype(float).tolist()]


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ("tanh.approx.f64 {out}, {0};", "the type f64"),
        ("add.f32.f16 {out}, {0}, {0};", "mixed precision"),
        ("add.e4m3 {out}, {0}, {0};", "the type e4m3"),
        ("and.f64 {out}, {0}, {0};", "the type f64"),
        ("add.ftz.f64 {out}, {0}, {0};", "the type f64 with .ftz"),
    ],
)
def test_what_is_not_emulated_names_itself_and_its_line(body: str, match: str):
    with pytest.raises(TilusError, match=match) as info:
        apply(body, [np.ones(1)], np.float64)
    assert info.value.found is not None and "at PTX line" in info.value.found
