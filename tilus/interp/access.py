"""Where the elements of a tile lie in a tensor: `o = offsets; o[dims[k]] += J[k]`, as the memory
instructions say it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tilus.dtypes import Array
from tilus.ir.expr import Expr

if TYPE_CHECKING:
    from tilus.interp.machine import Machine


def tensor_indices(
    machine: Machine, offsets: Sequence[Expr], dims: Sequence[int], shape: Sequence[int]
) -> list[Array]:
    """Per dimension of the tensor, the int64 index of every tile element, broadcastable to (blocks,
    *shape).
    """
    rank = len(shape)
    indices = [machine.scalar_for(o, rank).astype(np.int64) for o in offsets]
    steps = np.indices(tuple(shape), dtype=np.int64, sparse=True)
    for dim, step in zip(dims, steps, strict=True):
        indices[dim] = indices[dim] + step[None]
    return indices


def in_bounds(indices: Sequence[Array], extents: Sequence[Array], rank: int) -> Array | None:
    """Which elements lie inside the tensor; None where all do."""
    mask: Array | None = None
    for index, extent in zip(indices, extents, strict=True):
        limit = extent if extent.ndim == 0 else extent.reshape((-1,) + (1,) * rank)
        inside = (index >= 0) & (index < limit)
        if not inside.all():
            mask = inside if mask is None else mask & inside
    return mask


def nearest_inside(indices: Sequence[Array], extents: Sequence[Array], rank: int) -> list[Array]:
    """Each index, or the nearest one within the tensor; a tensor without elements has none."""
    limits = [e if e.ndim == 0 else e.reshape((-1,) + (1,) * rank) for e in extents]
    return [np.maximum(np.minimum(i, n - 1), 0) for i, n in zip(indices, limits, strict=True)]


def linear_offset(indices: Sequence[Array], strides: Sequence[Array], rank: int) -> Array:
    """The element offset, broadcastable to (blocks, *shape)."""
    total: Array = np.zeros((1,) * (rank + 1), np.int64)
    for index, stride in zip(indices, strides, strict=True):
        step = stride if stride.ndim == 0 else stride.reshape((-1,) + (1,) * rank)
        total = total + index * step
    return total
