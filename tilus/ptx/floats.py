"""Floating-point numbers of every PTX type as NumPy arrays, and how they are rounded, once.

    rounded(exact, "bf16", "rz")     # float64 numbers to bfloat16 bits, cut off

A value "as stored" is what `Machine.read` gives: numbers, but the bits of bfloat16. Narrow types
are computed in float64, exactly or rounded to odd, so that they are rounded once, to their type.
Source: PTX ISA, "Floating Point Instructions" and "Rounding Modifiers".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from tilus.ptx.machine import STORED, TYPES
from tilus.ptx.memory import Array
from tilus.ptx.syntax import Instruction

FLOATS = ("f16", "bf16", "f32", "f64")
CANONICAL_NAN = {"f16": 0x7FFF, "bf16": 0x7FFF, "f32": 0x7FFFFFFF, "f64": 0x7FF8000000000000}
DIRECTED = ("rz", "rm", "rp")


def rounding_of(op: Instruction) -> str:
    """The rounding mode of a result: "rn", "rz", "rm", "rp" or "rna"."""
    return next((r for r in (*DIRECTED, "rna") if op.has(r)), "rn")


# ---- numbers and their bits ---------------------------------------------------------------------


def bf16_values(bits: Array) -> Array:
    """bfloat16 bits as float32 numbers."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def bf16_bits(values: Array) -> Array:
    """float32 numbers rounded to bfloat16 bits, ties to even; every nan is 0x7FFF."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    nearest = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(values), 0x7FFF, nearest).astype(np.uint16).reshape(np.shape(values))


def numbers(bits: Array, kind: str) -> Array:
    """What `Machine.read` gave as numbers: bfloat16 bits become float32."""
    return bf16_values(np.asarray(bits)) if kind == "bf16" else np.asarray(bits)


def flushed(value: Array) -> Array:
    """Subnormal numbers as zeros of their sign (.ftz)."""
    tiny = np.finfo(value.dtype).tiny
    return np.where(np.abs(value) < tiny, np.copysign(value.dtype.type(0), value), value)


def canonical(values: Array, kind: str) -> Array:
    """`values` as stored, with every nan the one that the hardware makes."""
    if kind == "bf16":
        return values
    nan = np.asarray(CANONICAL_NAN[kind], STORED[values.dtype.itemsize]).view(values.dtype)
    return np.where(np.isnan(values), nan, values)


def finished(op: Instruction, kind: str, result: Array, *, flush: bool) -> Array:
    """What .sat, .relu and, where it means the result, .ftz (`flush`) make of it, as stored."""
    if not (flush or op.has("sat") or op.has("relu")):
        return result
    value = numbers(result, kind)
    if flush:
        value = flushed(value)
    if op.has("sat"):
        value = np.where(value > 0, np.minimum(value, value.dtype.type(1)), value.dtype.type(0))
    if op.has("relu"):
        value = np.where(value <= 0, value.dtype.type(0), value)
    value = value.astype(numbers(result, kind).dtype)
    return bf16_bits(value) if kind == "bf16" else canonical(value, kind)


# ---- one rounding -------------------------------------------------------------------------------


def directed(exact: Array, target: Any, rounding: str) -> Array:
    """float64 numbers rounded once to the float type `target`."""
    nearest = exact.astype(target)
    back, infinity = nearest.astype(np.float64), nearest.dtype.type(np.inf)
    if rounding == "rm":
        return np.where(back > exact, np.nextafter(nearest, -infinity), nearest)
    if rounding == "rp":
        return np.where(back < exact, np.nextafter(nearest, infinity), nearest)
    if rounding == "rz":
        toward = np.nextafter(nearest, nearest.dtype.type(0))
        return np.where(np.abs(back) > np.abs(exact), toward, nearest)
    return nearest


def _to_bf16(exact: Array, rounding: str) -> Array:
    """float64 numbers rounded once to bfloat16 bits."""
    truncated = np.asarray(directed(exact, np.float32, "rz"))
    bits = truncated.view(np.uint32)
    # A set last bit stands for everything that was cut off, so that no second rounding happens.
    bits = bits | (truncated.astype(np.float64) != exact).astype(np.uint32)
    if rounding == "rn":
        return np.where(np.isnan(exact), np.uint16(0x7FFF), bf16_bits(bits.view(np.float32)))
    high, rest = bits >> np.uint32(16), (bits & np.uint32(0xFFFF)) != 0
    away = np.signbit(exact) if rounding == "rm" else ~np.signbit(exact)
    high = high + (rest & away & (rounding != "rz"))
    return np.where(np.isnan(exact), 0x7FFF, high).astype(np.uint16)


def rounded(exact: Array, kind: str, rounding: str) -> Array:
    """float64 numbers rounded once to `kind`, as stored."""
    with np.errstate(all="ignore"):
        if kind == "bf16":
            return _to_bf16(exact, rounding)
        return canonical(np.asarray(directed(exact, TYPES[kind], rounding)), kind)


def odd_sum(a: Array, b: Array) -> Array:
    """The sum in float64, rounded to odd: rounding it again to a narrow type rounds only once.

    Source: S. Boldo and G. Melquiond, "Emulation of FMA and correctly rounded sums: proved
    algorithms using rounding to odd" (2008). The error of the sum is Knuth's two-sum.
    """
    total = np.asarray(a + b, np.float64)
    part = total - a
    error = (a - (total - part)) + (b - part)
    bits = total.view(np.int64)
    inexact = (error != 0) & np.isfinite(total) & (bits & 1 == 0)
    step = np.where((error > 0) == (total > 0), 1, -1)
    return np.where(inexact, bits + step, bits).view(np.float64)


def signed_sum(a: Array, b: Array, rounding: str) -> Array:
    """`odd_sum` with the zero that the rounding mode gives."""
    total = odd_sum(a, b)
    if rounding == "rm":  # numbers that cancel give -0
        return np.where((total == 0) & (np.signbit(a) != np.signbit(b)), -0.0, total)
    return total


# ---- float64: by exact fractions, as nothing wider is there -------------------------------------


def rounded_fraction(exact: Fraction, rounding: str) -> float:
    """A fraction other than 0 rounded once to float64."""
    try:
        nearest = float(exact)  # to even: Python rounds a quotient of integers once
    except OverflowError:
        nearest = math.inf if exact > 0 else -math.inf
    if rounding == "rn" or (math.isfinite(nearest) and Fraction(nearest) == exact):
        return math.copysign(nearest, 1 if exact > 0 else -1)
    above = nearest == math.inf or (nearest != -math.inf and Fraction(nearest) > exact)
    down = rounding == "rm" or (rounding == "rz" and exact > 0)
    if above == down:
        nearest = math.nextafter(nearest, -math.inf if down else math.inf)
    return math.copysign(nearest, 1 if exact > 0 else -1)


EXACT: dict[str, Callable[..., Fraction]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "fma": lambda a, b, c: a * b + c,
}


def float64_operation(name: str, values: Sequence[Array], rounding: str) -> Array:
    """add, sub, mul, div or fma of float64 numbers, rounded once as `rounding` says."""
    arrays = [np.asarray(v) for v in np.broadcast_arrays(*values)]
    plain = np.array(_plain(name, arrays))  # infinities, nan, and the signs of zeros
    for index in np.ndindex(plain.shape):
        operands = [float(array[index]) for array in arrays]
        if not all(map(math.isfinite, operands)) or (name == "div" and operands[1] == 0):
            continue
        exact = EXACT[name](*map(Fraction, operands))
        if exact:
            plain[index] = rounded_fraction(exact, rounding)
        elif rounding == "rm" and _cancels(name, operands):
            plain[index] = -0.0
    return plain


def _plain(name: str, values: Sequence[Array]) -> Array:
    a, b = values[:2]
    with np.errstate(all="ignore"):
        if name == "fma":
            return a * b + values[2]
        operations = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
        return operations[name](a, b)


def _cancels(name: str, operands: Sequence[float]) -> bool:
    """Whether a sum is 0 for two terms of unlike sign, so that it is -0 when rounded down."""
    if name in ("mul", "div"):
        return False
    signs = [math.copysign(1, x) for x in operands]
    if name == "fma":
        return signs[0] * signs[1] != signs[2]
    return (signs[0] != signs[1]) == (name == "add")


def float64_root(a: Array, rounding: str) -> Array:
    """The square root of float64 numbers, rounded once."""
    with np.errstate(all="ignore"):
        root = np.array(np.sqrt(a))
    if rounding == "rn":
        return root
    for index in np.ndindex(root.shape):
        nearest, number = float(root[index]), float(a[index])
        if not math.isfinite(nearest) or nearest == 0:
            continue
        error = Fraction(nearest) ** 2 - Fraction(number)
        if error > 0 and rounding != "rp":
            root[index] = math.nextafter(nearest, 0)
        elif error < 0 and rounding == "rp":
            root[index] = math.nextafter(nearest, math.inf)
    return root
