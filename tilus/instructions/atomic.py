"""Atomic updates of global and shared memory, and stores at data-dependent places.

    old = self.atomic.global_add(counts, ones, offsets=[0])       # old values, as a tile
    self.atomic.shared_max(s, x, offsets=[0, 0])
    self.atomic.global_cas(locks, 0, taken, offsets=[i])          # compare with 0, and swap
    self.store_global_scatter(g, x, rows)                         # g[rows[J]] = x[J]

Each element is updated once, however many threads hold it. Blocks follow each other in an
unspecified order (the interpreter: that of the blocks), so only what does not depend on it is well
defined.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from tilus.codegen.atomics import atomic_function
from tilus.codegen.collective import (
    first_of,
    replicas,
    share_with_replicas,
    store_element,
    value_as,
)
from tilus.codegen.global_access import GlobalAccess
from tilus.codegen.pieces import turns
from tilus.codegen.scalar import atom, scalar_type
from tilus.codegen.shared_access import SharedAccess
from tilus.dtypes import Array, DataType, int64
from tilus.errors import TilusError
from tilus.instructions.arguments import check_offsets, describe, dims_tuple, expect, expr_tuple
from tilus.instructions.elementwise import layout_of
from tilus.instructions.shared_memory import check_index_tiles, check_one_layout, one_layout
from tilus.interp.access import in_bounds, linear_offset, tensor_indices
from tilus.interp.machine import spread
from tilus.interp.shared import Access
from tilus.ir.expr import Expr, as_expr, as_int, cast
from tilus.ir.instruction import Effects, Instruction, Known, Proposal
from tilus.ir.operators import OPERATORS, compute
from tilus.ir.tensor import GlobalTensor, RegisterTensor, SharedTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine

U = TypeVar("U", bound="_Update")
C = TypeVar("C", bound="CompareAndSwap")
Operands = tuple[
    RegisterTensor, GlobalTensor | SharedTensor, RegisterTensor, tuple[Expr, ...], tuple[int, ...]
]
# CUDA C++ Programming Guide, "Atomic Functions": 16 bits by compare-and-swap, 32 and 64 bits
# natively.
ATOMIC_NBITS = (16, 32, 64)


@dataclass(frozen=True, eq=False)
class Atomic(Instruction):
    """Base of the family: dst[o] = f(dst[o], values[J]) with o = offsets, o[dims[k]] += J[k]."""

    space: ClassVar[type[GlobalTensor] | type[SharedTensor]]
    operator: ClassVar[str]  # a row of the operator table, or "exch" or "cas"

    out: RegisterTensor
    dst: GlobalTensor | SharedTensor
    values: RegisterTensor
    offsets: tuple[Expr, ...]
    dims: tuple[int, ...]

    @classmethod
    def _operands(cls, dst: Any, values: Any, offsets: Any, dims: Any, out: Any) -> Operands:
        tensor = expect(dst, cls.space, f"{cls.name}: dst")
        tile = expect(values, RegisterTensor, f"{cls.name}: values")
        old = RegisterTensor(tile.dtype, tile.shape) if out is None else out
        return (
            expect(old, RegisterTensor, f"{cls.name}: out"),
            tensor,
            tile,
            expr_tuple(offsets, f"{cls.name}: offsets"),
            dims_tuple(dims, len(tile.shape), len(tensor.shape), cls.name),
        )

    @abstractmethod
    def change(self, old: Array, operands: tuple[Array, ...]) -> Array:
        """The new values, given the old ones and those of the operands."""

    def operand_values(self, machine: Machine) -> tuple[Array, ...]:
        """The arrays that `change` gets, each broadcastable to (blocks, *values.shape)."""
        return (machine[self.values],)

    @property
    def tiles(self) -> tuple[RegisterTensor, ...]:
        return self.values, self.out

    def verify(self) -> None:
        check_offsets(self.offsets, len(self.dst.shape), self.name)
        dims_tuple(self.dims, len(self.values.shape), len(self.dst.shape), self.name)
        dtype = self.dst.dtype
        self.require(
            (dtype.is_integer() or dtype.is_float()) and dtype.nbits in ATOMIC_NBITS,
            f"{dtype} has no atomic operations",
            found=str(self.dst),
            expected="an integer or a float of 16, 32 or 64 bits",
        )
        for tile in self.tiles:
            self.require(
                (tile.dtype, tile.shape) == (dtype, self.values.shape),
                "the tile is of another type",
                found=str(tile),
                expected=str(RegisterTensor(dtype, self.values.shape)),
                hint=f"cast the tile: .to({dtype})" if tile.dtype != dtype else None,
            )

    def layouts(self, known: Known) -> Iterator[Proposal]:
        yield from one_layout(known, self.tiles)

    def check_layouts(self) -> None:
        check_one_layout(self, self.tiles)

    def run(self, machine: Machine) -> None:
        indices = tensor_indices(machine, self.offsets, self.dims, self.values.shape)
        update = self._update_global if isinstance(self.dst, GlobalTensor) else self._update_shared
        machine[self.out] = update(machine, indices)

    def _update_global(self, machine: Machine, indices: list[Array]) -> Array:
        assert isinstance(self.dst, GlobalTensor)
        ref, rank = machine.global_ref(self.dst), len(self.values.shape)
        shape = (machine.count, *self.values.shape)
        return machine.memory.update(
            np.broadcast_to(spread(ref.address, rank), shape),
            linear_offset(indices, ref.strides, rank),
            self.dst.dtype,
            in_bounds(indices, ref.shape, rank),
            self.change,
            self.operand_values(machine),
            self.dst.name or "the global tensor",
        )

    def _update_shared(self, machine: Machine, indices: list[Array]) -> Array:
        assert isinstance(self.dst, SharedTensor)
        extents = [np.asarray(e) for e in self.dst.shape]
        self.require(
            in_bounds(indices, extents, len(self.values.shape)) is None,
            "the tile reaches outside the shared tensor",
            found=f"{self.values} at [{', '.join(str(o) for o in self.offsets)}] of {self.dst}",
        )
        offsets = machine.shared_ref(self.dst).offsets(tuple(indices))
        access = Access(self.values.layout, offsets, atomic=True)
        shape = (machine.count, *self.values.shape)
        old = machine.read_shared(self.dst, access).reshape(shape)
        new = self.change(old, self.operand_values(machine))
        machine.write_shared(self.dst, access, new.reshape(machine.count, -1))
        return old

    def operand_text(self, e: Emitter, register: str) -> tuple[str, ...]:
        """C of the operands' values for a register."""
        return (e.get(self.values, register),)

    def emit(self, e: Emitter) -> None:
        layout, dtype = layout_of(self.values), self.dst.dtype
        update = atomic_function(e, self.operator, dtype)
        first = first_of(e, replicas(layout))
        if first is not None:
            e.note(f"{self.name}: threads that hold the same elements wait for the one that acts")
        e.declare(self.out)
        with e.block(""):
            old = e.temporary("old")
            e(f"{scalar_type(dtype)} {old}[{layout.local_size}] = {{}};")
            for i, bit, inside in self._access(e).elements():
                place = f"{e.name(self.dst)} + ({bit}) / 8"
                call = f"{update}({', '.join((place, *self.operand_text(e, i)))})"
                conditions = " && ".join(c for c in (first, inside) if c is not None)
                e(f"{f'if ({conditions}) ' if conditions else ''}{old}[{i}] = {call};")
            share_with_replicas(e, old, layout.local_size, dtype, layout)
            with e.unrolled(layout.local_size) as i:
                e.set(self.out, i, f"{old}[{i}]")

    def _access(self, e: Emitter) -> GlobalAccess | SharedAccess:
        if isinstance(self.dst, GlobalTensor):
            return GlobalAccess(e, self.values, self.dst, self.offsets, self.dims)
        return SharedAccess(e, self.values, self.dst, self.offsets, self.dims)


