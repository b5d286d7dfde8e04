"""Arithmetic, logic, comparison and conversion. Source: PTX ISA, chapter "Instructions"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilus.errors import TilusError
from tilus.ptx.machine import STORED, TYPES, Machine, opcode
from tilus.ptx.parse import Instruction, Pair

Array = np.ndarray[Any, Any]
ROUNDINGS = ("rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi")


def kind_of(instruction: Instruction) -> str:
    """The type an instruction works on: its last modifier."""
    return instruction.modifiers[-1]


def _quietly(function: Callable[..., Any], *values: Any) -> Any:
    with np.errstate(all="ignore"):
        return function(*values)


def _flushed(value: Array) -> Array:
    """Subnormal float32 numbers as zeros of their sign (.ftz)."""
    return np.where(
        np.abs(value) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), value), value
    )


def halves(words: Array) -> Array:
    """(lanes,) words -> (lanes, 2) float16."""
    return (
        np.ascontiguousarray(np.broadcast_to(words, words.shape))
        .view(np.uint32)
        .reshape(-1, 1)
        .view(np.float16)
    )


def joined(pairs: Array) -> Array:
    """(lanes, 2) float16 -> (lanes,) words."""
    return np.ascontiguousarray(pairs.astype(np.float16)).view(np.uint32).reshape(-1)


def bf16_values(bits: Array) -> Array:
    """bfloat16 bits as float32 numbers."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def bf16_bits(values: Array) -> Array:
    """float32 numbers rounded to bfloat16 bits, ties to even; every nan is 0x7FFF."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(values), 0x7FFF, rounded).astype(np.uint16)


# ---- binary and unary operations ----------------------------------------------------------------


BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": lambda a, b: _divide(a, b),
    "rem": lambda a, b: np.fmod(a, b),
    "min": np.fmin,
    "max": np.fmax,
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
    "rcp": lambda a: np.divide(np.float32(1), a),
    "rsqrt": lambda a: (1.0 / np.sqrt(np.asarray(a, np.float64))).astype(np.float32),
    "ex2": lambda a: np.exp2(np.asarray(a, np.float64)).astype(np.asarray(a).dtype),
    "lg2": lambda a: np.log2(np.asarray(a, np.float64)).astype(np.asarray(a).dtype),
    "sin": lambda a: np.sin(np.asarray(a, np.float64)).astype(np.float32),
    "cos": lambda a: np.cos(np.asarray(a, np.float64)).astype(np.float32),
    "tanh": lambda a: np.tanh(np.asarray(a, np.float64)).astype(np.asarray(a).dtype),
}


def _divide(a: Array, b: Array) -> Array:
    if np.asarray(a).dtype.kind == "f":
        return np.divide(a, b)
    wide = np.asarray(a).astype(np.int64 if np.asarray(a).dtype.kind == "i" else np.uint64)
    return np.trunc(wide / np.where(b == 0, 1, b)).astype(np.asarray(a).dtype)


def _on_packed(function: Callable[..., Any], kind: str, values: list[Array]) -> Array:
    """A function on both halves of f16x2 or bf16x2 words."""
    if kind == "f16x2":
        return joined(_quietly(function, *(halves(v) for v in values)))
    parts = [np.stack([bf16_values(v & 0xFFFF), bf16_values(v >> 16)]) for v in values]
    low, high = bf16_bits(_quietly(function, *parts))
    return low.astype(np.uint32) | high.astype(np.uint32) << np.uint32(16)


def _compute(m: Machine, op: Instruction, function: Callable[..., Any], count: int) -> None:
    kind = kind_of(op)
    values = [m.read(o, kind) for o in op.operands[1 : 1 + count]]
    if kind in ("f16x2", "bf16x2"):
        values = [np.broadcast_to(v, m.lanes.shape).astype(np.uint32) for v in values]
        m.write(op.operands[0], _on_packed(function, kind, values))
        return
    if kind == "bf16":
        result: Any = bf16_bits(_quietly(function, *(bf16_values(np.asarray(v)) for v in values)))
    else:
        result = np.asarray(_quietly(function, *values)).astype(TYPES[kind])
    if op.has("ftz") and kind == "f32":
        result = _flushed(result)
    if op.has("sat"):
        result = np.clip(np.nan_to_num(result, nan=0.0), 0, 1).astype(result.dtype)
    m.write(op.operands[0], result)


@opcode("add", "sub", "div", "rem", "and", "or", "xor", "copysign")
def _binary(m: Machine, op: Instruction) -> None:
    if op.has("rm") or op.has("rp") or op.has("rz"):
        raise TilusError("this rounding is not emulated", found=op.name)
    _compute(m, op, BINARY[op.opcode], 2)


@opcode("min", "max")
def _extreme(m: Machine, op: Instruction) -> None:
    # Without .NaN, a number wins over nan.
    if op.has("NaN"):
        function: Any = np.minimum if op.opcode == "min" else np.maximum
    else:
        function = BINARY[op.opcode]
    _compute(m, op, function, 2)


@opcode("neg", "abs", "not", "sqrt", "rcp", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh")
def _unary(m: Machine, op: Instruction) -> None:
    if kind_of(op) == "pred":
        m.write(op.operands[0], ~m.read(op.operands[1], "pred"))
        return
    _compute(m, op, UNARY[op.opcode], 1)


@opcode("mul")
def _multiply(m: Machine, op: Instruction) -> None:
    kind = kind_of(op)
    if TYPES[kind] is None or kind[0] not in "us":
        _compute(m, op, np.multiply, 2)
        return
    a, b = (m.read(o, kind) for o in op.operands[1:3])
    if op.has("wide"):
        m.write(op.operands[0], _widened(a) * _widened(b))
    elif op.has("hi"):
        m.write(op.operands[0], _high(a, b))
    else:
        m.write(op.operands[0], _quietly(np.multiply, a, b).astype(TYPES[kind]))


def _widened(value: Array) -> Array:
    array = np.asarray(value)
    return array.astype(f"{array.dtype.kind}{2 * array.dtype.itemsize}")


def _high(a: Array, b: Array) -> Array:
    bits = 8 * a.dtype.itemsize
    if bits == 64:
        product = a.astype(object) * b.astype(object)
        return np.asarray([int(p) >> 64 & (2**64 - 1) for p in np.atleast_1d(product)], np.uint64)
    return (_widened(a) * _widened(b) >> bits).astype(a.dtype)


@opcode("mad")
def _multiply_add(m: Machine, op: Instruction) -> None:
    kind = kind_of(op)
    a, b = (m.read(o, kind) for o in op.operands[1:3])
    if op.has("wide"):
        wide = f"{kind[0]}{2 * int(kind[1:])}"
        m.write(op.operands[0], _widened(a) * _widened(b) + m.read(op.operands[3], wide))
        return
    product = _high(a, b).view(a.dtype) if op.has("hi") else _quietly(np.multiply, a, b)
    m.write(
        op.operands[0], _quietly(np.add, product, m.read(op.operands[3], kind)).astype(TYPES[kind])
    )


@opcode("fma")
def _fused(m: Machine, op: Instruction) -> None:
    kind = kind_of(op)
    values = [m.read(o, kind) for o in op.operands[1:4]]
    if kind in ("f16x2", "bf16x2"):
        spread = [np.broadcast_to(v, m.lanes.shape).astype(np.uint32) for v in values]
        m.write(op.operands[0], _on_packed(_fuse_once, kind, spread))
        return
    if kind == "f64":
        m.write(op.operands[0], _quietly(lambda a, b, c: a * b + c, *values))
        return
    # The product of two float32 is exact in float64; the sum is rounded there, then once more.
    a, b, c = (np.asarray(v, np.float64) for v in values)
    exact = _quietly(lambda: a * b + c)
    result = _rounded(exact, op) if kind == "f32" else exact.astype(TYPES[kind])
    m.write(op.operands[0], _flushed(result) if op.has("ftz") else result)


def _fuse_once(a: Array, b: Array, c: Array) -> Array:
    wide = a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)
    return wide.astype(np.float32) if a.dtype == np.float32 else wide.astype(a.dtype)


def _rounded(exact: Array, op: Instruction) -> Array:
    nearest = exact.astype(np.float32)
    if op.has("rm"):
        down = np.nextafter(nearest, np.float32(-np.inf))
        return np.where(nearest.astype(np.float64) > exact, down, nearest)
    if op.has("rp"):
        up = np.nextafter(nearest, np.float32(np.inf))
        return np.where(nearest.astype(np.float64) < exact, up, nearest)
    if op.has("rz"):
        toward = np.nextafter(nearest, np.float32(0))
        return np.where(np.abs(nearest.astype(np.float64)) > np.abs(exact), toward, nearest)
    return nearest


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
    a, b = (m.read(o, kind) for o in op.operands[1:3])
    result = _compared(name, a, b)
    target = op.operands[0]
    both = isinstance(target, Pair)
    other = ~result
    if len(op.operands) == 4:
        combine = next(f for n, f in COMBINE.items() if op.has(n))
        c = m.read(op.operands[3], "pred")
        result, other = combine(result, c), combine(other, c)
    m.write(target.value if isinstance(target, Pair) else target, result)
    if both:
        assert isinstance(target, Pair)
        m.write(target.predicate, other)


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
    m.write(op.operands[0], np.where(m.read(op.operands[3], "pred"), a, b).astype(TYPES[kind]))


# ---- conversion ---------------------------------------------------------------------------------


@opcode("cvt")
def _cvt(m: Machine, op: Instruction) -> None:
    target, source = op.modifiers[-2:]
    if target in ("f16x2", "bf16x2"):
        high, low = (np.broadcast_to(m.read(o, "f32"), m.lanes.shape) for o in op.operands[1:3])
        m.write(op.operands[0], _packed(target, low, high))
        return
    value = m.read(op.operands[1], source)
    if source == "bf16":
        value = bf16_values(np.asarray(value))
    if target == "bf16":
        m.write(op.operands[0], bf16_bits(np.asarray(value, np.float32)))
        return
    m.write(op.operands[0], _converted(op, np.asarray(value), target))


def _packed(target: str, low: Array, high: Array) -> Array:
    if target == "f16x2":
        with np.errstate(all="ignore"):
            return joined(np.stack([low, high], -1))
    parts = (bf16_bits(p).astype(np.uint32) for p in (low, high))
    first, second = parts
    return first | second << np.uint32(16)


def _converted(op: Instruction, value: Array, target: str) -> Array:
    wanted = np.dtype(TYPES[target])
    with np.errstate(all="ignore"):
        if value.dtype.kind == "f" and wanted.kind in "iu":
            return _to_integer(op, value, wanted)
        if value.dtype.kind == "f" and wanted == value.dtype:
            value = _to_whole(op, value)
        if value.dtype == np.float64 and wanted == np.float32:
            result = _rounded(value, op)
        elif op.has("sat") and wanted.kind in "iu":
            info = np.iinfo(wanted)
            return np.clip(
                value,
                max(info.min, np.iinfo(value.dtype).min),
                min(info.max, np.iinfo(value.dtype).max),
            ).astype(wanted)
        else:
            result = value.astype(wanted)
        if op.has("sat"):
            result = np.clip(np.nan_to_num(result, nan=0.0), 0, 1).astype(wanted)
    return _flushed(result) if op.has("ftz") and wanted == np.float32 else result


def _to_whole(op: Instruction, value: Array) -> Array:
    for modifier, function in (
        ("rni", np.rint),
        ("rzi", np.trunc),
        ("rmi", np.floor),
        ("rpi", np.ceil),
    ):
        if op.has(modifier):
            return function(value)
    return value


def _to_integer(op: Instruction, value: Array, wanted: np.dtype[Any]) -> Array:
    """Float to integer: rounded as said, out of range to the nearest end, nan to 0."""
    info = np.iinfo(wanted)
    whole = _to_whole(op, value.astype(np.float64))
    low, high = float(info.min), float(info.max)
    result = np.where(np.isnan(whole), 0.0, np.clip(whole, low, high))
    top = result >= high
    exact = np.where(top, 0.0, result).astype(wanted)
    return np.where(top, np.asarray(info.max, wanted), exact)
