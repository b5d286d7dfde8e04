"""Asynchronous copies from global to shared memory.

    self.copy_async(g, s[k % 2], offsets=[0, 32 * k])
    self.copy_async_commit_group()
    self.copy_async_wait_group(1)     # all but the latest group have arrived ...
    self.sync()                       # ... and now every thread sees them

A copy belongs to the group that the next commit closes. The interpreter has the data land only with
the wait: reading before the wait and the sync is an error, and so is writing to the target
meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tilus.codegen.access import load_tile, store_tile
from tilus.codegen.global_access import GlobalAccess
from tilus.codegen.memory_helpers import EVICTION_PRIORITIES
from tilus.codegen.pieces import Piece, turns
from tilus.codegen.shared_access import SharedAccess
from tilus.errors import TilusError
from tilus.instructions.arguments import (
    check_offsets,
    describe,
    dims_tuple,
    expect,
    expr_tuple,
)
from tilus.instructions.placement import vectorized_layout
from tilus.interp.access import in_bounds, linear_offset, tensor_indices
from tilus.interp.machine import spread
from tilus.interp.shared import Access
from tilus.ir.expr import Expr, apply, as_expr, as_int
from tilus.ir.instruction import Effects, Instruction
from tilus.ir.layout import RegisterLayout, local, replicated
from tilus.ir.tensor import GlobalTensor, RegisterTensor, SharedTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine


@dataclass(frozen=True)
class _Way:
    """A way to share a copy among the threads, the last of a row's turns by `vectors` lanes."""

    source: GlobalAccess
    target: SharedAccess
    vectors: int
    wide: bool  # whether it is worth it only for pieces of 16 bytes

    @cached_property
    def nbytes(self) -> int:
        """Bytes of a piece; 0 where elements do not fill whole bytes."""
        return min(self.source.piece_bytes or 0, self.target.piece_bytes or 0)

    @property
    def fits(self) -> bool:
        """Whether a turn of some lanes only is a piece of 16 bytes at a known distance."""
        if self.vectors == LANES:
            return not self.wide or self.nbytes == WIDEST_COPY
        count = self.source.layout.local_size * self.source.nbits // 128
        pieces = (self.source.piece(WIDEST_COPY, as_expr(k)) for k in range(count))
        return self.nbytes == WIDEST_COPY and all(p.offset is not None for p in pieces)


