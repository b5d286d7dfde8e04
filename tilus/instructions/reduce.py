"""Reductions of register tiles along dimensions: sum, max, min, any, all.

    row = self.sum(x, dim=1)                   # [16, 32] -> [16]
    top = x.max(dim=-1, keepdim=True)          # [16, 32] -> [16, 1], broadcasts against x

The result has the layout of `x` with the reduced dimensions taken out: the threads along them all
hold the result.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from tilus import dtypes
from tilus.codegen.collective import (
    Fold,
    accumulation_dtype,
    butterfly,
    fold_across,
    fold_registers,
    replicas,
    set_value,
    thread_digits,
)
from tilus.dtypes import Array, DataType, convert
from tilus.errors import TilusError
from tilus.instructions.arguments import expect
from tilus.instructions.dimensions import dims_of
from tilus.instructions.elementwise import default_layout, layout_of, local_index
from tilus.ir.instruction import Instruction, Known, Proposal, Strength
from tilus.ir.layout import RegisterLayout, holds_operands
from tilus.ir.operators import require_arithmetic
from tilus.ir.tensor import RegisterTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine

R = TypeVar("R", bound="Reduce")


@dataclass(frozen=True, eq=False)
class Reduce(Instruction):
    """Base of the family; a subclass says what the result's dtype is and how values combine."""

    operator: ClassVar[str]  # of the operator table: how the generated code combines two values

    out: RegisterTensor
    x: RegisterTensor
    dims: tuple[int, ...]
    keepdim: bool

    @classmethod
    def build(
        cls: type[R], x: Any, *, dim: Any = None, keepdim: bool = False, out: Any = None
    ) -> R:
        """Reduce the register tile `x` along `dim` (an int or a list; all dimensions by default).

        `keepdim` keeps the reduced dimensions with extent 1. `out` reuses a tile of the result's
        shape and dtype.

        sum: float16 and bfloat16 accumulate in float32 and are rounded once; integers wrap around
        in their own dtype. max, min: of the dtype of `x`; nan wins. any, all: boolean, whether
        elements differ from 0. Raises `TilusError` for dtypes without arithmetic; cast narrow ones
        first.

        Example: `total = self.sum(x, dim=0)`.
        """
        tile = expect(x, RegisterTensor, f"{cls.name}: x", hint=_scalar_hint(cls.name, x))
        rank = len(tile.shape)
        dims = tuple(range(rank)) if dim is None else tuple(sorted(dims_of(dim, rank, cls.name)))
        if out is None:
            out = RegisterTensor(cls.dtype_of(tile.dtype), _shape(tile.shape, dims, bool(keepdim)))
        return cls(expect(out, RegisterTensor, f"{cls.name}: out"), tile, dims, bool(keepdim))

    @classmethod
    def dtype_of(cls, dtype: DataType) -> DataType:
        """The dtype of the result; `TilusError` where the reduction is not defined on `dtype`."""
        require_arithmetic(dtype)
        return dtype

    @abstractmethod
    def combine(self, values: Array, axes: tuple[int, ...]) -> Array:
        """Reduce the carrier of `x` along `axes`, kept with extent 1, to that of `out`."""

    def verify(self) -> None:
        rank = len(self.x.shape)
        self.require(
            len(set(self.dims)) == len(self.dims) and set(self.dims) <= {*range(rank)},
            "dims must be different dimensions of the tile",
            found=f"dims={list(self.dims)} of {self.x}",
        )
        expected = RegisterTensor(
            self.dtype_of(self.x.dtype), _shape(self.x.shape, self.dims, self.keepdim)
        )
        self.require(
            (self.out.dtype, self.out.shape) == (expected.dtype, expected.shape),
            "the result is of another type",
            found=str(self.out),
            expected=str(expected),
        )

    def layouts(self, known: Known) -> Iterator[Proposal]:
        layout = known.register(self.x)
        if layout is None:
            yield Proposal(self.x, default_layout(known.num_threads, self.x), Strength.MAY)
        elif known.register(self.out) is None:
            yield Proposal(self.out, layout.reduce(self.dims, self.keepdim), Strength.MUST)

    def check_layouts(self) -> None:
        assert self.x.layout is not None and self.out.layout is not None
        have = self.x.layout.reduce(self.dims, self.keepdim)
        self.require(
            holds_operands(self.out.layout, have),
            "the result lies in other threads than the reduction leaves it in",
            found=str(self.out.layout),
            expected=str(have),
            hint="annotate_layout one of them, or pass the data through shared memory",
        )

    def run(self, machine: Machine) -> None:
        values = machine[self.x]
        with np.errstate(all="ignore"):  # overflow and nan are values like others
            reduced = self.combine(values, tuple(d + 1 for d in self.dims))
        machine[self.out] = reduced.reshape(values.shape[0], *self.out.shape)

    def fold(self) -> Fold:
        """How the generated code combines two values, and in which dtype."""
        return Fold(self.operator, accumulation_dtype(self.x.dtype))

    def emit(self, e: Emitter) -> None:
        fold, layout = self.fold(), layout_of(self.x)
        slots = _slots(layout, self.dims)
        count = int(slots.max()) + 1
        e.declare(self.out)
        with e.block(""):
            total = fold_registers(e, self.x, slots, fold)
            digits = [d for d in thread_digits(layout) if d.dim in self.dims]
            lanes = [d for d in digits if d.in_warp]
            for digit in reversed(lanes):
                butterfly(e, total, count, digit, fold)
            if across := [d for d in digits if not d.in_warp]:
                e.note(f"{e.name(self.out)}: threads of other warps combine through shared memory")
                same = (*lanes, *replicas(layout))
                fold_across(e, total, count, across, layout, same, fold)
            self._set_result(e, total, layout.reduce(self.dims, self.keepdim), fold)

    def _set_result(self, e: Emitter, total: str, layout: RegisterLayout, fold: Fold) -> None:
        held = RegisterTensor(self.out.dtype, self.out.shape, layout, name="the reduction")
        with e.unrolled(layout_of(self.out).local_size) as i:
            value = f"{total}[{local_index(e, self.out, held, i)}]"
            set_value(e, self.out, i, value, fold.dtype)


