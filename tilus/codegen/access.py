"""How a register tile and memory meet: the widest pieces, their addresses and their masks.

    x: float16[16, 32]  with 8 elements in a row per thread, rows 64 bytes apart

    const uint8_t* from = g + (tid / 4) * 64 + tid % 4 * 16;     what the thread contributes
    reinterpret_cast<uint4*>(x)[i] = *(const uint4*)(from + i * 2048)      what the register does

A thread's registers are seen as bytes. Registers that hold consecutive elements along the last
dimension form a *run*; a run is cut into pieces of 16, 8, 4, 2 or 1 bytes, the largest that its
alignment allows. The index of an element is a sum of what the thread and what the register
contribute, so the first is computed once and the second is constant after unrolling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tilus.codegen.emitter import Emitter
from tilus.codegen.scalar import atom
from tilus.dtypes import int64
from tilus.ir.expr import Expr, apply, as_expr, as_int, cast
from tilus.ir.layout import RegisterLayout, SharedLayout, Swizzle
from tilus.ir.tensor import GlobalTensor, RegisterTensor, SharedTensor
from tilus.ir.terms import split_constant, sum_terms

PIECES = {16: "uint4", 8: "uint2", 4: "uint32_t", 2: "uint16_t", 1: "uint8_t"}


@dataclass(frozen=True)
class Piece:
    """One access of a thread."""

    address: str  # C, in bytes from the tensor's first
    condition: str | None  # C; None: always inside
    base: str = ""  # C: what the addresses of a thread have in common
    offset: int | None = None  # bytes from there, where known


@dataclass(frozen=True, eq=False)
class GlobalAccess:
    """A register tile at `offsets` of a global tensor, along `dims`.

    With `edge`, an index out of bounds stands for the nearest one inside.
    """

    emitter: Emitter
    tile: RegisterTensor
    tensor: GlobalTensor
    offsets: tuple[Expr, ...]
    dims: tuple[int, ...]
    edge: bool = False
    base: str = ""

    @property
    def layout(self) -> RegisterLayout:
        assert self.tile.layout is not None
        return self.tile.layout

    @property
    def nbits(self) -> int:
        return self.tile.dtype.nbits

    @cached_property
    def strides(self) -> tuple[Expr, ...]:
        return tuple(as_expr(s) for s in self.tensor.layout.strides)

    # ---- where elements are ----

    def indices(self, thread: Expr | int, register: Expr | int) -> list[Expr]:
        """The index in the tensor, per dimension, without the offsets."""
        inside = self.layout.indices(thread, _number_or(register))
        result = [as_expr(0)] * len(self.offsets)
        for dim, index in zip(self.dims, inside, strict=True):
            result[dim] = self._short(as_expr(index))
        return result

    @cached_property
    def of_thread(self) -> tuple[Expr, ...]:
        """`indices` of the thread's first register: what the thread contributes."""
        return tuple(self.indices(self.emitter.thread, 0))

    def _short(self, expr: Expr) -> Expr:
        return self.emitter.short(expr)

    def linear(self, index: Sequence[Expr]) -> Expr:
        """Elements from the tensor's first, in 64 bits where a stride or extent is not constant."""
        steps = [
            self._step(position, stride)
            for position, stride in zip(index, self.strides, strict=True)
            if as_int(position) != 0
        ]
        if not steps:
            return as_expr(0)
        total = steps[0]
        for step in steps[1:]:
            total = apply("add", total, step)
        return self._short(total)

    def _step(self, position: Expr, stride: Expr) -> Expr:
        low, high = self.emitter.range_of(position)
        step = as_int(stride)
        small = step is not None and low is not None and high is not None
        if small and max(abs(low), abs(high)) * abs(step) < 2**30:  # type: ignore[arg-type, operator]
            return apply("mul", position, stride)
        return apply("mul", cast(position, int64), cast(stride, int64))

    # ---- how wide an access may be ----

    @cached_property
    def run(self) -> int:
        """Consecutive registers that are consecutive elements in memory."""
        if not self.dims or as_int(self.strides[self.dims[-1]]) != 1:
            return 1
        if self.edge and self._needs_check(self.dims[-1]):
            return 1
        return self.layout.contiguous_local(-1)

    @cached_property
    def piece_bytes(self) -> int | None:
        """The widest legal access, or None where elements do not fill whole bytes."""
        run = self.run
        bits = math.gcd(run * self.nbits, self.divisor(run) * self.nbits, 128)
        return bits // 8 if bits >= 8 and bits % 8 == 0 else None

    def divisor(self, run: int) -> int:
        """What every run's first address, and every bound it may cross, is a multiple of."""
        e = self.emitter
        groups = self.layout.local_size // run
        i = e.loop_variable("i", groups)
        inside = self.indices(e.thread, i * run)
        first = self.linear([apply("add", o, j) for o, j in zip(self.offsets, inside, strict=True)])
        result = math.gcd(e.facts.alignment(self.tensor), e.facts.divisibility(first))
        if self.dims and self._needs_check(self.dims[-1]):
            last = self.dims[-1]
            start = apply("add", self.offsets[last], inside[last])
            result = math.gcd(
                result,
                e.facts.divisibility(self.tensor.shape[last]),
                e.facts.divisibility(self._short(start)),
            )
        return result

    def _needs_check(self, dim: int) -> bool:
        """Whether an index may lie outside of dimension `dim`."""
        low, high = self._range(dim)
        _, extent = as_int(self.tensor.shape[dim]), self.emitter.range_of(self.tensor.shape[dim])[0]
        return low is None or low < 0 or high is None or extent is None or high >= extent

    def _range(self, dim: int) -> tuple[int | None, int | None]:
        low, high = self.emitter.range_of(self.offsets[dim])
        reach = dict(zip(self.dims, self.layout.shape, strict=True)).get(dim, 1) - 1
        return low, None if high is None else high + reach

    # ---- text ----

    def conditions(self, thread: Sequence[Expr], register: Sequence[Expr]) -> str | None:
        """C for "inside the tensor", leaving out what value analysis proves."""
        parts: list[str] = []
        for dim, offset in enumerate(self.offsets):
            if self.edge or not self._needs_check(dim):
                continue
            index = self._short(apply("add", apply("add", offset, thread[dim]), register[dim]))
            low, _ = self._range(dim)
            if low is None or low < 0:
                parts.append(self.emitter.index(apply("ge", index, 0)))
            parts.append(self.emitter.index(apply("lt", index, self.tensor.shape[dim])))
        return " && ".join(parts) if parts else None

    def begin(self) -> None:
        """Emit what the thread contributes to every address."""
        e = self.emitter
        base = e.temporary("at")
        start = self.linear(self._placed(self.of_thread))
        e(f"const int64_t {base} = {self._bytes(start)};")
        object.__setattr__(self, "base", base)

    def _placed(self, index: Sequence[Expr]) -> list[Expr]:
        """Indices in the tensor, within bounds where there is an edge."""
        placed = [apply("add", o, j) for o, j in zip(self.offsets, index, strict=True)]
        if not self.edge:
            return placed
        return [
            self._inside(dim, self._short(one)) if self._needs_check(dim) else one
            for dim, one in enumerate(placed)
        ]

    def _inside(self, dim: int, index: Expr) -> Expr:
        last = apply("sub", self.tensor.shape[dim], 1)
        return apply("max", apply("min", index, last), 0)

    @cached_property
    def _edges_of_thread(self) -> bool:
        """Whether all registers of a thread are alike in every dimension that has an edge."""
        register = self.indices(0, self.emitter.loop_variable("i", self.layout.local_size))
        checked = [dim for dim in range(len(self.offsets)) if self._needs_check(dim)]
        return all(as_int(register[dim]) == 0 for dim in checked)

    def piece(self, nbytes: int, turn: Expr) -> Piece:
        """The `turn`-th piece of `nbytes` bytes of the thread's registers, after `begin`."""
        e, run = self.emitter, self.run
        per_run = run * self.nbits // 8 // nbytes
        first = apply("mul", apply("floordiv", turn, per_run), run)
        register = self.indices(0, first)
        if self.edge and not self._edges_of_thread:
            return self._piece_at_edge(nbytes, turn, self.indices(e.thread, first))
        terms, local = [self.base], self.linear(register)
        known = as_int(local)
        if known != 0:
            terms.append(self._bytes(local))
        if per_run > 1:
            known = None
            within = apply("mod", turn, per_run)
            terms.append(e.index(apply("mul", within, nbytes)))
            step = apply("mul", within, nbytes * 8 // self.nbits)
            register[self.dims[-1]] = apply("add", register[self.dims[-1]], step)
        offset = None if known is None else known * self.nbits // 8
        return Piece(
            " + ".join(terms), self.conditions(self.of_thread, register), self.base, offset
        )

    def _piece_at_edge(self, nbytes: int, turn: Expr, index: Sequence[Expr]) -> Piece:
        """A piece whose own place decides which element it is."""
        per_run = self.run * self.nbits // 8 // nbytes
        address = self._bytes(self.linear(self._placed(index)))
        if per_run > 1:
            within = apply("mul", apply("mod", turn, per_run), nbytes)
            address = f"{address} + {self.emitter.index(within)}"
        return Piece(address, None)

    def pieces(self, nbytes: int) -> Iterator[tuple[str, Piece]]:
        """Open the unrolled loop over the thread's pieces; yields (index, piece) once."""
        self.begin()
        for i, turn in turns(self.emitter, self.layout.local_size * self.nbits // 8 // nbytes):
            yield i, self.piece(nbytes, turn)

    def _bytes(self, elements: Expr) -> str:
        """An element count as bytes; it is a multiple of whole bytes."""
        if self.nbits % 8 == 0:
            return self.emitter.index(apply("mul", elements, self.nbits // 8))
        scaled = apply("mul", elements, self.nbits)
        return self.emitter.index(apply("floordiv", scaled, 8))

    def elements(self) -> Iterator[tuple[str, str, str | None]]:
        """Open the unrolled loop over single elements; yields (index, bit address, condition)."""
        e = self.emitter
        thread = self.of_thread
        if self.edge:
            for i, turn in turns(e, self.layout.local_size):
                place = self.linear(self._placed(self.indices(e.thread, turn)))
                yield i, f"({e.index(place)}) * {self.nbits}", None
            return
        base = e.temporary("at")
        start = self.linear([apply("add", o, j) for o, j in zip(self.offsets, thread, strict=True)])
        e(f"const int64_t {base} = {e.index(start)};")
        for i, turn in turns(e, self.layout.local_size):
            register = self.indices(0, turn)
            address = f"({base} + {e.index(self.linear(register))}) * {self.nbits}"
            yield i, address, self.conditions(thread, register)


def _number_or(value: Expr | int) -> Expr | int:
    """A constant as a Python number, with which layouts compute at once."""
    number = as_int(value)
    return value if number is None else number


def turns(e: Emitter, count: int) -> Iterator[tuple[str, Expr]]:
    """Open an unrolled loop; yields its index as text and as an expression, once."""
    with e.unrolled(count) as i:
        yield i, e.loop_variable(i, count) if count > 1 else as_expr(0)


@dataclass(frozen=True)
class SharedOffset:
    """C: where an element lies, in elements from the start of the storage, swizzled.

    The constant is kept apart, so that the compiler finds it and adds it in the access itself.
    """

    variable: str
    constant: int

    def __str__(self) -> str:
        return self.scaled(1)

    def scaled(self, factor: int) -> str:
        """`factor` times the offset, an atom or a sum that ends in a constant."""
        variable = self.variable
        if factor != 1 and variable != "0":
            variable = f"{atom(variable)} * {factor}"
        constant = self.constant * factor
        if not constant:
            return variable
        return str(constant) if variable == "0" else f"{variable} + {constant}"


def shared_offset(e: Emitter, tensor: SharedTensor, index: Sequence[Expr]) -> SharedOffset:
    assert tensor.layout is not None
    linear = as_expr(tensor.layout.linear([e.short(j) for j in index]))
    if as_int(base := e.shared_base(tensor)) != 0:
        linear = apply("add", base, linear)
    swizzle = tensor.layout.swizzle
    if swizzle is None or not swizzle.bits:
        rest, constant = split_constant(e.short(linear))
        return SharedOffset(e.index(rest), constant)
    arguments = f"{swizzle.base}, {swizzle.bits}, {swizzle.shift}"
    whole, rest, constant = _beside_swizzle(e, e.short(linear), swizzle)
    swizzled = f"{e.use('swizzle')}<{arguments}>({e.index(rest)})"
    if as_int(whole) == 0:
        return SharedOffset(swizzled, constant)
    if as_int(rest) == 0:
        return SharedOffset(e.index(whole), constant)
    return SharedOffset(f"{swizzled} + {e.index(whole)}", constant)


def _beside_swizzle(e: Emitter, offset: Expr, swizzle: Swizzle) -> tuple[Expr, Expr, int]:
    """`offset` as what a swizzle leaves as it is, what it permutes, and a constant beside it.

    So what differs from stage to stage, or from row to row, is added to one swizzled offset of the
    thread.
    """
    period = 1 << (swizzle.base + swizzle.bits + swizzle.shift)
    variable, constant = split_constant(offset)
    whole, rest = as_expr(0), as_expr(0)
    for term in sum_terms(variable):
        if e.facts.divisibility(term) % period == 0:
            whole = apply("add", whole, term)
        else:
            rest = apply("add", rest, term)
    touched = ((1 << swizzle.bits) - 1) << swizzle.base
    kept = constant & (period - 1) & (touched | touched << swizzle.shift | _bits_of(e, rest))
    return whole, apply("add", rest, kept) if kept else rest, constant - kept


def _bits_of(e: Emitter, offset: Expr) -> int:
    """The bits that may be set in a sum of which no two terms share a bit; else all."""
    found = 0
    for term in sum_terms(offset):
        low, high = e.range_of(term)
        if low is None or high is None or low < 0:
            return -1
        unit = e.facts.divisibility(term)
        bits = ((1 << high.bit_length()) - 1) & -(unit & -unit) if high else 0
        if bits & found:
            return -1
        found |= bits
    return found


@dataclass(frozen=True, eq=False)
class SharedAccess:
    """A register tile in a shared tensor, or in a slice of one."""

    emitter: Emitter
    tile: RegisterTensor
    tensor: SharedTensor
    starts: tuple[Expr, ...] = ()  # where the tile begins; empty: at the first element
    dims: tuple[int, ...] = ()

    @property
    def layout(self) -> RegisterLayout:
        assert self.tile.layout is not None
        return self.tile.layout

    @property
    def storage(self) -> SharedLayout:
        assert self.tensor.layout is not None
        return self.tensor.layout

    @property
    def nbits(self) -> int:
        return self.tile.dtype.nbits

    def indices(self, thread: Expr | int, register: Expr | int) -> list[Expr]:
        inside = [as_expr(j) for j in self.layout.indices(thread, _number_or(register))]
        if not self.starts:
            return inside
        result = list(self.starts)
        for dim, index in zip(self.dims, inside, strict=True):
            result[dim] = apply("add", result[dim], index)
        return result

    def offset(self, thread: Expr | int, register: Expr | int) -> SharedOffset:
        return shared_offset(self.emitter, self.tensor, self.indices(thread, register))

    def byte_address(self, thread: Expr | int, register: Expr | int) -> str:
        """C: bytes from the start of the storage, for elements that begin at whole bytes."""
        offset = self.offset(thread, register)
        if self.nbits % 8:
            return f"{atom(str(offset))} * {self.nbits} / 8"
        return offset.scaled(self.nbits // 8)

    def table(self) -> np.ndarray[Any, Any]:
        """Unswizzled storage offset of every (thread, register), for a tile that begins at 0."""
        elements = self.layout.logical_indices()
        where = np.unravel_index(elements, self.layout.shape) if self.layout.shape else ()
        index: list[Any] = [0] * len(self.starts) if self.starts else list(where)
        if self.starts:
            for dim, part in zip(self.dims, where, strict=True):
                index[dim] = part
        return np.broadcast_to(self.storage.linear(index), elements.shape)

    @cached_property
    def run(self) -> int:
        """Registers in a row that are elements in a row, from a multiple of their number."""
        e, table = self.emitter, self.table()
        begin = as_expr(self.storage.linear(self.starts)) if self.starts else as_expr(0)
        start = apply("add", as_expr(e.shared_base(self.tensor)), begin)
        limit = math.gcd(e.facts.divisibility(start), table.shape[1])
        if self.storage.swizzle is not None:
            limit = math.gcd(limit, 1 << self.storage.swizzle.base)
        for run in sorted(_divisors(limit or table.shape[1]), reverse=True):
            rows = table.reshape(table.shape[0], -1, run)
            adjacent = (rows == rows[..., :1] + np.arange(run)).all()
            if adjacent and (rows[..., 0] % run == 0).all():
                return run
        return 1

    @cached_property
    def piece_bytes(self) -> int | None:
        """The widest legal access, or None where elements do not fill whole bytes."""
        bits = math.gcd(self.run * self.nbits, 128)
        return bits // 8 if bits % 8 == 0 else None

    def piece(self, nbytes: int, turn: Expr) -> Piece:
        """The `turn`-th piece of `nbytes` bytes of the thread's registers."""
        e, run = self.emitter, self.run
        per_run = run * self.nbits // 8 // nbytes
        group = apply("mul", apply("floordiv", turn, per_run), run)
        address = self.byte_address(e.thread, group)
        if per_run > 1:
            address += f" + {e.index(apply('mul', apply('mod', turn, per_run), nbytes))}"
        return Piece(address, None)

    def pieces(self, nbytes: int) -> Iterator[tuple[str, Piece]]:
        """Open the unrolled loop over the thread's pieces; yields (index, piece) once."""
        for i, turn in turns(self.emitter, self.layout.local_size * self.nbits // 8 // nbytes):
            yield i, self.piece(nbytes, turn)

    def elements(self) -> Iterator[tuple[str, str, None]]:
        """Open the unrolled loop over single elements; yields (index, bit address, None)."""
        e = self.emitter
        for i, turn in turns(e, self.layout.local_size):
            yield i, f"{atom(str(self.offset(e.thread, turn)))} * {self.nbits}", None


Access = GlobalAccess | SharedAccess


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def load_tile(access: Access) -> None:
    """Registers from memory in the widest legal pieces; 0 where outside of the tensor."""
    e, tile, nbytes = access.emitter, access.tile, access.piece_bytes
    name, source, nbits = e.tile(tile), e.name(access.tensor), tile.dtype.nbits
    if nbytes is None:
        e.note(f"{name}: loaded element by element, as {tile.dtype} elements are not whole bytes")
        for i, bit, condition in access.elements():
            value = masked(condition, f"{e.use('load_bits')}<{nbits}>({source}, {bit})", "0u")
            e(f"{e.use('put')}<{nbits}>({name}, {i}, {value});")
        return
    _note_width(e, name, "loaded", nbytes)
    kind = PIECES[nbytes]
    if isinstance(access, SharedAccess) and nbytes == max(PIECES):
        load = e.use("load_shared_16")
        for i, piece in access.pieces(nbytes):
            e(f"reinterpret_cast<{kind}*>({name})[{i}] = {load}({source} + {piece.address});")
        return
    for i, piece in access.pieces(nbytes):
        value = f"*reinterpret_cast<const {kind}*>({source} + {piece.address})"
        value = masked(piece.condition, value, f"{kind}()")
        e(f"reinterpret_cast<{kind}*>({name})[{i}] = {value};")


def store_tile(access: Access) -> None:
    """Registers to memory; pieces outside of the tensor are skipped."""
    e, tile, nbytes = access.emitter, access.tile, access.piece_bytes
    name, target, nbits = e.tile(tile), e.name(access.tensor), tile.dtype.nbits
    if nbytes is None:
        e.note(f"{name}: stored bit by bit, as {tile.dtype} elements are not whole bytes")
        for i, bit, condition in access.elements():
            value = f"{e.use('take')}<{nbits}>({name}, {i})"
            store = f"{e.use('store_bits')}<{nbits}>({target}, {bit}, {value});"
            e(guarded(condition, store))
        return
    _note_width(e, name, "stored", nbytes)
    kind = PIECES[nbytes]
    for i, piece in access.pieces(nbytes):
        place = f"*reinterpret_cast<{kind}*>({target} + {piece.address})"
        e(guarded(piece.condition, f"{place} = reinterpret_cast<{kind}*>({name})[{i}];"))


def _note_width(e: Emitter, name: str, verb: str, nbytes: int) -> None:
    if nbytes < max(PIECES):
        e.note(
            f"{name}: {verb} in pieces of {nbytes} bytes; its runs or their alignment allow no more"
        )


def masked(condition: str | None, value: str, otherwise: str) -> str:
    return value if condition is None else f"{condition} ? {value} : {otherwise}"


def guarded(condition: str | None, statement: str) -> str:
    return statement if condition is None else f"if ({condition}) {statement}"
