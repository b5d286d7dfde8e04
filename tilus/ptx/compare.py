"""Comparison, selection and classes of numbers. Source: PTX ISA, "Comparison and Selection
Instructions", "Half Precision Comparison Instructions", "testp"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilus.ptx.arith import LOGIC, half, kind_of, predicate, word, word_of
from tilus.ptx.floats import bf16_bits, flushed, numbers
from tilus.ptx.machine import STORED, TYPES, Machine, opcode
from tilus.ptx.memory import Array
from tilus.ptx.syntax import Instruction, Operand, Pair

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater,
    "hs": np.greater_equal,
}  # fmt: skip
UNORDERED = {"equ": "eq", "neu": "ne", "ltu": "lt", "leu": "le", "gtu": "gt", "geu": "ge"}


def _compared(m: Machine, op: Instruction, kind: str) -> Array:
    """The comparison of operands 1 and 2: (lanes,), or (2, lanes) of packed ones."""
    a, b = (_comparable(m, o, op, kind) for o in op.operands[1:3])
    name = op.modifiers[0]
    if name in ("nan", "num"):
        isnan = np.isnan(a) | np.isnan(b)
        return isnan if name == "nan" else ~isnan
    if name in UNORDERED:
        return np.asarray(COMPARE[UNORDERED[name]](a, b) | np.isnan(a) | np.isnan(b))
    result = COMPARE[name](a, b)
    if name == "ne" and a.dtype.kind == "f":
        result = result & ~(np.isnan(a) | np.isnan(b))
    return np.asarray(result)


def _comparable(m: Machine, operand: Operand, op: Instruction, kind: str) -> Array:
    """An operand as numbers; (2, lanes) of a packed one."""
    if kind.endswith("x2"):
        words = np.broadcast_to(m.read(operand, word_of(kind)), m.lanes.shape)
        value = np.stack([numbers(half(words, n, kind), kind[:-2]) for n in (0, 1)])
    else:
        value = numbers(np.asarray(m.read(operand, kind)), kind)
    return flushed(value) if op.has("ftz") else value


def _combination(m: Machine, op: Instruction) -> Callable[[Array], Array]:
    """What .and, .or and .xor make of a comparison and the last operand."""
    if len(op.operands) < 4:
        return lambda result: result
    combine, other = LOGIC[op.modifiers[1]], predicate(m, op.operands[3])
    return lambda result: combine(result, other)


@opcode("setp")
def _setp(m: Machine, op: Instruction) -> None:
    kind = kind_of(op)
    combine, result = _combination(m, op), _compared(m, op, kind)
    # A packed comparison gives one predicate for each half; any other a second, inverse one.
    results = result if kind.endswith("x2") else (result, ~result)
    first, second = (combine(part) for part in results)  # before either target is overwritten
    target = op.operands[0]
    if isinstance(target, Pair):
        m.write(target.value, first)
        m.write(target.predicate, second)
    else:
        m.write(target, first)


@opcode("set")
def _set(m: Machine, op: Instruction) -> None:
    """A comparison as a number: 1.0 for a float type, all ones for an integer type, or 0."""
    target, kind = op.modifiers[-2], kind_of(op)
    result = _combination(m, op)(_compared(m, op, kind))
    element = target.removesuffix("x2")
    if kind.endswith("x2") and not target.endswith("x2"):  # u32 or s32: 16 ones for each half
        element = "u16"
    true = _one(element)
    parts = np.where(result, true, np.zeros_like(true))
    whole = word(parts[0], parts[1]) if kind.endswith("x2") else parts
    m.write(op.operands[0], np.broadcast_to(whole, m.lanes.shape))


def _one(kind: str) -> Array:
    if kind == "bf16":
        return bf16_bits(np.asarray(1, np.float32))
    dtype = np.dtype(TYPES[kind])
    return np.asarray(1, dtype) if dtype.kind == "f" else ~np.asarray(0, STORED[dtype.itemsize])


@opcode("selp")
def _selp(m: Machine, op: Instruction) -> None:
    kind = kind_of(op)
    a, b = (m.read(o, kind) for o in op.operands[1:3])
    m.write(op.operands[0], np.where(predicate(m, op.operands[3]), a, b).astype(TYPES[kind]))


@opcode("slct")
def _slct(m: Machine, op: Instruction) -> None:
    """a where c >= 0 (so of -0, not of nan), else b."""
    kind, chooser = op.modifiers[-2:]
    a, b = (m.read(o, kind) for o in op.operands[1:3])
    c = np.asarray(m.read(op.operands[3], chooser))
    c = flushed(c) if op.has("ftz") else c
    m.write(op.operands[0], np.where(c >= 0, a, b).astype(TYPES[kind]))


CLASSES: dict[str, Callable[[Array], Array]] = {
    "finite": np.isfinite,
    "infinite": np.isinf,
    "number": lambda x: ~np.isnan(x),
    "notanumber": np.isnan,
    "normal": lambda x: np.isfinite(x) & (np.abs(x) >= np.finfo(x.dtype).tiny),
    "subnormal": lambda x: (x != 0) & (np.abs(x) < np.finfo(x.dtype).tiny),
}


@opcode("testp")
def _testp(m: Machine, op: Instruction) -> None:
    value = np.asarray(m.read(op.operands[1], kind_of(op)))
    m.write(op.operands[0], np.broadcast_to(CLASSES[op.modifiers[0]](value), m.lanes.shape))
