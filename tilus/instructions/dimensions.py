"""The dimensions that a user names, and permutations of them."""

from __future__ import annotations

from typing import Any

from tilus.errors import TilusError
from tilus.instructions.arguments import describe, int_tuple


def dims_of(dims: Any, rank: int, what: str, *, distinct: bool = True) -> tuple[int, ...]:
    """Dimensions given as an int or a list, negative ones from the end; all must exist."""
    numbers = int_tuple(dims, f"{what}: dim", minimum=-rank)
    result = tuple(d + rank if d < 0 else d for d in numbers)
    if any(d >= rank for d in result) or (distinct and len(set(result)) != len(result)):
        raise TilusError(
            f"{what}: dim must name different dimensions",
            found=f"{describe(dims)}",
            expected=f"of {-rank}..{rank - 1}, none twice" if rank else "none: the rank is 0",
        )
    return result


def exchanged(dim0: Any, dim1: Any, rank: int, what: str) -> tuple[int, ...]:
    """The permutation that exchanges two dimensions."""
    if rank < 2:
        raise TilusError(f"{what}: two dimensions are needed", found=f"rank {rank}")
    a, b = dims_of((dim0, dim1), rank, what, distinct=False)
    dims = list(range(rank))
    dims[a], dims[b] = dims[b], dims[a]
    return tuple(dims)


def inverse_permutation(dims: tuple[int, ...]) -> tuple[int, ...]:
    """`inverse[dims[k]] == k`."""
    return tuple(dims.index(d) for d in range(len(dims)))
