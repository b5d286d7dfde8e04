"""What the threads of a warp do together: shuffles, votes, matrices.

Fragment layouts are those of the manual: PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating
point type", "Matrix Fragments for mma.m16n8k32", "Warp-level matrix load instruction: ldmatrix".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilus.errors import TilusError
from tilus.ptx.arith import bf16_values, float8_table, predicate
from tilus.ptx.machine import WARP, Machine, opcode
from tilus.ptx.parse import Instruction, Operand, Pair, Vector
from tilus.ptx.transfer import address_of

Array = np.ndarray[Any, Any]
LANE = np.arange(WARP)
GROUP, MEMBER = LANE // 4, LANE % 4  # the manual's groupID and threadID_in_group


@opcode("shfl")
def _shfl(m: Machine, op: Instruction) -> None:
    m.warps("shfl.sync")
    target = op.operands[0]
    value = m.read(op.operands[1], "b32").reshape(-1, WARP)
    b, c = (
        np.broadcast_to(m.read(o, "u32"), m.lanes.shape).reshape(-1, WARP).astype(np.int64)
        for o in op.operands[2:4]
    )
    b &= 31
    clamp, segment = c & 31, c >> 8 & 31
    low, limit = LANE & segment, (LANE & segment) | (clamp & ~segment)
    mode = next(n for n in ("up", "down", "bfly", "idx") if op.has(n))
    if mode == "up":
        source, inside = LANE - b, LANE - b >= limit
    elif mode == "down":
        source, inside = LANE + b, LANE + b <= limit
    elif mode == "bfly":
        source, inside = LANE ^ b, (LANE ^ b) <= limit
    else:
        source = low | (b & ~segment & 31)
        inside = source <= limit
    source = np.where(inside, source, LANE)
    result = np.take_along_axis(value, source & 31, axis=1).reshape(-1)
    if isinstance(target, Pair):
        m.write(target.predicate, np.broadcast_to(inside, value.shape).reshape(-1))
        target = target.value
    m.write(target, result)


@opcode("vote", "activemask", "elect", "redux", "match")
def _vote(m: Machine, op: Instruction) -> None:
    if op.opcode != "vote":
        raise TilusError("this warp instruction is not emulated", found=op.name)
    m.warps("vote.sync")
    held = np.broadcast_to(predicate(m, op.operands[1]), m.lanes.shape).reshape(-1, WARP)
    if op.has("ballot"):
        weights = np.uint64(1) << LANE.astype(np.uint64)
        words = (held * weights).sum(1).astype(np.uint32)
        m.write(op.operands[0], np.repeat(words, WARP))
        return
    if op.has("uni"):
        whole = held.all(1) | ~held.any(1)
    else:
        whole = held.all(1) if op.has("all") else held.any(1)
    m.write(op.operands[0], np.repeat(whole, WARP))


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
    return next(n for n in (4, 2, 1) if op.has(f"x{n}"))


@opcode("ldmatrix")
def _ldmatrix(m: Machine, op: Instruction) -> None:
    m.warps("ldmatrix")
    count = _matrix_count(op)
    offsets = _rows(m, op.operands[1], count)
    m.shared.check_readable(offsets)
    matrices = m.shared.data[offsets].copy().view(np.uint16)  # (warps, count, 8, 8)
    if op.has("trans"):
        matrices = matrices.swapaxes(-1, -2)
    assert isinstance(op.operands[0], Vector)
    for number, item in enumerate(op.operands[0].items):
        pairs = np.stack([matrices[:, number, GROUP, 2 * MEMBER + j] for j in (0, 1)], -1)
        m.write(item, np.ascontiguousarray(pairs).view(np.uint32).reshape(-1))


@opcode("stmatrix")
def _stmatrix(m: Machine, op: Instruction) -> None:
    m.warps("stmatrix")
    count = _matrix_count(op)
    offsets = _rows(m, op.operands[0], count)
    matrices = np.zeros((*offsets.shape[:3], 8), np.uint16)
    assert isinstance(op.operands[1], Vector)
    for number, item in enumerate(op.operands[1].items):
        words = np.ascontiguousarray(m.read(item, "b32")).reshape(-1, WARP)
        for j in (0, 1):
            half = (words >> np.uint32(16 * j)).astype(np.uint16)
            matrices[:, number, GROUP, 2 * MEMBER + j] = half
    if op.has("trans"):
        matrices = matrices.swapaxes(-1, -2)
    m.shared.mark_written(offsets)
    m.shared.data[offsets] = np.ascontiguousarray(matrices).view(np.uint8).reshape(offsets.shape)


# ---- matrix multiplication ----------------------------------------------------------------------


def _elements(m: Machine, operand: Operand, kind: str) -> Array:
    """(warps, 32, elements) of a fragment, as numbers."""
    assert isinstance(operand, Vector)
    words = np.stack(
        [np.broadcast_to(m.read(item, "b32"), m.lanes.shape) for item in operand.items], -1
    ).reshape(-1, WARP, len(operand.items))
    if kind in ("f32", "s32"):
        return words.view(np.float32 if kind == "f32" else np.int32)
    if kind in ("f16", "bf16"):
        halves = np.ascontiguousarray(words).view(np.uint16)
        return halves.view(np.float16).astype(np.float32) if kind == "f16" else bf16_values(halves)
    octets = np.ascontiguousarray(words).view(np.uint8)
    if kind in ("e4m3", "e5m2"):
        return float8_table(kind)[octets]
    return octets.view(np.int8) if kind == "s8" else octets


def _a_index(k: int, bits: int) -> tuple[Array, Array]:
    """Row and column of element i of lane l of the 16 x k operand A, (32, elements)."""
    per = 32 // bits  # elements in a register
    i = np.arange(16 * k // WARP)
    register = i // per
    row = GROUP[:, None] + 8 * (register % 2)
    column = MEMBER[:, None] * per + i % per + register // 2 * 4 * per
    return row, column


def _b_index(k: int, bits: int) -> tuple[Array, Array]:
    """Row and column of element i of lane l of the k x 8 operand B."""
    per = 32 // bits
    i = np.arange(8 * k // WARP)
    row = MEMBER[:, None] * per + i % per + i // per * 4 * per
    return row, np.broadcast_to(GROUP[:, None], row.shape)


def _c_index() -> tuple[Array, Array]:
    """Row and column of element i of lane l of the 16 x 8 accumulator."""
    i = np.arange(4)
    row = GROUP[:, None] + np.where(i >= 2, 8, 0)
    return row, MEMBER[:, None] * 2 + i % 2


def _matrix(fragment: Array, index: tuple[Array, Array], shape: tuple[int, int]) -> Array:
    result = np.zeros((len(fragment), *shape), fragment.dtype)
    result[:, index[0], index[1]] = fragment
    return result


SHAPES = ("m16n8k8", "m16n8k16", "m16n8k32")
BITS = {"f16": 16, "bf16": 16, "s8": 8, "u8": 8, "e4m3": 8, "e5m2": 8}


@opcode("mma")
def _mma(m: Machine, op: Instruction) -> None:
    m.warps("mma.sync")
    d_kind, a_kind, b_kind, c_kind = op.modifiers[-4:]
    shape = next((x for x in op.modifiers if x in SHAPES), None)
    if shape is None or a_kind not in BITS or b_kind not in BITS:
        raise TilusError("this mma is not emulated", found=op.name)
    k, bits = int(shape[6:]), BITS[a_kind]
    a = _matrix(_elements(m, op.operands[1], a_kind), _a_index(k, bits), (16, k))
    b = _matrix(_elements(m, op.operands[2], b_kind), _b_index(k, bits), (k, 8))
    c = _matrix(_elements(m, op.operands[3], c_kind), _c_index(), (16, 8))
    with np.errstate(all="ignore"):
        if c_kind == "s32":
            total: Array = a.astype(np.int64) @ b.astype(np.int64) + c
            if op.has("satfinite"):
                total = np.clip(total, -(2**31), 2**31 - 1)
            total = total.astype(np.int32)
        else:
            total = np.matmul(a.astype(np.float32), b.astype(np.float32)) + c
    row, column = _c_index()
    _write_fragment(m, op.operands[0], total[:, row, column], d_kind)


def _write_fragment(m: Machine, operand: Operand, values: Array, kind: str) -> None:
    assert isinstance(operand, Vector)
    if kind == "f16":
        with np.errstate(all="ignore"):
            words = np.ascontiguousarray(values.astype(np.float16)).view(np.uint32)
    else:
        words = np.ascontiguousarray(values).view(np.uint32)
    for number, item in enumerate(operand.items):
        m.write(item, np.ascontiguousarray(words[..., number]).reshape(-1))
