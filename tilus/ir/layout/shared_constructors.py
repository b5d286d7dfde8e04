"""Shared layouts to begin with: dense ones, the swizzled one of tensor cores, products of two."""

from __future__ import annotations

from collections.abc import Sequence

from tilus.ir.layout.modes import LayoutError, as_int, as_ints, as_shape, row_major_strides
from tilus.ir.layout.shared import SharedLayout, shared_reshape
from tilus.ir.layout.swizzle import Swizzle


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


def _with_rank(layout: SharedLayout, rank: int) -> SharedLayout:
    return shared_reshape(layout, (1,) * (rank - layout.rank) + layout.shape)
