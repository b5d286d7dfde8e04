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
import numpy.typing as npt

from tilus.ir.layout.modes import (
    Digit,
    LayoutError,
    as_dims,
    as_int,
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
from tilus.ir.layout.register import RegisterLayout

IntArray = npt.NDArray[np.int64]

# CUDA C++ Programming Guide, "Shared Memory" of compute capability 5.x and later.
NUM_BANKS = 32
BANK_NBITS = 32
WARP_SIZE = 32


@dataclass(frozen=True)
class Swizzle:
    """The address permutation `o ^ ((o & (((1 << bits) - 1) << (base + shift))) >> shift)`.

    Bits [base, base + bits) are xor-ed with the bits `shift` places above them. It is its own
    inverse where `shift >= bits`.

    >>> Swizzle(3, 3, 3)(64 + 8)
    64
    """

    base: int
    bits: int
    shift: int

    def __post_init__(self) -> None:
        for field in ("base", "bits", "shift"):
            object.__setattr__(
                self, field, as_int(getattr(self, field), f"swizzle {field}", minimum=0)
            )
        if self.bits and not self.shift:
            raise LayoutError(
                "a swizzle with shift 0 loses addresses",
                found=str(self),
                expected="shift of at least 1",
            )

    def __call__(self, offset: Any) -> Any:
        """The permuted offset; works on ints, integer arrays and expressions with `& ^ >>`."""
        if not self.bits:
            return offset
        mask = ((1 << self.bits) - 1) << (self.base + self.shift)
        return offset ^ ((offset & mask) >> self.shift)

    @property
    def block(self) -> int:
        """Aligned ranges of this many elements are permuted within themselves."""
        return 1 << (self.base + self.bits + (self.shift if self.shift < self.bits else 0))

    def __str__(self) -> str:
        return f"Swizzle({self.base}, {self.bits}, {self.shift})"

    __repr__ = __str__


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


# ---- constructors


def shared_layout(
    shape: Sequence[int],
    mode_shape: Sequence[int],
    mode_strides: Sequence[int],
    swizzle: Swizzle | None = None,
) -> SharedLayout:
    """A shared layout from its fields; see `SharedLayout`."""
    modes = as_shape(mode_shape, "mode_shape"), as_ints(mode_strides, "mode_strides")
    return SharedLayout(as_shape(shape), *modes, swizzle)


def shared_row_major(*shape: int) -> SharedLayout:
    """Dense, the last dimension contiguous."""
    extents = as_shape(shape)
    return SharedLayout(extents, extents, row_major_strides(extents))


def shared_column_major(*shape: int) -> SharedLayout:
    """Dense, the first dimension contiguous."""
    extents = as_shape(shape)
    return SharedLayout(extents, extents, row_major_strides(extents[::-1])[::-1])


def shared_row_major_swizzle(shape: Sequence[int], nbits: int) -> SharedLayout:
    """Row-major rows of 128, 64 or 32 bytes (the widest that fits), 16-byte chunks swizzled.

    In rows of 128 bytes, chunk c of row r lies at chunk `c ^ (r & 7)`, so eight rows of one chunk
    column (an `ldmatrix`) touch every bank once; narrower rows share 128 bytes, with the same
    effect. Wider rows are cut into panels of 128 bytes, one panel after the other, which is also
    what TMA and wgmma expect.

    Args:
        shape: (..., rows, columns); leading dimensions are row-major copies.
        nbits: width of an element in bits: 1, 2, 4, 8, 16, 32, 64 or 128.

    Raises:
        LayoutError: rank below 2, an element width that does not divide 16 bytes, or rows that are
            not a multiple of 32 bytes.

    >>> layout = shared_row_major_swizzle([8, 64], 16)
    >>> layout.offset((3, 0)) == 3 * 64 + 3 * 8
    True
    """
    extents = as_shape(shape)
    if len(extents) < 2:
        raise LayoutError(
            "a swizzled layout needs rows and columns", found=f"shape {list(extents)}"
        )
    if 128 % as_int(nbits, "nbits", minimum=1):
        raise LayoutError(
            "the element does not divide a 16-byte chunk",
            found=f"{nbits} bits",
            expected="1, 2, 4, 8, 16, 32, 64 or 128 bits",
            hint="store the tile as uint8 and view it in registers",
        )
    rows, columns = extents[-2:]
    width = next((w for w in (128, 64, 32) if columns * nbits % (w * 8) == 0), None)
    if width is None:
        raise LayoutError(
            "the rows are too narrow to swizzle",
            found=f"rows of {columns} x {nbits} bits",
            expected="a multiple of 32 bytes",
            hint="use shared_row_major, or pad the columns",
        )
    panel = width * 8 // nbits
    chunk_bits = (128 // nbits).bit_length() - 1
    swizzle = Swizzle(chunk_bits, {128: 3, 64: 2, 32: 1}[width], 3)
    modes, strides = (rows, columns // panel, panel), (panel, rows * panel, 1)
    return SharedLayout((rows, columns), modes, strides, swizzle).prepend(*extents[:-2])


# ---- operations


def shared_compose(outer: SharedLayout, inner: SharedLayout) -> SharedLayout:
    """Every element of `outer` becomes a tile of `inner` (Kronecker product).

    `offset(J) = outer(J // shape) * size + inner(J % shape)` with shape and storage size of
    `inner`.

    Raises:
        LayoutError: both are swizzled, or the swizzle does not survive the product.

    >>> shared_compose(shared_row_major(2, 1), shared_column_major(2, 4)).offset((3, 1))
    11
    """
    rank = max(outer.rank, inner.rank)
    outer, inner = _with_rank(outer, rank), _with_rank(inner, rank)
    scale = inner.storage_size
    sizes: list[int] = []
    strides: list[int] = []
    for outer_modes, inner_modes in zip(outer.dim_modes, inner.dim_modes, strict=True):
        sizes += [mode.size for mode in outer_modes + inner_modes]
        strides += [mode.stride * scale for mode in outer_modes] + [
            mode.stride for mode in inner_modes
        ]
    shape = tuple(a * b for a, b in zip(outer.shape, inner.shape, strict=True))
    return SharedLayout(shape, tuple(sizes), tuple(strides), _composed_swizzle(outer, inner))


def _composed_swizzle(outer: SharedLayout, inner: SharedLayout) -> Swizzle | None:
    scale = inner.storage_size
    if outer.swizzle is None and inner.swizzle is None:
        return None
    if inner.swizzle is not None and outer.swizzle is None:
        period = 1 << (inner.swizzle.base + inner.swizzle.shift + inner.swizzle.bits)
        if scale % period == 0:  # then every copy starts where the swizzle does nothing
            return inner.swizzle
    elif outer.swizzle is not None and inner.swizzle is None and scale & (scale - 1) == 0:
        log_scale = scale.bit_length() - 1
        return Swizzle(outer.swizzle.base + log_scale, outer.swizzle.bits, outer.swizzle.shift)
    raise LayoutError(
        "the product of these swizzled layouts is not a swizzled layout",
        found=f"{outer} * {inner}",
        expected="one swizzle, and copies at multiples of its period",
        hint="compose first and swizzle the product with with_swizzle",
    )


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


# ---- bank conflicts


@dataclass(frozen=True)
class BankConflicts:
    """How an access to shared memory uses the banks.

    Attributes:
        vector_nbits: bits each thread moves per request.
        wavefronts: passes the worst request of any warp needs.
        ideal: passes a request needs without conflicts (1, 2 for 8-byte, 4 for 16-byte vectors).
        requests: requests of all warps together.
        total_wavefronts: passes of all requests together.
    """

    vector_nbits: int
    wavefronts: int
    ideal: int
    requests: int
    total_wavefronts: int

    @property
    def conflict_free(self) -> bool:
        """Whether every request needs no more than the ideal number of passes."""
        return self.wavefronts == self.ideal


def bank_conflicts(
    shared: SharedLayout,
    register: RegisterLayout,
    element_nbits: int,
    vector_nbits: int | None = None,
) -> BankConflicts:
    """Count the wavefronts of moving a tile between shared memory and registers.

    There are 32 banks of 4 bytes. Lanes that touch the same word share it; a warp's 8-byte vectors
    go by half warps and 16-byte vectors by quarter warps.

    Args:
        shared, register: layouts of the same shape.
        element_nbits: width of an element.
        vector_nbits: width of the vectors, 8..128 bits; by default the widest whose elements are
            contiguous and aligned for every thread.

    Raises:
        LayoutError: shapes differ, or vectors of that width do not exist here.

    >>> column = RegisterLayout((32, 32), (32, 32), (0,), (1,))
    >>> bank_conflicts(shared_row_major(32, 32), column, 32, 32).wavefronts
    32
    """
    if shared.shape != register.shape:
        raise LayoutError(
            "shared and register layout differ in shape",
            found=f"{list(shared.shape)}, {list(register.shape)}",
        )
    places = shared.offsets().ravel()[register.logical_indices()]  # (threads, locals), in elements
    if vector_nbits is None:
        vector_nbits = next(
            (v for v in (128, 64, 32, 16, 8) if _vectorizes(places, element_nbits, v)), None
        )
    if vector_nbits is None or not _vectorizes(places, element_nbits, vector_nbits):
        raise LayoutError(
            "the access has no such vectors",
            found=f"{element_nbits}-bit elements in {vector_nbits or 'any'}-bit vectors",
            expected="8, 16, 32, 64 or 128 bits, contiguous and aligned in shared memory",
        )
    first_bit = (
        places[:, :: vector_nbits // element_nbits] * element_nbits
    )  # (threads, requests a warp)
    return _count_wavefronts(first_bit, vector_nbits)


def _vectorizes(places: IntArray, element_nbits: int, vector_nbits: int) -> bool:
    count, remainder = divmod(vector_nbits, element_nbits)
    if (
        vector_nbits not in (8, 16, 32, 64, 128)
        or remainder
        or not count
        or places.shape[1] % count
    ):
        return False
    vectors = places.reshape(places.shape[0], -1, count)
    contiguous = bool(np.all(vectors == vectors[..., :1] + np.arange(count)))
    return contiguous and not np.any(vectors[..., 0] * element_nbits % vector_nbits)


def _count_wavefronts(first_bit: IntArray, vector_nbits: int) -> BankConflicts:
    passes = max(1, vector_nbits // BANK_NBITS)  # lanes are served in this many groups
    padding = (
        -first_bit.shape[0] % WARP_SIZE
    )  # missing lanes repeat one that is there: no extra words
    lanes = np.concatenate([first_bit, np.repeat(first_bit[-1:], padding, axis=0)])
    words = lanes[..., None] // BANK_NBITS + np.arange(
        passes
    )  # (threads, requests, words of a vector)
    groups = words.reshape(
        -1, WARP_SIZE // passes, first_bit.shape[1], passes
    )  # (warps*passes, lanes, ...)
    groups = np.sort(groups.transpose(0, 2, 1, 3).reshape(-1, WARP_SIZE), axis=1)
    distinct = np.diff(groups, axis=1, prepend=-1) != 0
    counts = np.zeros((groups.shape[0], NUM_BANKS), dtype=np.int64)
    rows = np.broadcast_to(np.arange(groups.shape[0])[:, None], groups.shape)
    np.add.at(counts, (rows[distinct], groups[distinct] % NUM_BANKS), 1)
    group_passes = counts.max(axis=1).reshape(
        -1, passes, first_bit.shape[1]
    )  # (warps, groups, requests)
    per_request = group_passes.sum(axis=1)
    return BankConflicts(
        vector_nbits, int(per_request.max()), passes, per_request.size, int(per_request.sum())
    )


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


def _with_rank(layout: SharedLayout, rank: int) -> SharedLayout:
    return shared_reshape(layout, (1,) * (rank - layout.rank) + layout.shape)


def _plus(a: Any, b: Any) -> Any:
    if isinstance(a, int) and a == 0:
        return b
    return a if isinstance(b, int) and b == 0 else a + b


def _times(value: Any, factor: int) -> Any:
    return value if factor == 1 else value * factor
