"""Branches, barriers and order. Source: PTX ISA, "Control Flow Instructions" and "Parallel
Synchronization and Communication Instructions"."""

from __future__ import annotations

import numpy as np

from tilus.errors import TilusError
from tilus.ptx.arith import predicate
from tilus.ptx.machine import WARP, Machine, opcode
from tilus.ptx.memory import WARP_SYNC, Array
from tilus.ptx.syntax import Instruction, Negated, Operand, Symbol


@opcode("bra")
def _bra(m: Machine, op: Instruction) -> None:
    target = op.operands[0]
    assert isinstance(target, Symbol)
    m.jump(target.name)


@opcode("ret", "exit")
def _ret(m: Machine, op: Instruction) -> None:
    m.exit()


@opcode("trap")
def _trap(m: Machine, op: Instruction) -> None:
    raise TilusError("the kernel executed a trap")


@opcode("membar", "fence", "nanosleep")
def _order(m: Machine, op: Instruction) -> None:
    """Every access is visible at once here."""


@opcode("bar", "barrier")
def _bar(m: Machine, op: Instruction) -> None:
    if op.has("cluster"):
        raise op.refusal("a barrier of a cluster")
    if op.has("warp"):
        m.participants(op.operands[0], "bar.warp.sync")
        m.shared.meet(WARP_SYNC, m.lanes, WARP)
    elif op.has("sync"):
        _wait(m, op.operands)
    elif op.has("red"):
        _reduce(m, op)
    else:
        raise op.refusal()


def _wait(m: Machine, operands: tuple[Operand, ...]) -> None:
    """Wait at the barrier of this number, for that many threads."""
    number, *count = (np.broadcast_to(m.read(o, "u32"), m.lanes.shape) for o in operands)
    m.wait(number.copy(), int(count[0][0]) if count else None)


def _reduce(m: Machine, op: Instruction) -> None:
    """A barrier that says whether a predicate holds for all, for any, or for how many threads.

    Whoever arrives updates the result of all that wait there: it is complete when they go on. A
    target that is also the source changes nothing: and, or of what is already combined is the same.
    """
    target, number, *count, source = op.operands
    if isinstance(source, Negated) and source.register == target:
        raise op.refusal("a target that is also the negated source")
    lanes = m.lanes
    barriers = np.broadcast_to(m.read(number, "u32"), lanes.shape).copy()
    for barrier in np.unique(barriers).tolist():
        _update(m, op, barrier, lanes[barriers == barrier])
    m.focus(lanes)
    _wait(m, (number, *count))


def _update(m: Machine, op: Instruction, barrier: int, arriving: Array) -> None:
    """The result so far, for `arriving` and those of their blocks that wait at `barrier`."""
    blocks = np.unique(arriving // m.threads)
    groups = [(op, arriving)]
    for pc, lanes in m.groups.barriers.get(barrier, []):
        here = lanes[np.isin(lanes // m.threads, blocks)]
        groups.append((m.kernel.instructions[pc], here))
    held = np.zeros(m.count // m.threads, np.int64)
    total = np.zeros_like(held)
    for instruction, lanes in groups:
        m.focus(lanes)
        value = np.broadcast_to(predicate(m, instruction.operands[-1]), lanes.shape)
        held += np.bincount(lanes // m.threads, value, len(held)).astype(np.int64)
        total += np.bincount(lanes // m.threads, minlength=len(held))
    results = {"and": held == total, "or": held > 0, "popc": held.astype(np.uint32)}
    result = results[next(name for name in results if op.has(name))]
    for instruction, lanes in groups:
        m.focus(lanes)
        m.write(instruction.operands[0], result[lanes // m.threads])
