"""Atomic updates of global and shared memory: atom and red.

Lanes that meet at one address go one after the other, in order; those at different addresses go
together. Source: PTX ISA, "atom" and "red".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilus.ptx.arith import half, maximum, minimum, word
from tilus.ptx.floats import FLOATS, canonical, flushed, numbers, rounded
from tilus.ptx.machine import Machine, opcode
from tilus.ptx.memory import Array
from tilus.ptx.syntax import Instruction, Operand, Vector
from tilus.ptx.transfer import places, space_of, type_of

Update = Callable[..., Array]

INTEGER: dict[str, Update] = {
    "add": lambda old, x: old + x,
    "min": np.minimum,
    "max": np.maximum,
    "inc": lambda old, x: np.where(old >= x, 0, old + 1).astype(old.dtype),
    "dec": lambda old, x: np.where((old == 0) | (old > x), x, old - 1).astype(old.dtype),
    "exch": lambda old, x: x,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "cas": lambda old, compare, x: np.where(old == compare, x, old),
}
FLOAT: dict[str, Update] = {"add": np.add, "min": minimum, "max": maximum}


def _updated(name: str, kind: str, old: Array, values: list[Array], *, flush: bool) -> Array:
    """What memory holds after the update, as stored."""
    if kind in ("f16x2", "bf16x2"):
        halves = [
            _updated(name, kind[:-2], half(old, n, kind), [half(v, n, kind) for v in values],
                     flush=flush)
            for n in (0, 1)
        ]  # fmt: skip
        return word(halves[0], halves[1])
    with np.errstate(all="ignore"):
        if kind not in FLOATS:
            return np.asarray(INTEGER[name](old, *values))
        operands = [numbers(v, kind) for v in (old, *values)]
        if flush:
            operands = [flushed(v) for v in operands]
        if kind == "bf16":
            wide = [v.astype(np.float64) for v in operands]
            return rounded(FLOAT[name](*wide), kind, "rn")
        result = canonical(FLOAT[name](*operands), kind)
        return flushed(result) if flush else result


@dataclass(frozen=True)
class _Cells:
    """Memory as elements of one type, those that lanes update, and the lanes."""

    data: Array
    index: Array  # (lanes, elements of a vector)
    lanes: Array  # among the active ones


@opcode("atom", "red")
def _atom(m: Machine, op: Instruction) -> None:
    kind = type_of(op)
    has_result = op.opcode == "atom"
    name = next((n for n in INTEGER if op.has(n)), "")
    if name not in (FLOAT if kind in FLOATS or kind.endswith("x2") else INTEGER):
        raise op.refusal(f"the update of {kind}")
    place, *arguments = op.operands[has_result:]
    arguments = arguments[: 2 if name == "cas" else 1]  # a cache policy may follow
    values = [_elements(m, o, kind) for o in arguments]
    old = np.zeros_like(values[0])
    changed = False
    for space, mask, address in places(m, place, space_of(op)):
        cells = _cells(m, op, space, mask, address, old)
        # Source: PTX ISA, "atom": add.f32 of global memory flushes subnormal numbers.
        flush = kind == "f32" and space == "global" and name == "add"
        changed |= _apply(name, kind, cells, old, values, flush=flush)
    if changed or not has_result:
        m.stored()
    m.poll()
    if has_result:
        targets = op.operands[0].items if isinstance(op.operands[0], Vector) else op.operands[:1]
        for target, part in zip(targets, old.T, strict=True):
            m.write(target, np.ascontiguousarray(part))


def _elements(m: Machine, operand: Operand, kind: str) -> Array:
    """(lanes, elements of the vector)"""
    items = operand.items if isinstance(operand, Vector) else (operand,)
    return np.stack([np.broadcast_to(m.read(o, kind), m.lanes.shape) for o in items], -1)


def _cells(
    m: Machine, op: Instruction, space: str, mask: Any, address: Array, old: Array
) -> _Cells:
    """The elements to update, after every check."""
    lanes, size = np.arange(len(old))[mask], old.dtype.itemsize
    whole = size * old.shape[1]
    if space == "shared":
        # Bits of a word that nobody wrote may stay undefined: sub-byte stores update words in part.
        start = m.shared.locate(m.lanes[mask], address, whole)
        m.shared.mark_written(start[:, None] + np.arange(whole), atomic=True)
        data = m.shared.data
    elif space == "global":
        start = m.memory.locate(address, whole, atomic=True, lanes=m.lanes[mask])
        data = m.memory.data
        if m.memory.unwritten.size:
            m.memory.unwritten[start[:, None] + np.arange(whole)] = False
    else:
        raise op.refusal(f"{space} memory")
    index = start[:, None] // size + np.arange(old.shape[1])
    return _Cells(data.view(old.dtype), index, lanes)


def _apply(
    name: str, kind: str, cells: _Cells, old: Array, values: list[Array], *, flush: bool
) -> bool:
    """Update the cells and set `old` to what was there; returns whether anything changed."""
    changed = False
    for turn in _turns(cells.index[:, 0]):
        index, lanes = cells.index[turn], cells.lanes[turn]
        before = cells.data[index]
        after = _updated(name, kind, before, [v[lanes] for v in values], flush=flush)
        old[lanes], cells.data[index] = before, after
        changed |= bool((before.view(np.uint8) != after.view(np.uint8)).any())
    return changed


def _turns(index: Array) -> list[Array]:
    """The lanes in turns: in each of them, those next at their cell."""
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    rank = np.arange(len(index)) - np.repeat(first, np.diff(np.append(first, len(index))))
    return [order[rank == turn] for turn in range(int(rank.max()) + 1)]
