"""What an index selects of a tile or tensor: Python's integers, scalars and slices.

    parse_index((i, slice(8, 16)), shape)     # Part(offsets=(i, 8), dims=(1,), extents=(8,))

An integer or scalar drops its dimension, a slice keeps it. Constants may count from the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilus.dtypes import Array
from tilus.errors import TilusError
from tilus.instructions.arguments import describe
from tilus.ir.expr import Apply, Const, Expr, apply, as_expr, as_int
from tilus.ir.instruction import Instruction
from tilus.ir.tensor import Tensor


@dataclass(frozen=True)
class Part:
    """What an index selects: where it begins in every dimension, and the dimensions it keeps."""

    offsets: tuple[Expr, ...]
    dims: tuple[int, ...]
    extents: tuple[Expr, ...]  # of the kept dimensions


_STRIDES = "give the tensor strides: global_view(ptr, dtype=..., shape=..., strides=...)"


def parse_index(index: Any, shape: Sequence[Expr], *, step_hint: str = _STRIDES) -> Part:
    """`index` is one item or a tuple of them: int, scalar or slice."""
    items = index if isinstance(index, tuple) else (index,)
    if len(items) > len(shape):
        raise TilusError(
            "more indices than dimensions",
            found=f"{len(items)} indices for shape [{', '.join(str(e) for e in shape)}]",
            expected=f"at most {len(shape)}",
        )
    items += (slice(None),) * (len(shape) - len(items))
    offsets: list[Expr] = []
    dims: list[int] = []
    extents: list[Expr] = []
    for dim, (item, extent) in enumerate(zip(items, shape, strict=True)):
        if isinstance(item, slice):
            start, length = _range_of(item, extent, dim, step_hint)
            dims.append(dim)
            extents.append(length)
        else:
            start = _bound(item, extent, dim)
        offsets.append(start)
    return Part(tuple(offsets), tuple(dims), tuple(extents))


def _range_of(item: slice, extent: Expr, dim: int, step_hint: str) -> tuple[Expr, Expr]:
    """(start, length) of a slice."""
    if item.step is not None and as_int(item.step) != 1:
        raise TilusError(
            "a slice has no step",
            found=f"step {item.step} in dimension {dim}",
            expected="start:stop",
            hint=step_hint,
        )
    start = as_expr(0) if item.start is None else _bound(item.start, extent, dim)
    stop = extent if item.stop is None else _bound(item.stop, extent, dim)
    length = difference(stop, start)
    known = as_int(length)
    if known is not None and known < 1:
        raise TilusError(
            "a slice is empty",
            found=f"{start}:{stop} in dimension {dim}",
            expected="start before stop",
        )
    return start, length


def _bound(value: Any, extent: Expr, dim: int) -> Expr:
    """An index as an expression; a constant that is negative counts from the end."""
    if isinstance(value, bool) or not isinstance(value, (int, Expr)):
        raise TilusError(
            "an index is an integer, a scalar or a slice",
            found=f"{describe(value)} in dimension {dim}",
        )
    expr = as_expr(value)
    if not expr.dtype.is_integer():
        raise TilusError("an index is an integer", found=f"{expr.dtype} {expr} in dimension {dim}")
    number = as_int(expr)
    return apply("add", extent, expr) if number is not None and number < 0 else expr


def difference(stop: Expr, start: Expr) -> Expr:
    """`stop - start`, constant where the variable parts are equal: `(i + 16) - i` is 16."""
    terms, constant = _affine(stop)
    minus, subtracted = _affine(start)
    for term, factor in minus.items():
        terms[term] = terms.get(term, 0) - factor
    if any(terms.values()):
        return apply("sub", stop, start)
    return as_expr(constant - subtracted)


def _affine(expr: Expr) -> tuple[dict[Expr, int], int]:
    """`expr` as sum of factor * term + constant."""
    if isinstance(expr, Const):
        return {}, int(expr.value)
    if isinstance(expr, Apply) and expr.op in ("add", "sub"):
        terms, constant = _affine(expr.args[0])
        more, number = _affine(expr.args[1])
        sign = 1 if expr.op == "add" else -1
        for term, factor in more.items():
            terms[term] = terms.get(term, 0) + sign * factor
        return terms, constant + sign * number
    if isinstance(expr, Apply) and expr.op == "mul":
        scale = as_int(expr.args[1])
        if scale is not None:
            terms, constant = _affine(expr.args[0])
            return {term: scale * factor for term, factor in terms.items()}, scale * constant
    return {expr: 1}, 0


def check_part(
    instruction: Instruction,
    out: Tensor,
    src: Tensor,
    starts: Sequence[Expr | int],
    dims: tuple[int, ...],
) -> None:
    """Raise where a part is of other dimensions or dtype, or sticks out by constant indices."""
    rank = len(src.shape)
    instruction.require(
        len(dims) == len(out.shape) and len(set(dims)) == len(dims) and set(dims) <= {*range(rank)},
        "dims must name a different dimension of the tensor for each dimension of the part",
        found=f"dims={list(dims)} for rank {len(out.shape)} of rank {rank}",
    )
    instruction.require(
        out.dtype == src.dtype,
        "the dtypes of the part and of the tensor differ",
        found=f"{out.dtype} of {src.dtype}",
    )
    lengths = part_lengths(out.shape, dims, rank)
    for dim, (offset, extent) in enumerate(zip(starts, src.shape, strict=True)):
        start, length, limit = as_int(offset), as_int(lengths[dim]), as_int(extent)
        if start is not None and limit is not None and length is not None:
            instruction.require(
                start >= 0 and start + length <= limit,
                "the index is out of bounds",
                found=f"{positions(start, length)} in dimension {dim}",
                expected=f"within 0..{limit - 1}",
            )


def part_lengths(shape: Sequence[Any], dims: Sequence[int], rank: int) -> list[Any]:
    """How many elements of each dimension a part of `shape` covers; 1 where an index is given."""
    lengths: list[Any] = [1] * rank
    for dim, extent in zip(dims, shape, strict=True):
        lengths[dim] = extent
    return lengths


def check_inside(
    instruction: Instruction,
    starts: Sequence[Array],
    extents: Sequence[Array],
    lengths: Sequence[Any],
) -> None:
    """Raise where a part that begins at a run-time index sticks out in some block."""
    for dim, (start, extent, length) in enumerate(zip(starts, extents, lengths, strict=True)):
        outside = (start < 0) | (start + length > extent)
        if np.any(outside):
            first, limit, count = (
                np.broadcast_to(a, outside.shape)[outside].reshape(-1)[0]
                for a in (start, extent, np.asarray(length))
            )
            instruction.require(
                False,
                "the index is out of bounds",
                found=f"{positions(int(first), int(count))} in dimension {dim}",
                expected=f"within 0..{int(limit) - 1}",
                hint="guard it with an if statement, or use load_global(offsets=), which reads 0",
            )


def positions(start: int, length: int) -> str:
    """A range of indices as errors name it."""
    return f"index {start}" if length == 1 else f"indices {start}..{start + length - 1}"
