"""How the threads of a block combine and pass values: lanes by shuffles, warps by scratch memory.

    total = total + __shfl_xor_sync(0xffffffffu, total, 4);      over the lanes that are 4 apart

A register layout numbers threads by digits. A digit of a power of two lanes of one warp is crossed
by shuffles; any other one, between warps or of another size, through scratch shared memory, with a
barrier before writing and one before reading. Values meet in an order that the layout alone fixes,
so results are the same to the bit in every run.

The surprise: the code relies on a thread group being whole warps or a single thread (the verifier
sees to it), so that all lanes of a warp take part and lane = tid % 32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilus.codegen.emitter import Emitter
from tilus.codegen.scalar import atom, scalar_type
from tilus.dtypes import DataType, float32
from tilus.ir.expr import Expr, apply, as_expr
from tilus.ir.layout import RegisterLayout
from tilus.ir.tensor import RegisterTensor

WARP = 32
ALL_LANES = "0xffffffffu"
Table = np.ndarray[Any, Any]


# ---- threads by digits --------------------------------------------------------------------------


@dataclass(frozen=True)
class ThreadDigit:
    """`size` threads, `weight` apart, that differ in nothing else.

    Along `dim` of the tile they are `stride` apart; None: they hold the same elements.
    """

    size: int
    weight: int
    dim: int | None
    stride: int

    @property
    def in_warp(self) -> bool:
        """Whether shuffles reach from each of the threads to the others."""
        powers = self.size & (self.size - 1) == 0 and self.weight & (self.weight - 1) == 0
        return powers and self.size * self.weight <= WARP

    def coordinate(self, e: Emitter) -> Expr:
        """Which of the threads this one is."""
        return apply("mod", apply("floordiv", e.thread, self.weight), self.size)


def thread_digits(layout: RegisterLayout) -> tuple[ThreadDigit, ...]:
    """The thread number of `layout`, most significant first; cut where a warp ends.

    >>> from tilus.ir.layout import spatial
    >>> [(d.size, d.weight, d.in_warp) for d in thread_digits(spatial(2, 64))]
    [(2, 64, False), (2, 32, False), (32, 1, True)]
    """
    result: list[ThreadDigit] = []
    weight = 1
    for digit in reversed(layout.spatial_digits):
        lanes = math.gcd(digit.size, WARP // weight) if WARP % weight == 0 else 1
        for size, inner in ((lanes, 1), (digit.size // lanes, lanes)):
            if size > 1:
                result.append(ThreadDigit(size, weight * inner, digit.dim, digit.stride * inner))
        weight *= digit.size
    return tuple(reversed(result))


def ravel(e: Emitter, digits: Iterable[ThreadDigit]) -> tuple[Expr, int]:
    """This thread's number among those that differ in `digits`, and how many there are."""
    number, count = as_expr(0), 1
    for digit in digits:
        number = apply("add", apply("mul", number, digit.size), digit.coordinate(e))
        count *= digit.size
    return number, count


def first_of(e: Emitter, digits: Iterable[ThreadDigit]) -> str | None:
    """C for "the first of the threads that differ in `digits`"; None where there is but one."""
    conditions = [e.index(apply("eq", digit.coordinate(e), 0)) for digit in digits]
    return " && ".join(conditions) or None


def replicas(layout: RegisterLayout) -> tuple[ThreadDigit, ...]:
    """The digits of threads that hold the same elements."""
    return tuple(digit for digit in thread_digits(layout) if digit.dim is None)


# ---- values and how they combine ----------------------------------------------------------------


@dataclass(frozen=True)
class Fold:
    """An associative operator: row `op` of the operator table on values of `dtype`."""

    op: str
    dtype: DataType

    @property
    def c_type(self) -> str:
        """The C type of the values."""
        return scalar_type(self.dtype)

    def __call__(self, e: Emitter, first: str, second: str) -> str:
        """C of two C operands combined."""
        return e.scalar.operation(self.op, [first, second], self.dtype, self.dtype)


def accumulation_dtype(dtype: DataType) -> DataType:
    """Narrow floats are combined in float32 and rounded once, at the end."""
    return float32 if dtype.is_float() and dtype.nbits <= 32 else dtype


def value_as(e: Emitter, tile: RegisterTensor, register: str, dtype: DataType) -> str:
    """C of a register's value, converted to `dtype`."""
    return e.scalar.converted(e.get(tile, register), tile.dtype, dtype)


def set_value(e: Emitter, tile: RegisterTensor, register: str, value: str, dtype: DataType) -> None:
    """Store a C value of `dtype` in a register; half precision is rounded as it is stored."""
    half = tile.dtype.is_any_float16() and dtype == float32
    e.set(tile, register, value if half else e.scalar.converted(value, dtype, tile.dtype))


