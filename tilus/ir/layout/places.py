"""Numbers of threads and registers as digits: from a place to an index and back.

`unravel` gives the digits of a place, which is an int, an array or an expression; `ravel` finds the
places of arrays of indices. The tables do it once for all places of a register layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tilus.ir.layout.modes import Digit, LayoutError, as_ints, row_major_strides, table_guard

if TYPE_CHECKING:
    from tilus.ir.layout.register import RegisterLayout

IntArray = npt.NDArray[np.int64]
Digits = tuple[Digit, ...]


def ranked(shape: tuple[int, ...], ranks: Sequence[int] | None) -> Digits:
    """A digit a dimension, most significant first: row-major, or by `ranks`."""
    order = range(len(shape)) if ranks is None else as_ints(ranks, "ranks")
    if sorted(order) != list(range(len(shape))):
        raise LayoutError(
            "ranks must be a permutation of the dimensions",
            found=str(list(order)),
            expected=f"each of 0..{len(shape) - 1} once",
        )
    dims = sorted(range(len(shape)), key=order.__getitem__)
    return tuple(Digit(shape[dim], dim, 1) for dim in dims)


def widen(digits: Digits, factors: tuple[int, ...]) -> Digits:
    """The digits over a tile in which each element has become `factors` of them."""
    return tuple(
        digit
        if digit.dim is None
        else Digit(digit.size, digit.dim, digit.stride * factors[digit.dim])
        for digit in digits
    )


def narrow(digits: Digits, factors: tuple[int, ...]) -> Digits:
    """The inverse of `widen`."""
    return tuple(
        digit
        if digit.dim is None
        else Digit(digit.size, digit.dim, digit.stride // factors[digit.dim])
        for digit in digits
    )


def unravel(place: Any, digits: Digits) -> list[Any]:
    """The coordinate of each digit. The first needs no `%`: places are in range."""
    weight = prod(digit.size for digit in digits)
    coordinates: list[Any] = []
    for number, digit in enumerate(digits):
        weight //= digit.size
        coordinate = place // weight if weight > 1 else place
        coordinates.append(coordinate % digit.size if number else coordinate)
    return coordinates


def ravel(digits: Digits, index: Sequence[IntArray]) -> IntArray:
    """The place of the elements at `index`: the inverse of `unravel`, 0 for replications."""
    place = np.zeros(index[0].shape if index else (), dtype=np.int64)
    for digit in digits:
        place = place * digit.size
        if digit.dim is not None:
            place = place + index[digit.dim] // digit.stride % digit.size
    return place


def unravel_shape(flat: IntArray, shape: tuple[int, ...]) -> tuple[IntArray, ...]:
    """The multi-index of row-major numbers."""
    strides = row_major_strides(shape)
    return tuple(flat // stride % extent for stride, extent in zip(strides, shape, strict=True))


def scaled(value: Any, factor: int) -> Any:
    """`value * factor`, without a product by 1."""
    return value if factor == 1 else value * factor


def sum_of(parts: list[Any], zero: Any) -> Any:
    """The sum of `parts`; `zero` where there is none, and its shape where it is an array."""
    if not parts:
        return zero
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total + zero if isinstance(zero, np.ndarray) else total


def check_range(value: Any, end: int, what: str) -> None:
    """Raise a LayoutError, which says `what`, where ints or arrays leave [0, end)."""
    if isinstance(value, int) and 0 <= value < end:
        return
    if not isinstance(value, (int, np.integer, np.ndarray)):
        return  # an expression: its range is the value analysis' business
    array: npt.NDArray[Any] = np.asarray(value)
    if array.size and (array.min() < 0 or array.max() >= end):
        raise LayoutError(
            f"{what} out of range", found=f"{array.min()}..{array.max()}", expected=f"[0, {end})"
        )


# ---- cached tables


@lru_cache(maxsize=512)
def logical_indices(layout: RegisterLayout) -> IntArray:
    """See `RegisterLayout.logical_indices`."""
    table_guard(layout.num_threads * layout.local_size, "the layout")
    strides = row_major_strides(layout.shape)

    def part(digits: Digits, size: int) -> IntArray:
        total = np.zeros(size, dtype=np.int64)
        for digit, coordinate in zip(digits, unravel(np.arange(size), digits), strict=True):
            if digit.dim is not None:
                total += coordinate * (digit.stride * strides[digit.dim])
        return total

    across = part(layout.spatial_digits, layout.num_threads)
    within = part(layout.local_digits, layout.local_size)
    return frozen(across[:, None] + within)


@lru_cache(maxsize=512)
def owner_table(layout: RegisterLayout) -> tuple[IntArray, IntArray]:
    """See `RegisterLayout.owner_table`."""
    # A stable sort keeps places in thread order, so the threads of an element come out ascending.
    places = np.argsort(layout.logical_indices(), axis=None, kind="stable")
    places = places.reshape(layout.size, layout.replication)
    threads, locals_ = np.divmod(places, layout.local_size)
    return frozen(threads), frozen(np.ascontiguousarray(locals_[:, 0]))


@lru_cache(maxsize=512)
def replica_offsets(layout: RegisterLayout) -> IntArray:
    """int64 (R,): what to add to the first thread holding an element for each that holds it."""
    offsets = np.zeros(1, dtype=np.int64)
    weight = layout.num_threads
    for digit in layout.spatial_digits:
        weight //= digit.size
        if digit.dim is None:
            offsets = (offsets[:, None] + np.arange(digit.size) * weight).ravel()
    return frozen(offsets)


def frozen(array: IntArray) -> IntArray:
    """`array`, made read-only: caches hand it to many."""
    array.flags.writeable = False
    return array