@dataclass(frozen=True, eq=False)
class CopyAsync(
    Instruction,
    name="copy_async",
    effects=Effects.READ_GLOBAL | Effects.WRITE_SHARED | Effects.ASYNC,
):
    dst: SharedTensor
    src: GlobalTensor
    offsets: tuple[Expr, ...]
    dims: tuple[int, ...]
    evict: str | None = None
    check_bounds: bool = True

    @classmethod
    def build(
        cls,
        src: Any,
        dst: Any,
        offsets: Any,
        dims: Any = None,
        evict: str | None = None,
        check_bounds: bool = True,
    ) -> CopyAsync:
        """Start a copy: dst[J] = src[o] with o = offsets, o[dims[k]] += J[k]; 0 out of bounds.

        `dst` is a shared tensor or a part of one; `dims` are by default the last dimensions of
        `src`. `evict` hints at the lines' priority in the L2 cache: "evict_first" for what is read
        once, "evict_last" for what is read again, "evict_normal" or "evict_unchanged". With
        `check_bounds=False` you promise that no element is out of bounds; the interpreter checks
        the promise.

        Raises `TilusError` where the dtypes differ, and when run, where other threads may still
        read `dst`.

        Example: `self.copy_async(g, s[stage], offsets=[i, k])`.
        """
        source = expect(src, GlobalTensor, "copy_async: src")
        target = expect(dst, SharedTensor, "copy_async: dst")
        along = dims_tuple(dims, len(target.shape), len(source.shape), "copy_async")
        starts = expr_tuple(offsets, "copy_async: offsets")
        return cls(target, source, starts, along, evict, bool(check_bounds))

    def verify(self) -> None:
        check_offsets(self.offsets, len(self.src.shape), self.name)
        dims_tuple(self.dims, len(self.dst.shape), len(self.src.shape), self.name)
        self.require(
            self.src.dtype == self.dst.dtype,
            "the dtypes of the two tensors differ",
            found=f"global {self.src.dtype}, shared {self.dst.dtype}",
            expected="the same dtype",
            hint="copies do not convert: cast in registers",
        )
        self.require(
            self.evict is None or self.evict in EVICTION_PRIORITIES,
            "evict is not understood",
            found=repr(self.evict),
            expected=f"None, {', '.join(EVICTION_PRIORITIES)}",
        )

    def run(self, machine: Machine) -> None:
        ref, shape = machine.global_ref(self.src), self.dst.shape
        indices = tensor_indices(machine, self.offsets, self.dims, shape)
        mask = in_bounds(indices, ref.shape, len(shape))
        self.require(
            mask is None or self.check_bounds,
            "an element is out of bounds, although check_bounds=False promises that none is",
            found=f"{self.src} at offsets [{', '.join(str(o) for o in self.offsets)}]",
            hint="leave check_bounds out, so that such elements become 0",
        )
        offset = linear_offset(indices, ref.strides, len(shape))
        offset = np.broadcast_to(offset, np.broadcast_shapes(offset.shape, (1, *shape)))
        values = machine.memory.gather(
            spread(ref.address, len(shape)),
            offset,
            self.src.dtype,
            mask,
            self.src.name or "the global tensor",
        )
        values = np.broadcast_to(values, (machine.count, *shape)).reshape(machine.count, -1)
        places = machine.shared_ref(self.dst).offsets()
        # Which thread copies what is the code generator's business, so no thread may rely on it.
        machine.write_shared_async(self.dst, Access(None, places), values)

    def emit(self, e: Emitter) -> None:
        for first, shape in self._parts(e.num_threads):
            self._emit_part(e, first, shape)

    def _parts(self, num_threads: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """(first element, shape) of what is copied at a time.

        Threads share a row of vectors evenly as far as they can; then some copy one more.
        """
        shape, vector = self.dst.shape, 128 // self.dst.dtype.nbits
        even = shape[0] - shape[0] % (num_threads * vector)
        if len(shape) != 1 or even in (0, shape[0]) or shape[0] % vector:
            yield 0, shape
            return
        yield 0, (even,)
        yield even, (shape[0] - even,)

    def _emit_part(self, e: Emitter, first: int, shape: tuple[int, ...]) -> None:
        offsets, starts, dims = self.offsets, (), ()
        if shape != self.dst.shape:
            (dim,) = self.dims
            moved = apply("add", offsets[dim], as_expr(first))
            offsets = (*offsets[:dim], moved, *offsets[dim + 1 :])
            starts, dims = (as_expr(first),), (0,)
        ways = (
            _Way(
                GlobalAccess(e, tile, self.src, offsets, self.dims),
                SharedAccess(e, tile, self.dst, starts, dims),
                vectors,
                wide,
            )
            for tile, vectors, wide in self._tiles(e.num_threads, shape)
        )
        way = next(way for way in ways if way.fits)
        if way.nbytes < SMALLEST_COPY:
            self._emit_synchronous(e, way.source.tile, way.source, way.target)
            return
        self._emit_copies(e, way)

    def _tiles(
        self, num_threads: int, shape: tuple[int, ...]
    ) -> Iterator[tuple[RegisterTensor, int, bool]]:
        """What the threads copy, best first, with the vectors of a row's last turn, and whether
        only whole vectors make it worth while.
        """
        tile = RegisterTensor(self.dst.dtype, shape, name="copied")
        tile.layout = _by_warps(num_threads, tile)
        few = _by_first_threads(num_threads, tile)
        if tile.layout is None and few is not None:
            yield few, LANES, True
        if tile.layout is None and self._is_plain:
            longer, vectors = _rounded_up(num_threads, tile)
            if longer is not tile:
                yield longer, vectors, True
        if tile.layout is None:
            tile.layout = vectorized_layout(num_threads, tile.shape, tile.dtype, tile.shape[-1])
        yield tile, LANES, False

    @property
    def _is_plain(self) -> bool:
        """Whether the target lies row-major, so that an index beyond a row is still a place."""
        layout, rank = self.dst.layout, len(self.dst.shape)
        return layout is not None and layout.swizzle is None and len(layout.mode_shape) == rank

    def _emit_copies(self, e: Emitter, way: _Way) -> None:
        """One cp.async a piece; a piece out of bounds reads 0 bytes and is filled with zeros.

        The last piece of a row is copied by the first `vectors` lanes of a warp.
        """
        tile, source, target = way.source.tile, way.source, way.target
        nbytes, vectors = way.nbytes, way.vectors
        assert tile.layout is not None
        copy = e.use(f"copy_async_{nbytes}_hinted" if self.evict else f"copy_async_{nbytes}")
        if nbytes < 16:
            e.note(f"{e.name(self.dst)}: copied in pieces of {nbytes} bytes")
        count = tile.layout.local_size * tile.dtype.nbits // 8 // nbytes
        with e.block(_first_replicas(tile.layout)):
            source.begin()
            pieces = [source.piece(nbytes, as_expr(k)) for k in range(count)]
            if count <= MOST_LINES and all(piece.offset is not None for piece in pieces):
                turns_a_row = tile.shape[-1] * tile.dtype.nbits // 8 // (LANES * 16)
                for k, read in enumerate(pieces):
                    start = f"{e.name(self.src)} + {read.base}"
                    offset = f"<{read.offset}>" if read.offset else ""
                    last = vectors < LANES and (k + 1) % turns_a_row == 0
                    guard = f"if (tid % {LANES} < {vectors}) " if last else ""
                    write = target.piece(nbytes, as_expr(k))
                    self._emit_copy(e, guard + copy + offset, start, read, write)
                return
            for _, turn in turns(e, count):
                read = source.piece(nbytes, turn)
                start = f"{e.name(self.src)} + {read.address}"
                self._emit_copy(e, copy, start, read, target.piece(nbytes, turn))

    def _emit_copy(self, e: Emitter, copy: str, start: str, read: Piece, write: Piece) -> None:
        inside = read.condition if read.condition and self.check_bounds else "true"
        policy = f", {e.policy(self.evict)}" if self.evict else ""
        e(f"{copy}({e.name(self.dst)} + {write.address}, {start}, {inside}{policy});")

    def _emit_synchronous(
        self, e: Emitter, tile: RegisterTensor, source: GlobalAccess, target: SharedAccess
    ) -> None:
        e.note(
            f"{e.name(self.dst)}: copied through registers, as cp.async needs 4 aligned bytes in a "
            f"row: global memory gives {source.piece_bytes}, shared {target.piece_bytes}"
        )
        with e.block(""):
            e.declare(tile, zero=source.piece_bytes is None)
            load_tile(source)
            store_tile(target)


@dataclass(frozen=True, eq=False)
class CopyAsyncCommitGroup(Instruction, name="copy_async_commit_group", effects=Effects.ASYNC):
    @classmethod
    def build(cls) -> CopyAsyncCommitGroup:
        """Close the group of all copies started since the last commit.

        Example: `self.copy_async_commit_group()`.
        """
        return cls()

    def run(self, machine: Machine) -> None:
        machine.shared.commit_group(machine.blocks)

    def emit(self, e: Emitter) -> None:
        e('asm volatile("cp.async.commit_group;" ::: "memory");')


@dataclass(frozen=True, eq=False)
class CopyAsyncWaitGroup(Instruction, name="copy_async_wait_group", effects=Effects.ASYNC):
    n: int

    @classmethod
    def build(cls, n: Any) -> CopyAsyncWaitGroup:
        """Wait until at most the `n` latest groups are in flight; `n` is a compile-time constant.

        Other threads see the data after the next sync.

        Example: `self.copy_async_wait_group(0)`.
        """
        count = as_int(n)
        if count is None:
            raise TilusError(
                "copy_async_wait_group: n must be known at compile time",
                found=describe(n),
                expected="a Python integer",
            )
        return cls(count)

    def verify(self) -> None:
        self.require(self.n >= 0, "n must be at least 0", found=str(self.n))

    def run(self, machine: Machine) -> None:
        machine.shared.wait_group(machine.blocks, self.n)

    def emit(self, e: Emitter) -> None:
        e(f'asm volatile("cp.async.wait_group {self.n};" ::: "memory");')


@dataclass(frozen=True, eq=False)
class CopyAsyncWaitAll(Instruction, name="copy_async_wait_all", effects=Effects.ASYNC):
    @classmethod
    def build(cls) -> CopyAsyncWaitAll:
        """Wait for every copy, committed or not; other threads see the data after the next sync.

        Example: `self.copy_async_wait_all()`.
        """
        return cls()

    def run(self, machine: Machine) -> None:
        machine.shared.wait_all(machine.blocks)

    def emit(self, e: Emitter) -> None:
        e('asm volatile("cp.async.wait_all;" ::: "memory");')


LANES = 32  # threads of a warp
MOST_LINES = 32  # copies written one by one, with their offsets in the instructions
WIDEST_COPY = 16
SMALLEST_COPY = 4  # bytes; PTX ISA, "cp.async"


def _by_warps(num_threads: int, tile: RegisterTensor) -> RegisterLayout | None:
    """Each warp copies vectors of 16 bytes in a row, 32 at a time, in as few rows as possible.

    So the addresses of a thread lie close together: an instruction holds only 12 bits of offset.
    None where the warps cannot share the tile like this.
    """
    *rows, columns = tile.shape
    height, warps = math.prod(rows), num_threads // LANES
    vector = 128 // tile.dtype.nbits
    turns, rest = divmod(columns, LANES * vector)
    across = max(1, warps // height)  # warps that share a row
    if rest or num_threads % LANES or warps * max(1, height // warps) != height * across:
        return None
    if turns % across:
        return None
    flat = local(height * across // warps, 1).spatial(warps // across, across)
    flat = flat.local(1, turns // across).spatial(1, LANES).local(1, vector)
    return flat.reshape(tile.shape)


def _rounded_up(num_threads: int, tile: RegisterTensor) -> tuple[RegisterTensor, int]:
    """A tile of longer rows that warps can share, and the vectors of a row's last turn.

    The tile as it is, without a layout, where that is not possible.
    """
    *rows, columns = tile.shape
    turn = LANES * 128 // tile.dtype.nbits
    longer = RegisterTensor(tile.dtype, (*rows, -(-columns // turn) * turn), name=tile.name)
    whole_vectors = columns * tile.dtype.nbits % 128 == 0
    longer.layout = _by_warps(num_threads, longer) if rows and whole_vectors else None
    pieces = 0 if longer.layout is None else longer.layout.local_size * tile.dtype.nbits // 128
    shared = longer.layout is not None and pieces % (longer.shape[-1] // turn) == 0
    if not shared or pieces > MOST_LINES:
        return tile, LANES
    return longer, columns % turn * tile.dtype.nbits // 128


def _by_first_threads(num_threads: int, tile: RegisterTensor) -> RegisterTensor | None:
    """A tile of fewer vectors of 16 bytes than there are threads: one each, for the first ones.

    All threads with narrower pieces would take more instructions and more requests.
    """
    vectors, rest = divmod(math.prod(tile.shape) * tile.dtype.nbits, 8 * WIDEST_COPY)
    if rest or not 0 < vectors < num_threads or num_threads % vectors:
        return None
    few = RegisterTensor(tile.dtype, tile.shape, name=tile.name)
    ones = (1,) * len(tile.shape)
    layout = vectorized_layout(vectors, tile.shape, tile.dtype, tile.shape[-1])
    few.layout = replicated(*ones, num_workers=num_threads // vectors) * layout
    return few


def _first_replicas(layout: RegisterLayout) -> str:
    """C selecting one thread of those that hold the same elements ("" where each is alone)."""
    if layout.replication == 1:
        return ""
    return f"if (tid < {layout.num_threads // layout.replication})"