class _Update(Atomic):
    @classmethod
    def build(
        cls: type[U], dst: Any, values: Any, /, *, offsets: Any, dims: Any = None, out: Any = None
    ) -> U:
        """Update dst[o] with values[J], o = offsets, o[dims[k]] += J[k]; gives the old values.

        add, sub, min and max combine the old and the new value, exch replaces it. `dst` and
        `values` have the same dtype, an integer or a float of 16, 32 or 64 bits; integers wrap
        around. In global memory elements out of bounds are skipped and their old values read as 0;
        in shared memory they are an error. `out` reuses a tile.

        Example: `old = self.atomic.global_add(counts, ones, offsets=[0])`.
        """
        return cls(*cls._operands(dst, values, offsets, dims, out))


class _Combine(_Update):
    """`change` is a row of the operator table."""

    def change(self, old: Array, operands: tuple[Array, ...]) -> Array:
        dtype = self.dst.dtype
        values = [old, *operands]
        return np.asarray(compute(OPERATORS[self.operator], values, [dtype, dtype], dtype))


class _Exchange(_Update):
    operator = "exch"

    def change(self, old: Array, operands: tuple[Array, ...]) -> Array:
        return np.broadcast_to(operands[0], old.shape)


@dataclass(frozen=True, eq=False)
class CompareAndSwap(Atomic):
    operator = "cas"

    compare: RegisterTensor | Expr

    @classmethod
    def build(
        cls: type[C],
        dst: Any,
        compare: Any,
        values: Any,
        /,
        *,
        offsets: Any,
        dims: Any = None,
        out: Any = None,
    ) -> C:
        """Where dst[o] equals compare[J], replace it by values[J]; the result is the old values.

        o = offsets, o[dims[k]] += J[k]. `compare` is a scalar or a tile of the type of `values`.
        Bounds and dtypes as for the other atomics; floats are compared as numbers.

        Example: `old = self.atomic.global_cas(locks, 0, ones, offsets=[i])`.
        """
        operands = cls._operands(dst, values, offsets, dims, out)
        return cls(*operands, _scalar_or_tile(compare, operands[1].dtype, f"{cls.name}: compare"))

    @property
    def tiles(self) -> tuple[RegisterTensor, ...]:
        if isinstance(self.compare, RegisterTensor):
            return self.values, self.compare, self.out
        return self.values, self.out

    def verify(self) -> None:
        super().verify()
        self.require(
            self.compare.dtype == self.dst.dtype,
            "compare is of another dtype",
            found=describe(self.compare),
            expected=str(self.dst.dtype),
        )

    def operand_values(self, machine: Machine) -> tuple[Array, ...]:
        shape = (machine.count, *self.values.shape)
        if isinstance(self.compare, RegisterTensor):
            compare = machine[self.compare]
        else:
            compare = spread(machine.scalar(self.compare), len(self.values.shape))
        return np.broadcast_to(compare, shape), machine[self.values]

    def change(self, old: Array, operands: tuple[Array, ...]) -> Array:
        compare, values = operands
        return np.where(old == compare, values, old)

    def operand_text(self, e: Emitter, register: str) -> tuple[str, ...]:
        if isinstance(self.compare, RegisterTensor):
            compare = e.get(self.compare, register)
        else:
            compare = e.scalar(self.compare)
        return compare, e.get(self.values, register)


