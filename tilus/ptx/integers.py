"""Integer arithmetic beyond one type in, the same type out: products, sums with a carry, dots.

    add.cc.u32   %r1, %r2, %r3;      leaves its carry in CC.CF
    addc.u32     %r4, %r5, %r6;      adds it

The carry lives in one more predicate register of the kernel, `parse.CARRY_FLAG`. Source: PTX ISA,
"Integer Arithmetic Instructions" and "Extended-Precision Integer Arithmetic Instructions".
"""

from __future__ import annotations

import numpy as np

from tilus.ptx.arith import compute, kind_of
from tilus.ptx.machine import STORED, TYPES, Machine, opcode
from tilus.ptx.memory import Array
from tilus.ptx.syntax import CARRY, CARRY_FLAG, Instruction, Register


def _arguments(m: Machine, op: Instruction, count: int = 2) -> list[Array]:
    return [np.asarray(m.read(o, kind_of(op))) for o in op.operands[1 : 1 + count]]


@opcode("add", "sub")
def _sum(m: Machine, op: Instruction) -> None:
    if op.has(CARRY):
        a, b = _arguments(m, op)
        _with_carry(m, op, a, b, subtract=op.opcode == "sub", carried=False)
    else:
        compute(m, op)


@opcode("addc", "subc")
def _sum_of_carry(m: Machine, op: Instruction) -> None:
    a, b = _arguments(m, op)
    _with_carry(m, op, a, b, subtract=op.opcode == "subc", carried=True)


def _with_carry(
    m: Machine, op: Instruction, a: Array, b: Array, *, subtract: bool, carried: bool
) -> None:
    """a + b, or a - b, with the carry (of a difference: the borrow) taken in and given out."""
    unsigned = STORED[a.dtype.itemsize]
    left, right = a.view(unsigned), b.view(unsigned)
    extra = np.zeros(m.lanes.shape, unsigned)
    if carried:
        extra = m.read(Register(CARRY_FLAG), "pred").astype(unsigned)
    if subtract:
        part = np.asarray(left - right)
        total, carry = part - extra, (left < right) | (part < extra)
    else:
        part = np.asarray(left + right)
        total = part + extra
        carry = (part < left) | (total < extra)
    m.write(op.operands[0], total)
    if op.has(CARRY):
        m.write(Register(CARRY_FLAG), np.broadcast_to(carry, m.lanes.shape))


# ---- products -----------------------------------------------------------------------------------


def _widened(value: Array) -> Array:
    return value.astype(f"{value.dtype.kind}{2 * value.dtype.itemsize}")


def high_product(a: Array, b: Array) -> Array:
    """The upper half of a product."""
    bits = 8 * a.dtype.itemsize
    if bits < 64:
        return (_widened(a) * _widened(b) >> bits).astype(a.dtype)
    mask, half = np.uint64(2**32 - 1), np.uint64(32)
    left, right = a.view(np.uint64), b.view(np.uint64)
    low = (left & mask) * (right & mask)
    middle = (left >> half) * (right & mask) + (low >> half)
    crossed = (left & mask) * (right >> half) + (middle & mask)
    high = (left >> half) * (right >> half) + (middle >> half) + (crossed >> half)
    if a.dtype.kind == "i":  # a negative number stands for 2^64 more
        high = high - np.where(a < 0, right, np.uint64(0)) - np.where(b < 0, left, np.uint64(0))
    return np.asarray(high).view(a.dtype)


def _product(op: Instruction, a: Array, b: Array) -> Array:
    with np.errstate(all="ignore"):
        if op.has("wide"):
            return np.asarray(_widened(a) * _widened(b))
        return high_product(a, b) if op.has("hi") else np.asarray(a * b)


@opcode("mul")
def _multiply(m: Machine, op: Instruction) -> None:
    if kind_of(op)[0] in "us":
        m.write(op.operands[0], _product(op, *_arguments(m, op)))
    else:
        compute(m, op)


@opcode("mad", "madc")
def _multiply_add(m: Machine, op: Instruction) -> None:
    kind = kind_of(op)
    if kind[0] not in "us":  # fma by another name
        compute(m, op)
        return
    product = _product(op, *_arguments(m, op))
    added = np.asarray(m.read(op.operands[3], f"{kind[0]}{8 * product.dtype.itemsize}"))
    if op.has(CARRY) or op.opcode == "madc":
        _with_carry(m, op, product, added, subtract=False, carried=op.opcode == "madc")
        return
    with np.errstate(all="ignore"):
        if op.has("sat"):
            info = np.iinfo(product.dtype)
            total = np.clip(product.astype(np.int64) + added, info.min, info.max)
        else:
            total = product + added
    m.write(op.operands[0], np.asarray(total).astype(product.dtype))


@opcode("mul24", "mad24")
def _multiply_24(m: Machine, op: Instruction) -> None:
    """Products of 24-bit numbers, of which .lo gives bits 0..31 and .hi bits 16..47."""
    # The upper bits of an operand are ignored, so that bit 23 is the sign.
    a, b = (v.astype(np.int64) & 0xFFFFFF for v in _arguments(m, op))
    if kind_of(op) == "s32":
        a, b = ((v ^ 0x800000) - 0x800000 for v in (a, b))
    product = a * b >> (16 if op.has("hi") else 0)
    total = product.astype(TYPES[kind_of(op)])
    if op.opcode == "mad24":
        added = m.read(op.operands[3], kind_of(op))
        if op.has("sat"):
            wide = total.astype(np.int64) + added
            total = np.clip(wide, -(2**31), 2**31 - 1).astype(np.int32)
        else:
            total = total + added
    m.write(op.operands[0], total)


@opcode("sad")
def _sum_of_difference(m: Machine, op: Instruction) -> None:
    a, b, c = _arguments(m, op, 3)
    with np.errstate(all="ignore"):
        m.write(op.operands[0], np.asarray(np.where(a < b, b - a, a - b) + c))


@opcode("dp4a", "dp2a")
def _dot(m: Machine, op: Instruction) -> None:
    """c plus the products of 4 bytes, or of 2 halves of a with bytes of b."""
    left, right = op.modifiers[-2:]
    a = np.broadcast_to(m.read(op.operands[1], "b32"), m.lanes.shape)
    b = np.broadcast_to(m.read(op.operands[2], "b32"), m.lanes.shape)
    # (lanes, 4) bytes; (lanes, 2) halves
    size = 1 if op.opcode == "dp4a" else 2
    first = _parts(a, f"{'i' if left[0] == 's' else 'u'}{size}")
    second = _parts(b, "i1" if right[0] == "s" else "u1")
    if op.opcode == "dp2a":
        second = second[:, 2:] if op.has("hi") else second[:, :2]
    total = (first * second).sum(1) + m.read(op.operands[3], "u32").astype(np.int64)
    m.write(op.operands[0], total.astype(np.uint32))


def _parts(words: Array, dtype: str) -> Array:
    return np.ascontiguousarray(words).reshape(-1, 1).view(dtype).astype(np.int64)
