"""Data movement, control flow and order. Source: PTX ISA, chapter "Instructions"."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilus.errors import TilusError
from tilus.ptx.machine import STORED, TYPES, WARP, Machine, opcode
from tilus.ptx.memory import SHARED_WINDOW, WARP_SYNC
from tilus.ptx.parse import Address, Immediate, Instruction, Operand, Register, Symbol, Vector

Array = np.ndarray[Any, Any]
SPACES = ("global", "shared", "param", "local", "const")


@opcode("mov")
def _mov(m: Machine, op: Instruction) -> None:
    target, source = op.operands
    kind = op.modifiers[-1]
    if isinstance(source, Vector):
        m.write(target, _packed(m, source, kind))
    elif isinstance(target, Vector):
        _unpack(m, target, m.read(source, kind), kind)
    else:
        m.write(target, m.read(source, kind))


def _packed(m: Machine, source: Vector, kind: str) -> Array:
    size = np.dtype(TYPES[kind]).itemsize // len(source.items)
    parts = [np.broadcast_to(m.read(o, f"b{8 * size}"), m.lanes.shape) for o in source.items]
    return np.ascontiguousarray(np.stack(parts, -1)).view(STORED[size * len(parts)]).reshape(-1)


def _unpack(m: Machine, target: Vector, value: Array, kind: str) -> None:
    size = np.dtype(TYPES[kind]).itemsize // len(target.items)
    whole = np.ascontiguousarray(np.broadcast_to(value, m.lanes.shape)).reshape(-1, 1)
    parts = whole.view(STORED[size])
    for item, part in zip(target.items, parts.T, strict=True):
        m.write(item, np.ascontiguousarray(part))


@opcode("cvta")
def _cvta(m: Machine, op: Instruction) -> None:
    address = np.broadcast_to(m.read(op.operands[1], "u64"), m.lanes.shape).astype(np.uint64)
    if op.has("shared"):
        offset = np.uint64(SHARED_WINDOW)
        address = address - offset if op.has("to") else address + offset
    m.write(op.operands[0], address)


# ---- loads and stores ---------------------------------------------------------------------------


def address_of(m: Machine, operand: Operand, space: str) -> Array:
    """The byte address of every active lane, in `space`."""
    assert isinstance(operand, Address)
    base = operand.base
    if isinstance(base, Register):
        wide = m.registers[base.name].dtype.itemsize == 8
        value = m.read(base, "u64" if wide else "u32").astype(np.int64)
    elif isinstance(base, Symbol):
        value = np.full(m.lanes.shape, m.shared.address(base.name), np.int64)
    else:
        assert isinstance(base, Immediate)
        value = np.full(m.lanes.shape, base.value, np.int64)
    value = value + operand.offset
    if space == "shared" and (value >= SHARED_WINDOW).all():
        value = value - SHARED_WINDOW
    return value


def _space(op: Instruction) -> str:
    return next((s for s in SPACES if op.has(s)), "generic")


def _targets(operand: Operand) -> tuple[Operand, ...]:
    return operand.items if isinstance(operand, Vector) else (operand,)


@opcode("ld", "ldu")
def _ld(m: Machine, op: Instruction) -> None:
    space, kind = _space(op), op.modifiers[-1]
    if space == "param":
        _ld_param(m, op, kind)
        return
    if op.has("acquire") or op.has("volatile"):
        m.poll()
    items = _targets(op.operands[0])
    size = np.dtype(TYPES[kind]).itemsize
    values = load_bytes(m, op.operands[1], space, size * len(items))
    parts = values.reshape(-1, len(items), size).copy().view(TYPES[kind]).reshape(-1, len(items))
    for item, part in zip(items, parts.T, strict=True):
        m.write(item, _extended(m, item, np.ascontiguousarray(part)))


def _extended(m: Machine, item: Operand, value: Array) -> Array:
    """A narrow value as its register holds it: signed ones keep their sign."""
    if not isinstance(item, Register):
        return value
    size = m.registers[item.name].dtype.itemsize
    if value.dtype.kind in "iu" and value.dtype.itemsize < size:
        return value.astype(f"{value.dtype.kind}{size}")
    return value


def _ld_param(m: Machine, op: Instruction, kind: str) -> None:
    address = op.operands[1]
    assert isinstance(address, Address) and isinstance(address.base, Symbol)
    declared, value = m.params[address.base.name]
    stored = np.asarray(value, TYPES[declared])
    bits = stored.view(STORED[stored.itemsize]).astype(STORED[np.dtype(TYPES[kind]).itemsize])
    m.write(op.operands[0], bits.view(TYPES[kind]))


def load_bytes(m: Machine, operand: Operand, space: str, size: int) -> Array:
    """(lanes, size) bytes, read after every check."""
    address = address_of(m, operand, space)
    if space == "shared" or (space == "generic" and bool((address < SHARED_WINDOW * 2).all())):
        start = m.shared.locate(m.lanes, address % SHARED_WINDOW, size)
        offsets = start[:, None] + np.arange(size)
        m.shared.check_readable(offsets)
        return m.shared.data[offsets]
    if space not in ("global", "generic"):
        raise TilusError(f"loads from {space} memory are not emulated")
    start = m.memory.locate(address, size)
    return m.memory.data[start[:, None] + np.arange(size)]


@opcode("st")
def _st(m: Machine, op: Instruction) -> None:
    space, kind = _space(op), op.modifiers[-1]
    items = _targets(op.operands[1])
    size = np.dtype(TYPES[kind]).itemsize
    parts = [np.broadcast_to(m.read(item, kind), m.lanes.shape) for item in items]
    values = np.ascontiguousarray(np.stack(parts, -1)).view(np.uint8).reshape(len(m.lanes), -1)
    store_bytes(m, op.operands[0], space, size * len(items), values)


def store_bytes(m: Machine, operand: Operand, space: str, size: int, values: Array) -> None:
    m.stored()
    address = address_of(m, operand, space)
    if space == "shared" or (space == "generic" and bool((address < SHARED_WINDOW * 2).all())):
        start = m.shared.locate(m.lanes, address % SHARED_WINDOW, size)
        offsets = start[:, None] + np.arange(size)
        m.shared.store(offsets, values)
        return
    if space not in ("global", "generic"):
        raise TilusError(f"stores to {space} memory are not emulated")
    start = m.memory.locate(address, size)
    m.memory.data[start[:, None] + np.arange(size)] = values


# ---- atomics ------------------------------------------------------------------------------------


@opcode("atom", "red")
def _atom(m: Machine, op: Instruction) -> None:
    """One lane after the other: lanes may meet at one address."""
    space, kind = _space(op), op.modifiers[-1]
    has_result = op.opcode == "atom"
    target = op.operands[0] if has_result else Symbol("_")
    place, *arguments = op.operands[has_result:]
    size = np.dtype(TYPES[kind]).itemsize
    address = address_of(m, place, space)
    shared = space == "shared" or (space == "generic" and bool((address < 2 * SHARED_WINDOW).all()))
    if shared:
        # Bits of a word that nobody wrote may stay undefined: sub-byte stores update words in part.
        start = m.shared.locate(m.lanes, address % SHARED_WINDOW, size)
        m.shared.mark_written(start[:, None] + np.arange(size), atomic=True)
        memory = m.shared.data
    else:
        start, memory = m.memory.locate(address, size, atomic=True), m.memory.data
    values = [np.broadcast_to(m.read(o, kind), m.lanes.shape) for o in arguments]
    old = np.zeros(len(m.lanes), TYPES[kind])
    cells = memory.view(TYPES[kind])
    update = _UPDATES[next(n for n in _UPDATES if op.has(n))]
    new = old.copy()
    with np.errstate(all="ignore"):
        for lane, cell in enumerate(start // size):
            old[lane] = cells[cell]
            cells[cell] = new[lane] = update(old[lane], *(v[lane] for v in values))
    if not has_result or (old.view(np.uint8) != new.view(np.uint8)).any():
        m.stored()
    m.poll()
    m.write(target, old)


_UPDATES: dict[str, Any] = {
    "add": lambda old, x: old + x,
    "min": min,
    "max": max,
    "exch": lambda old, x: x,
    "and": lambda old, x: old & x,
    "or": lambda old, x: old | x,
    "xor": lambda old, x: old ^ x,
    "cas": lambda old, compare, x: x if old == compare else old,
}


# ---- asynchronous copies ------------------------------------------------------------------------


@opcode("cp")
def _cp(m: Machine, op: Instruction) -> None:
    """cp.async: `size` bytes, of which `read` come from global memory and the rest are zeros."""
    if op.has("commit_group"):
        m.shared.commit(m.lanes)
        return
    if op.has("wait_group"):
        m.shared.wait(m.lanes, int(m.read(op.operands[0], "u32")))
        return
    if op.has("wait_all"):
        m.shared.wait(m.lanes, None)
        return
    target, origin, length, *partial = op.operands
    size = int(m.read(length, "u32"))
    read = np.full(m.lanes.shape, size, np.int64)
    if partial:
        read = np.broadcast_to(m.read(partial[0], "u32"), m.lanes.shape).astype(np.int64)
    start = m.shared.locate(m.lanes, address_of(m, target, "shared"), size)
    source = address_of(m, origin, "global")
    data = np.zeros((len(m.lanes), size), np.uint8)
    some = read > 0
    if some.any():
        first = m.memory.locate(source[some], size)
        columns = np.arange(size)
        data[some] = np.where(
            columns < read[some, None], m.memory.data[first[:, None] + columns], 0
        )
    m.shared.copy(m.lanes, start[:, None] + np.arange(size), data)


# ---- control ------------------------------------------------------------------------------------


@opcode("bra")
def _bra(m: Machine, op: Instruction) -> None:
    target = op.operands[0]
    assert isinstance(target, Symbol)
    m.jump(target.name)


@opcode("ret", "exit")
def _ret(m: Machine, op: Instruction) -> None:
    m.exit()


@opcode("bar", "barrier")
def _bar(m: Machine, op: Instruction) -> None:
    if op.has("warp"):
        m.warps("bar.warp.sync")
        m.shared.meet(WARP_SYNC, m.lanes, WARP)
        return
    if not op.has("sync"):
        raise TilusError("this barrier is not emulated", found=op.name)
    values = [np.broadcast_to(m.read(o, "u32"), m.lanes.shape) for o in op.operands]
    number = values[0] if values else np.zeros(m.lanes.shape, np.uint32)
    m.wait(number, int(values[1][0]) if len(values) > 1 else None)


@opcode("membar", "fence", "nanosleep", "prefetch", "discard", "applypriority")
def _order(m: Machine, op: Instruction) -> None:
    """Every access is visible at once here."""


@opcode("trap")
def _trap(m: Machine, op: Instruction) -> None:
    raise TilusError("the kernel executed a trap")
