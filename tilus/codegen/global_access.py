"""Where the registers of a tile lie in a global tensor: addresses, widths and masks.

    x: float16[16, 32]  with 8 elements in a row per thread, rows 64 bytes apart

    const uint8_t* from = g + (tid / 4) * 64 + tid % 4 * 16;     what the thread contributes
    reinterpret_cast<uint4*>(x)[i] = *(const uint4*)(from + i * 2048)      what the register does

The index of an element is a sum of what the thread and what the register contribute, so the first
is computed once and the second is constant after unrolling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from tilus.codegen.emitter import Emitter
from tilus.codegen.pieces import Piece, number_or, turns
from tilus.dtypes import int64
from tilus.ir.expr import Expr, apply, as_expr, as_int, cast
from tilus.ir.layout import RegisterLayout
from tilus.ir.tensor import GlobalTensor, RegisterTensor


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
        inside = self.layout.indices(thread, number_or(register))
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
