"""Register layouts: which threads hold an element of a tile, and where in their registers.

    layout : (thread t, local i) -> logical index J

`register_layout([16, 8], [2, 8, 4, 2], [1, 2], [0, 3])` is the accumulator of `mma.m16n8k16`, that
is `local(2, 1).spatial(8, 4).local(1, 2)`. Each dimension is split row-major into modes (16 = 2 x
8, 8 = 4 x 2); modes 1 and 2 number the threads, modes 0 and 3 the registers of a thread, the most
significant first. An entry `-c` among the spatial modes is a replication: c threads hold the same
elements.

The surprise: many spellings mean one mapping, and equality compares mappings:
`local(2).local(3) == local(6)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd, prod
from typing import Any

import numpy as np

from tilus.ir.layout.modes import (
    Digit,
    LayoutError,
    as_dims,
    as_int,
    as_ints,
    as_permutation,
    as_shape,
    coalesce,
    mode_digits,
    refine_modes,
    split_digits,
    zero_like,
)
from tilus.ir.layout.places import (
    Digits,
    IntArray,
    check_range,
    logical_indices,
    narrow,
    owner_table,
    ranked,
    ravel,
    replica_offsets,
    scaled,
    sum_of,
    unravel,
    widen,
)


@dataclass(frozen=True, eq=False, repr=False)
class RegisterLayout:
    """A distribution of a tile over threads and their registers.

    Args:
        shape: extents of the tile.
        mode_shape: sizes of all modes of all dimensions, each dimension split row-major.
        spatial_modes: modes numbering the threads, most significant first; `-c` replicates over c
            threads.
        local_modes: modes numbering the registers of a thread, most significant first.

    Raises:
        LayoutError: a mode is missing or used twice, or the modes do not split the shape.

    >>> layout = RegisterLayout((16, 8), (2, 8, 4, 2), (1, 2), (0, 3))
    >>> layout.num_threads, layout.local_size, layout.indices(5, 3)
    (32, 4, (9, 3))
    """

    shape: tuple[int, ...]
    mode_shape: tuple[int, ...]
    spatial_modes: tuple[int, ...]
    local_modes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", as_shape(self.shape))
        object.__setattr__(self, "mode_shape", as_shape(self.mode_shape, "mode_shape"))
        object.__setattr__(self, "spatial_modes", as_ints(self.spatial_modes, "spatial_modes"))
        object.__setattr__(self, "local_modes", as_ints(self.local_modes, "local_modes", minimum=0))
        used = [mode for mode in self.spatial_modes if mode >= 0] + list(self.local_modes)
        if sorted(used) != list(range(len(self.mode_shape))):
            raise LayoutError(
                "every mode must be in exactly one of spatial_modes and local_modes",
                found=f"spatial_modes {[*self.spatial_modes]}, local_modes {[*self.local_modes]}",
                expected=f"the modes 0..{len(self.mode_shape) - 1}, once each",
                hint="write a replication over c threads as -c in spatial_modes",
            )
        _ = self._mode_digits  # raises where the modes do not split the shape

    # ---- size and digits

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @cached_property
    def size(self) -> int:
        """Number of elements of the tile."""
        return prod(self.shape)

    @cached_property
    def _mode_digits(self) -> Digits:
        return mode_digits(self.shape, self.mode_shape)

    @cached_property
    def spatial_digits(self) -> Digits:
        """The thread number as digits, most significant first."""
        digits = self._mode_digits
        return tuple(digits[m] if m >= 0 else Digit(-m, None, 0) for m in self.spatial_modes)

    @cached_property
    def local_digits(self) -> Digits:
        """The register number as digits, most significant first."""
        return tuple(self._mode_digits[mode] for mode in self.local_modes)

    @cached_property
    def num_threads(self) -> int:
        """T: how many threads hold the tile."""
        return prod(digit.size for digit in self.spatial_digits)

    @cached_property
    def local_size(self) -> int:
        """L: how many elements each thread holds."""
        return prod(digit.size for digit in self.local_digits)

    @cached_property
    def replication(self) -> int:
        """R: how many threads hold each element; T * L = size * R."""
        return prod(digit.size for digit in self.spatial_digits if digit.dim is None)

    # ---- equality by mapping

    @cached_property
    def _key(self) -> tuple[tuple[int, ...], Digits, Digits]:
        return self.shape, coalesce(self.spatial_digits), coalesce(self.local_digits)

    @cached_property
    def _hash(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RegisterLayout):
            return NotImplemented
        return self is other or self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    def canonical(self) -> RegisterLayout:
        """The one spelling of this mapping with the fewest modes and replications."""
        shape, spatial_digits, local_digits = self._key
        return _from_digits(shape, spatial_digits, local_digits)

    def __str__(self) -> str:
        fields = (self.shape, self.mode_shape, self.spatial_modes, self.local_modes)
        return f"register_layout({', '.join(str(list(field)) for field in fields)})"

    __repr__ = __str__

    # ---- the mapping, forward and back

    def indices(self, thread: Any, local: Any) -> tuple[Any, ...]:
        """The multi-index of register `local` of `thread`.

        Works on ints, NumPy arrays (broadcast against each other) and any scalar with `+ * // %`,
        such as an expression of the thread index. Ints and arrays are checked to be in range.
        """
        check_range(thread, self.num_threads, "thread")
        check_range(local, self.local_size, "local index")
        terms: list[list[Any]] = [[] for _ in self.shape]
        _, spatial_digits, local_digits = self._key
        for place, digits in ((thread, spatial_digits), (local, local_digits)):
            for digit, coordinate in zip(digits, unravel(place, digits), strict=True):
                if digit.dim is not None:
                    terms[digit.dim].append(scaled(coordinate, digit.stride))
        zero = zero_like(thread, local)
        return tuple(sum_of(parts, zero) for parts in terms)

    def locals_and_threads(self, index: Sequence[Any]) -> tuple[IntArray, IntArray]:
        """The inverse: where the element at `index` is held.

        Args:
            index: one int or integer array a dimension, broadcast against each other to shape B.

        Returns:
            The local index (B) and the threads that hold it (B, R), ascending.
        """
        if len(index) != self.rank:
            raise LayoutError(
                "an index needs one entry a dimension", found=f"{len(index)} for {self}"
            )
        for entry, extent in zip(index, self.shape, strict=True):
            check_range(entry, extent, "index")
        arrays = np.broadcast_arrays(*(np.asarray(entry, dtype=np.int64) for entry in index))
        local = ravel(self.local_digits, arrays)
        first_thread = ravel(self.spatial_digits, arrays)
        return local, first_thread[..., None] + replica_offsets(self)

    def logical_indices(self) -> IntArray:
        """int64 (T, L): the row-major index of every (thread, local). Cached and read-only."""
        return logical_indices(self)

    def owner_table(self) -> tuple[IntArray, IntArray]:
        """int64 (size, R) and (size,): the threads holding each element, and its local index.

        Elements are numbered row-major, threads ascend. Cached and read-only.
        """
        return owner_table(self)

    def contiguous_local(self, dim: int = -1) -> int:
        """How many consecutive elements along `dim` every thread holds in consecutive registers.

        >>> local(2, 1).spatial(8, 4).local(1, 2).contiguous_local()
        2
        """
        if self.rank == 0:
            return 1
        (dim,) = as_dims(dim, self.rank, "dim")
        digits = coalesce(self.local_digits)
        if digits and digits[-1].dim == dim and digits[-1].stride == 1:
            return digits[-1].size
        return 1

    # ---- sugar: composition on the right

    def local(self, *shape: int, ranks: Sequence[int] | None = None) -> RegisterLayout:
        """Each element becomes a `local(*shape)` tile."""
        return compose(self, local(*shape, ranks=ranks))

    def spatial(self, *shape: int, ranks: Sequence[int] | None = None) -> RegisterLayout:
        """Each element becomes a `spatial(*shape)` tile."""
        return compose(self, spatial(*shape, ranks=ranks))

    def column_local(self, *shape: int) -> RegisterLayout:
        """Each element becomes a `column_local(*shape)` tile."""
        return compose(self, column_local(*shape))

    def column_spatial(self, *shape: int) -> RegisterLayout:
        """Each element becomes a `column_spatial(*shape)` tile."""
        return compose(self, column_spatial(*shape))

    def replicated(self, *shape: int, num_workers: int) -> RegisterLayout:
        """Each element becomes a `replicated(*shape, num_workers=...)` tile."""
        return compose(self, replicated(*shape, num_workers=num_workers))

    def __mul__(self, other: RegisterLayout) -> RegisterLayout:
        return compose(self, other)

    def __truediv__(self, other: RegisterLayout) -> RegisterLayout:
        return divide(self, other)

    def reduce(self, dims: int | Sequence[int], keepdims: bool = False) -> RegisterLayout:
        """See `reduce`."""
        return reduce(self, dims, keepdims)

    def reduce_to(self, shape: Sequence[int]) -> RegisterLayout:
        """See `reduce_to`."""
        return reduce_to(self, shape)

    def permute(self, dims: Sequence[int]) -> RegisterLayout:
        """See `permute`."""
        return permute(self, dims)

    def reshape(self, shape: Sequence[int]) -> RegisterLayout:
        """See `reshape`."""
        return reshape(self, shape)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> RegisterLayout:
        """See `flatten`."""
        return flatten(self, start_dim, end_dim)

    def squeeze(self, dims: int | Sequence[int] | None = None) -> RegisterLayout:
        """See `squeeze`."""
        return squeeze(self, dims)

    def unsqueeze(self, dims: int | Sequence[int]) -> RegisterLayout:
        """See `unsqueeze`."""
        return unsqueeze(self, dims)


# ---- constructors


def register_layout(
    shape: Sequence[int],
    mode_shape: Sequence[int],
    spatial_modes: Sequence[int],
    local_modes: Sequence[int],
) -> RegisterLayout:
    """A register layout from its four fields; see `RegisterLayout`."""
    return RegisterLayout(
        as_shape(shape),
        as_shape(mode_shape, "mode_shape"),
        as_ints(spatial_modes, "spatial_modes"),
        as_ints(local_modes, "local_modes"),
    )


def spatial(*shape: int, ranks: Sequence[int] | None = None) -> RegisterLayout:
    """One element a thread, threads numbered row-major.

    `ranks[d]` is the significance of dimension d (0 = most significant) where row-major is not
    wanted.

    >>> spatial(2, 3).indices(4, 0), spatial(2, 3, ranks=[1, 0]).indices(4, 0)
    ((1, 1), (0, 2))
    """
    extents = as_shape(shape)
    return _from_digits(extents, ranked(extents, ranks), ())


def local(*shape: int, ranks: Sequence[int] | None = None) -> RegisterLayout:
    """All elements in one thread, registers numbered row-major, or by `ranks` as in `spatial`."""
    extents = as_shape(shape)
    return _from_digits(extents, (), ranked(extents, ranks))


def column_spatial(*shape: int) -> RegisterLayout:
    """One element a thread, the last dimension most significant."""
    return spatial(*shape, ranks=range(len(shape))[::-1])


def column_local(*shape: int) -> RegisterLayout:
    """All elements in one thread, the last dimension most significant."""
    return local(*shape, ranks=range(len(shape))[::-1])


def replicated(*shape: int, num_workers: int) -> RegisterLayout:
    """A whole `local(*shape)` tile in each of `num_workers` threads."""
    workers = as_int(num_workers, "num_workers", minimum=1)
    extents = as_shape(shape)
    return _from_digits(extents, (Digit(workers, None, 0),), ranked(extents, None))


def auto_local_spatial(num_threads: int, shape: Sequence[int]) -> RegisterLayout:
    """A layout of `shape` over `num_threads` threads whose neighbours hold neighbouring elements.

    From the last dimension to the first, the greatest common divisor of the threads left and the
    extent is spatial and the rest local; threads that are left over replicate, as the most
    significant part of the thread number.

    >>> auto_local_spatial(32, [4, 16]) == local(2, 1).spatial(2, 16)
    True
    """
    extents = as_shape(shape)
    threads = as_int(num_threads, "num_threads", minimum=1)
    across: list[int] = []
    for extent in reversed(extents):
        across.insert(0, gcd(threads, extent))
        threads //= across[0]
    within = (extent // part for extent, part in zip(extents, across, strict=True))
    return replicated(*within, num_workers=threads).spatial(*across)


# ---- the algebra


def compose(outer: RegisterLayout, inner: RegisterLayout) -> RegisterLayout:
    """The Kronecker product `outer * inner`: every element of `outer` becomes a tile of `inner`.

    `h(t, i) = outer(t // T, i // L) * shape + inner(t % T, i % L)` with T, L and shape those of
    `inner`. Associative, not commutative; the layout of lower rank gets leading dimensions of
    extent 1.

    >>> str(local(2, 1).spatial(8, 4).local(1, 2))
    'register_layout([16, 8], [2, 8, 4, 2], [1, 2], [0, 3])'
    """
    outer, inner = _align(outer, inner)
    shape = tuple(a * b for a, b in zip(outer.shape, inner.shape, strict=True))
    return _from_digits(
        shape,
        widen(outer.spatial_digits, inner.shape) + inner.spatial_digits,
        widen(outer.local_digits, inner.shape) + inner.local_digits,
    )


def divide(product: RegisterLayout, inner: RegisterLayout) -> RegisterLayout:
    """The `outer` with `outer * inner == product` (of the rank of `product`).

    Raises:
        LayoutError: no such layout exists.
    """
    product, inner = _align(product, inner)
    error = _no_quotient(product, inner, "x * divisor == dividend")
    spatial_parts = split_digits(product.spatial_digits, inner.num_threads)
    local_parts = split_digits(product.local_digits, inner.local_size)
    if spatial_parts is None or local_parts is None:
        raise error
    if coalesce(spatial_parts[1]) != coalesce(inner.spatial_digits):
        raise error
    if coalesce(local_parts[1]) != coalesce(inner.local_digits):
        raise error
    shape = tuple(a // b for a, b in zip(product.shape, inner.shape, strict=True))
    return _from_digits(
        shape, narrow(spatial_parts[0], inner.shape), narrow(local_parts[0], inner.shape)
    )


def left_divide(product: RegisterLayout, outer: RegisterLayout) -> RegisterLayout:
    """The `inner` with `outer * inner == product` (of the rank of `product`).

    Raises:
        LayoutError: no such layout exists.
    """
    product, outer = _align(product, outer)
    error = _no_quotient(product, outer, "divisor * x == dividend")
    if any(a % b for a, b in zip(product.shape, outer.shape, strict=True)):
        raise error
    if product.num_threads % outer.num_threads or product.local_size % outer.local_size:
        raise error
    shape = tuple(a // b for a, b in zip(product.shape, outer.shape, strict=True))
    spatial_parts = split_digits(product.spatial_digits, product.num_threads // outer.num_threads)
    local_parts = split_digits(product.local_digits, product.local_size // outer.local_size)
    if spatial_parts is None or local_parts is None:
        raise error
    if coalesce(spatial_parts[0]) != coalesce(widen(outer.spatial_digits, shape)):
        raise error
    if coalesce(local_parts[0]) != coalesce(widen(outer.local_digits, shape)):
        raise error
    return _from_digits(shape, spatial_parts[1], local_parts[1])


def concat(first: RegisterLayout, second: RegisterLayout) -> RegisterLayout:
    """The layout over the dimensions of `first` followed by those of `second`.

    Threads and registers of `first` are the more significant.

    >>> concat(spatial(4), local(2)) == spatial(4, 1).local(1, 2)
    True
    """
    trailing = range(first.rank, first.rank + second.rank)
    return compose(unsqueeze(first, trailing), second)


def reduce(
    layout: RegisterLayout, dims: int | Sequence[int], keepdims: bool = False
) -> RegisterLayout:
    """The layout after `dims` are reduced away (or to extent 1 with `keepdims`).

    Threads along a deleted dimension replicate the result, in place; registers along it vanish.

    >>> str(reduce(spatial(3, 4), [0]))
    'register_layout([4], [4], [-3, 0], [])'
    """
    gone = set(as_dims(dims, layout.rank))
    spatial_digits = tuple(
        Digit(digit.size, None, 0) if digit.dim in gone else digit
        for digit in layout.spatial_digits
    )
    local_digits = tuple(digit for digit in layout.local_digits if digit.dim not in gone)
    shape = tuple(1 if dim in gone else extent for dim, extent in enumerate(layout.shape))
    reduced = _from_digits(shape, spatial_digits, local_digits)
    return reduced if keepdims else squeeze(reduced, tuple(gone))


def reduce_to(layout: RegisterLayout, shape: Sequence[int]) -> RegisterLayout:
    """Undo a broadcast: the layout of an operand of `shape` that was broadcast to `layout.shape`.

    Raises:
        LayoutError: `shape` does not broadcast to the shape of the layout.

    >>> reduce_to(spatial(3, 4), [4]) == reduce(spatial(3, 4), [0])
    True
    """
    target = as_shape(shape)
    check_broadcast(target, layout.shape)
    leading = layout.rank - len(target)
    stretched = [
        leading + dim for dim, extent in enumerate(target) if extent != layout.shape[leading + dim]
    ]
    return reduce(reduce(layout, stretched, keepdims=True), tuple(range(leading)))


def permute(layout: RegisterLayout, dims: Sequence[int]) -> RegisterLayout:
    """Reorder dimensions: dimension k of the result is dimension `dims[k]` of the layout."""
    order = as_permutation(dims, layout.rank)
    return _remap(layout, tuple(layout.shape[dim] for dim in order), order.index)


def squeeze(layout: RegisterLayout, dims: int | Sequence[int] | None = None) -> RegisterLayout:
    """Drop `dims`, which must have extent 1; all such dimensions where `dims` is None."""
    if dims is None:
        dims = [dim for dim, extent in enumerate(layout.shape) if extent == 1]
    gone = as_dims(dims, layout.rank)
    if any(layout.shape[dim] != 1 for dim in gone):
        raise LayoutError(
            "squeeze drops dimensions of extent 1 only",
            found=f"dims {list(gone)} of shape {list(layout.shape)}",
            hint="reduce deletes a dimension of any extent",
        )
    kept = [dim for dim in range(layout.rank) if dim not in gone]
    return _remap(layout, tuple(layout.shape[dim] for dim in kept), kept.index)


def unsqueeze(layout: RegisterLayout, dims: int | Sequence[int]) -> RegisterLayout:
    """Insert dimensions of extent 1; `dims` are their positions in the result."""
    rank = layout.rank + (len(dims) if isinstance(dims, Sequence) else 1)
    new = as_dims(dims, rank)
    kept = [dim for dim in range(rank) if dim not in new]
    shape = [1] * rank
    for dim, extent in zip(kept, layout.shape, strict=True):
        shape[dim] = extent
    return _remap(layout, tuple(shape), kept.__getitem__)


def reshape(layout: RegisterLayout, shape: Sequence[int]) -> RegisterLayout:
    """The same elements, row-major, under another shape: modes are split or merged.

    Raises:
        LayoutError: the sizes differ, or a mode and an extent meet where neither divides the other.

    >>> reshape(local(4, 6), [8, 3]) == local(8, 3)
    True
    """
    target = as_shape(shape)
    if prod(target) != layout.size:
        raise LayoutError(
            "reshape must keep the number of elements",
            found=f"{list(layout.shape)} to {list(target)}",
            expected=f"{layout.size} elements",
        )
    # Merge across the old dimensions first: then only cuts of the mapping itself are in the way.
    fields = (layout.mode_shape, layout.spatial_modes, layout.local_modes)
    flat = RegisterLayout((layout.size,), *fields).canonical()
    factors = refine_modes(flat.mode_shape, target)
    if factors is None:
        raise LayoutError(
            "this layout cannot be reshaped",
            found=f"modes {list(flat.mode_shape)} for shape {list(target)}",
            expected="extents that split or merge the modes",
        )
    first = [sum(len(part) for part in factors[:mode]) for mode in range(len(factors))]

    def refined(modes: tuple[int, ...]) -> tuple[int, ...]:
        parts = ([m] if m < 0 else range(first[m], first[m] + len(factors[m])) for m in modes)
        return tuple(mode for part in parts for mode in part)

    mode_shape = tuple(size for part in factors for size in part)
    return RegisterLayout(
        target, mode_shape, refined(flat.spatial_modes), refined(flat.local_modes)
    )


def flatten(layout: RegisterLayout, start_dim: int = 0, end_dim: int = -1) -> RegisterLayout:
    """Merge the dimensions `start_dim..end_dim` (inclusive) into one, row-major."""
    if layout.rank == 0:
        return reshape(layout, (1,))
    (start,), (end,) = (as_dims(dim, layout.rank, "dim") for dim in (start_dim, end_dim))
    if start > end:
        raise LayoutError("flatten needs start_dim <= end_dim", found=f"{start_dim} and {end_dim}")
    merged = prod(layout.shape[start : end + 1])
    return reshape(layout, (*layout.shape[:start], merged, *layout.shape[end + 1 :]))


def check_broadcast(shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    """Raise a LayoutError where `shape` does not broadcast to `target`, as in NumPy."""
    tail = target[len(target) - len(shape) :] if len(shape) <= len(target) else ()
    if len(tail) != len(shape) or any(a not in (1, b) for a, b in zip(shape, tail, strict=True)):
        raise LayoutError("the shape does not broadcast", found=f"{list(shape)} to {list(target)}")


# ---- digits


def _from_digits(
    shape: tuple[int, ...], spatial_digits: Digits, local_digits: Digits
) -> RegisterLayout:
    """The layout whose places have these digits; they must cover every dimension exactly."""
    spatial_digits = tuple(digit for digit in spatial_digits if digit.size > 1)
    local_digits = tuple(digit for digit in local_digits if digit.size > 1)
    modes = sorted(
        (digit for digit in spatial_digits + local_digits if digit.dim is not None),
        key=lambda digit: (digit.dim, -digit.stride),
    )
    return RegisterLayout(
        shape,
        tuple(digit.size for digit in modes),
        tuple(-d.size if d.dim is None else modes.index(d) for d in spatial_digits),
        tuple(modes.index(digit) for digit in local_digits),
    )


def _align(a: RegisterLayout, b: RegisterLayout) -> tuple[RegisterLayout, RegisterLayout]:
    for layout in (a, b):
        if not isinstance(layout, RegisterLayout):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LayoutError(
                "a register layout combines with another one only", found=repr(layout)
            )
    rank = max(a.rank, b.rank)
    return unsqueeze(a, range(rank - a.rank)), unsqueeze(b, range(rank - b.rank))


def _remap(
    layout: RegisterLayout, shape: tuple[int, ...], new_dim: Callable[[int], int]
) -> RegisterLayout:
    def moved(digits: Digits) -> Digits:
        # Digits of size 1 may belong to a dimension that is going away.
        return tuple(
            digit if digit.dim is None else Digit(digit.size, new_dim(digit.dim), digit.stride)
            for digit in digits
            if digit.size > 1
        )

    return _from_digits(shape, moved(layout.spatial_digits), moved(layout.local_digits))


def _no_quotient(dividend: RegisterLayout, divisor: RegisterLayout, equation: str) -> LayoutError:
    return LayoutError(
        "these layouts do not divide",
        found=f"dividend {dividend}, divisor {divisor}",
        expected=f"a layout x with {equation}",
    )
