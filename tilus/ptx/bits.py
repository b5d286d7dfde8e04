"""Logic on bits: shifts, fields, counts, permutations. Source: PTX ISA, "Logic and Shift
Instructions" and the bit instructions of "Integer Arithmetic Instructions"."""

from __future__ import annotations

import numpy as np

from tilus.ptx.arith import LOGIC, kind_of, predicate
from tilus.ptx.machine import STORED, TYPES, Machine, opcode
from tilus.ptx.memory import Array
from tilus.ptx.syntax import Instruction, Operand, Pair

ALL = np.uint64(2**64 - 1)


def _bits(kind: str) -> int:
    return 8 * np.dtype(TYPES[kind]).itemsize


def _words(m: Machine, operands: tuple[Operand, ...]) -> list[Array]:
    """32-bit operands, one element a lane, with room for more bits."""
    return [np.broadcast_to(m.read(o, "u32"), m.lanes.shape).astype(np.uint64) for o in operands]


def _ones(count: Array) -> Array:
    """That many ones from bit 0 up, of 64."""
    below = (np.uint64(1) << np.minimum(count, np.uint64(63))) - np.uint64(1)
    return np.where(count >= 64, ALL, below)


@opcode("shl", "shr")
def _shift(m: Machine, op: Instruction) -> None:
    kind = kind_of(op)
    value, amount = m.read(op.operands[1], kind), m.read(op.operands[2], "u32").astype(np.uint64)
    bits = _bits(kind)
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
    low, high, amount = _words(m, op.operands[1:4])
    amount = amount & np.uint64(31) if op.has("wrap") else np.minimum(amount, np.uint64(32))
    both = low | high << np.uint64(32)
    result = both >> amount if op.has("r") else (both << amount) >> np.uint64(32)
    m.write(op.operands[0], result.astype(np.uint32))


@opcode("lop3")
def _lop3(m: Machine, op: Instruction) -> None:
    """A function of three bits by its table; with d|p, also whether the result is not 0."""
    a, b, c = (m.read(o, "u32") for o in op.operands[1:4])
    table = int(m.read(op.operands[4], "u32"))
    result = np.zeros(np.broadcast_shapes(a.shape, b.shape, c.shape), np.uint32)
    for row in range(8):
        if table >> row & 1:
            result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
    target = op.operands[0]
    if isinstance(target, Pair):
        combine = LOGIC[op.modifiers[0]]
        m.write(target.predicate, combine(result != 0, predicate(m, op.operands[5])))
        target = target.value
    m.write(target, result)


# ---- bytes --------------------------------------------------------------------------------------

# The source of bytes 3, 2, 1, 0 by the two low bits of the selector. Source: PTX ISA, "prmt".
PERMUTATIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "f4e": ((3, 2, 1, 0), (4, 3, 2, 1), (5, 4, 3, 2), (6, 5, 4, 3)),
    "b4e": ((5, 6, 7, 0), (6, 7, 0, 1), (7, 0, 1, 2), (0, 1, 2, 3)),
    "rc8": ((0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)),
    "ecl": ((3, 2, 1, 0), (3, 2, 1, 1), (3, 2, 2, 2), (3, 3, 3, 3)),
    "ecr": ((0, 0, 0, 0), (1, 1, 1, 0), (2, 2, 1, 0), (3, 2, 1, 0)),
    "rc16": ((1, 0, 1, 0), (3, 2, 3, 2), (1, 0, 1, 0), (3, 2, 3, 2)),
}


@opcode("prmt")
def _prmt(m: Machine, op: Instruction) -> None:
    a, b, selector = _words(m, op.operands[1:4])
    table = PERMUTATIONS.get(kind_of_permutation(op))
    if table is not None:  # as the nibbles of the common form, none of which asks for the sign
        nibbles = [sum(n << 4 * (3 - i) for i, n in enumerate(row)) for row in table]
        selector = np.array(nibbles, np.uint64)[(selector & np.uint64(3)).astype(np.int64)]
    both = a | b << np.uint64(32)
    result = np.zeros(m.lanes.shape, np.uint64)
    for byte in range(4):
        nibble = selector >> np.uint64(4 * byte) & np.uint64(15)
        value = both >> (np.uint64(8) * (nibble & np.uint64(7))) & np.uint64(255)
        sign = np.where(value >> np.uint64(7) & np.uint64(1), np.uint64(255), np.uint64(0))
        result |= np.where(nibble & np.uint64(8), sign, value) << np.uint64(8 * byte)
    m.write(op.operands[0], result.astype(np.uint32))


def kind_of_permutation(op: Instruction) -> str:
    """The mode of a prmt, "b32" without one."""
    mode = op.modifiers[-1]
    if mode != "b32" and mode not in PERMUTATIONS:
        raise op.refusal("this mode")
    return mode


# ---- fields -------------------------------------------------------------------------------------


