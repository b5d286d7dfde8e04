"""Where the registers of a tile lie in a shared tensor: swizzled addresses and their widths.

An offset is a variable and a constant. What a swizzle leaves as it is stays outside of it, so that
the rows and stages of a thread share one swizzled offset.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tilus.codegen.emitter import Emitter
from tilus.codegen.pieces import Piece, number_or, turns
from tilus.codegen.scalar import atom
from tilus.ir.expr import Expr, apply, as_expr, as_int
from tilus.ir.layout import RegisterLayout, SharedLayout, Swizzle
from tilus.ir.tensor import RegisterTensor, SharedTensor
from tilus.ir.terms import split_constant, sum_terms


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
        inside = [as_expr(j) for j in self.layout.indices(thread, number_or(register))]
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


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
