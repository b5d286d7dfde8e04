"""Mixed-radix arithmetic shared by all layouts.

A dimension of extent 12 may be split, row-major, into the *modes* 3 x 4: index 7 has the
coordinates (1, 3). A layout assigns modes to places (threads, registers, addresses). Read the other
way round, a place is a number whose digits are modes, which is what `Digit` says: "this digit, of
that size, advances the index along `dim` by `stride`".

The surprise: two lists of digits that describe the same function become *identical* once
neighbouring digits are merged wherever the strides allow it (`coalesce`). All equality of layouts
rests on that.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tilus.errors import TilusError

# Tables list every (thread, register) pair or every offset; 2**27 int64 entries are 1 GiB.
MAX_TABLE_ENTRIES = 1 << 27


class LayoutError(TilusError):
    """A layout that does not exist: malformed fields, no quotient, a shape that does not fit."""


class Digit(NamedTuple):
    """One digit of a place: `size` values, each advancing the index along `dim` by `stride`.

    A replication has `dim` None and `stride` 0: it advances nothing, its values all hold the same
    element.
    """

    size: int
    dim: int | None
    stride: int


def as_int(value: Any, what: str, *, minimum: int | None = None) -> int:
    """`value` as a Python int, or a LayoutError that calls it `what`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise LayoutError(f"{what} must be an integer", found=repr(value)) from None
    if minimum is not None and number < minimum:
        raise LayoutError(f"{what} must be at least {minimum}", found=str(number))
    return number


def as_ints(values: Any, what: str, *, minimum: int | None = None) -> tuple[int, ...]:
    """`values` as a tuple of Python ints, or a LayoutError that calls them `what`."""
    if type(values) is tuple and minimum is None and all(type(v) is int for v in values):
        return values
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise LayoutError(f"{what} must be a sequence of integers", found=repr(values))
    items: Iterable[Any] = values
    return tuple(as_int(value, f"an entry of {what}", minimum=minimum) for value in items)


def as_shape(values: Any, what: str = "shape") -> tuple[int, ...]:
    """`values` as a tuple of positive extents."""
    return as_ints(values, what, minimum=1)


def as_dims(values: int | Sequence[int], rank: int, what: str = "dims") -> tuple[int, ...]:
    """Distinct dimensions in [0, rank), in the given order; negative ones count from the end."""
    given = as_ints(values if isinstance(values, Iterable) else [values], what)
    dims = tuple(dim + rank if dim < 0 else dim for dim in given)
    if any(not 0 <= dim < rank for dim in dims) or len(set(dims)) != len(dims):
        raise LayoutError(
            f"{what} must be distinct dimensions of the layout",
            found=str(list(given)),
            expected=f"distinct integers in [{-rank}, {rank})",
        )
    return dims


def as_permutation(dims: Sequence[int], rank: int) -> tuple[int, ...]:
    """`dims` as a permutation of all dimensions."""
    order = as_dims(dims, rank)
    if len(order) != rank:
        raise LayoutError(
            "permute needs every dimension once",
            found=str(list(order)),
            expected=f"{rank} dimensions",
        )
    return order


