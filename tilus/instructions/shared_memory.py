"""Shared memory: allocation, loads and stores.

    s = self.shared_tensor(dtype=float16, shape=[64, 64])
    self.store_shared(s, x)
    self.sync()                       # before other threads read what was written
    y = self.load_shared(s)
    self.free_shared(s)               # its storage may now serve another tensor

The interpreter keeps account of who wrote what since the last `sync`: a missing one is an error at
the line that reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tilus.codegen.access import load_tile, store_tile
from tilus.codegen.collective import first_of, replicas, store_element, value_as
from tilus.codegen.matrices import load_matrices, store_matrices
from tilus.codegen.pieces import turns
from tilus.codegen.shared_access import SharedAccess, shared_offset
from tilus.dtypes import Array, DataType, int64
from tilus.instructions.arguments import (
    check_offsets,
    dims_tuple,
    expect,
    expr_tuple,
    shape_tuple,
)
from tilus.instructions.elementwise import default_layout, layout_of
from tilus.instructions.placement import vectorized_layout
from tilus.interp.access import in_bounds, tensor_indices
from tilus.interp.shared import Access
from tilus.ir.expr import Expr
from tilus.ir.instruction import Effects, Instruction, Known, Proposal, Strength
from tilus.ir.layout import (
    LayoutError,
    SharedLayout,
    shared_row_major,
    shared_row_major_swizzle,
)
from tilus.ir.tensor import RegisterTensor, SharedTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine


@dataclass(frozen=True, eq=False)
class SharedAlloc(Instruction, name="shared_tensor"):
    """Storage for `out`; `offset` is its place in shared memory in bytes, once planned."""

    allocates_shared: ClassVar[bool] = True

    out: SharedTensor
    offset: int | None = None

    @classmethod
    def build(cls, *, dtype: Any, shape: Any) -> SharedAlloc:
        """A tile of `dtype` and constant `shape` in shared memory; sub-byte dtypes lie packed.

        It holds nothing until it is written. By default rows are swizzled so that columns of
        16-byte chunks fall into different banks; `annotate_layout` chooses another layout.

        Example: `s = self.shared_tensor(dtype=tilus.float16, shape=[2, 64, 64])`.
        """
        extents = shape_tuple(shape, "shared_tensor: shape")
        return cls(SharedTensor(expect(dtype, DataType, "shared_tensor: dtype"), extents))

    def layouts(self, known: Known) -> Iterator[Proposal]:
        if known.shared(self.out) is None:
            yield Proposal(self.out, _default_shared_layout(self.out), Strength.SHOULD)

    def check_layouts(self) -> None:
        layout = self.out.layout
        assert layout is not None
        self.require(
            layout.is_injective(),
            "two elements share an address",
            found=str(layout),
            expected="a layout with different addresses for different elements",
        )

    def run(self, machine: Machine) -> None:
        machine.allocate_shared(self.out)

    def emit(self, e: Emitter) -> None:
        e(f"uint8_t* const {e.name(self.out)} = arena + {self.offset};")


def _default_shared_layout(tile: SharedTensor) -> SharedLayout:
    """Swizzled rows where the rows are wide enough, else row-major."""
    try:
        return shared_row_major_swizzle(tile.shape, tile.dtype.nbits)
    except LayoutError:
        return shared_row_major(*tile.shape)


@dataclass(frozen=True, eq=False)
class FreeShared(Instruction, name="free_shared", effects=Effects.WRITE_SHARED):
    frees_operand: ClassVar[bool] = True

    src: SharedTensor

    @classmethod
    def build(cls, src: Any) -> FreeShared:
        """Give the storage of a shared tensor back; later allocations may use it.

        `src` is the tensor that `shared_tensor` made, not a part of it. Using it or its parts
        afterwards is an error.

        Example: `self.free_shared(s)`.
        """
        return cls(expect(src, SharedTensor, "free_shared: src"))

    def run(self, machine: Machine) -> None:
        machine.free_shared(self.src)

    def emit(self, e: Emitter) -> None:
        """Nothing to do: the planner has given the bytes to others."""


@dataclass(frozen=True, eq=False)
class LoadShared(Instruction, name="load_shared", effects=Effects.READ_SHARED):
    out: RegisterTensor
    src: SharedTensor

    @classmethod
    def build(cls, src: Any, /, *, out: Any = None) -> LoadShared:
        """Load a whole shared tensor, or a part such as `s[i, :, 0:32]`, into registers.

        `out` reuses a register tile of the same dtype and shape. Raises `TilusError` when run,
        where the data has not been written, or was written by other threads since the last sync.

        Example: `x = self.load_shared(s[k % 2])`.
        """
        tensor = expect(
            src, SharedTensor, "load_shared: src", hint="allocate it with self.shared_tensor(...)"
        )
        tile = RegisterTensor(tensor.dtype, tensor.shape) if out is None else out
        return cls(expect(tile, RegisterTensor, "load_shared: out"), tensor)

    def verify(self) -> None:
        _check_same_type(self, self.out, self.src)

    def layouts(self, known: Known) -> Iterator[Proposal]:
        if known.register(self.out) is not None:
            return
        source = known.shared(self.src)
        if source is None:
            yield Proposal(self.out, default_layout(known.num_threads, self.out), Strength.MAY)
            return
        run = contiguous_run(source)
        layout = vectorized_layout(known.num_threads, self.out.shape, self.out.dtype, run)
        yield Proposal(self.out, layout, Strength.SHOULD)

    def run(self, machine: Machine) -> None:
        offsets = machine.shared_ref(self.src).offsets()
        values = machine.read_shared(self.src, Access(self.out.layout, offsets))
        machine[self.out] = values.reshape(machine.count, *self.out.shape)

    def emit(self, e: Emitter) -> None:
        access = SharedAccess(e, self.out, self.src)
        refusal = load_matrices(access)
        if refusal is None:
            return
        e.note(f"{e.name(self.out)}: ldmatrix refused: {refusal}")
        e.declare(self.out, zero=access.piece_bytes is None)
        load_tile(access)


def contiguous_run(layout: SharedLayout) -> int:
    """How many elements along the last dimension are adjacent from any multiple of itself."""
    if not layout.shape or not layout.dim_modes[-1]:
        return 1
    last = layout.dim_modes[-1][-1]
    run = last.size if last.stride == 1 else 1
    return run if layout.swizzle is None else gcd(run, 1 << layout.swizzle.base)


@dataclass(frozen=True, eq=False)
class StoreShared(Instruction, name="store_shared", effects=Effects.WRITE_SHARED):
    """`offsets` and `dims` are empty where the tile covers the whole tensor."""

    dst: SharedTensor
    src: RegisterTensor
    offsets: tuple[Expr, ...] = ()
    dims: tuple[int, ...] = ()

    @classmethod
    def build(cls, dst: Any, src: Any, /, *, offsets: Any = None, dims: Any = None) -> StoreShared:
        """Store a register tile: dst[o] = src[J] with o = offsets, o[dims[k]] += J[k].

        Without `offsets` the shapes are equal. `dims` are by default the last dimensions of `dst`.
        Threads see each other's stores after the next sync. Raises `TilusError` where the tile
        leaves the tensor.

        Example: `self.store_shared(s, x, offsets=[i, 0])`.
        """
        tensor = expect(dst, SharedTensor, "store_shared: dst")
        tile = expect(src, RegisterTensor, "store_shared: src")
        if offsets is None and dims is None:
            return cls(tensor, tile)
        starts = (0,) * len(tensor.shape) if offsets is None else offsets
        along = dims_tuple(dims, len(tile.shape), len(tensor.shape), "store_shared")
        return cls(tensor, tile, expr_tuple(starts, "store_shared: offsets"), along)

    def verify(self) -> None:
        if not self.offsets:
            _check_same_type(self, self.src, self.dst)
            return
        check_offsets(self.offsets, len(self.dst.shape), self.name)
        dims_tuple(self.dims, len(self.src.shape), len(self.dst.shape), self.name)
        _check_same_dtype(self, self.src, self.dst)
        for dim, extent in zip(self.dims, self.src.shape, strict=True):
            self.require(
                extent <= self.dst.shape[dim],
                "the tile is larger than the tensor",
                found=f"{self.src} along dimension {dim} of {self.dst}",
            )

    def layouts(self, known: Known) -> Iterator[Proposal]:
        if known.register(self.src) is None:
            yield Proposal(self.src, default_layout(known.num_threads, self.src), Strength.MAY)

    def run(self, machine: Machine) -> None:
        ref = machine.shared_ref(self.dst)
        offsets = ref.offsets(self._indices(machine))
        values = machine[self.src].reshape(machine.count, -1)
        machine.write_shared(self.dst, Access(self.src.layout, offsets), values)

    def _indices(self, machine: Machine) -> tuple[Array, ...] | None:
        if not self.offsets:
            return None
        indices = tensor_indices(machine, self.offsets, self.dims, self.src.shape)
        extents = [np.asarray(e) for e in self.dst.shape]
        self.require(
            in_bounds(indices, extents, len(self.src.shape)) is None,
            "the tile reaches outside the shared tensor",
            found=f"{self.src} at offsets [{', '.join(_span(i) for i in indices)}] of {self.dst}",
            hint="shared memory has no bounds to skip at: choose offsets inside the tensor",
        )
        return tuple(indices)

    def emit(self, e: Emitter) -> None:
        access = SharedAccess(e, self.src, self.dst, self.offsets, self.dims)
        refusal = store_matrices(access)
        if refusal is not None:
            e.note(f"{e.name(self.dst)}: stmatrix refused: {refusal}")
            store_tile(access)


def _span(index: Array) -> str:
    low, high = int(index.min()), int(index.max())
    return str(low) if low == high else f"{low}..{high}"


@dataclass(frozen=True, eq=False)
class StoreSharedScatter(Instruction, name="store_shared_scatter", effects=Effects.WRITE_SHARED):
    dst: SharedTensor
    src: RegisterTensor
    indices: tuple[RegisterTensor, ...]

    @classmethod
    def build(cls, dst: Any, src: Any, indices: Any) -> StoreSharedScatter:
        """Store at indices of its own: dst[indices[0][J], indices[1][J], ...] = src[J].

        `indices` is an integer tile of the shape of `src` for each dimension of `dst`, or a single
        tile where `dst` has rank 1. Elements whose index is out of bounds are skipped; of several
        elements with the same index one is stored.

        Example: `self.store_shared_scatter(histogram, ones, bins)`.
        """
        tiles = indices if isinstance(indices, (tuple, list)) else (indices,)
        return cls(
            expect(dst, SharedTensor, "store_shared_scatter: dst"),
            expect(src, RegisterTensor, "store_shared_scatter: src"),
            tuple(expect(t, RegisterTensor, "store_shared_scatter: indices") for t in tiles),
        )

    def verify(self) -> None:
        _check_same_dtype(self, self.src, self.dst)
        check_index_tiles(self, self.src, self.indices, len(self.dst.shape))

    def layouts(self, known: Known) -> Iterator[Proposal]:
        yield from one_layout(known, (self.src, *self.indices))

    def check_layouts(self) -> None:
        check_one_layout(self, (self.src, *self.indices))

    def run(self, machine: Machine) -> None:
        indices = [machine[t].astype(np.int64) for t in self.indices]
        inside = in_bounds(indices, [np.asarray(e) for e in self.dst.shape], len(self.src.shape))
        if inside is not None:
            indices = [np.where(inside, i, 0) for i in indices]
            inside = inside.reshape(machine.count, -1)
        offsets = machine.shared_ref(self.dst).offsets(tuple(indices))
        values = machine[self.src].reshape(machine.count, -1)
        # The places depend on the data, so no layout says which thread touches which.
        machine.write_shared(self.dst, Access(None, offsets), values, inside)

    def emit(self, e: Emitter) -> None:
        first = first_of(e, replicas(layout_of(self.src)))
        with e.block(f"if ({first})" if first else ""):
            for i, _ in turns(e, layout_of(self.src).local_size):
                self._emit_store(e, i)

    def _emit_store(self, e: Emitter, i: str) -> None:
        """One element, where its index is inside."""
        found = [e.temporary("found") for _ in self.indices]
        for name, tile in zip(found, self.indices, strict=True):
            e(f"const int64_t {name} = {value_as(e, tile, i, int64)};")
        extents = zip(found, self.dst.shape, strict=True)
        inside = [f"{name} >= 0 && {name} < {extent}" for name, extent in extents]
        with e.block(f"if ({' && '.join(inside)})" if inside else ""):
            places = [e.loop_variable(e.temporary("index"), extent) for extent in self.dst.shape]
            for place, name in zip(places, found, strict=True):
                e(f"const int {place.name} = (int){name};")
            element = shared_offset(e, self.dst, places)
            store_element(e, self.src, i, e.name(self.dst), str(element))


# ---- checks shared with other families ----------------------------------------------------------


def _check_same_dtype(instruction: Instruction, tile: RegisterTensor, tensor: SharedTensor) -> None:
    instruction.require(
        tile.dtype == tensor.dtype,
        "the dtypes of the tile and of the tensor differ",
        found=f"tile {tile.dtype}, tensor {tensor.dtype}",
        expected="the same dtype",
        hint=f"cast the tile: .to({tensor.dtype})",
    )


def _check_same_type(instruction: Instruction, tile: RegisterTensor, tensor: SharedTensor) -> None:
    _check_same_dtype(instruction, tile, tensor)
    instruction.require(
        tile.shape == tensor.shape,
        "the shapes of the tile and of the tensor differ",
        found=f"tile {list(tile.shape)}, tensor {list(tensor.shape)}",
        expected="equal shapes",
        hint="take a part of the tensor: s[i, :, 0:32], or store with offsets=",
    )


def check_index_tiles(
    instruction: Instruction, src: RegisterTensor, indices: tuple[RegisterTensor, ...], rank: int
) -> None:
    """Raise unless each dimension of the tensor has an integer tile of the shape of `src`."""
    instruction.require(
        len(indices) == rank,
        "one tile of indices for each dimension of the tensor is needed",
        found=f"{len(indices)} tiles",
        expected=f"{rank}",
    )
    for tile in indices:
        instruction.require(
            tile.dtype.is_integer() and not tile.dtype.is_subbyte() and tile.shape == src.shape,
            "the indices are of another type",
            found=str(tile),
            expected=f"integers of shape {list(src.shape)}",
        )


def one_layout(known: Known, tiles: tuple[RegisterTensor, ...]) -> Iterator[Proposal]:
    """Tiles whose elements meet one by one have one layout."""
    layout = next((has for t in tiles if (has := known.register(t)) is not None), None)
    if layout is None:
        yield Proposal(tiles[0], default_layout(known.num_threads, tiles[0]), Strength.MAY)
        return
    for tile in tiles:
        if known.register(tile) is None:
            yield Proposal(tile, layout, Strength.MUST)


def check_one_layout(instruction: Instruction, tiles: tuple[RegisterTensor, ...]) -> None:
    instruction.require(
        all(t.layout == tiles[0].layout for t in tiles),
        "the operands have different layouts",
        found=", ".join(str(t.layout) for t in tiles),
        hint="annotate_layout one of them, or pass the data through shared memory",
    )
