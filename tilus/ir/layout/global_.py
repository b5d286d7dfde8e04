"""Global-memory layouts: strides over scalars of any kind.

    offset(J) = sum of J_d * stride_d

Extents and strides are ints or expressions of kernel parameters (anything with `+ * // %`), so
nothing here asks for a value: `global_row_major([m, 64])` works for a runtime `m`.

The surprise: a tiled layout (`global_compose`) has several modes a dimension, most significant
first; `mode_shape` lists them and `strides` then has one entry a mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from tilus.ir.layout.modes import LayoutError, as_dims, as_permutation

Scalar: TypeAlias = Any  # an int, or an expression with + * // %


@dataclass(frozen=True)
class GlobalLayout:
    """The addresses of a tensor in global memory, in elements.

    Args:
        shape: extents, ints or expressions.
        strides: elements to skip per step, one a dimension (one a mode with `mode_shape`).
        mode_shape: the modes of each dimension, row-major; by default each dimension is one mode.

    Raises:
        LayoutError: the numbers of extents and strides do not match, or an extent is negative.

    >>> GlobalLayout((4, 8), (8, 1)).offset((2, 3))
    19
    """

    shape: tuple[Scalar, ...]
    strides: tuple[Scalar, ...]
    mode_shape: tuple[tuple[Scalar, ...], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _as_tuple(self.shape))
        object.__setattr__(self, "strides", _as_tuple(self.strides))
        modes = self.mode_shape or tuple((extent,) for extent in self.shape)
        object.__setattr__(self, "mode_shape", tuple(_as_tuple(part) for part in modes))
        count = sum(len(part) for part in self.mode_shape)
        if len(self.mode_shape) != len(self.shape) or count != len(self.strides):
            raise LayoutError(
                "a global layout needs one stride a dimension",
                found=f"{len(self.strides)} strides for shape {list(self.shape)}",
            )
        if any(isinstance(extent, int) and extent < 0 for extent in self.shape):
            raise LayoutError("extents must not be negative", found=str(list(self.shape)))

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> Scalar:
        """Number of elements."""
        return _product(self.shape)

    @property
    def is_strided(self) -> bool:
        """Whether every dimension has one stride, so that `strides[d]` is that of dimension d."""
        return all(len(part) == 1 for part in self.mode_shape)

    def __str__(self) -> str:
        lists = [_text(self.shape), _text(self.strides)]
        if not self.is_strided:
            lists.append(f"[{', '.join(_text(part) for part in self.mode_shape)}]")
        return f"global_layout({', '.join(lists)})"

    def dim_strides(self, dim: int) -> tuple[Scalar, ...]:
        """The strides of the modes of a dimension."""
        first = sum(len(part) for part in self.mode_shape[:dim])
        return self.strides[first : first + len(self.mode_shape[dim])]

    def offset(self, indices: Sequence[Scalar]) -> Scalar:
        """Where the element at `indices` lies, in elements; bounds are not checked."""
        if len(indices) != self.rank:
            raise LayoutError(
                "an index needs one entry a dimension", found=f"{len(indices)} for {self}"
            )
        total: Scalar = 0
        for dim, index in enumerate(indices):
            for coordinate, stride in zip(
                _coordinates(index, self.mode_shape[dim]), self.dim_strides(dim), strict=True
            ):
                total = _plus(total, _times(coordinate, stride))
        return total

    def permute(self, dims: Sequence[int]) -> GlobalLayout:
        """Reorder dimensions: dimension k of the result is dimension `dims[k]`."""
        order = as_permutation(dims, self.rank)
        return GlobalLayout(
            tuple(self.shape[dim] for dim in order),
            tuple(stride for dim in order for stride in self.dim_strides(dim)),
            tuple(self.mode_shape[dim] for dim in order),
        )


def global_layout(
    shape: Sequence[Scalar], strides: Sequence[Scalar], mode_shape: Sequence[Sequence[Scalar]] = ()
) -> GlobalLayout:
    """A global layout from its fields; see `GlobalLayout`."""
    parts = tuple(_as_tuple(part) for part in _as_tuple(mode_shape))
    return GlobalLayout(_as_tuple(shape), _as_tuple(strides), parts)


def global_row_major(shape: Sequence[Scalar]) -> GlobalLayout:
    """Dense, the last dimension contiguous.

    >>> str(global_row_major([2, 3, 4]))
    'global_layout([2, 3, 4], [12, 4, 1])'
    """
    extents = _as_tuple(shape)
    return GlobalLayout(extents, tuple(_product(extents[dim + 1 :]) for dim in range(len(extents))))


def global_column_major(shape: Sequence[Scalar]) -> GlobalLayout:
    """Dense, the first dimension contiguous."""
    extents = _as_tuple(shape)
    return GlobalLayout(extents, tuple(_product(extents[:dim]) for dim in range(len(extents))))


def global_strides(shape: Sequence[Scalar], strides: Sequence[Scalar]) -> GlobalLayout:
    """The given strides, in elements, one a dimension."""
    return GlobalLayout(_as_tuple(shape), _as_tuple(strides))


def global_compose(outer: GlobalLayout, inner: GlobalLayout) -> GlobalLayout:
    """Every element of `outer` becomes a dense tile of `inner`: a tiled tensor.

    `offset(J) = outer(J // shape) * size + inner(J % shape)` with shape and size of `inner`.

    >>> global_compose(global_row_major([2, 2]), global_row_major([4, 8])).offset((5, 9))
    105
    """
    if outer.rank != inner.rank:
        raise LayoutError("compose needs equal ranks", found=f"{outer.rank} and {inner.rank}")
    dims = range(outer.rank)
    size = inner.size
    return GlobalLayout(
        tuple(_times(a, b) for a, b in zip(outer.shape, inner.shape, strict=True)),
        tuple(
            stride
            for dim in dims
            for stride in (
                *(_times(s, size) for s in outer.dim_strides(dim)),
                *inner.dim_strides(dim),
            )
        ),
        tuple(outer.mode_shape[dim] + inner.mode_shape[dim] for dim in dims),
    )


def global_slice(
    layout: GlobalLayout, offsets: Sequence[Scalar], dims: Sequence[int], shape: Sequence[Scalar]
) -> tuple[Scalar, GlobalLayout]:
    """The part of a tensor that begins at `offsets` and extends along `dims`.

    Args:
        offsets: one entry a dimension of `layout`.
        dims: the dimensions the part keeps; the others are indexed by their offset.
        shape: extents of the part, one an entry of `dims`.

    Returns:
        (base, layout): element J of the part lies at `base + layout.offset(J)`.

    Raises:
        LayoutError: wrong numbers of entries, or a part of a dimension that has several modes.

    >>> base, part = global_slice(global_row_major([4, 8]), [2, 3], [1], [5])
    >>> base, str(part)
    (19, 'global_layout([5], [1])')
    """
    kept = as_dims(dims, layout.rank)
    if len(offsets) != layout.rank or len(kept) != len(shape):
        raise LayoutError(
            "a slice needs one offset a dimension and one extent a kept dimension",
            found=f"{len(offsets)} offsets, {len(kept)} dims, {len(shape)} extents for {layout}",
        )
    for dim, extent in zip(kept, shape, strict=True):
        whole = offsets[dim] is layout.shape[dim] or _same(extent, layout.shape[dim])
        if len(layout.mode_shape[dim]) > 1 and not (whole and _same(offsets[dim], 0)):
            raise LayoutError(
                "a tiled dimension is kept whole or indexed",
                found=f"a part of dimension {dim} of {layout}",
                hint="slice before composing",
            )
    modes = tuple(
        layout.mode_shape[dim] if len(layout.mode_shape[dim]) > 1 else (extent,)
        for dim, extent in zip(kept, shape, strict=True)
    )
    strides = tuple(stride for dim in kept for stride in layout.dim_strides(dim))
    return layout.offset(offsets), GlobalLayout(tuple(shape), strides, modes)


def _as_tuple(values: Any) -> tuple[Scalar, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise LayoutError("extents, strides and modes must be sequences", found=repr(values))
    sequence: Sequence[Scalar] = values
    return tuple(sequence)


def _same(a: Scalar, b: Scalar) -> bool:
    return a is b or (isinstance(a, int) and isinstance(b, int) and a == b)


def _coordinates(index: Scalar, modes: tuple[Scalar, ...]) -> list[Scalar]:
    """Unravel an index over the modes of its dimension; the first needs no `%`."""
    coordinates: list[Scalar] = []
    for number in range(len(modes)):
        inner = _product(modes[number + 1 :])
        coordinate = index if _same(inner, 1) else index // inner
        coordinates.append(coordinate % modes[number] if number else coordinate)
    return coordinates


def _product(factors: Sequence[Scalar]) -> Scalar:
    total: Scalar = 1
    for factor in factors:
        total = _times(total, factor)
    return total


def _plus(a: Scalar, b: Scalar) -> Scalar:
    return b if _same(a, 0) else a if _same(b, 0) else a + b


def _times(a: Scalar, b: Scalar) -> Scalar:
    if _same(a, 0) or _same(b, 0):
        return 0
    return b if _same(a, 1) else a if _same(b, 1) else a * b


def _text(values: Sequence[Scalar]) -> str:
    return f"[{', '.join(str(value) for value in values)}]"
