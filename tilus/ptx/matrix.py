"""Matrices that the threads of a warp hold together: ldmatrix, stmatrix, movmatrix, mma.

    mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32  {4 x d}, {4 x a}, {2 x b}, {4 x c};

In the manual every fragment of every type and shape is one formula. With E elements in a register
(32 bits by the element's; 1 of f64), g = lane / 4 and t = lane % 4, element i of register r is
    A: row g + 8 (r % h), column t E + i + 4 E (r / h), with h = m / 8 registers down
    B: row t E + i + 4 E r, column g
    C: row g + 8 (e / 2), column 2 t + e % 2, for element e of the lane
Source: PTX ISA, "Matrix Fragments for mma.m8n8k4 with .f64 floating point type", and the sections
after it up to "Matrix Fragments for mma.m16n8k256"; "ldmatrix", "stmatrix", "movmatrix".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np

from tilus.ptx.convert import narrow_table
from tilus.ptx.floats import bf16_values, canonical, rounded
from tilus.ptx.groups import WARP
from tilus.ptx.machine import Machine, opcode
from tilus.ptx.memory import Array
from tilus.ptx.syntax import Instruction, Operand, Vector
from tilus.ptx.transfer import address_of

LANE = np.arange(WARP)
GROUP, MEMBER = LANE // 4, LANE % 4  # the manual's groupID and threadID_in_group


# ---- matrices in shared memory ------------------------------------------------------------------


def _rows(m: Machine, operand: Operand, count: int) -> Array:
    """(warps, count, 8, 16): offsets of the bytes of each row; lane 8 q + r gives row r of q."""
    address = address_of(m, operand, "shared")
    used = (np.arange(len(m.lanes)) % WARP) < 8 * count
    start = np.zeros(len(m.lanes), np.int64)
    start[used] = m.shared.locate(m.lanes[used], address[used], 16)
    rows = start.reshape(-1, WARP)[:, : 8 * count].reshape(-1, count, 8)
    return rows[..., None] + np.arange(16)


def _matrix_count(op: Instruction) -> int:
    """How many matrices of 8 x 8 halves; an error for other matrices."""
    if not (op.has("m8n8") and op.has("b16")):
        raise op.refusal("this shape")
    return next(n for n in (4, 2, 1) if op.has(f"x{n}"))


def _items(operand: Operand) -> tuple[Operand, ...]:
    assert isinstance(operand, Vector)
    return operand.items


def _spread(matrices: Array) -> Array:
    """(warps, 8, 8) halves as the word of each lane: two neighbours of row lane / 4."""
    pairs = np.stack([matrices[:, GROUP, 2 * MEMBER + j] for j in (0, 1)], -1)
    return np.ascontiguousarray(pairs).view(np.uint32).reshape(-1)


def _gathered(words: Array) -> Array:
    """The reverse: (warps, 8, 8) halves from one word of each lane."""
    words = np.ascontiguousarray(words).reshape(-1, WARP)
    matrices = np.zeros((len(words), 8, 8), np.uint16)
    for j in (0, 1):
        matrices[:, GROUP, 2 * MEMBER + j] = (words >> np.uint32(16 * j)).astype(np.uint16)
    return matrices


@opcode("ldmatrix")
def _ldmatrix(m: Machine, op: Instruction) -> None:
    m.warps("ldmatrix")
    offsets = _rows(m, op.operands[1], _matrix_count(op))
    m.shared.check_readable(offsets)
    matrices = m.shared.data[offsets].copy().view(np.uint16)  # (warps, count, 8, 8)
    if op.has("trans"):
        matrices = matrices.swapaxes(-1, -2)
    for number, item in enumerate(_items(op.operands[0])):
        m.write(item, _spread(matrices[:, number]))


@opcode("stmatrix")
def _stmatrix(m: Machine, op: Instruction) -> None:
    m.warps("stmatrix")
    offsets = _rows(m, op.operands[0], _matrix_count(op))
    matrices = np.stack([_gathered(m.read(i, "b32")) for i in _items(op.operands[1])], 1)
    if op.has("trans"):
        matrices = matrices.swapaxes(-1, -2)
    m.stored()
    m.shared.mark_written(offsets)
    m.shared.data[offsets] = np.ascontiguousarray(matrices).view(np.uint8).reshape(offsets.shape)


@opcode("movmatrix")
def _movmatrix(m: Machine, op: Instruction) -> None:
    """The transpose of a matrix of which every lane holds two halves."""
    m.warps("movmatrix")
    if not (op.has("m8n8") and op.has("trans")):
        raise op.refusal()
    m.write(op.operands[0], _spread(_gathered(m.read(op.operands[1], "b32")).swapaxes(-1, -2)))


# ---- matrix multiplication ----------------------------------------------------------------------

BITS = {
    "f64": 64, "tf32": 32, "f16": 16, "bf16": 16, "e4m3": 8, "e5m2": 8, "s8": 8, "u8": 8,
    "s4": 4, "u4": 4, "b1": 1, "f32": 32, "s32": 32,
}  # fmt: skip
# Source: PTX ISA, "mma": the types of A and B that go together, of C and D, and their shapes.
LEGAL: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (("f64",), ("f64",), ("m8n8k4", "m16n8k4", "m16n8k8", "m16n8k16")),
    (("tf32",), ("f32",), ("m16n8k4", "m16n8k8")),
    (("f16",), ("f16", "f32"), ("m16n8k8", "m16n8k16")),
    (("bf16",), ("f32",), ("m16n8k8", "m16n8k16")),
    (("e4m3", "e5m2"), ("f16", "f32"), ("m16n8k16", "m16n8k32")),
    (("s8", "u8"), ("s32",), ("m8n8k16", "m16n8k16", "m16n8k32")),
    (("s4", "u4"), ("s32",), ("m8n8k32", "m16n8k32", "m16n8k64")),
    (("b1",), ("s32",), ("m8n8k128", "m16n8k128", "m16n8k256")),
)
# kind::, sparse and scaled forms have more modifiers than these.
KNOWN = {"sync", "aligned", "row", "col", "satfinite", "xor", "and", "popc", "rn", *BITS}


@dataclass(frozen=True)
class _Form:
    """One mma: its shape, and the types of d, a, b and c."""

    m: int
    n: int
    k: int
    d: str
    a: str
    b: str
    c: str


@cache
def _form(op: Instruction) -> _Form:
    shape = op.modifiers[2]
    types = [t for t in op.modifiers if t in BITS]
    known = set(op.modifiers[:2] + op.modifiers[3:]) <= KNOWN
    legal = len(types) == 4 and any(
        types[1] in inputs and types[2] in inputs and {types[0], types[3]} <= set(sums)
        and shape in shapes
        for inputs, sums, shapes in LEGAL
    )  # fmt: skip
    if not (legal and known):
        raise op.refusal("this form")
    sizes = [int(n) for n in re.findall(r"\d+", shape)]
    return _Form(sizes[0], sizes[1], sizes[2], *types)


@cache
def _a_index(rows: int, k: int, bits: int) -> tuple[Array, Array]:
    """Row and column of element i of each lane: (32, elements)."""
    per, down = max(32 // bits, 1), rows // 8  # elements in a register, registers down
    register, i = np.divmod(np.arange(rows * k // WARP), per)
    row = GROUP[:, None] + 8 * (register % down)
    return row, MEMBER[:, None] * per + i + register // down * 4 * per


@cache
def _b_index(k: int, bits: int) -> tuple[Array, Array]:
    per = max(32 // bits, 1)
    register, i = np.divmod(np.arange(8 * k // WARP), per)
    row = MEMBER[:, None] * per + i + register * 4 * per
    return row, np.broadcast_to(GROUP[:, None], row.shape)


@cache
def _c_index(rows: int) -> tuple[Array, Array]:
    element = np.arange(rows * 8 // WARP)
    return GROUP[:, None] + 8 * (element // 2), MEMBER[:, None] * 2 + element % 2


def _elements(m: Machine, op: Instruction, operand: Operand, kind: str, count: int) -> Array:
    """(warps, 32, elements) of a fragment, as numbers."""
    items, register = _items(operand), 64 if kind == "f64" else 32
    if len(items) * register != count * BITS[kind]:
        raise op.refusal(f"a fragment of {len(items)} registers")
    words = np.stack(
        [np.broadcast_to(m.read(item, f"b{register}"), m.lanes.shape) for item in items], -1
    ).reshape(-1, WARP, len(items))
    return _numbers(np.ascontiguousarray(words), kind)


def _numbers(words: Array, kind: str) -> Array:
    """The elements of registers, those in the low bits first."""
    if kind == "tf32":  # the hardware takes 10 bits of the mantissa
        return (words & np.uint32(0xFFFFE000)).view(np.float32)
    if kind in ("f64", "f32", "s32"):
        return words.view({"f64": np.float64, "f32": np.float32, "s32": np.int32}[kind])
    if kind == "f16":
        return words.view(np.float16).astype(np.float32)
    if kind == "bf16":
        return bf16_values(words.view(np.uint16))
    octets = words.view(np.uint8)
    if kind in ("e4m3", "e5m2"):
        return narrow_table(kind)[octets]
    if BITS[kind] == 8:
        return octets.view(np.int8) if kind == "s8" else octets
    shifts = np.arange(0, 8, BITS[kind], dtype=np.uint8)
    parts = octets[..., None] >> shifts & np.uint8((1 << BITS[kind]) - 1)
    if kind == "s4":
        parts = (parts ^ np.uint8(8)).view(np.int8) - np.int8(8)
    return parts.reshape(*octets.shape[:-1], -1)


def _matrix(fragment: Array, index: tuple[Array, Array], shape: tuple[int, int]) -> Array:
    result = np.zeros((len(fragment), *shape), fragment.dtype)
    result[:, index[0], index[1]] = fragment
    return result


@opcode("mma")
def _mma(m: Machine, op: Instruction) -> None:
    m.warps("mma.sync")
    form = _form(op)
    rows, k, bits = form.m, form.k, BITS[form.a]
    a = _elements(m, op, op.operands[1], form.a, rows * k // WARP)
    b = _elements(m, op, op.operands[2], form.b, 8 * k // WARP)
    c = _elements(m, op, op.operands[3], form.c, rows * 8 // WARP)
    left = _matrix(a, _a_index(rows, k, bits), (rows, k))
    right = _matrix(b, _b_index(k, bits), (k, 8))
    total = _product(op, form, left, right, _matrix(c, _c_index(rows), (rows, 8)))
    row, column = _c_index(rows)
    _write_fragment(m, op.operands[0], total[:, row, column], form.d)


def _product(op: Instruction, form: _Form, a: Array, b: Array, c: Array) -> Array:
    """a b + c: integers exactly, then wrapped or saturated; floats summed in the type of a sum."""
    with np.errstate(all="ignore"):
        if form.c != "s32":
            kind = np.float64 if form.a == "f64" else np.float32
            return np.matmul(a.astype(kind), b.astype(kind)) + c
        left, right = a.astype(np.float64), b.astype(np.float64)
        product = np.matmul(left, right)  # below 2^53: exact
        if op.has("xor"):  # of bits: x + y - 2 x y
            product = left.sum(2)[:, :, None] + right.sum(1)[:, None, :] - 2 * product
        total = product.astype(np.int64) + c
        if op.has("satfinite"):
            total = np.clip(total, -(2**31), 2**31 - 1)
        return total.astype(np.int32)


def _write_fragment(m: Machine, operand: Operand, values: Array, kind: str) -> None:
    if kind == "f16":
        values = rounded(values.astype(np.float64), "f16", "rn")
    elif kind != "s32":
        values = canonical(values, kind)
    words = np.ascontiguousarray(values).view(np.uint64 if kind == "f64" else np.uint32)
    for number, item in enumerate(_items(operand)):
        m.write(item, np.ascontiguousarray(words[..., number]).reshape(-1))
