"""Data movement: registers, addresses and the state spaces, and asynchronous copies.

A generic address tells its space by its window: [2^36, 2^37) is shared, [2^37, 2^38) local and
[2^38, 2^39) parameter memory; tensors and constants lie above, at 2^40. Source: PTX ISA, "State
Spaces", "Generic Addressing" and "Data Movement and Conversion Instructions".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tilus.errors import TilusError
from tilus.ptx.arith import predicate
from tilus.ptx.convert import extended
from tilus.ptx.machine import STORED, TYPES, Machine, opcode
from tilus.ptx.memory import SHARED_WINDOW, Array
from tilus.ptx.syntax import (
    LOADS,
    Address,
    Immediate,
    Instruction,
    Negated,
    Operand,
    Register,
    Symbol,
    Vector,
)

LOCAL_WINDOW, PARAM_WINDOW = 1 << 37, 1 << 38
WINDOWS = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "param": PARAM_WINDOW}
PARAM_ALIGNMENT = 16
POLICY = 0x706F6C69637930  # what createpolicy gives, and hardly a number by chance


def space_of(op: Instruction) -> str:
    """The state space that an instruction names, or "generic"."""
    for modifier in op.modifiers:
        space = modifier.partition("_")[0]  # shared::cta is read as shared_cta
        if space in ("global", "shared", "param", "local", "const"):
            if modifier == "shared_cluster":
                raise op.refusal("memory of a cluster")
            return space
    return "generic"


def type_of(op: Instruction) -> str:
    """The type an instruction moves: its last modifier."""
    kind = op.modifiers[-1]
    if kind not in TYPES:
        raise op.refusal(f"the type {kind}")
    return kind


# ---- registers and addresses --------------------------------------------------------------------


@opcode("mov")
def _mov(m: Machine, op: Instruction) -> None:
    target, source = op.operands
    kind = type_of(op)
    if isinstance(source, Vector):
        m.write(target, _packed(m, source, kind))
    elif isinstance(target, Vector):
        _unpack(m, target, m.read(source, kind), kind)
    elif isinstance(source, Symbol):
        m.write(target, np.full(m.lanes.shape, symbol_address(m, source.name), TYPES[kind]))
    elif kind == "pred":
        m.write(target, predicate(m, source))
    else:
        m.write(target, m.read(source, kind))


def symbol_address(m: Machine, name: str) -> int:
    """The address of a variable in its own space."""
    if name in m.local_addresses:
        return m.local_addresses[name]
    if name in m.params:
        return param_offsets(m)[name]
    return m.symbol_address(name)


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
    """From an address in a space to the generic one, or back with .to."""
    address = _value(m, op.operands[1])
    window = WINDOWS.get(space_of(op), 0)
    m.write(
        op.operands[0], (address - window if op.has("to") else address + window).view(np.uint64)
    )


@opcode("isspacep")
def _isspacep(m: Machine, op: Instruction) -> None:
    spaces = _spaces(_value(m, op.operands[1]))
    wanted = space_of(op)
    m.write(op.operands[0], spaces == ("global" if wanted == "const" else wanted))


def _value(m: Machine, base: Operand) -> Array:
    """What an address begins with, as one int64 for each active lane."""
    if isinstance(base, Register):
        wide = m.registers[base.name].dtype.itemsize == 8
        return m.read(base, "u64" if wide else "u32").astype(np.int64)
    if isinstance(base, Symbol):
        return np.full(m.lanes.shape, symbol_address(m, base.name), np.int64)
    assert isinstance(base, Immediate)
    return np.full(m.lanes.shape, base.value, np.int64)


def address_of(m: Machine, operand: Operand, space: str) -> Array:
    """The byte address of every active lane, in `space`."""
    assert isinstance(operand, Address)
    value = _value(m, operand.base) + operand.offset
    if space == "shared" and (value >= SHARED_WINDOW).all():
        value = value - SHARED_WINDOW
    return value


def _spaces(address: Array) -> Array:
    """The name of the space of each generic address."""
    spaces = np.full(address.shape, "global")
    for space, window in WINDOWS.items():
        spaces[(address >= window) & (address < 2 * window)] = space
    return spaces


def places(m: Machine, operand: Operand, space: str) -> Iterator[tuple[str, Any, Array]]:
    """Each space that is accessed: its name, an index of active lanes, their addresses there.

    Parameters of calls lie in local memory, as the manual says of those whose address is taken.
    Source: PTX ISA, "Device Function Parameters".
    """
    address = address_of(m, operand, space)
    if space == "param" and _is_local(m, operand):
        space = "local"
    if space != "generic":
        yield ("global" if space == "const" else space), slice(None), address
        return
    spaces = _spaces(address)
    for name in np.unique(spaces).tolist():
        lanes = spaces == name
        yield name, lanes, address[lanes] - WINDOWS.get(name, 0)


def _is_local(m: Machine, operand: Operand) -> bool:
    base = operand.base if isinstance(operand, Address) else None
    return isinstance(base, Symbol) and base.name in m.local_addresses


# ---- parameters ---------------------------------------------------------------------------------


def param_offsets(m: Machine) -> dict[str, int]:
    """Where each parameter of the kernel lies in parameter memory."""
    offsets: dict[str, int] = {}
    size = 0
    for name, _ in m.kernel.params:
        offsets[name] = size
        size += -(-m.kernel.param_bytes[name] // PARAM_ALIGNMENT) * PARAM_ALIGNMENT
    return offsets


def _param(m: Machine, name: str) -> bytes:
    """The bytes of a parameter: a number of its type, or what a structure holds."""
    declared, value = m.params[name]
    size = m.kernel.param_bytes[name]
    data = value if isinstance(value, bytes) else np.asarray(value, TYPES[declared]).tobytes()
    if len(data) > size or (isinstance(value, bytes) and len(data) != size):
        raise TilusError(
            f"the value of the parameter {name} has another size",
            found=f"{len(data)} bytes",
            expected=f"{size} bytes",
        )
    return data.ljust(size, b"\0")


def _load_params(m: Machine, address: Array, size: int) -> Array:
    """(lanes, size) bytes of parameter memory."""
    image = b"".join(
        _param(m, name).ljust(-(-m.kernel.param_bytes[name] // PARAM_ALIGNMENT) * PARAM_ALIGNMENT)
        for name, _ in m.kernel.params
    )
    _check_inside("a parameter access", address, size, len(image))
    return np.frombuffer(image, np.uint8)[address[:, None] + np.arange(size)]


def _check_inside(what: str, address: Array, size: int, end: int) -> None:
    wrong = (address < 0) | (address + size > end)
    if wrong.any():
        raise TilusError(
            f"{what} is out of bounds",
            found=f"{size} bytes at {int(address[wrong][0])}",
            expected=f"within {end} bytes",
        )
    if (address % size != 0).any():
        raise TilusError(f"{what} is not aligned", found=f"{size} bytes at {int(address.max())}")


# ---- loads and stores ---------------------------------------------------------------------------


def _items(operand: Operand) -> tuple[Operand, ...]:
    return operand.items if isinstance(operand, Vector) else (operand,)


@opcode(*LOADS)
def _ld(m: Machine, op: Instruction) -> None:
    kind = type_of(op)
    items = _items(op.operands[0])
    if op.has("acquire") or op.has("volatile") or op.has("relaxed"):
        m.poll()
    size = np.dtype(TYPES[kind]).itemsize
    values = load_bytes(m, op.operands[1], space_of(op), size * len(items), op.used_bytes)
    parts = values.reshape(-1, len(items), size).copy().view(TYPES[kind]).reshape(-1, len(items))
    for item, part in zip(items, parts.T, strict=True):
        m.write(item, extended(m, item, np.ascontiguousarray(part)))


def load_bytes(
    m: Machine, operand: Operand, space: str, size: int, used_bytes: int | None = None
) -> Array:
    """(lanes, size) bytes, read after every check.

    Those without a bit in the mask `used_bytes` may hold anything, but must lie in bounds. Source:
    PTX ISA, "Pragma Strings: used_bytes_mask".
    """
    used = None if used_bytes is None else (used_bytes >> np.arange(size) & 1).astype(bool)
    values = np.zeros((len(m.lanes), size), np.uint8)
    for name, mask, address in places(m, operand, space):
        if name == "shared":
            start = m.shared.locate(m.lanes[mask], address, size)
            offsets = start[:, None] + np.arange(size)
            m.shared.check_readable(offsets, used)
            values[mask] = m.shared.data[offsets]
        elif name == "local":
            _check_inside("a local access", address, size, m.local.shape[1])
            values[mask] = m.local[m.lanes[mask][:, None], address[:, None] + np.arange(size)]
        elif name == "param":
            values[mask] = _load_params(m, address, size)
        else:
            start = m.memory.locate(address, size, lanes=m.lanes[mask])
            values[mask] = m.memory.read(start, size, used)
    return values


@opcode("st")
def _st(m: Machine, op: Instruction) -> None:
    kind = type_of(op)
    items = _items(op.operands[1])
    parts = [np.broadcast_to(m.read(item, kind), m.lanes.shape) for item in items]
    values = np.ascontiguousarray(np.stack(parts, -1)).view(np.uint8).reshape(len(m.lanes), -1)
    store_bytes(m, op.operands[0], space_of(op), values)


def store_bytes(m: Machine, operand: Operand, space: str, values: Array) -> None:
    """Store (lanes, size) bytes after every check."""
    size = values.shape[1]
    for name, mask, address in places(m, operand, space):
        if name == "local":
            _check_inside("a local access", address, size, m.local.shape[1])
            m.local[m.lanes[mask][:, None], address[:, None] + np.arange(size)] = values[mask]
            continue
        if name == "param":
            raise TilusError("the kernel stores to its parameters", hint="copy them first")
        m.stored()
        if name == "shared":
            start = m.shared.locate(m.lanes[mask], address, size)
            m.shared.store(start[:, None] + np.arange(size), values[mask])
        else:
            m.memory.write(m.memory.locate(address, size, lanes=m.lanes[mask]), values[mask])


@opcode("prefetch", "prefetchu", "discard", "applypriority")
def _hint(m: Machine, op: Instruction) -> None:
    """Caches are not emulated, so hints to them do nothing."""


@opcode("createpolicy")
def _createpolicy(m: Machine, op: Instruction) -> None:
    """A policy of eviction is opaque: nothing but hints takes it."""
    if op.modifiers[0] not in ("fractional", "range", "cvt"):
        raise op.refusal()
    m.write(op.operands[0], np.full(m.lanes.shape, POLICY, np.uint64))


def _check_policy(m: Machine, operand: Operand) -> None:
    """What a hint names must be a policy; which one means nothing to the values."""
    found = np.broadcast_to(m.read(operand, "b64"), m.lanes.shape)
    if (found != POLICY).any():
        raise TilusError(
            "a cache hint is no policy of eviction",
            found=hex(int(found[found != POLICY][0])),
            expected="what createpolicy gave",
        )


# ---- asynchronous copies ------------------------------------------------------------------------


@opcode("cp")
def _cp(m: Machine, op: Instruction) -> None:
    """cp.async: `size` bytes, of which some come from global memory and the rest are zeros."""
    if op.has("bulk") or op.has("reduce") or op.has("mbarrier"):
        raise op.refusal()
    if op.has("commit_group"):
        m.shared.commit(m.lanes)
        return
    if op.has("wait_group"):
        m.shared.wait(m.lanes, int(m.read(op.operands[0], "u32")))
        return
    if op.has("wait_all"):
        m.shared.wait(m.lanes, None)
        return
    target, origin, length, *more = op.operands
    partial = more
    if op.has("L2_cache_hint"):
        *partial, policy = more
        _check_policy(m, policy)
    size = int(m.read(length, "u32"))
    read = _read_bytes(m, partial[0], size) if partial else np.full(m.lanes.shape, size, np.int64)
    start = m.shared.locate(m.lanes, address_of(m, target, "shared"), size)
    source = address_of(m, origin, "global")
    data = np.zeros((len(m.lanes), size), np.uint8)
    some = read > 0
    if some.any():
        first = m.memory.locate(source[some], size, lanes=m.lanes[some])
        kept = np.arange(size) < read[some, None]
        data[some] = np.where(kept, m.memory.read(first, size), 0)
    m.shared.copy(m.lanes, start[:, None] + np.arange(size), data)


def _read_bytes(m: Machine, operand: Operand, size: int) -> Array:
    """How many bytes are read: a number, or a predicate that ignores the source."""
    ignores = isinstance(operand, Negated) or (
        isinstance(operand, Register) and m.registers[operand.name].dtype == np.bool_
    )
    if ignores:
        return np.where(predicate(m, operand), 0, size)
    return np.broadcast_to(m.read(operand, "u32"), m.lanes.shape).astype(np.int64)
