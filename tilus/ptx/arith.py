"""Arithmetic of one type, float or integer, single or packed in pairs; its modifiers.

    fma.rn.relu.bf16x2  d, a, b, c;      two numbers a register, each rounded once

Approximate instructions (.approx, .full) give the exact value rounded to their type: the manual
bounds their error and the hardware's own bits are not documented. Source: PTX ISA, "Floating Point
Instructions", "Half Precision Floating Point Instructions", "Integer Arithmetic Instructions".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from tilus.ptx.floats import (
    DIRECTED,
    FLOATS,
    bf16_bits,
    canonical,
    finished,
    float64_operation,
    float64_root,
    flushed,
    numbers,
    rounded,
    rounding_of,
    signed_sum,
)
from tilus.ptx.machine import STORED, TYPES, Machine, opcode
from tilus.ptx.memory import Array
from tilus.ptx.syntax import Immediate, Instruction, Negated, Operand


def kind_of(op: Instruction) -> str:
    """The type an instruction works on: its last modifier."""
    kind = op.modifiers[-1] if op.modifiers else "type"
    if kind.removesuffix("x2") not in TYPES:
        raise op.refusal(f"the type {kind}")
    return kind


def predicate(m: Machine, operand: Operand) -> Array:
    """A predicate operand, which may be written with a `!` or as a number."""
    if isinstance(operand, Negated):
        return ~m.read(operand.register, "pred")
    if isinstance(operand, Immediate):
        return np.full(m.lanes.shape, operand.value != 0)
    return m.read(operand, "pred")


# ---- pairs in one register ----------------------------------------------------------------------


def word_of(kind: str) -> str:
    """The type of the register that holds a pair."""
    return f"b{16 * np.dtype(TYPES[kind[:-2]]).itemsize}"


def half(words: Array, number: int, kind: str) -> Array:
    """Half `number` of packed words as `Machine.read` would give it."""
    bits = 4 * words.dtype.itemsize
    part = words >> np.asarray(bits * number, words.dtype)
    return part.astype(STORED[bits // 8]).view(TYPES[kind[:-2]])


def word(low: Array, high: Array) -> Array:
    """Two values in one word."""
    bits, wide = 8 * low.dtype.itemsize, STORED[2 * low.dtype.itemsize]
    parts = [v.view(STORED[bits // 8]).astype(wide) for v in (low, high)]
    return parts[0] | parts[1] << np.asarray(bits, wide)


# ---- binary and unary operations ----------------------------------------------------------------


def minimum(a: Array, b: Array) -> Array:
    """The smaller one; a number wins over nan, and -0 is smaller than +0."""
    smaller = np.fmin(a, b)
    return np.where((a == b) & np.signbit(a), a, np.where(a == b, b, smaller))


def maximum(a: Array, b: Array) -> Array:
    return -minimum(-a, -b)


def divided(a: Array, b: Array) -> Array:
    """The quotient of integers, cut towards 0; all ones for a divisor of 0."""
    divisor = np.where(b == 0, b.dtype.type(1), b)
    floor = np.floor_divide(a, divisor)
    cut = (a - floor * divisor != 0) & ((a < 0) != (divisor < 0))
    return np.where(b == 0, ~a.dtype.type(0), floor + cut.astype(a.dtype))


INTEGER: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": divided,
    "rem": np.fmod,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "neg": np.negative,
    "abs": np.abs,
    "not": np.bitwise_not,
    "cnot": lambda a: a == 0,
}
LOGIC: dict[str, Callable[..., Any]] = {
    "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor,
}  # fmt: skip
SUMS = {"add": np.add, "sub": np.subtract, "mul": np.multiply}
# In float64, rounded once more: correctly for div, rcp and sqrt, as a quotient or root of 24-bit
# numbers that is not itself such a number or a tie differs from every one by 2^-49 of it.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "div": np.divide,
    "rcp": lambda a: np.divide(1.0, a),
    "sqrt": np.sqrt,
    "rsqrt": lambda a: np.divide(1.0, np.sqrt(a)),
    "ex2": np.exp2,
    "lg2": np.log2,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}
GROSS_NAN = np.uint64(0x7FFFFFFF00000000)
SIGN_ONLY = ("neg", "abs", "copysign")


def compute(m: Machine, op: Instruction) -> None:
    """The result of an operation whose operands are all of one type."""
    kind = kind_of(op)
    if len(op.modifiers) > 1 and op.modifiers[-2] in TYPES:
        raise op.refusal("mixed precision")
    if not kind.endswith("x2"):
        values = [np.asarray(m.read(o, kind)) for o in op.operands[1:]]
        m.write(op.operands[0], _result(op, kind, values))
        return
    words = [np.broadcast_to(m.read(o, word_of(kind)), m.lanes.shape) for o in op.operands[1:]]
    low, high = (_result(op, kind[:-2], [half(w, n, kind) for w in words]) for n in (0, 1))
    m.write(op.operands[0], word(low, high))


def _result(op: Instruction, kind: str, values: list[Array]) -> Array:
    return (_float if kind in FLOATS else _integer)(op, kind, values)


def _integer(op: Instruction, kind: str, values: list[Array]) -> Array:
    function, dtype = INTEGER.get(op.opcode), TYPES[kind]
    if function is None:
        raise op.refusal(f"the type {kind}")
    with np.errstate(all="ignore"):
        if op.has("sat"):
            info = np.iinfo(dtype)
            wide = function(*(v.astype(np.int64) for v in values))
            return np.clip(wide, info.min, info.max).astype(dtype)
        result = np.asarray(reduce(function, values) if len(values) > 1 else function(*values))
    if op.has("relu"):
        result = np.maximum(result, 0)
    return result.astype(dtype)


def _float(op: Instruction, kind: str, stored: list[Array]) -> Array:
    """The result of a float operation, as it is stored (bits for bf16)."""
    if op.opcode in SIGN_ONLY:
        return _signed(op, kind, stored)
    values = [numbers(v, kind) for v in stored]
    if kind == "f64" and op.has("ftz"):
        return _gross(op, values[0])
    if op.has("ftz"):
        values = [flushed(v) for v in values]
    with np.errstate(all="ignore"):
        result = canonical(np.asarray(_float_result(op, kind, values)), kind)
        return finished(op, kind, result, flush=op.has("ftz"))


def _signed(op: Instruction, kind: str, stored: list[Array]) -> Array:
    """neg, abs and copysign change one bit, also of a nan."""
    size = stored[0].dtype.itemsize
    first, *others = (v.view(STORED[size]) for v in stored)
    sign = np.asarray(1 << 8 * size - 1, STORED[size])
    if op.opcode == "neg":
        bits = first ^ sign
    elif op.opcode == "abs":
        bits = first & ~sign
    else:
        bits = first & sign | others[0] & ~sign
    result = bits.view(TYPES[kind])
    if op.has("ftz"):
        result = flushed(numbers(result, kind))
    return bf16_bits(result) if kind == "bf16" and op.has("ftz") else result


def _float_result(op: Instruction, kind: str, values: list[Array]) -> Array:
    """The numbers computed and rounded, as stored; nan is not yet the canonical one."""
    name, rounding = op.opcode, rounding_of(op)
    if name in ("min", "max"):
        result = _extreme(op, values)
        return bf16_bits(result) if kind == "bf16" else result
    if kind == "f64":
        return _float64(op, values, rounding)
    # One rounding of float32 stays right when it is rounded again to half: 24 >= 2 * 11 + 2.
    if name in SUMS and rounding == "rn" and kind != "bf16":
        return SUMS[name](*values)
    wide = [v.astype(np.float64) for v in values]
    if name in ("add", "sub", "fma", "mad"):
        if name in ("fma", "mad"):
            left, right = wide[0] * wide[1], wide[2]
        else:
            left, right = wide[0], -wide[1] if name == "sub" else wide[1]
        return rounded(signed_sum(left, right, rounding), kind, rounding)
    if name == "mul":
        return rounded(np.asarray(wide[0] * wide[1]), kind, rounding)
    if name not in FUNCTIONS:
        raise op.refusal(f"the type {kind}")
    result = rounded(np.asarray(FUNCTIONS[name](*wide)), kind, rounding)
    return _approximate_quotient(result, *wide) if name == "div" and op.has("approx") else result


def _approximate_quotient(result: Array, a: Array, b: Array) -> Array:
    """div.approx with a divisor above 2^126 gives 0, or nan. Source: PTX ISA, "div"."""
    great = (np.abs(b) > 2.0**126) & np.isfinite(b)
    zero = np.where(np.isinf(a), np.nan, np.copysign(0.0, a * np.sign(b))).astype(np.float32)
    return np.where(great, np.where(np.isnan(a), result, zero), result)


def _float64(op: Instruction, values: list[Array], rounding: str) -> Array:
    name = "fma" if op.opcode == "mad" else op.opcode
    if name == "rcp":
        name, values = "div", [np.ones_like(values[0]), *values]
    if name == "sqrt":
        return float64_root(values[0], rounding)
    if name == "fma" or (rounding in DIRECTED and name in (*SUMS, "div")):
        return float64_operation(name, values, rounding)
    if name not in SUMS and name not in ("div", "rsqrt"):
        raise op.refusal("the type f64")
    return np.asarray((SUMS | FUNCTIONS)[name](*values))


def _gross(op: Instruction, value: Array) -> Array:
    """rcp and rsqrt of the upper 32 bits of numbers; the lower ones of the result are 0.

    rsqrt.approx.f64, without .ftz, is a subroutine of full precision. Source: PTX ISA,
    "rcp.approx.ftz.f64" and "rsqrt.approx.ftz.f64"; "rsqrt".
    """
    if op.opcode not in ("rcp", "rsqrt"):
        raise op.refusal("the type f64 with .ftz")
    upper = np.uint64(0xFFFFFFFF00000000)
    flat = flushed((value.view(np.uint64) & upper).view(np.float64))
    with np.errstate(all="ignore"):
        result = flushed(np.asarray(FUNCTIONS[op.opcode](flat)))
    unordered = np.isnan(value) | np.isnan(result)
    bits = np.where(unordered, GROSS_NAN, result.view(np.uint64) & upper)
    return bits.view(np.float64)


def _extreme(op: Instruction, values: list[Array]) -> Array:
    """min and max of two or three numbers. Source: PTX ISA, "min" and "max"."""
    function = minimum if op.opcode == "min" else maximum
    magnitudes = [np.abs(v) for v in values] if op.has("abs") else values
    result = reduce(function, magnitudes)
    if op.has("NaN"):
        result = np.where(reduce(np.logical_or, [np.isnan(v) for v in values]), np.nan, result)
        result = result.astype(values[0].dtype)
    if op.has("xorsign"):
        negative = np.logical_xor.reduce(np.broadcast_arrays(*(np.signbit(v) for v in values)))
        result = np.where(negative, -result, result)
    return result


@opcode("and", "or", "xor", "not", "cnot")
def _logic(m: Machine, op: Instruction) -> None:
    if kind_of(op) != "pred":
        compute(m, op)
        return
    values = [predicate(m, o) for o in op.operands[1:]]
    m.write(op.operands[0], ~values[0] if op.opcode == "not" else LOGIC[op.opcode](*values))


@opcode("min", "max", "div", "rem", "neg", "abs", "copysign", "fma", "sqrt", "rcp", "rsqrt")
def _same_type(m: Machine, op: Instruction) -> None:
    compute(m, op)


@opcode("ex2", "lg2", "sin", "cos", "tanh")
def _transcendental(m: Machine, op: Instruction) -> None:
    compute(m, op)