def _field(m: Machine, start: Operand, length: Operand) -> tuple[Array, Array]:
    """Where a field begins, and how long it is: 8 bits of the operands count."""
    a, b = _words(m, (start, length))
    return a & np.uint64(255), b & np.uint64(255)


def _unsigned(m: Machine, operand: Operand, kind: str) -> Array:
    """An operand's bits in 64, the rest 0."""
    return np.broadcast_to(m.read(operand, f"u{_bits(kind)}"), m.lanes.shape).astype(np.uint64)


@opcode("bfe")
def _bfe(m: Machine, op: Instruction) -> None:
    """A field, extended by its highest bit for a signed type; beyond the word stands that bit."""
    kind, width = kind_of(op), np.uint64(_bits(kind_of(op)))
    value = _unsigned(m, op.operands[1], kind)
    start, length = _field(m, op.operands[2], op.operands[3])
    kept = np.minimum(length, width - np.minimum(start, width))
    shifted = np.where(start < width, value >> np.minimum(start, width - np.uint64(1)), 0)
    mask = _ones(kept)
    result = shifted & mask
    if kind[0] == "s":
        top = np.minimum(
            start + np.maximum(length, np.uint64(1)) - np.uint64(1), width - np.uint64(1)
        )
        negative = (value >> top & np.uint64(1) != 0) & (length != 0)
        result = np.where(negative, result | ~mask, result)
    m.write(op.operands[0], result.astype(STORED[_bits(kind) // 8]))


@opcode("bfi")
def _bfi(m: Machine, op: Instruction) -> None:
    kind, width = kind_of(op), np.uint64(_bits(kind_of(op)))
    source, base = (_unsigned(m, o, kind) for o in op.operands[1:3])
    start, length = _field(m, op.operands[3], op.operands[4])
    length = np.minimum(length, width - np.minimum(start, width))
    place = np.minimum(start, np.uint64(63))
    mask = _ones(length) << place
    result = base & ~mask | source << place & mask
    m.write(op.operands[0], result.astype(STORED[_bits(kind) // 8]))


@opcode("bmsk")
def _bmsk(m: Machine, op: Instruction) -> None:
    """A run of ones from bit a, b long; cut at the end of the word."""
    start, length = _words(m, op.operands[1:3])
    if op.has("wrap"):
        start, length = start & np.uint64(31), length & np.uint64(31)
    start, length = (np.minimum(v, np.uint64(32)) for v in (start, length))
    m.write(op.operands[0], (_ones(length) << start).astype(np.uint32))


@opcode("szext")
def _szext(m: Machine, op: Instruction) -> None:
    """The low b bits, extended by zeros or by their sign to 32."""
    value, length = _words(m, op.operands[1:3])
    length = length & np.uint64(31) if op.has("wrap") else np.minimum(length, np.uint64(32))
    mask = _ones(length)
    result = value & mask
    if kind_of(op) == "s32":
        top = np.maximum(length, np.uint64(1)) - np.uint64(1)
        negative = (value >> top & np.uint64(1) != 0) & (length != 0)
        result = np.where(negative, result | ~mask, result)
    m.write(op.operands[0], result.astype(np.uint32))


# ---- counts -------------------------------------------------------------------------------------


def _spread(m: Machine, operand: Operand, kind: str) -> Array:
    """(lanes, bits): the bits of an operand, the lowest first."""
    value = _unsigned(m, operand, kind)
    return value[:, None] >> np.arange(_bits(kind), dtype=np.uint64) & np.uint64(1)


def _leading(bits: Array) -> Array:
    """The zeros above the highest one."""
    return np.where(bits.any(1), np.argmax(bits[:, ::-1] != 0, 1), bits.shape[1])


@opcode("popc")
def _popc(m: Machine, op: Instruction) -> None:
    m.write(op.operands[0], _spread(m, op.operands[1], kind_of(op)).sum(1).astype(np.uint32))


@opcode("clz")
def _clz(m: Machine, op: Instruction) -> None:
    leading = _leading(_spread(m, op.operands[1], kind_of(op)))
    m.write(op.operands[0], leading.astype(np.uint32))


@opcode("bfind")
def _bfind(m: Machine, op: Instruction) -> None:
    """The highest bit that is not the sign; with .shiftamt, how far it is from the top."""
    kind = kind_of(op)
    bits = _spread(m, op.operands[1], kind)
    if kind[0] == "s":
        bits = bits ^ bits[:, -1:]
    leading = _leading(bits)
    found = leading if op.has("shiftamt") else bits.shape[1] - 1 - leading
    m.write(op.operands[0], np.where(bits.any(1), found, 2**32 - 1).astype(np.uint32))


@opcode("brev")
def _brev(m: Machine, op: Instruction) -> None:
    bits = _spread(m, op.operands[1], kind_of(op))
    weights = np.uint64(1) << np.arange(bits.shape[1], dtype=np.uint64)[::-1]
    m.write(op.operands[0], (bits * weights).sum(1).astype(STORED[bits.shape[1] // 8]))