def fold_registers(e: Emitter, tile: RegisterTensor, slots: Table, fold: Fold) -> str:
    """Combine the registers of `tile` that have the same slot; the array of the slots' values.

    `slots`: int (local size,), dense from 0.
    """
    count = int(slots.max()) + 1
    first = np.array([int(np.argmax(slots == slot)) for slot in range(count)])
    rest = np.setdiff1d(np.arange(len(slots)), first)

    name = e.temporary("total")
    e(f"{fold.c_type} {name}[{count}];")
    with e.unrolled(count) as i:
        e(f"{name}[{i}] = {value_as(e, tile, e.mapped(first, i), fold.dtype)};")
    if len(rest):
        with e.unrolled(len(rest)) as i:
            slot = e.mapped(slots[rest], i, "slot")
            value = atom(value_as(e, tile, e.mapped(rest, i), fold.dtype))
            e(f"{name}[{slot}] = {fold(e, f'{name}[{slot}]', value)};")
    return name


def butterfly(e: Emitter, values: str, count: int, digit: ThreadDigit, fold: Fold) -> None:
    """Combine each of the `count` values over the lanes of `digit`; every lane has the result."""
    offset = digit.weight
    while offset < digit.weight * digit.size:
        with e.unrolled(count) as i:
            value = f"{values}[{i}]"
            other = f"__shfl_xor_sync({ALL_LANES}, {value}, {offset})"
            e(f"{value} = {fold(e, value, other)};")
        offset *= 2


# ---- through scratch memory ---------------------------------------------------------------------


def pass_values(
    e: Emitter,
    values: str,
    count: int,
    dtype: DataType,
    across: Sequence[ThreadDigit],
    layout: RegisterLayout,
    same: Sequence[ThreadDigit],
) -> Callable[[str, str], str]:
    """Put the `count` values of every thread where others read them.

    Threads that differ only in the digits `same` of `layout` have the same values: the first of
    them writes. The result gives the C of value i of that thread which is number c in the digits
    `across` and in all others this one.
    """
    apart = [d for d in thread_digits(layout) if d not in across and d not in same]
    (mine, threads), (group, groups) = ravel(e, apart), ravel(e, across)
    box, place = e.temporary("box"), e.temporary("place")
    kind = scalar_type(dtype)
    nbytes = count * groups * threads * dtype.nbits // 8
    e(f"{kind}* const {box} = reinterpret_cast<{kind}*>({e.scratch(nbytes)});")
    e(f"const int {place} = {e.index(mine)};")

    def value(i: str, c: str) -> str:
        terms = [_scaled(i, groups * threads), _scaled(c, threads), place]
        return f"{box}[{' + '.join(term for term in terms if term != '0')}]"

    e.sync()
    writer, number = first_of(e, same), e.index(group)
    with e.block(f"if ({writer})" if writer else ""), e.unrolled(count) as i:
        e(f"{value(i, f'({number})')} = {values}[{i}];")
    e.sync()
    return value


def _scaled(number: str, factor: int) -> str:
    return "0" if number in ("0", "(0)") else number if factor == 1 else f"{number} * {factor}"


def fold_across(
    e: Emitter,
    values: str,
    count: int,
    across: Sequence[ThreadDigit],
    layout: RegisterLayout,
    same: Sequence[ThreadDigit],
    fold: Fold,
) -> None:
    """Combine each of the `count` values over the digits `across`, in the order of the threads."""
    read = pass_values(e, values, count, fold.dtype, across, layout, same)
    others = math.prod(digit.size for digit in across) - 1
    with e.unrolled(count) as i:
        e(f"{fold.c_type} folded = {read(i, '0')};")
        with e.unrolled(others, "j") as j:
            e(f"folded = {fold(e, 'folded', read(i, f'({j} + 1)'))};")
        e(f"{values}[{i}] = folded;")


def share_with_replicas(
    e: Emitter, values: str, count: int, dtype: DataType, layout: RegisterLayout
) -> None:
    """Give the `count` values of the first thread of those that hold the same elements to all."""
    same = replicas(layout)
    if not same:
        return
    if all(digit.in_warp for digit in same):
        lane: Expr = apply("mod", e.thread, WARP)
        for digit in same:
            lane = apply("sub", lane, apply("mul", digit.coordinate(e), digit.weight))
        with e.unrolled(count) as i:
            e(f"{values}[{i}] = __shfl_sync({ALL_LANES}, {values}[{i}], {e.index(lane)});")
        return
    read = pass_values(e, values, count, dtype, (), layout, same)
    with e.unrolled(count) as i:
        e(f"{values}[{i}] = {read(i, '0')};")


# ---- stores at places of their own --------------------------------------------------------------


def store_element(
    e: Emitter, tile: RegisterTensor, register: str, memory: str, element: str
) -> None:
    """Store a register's bits as element `element` (C, in elements) of `memory`."""
    nbits, name = tile.dtype.nbits, e.tile(tile)
    if nbits % 8:
        value = e.get(tile, register)
        e(f"{e.use('store_bits')}<{nbits}>({memory}, (int64_t)({element}) * {nbits}, {value});")
        return
    kind = f"uint{nbits}_t"
    if tile.bits is None:
        value = f"reinterpret_cast<const {kind}*>({name})[{register}]"
    else:
        value = f"({kind}){e.get(tile, register)}"
    e(f"reinterpret_cast<{kind}*>({memory})[{element}] = {value};")
