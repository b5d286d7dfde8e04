"""What the threads of a warp exchange: shuffles, votes, matches, reductions.

Lanes that a membermask leaves out may be elsewhere; tables are (warps, 32). Source: PTX ISA,
"shfl.sync", "vote.sync", "match.sync", "redux.sync", "activemask", "elect.sync".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilus.errors import TilusError
from tilus.ptx.arith import maximum, minimum, predicate
from tilus.ptx.floats import canonical
from tilus.ptx.groups import WARP
from tilus.ptx.machine import Machine, opcode
from tilus.ptx.memory import Array
from tilus.ptx.syntax import Instruction, Operand, Pair
from tilus.ptx.transfer import type_of

LANE = np.arange(WARP)
WEIGHTS = np.uint64(1) << LANE.astype(np.uint64)


def _bits(held: Array) -> Array:
    """(warps, 32) booleans as a word, the same in every lane."""
    words = (held * WEIGHTS).sum(1, keepdims=True).astype(np.uint32)
    return np.broadcast_to(words, held.shape)


def _everywhere(value: Array) -> Array:
    """(warps,) as (warps, 32)"""
    return np.broadcast_to(value[:, None], (len(value), WARP))


def _write_pair(m: Machine, target: Operand, value: Array, held: Array) -> None:
    """Write d, or d|p: tables (warps, 32)."""
    if isinstance(target, Pair):
        m.write(target.predicate, m.from_warps(held))
        target = target.value
    m.write(target, m.from_warps(value))


@opcode("shfl")
def _shfl(m: Machine, op: Instruction) -> None:
    if not op.has("sync"):
        raise op.refusal("the form without .sync")
    here = m.participants(op.operands[4], "shfl.sync")
    value = m.by_warp(m.read(op.operands[1], "b32"))
    b, c = (m.by_warp(m.read(o, "u32")).astype(np.int64) for o in op.operands[2:4])
    source, inside = _source_lanes(op, b & 31, c & 31, c >> 8 & 31)
    source = np.where(inside, source, LANE) & 31
    absent = here & ~np.take_along_axis(here, source, axis=1)
    if absent.any():
        warp, lane = (int(n) for n in np.argwhere(absent)[0])
        raise TilusError(
            "shfl.sync reads a lane that does not take part",
            found=f"lane {lane} reads lane {int(source[warp, lane])}",
            expected="a lane that the membermask names",
        )
    _write_pair(m, op.operands[0], np.take_along_axis(value, source, axis=1), inside)


def _source_lanes(op: Instruction, b: Array, clamp: Array, segment: Array) -> tuple[Array, Array]:
    """Which lane each lane reads, and whether it is within the lane's segment."""
    low, limit = LANE & segment, (LANE & segment) | (clamp & ~segment)
    if op.has("up"):
        return LANE - b, LANE - b >= limit
    if op.has("down"):
        return LANE + b, LANE + b <= limit
    source = LANE ^ b if op.has("bfly") else low | (b & ~segment & 31)
    return source, source <= limit


# ---- votes --------------------------------------------------------------------------------------


@opcode("vote")
def _vote(m: Machine, op: Instruction) -> None:
    if not op.has("sync"):
        raise op.refusal("the form without .sync")
    here = m.participants(op.operands[2], "vote.sync")
    held = m.by_warp(predicate(m, op.operands[1])) & here
    if op.has("ballot"):
        m.write(op.operands[0], m.from_warps(_bits(held)))
        return
    every, some = np.asarray((held | ~here).all(1)), np.asarray(held.any(1))
    result = every if op.has("all") else some if op.has("any") else every | ~some
    m.write(op.operands[0], m.from_warps(_everywhere(np.asarray(result))))


@opcode("activemask")
def _activemask(m: Machine, op: Instruction) -> None:
    here = m.by_warp(np.ones(m.lanes.shape, bool))
    m.write(op.operands[0], m.from_warps(_bits(here)))


@opcode("elect")
def _elect(m: Machine, op: Instruction) -> None:
    """One lane of the mask, here the lowest, is the leader."""
    here = m.participants(op.operands[1], "elect.sync")
    leader = _everywhere(np.argmax(here, 1).astype(np.uint32))
    _write_pair(m, op.operands[0], leader, leader == LANE)


@opcode("match")
def _match(m: Machine, op: Instruction) -> None:
    """The lanes that hold the same value; with .all, all of them or none."""
    here = m.participants(op.operands[2], "match.sync")
    value = m.by_warp(m.read(op.operands[1], type_of_match(op)))
    if op.has("any"):
        same = (value[:, :, None] == value[:, None, :]) & here[:, None, :]
        words = (same * WEIGHTS).sum(2).astype(np.uint32)
        m.write(op.operands[0], m.from_warps(words))
        return
    first = np.take_along_axis(value, np.argmax(here, 1)[:, None], axis=1)
    agreed = _everywhere(((value == first) | ~here).all(1))
    _write_pair(m, op.operands[0], np.where(agreed, _bits(here), np.uint32(0)), agreed)


def type_of_match(op: Instruction) -> str:
    """Source: PTX ISA, "match.sync": the type stands before .sync's operands, b32 or b64."""
    return "b64" if op.has("b64") else "b32"


# ---- reductions ---------------------------------------------------------------------------------

REDUCE: dict[str, tuple[Callable[..., Any], Callable[[Any], int]]] = {
    # name: the function of two tables, and its neutral element of an integer type
    "add": (np.add, lambda info: 0),
    "min": (np.minimum, lambda info: info.max),
    "max": (np.maximum, lambda info: info.min),
    "and": (np.bitwise_and, lambda info: info.max),
    "or": (np.bitwise_or, lambda info: 0),
    "xor": (np.bitwise_xor, lambda info: 0),
}


@opcode("redux")
def _redux(m: Machine, op: Instruction) -> None:
    here, kind = m.participants(op.operands[2], "redux.sync"), type_of(op)
    name = next(n for n in REDUCE if op.has(n))
    values = np.asarray(m.read(op.operands[1], kind))
    if kind == "f32":
        m.write(op.operands[0], m.from_warps(_everywhere(_float_redux(m, op, values, here))))
        return
    function, neutral = REDUCE[name]
    fill = values.dtype.type(neutral(np.iinfo(values.dtype)))
    table = np.where(here, m.by_warp(values, fill), fill)
    total = table[:, 0]
    for lane in range(1, WARP):
        total = function(total, table[:, lane])
    m.write(op.operands[0], m.from_warps(_everywhere(total)))


def _float_redux(m: Machine, op: Instruction, values: Array, here: Array) -> Array:
    """min and max of floats: a nan counts only with .NaN, or where there is nothing else."""
    function = minimum if op.has("min") else maximum
    values = np.abs(values) if op.has("abs") else values
    table = np.where(here, m.by_warp(values), np.float32(np.nan))
    total = table[:, 0]
    for lane in range(1, WARP):
        total = function(total, table[:, lane])
    if op.has("NaN"):
        total = np.where((np.isnan(table) & here).any(1), np.float32(np.nan), total)
    return canonical(total.astype(np.float32), "f32")
