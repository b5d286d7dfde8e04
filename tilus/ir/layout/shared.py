"""Shared-memory layouts: where an element of a tile lies, in elements, within its allocation.

    offset(J) = swizzle(base + sum of coordinate_m * stride_m over the modes m)

`shared_row_major(64, 32)` is `shared_layout([64, 32], [64, 32], [32, 1])`. A swizzle exchanges
address bits so that a column of 16-byte chunks falls into different banks.

The surprise: the swizzle acts on the *whole* address. A slice is therefore a pair (base, layout):
the layout keeps the parent's swizzle and `offset` is given the base, so that a slice at any start
finds the parent's elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np

from tilus.ir.layout.modes import (
    Digit,
    LayoutError,
    as_dims,
    as_ints,
    as_permutation,
    as_shape,
    coalesce,
    group_modes,
    refine_modes,
    row_major_strides,
    table_guard,
    zero_like,
)
from tilus.ir.layout.places import IntArray
from tilus.ir.layout.swizzle import Swizzle


@dataclass(frozen=True, eq=False, repr=False)
class SharedLayout:
    """The addresses of a tile in shared memory, in elements.

    Args:
        shape: extents of the tile.
        mode_shape: sizes of all modes of all dimensions, each dimension split row-major.
        mode_strides: elements to skip per step of each mode.
        swizzle: permutation of the addresses, if any.

    Raises:
        LayoutError: the modes do not split the shape, or strides are missing or negative.

    >>> from tilus.ir.layout import shared_row_major
    >>> shared_row_major(4, 8).offset((1, 2))
    10
    """

    shape: tuple[int, ...]
    mode_shape: tuple[int, ...]
    mode_strides: tuple[int, ...]
    swizzle: Swizzle | None = None

    def __post_init__(self) -> None:
        if self.swizzle is not None and not isinstance(self.swizzle, Swizzle):
            raise LayoutError("the swizzle must be a Swizzle or None", found=repr(self.swizzle))
        object.__setattr__(self, "shape", as_shape(self.shape))
        object.__setattr__(self, "mode_shape", as_shape(self.mode_shape, "mode_shape"))
        strides = as_ints(self.mode_strides, "mode_strides", minimum=0)
        object.__setattr__(self, "mode_strides", strides)
        if len(strides) != len(self.mode_shape):
            raise LayoutError(
                "every mode needs one stride",
                found=f"mode_shape {list(self.mode_shape)}, mode_strides {list(strides)}",
            )
        group_modes(self.shape, self.mode_shape)  # raises where the modes do not split the shape
        if self.swizzle is not None and not self.swizzle.bits:
            object.__setattr__(self, "swizzle", None)

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements of the tile."""
        return prod(self.shape)

    @cached_property
    def dim_modes(self) -> tuple[tuple[Digit, ...], ...]:
        """For each dimension its (size, dim, stride) modes, merged where the strides allow it."""
        groups = group_modes(self.shape, self.mode_shape)
        return tuple(
            coalesce(Digit(self.mode_shape[mode], dim, self.mode_strides[mode]) for mode in group)
            for dim, group in enumerate(groups)
        )

    @cached_property
    def span(self) -> int:
        """Elements from the first to the last before swizzling."""
        return 1 + sum((mode.size - 1) * mode.stride for modes in self.dim_modes for mode in modes)

    @cached_property
    def storage_size(self) -> int:
        """Elements to allocate: one more than the largest offset."""
        return self.span if self.swizzle is None else int(self.offsets().max()) + 1

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SharedLayout):
            return NotImplemented
        return self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        return self.shape, self.dim_modes, self.swizzle

    def __str__(self) -> str:
        fields = [str(list(field)) for field in (self.shape, self.mode_shape, self.mode_strides)]
        return (
            f"shared_layout({', '.join([*fields, *([str(self.swizzle)] if self.swizzle else [])])})"
        )

    __repr__ = __str__

    def linear(self, indices: Sequence[Any]) -> Any:
        """The offset before swizzling; see `offset`."""
        if len(indices) != self.rank:
            raise LayoutError(
                "an index needs one entry a dimension", found=f"{len(indices)} for {self}"
            )
        total = zero_like(*indices)
        for index, modes in zip(indices, self.dim_modes, strict=True):
            weight = prod(mode.size for mode in modes)
            for number, mode in enumerate(modes):
                weight //= mode.size
                coordinate = index // weight if weight > 1 else index
                total = _plus(
                    total, _times(coordinate % mode.size if number else coordinate, mode.stride)
                )
        return total

    def offset(self, indices: Sequence[Any], base: Any = 0) -> Any:
        """Where the element at `indices` lies, in elements from the start of the allocation.

        Args:
            indices: one entry a dimension: ints, integer arrays (broadcast) or expressions with
                `+ * // %`.
            base: start of a slice, from `slice`.
        """
        linear = _plus(base, self.linear(indices))
        return linear if self.swizzle is None else self.swizzle(linear)

    def offsets(self) -> IntArray:
        """int64 array of `shape`: the offset of every element. Cached and read-only."""
        return _offsets(self)

    def is_injective(self) -> bool:
        """Whether no two elements share an address."""
        modes = zip(self.mode_strides, self.mode_shape, strict=True)
        farthest = 0  # that modes of smaller strides reach; a swizzle moves no two to one place
        for stride, size in sorted(mode for mode in modes if mode[1] > 1):
            if stride <= farthest:
                return np.unique(self.offsets()).size == self.size
            farthest += stride * (size - 1)
        return True

    def with_swizzle(self, swizzle: Swizzle | None) -> SharedLayout:
        """The same strides under another swizzle."""
        return SharedLayout(self.shape, self.mode_shape, self.mode_strides, swizzle)

    def slice(
        self, starts: Sequence[Any], shape: Sequence[int], dims: Sequence[int] | None = None
    ) -> tuple[Any, SharedLayout]:
        """The part of the tile that begins at `starts`.

        Args:
            starts: one entry a dimension of this layout: an int or an expression.
            shape: extents of the part.
            dims: the dimensions the part keeps, one an extent (default: the last ones); others are
                indexed.

        Returns:
            (base, layout): element J of the part lies at `layout.offset(J, base)`.

        Raises:
            LayoutError: the part sticks out, or cuts through the modes of a dimension.

        >>> from tilus.ir.layout import shared_row_major
        >>> layout = shared_row_major(3, 4, 8)
        >>> base, part = layout.slice([2, 1, 0], [2, 8])
        >>> base, part.offset((1, 3), base) == layout.offset((2, 2, 3))
        (72, True)
        """
        extents = as_shape(shape)
        kept = as_dims(dims if dims is not None else range(-len(extents), 0), self.rank)
        if len(starts) != self.rank or len(kept) != len(extents):
            raise LayoutError(
                "a slice needs one start a dimension and one extent a kept dimension",
                found=f"{len(starts)} starts, {len(extents)} extents, {len(kept)} dims for {self}",
            )
        modes = tuple(
            mode
            for dim, extent in zip(kept, extents, strict=True)
            for mode in self._slice_modes(dim, starts[dim], extent)
        )
        for dim in set(range(self.rank)) - set(kept):
            self._slice_modes(dim, starts[dim], 1)
        sizes, strides = tuple(m.size for m in modes), tuple(m.stride for m in modes)
        return self.linear(starts), SharedLayout(extents, sizes, strides, self.swizzle)

    def _slice_modes(self, dim: int, start: Any, extent: int) -> tuple[Digit, ...]:
        """The modes of `extent` elements of `dim` from `start`, which must be a whole part."""
        if isinstance(start, (int, np.integer)) and not 0 <= start <= self.shape[dim] - extent:
            raise LayoutError(
                "the slice sticks out of the tile",
                found=f"{extent} elements from {start} in dimension {dim}",
                expected=f"a part of [0, {self.shape[dim]})",
            )
        if extent > self.shape[dim]:
            raise LayoutError(
                "the slice is larger than the tile",
                found=f"{extent} of {self.shape[dim]} in dimension {dim}",
            )
        modes = self.dim_modes[dim]
        if extent == 1:
            return ()
        if len(modes) == 1:
            return (Digit(extent, dim, modes[0].stride),)
        aligned = isinstance(start, (int, np.integer)) and start % extent == 0
        factors = refine_modes([mode.size for mode in modes], [self.shape[dim] // extent, extent])
        if self.shape[dim] % extent or not aligned or factors is None:
            raise LayoutError(
                "the slice cuts through the modes of the layout",
                found=f"{extent} elements from {start} in dimension {dim} of {self}",
                expected="a constant start, a multiple of the extent, which splits the modes",
            )
        return _inner_modes(modes, extent)

    def permute(self, dims: Sequence[int]) -> SharedLayout:
        """See `shared_permute`."""
        return shared_permute(self, dims)

    def transpose(self) -> SharedLayout:
        """Exchange the last two dimensions."""
        if self.rank < 2:
            raise LayoutError("transpose needs two dimensions", found=str(self))
        return shared_permute(self, [*range(self.rank - 2), self.rank - 1, self.rank - 2])

    def reshape(self, shape: Sequence[int]) -> SharedLayout:
        """See `shared_reshape`."""
        return shared_reshape(self, shape)

    def prepend(self, *extents: int) -> SharedLayout:
        """Leading dimensions (such as pipeline stages) of copies of this tile, one after the other.

        Copies start at multiples of the block the swizzle permutes, so each stays within itself.
        """
        leading = as_shape(extents, "extents")
        block = self.swizzle.block if self.swizzle else 1
        stride = -(-self.storage_size // block) * block
        strides = tuple(stride * step for step in row_major_strides(leading))
        return SharedLayout(
            leading + self.shape,
            leading + self.mode_shape,
            strides + self.mode_strides,
            self.swizzle,
        )


# ---- operations


def shared_permute(layout: SharedLayout, dims: Sequence[int]) -> SharedLayout:
    """Reorder dimensions: dimension k of the result is dimension `dims[k]`; addresses stay."""
    order = as_permutation(dims, layout.rank)
    modes = [mode for dim in order for mode in layout.dim_modes[dim]]
    return SharedLayout(
        tuple(layout.shape[dim] for dim in order),
        tuple(mode.size for mode in modes),
        tuple(mode.stride for mode in modes),
        layout.swizzle,
    )


def shared_reshape(layout: SharedLayout, shape: Sequence[int]) -> SharedLayout:
    """The same elements, row-major, under another shape; addresses stay.

    Raises:
        LayoutError: the sizes differ, or a mode and an extent meet where neither divides the other.
    """
    target = as_shape(shape)
    if prod(target) != layout.size:
        raise LayoutError(
            "reshape must keep the number of elements",
            found=f"{list(layout.shape)} to {list(target)}",
            expected=f"{layout.size} elements",
        )
    modes = coalesce(
        Digit(mode.size, None, mode.stride) for modes in layout.dim_modes for mode in modes
    )
    factors = refine_modes([mode.size for mode in modes], target)
    if factors is None:
        raise LayoutError(
            "this layout cannot be reshaped",
            found=f"modes {[mode.size for mode in modes]} for shape {list(target)}",
            expected="extents that split or merge the modes",
        )
    strides = [
        mode.stride * step
        for mode, sizes in zip(modes, factors, strict=True)
        for step in row_major_strides(sizes)
    ]
    sizes = tuple(size for part in factors for size in part)
    return SharedLayout(target, sizes, tuple(strides), layout.swizzle)


# ---- helpers


@lru_cache(maxsize=256)
def _offsets(layout: SharedLayout) -> IntArray:
    table_guard(layout.size, "the layout")
    axes = np.ix_(*(np.arange(extent) for extent in layout.shape))
    linear = np.broadcast_to(np.asarray(layout.linear(axes), dtype=np.int64), layout.shape)
    offsets = np.array(linear if layout.swizzle is None else layout.swizzle(linear), dtype=np.int64)
    offsets.flags.writeable = False
    return offsets


def _inner_modes(modes: tuple[Digit, ...], extent: int) -> tuple[Digit, ...]:
    inner: list[Digit] = []
    for mode in reversed(modes):
        size = min(mode.size, extent)
        if size > 1:
            inner.insert(0, Digit(size, mode.dim, mode.stride))
        extent //= size
    return tuple(inner)


def _plus(a: Any, b: Any) -> Any:
    if isinstance(a, int) and a == 0:
        return b
    return a if isinstance(b, int) and b == 0 else a + b


def _times(value: Any, factor: int) -> Any:
    return value if factor == 1 else value * factor
