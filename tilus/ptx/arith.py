"""Arithmetic, logic, comparison and conversion. Source: PTX ISA, chapter "Instructions"."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from tilus.errors import TilusError
from tilus.ptx.machine import STORED, TYPES, Machine, opcode
from tilus.ptx.parse import Instruction, Negated, Operand, Pair, Register

Array = np.ndarray[Any, Any]


def kind_of(instruction: Instruction) -> str:
    """The type an instruction works on: its last modifier."""
    return instruction.modifiers[-1]


def _quietly(function: Callable[..., Any], *values: Any) -> Any:
    with np.errstate(all="ignore"):
        return function(*values)


def rounding_of(op: Instruction) -> str:
    """The rounding mode of a result: "rn", "rz", "rm", "rp" or "rna"."""
    return next((r for r in ("rz", "rm", "rp", "rna") if op.has(r)), "rn")


def predicate(m: Machine, operand: Operand) -> Array:
    """A predicate operand, which may be written with a `!`."""
    if isinstance(operand, Negated):
        return ~m.read(operand.register, "pred")
    return m.read(operand, "pred")


# ---- numbers of every float type ----------------------------------------------------------------

FLOATS = ("f16", "bf16", "f32", "f64")
CANONICAL_NAN = {"f16": 0x7FFF, "bf16": 0x7FFF, "f32": 0x7FFFFFFF, "f64": 0x7FF8000000000000}


def _flushed(value: Array) -> Array:
    """Subnormal numbers as zeros of their sign (.ftz)."""
    tiny = np.finfo(value.dtype).tiny
    return np.where(np.abs(value) < tiny, np.copysign(value.dtype.type(0), value), value)


def bf16_values(bits: Array) -> Array:
    """bfloat16 bits as float32 numbers."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def bf16_bits(values: Array) -> Array:
    """float32 numbers rounded to bfloat16 bits, ties to even; every nan is 0x7FFF."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(values), 0x7FFF, rounded).astype(np.uint16)


def float8_table(kind: str) -> Array:
    """The numbers of the 256 codes. Source: PTX ISA, "Alternate Floating-Point Data Formats"."""
    mantissa, bias = (3, 7) if kind == "e4m3" else (2, 15)
    code = np.arange(256)
    exponent, fraction = (code & 127) >> mantissa, (code & ((1 << mantissa) - 1)) / (1 << mantissa)
    normal = (1 + fraction) * 2.0 ** (exponent - bias)
    value = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), normal)
    if kind == "e4m3":
        value = np.where((code & 127) == 127, np.nan, value)
    else:
        value = np.where((code & 127) == 124, np.inf, np.where((code & 127) > 124, np.nan, value))
    return np.where(code & 128, -value, value).astype(np.float32)


def _float8_bits(values: Array, kind: str) -> Array:
    """Numbers rounded to float8 codes (.rn.satfinite): the greatest where too great, nan 0x7F."""
    table = float8_table(kind).astype(np.float64)[:127]
    finite = table[np.isfinite(table)]
    magnitude = np.minimum(np.abs(values.astype(np.float64)), finite[-1])
    above = np.clip(np.searchsorted(finite, magnitude), 1, len(finite) - 1)
    low, high = magnitude - finite[above - 1], finite[above] - magnitude
    # The even code wins a tie; the codes below and above differ in their last bit.
    up = (high < low) | ((high == low) & (above % 2 == 0))
    code = np.where(up, above, above - 1) | np.where(np.signbit(values), 128, 0)
    return np.where(np.isnan(values), 0x7F, code).astype(np.uint8)


def numbers(bits: Array, kind: str) -> Array:
    """What `Machine.read` gave as numbers: bfloat16 bits become float32."""
    return bf16_values(np.asarray(bits)) if kind == "bf16" else np.asarray(bits)


def _canonical(values: Array, kind: str) -> Array:
    """`values` (as stored: bits for bf16) with every nan the one that the hardware makes."""
    if kind == "bf16":
        return values
    nan = np.asarray(CANONICAL_NAN[kind], STORED[values.dtype.itemsize]).view(values.dtype)
    return np.where(np.isnan(values), nan, values)


def _directed(exact: Array, target: Any, rounding: str) -> Array:
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
    truncated = np.asarray(_directed(exact, np.float32, "rz"))
    bits = truncated.view(np.uint32)
    # A set last bit stands for everything that was cut off, so that no second rounding happens.
    bits = bits | (truncated.astype(np.float64) != exact).astype(np.uint32)
    if rounding == "rn":
        return np.where(np.isnan(exact), np.uint16(0x7FFF), bf16_bits(bits.view(np.float32)))
    high, rest = bits >> np.uint32(16), (bits & np.uint32(0xFFFF)) != 0
    away = np.signbit(exact) if rounding == "rm" else ~np.signbit(exact)
    high = high + (rest & away & (rounding != "rz"))
    return np.where(np.isnan(exact), 0x7FFF, high).astype(np.uint16)


def _rounded(exact: Array, kind: str, rounding: str) -> Array:
    """float64 numbers rounded once to `kind`, as `Machine.write` takes them."""
    with np.errstate(all="ignore"):
        if kind == "bf16":
            return _to_bf16(exact, rounding)
        return _canonical(np.asarray(_directed(exact, TYPES[kind], rounding)), kind)


def _odd_sum(a: Array, b: Array) -> Array:
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


def _sum(a: Array, b: Array, rounding: str) -> Array:
    total = _odd_sum(a, b)
    if rounding == "rm":  # numbers that cancel give -0
        return np.where((total == 0) & (np.signbit(a) != np.signbit(b)), -0.0, total)
    return total


def _fused_f64(a: Array, b: Array, c: Array) -> Array:
    """a b + c of float64 numbers, rounded once, by exact fractions."""
    a, b, c = np.broadcast_arrays(a, b, c)
    plain = np.asarray(a * b + c)
    for index in np.ndindex(plain.shape):
        x, y, z = float(a[index]), float(b[index]), float(c[index])
        if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
            continue
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        if exact:  # else float arithmetic gives the sign of the zero
            try:
                plain[index] = float(exact)
            except OverflowError:
                plain[index] = math.inf if exact > 0 else -math.inf
    return plain


# ---- binary and unary operations ----------------------------------------------------------------


def _minimum(a: Array, b: Array) -> Array:
    """The smaller one; a number wins over nan, and -0 is smaller than +0."""
    smaller = np.fmin(a, b)
    return np.where((a == b) & np.signbit(a), a, np.where(a == b, b, smaller))


def _maximum(a: Array, b: Array) -> Array:
    return -_minimum(-a, -b)


def _nan_first(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """min.NaN and max.NaN: nan wins over a number."""
    return lambda a, b: np.where(np.isnan(a) | np.isnan(b), a + b, function(a, b))


BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": lambda a, b: _divide(a, b),
    "rem": np.fmod,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "copysign": lambda a, b: np.copysign(b, a),
}
UNARY: dict[str, Callable[[Any], Any]] = {
    "neg": np.negative,
    "abs": np.abs,
    "not": np.bitwise_not,
    "sqrt": np.sqrt,
    "rcp": lambda a: np.divide(a.dtype.type(1), a),
    "rsqrt": lambda a: (1.0 / np.sqrt(a.astype(np.float64))).astype(a.dtype),
    "ex2": lambda a: np.exp2(a.astype(np.float64)).astype(a.dtype),
    "lg2": lambda a: np.log2(a.astype(np.float64)).astype(a.dtype),
    "sin": lambda a: np.sin(a.astype(np.float64)).astype(a.dtype),
    "cos": lambda a: np.cos(a.astype(np.float64)).astype(a.dtype),
    "tanh": lambda a: np.tanh(a.astype(np.float64)).astype(a.dtype),
}
SIGN_ONLY = ("neg", "abs", "copysign")  # these keep the payload of a nan
DIRECTED = ("rz", "rm", "rp")


def _divide(a: Array, b: Array) -> Array:
    """The quotient; of integers cut towards 0, all ones for a divisor of 0."""
    if a.dtype.kind == "f":
        return np.divide(a, b)
    divisor = np.where(b == 0, b.dtype.type(1), b)
    floor = np.floor_divide(a, divisor)
    cut = (a - floor * divisor != 0) & ((a < 0) != (divisor < 0))
    return np.where(b == 0, ~a.dtype.type(0), floor + cut.astype(a.dtype))


def _compute(m: Machine, op: Instruction, count: int) -> None:
    """The result of an operation on `count` operands of one type."""
    kind = kind_of(op)
    values = [m.read(o, kind) for o in op.operands[1 : 1 + count]]
    if kind in ("f16x2", "bf16x2"):
        words = [np.broadcast_to(v, m.lanes.shape) for v in values]
        low = _float(op, kind[:-2], [_half(w, 0, kind) for w in words])
        high = _float(op, kind[:-2], [_half(w, 1, kind) for w in words])
        m.write(op.operands[0], _word(low, high))
    elif kind in FLOATS:
        m.write(op.operands[0], _float(op, kind, [np.asarray(v) for v in values]))
    else:
        m.write(op.operands[0], _integer(op, kind, [np.asarray(v) for v in values]))


def _half(words: Array, number: int, kind: str) -> Array:
    """Half `number` of packed words as `Machine.read` would give it."""
    return (words >> np.uint32(16 * number)).astype(np.uint16).view(TYPES[kind[:-2]])


def _word(low: Array, high: Array) -> Array:
    """Two 16-bit values in one word."""
    return low.view(np.uint16).astype(np.uint32) | high.view(np.uint16).astype(
        np.uint32
    ) << np.uint32(16)


def _integer(op: Instruction, kind: str, values: list[Array]) -> Array:
    function = UNARY[op.opcode] if len(values) == 1 else BINARY[op.opcode]
    if op.has("sat"):
        info = np.iinfo(TYPES[kind])
        wide = function(*(v.astype(np.int64) for v in values))
        return np.clip(wide, info.min, info.max).astype(TYPES[kind])
    return np.asarray(_quietly(function, *values)).astype(TYPES[kind])


def _float(op: Instruction, kind: str, stored: list[Array]) -> Array:
    """The result of a float operation, as it is stored (bits for bf16)."""
    values = [numbers(v, kind) for v in stored]
    if op.has("ftz"):
        values = [_flushed(v) for v in values]
    with np.errstate(all="ignore"):
        result = _float_result(op, kind, values)
    if op.opcode not in SIGN_ONLY:
        result = _canonical(result, kind)
    return _finished(op, kind, result)


def _finished(op: Instruction, kind: str, result: Array) -> Array:
    """What .ftz, .sat and .relu make of a result."""
    if not (op.has("ftz") or op.has("sat") or op.has("relu")):
        return result
    value = numbers(result, kind)
    if op.has("ftz"):
        value = _flushed(value)
    if op.has("sat"):
        value = np.where(value > 0, np.minimum(value, value.dtype.type(1)), value.dtype.type(0))
    if op.has("relu"):
        value = np.where(value < 0, value.dtype.type(0), value)
    value = value.astype(numbers(result, kind).dtype)
    return bf16_bits(value) if kind == "bf16" else _canonical(value, kind)


def _float_result(op: Instruction, kind: str, values: list[Array]) -> Array:
    name, rounding = op.opcode, rounding_of(op)
    if name in ("add", "sub", "mul", "fma", "mad") and kind != "f64":
        a, b, *rest = (v.astype(np.float64) for v in values)
        if name == "mul":
            exact = a * b
        elif name in ("fma", "mad"):
            exact = _sum(a * b, rest[0], rounding)
        else:
            exact = _sum(a, -b if name == "sub" else b, rounding)
        return _rounded(np.asarray(exact), kind, rounding)
    if rounding in DIRECTED:
        raise TilusError("this rounding is not emulated", found=op.name)
    if name in ("fma", "mad"):
        return _fused_f64(*values)
    result = np.asarray(_float_function(op, len(values))(*values)).astype(values[0].dtype)
    return bf16_bits(result) if kind == "bf16" else result


def _float_function(op: Instruction, count: int) -> Callable[..., Array]:
    if op.opcode in ("min", "max"):
        if op.has("abs"):
            raise TilusError("this form is not emulated", found=op.name)
        function = _minimum if op.opcode == "min" else _maximum
        return _nan_first(function) if op.has("NaN") else function
    return UNARY[op.opcode] if count == 1 else BINARY[op.opcode]


@opcode("add", "sub", "div", "rem", "and", "or", "xor", "copysign", "min", "max")
def _binary(m: Machine, op: Instruction) -> None:
    if kind_of(op) == "pred":
        a, b = (predicate(m, o) for o in op.operands[1:3])
        m.write(op.operands[0], BINARY[op.opcode](a, b))
        return
    _compute(m, op, 2)


@opcode("neg", "abs", "not", "sqrt", "rcp", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh")
def _unary(m: Machine, op: Instruction) -> None:
    if kind_of(op) == "pred":
        m.write(op.operands[0], ~predicate(m, op.operands[1]))
        return
    _compute(m, op, 1)


@opcode("fma")
def _fused(m: Machine, op: Instruction) -> None:
    _compute(m, op, 3)


@opcode("mul")
def _multiply(m: Machine, op: Instruction) -> None:
    kind = kind_of(op)
    if kind[0] not in "us":
        _compute(m, op, 2)
        return
    a, b = (np.asarray(m.read(o, kind)) for o in op.operands[1:3])
    if op.has("wide"):
        m.write(op.operands[0], _widened(a) * _widened(b))
    elif op.has("hi"):
        m.write(op.operands[0], _high(a, b))
    else:
        m.write(op.operands[0], np.asarray(_quietly(np.multiply, a, b)))


def _widened(value: Array) -> Array:
    return value.astype(f"{value.dtype.kind}{2 * value.dtype.itemsize}")


def _high(a: Array, b: Array) -> Array:
    bits = 8 * a.dtype.itemsize
    if bits == 64:
        product = np.atleast_1d(a.astype(object) * b.astype(object))
        words = [int(p) >> 64 & (2**64 - 1) for p in product]
        return np.asarray(words, np.uint64).view(a.dtype)
    return (_widened(a) * _widened(b) >> bits).astype(a.dtype)


@opcode("mad")
def _multiply_add(m: Machine, op: Instruction) -> None:
    kind = kind_of(op)
    if kind in FLOATS:  # fma by another name
        _compute(m, op, 3)
        return
    a, b = (np.asarray(m.read(o, kind)) for o in op.operands[1:3])
    if op.has("wide"):
        wide = f"{kind[0]}{2 * int(kind[1:])}"
        added = m.read(op.operands[3], wide)
        m.write(op.operands[0], _quietly(np.add, _widened(a) * _widened(b), added))
        return
    product = _high(a, b) if op.has("hi") else _quietly(np.multiply, a, b)
    added = m.read(op.operands[3], kind)
    if op.has("sat"):
        info = np.iinfo(TYPES[kind])
        total = np.clip(product.astype(np.int64) + added, info.min, info.max)
        m.write(op.operands[0], total.astype(TYPES[kind]))
        return
    m.write(op.operands[0], np.asarray(_quietly(np.add, product, added)).astype(TYPES[kind]))


# ---- bits ---------------------------------------------------------------------------------------


@opcode("shl", "shr")
def _shift(m: Machine, op: Instruction) -> None:
    kind = kind_of(op)
    value, amount = m.read(op.operands[1], kind), m.read(op.operands[2], "u32").astype(np.uint64)
    bits = 8 * np.dtype(TYPES[kind]).itemsize
    clamped = np.minimum(amount, bits - 1).astype(TYPES[kind])
    beyond = amount >= bits
    if op.opcode == "shl":
        result = np.where(beyond, 0, np.left_shift(value, clamped))
    else:
        fill = np.right_shift(value, np.asarray(bits - 1, value.dtype)) if kind[0] == "s" else 0
        result = np.where(beyond, fill, np.right_shift(value, clamped))
    m.write(op.operands[0], result.astype(TYPES[kind]))


@opcode("shf")
def _funnel(m: Machine, op: Instruction) -> None:
    low, high, amount = (m.read(o, "u32").astype(np.uint64) for o in op.operands[1:4])
    amount = amount & np.uint64(31) if op.has("wrap") else np.minimum(amount, np.uint64(32))
    both = low | high << np.uint64(32)
    result = both >> amount if op.has("r") else (both << amount) >> np.uint64(32)
    m.write(op.operands[0], result.astype(np.uint32))


@opcode("lop3")
def _lop3(m: Machine, op: Instruction) -> None:
    a, b, c = (m.read(o, "u32") for o in op.operands[1:4])
    table = int(m.read(op.operands[4], "u32"))
    result = np.zeros(np.broadcast_shapes(a.shape, b.shape, c.shape), np.uint32)
    for row in range(8):
        if table >> row & 1:
            result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
    m.write(op.operands[0], result)


@opcode("prmt")
def _prmt(m: Machine, op: Instruction) -> None:
    if kind_of(op) != "b32":
        raise TilusError("this form of prmt is not emulated", found=op.name)
    a, b, selector = (m.read(o, "u32").astype(np.uint64) for o in op.operands[1:4])
    both = a | b << np.uint64(32)
    result = np.zeros(np.broadcast_shapes(both.shape, selector.shape), np.uint64)
    for byte in range(4):
        nibble = selector >> np.uint64(4 * byte) & np.uint64(15)
        value = both >> (np.uint64(8) * (nibble & np.uint64(7))) & np.uint64(255)
        sign = np.where(value >> np.uint64(7) & np.uint64(1), np.uint64(255), np.uint64(0))
        result |= np.where(nibble & np.uint64(8), sign, value) << np.uint64(8 * byte)
    m.write(op.operands[0], result.astype(np.uint32))


@opcode("bfe")
def _bfe(m: Machine, op: Instruction) -> None:
    kind = kind_of(op)
    width = 8 * np.dtype(TYPES[kind]).itemsize
    value = m.read(op.operands[1], kind)
    start, length = (m.read(o, "u32").astype(np.int64) & 255 for o in op.operands[2:4])
    lanes = np.broadcast_shapes(value.shape, start.shape, length.shape)
    out = [
        _field(int(v), int(s), int(n), width, kind[0] == "s")
        for v, s, n in zip(
            *(np.broadcast_to(x, lanes).reshape(-1) for x in (value, start, length)), strict=True
        )
    ]
    m.write(op.operands[0], np.asarray(out, STORED[width // 8]).reshape(lanes))


def _field(value: int, start: int, length: int, width: int, signed: bool) -> int:
    mask = (1 << width) - 1
    top = min(start + length - 1, width - 1)
    sign_bit = (value & mask) >> top & 1 if signed and length else 0
    field = ((value & mask) >> min(start, width)) & ((1 << length) - 1) if start < width else 0
    kept = min(length, max(width - start, 0))
    if sign_bit:
        field |= mask & ~((1 << kept) - 1)
    return field & mask


@opcode("bfi")
def _bfi(m: Machine, op: Instruction) -> None:
    kind = kind_of(op)
    width = 8 * np.dtype(TYPES[kind]).itemsize
    source, base = m.read(op.operands[1], kind), m.read(op.operands[2], kind)
    start, length = (m.read(o, "u32").astype(np.uint64) & np.uint64(255) for o in op.operands[3:5])
    wide_source, wide_base = source.astype(np.uint64), base.astype(np.uint64)
    length = np.minimum(length, np.uint64(width) - np.minimum(start, np.uint64(width)))
    ones = (np.uint64(1) << np.minimum(length, np.uint64(63))) - np.uint64(1)
    ones = np.where(length >= 64, np.uint64(2**64 - 1), ones)
    place = np.minimum(start, np.uint64(63))
    mask = ones << place
    result = wide_base & ~mask | wide_source << place & mask
    m.write(op.operands[0], result.astype(TYPES[kind]))


@opcode("popc", "clz", "brev")
def _bit_count(m: Machine, op: Instruction) -> None:
    kind = kind_of(op)
    width = 8 * np.dtype(TYPES[kind]).itemsize
    value = np.broadcast_to(m.read(op.operands[1], kind), m.lanes.shape)
    bits = (value[:, None] >> np.arange(width, dtype=value.dtype)) & np.asarray(1, value.dtype)
    if op.opcode == "popc":
        result: Array = bits.sum(1)
    elif op.opcode == "clz":
        result = np.where(bits.any(1), np.argmax(bits[:, ::-1] != 0, 1), width)
    else:
        weights = np.uint64(1) << np.arange(width, dtype=np.uint64)[::-1]
        m.write(op.operands[0], (bits.astype(np.uint64) * weights).sum(1).astype(TYPES[kind]))
        return
    m.write(op.operands[0], result.astype(np.uint32))


# ---- comparison and selection -------------------------------------------------------------------

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater,
    "hs": np.greater_equal,
}  # fmt: skip
UNORDERED = {"equ": "eq", "neu": "ne", "ltu": "lt", "leu": "le", "gtu": "gt", "geu": "ge"}
COMBINE = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


@opcode("setp")
def _setp(m: Machine, op: Instruction) -> None:
    kind, name = kind_of(op), op.modifiers[0]
    a, b = (_comparable(m, o, op, kind) for o in op.operands[1:3])
    result = _compared(name, a, b)
    # A packed comparison gives one predicate for each half; any other a second, inverse one.
    results = (result[0], result[1]) if kind.endswith("x2") else (result, ~result)
    if len(op.operands) == 4:
        combine = next(f for n, f in COMBINE.items() if op.has(n))
        c = predicate(m, op.operands[3])
        results = combine(results[0], c), combine(results[1], c)
    target = op.operands[0]
    if isinstance(target, Pair):
        m.write(target.value, results[0])
        m.write(target.predicate, results[1])
    else:
        m.write(target, results[0])


def _comparable(m: Machine, operand: Operand, op: Instruction, kind: str) -> Array:
    """An operand as numbers; (2, lanes) of a packed one."""
    value = np.asarray(m.read(operand, kind))
    if kind.endswith("x2"):
        words = np.broadcast_to(value, m.lanes.shape)
        value = np.stack([numbers(_half(words, n, kind), kind[:-2]) for n in (0, 1)])
    else:
        value = numbers(value, kind)
    return _flushed(value) if op.has("ftz") else value


def _compared(name: str, a: Array, b: Array) -> Array:
    if name in ("nan", "num"):
        isnan = np.isnan(a) | np.isnan(b)
        return isnan if name == "nan" else ~isnan
    if name in UNORDERED:
        return np.asarray(COMPARE[UNORDERED[name]](a, b) | np.isnan(a) | np.isnan(b))
    result = COMPARE[name](a, b)
    if name == "ne" and np.asarray(a).dtype.kind == "f":
        result = result & ~(np.isnan(a) | np.isnan(b))
    return np.asarray(result)


@opcode("selp")
def _selp(m: Machine, op: Instruction) -> None:
    kind = kind_of(op)
    a, b = (m.read(o, kind) for o in op.operands[1:3])
    m.write(op.operands[0], np.where(predicate(m, op.operands[3]), a, b).astype(TYPES[kind]))


# ---- conversion ---------------------------------------------------------------------------------

WHOLE: dict[str, Callable[[Array], Array]] = {
    "rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil,
}  # fmt: skip
FLOAT8 = ("e4m3x2", "e5m2x2")


@opcode("cvt")
def _cvt(m: Machine, op: Instruction) -> None:
    target, source = op.modifiers[-2:]
    if target.endswith("x2"):
        m.write(op.operands[0], _converted_pair(m, op, target, source))
        return
    if source not in TYPES or (target not in TYPES and target != "tf32"):
        raise TilusError("this conversion is not emulated", found=op.name)
    value = numbers(m.read(op.operands[1], source), source)
    if op.has("ftz") and source == "f32":
        value = _flushed(value)
    with np.errstate(all="ignore"):
        result = _converted(op, value, source, target)
    m.write(op.operands[0], _extended(m, op.operands[0], result))


def _extended(m: Machine, target: Operand, value: Array) -> Array:
    """An integer as a wider register holds it: a signed one keeps its sign."""
    if not isinstance(target, Register) or value.dtype.kind not in "iu":
        return value
    size = max(value.dtype.itemsize, m.registers[target.name].dtype.itemsize)
    return value.astype(f"{value.dtype.kind}{size}")


def _converted_pair(m: Machine, op: Instruction, target: str, source: str) -> Array:
    """Two numbers in one register: the first operand in the high half."""
    if source in FLOAT8 and target == "f16x2":
        codes = np.broadcast_to(m.read(op.operands[1], "u16"), m.lanes.shape)
        table = float8_table(source[:4]).astype(np.float16)
        table = np.asarray(_finished(op, "f16", _canonical(table, "f16")))
        return _word(table[codes & 0xFF], table[codes >> 8])
    if source == "f16x2":
        words = np.broadcast_to(m.read(op.operands[1], "u32"), m.lanes.shape)
        pair = [_half(words, n, source) for n in (1, 0)]
    elif source == "f32":
        pair = [np.broadcast_to(m.read(o, "f32"), m.lanes.shape) for o in op.operands[1:3]]
    else:
        raise TilusError("this conversion is not emulated", found=op.name)
    if target in FLOAT8:
        if op.has("relu"):
            pair = [np.where(v < 0, v.dtype.type(0), v) for v in pair]
        high, low = (_float8_bits(v, target[:4]).astype(np.uint16) for v in pair)
        return high << np.uint16(8) | low
    if target not in ("f16x2", "bf16x2") or source != "f32":
        raise TilusError("this conversion is not emulated", found=op.name)
    high, low = (_narrowed(op, v, target[:-2]) for v in pair)
    return _word(low, high)


def _narrowed(op: Instruction, value: Array, target: str) -> Array:
    """Numbers rounded to a float type, with the modifiers that follow."""
    rounded = _rounded(value.astype(np.float64), target, rounding_of(op))
    if op.has("satfinite"):
        finite = np.uint16(0x7F7F if target == "bf16" else 0x7BFF)
        bits = rounded.view(np.uint16)
        infinite = np.isinf(numbers(rounded, target))
        bits = np.where(infinite, (bits & np.uint16(0x8000)) | finite, bits)
        rounded = bits.view(rounded.dtype)
    return _finished(op, target, rounded)


def _converted(op: Instruction, value: Array, source: str, target: str) -> Array:
    if target == "tf32":
        return _to_tf32(op, value)
    if target in FLOATS:
        if source in FLOATS:
            return _float_to_float(op, value, source, target)
        return _finished(op, target, _rounded(_odd_float(value), target, rounding_of(op)))
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
    return _odd_sum(high * 2.0**32, low)


def _float_to_float(op: Instruction, value: Array, source: str, target: str) -> Array:
    if target == source:
        value = _to_whole(op, value)
    return _narrowed(op, value, target)


def _to_tf32(op: Instruction, value: Array) -> Array:
    """float32 with 10 bits of mantissa, the rest 0."""
    bits = value.astype(np.float32).view(np.uint32)
    rounding = rounding_of(op)
    if rounding == "rna":
        bits = bits + np.uint32(0x1000)
    elif rounding == "rn":
        bits = bits + np.uint32(0xFFF) + (bits >> np.uint32(13) & np.uint32(1))
    result = np.where(np.isnan(value), CANONICAL_NAN["f32"], bits & np.uint32(0xFFFFE000))
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
