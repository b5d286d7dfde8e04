"""Running combinations of a tile along a dimension, digit by digit.

    spatial(4).local(2) along dim 0:  registers 0 1 of a thread, then the four threads

A dimension is split into digits, each of registers or of threads. They are taken from the least
significant to the most: before a digit is taken, each register holds its prefix within a block of
the lower digits, and the *totals* are what each whole block combines to, known to all its threads.
Taking the digit puts as many blocks as it counts into one: each register is combined with the
totals of the blocks before its own.

The surprise: totals have fewer registers than the tile, one for each *slot*, that is, for each
value of the register digits not yet taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tilus.codegen.collective import (
    ALL_LANES,
    Fold,
    ThreadDigit,
    pass_values,
    replicas,
    thread_digits,
)
from tilus.codegen.emitter import Emitter
from tilus.ir.layout import RegisterLayout

Table = np.ndarray[Any, Any]


@dataclass(frozen=True)
class LocalDigit:
    """`size` registers, `weight` apart, whose elements are `stride` apart along the dimension."""

    size: int
    weight: int
    stride: int


class Prefixes:
    """Turns `values`, an array of a value for each register, into their prefixes along `dim`."""

    def __init__(self, e: Emitter, layout: RegisterLayout, dim: int, fold: Fold, values: str):
        self.e = e
        self.layout = layout
        self.fold = fold
        self.values = values
        self.totals, self.offset = values, 0  # the array, and where the totals begin in it
        self.base = np.arange(layout.local_size)  # of each register, the first with its slot
        self.taken: list[ThreadDigit] = []
        threads = [d for d in thread_digits(layout) if d.dim == dim]
        digits: list[LocalDigit | ThreadDigit] = [*_local_digits(layout, dim), *threads]
        self.digits = sorted(digits, key=lambda digit: digit.stride)

    def emit(self) -> None:
        """Take every digit."""
        for digit in self.digits:
            if isinstance(digit, LocalDigit):
                self._take_registers(digit)
            elif digit.in_warp:
                self._take_lanes(digit)
            else:
                self._take_warps(digit)

    @property
    def slots(self) -> tuple[Table, Table]:
        """The first register of each slot, and the slot of each register."""
        return np.unique(self.base, return_inverse=True)

    def _total(self, slot: str) -> str:
        return f"{self.totals}[{f'{slot} + {self.offset}' if self.offset else slot}]"

    def _take_registers(self, digit: LocalDigit) -> None:
        """Combine the totals register by register; all but the first block have one before."""
        e, kind = self.e, self.fold.c_type
        old_slot = self.slots[1]
        coordinate = np.arange(len(self.base)) // digit.weight % digit.size
        self.base = self.base - coordinate * digit.weight
        first, slot = self.slots
        count = len(first)
        blocks = np.concatenate([old_slot[first + c * digit.weight] for c in range(digit.size)])
        run = e.temporary("run")
        e(f"{kind} {run}[{digit.size * count}];")
        with e.unrolled(digit.size * count) as i:
            e(f"{run}[{i}] = {self._total(e.mapped(blocks, i))};")
        with e.unrolled((digit.size - 1) * count) as i:
            following = f"{run}[{i} + {count}]"
            e(f"{following} = {self.fold(e, f'{run}[{i}]', following)};")
        later = np.flatnonzero(coordinate > 0)
        self._shift(later, run, ((coordinate - 1) * count + slot)[later])
        self.totals, self.offset = run, (digit.size - 1) * count

    def _take_lanes(self, digit: ThreadDigit) -> None:
        """Combine the totals of 1, 2, 4, ... lanes before; then those before this lane."""
        e, kind, weight = self.e, self.fold.c_type, digit.weight
        count = len(self.slots[0])
        before, total, at = self._declare(digit, count)
        with e.unrolled(count) as i:
            e(f"{kind} folded = {self._total(i)};")
            e("#pragma unroll")
            with e.block(f"for (int reach = 1; reach < {digit.size}; reach *= 2)"):
                e(f"const {kind} below = __shfl_up_sync({ALL_LANES}, folded, reach * {weight});")
                e(f"if ({at} >= reach) folded = {self.fold(e, 'below', 'folded')};")
            e(f"{before}[{i}] = __shfl_up_sync({ALL_LANES}, folded, {weight});")
            if total is not None:
                last = f"tid + ({digit.size - 1} - {at}) * {weight}"
                e(f"{total}[{i}] = __shfl_sync({ALL_LANES}, folded, {last});")
        self._take_threads(digit, before, total, at)

    def _take_warps(self, digit: ThreadDigit) -> None:
        """Combine the totals of all threads of the digit, passed through shared memory."""
        e, kind = self.e, self.fold.c_type
        e.note("running combination: warps pass their totals through shared memory")
        count = len(self.slots[0])
        totals = e.temporary("own")
        e(f"{kind} {totals}[{count}];")
        with e.unrolled(count) as i:
            e(f"{totals}[{i}] = {self._total(i)};")
        before, total, at = self._declare(digit, count)
        same = (*self.taken, *replicas(self.layout))
        read = pass_values(e, totals, count, self.fold.dtype, (digit,), self.layout, same)
        with e.unrolled(count) as i:
            e(f"{kind} folded = {read(i, '0')};")
            e(f"{before}[{i}] = folded;")
            with e.unrolled(digit.size - 1, "j") as j:
                e(f"if ({at} == {j} + 1) {before}[{i}] = folded;")
                e(f"folded = {self.fold(e, 'folded', read(i, f'({j} + 1)'))};")
            if total is not None:
                e(f"{total}[{i}] = folded;")
        self._take_threads(digit, before, total, at)

    def _declare(self, digit: ThreadDigit, count: int) -> tuple[str, str | None, str]:
        """Arrays for what lies before this thread and for all; which of the threads it is.

        The totals of all are not needed after the last digit.
        """
        e, kind = self.e, self.fold.c_type
        before, at = e.temporary("before"), e.temporary("at")
        e(f"const int {at} = {e.index(digit.coordinate(e))};")
        e(f"{kind} {before}[{count}];")
        if digit is self.digits[-1]:
            return before, None, at
        total = e.temporary("total")
        e(f"{kind} {total}[{count}];")
        return before, total, at

    def _take_threads(self, digit: ThreadDigit, before: str, total: str | None, at: str) -> None:
        with self.e.block(f"if ({at} > 0)"):
            self._shift(np.arange(len(self.base)), before, self.slots[1])
        if total is not None:
            self.totals, self.offset = total, 0
        self.taken.append(digit)

    def _shift(self, registers: Table, before: str, place: Table) -> None:
        """Combine each of the registers with the value at its place in `before`."""
        e = self.e
        with e.unrolled(len(registers)) as i:
            value = f"{self.values}[{e.mapped(registers, i)}]"
            e(f"{value} = {self.fold(e, f'{before}[{e.mapped(place, i)}]', value)};")


def _local_digits(layout: RegisterLayout, dim: int) -> list[LocalDigit]:
    result: list[LocalDigit] = []
    weight = 1
    for digit in reversed(layout.local_digits):
        if digit.dim == dim and digit.size > 1:
            result.append(LocalDigit(digit.size, weight, digit.stride))
        weight *= digit.size
    return result