def group_modes(shape: Sequence[int], mode_shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The modes of each dimension: consecutive ones whose sizes multiply to the extent.

    >>> group_modes([16, 8], [2, 8, 4, 2])
    ((0, 1), (2, 3))
    """
    groups: list[list[int]] = []
    mode = 0
    for extent in shape:
        group: list[int] = []
        size = 1
        while size < extent and mode < len(mode_shape):
            size *= mode_shape[mode]
            group.append(mode)
            mode += 1
        if size != extent:
            raise _bad_split(shape, mode_shape)
        groups.append(group)
    if any(mode_shape[extra] != 1 for extra in range(mode, len(mode_shape))) or (
        not shape and mode_shape
    ):
        raise _bad_split(shape, mode_shape)
    if groups:  # trailing modes of size 1 belong to the last dimension
        groups[-1].extend(range(mode, len(mode_shape)))
    return tuple(tuple(group) for group in groups)


def _bad_split(shape: Sequence[int], mode_shape: Sequence[int]) -> LayoutError:
    return LayoutError(
        "mode_shape does not split the shape",
        found=f"mode_shape {list(mode_shape)} for shape {list(shape)}",
        expected="for each dimension, consecutive modes whose sizes multiply to its extent",
    )


def row_major_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a dense row-major array: `[2, 3, 4]` gives `(12, 4, 1)`."""
    strides = [1]
    for extent in reversed(shape[1:]):
        strides.append(strides[-1] * extent)
    return tuple(reversed(strides)) if shape else ()


def mode_digits(shape: Sequence[int], mode_shape: Sequence[int]) -> tuple[Digit, ...]:
    """Each mode with its dimension and its stride along that dimension."""
    digits: list[Digit] = []
    for dim, group in enumerate(group_modes(shape, mode_shape)):
        sizes = [mode_shape[mode] for mode in group]
        strides = row_major_strides(sizes)
        digits.extend(Digit(size, dim, stride) for size, stride in zip(sizes, strides, strict=True))
    return tuple(digits)


def coalesce(digits: Iterable[Digit]) -> tuple[Digit, ...]:
    """Drop digits of size 1, merge neighbours that count on: `(2, d, 4), (4, d, 1)` -> `(8, d, 1)`.

    The result depends only on the function the digits describe: its last digit is the longest run
    with a constant step, and so on to the left.
    """
    merged: list[Digit] = []
    for digit in digits:
        if digit.size == 1:
            continue
        last = merged[-1] if merged else None
        if last and last.dim == digit.dim and last.stride == digit.size * digit.stride:
            merged[-1] = Digit(last.size * digit.size, digit.dim, digit.stride)
        else:
            merged.append(digit)
    return tuple(merged)


def split_digits(
    digits: Sequence[Digit], inner: int
) -> tuple[tuple[Digit, ...], tuple[Digit, ...]] | None:
    """Cut a place into (outer, inner) digits, `inner` values on the right; None if it cannot be."""
    right: list[Digit] = []
    remaining = list(digits)
    while inner > 1:
        if not remaining:
            return None
        digit = remaining.pop()
        if inner % digit.size == 0:
            right.append(digit)
            inner //= digit.size
        elif digit.size % inner == 0:
            right.append(Digit(inner, digit.dim, digit.stride))
            remaining.append(Digit(digit.size // inner, digit.dim, digit.stride * inner))
            inner = 1
        else:
            return None
    return tuple(remaining), tuple(reversed(right))


def refine_modes(mode_shape: Sequence[int], shape: Sequence[int]) -> list[list[int]] | None:
    """Split modes to line up with `shape` (same size, row-major); None where neither divides.

    >>> refine_modes([24], [2, 3, 4])
    [[2, 3, 4]]
    >>> refine_modes([4, 6], [8, 3]), refine_modes([3, 4], [4, 3])
    ([[4], [2, 3]], None)
    """
    factors: list[list[int]] = [[] for _ in mode_shape]
    room = 1  # what is left of the current extent, from the right
    extents = list(shape)
    for mode in reversed(range(len(mode_shape))):
        left = mode_shape[mode]
        while left > 1:
            while room == 1:
                room = extents.pop()
            factor = min(left, room)
            if left % factor or room % factor:
                return None
            factors[mode].insert(0, factor)
            left //= factor
            room //= factor
    return factors


def table_guard(entries: int, what: str) -> None:
    """Refuse a table too large to hold."""
    if entries > MAX_TABLE_ENTRIES:
        raise LayoutError(
            f"{what} is too large to tabulate",
            found=f"{entries} entries",
            expected=f"at most {MAX_TABLE_ENTRIES}",
        )


def zero_like(*places: Any) -> Any:
    """A zero that gives a result the broadcast shape of the places."""
    arrays = [place for place in places if isinstance(place, np.ndarray)]
    if not arrays:
        return 0
    return np.zeros(np.broadcast_shapes(*(array.shape for array in arrays)), dtype=np.int64)