def _scalar_or_tile(value: Any, dtype: DataType, what: str) -> RegisterTensor | Expr:
    if isinstance(value, RegisterTensor):
        return value
    if isinstance(value, (bool, int, float, Expr)):
        return cast(as_expr(value, dtype), dtype)
    raise TilusError(
        f"{what} must be a scalar or a register tensor",
        found=describe(value),
        expected=f"a scalar or a tile of {dtype}",
    )


_GLOBAL = Effects.READ_GLOBAL | Effects.WRITE_GLOBAL
_SHARED = Effects.READ_SHARED | Effects.WRITE_SHARED


class GlobalAdd(_Combine, name="atomic.global_add", effects=_GLOBAL):
    space = GlobalTensor
    operator = "add"


class GlobalSub(_Combine, name="atomic.global_sub", effects=_GLOBAL):
    space = GlobalTensor
    operator = "sub"


class GlobalMin(_Combine, name="atomic.global_min", effects=_GLOBAL):
    space = GlobalTensor
    operator = "min"


class GlobalMax(_Combine, name="atomic.global_max", effects=_GLOBAL):
    space = GlobalTensor
    operator = "max"


class GlobalExchange(_Exchange, name="atomic.global_exch", effects=_GLOBAL):
    space = GlobalTensor


class GlobalCompareAndSwap(CompareAndSwap, name="atomic.global_cas", effects=_GLOBAL):
    space = GlobalTensor


