"""Conversions of the emulator: narrow floats code by code, tf32, cvt.pack, saturation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.ptx.kernels import apply, pairs
from tests.ptx.test_arith import check_floats, edges, float_edges, rng
from tilus.errors import TilusError

Array = np.ndarray[Any, Any]
NARROW: dict[str, Any] = {
    "e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2,
    "e2m3": ml_dtypes.float6_e2m3fn, "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
}  # fmt: skip
NAN = {"e4m3": 0x7F, "e5m2": 0x7F, "e2m3": 0x1F, "e3m2": 0x1F, "e2m1": 0x7}  # what a nan becomes


def bits_of(kind: str) -> int:
    return {"e2m1": 4, "e2m3": 6, "e3m2": 6}.get(kind, 8)


def codes_of(values: Array, kind: str) -> Array:
    """Numbers as codes by ml_dtypes, the greatest where too great."""
    greatest = float(ml_dtypes.finfo(NARROW[kind]).max)
    with np.errstate(invalid="ignore"):
        codes = np.clip(values, -greatest, greatest).astype(NARROW[kind]).view(np.uint8)
    return np.where(np.isnan(values), NAN[kind], codes).astype(np.uint8)


def known(kind: str) -> Array:
    """The number of each code."""
    return np.arange(1 << bits_of(kind), dtype=np.uint8).view(NARROW[kind]).astype(np.float32)


def joined(low: Array, high: Array, kind: str) -> Array:
    """Two codes as cvt has them: 4 bits each, or 8 of which the upper may be 0."""
    return low.astype(np.uint16) | high.astype(np.uint16) << (4 if kind == "e2m1" else 8)


# A register of 8 bits is moved as NVRTC does it: with another one beside it.
NARROW_IN = ".reg .b8 %b1, %b2; mov.b16 {{%b1, %b2}}, {0};"


def widened(kind: str, code: Array, relu: str = "") -> Array:
    if kind != "e2m1":
        return apply(f"cvt.rn{relu}.f16x2.{kind}x2 {{out}}, {{0}};", [code], np.uint32)
    body = "{{ " + NARROW_IN + f" cvt.rn{relu}.f16x2.e2m1x2 {{out}}, %b1; }}}}"
    return apply(body, [code], np.uint32)


@pytest.mark.parametrize("kind", NARROW)
def test_every_code_of_a_narrow_float(kind: str):
    count = 1 << bits_of(kind)
    code = np.arange(count, dtype=np.uint16)
    got = widened(kind, joined(code, code[::-1], kind)).view(np.float16).reshape(-1, 2)
    numbers = known(kind).astype(np.float16)
    check_floats(np.ascontiguousarray(got[:, 0]), numbers.astype(float).tolist(), "f16", kind)
    check_floats(np.ascontiguousarray(got[:, 1]), numbers[::-1].astype(float).tolist(), "f16", kind)
    got = widened(kind, joined(code, code, kind), ".relu").view(np.float16)[::2]
    wanted = np.where(numbers <= 0, 0, numbers)
    check_floats(np.ascontiguousarray(got), wanted.astype(float).tolist(), "f16", kind)


def narrowed(kind: str, source: str, operands: list[Array], relu: str = "") -> Array:
    places = ", ".join(f"{{{n}}}" for n in range(len(operands)))
    name = f"cvt.rn.satfinite{relu}.{kind}x2.{source}"
    if kind != "e2m1":
        return apply(f"{name} {{out}}, {places};", operands, np.uint16)
    body = f"{{{{ .reg .b8 %b1; {name} %b1, {places}; mov.b16 {{out}}, {{{{%b1, 0}}}}; }}}}"
    return apply(body, operands, np.uint16)


@pytest.mark.parametrize("kind", NARROW)
def test_narrowing_rounds_ties_to_even_codes(kind: str):
    finite = np.sort(known(kind)[np.isfinite(known(kind))])
    middle = (finite[1:] + finite[:-1]) / 2
    a = np.concatenate([finite, middle, np.nextafter(middle, 9), rng().normal(0, 5, 40)])
    a = np.append(a, [1e9, -1e9, np.inf, -np.inf, np.nan, -0.0]).astype(np.float32)
    b = np.roll(a, 3)
    got = narrowed(kind, "f32", [a, b])
    np.testing.assert_array_equal(got, joined(codes_of(b, kind), codes_of(a, kind), kind))
    got = narrowed(kind, "f32", [a, b], ".relu")
    x, y = (np.where(v < 0, 0, v) for v in (a, b))
    np.testing.assert_array_equal(got, joined(codes_of(y, kind), codes_of(x, kind), kind))


@pytest.mark.parametrize("kind", NARROW)
@pytest.mark.parametrize("source", ["f16", "bf16"])
def test_narrowing_every_half(kind: str, source: str):
    dtype: Any = np.float16 if source == "f16" else ml_dtypes.bfloat16
    halves = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):
        codes = codes_of(halves.view(dtype).astype(np.float32), kind)
    words, pairs_of_codes = halves.view(np.uint32), joined(codes[::2], codes[1::2], kind)
    for start in range(0, len(words), 1024):
        got = narrowed(kind, f"{source}x2", [words[start : start + 1024]])
        np.testing.assert_array_equal(got, pairs_of_codes[start : start + 1024])


def test_every_scale_is_a_power_of_two():
    code = np.arange(256, dtype=np.uint16)
    got = apply("cvt.rn.bf16x2.ue8m0x2 {out}, {0};", [code | code[::-1] << 8], np.uint32)
    low, high = got.view(np.uint16).reshape(-1, 2).T
    wanted = [2.0 ** (n - 127) if n < 255 else math.nan for n in range(256)]
    check_floats(np.ascontiguousarray(low), wanted, "bf16", "ue8m0")
    check_floats(np.ascontiguousarray(high), wanted[::-1], "bf16", "ue8m0")


@pytest.mark.parametrize("mode", ["rz", "rp"])
@pytest.mark.parametrize("satfinite", ["", ".satfinite"])
def test_scales_of_numbers(mode: str, satfinite: str):
    values = [0.0, 1e-40, 2.0**-127, 2.0**-126, 0.9, 1.0, 1.1, -3.0, 2.0**127, 3e38, math.inf]
    a = np.array([*values, math.nan], np.float32)

    def code(value: float) -> int:
        if math.isnan(value):
            return 255
        size = abs(value)
        fits = [n for n in range(255) if 2.0 ** (n - 127) >= size]
        below = [n for n in range(255) if 2.0 ** (n - 127) <= size]
        top = 254 if satfinite else 255
        if mode == "rp":
            return fits[0] if fits else top
        return top if math.isinf(size) else (below[-1] if below else 0)

    body = f"cvt.{mode}{satfinite}.ue8m0x2.f32 {{out}}, {{0}}, 0f3F800000;"
    got = apply(body, [a], np.uint16)
    assert (got >> 8).tolist() == [code(v) for v in a.astype(float).tolist()]
    assert (got & 255).tolist() == [127] * len(a)


@pytest.mark.parametrize("mode", ["rna", "rn", "rz"])
def test_tf32(mode: str):
    a = np.concatenate([float_edges("f32")[:-1], rng().normal(size=64).astype(np.float32)])
    tie = np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11, -(1 + 2.0**-11)], np.float32)
    a = np.concatenate([a, tie])
    got = apply(f"cvt.{mode}.tf32.f32 {{out}}, {{0}};", [a], np.uint32)
    functions: dict[str, Callable[[float], int]] = {
        "rna": lambda x: math.floor(x + 0.5), "rn": round, "rz": math.floor,
    }  # fmt: skip
    for value, bits in zip(a.tolist(), got.tolist(), strict=True):
        result = float(np.array(bits, np.uint32).view(np.float32))
        assert bits & 0x1FFF == 0
        if value == 0 or math.isinf(value):
            assert result == value
            continue
        unit = 2.0 ** (max(math.frexp(value)[1], -125) - 11)
        wanted = math.copysign(functions[mode](abs(value) / unit) * unit, value)
        assert result == (wanted if abs(wanted) < 2.0**128 else math.copysign(math.inf, value))


def test_flushing_concerns_float32_only():
    a = np.array([2.0**-20, 1e-40], np.float32)
    got = apply("cvt.rn.ftz.f16.f32 {out}, {0};", [a], np.uint16)
    check_floats(got, [2.0**-20, 0.0], "f16", "ftz")  # subnormal as f16, and as f32
    half = np.array([2.0**-20], np.float16).view(np.uint16)
    check_floats(apply("cvt.ftz.f32.f16 {out}, {0};", [half], np.float32), [2.0**-20], "f32", "ftz")


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_finite_saturation(kind: str):
    greatest = {"f16": 65504.0, "bf16": float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)}[kind]
    a = np.array([math.inf, -math.inf, 3.4e38, 1.0, math.nan], np.float32)
    got = apply(f"cvt.rn.satfinite.{kind}.f32 {{out}}, {{0}};", [a], np.uint16)
    check_floats(got, [greatest, -greatest, greatest, 1.0, math.nan], kind, "satfinite")


@pytest.mark.parametrize(
    ("kind", "third"), [("u16", 0), ("s16", 0), ("u8", 1), ("s8", 1), ("s4", 1)]
)
def test_packing(kind: str, third: int):
    bits = int(kind[1:])
    a, b = pairs(edges("s32"))
    c = np.resize(edges("u32"), len(a))
    low, high = (0, 2**bits - 1) if kind[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    wanted: list[int] = []
    for x, y, z in zip(a.tolist(), b.tolist(), c.tolist(), strict=True):
        parts = [min(max(v, low), high) & 2**bits - 1 for v in (x, y)]
        rest = z << 2 * bits if third else 0
        wanted.append((rest | parts[0] << bits | parts[1]) & 0xFFFFFFFF)
    body = f"cvt.pack.sat.{kind}.s32{'.b32' * third} {{out}}, {{0}}, {{1}}{', {2}' * third};"
    assert apply(body, [a, b, c], np.uint32).tolist() == wanted


@pytest.mark.parametrize(
    "body",
    [
        "cvt.rs.f16x2.f32 {out}, {0}, {0}, {0};",
        "cvt.rn.satfinite.e4m3x2.s32 {out}, {0}, {0};",
        "cvt.rn.f16x2.f16x2 {out}, {0};",
    ],
)
def test_other_conversions_name_themselves(body: str):
    with pytest.raises(TilusError, match="of cvt is not emulated"):
        apply(body, [np.ones(1, np.float32)], np.uint32)
