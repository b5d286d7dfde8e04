"""Conversion between types, with every rounding and saturation; the narrow floats.

    cvt.rn.satfinite.e4m3x2.f32   %h1, %f1, %f2;     two codes in 16 bits, the first one on top

Source: PTX ISA, "cvt", "cvt.pack" and "Alternate Floating-Point Data Formats".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from tilus.ptx.arith import half, word
from tilus.ptx.floats import (
    CANONICAL_NAN,
    FLOATS,
    finished,
    flushed,
    numbers,
    odd_sum,
    rounded,
    rounding_of,
)
from tilus.ptx.machine import STORED, TYPES, Machine, opcode
from tilus.ptx.memory import Array
from tilus.ptx.syntax import Instruction, Operand, Register

# ---- narrow floats ------------------------------------------------------------------------------


@dataclass(frozen=True)
class NarrowFloat:
    """A sign, `exponent` and `mantissa` bits; what its highest codes mean."""

    exponent: int
    mantissa: int
    bias: int
    special: str = ""  # "nan": the highest code alone; "inf": as IEEE 754 has it; "": nothing

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa


NARROW = {
    "e4m3": NarrowFloat(4, 3, 7, "nan"),
    "e5m2": NarrowFloat(5, 2, 15, "inf"),
    "e2m1": NarrowFloat(2, 1, 1),
    "e2m3": NarrowFloat(2, 3, 1),
    "e3m2": NarrowFloat(3, 2, 3),
}
SCALE = "ue8m0"  # powers of two from 2^-127 up, without a sign; 255 is nan


@cache
def narrow_table(kind: str) -> Array:
    """The number of each code of a narrow float, as float32."""
    if kind == SCALE:
        return np.append(2.0 ** (np.arange(255) - 127.0), np.nan).astype(np.float32)
    form = NARROW[kind]
    magnitude = np.arange(1 << form.bits - 1)
    exponent = magnitude >> form.mantissa
    fraction = (magnitude & ((1 << form.mantissa) - 1)) / (1 << form.mantissa)
    normal = (1 + fraction) * 2.0 ** (exponent - form.bias)
    value = np.where(exponent == 0, fraction * 2.0 ** (1 - form.bias), normal)
    if form.special == "nan":
        value[-1] = np.nan
    elif form.special == "inf":
        top = exponent == (1 << form.exponent) - 1
        value = np.where(top, np.where(fraction == 0, np.inf, np.nan), value)
    return np.concatenate([value, -value]).astype(np.float32)


def narrow_codes(values: Array, kind: str) -> Array:
    """Numbers as codes (.rn.satfinite): the greatest where too great.

    A nan is the nan whose bits are all ones, or of a format without one the greatest number.
    """
    form = NARROW[kind]
    table = narrow_table(kind).astype(np.float64)[: 1 << form.bits - 1]
    finite = table[np.isfinite(table)]
    magnitude = np.minimum(np.abs(values.astype(np.float64)), finite[-1])
    above = np.clip(np.searchsorted(finite, magnitude), 1, len(finite) - 1)
    low, high = magnitude - finite[above - 1], finite[above] - magnitude
    # The even code wins a tie; the codes below and above differ in their last bit.
    up = (high < low) | ((high == low) & (above % 2 == 0))
    code = np.where(up, above, above - 1) | np.where(np.signbit(values), len(table), 0)
    nan = len(table) - 1 if form.special else len(finite) - 1
    return np.where(np.isnan(values), nan, code).astype(np.uint8)


def scale_codes(values: Array, rounding: str, *, satfinite: bool) -> Array:
    """The exponents of magnitudes, rounded towards 0 ("rz") or up ("rp")."""
    magnitude = np.abs(values.astype(np.float64))
    side = "right" if rounding == "rz" else "left"
    powers = narrow_table(SCALE)[:255].astype(np.float64)
    code = np.searchsorted(powers, magnitude, side) - (rounding == "rz")
    beyond = (code > 254) | np.isinf(magnitude)
    code = np.where(beyond, 254 if satfinite else 255, np.maximum(code, 0))
    return np.where(np.isnan(magnitude), 255, code).astype(np.uint8)


# ---- cvt ----------------------------------------------------------------------------------------

WHOLE: dict[str, Callable[[Array], Array]] = {
    "rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil,
}  # fmt: skip


@opcode("cvt")
def _cvt(m: Machine, op: Instruction) -> None:
    if op.has("pack"):
        _pack(m, op)
        return
    target, source = op.modifiers[-2:]
    if op.has("rs") or op.has("scaled_n2_ue8m0") or target.endswith("x4"):
        raise op.refusal("this rounding")
    if target.endswith("x2"):
        with np.errstate(all="ignore"):
            m.write(op.operands[0], _converted_pair(m, op, target[:-2], source))
        return
    if source not in TYPES or (target not in TYPES and target != "tf32"):
        raise op.refusal("this conversion")
    value = numbers(m.read(op.operands[1], source), source)
    if op.has("ftz") and source == "f32":
        value = flushed(value)
    with np.errstate(all="ignore"):
        result = _converted(op, value, source, target)
    m.write(op.operands[0], extended(m, op.operands[0], result))


def extended(m: Machine, target: Operand, value: Array) -> Array:
    """An integer as a wider register holds it: a signed one keeps its sign."""
    if not isinstance(target, Register) or value.dtype.kind not in "iu":
        return value
    size = max(value.dtype.itemsize, m.registers[target.name].dtype.itemsize)
    return value.astype(f"{value.dtype.kind}{size}")


def _pack(m: Machine, op: Instruction) -> None:
    """Two saturated integers side by side, above them the low bits of a third operand."""
    kind, source = op.modifiers[2], op.modifiers[3]
    bits = int(kind[1:])
    low, high = (0, (1 << bits) - 1) if kind[0] == "u" else (-(1 << bits - 1), (1 << bits - 1) - 1)
    target, first, second, *rest = op.operands
    result: Array = np.zeros(m.lanes.shape, np.int64)
    for operand in rest:
        result = result | m.read(operand, "u32").astype(np.int64)
    for operand in (first, second):
        value = np.clip(m.read(operand, source).astype(np.int64), low, high)
        result = result << bits | value & ((1 << bits) - 1)
    m.write(target, result.astype(np.uint32))


# ---- pairs --------------------------------------------------------------------------------------


def _converted_pair(m: Machine, op: Instruction, target: str, source: str) -> Array:
    """Two numbers in one register: the first operand in the high half."""
    low, high = _pair(m, op, source)
    if target in NARROW:
        if op.has("relu"):
            low, high = (np.where(v < 0, v.dtype.type(0), v) for v in (low, high))
        codes = [narrow_codes(v, target) for v in (low, high)]
        return _coupled(codes[0], codes[1], 4 if NARROW[target].bits == 4 else 8)
    if target == SCALE:
        codes = [
            scale_codes(v, rounding_of(op), satfinite=op.has("satfinite")) for v in (low, high)
        ]
        return _coupled(codes[0], codes[1], 8)
    if target not in ("f16", "bf16") or source in ("f16x2", "bf16x2"):
        raise op.refusal("this conversion")
    return word(_narrowed(op, low, target), _narrowed(op, high, target))


def _pair(m: Machine, op: Instruction, source: str) -> tuple[Array, Array]:
    """The numbers of the low and the high half."""
    if source == "f32":
        high, low = (np.broadcast_to(m.read(o, "f32"), m.lanes.shape) for o in op.operands[1:3])
        return low, high
    kind = source.removesuffix("x2")
    if source in ("f16x2", "bf16x2"):
        words = np.broadcast_to(m.read(op.operands[1], "b32"), m.lanes.shape)
        return numbers(half(words, 0, source), kind), numbers(half(words, 1, source), kind)
    if kind == source or (kind not in NARROW and kind != SCALE):
        raise op.refusal("this conversion")
    bits = 4 if kind == "e2m1" else 8
    codes = np.broadcast_to(m.read(op.operands[1], f"b{2 * bits}"), m.lanes.shape)
    table = narrow_table(kind)
    mask = len(table) - 1  # codes of 6 bits stand in 8
    return table[codes & mask], table[codes.astype(np.int64) >> bits & mask]


def _coupled(low: Array, high: Array, bits: int) -> Array:
    if bits == 4:
        return (high << np.uint8(4) | low).astype(np.uint8)
    return high.astype(np.uint16) << np.uint16(8) | low


# ---- one number ---------------------------------------------------------------------------------


def _narrowed(op: Instruction, value: Array, target: str) -> Array:
    """Numbers rounded to a float type, with the modifiers that follow."""
    result = rounded(value.astype(np.float64), target, rounding_of(op))
    if op.has("satfinite"):
        result = _made_finite(result, target)
    # Source: PTX ISA, "cvt": .ftz concerns numbers of type f32 only.
    return finished(op, target, result, flush=op.has("ftz") and target == "f32")


def _made_finite(stored: Array, kind: str) -> Array:
    """Infinities of 16-bit floats as the greatest number."""
    finite = np.uint16(0x7F7F if kind == "bf16" else 0x7BFF)
    bits = stored.view(np.uint16)
    infinite = np.isinf(numbers(stored, kind))
    return np.where(infinite, (bits & np.uint16(0x8000)) | finite, bits).view(stored.dtype)


def _converted(op: Instruction, value: Array, source: str, target: str) -> Array:
    if target == "tf32":
        return _to_tf32(op, value)
    if target in FLOATS:
        if source not in FLOATS:
            value = _odd_float(value)
        elif target == source:
            value = _to_whole(op, value)
        return _narrowed(op, value, target)
    if source in FLOATS:
        return _to_integer(op, value, source, np.dtype(TYPES[target]))
    wanted = np.dtype(TYPES[target])
    if op.has("sat"):
        info, own = np.iinfo(wanted), np.iinfo(value.dtype)
        value = np.clip(value, max(info.min, own.min), min(info.max, own.max))
    return value.astype(wanted)


def _odd_float(value: Array) -> Array:
    """Integers as float64, rounded to odd where they have more than 53 bits."""
    if value.dtype.itemsize < 8:
        return value.astype(np.float64)
    low = (value & np.asarray(0xFFFFFFFF, value.dtype)).astype(np.float64)
    high = (value >> np.asarray(32, value.dtype)).astype(np.float64)
    return odd_sum(high * 2.0**32, low)


def _to_tf32(op: Instruction, value: Array) -> Array:
    """float32 with 10 bits of mantissa, the rest 0."""
    bits = value.astype(np.float32).view(np.uint32)
    rounding = rounding_of(op)
    if rounding == "rna":
        bits = bits + np.uint32(0x1000)
    elif rounding == "rn":
        bits = bits + np.uint32(0xFFF) + (bits >> np.uint32(13) & np.uint32(1))
    bits = bits & np.uint32(0xFFFFE000)
    if op.has("satfinite"):
        infinite = bits & np.uint32(0x7FFFFFFF) == np.uint32(0x7F800000)
        bits = np.where(infinite, bits - np.uint32(0x2000), bits)
    result = np.where(np.isnan(value), CANONICAL_NAN["f32"], bits)
    if op.has("relu"):
        result = np.where(value < 0, 0, result)
    return result.astype(np.uint32)


def _to_whole(op: Instruction, value: Array) -> Array:
    return next((f(value) for n, f in WHOLE.items() if op.has(n)), value)


def _to_integer(op: Instruction, value: Array, source: str, wanted: np.dtype[Any]) -> Array:
    """Float to integer: rounded as said, out of range to the nearest end.

    Nan is 0 between types of at most 32 bits, else only the highest bit is set.
    """
    info = np.iinfo(wanted)
    whole = _to_whole(op, value.astype(np.float64))
    low, high = float(info.min), float(info.max)
    result = np.where(np.isnan(whole), 0.0, np.clip(whole, low, high))
    top = result >= high
    exact = np.where(top, 0.0, result).astype(wanted)
    exact = np.where(top, np.asarray(info.max, wanted), exact)
    if source != "f64" and wanted.itemsize < 8:
        return exact
    bits = np.asarray(1 << (8 * wanted.itemsize - 1), STORED[wanted.itemsize])
    return np.where(np.isnan(whole), bits.view(wanted), exact)
