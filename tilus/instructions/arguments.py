"""Reading what a user wrote as the arguments of an instruction, with errors that name the
argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.ir.expr import Expr, as_expr, as_int
from tilus.ir.tensor import GlobalTensor, RegisterTensor, SharedTensor

T = TypeVar("T")

_KINDS: dict[type, str] = {
    RegisterTensor: "a register tensor",
    SharedTensor: "a shared tensor",
    GlobalTensor: "a global tensor",
    DataType: "a data type",
}


def describe(value: object) -> str:
    """What the user passed, in a few words."""
    if isinstance(value, tuple(_KINDS)):
        return str(value)
    if isinstance(value, Expr):
        return f"scalar {value.dtype} {value}"
    return f"{type(value).__name__} {value!r:.60}"


def expect(value: Any, kind: type[T], what: str, *, hint: str | None = None) -> T:
    """`value` if it is of `kind`, else an error about the argument `what`."""
    if isinstance(value, kind):
        return value
    raise TilusError(
        f"{what} must be {_KINDS.get(kind, kind.__name__)}",
        found=describe(value),
        expected=_KINDS.get(kind, kind.__name__),
        hint=hint or _memory_hint(value, kind),
    )


def _memory_hint(value: object, kind: type) -> str | None:
    if kind is RegisterTensor and isinstance(value, SharedTensor):
        return "load it into registers first: self.load_shared(...)"
    if kind is RegisterTensor and isinstance(value, GlobalTensor):
        return "load it into registers first: self.load_global(...)"
    if kind is GlobalTensor and isinstance(value, Expr) and value.dtype.is_pointer():
        return "make a view of the pointer first: self.global_view(ptr, dtype=..., shape=[...])"
    return None


def expr_tuple(values: Any, what: str) -> tuple[Expr, ...]:
    """A sequence of integer scalars."""
    items = _sequence(values, what)
    exprs = tuple(as_expr(item) for item in items)
    for expr in exprs:
        if not expr.dtype.is_integer():
            raise TilusError(
                f"{what} must be integers", found=f"{expr.dtype} {expr}", expected="integers"
            )
    return exprs


def int_tuple(values: Any, what: str, *, minimum: int = 0) -> tuple[int, ...]:
    """A sequence of compile-time integers, each at least `minimum`."""
    result: list[int] = []
    for item in _sequence(values, what):
        number = as_int(item)
        if number is None:
            raise TilusError(
                f"{what} must be known at compile time",
                found=describe(item),
                expected="Python integers",
                hint="make it a Python int parameter, or set it in __init__",
            )
        if number < minimum:
            raise TilusError(
                f"{what} must be at least {minimum}", found=str(number), expected=f">= {minimum}"
            )
        result.append(number)
    return tuple(result)


def shape_tuple(values: Any, what: str = "shape") -> tuple[int, ...]:
    """A tile's shape: positive compile-time extents."""
    return int_tuple(values, what, minimum=1)


def dims_tuple(dims: Any, tile_rank: int, tensor_rank: int, what: str) -> tuple[int, ...]:
    """Which dimension of the tensor each dimension of the tile runs along; the last ones by
    default.
    """
    if dims is None:
        if tile_rank > tensor_rank:
            raise TilusError(
                f"{what}: the tile has more dimensions than the tensor",
                found=f"rank {tile_rank} for a tensor of rank {tensor_rank}",
                expected=f"rank <= {tensor_rank}",
            )
        return tuple(range(tensor_rank - tile_rank, tensor_rank))
    result = int_tuple(dims, f"{what}: dims", minimum=-tensor_rank)
    result = tuple(d + tensor_rank if d < 0 else d for d in result)
    if (
        len(result) != tile_rank
        or len(set(result)) != tile_rank
        or any(d >= tensor_rank for d in result)
    ):
        raise TilusError(
            f"{what}: dims must name a different dimension of the tensor for each dimension of "
            "the tile",
            found=f"dims={list(result)}",
            expected=f"{tile_rank} of 0..{tensor_rank - 1}, none twice",
        )
    return result


def check_offsets(offsets: Sequence[Expr], tensor_rank: int, what: str) -> None:
    if len(offsets) != tensor_rank:
        raise TilusError(
            f"{what}: one offset for each dimension of the tensor is needed",
            found=f"{len(offsets)} offsets",
            expected=f"{tensor_rank}",
        )


def _sequence(values: Any, what: str) -> Sequence[Any]:
    if isinstance(values, (list, tuple)):
        return values
    if isinstance(values, (int, Expr)):
        return (values,)
    raise TilusError(
        f"{what} must be a list", found=describe(values), expected="a list such as [16, 32]"
    )
