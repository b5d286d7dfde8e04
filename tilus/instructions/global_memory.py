"""Global memory: views, workspaces, loads and stores of tiles.

    g = self.global_view(ptr, dtype=float16, shape=[m, k])
    x = self.load_global(g, offsets=[i, 0], shape=[16, 32])      # x[a, b] = g[i + a, b]
    self.store_global(g, x, offsets=[i, 0])

Elements outside the tensor read as 0 and are not stored, for negative indices too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilus.codegen.access import load_tile, store_tile
from tilus.codegen.global_access import GlobalAccess
from tilus.dtypes import DataType, int64
from tilus.errors import TilusError
from tilus.instructions.arguments import (
    check_offsets,
    describe,
    dims_tuple,
    expect,
    expr_tuple,
    shape_tuple,
)
from tilus.instructions.placement import (
    contiguous_elements,
    vectorized_layout,
)
from tilus.interp.access import in_bounds, linear_offset, nearest_inside, tensor_indices
from tilus.interp.machine import spread
from tilus.ir.expr import Expr, apply, as_expr, cast
from tilus.ir.instruction import Effects, Facts, Instruction, Known, Proposal, Strength
from tilus.ir.layout import global_row_major, global_strides
from tilus.ir.tensor import GlobalTensor, RegisterTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine


WORKSPACE_ALIGNMENT = 256  # bytes; CUDA C++ Programming Guide, "Device Memory Accesses"


PADDINGS = ("zero", "edge")


@dataclass(frozen=True, eq=False)
class GlobalView(Instruction, name="global_view"):
    out: GlobalTensor
    ptr: Expr

    @classmethod
    def build(cls, ptr: Any, *, dtype: Any, shape: Any, strides: Any = None) -> GlobalView:
        """View the memory at `ptr` as a tensor of `dtype` and `shape`, row-major unless `strides`
        (elements) are given.

        Sub-byte dtypes lie packed, element k at bits [k * nbits, (k + 1) * nbits).
        """
        pointer = expect(
            ptr, Expr, "global_view: ptr", hint="annotate the parameter as ~dtype or void_p"
        )
        extents = expr_tuple(shape, "global_view: shape")
        layout = (
            global_row_major(extents)
            if strides is None
            else global_strides(extents, _strides(strides, extents))
        )
        return cls(
            GlobalTensor(expect(dtype, DataType, "global_view: dtype"), extents, layout=layout),
            pointer,
        )

    def verify(self) -> None:
        self.require(
            self.ptr.dtype.is_pointer(),
            "ptr must be a pointer",
            found=describe(self.ptr),
            expected="a parameter annotated ~dtype or void_p",
        )

    def address_alignment(self, facts: Facts) -> int:
        return facts.divisibility(self.ptr)

    def run(self, machine: Machine) -> None:
        machine.bind_global(self.out, machine.scalar(self.ptr))

    def emit(self, e: Emitter) -> None:
        e(f"uint8_t* const {e.name(self.out)} = (uint8_t*)({e.scalar(self.ptr)});")


def _strides(strides: Any, extents: tuple[Expr, ...]) -> tuple[Expr, ...]:
    result = expr_tuple(strides, "global_view: strides")
    if len(result) != len(extents):
        raise TilusError(
            "global_view: one stride for each extent is needed",
            found=f"{len(result)}",
            expected=f"{len(extents)}",
        )
    return result


@dataclass(frozen=True, eq=False)
class GlobalWorkspace(Instruction, name="global_tensor", effects=Effects.WRITE_GLOBAL):
    """Memory of the launch, shared by all its blocks; see `build`."""

    out: GlobalTensor
    requires_clean: bool

    @classmethod
    def build(cls, dtype: Any, shape: Any, *, requires_clean: bool) -> GlobalWorkspace:
        """A workspace of this launch, one for all blocks.

        `shape` may depend on the parameters, not on the block. With `requires_clean` it is zero at
        entry, and the kernel must leave it zero.
        """
        extents = expr_tuple(shape, "global_tensor: shape")
        dtype = expect(dtype, DataType, "global_tensor: dtype")
        return cls(
            GlobalTensor(dtype, extents, layout=global_row_major(extents)), bool(requires_clean)
        )

    def address_alignment(self, facts: Facts) -> int:
        return WORKSPACE_ALIGNMENT

    def run(self, machine: Machine) -> None:
        counts = [np.unique(machine.scalar(e)) for e in self.out.shape]
        if any(c.size != 1 for c in counts):
            raise TilusError(
                "global_tensor: the shape differs between blocks",
                found=f"shape {[str(e) for e in self.out.shape]}",
                expected="extents that depend on parameters only",
            )
        bits = math.prod(int(c[0]) for c in counts) * self.out.dtype.nbits
        name = self.out.name or "workspace"
        machine.bind_global(
            self.out, np.asarray(machine.memory.workspace(self, name, (bits + 7) // 8))
        )

    def emit(self, e: Emitter) -> None:
        elements: Expr = as_expr(1)
        for extent in self.out.shape:
            elements = apply("mul", elements, cast(extent, int64))
        bits = apply("mul", elements, self.out.dtype.nbits)
        nbytes = apply("floordiv", apply("add", bits, 7), 8)
        e(f"uint8_t* const {e.name(self.out)} = {e.workspace(nbytes, self.requires_clean)};")


@dataclass(frozen=True, eq=False)
class LoadGlobal(Instruction, name="load_global", effects=Effects.READ_GLOBAL):
    out: RegisterTensor
    src: GlobalTensor
    offsets: tuple[Expr, ...]
    dims: tuple[int, ...]
    padding: str = "zero"

    @classmethod
    def build(
        cls,
        src: Any,
        /,
        *,
        offsets: Any,
        shape: Any = None,
        dims: Any = None,
        out: Any = None,
        padding: str = "zero",
    ) -> LoadGlobal:
        """Load a tile: element J is src[o] with o = offsets, o[dims[k]] += J[k]; elements out of
        bounds read as 0.

        `dims` are by default the last dimensions of `src`. `out` reuses a register tensor. With
        `padding="edge"` an index out of bounds stands for the nearest one inside, as in
        `numpy.pad`: cheaper than 0 where what is read there does not matter.
        """
        source = expect(src, GlobalTensor, "load_global: src")
        if shape is None and out is None:
            raise TilusError(
                "load_global: shape is missing", hint="pass shape=[...], or out= an existing tile"
            )
        if out is None:
            out = RegisterTensor(source.dtype, shape_tuple(shape, "load_global: shape"))
        tile = expect(out, RegisterTensor, "load_global: out")
        if shape is not None and shape_tuple(shape, "load_global: shape") != tile.shape:
            raise TilusError(
                "load_global: shape differs from that of out",
                found=f"{shape}",
                expected=f"{tile.shape}",
            )
        dims = dims_tuple(dims, len(tile.shape), len(source.shape), "load_global")
        return cls(tile, source, expr_tuple(offsets, "load_global: offsets"), dims, padding)

    def verify(self) -> None:
        check_offsets(self.offsets, len(self.src.shape), self.name)
        _check_dtype(self, self.out, self.src)
        self.require(
            self.padding in PADDINGS,
            "padding is not understood",
            found=repr(self.padding),
            expected=" or ".join(map(repr, PADDINGS)),
        )

    def layouts(self, known: Known) -> Iterator[Proposal]:
        yield from _wide_access(known, self.out, self.src, self.offsets, self.dims)

    def run(self, machine: Machine) -> None:
        ref, rank = machine.global_ref(self.src), len(self.out.shape)
        indices = tensor_indices(machine, self.offsets, self.dims, self.out.shape)
        if self.padding == "edge":
            indices = nearest_inside(indices, ref.shape, rank)
        mask = in_bounds(indices, ref.shape, rank)
        offset = linear_offset(indices, ref.strides, rank)
        shape = (machine.count if offset.shape[0] > 1 else 1, *self.out.shape)
        offset = np.broadcast_to(offset, shape)
        name = self.src.name or "the global tensor"
        machine[self.out] = machine.memory.gather(
            spread(ref.address, rank), offset, self.src.dtype, mask, name
        )

    def emit(self, e: Emitter) -> None:
        edge = self.padding == "edge"
        access = GlobalAccess(e, self.out, self.src, self.offsets, self.dims, edge)
        e.declare(self.out, zero=access.piece_bytes is None)
        load_tile(access)


@dataclass(frozen=True, eq=False)
class StoreGlobal(Instruction, name="store_global", effects=Effects.WRITE_GLOBAL):
    dst: GlobalTensor
    src: RegisterTensor
    offsets: tuple[Expr, ...]
    dims: tuple[int, ...]

    @classmethod
    def build(cls, dst: Any, src: Any, /, *, offsets: Any, dims: Any = None) -> StoreGlobal:
        """Store a tile: dst[o] = src[J] with o = offsets, o[dims[k]] += J[k]; elements out of
        bounds are skipped.
        """
        target = expect(dst, GlobalTensor, "store_global: dst")
        tile = expect(src, RegisterTensor, "store_global: src")
        dims = dims_tuple(dims, len(tile.shape), len(target.shape), "store_global")
        return cls(target, tile, expr_tuple(offsets, "store_global: offsets"), dims)

    def verify(self) -> None:
        check_offsets(self.offsets, len(self.dst.shape), self.name)
        _check_dtype(self, self.src, self.dst)

    def layouts(self, known: Known) -> Iterator[Proposal]:
        yield from _wide_access(known, self.src, self.dst, self.offsets, self.dims, Strength.MAY)

    def run(self, machine: Machine) -> None:
        ref, rank = machine.global_ref(self.dst), len(self.src.shape)
        indices = tensor_indices(machine, self.offsets, self.dims, self.src.shape)
        mask = in_bounds(indices, ref.shape, rank)
        offset = linear_offset(indices, ref.strides, rank)
        name = self.dst.name or "the global tensor"
        values = machine[self.src]
        machine.memory.scatter(
            spread(ref.address, rank), offset, self.dst.dtype, mask, values, name
        )

    def emit(self, e: Emitter) -> None:
        store_tile(GlobalAccess(e, self.src, self.dst, self.offsets, self.dims))


def _check_dtype(instruction: Instruction, tile: RegisterTensor, tensor: GlobalTensor) -> None:
    instruction.require(
        tile.dtype == tensor.dtype,
        "the dtypes of the tile and of the tensor differ",
        found=f"tile {tile.dtype}, tensor {tensor.dtype}",
        expected="the same dtype",
        hint=f"cast the tile: .to({tensor.dtype})",
    )


def _wide_access(
    known: Known,
    tile: RegisterTensor,
    tensor: GlobalTensor,
    offsets: tuple[Expr, ...],
    dims: tuple[int, ...],
    strength: Strength = Strength.SHOULD,
) -> Iterator[Proposal]:
    if known.register(tile) is not None:
        return
    contiguous = contiguous_elements(known, tensor, offsets, dims[-1]) if dims else 1
    yield Proposal(
        tile, vectorized_layout(known.num_threads, tile.shape, tile.dtype, contiguous), strength
    )