def _slots(layout: RegisterLayout, dims: tuple[int, ...]) -> Array:
    """Which register of the result each register is combined into, int64 (local size,)."""
    sizes = [digit.size for digit in layout.local_digits]
    kept = [k for k, digit in enumerate(layout.local_digits) if digit.dim not in dims]
    if not kept:
        return np.zeros(layout.local_size, np.int64)
    index = np.unravel_index(np.arange(layout.local_size), sizes)
    return np.ravel_multi_index([index[k] for k in kept], [sizes[k] for k in kept])


def _shape(shape: tuple[int, ...], dims: tuple[int, ...], keepdim: bool) -> tuple[int, ...]:
    if keepdim:
        return tuple(1 if d in dims else extent for d, extent in enumerate(shape))
    return tuple(extent for d, extent in enumerate(shape) if d not in dims)


def _scalar_hint(name: str, x: Any) -> str | None:
    other = {"max": "maximum", "min": "minimum"}.get(name)
    return (
        None
        if isinstance(x, RegisterTensor) or not other
        else f"of scalars: {name}(a, b); of tiles elementwise: self.{other}(a, b)"
    )


class Sum(Reduce, name="sum", methods=((RegisterTensor, "sum"),)):
    operator = "add"

    @classmethod
    def dtype_of(cls, dtype: DataType) -> DataType:
        require_arithmetic(dtype)
        if dtype.kind == "bool":
            raise TilusError(
                "sum: the sum of booleans would be a boolean",
                found=str(dtype),
                expected="an integer or a float",
                hint="count them with self.sum(x.to(tilus.int32))",
            )
        return dtype

    def combine(self, values: Array, axes: tuple[int, ...]) -> Array:
        dtype = self.x.dtype
        if dtype.is_any_float16():
            wide = convert(values, dtype, dtypes.float32)
            total = np.sum(wide, axis=axes, dtype=np.float32, keepdims=True)
            return convert(total, dtypes.float32, dtype)
        return np.asarray(np.sum(values, axis=axes, dtype=dtype.carrier, keepdims=True))


class _Extreme(Reduce):
    of_booleans: ClassVar[str]

    def fold(self) -> Fold:
        boolean = self.x.dtype.kind == "bool"
        return Fold(self.of_booleans, dtypes.boolean) if boolean else super().fold()


class Max(_Extreme, name="max", methods=((RegisterTensor, "max"),)):
    operator = "max"
    of_booleans = "bitor"

    def combine(self, values: Array, axes: tuple[int, ...]) -> Array:
        return np.asarray(np.maximum.reduce(values, axis=axes, keepdims=True))


class Min(_Extreme, name="min", methods=((RegisterTensor, "min"),)):
    operator = "min"
    of_booleans = "bitand"

    def combine(self, values: Array, axes: tuple[int, ...]) -> Array:
        return np.asarray(np.minimum.reduce(values, axis=axes, keepdims=True))


class _Truth(Reduce):
    @classmethod
    def dtype_of(cls, dtype: DataType) -> DataType:
        require_arithmetic(dtype)
        return dtypes.boolean

    def fold(self) -> Fold:
        return Fold(self.operator, dtypes.boolean)


class Any_(_Truth, name="any", methods=((RegisterTensor, "any"),)):
    operator = "bitor"

    def combine(self, values: Array, axes: tuple[int, ...]) -> Array:
        return np.any(convert(values, self.x.dtype, dtypes.boolean), axis=axes, keepdims=True)


class All(_Truth, name="all", methods=((RegisterTensor, "all"),)):
    operator = "bitand"

    def combine(self, values: Array, axes: tuple[int, ...]) -> Array:
        return np.all(convert(values, self.x.dtype, dtypes.boolean), axis=axes, keepdims=True)