class SharedAdd(_Combine, name="atomic.shared_add", effects=_SHARED):
    space = SharedTensor
    operator = "add"


class SharedSub(_Combine, name="atomic.shared_sub", effects=_SHARED):
    space = SharedTensor
    operator = "sub"


class SharedMin(_Combine, name="atomic.shared_min", effects=_SHARED):
    space = SharedTensor
    operator = "min"


class SharedMax(_Combine, name="atomic.shared_max", effects=_SHARED):
    space = SharedTensor
    operator = "max"


class SharedExchange(_Exchange, name="atomic.shared_exch", effects=_SHARED):
    space = SharedTensor


class SharedCompareAndSwap(CompareAndSwap, name="atomic.shared_cas", effects=_SHARED):
    space = SharedTensor


@dataclass(frozen=True, eq=False)
class StoreGlobalScatter(Instruction, name="store_global_scatter", effects=Effects.WRITE_GLOBAL):
    dst: GlobalTensor
    src: RegisterTensor
    indices: tuple[RegisterTensor, ...]

    @classmethod
    def build(cls, dst: Any, src: Any, indices: Any) -> StoreGlobalScatter:
        """Store at indices of its own: dst[indices[0][J], indices[1][J], ...] = src[J].

        `indices` is an integer tile of the shape of `src` for each dimension of `dst`, or a single
        tile where `dst` has rank 1. Elements whose index is out of bounds are skipped; of several
        elements with the same index one is stored.

        Example: `self.store_global_scatter(g, x, (rows, columns))`.
        """
        tiles = indices if isinstance(indices, (tuple, list)) else (indices,)
        return cls(
            expect(dst, GlobalTensor, "store_global_scatter: dst"),
            expect(src, RegisterTensor, "store_global_scatter: src"),
            tuple(expect(t, RegisterTensor, "store_global_scatter: indices") for t in tiles),
        )

    def verify(self) -> None:
        self.require(
            self.src.dtype == self.dst.dtype,
            "the dtypes of the tile and of the tensor differ",
            found=f"tile {self.src.dtype}, tensor {self.dst.dtype}",
            expected="the same dtype",
            hint=f"cast the tile: .to({self.dst.dtype})",
        )
        check_index_tiles(self, self.src, self.indices, len(self.dst.shape))

    def layouts(self, known: Known) -> Iterator[Proposal]:
        yield from one_layout(known, (self.src, *self.indices))

    def check_layouts(self) -> None:
        check_one_layout(self, (self.src, *self.indices))

    def run(self, machine: Machine) -> None:
        ref, rank = machine.global_ref(self.dst), len(self.src.shape)
        indices = [machine[t].astype(np.int64) for t in self.indices]
        machine.memory.scatter(
            spread(ref.address, rank),
            linear_offset(indices, ref.strides, rank),
            self.dst.dtype,
            in_bounds(indices, ref.shape, rank),
            machine[self.src],
            self.dst.name or "the global tensor",
        )

    def emit(self, e: Emitter) -> None:
        first = first_of(e, replicas(layout_of(self.src)))
        if first is not None:
            with e.block(f"if ({first})"):
                self._emit_stores(e)
            return
        self._emit_stores(e)

    def _emit_stores(self, e: Emitter) -> None:
        for i, _ in turns(e, layout_of(self.src).local_size):
            conditions: list[str] = []
            terms: list[str] = []
            for tile, extent, stride in zip(
                self.indices, self.dst.shape, self.dst.layout.strides, strict=True
            ):
                index = e.temporary("index")
                e(f"const int64_t {index} = {value_as(e, tile, i, int64)};")
                conditions.append(f"{index} >= 0 && {index} < {atom(e.scalar(extent))}")
                step = f" * {atom(e.scalar(cast(as_expr(stride), int64)))}"
                terms.append(index if as_int(stride) == 1 else f"{index}{step}")
            with e.block(f"if ({' && '.join(conditions) or 'true'})"):
                store_element(e, self.src, i, e.name(self.dst), " + ".join(terms) or "0")
