"""Hypothesis strategies for layouts, and the definition of a register layout, spelled out."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st

from tilus.ir.layout import BitLayout, LayoutError, RegisterLayout, SharedLayout, Swizzle

T = TypeVar("T")

MODE_SIZES = st.sampled_from([1, 2, 2, 3, 4])


@st.composite
def mode_lists(draw: Any, rank: int | None = None, max_rank: int = 3) -> list[list[int]]:
    """For each dimension the sizes of its modes."""
    dims = draw(st.integers(0, max_rank)) if rank is None else rank
    return [draw(st.lists(MODE_SIZES, max_size=2)) for _ in range(dims)]


@st.composite
def register_layouts(draw: Any, rank: int | None = None, max_rank: int = 3) -> RegisterLayout:
    """Any register layout of a small tile: all orders of modes, replications anywhere."""
    dims = draw(mode_lists(rank, max_rank))
    sizes = [size for modes in dims for size in modes]
    order = draw(st.permutations(range(len(sizes))))
    cut = draw(st.integers(0, len(sizes)))
    spatial_modes = list(order[:cut])
    for size in draw(st.lists(st.sampled_from([1, 2, 3]), max_size=2)):
        spatial_modes.insert(draw(st.integers(0, len(spatial_modes))), -size)
    shape = tuple(prod(modes) for modes in dims)
    return RegisterLayout(shape, tuple(sizes), tuple(spatial_modes), tuple(order[cut:]))


@st.composite
def shared_layouts(draw: Any, rank: int | None = None, swizzled: bool = True) -> SharedLayout:
    """Dense or padded layouts with modes in any order; no two elements share a place."""
    dims = draw(mode_lists(rank))
    sizes = [size for modes in dims for size in modes]
    strides = [0] * len(sizes)
    unit = 1
    for mode in draw(st.permutations(range(len(sizes)))):
        strides[mode] = unit
        unit *= sizes[mode] + draw(st.integers(0, 1))
    swizzle = draw(st.none() | swizzles()) if swizzled else None
    shape = tuple(prod(modes) for modes in dims)
    return SharedLayout(shape, tuple(sizes), tuple(strides), swizzle)


def swizzles() -> st.SearchStrategy[Swizzle]:
    """Small swizzles, those with overlapping fields among them."""
    return st.builds(Swizzle, st.integers(0, 3), st.integers(0, 3), st.integers(1, 4))


@st.composite
def bit_layouts(draw: Any) -> BitLayout:
    """Streams, strided placements and tables, with holes."""
    count, nbits = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    room = count * nbits + draw(st.integers(0, 8))
    if draw(st.booleans()):
        return BitLayout.table(count, nbits, draw(st.permutations(range(room)))[: count * nbits])
    stride = draw(st.sampled_from([1, nbits, count]))
    if stride == 1:
        return BitLayout.stream(count, nbits)
    strides = [nbits, 1] if stride == nbits else [1, count]
    return BitLayout.strided(count, nbits, [count, nbits], strides)


def attempt(build: Callable[[], T]) -> tuple[T | None, str]:
    """What `build` returns and "", or None and the message of the LayoutError it raises."""
    try:
        return build(), ""
    except LayoutError as error:
        return None, error.message


def reference_table(layout: RegisterLayout) -> np.ndarray:
    """int64 (T, L): the definition, index by index, from the four fields alone."""
    spatial_sizes = [layout.mode_shape[m] if m >= 0 else -m for m in layout.spatial_modes]
    local_sizes = [layout.mode_shape[m] for m in layout.local_modes]
    table = np.zeros((prod(spatial_sizes), prod(local_sizes)), dtype=np.int64)
    for t, thread in enumerate(np.ndindex(*spatial_sizes)):
        for i, local in enumerate(np.ndindex(*local_sizes)):
            coordinates = [0] * len(layout.mode_shape)
            for mode, coordinate in zip(layout.spatial_modes, thread, strict=True):
                if mode >= 0:
                    coordinates[mode] = coordinate
            for mode, coordinate in zip(layout.local_modes, local, strict=True):
                coordinates[mode] = coordinate
            flat = 0  # dimensions and their modes are both row-major, so all modes are
            for size, coordinate in zip(layout.mode_shape, coordinates, strict=True):
                flat = flat * size + coordinate
            table[t, i] = flat
    return table
