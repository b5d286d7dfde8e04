"""Shared memory as the interpreter sees it, with the rules of visibility between threads.

Each `shared_tensor` is one `SharedAllocation`: an array of elements per block, and per element a
*stamp* that says when it was written. Time is counted in epochs; `sync` starts a new one.

    stamp < epoch      visible to every thread
    stamp == epoch     written since the last sync: visible to the threads that wrote it
    PENDING            the target of an asynchronous copy that nobody has waited for
    UNWRITTEN          never written

Reading what is not visible, or overwriting what another thread may still be reading, is an error at
the line that does it. On hardware it would be a race that is usually lost only in production.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tilus.dtypes import Array, DataType
from tilus.errors import TilusError
from tilus.ir.layout import RegisterLayout, SharedLayout

UNWRITTEN = np.int32(2**31 - 1)
PENDING = np.int32(2**31 - 2)
NEVER = np.int32(-1)


@dataclass(frozen=True, eq=False)
class Access:
    """Who touches what: the register layout whose threads access `offsets` (None: an unknown
    thread).
    """

    layout: RegisterLayout | None
    offsets: Array  # (blocks or 1, elements), row-major over the tile
    atomic: bool = False  # atomic accesses need no sync between each other

    def threads_by_offset(self) -> dict[int, frozenset[int]]:
        """Storage offset -> the threads that touch it (of the first block: bases move all blocks
        alike).
        """
        assert self.layout is not None
        threads, _ = self.layout.owner_table()
        return {
            int(o): frozenset(int(t) for t in ts)
            for o, ts in zip(self.offsets[0], threads, strict=True)
        }


@dataclass(eq=False)
class SharedAllocation:
    name: str
    dtype: DataType
    data: Array  # (blocks, elements) carrier
    stamp: Array  # (blocks, elements) int32
    read_stamp: Array  # (blocks, elements) int32: epoch of the last read
    freed: Array  # (blocks,) bool
    writer: Access | None = None  # of the latest write in the current epoch
    reader: Access | None = None
    _same: dict[tuple[RegisterLayout, RegisterLayout, bytes, bytes], bool] = field(
        default_factory=dict
    )

    @classmethod
    def create(cls, name: str, dtype: DataType, blocks: int, elements: int) -> SharedAllocation:
        shape = (blocks, elements)
        return cls(
            name,
            dtype,
            np.zeros(shape, dtype.carrier),
            np.full(shape, UNWRITTEN, np.int32),
            np.full(shape, NEVER, np.int32),
            np.zeros(blocks, bool),
        )

    def reset(self, blocks: Array) -> None:
        """A fresh life for the storage in `blocks`, as when the allocation stands in a loop."""
        self.stamp[blocks] = UNWRITTEN
        self.read_stamp[blocks] = NEVER
        self.freed[blocks] = False

    def same_threads(self, earlier: Access | None, later: Access) -> bool:
        """True where every thread of `later` at an offset is one of `earlier` there: no sync is
        needed.
        """
        if earlier is None:
            return False
        if earlier.atomic and later.atomic:
            return True
        if earlier.layout is None or later.layout is None:
            return False
        key = (
            earlier.layout,
            later.layout,
            earlier.offsets[:1].tobytes(),
            later.offsets[:1].tobytes(),
        )
        if key not in self._same:
            before = earlier.threads_by_offset()
            self._same[key] = all(
                threads <= before.get(offset, threads)
                for offset, threads in later.threads_by_offset().items()
            )
        return self._same[key]


@dataclass(frozen=True, eq=False)
class SharedRef:
    """A shared tensor at run time: `base` is the element offset of a slice, one per block or one
    for all.
    """

    allocation: SharedAllocation
    layout: SharedLayout
    base: Array

    def offsets(self, indices: tuple[Array, ...] | None = None) -> Array:
        """Storage offsets (blocks or 1, elements) of the whole tensor, or of `indices` (each
        broadcastable).
        """
        if indices is None and np.ndim(self.base) == 0 and int(self.base) == 0:
            return self.layout.offsets().reshape(1, -1)
        if indices is None:
            indices = tuple(np.indices(self.layout.shape, sparse=True))
            indices = tuple(i[None] for i in indices)
        rank = max((np.ndim(i) for i in indices), default=1)
        base = np.asarray(self.base).reshape((-1,) + (1,) * (rank - 1))
        offset = np.asarray(self.layout.offset(indices, base=base))
        return offset.reshape(offset.shape[0], -1)


@dataclass(eq=False)
class PendingCopy:
    """One asynchronous copy in flight: per block of `blocks`, the commit group it belongs to."""

    allocation: SharedAllocation
    blocks: Array
    offsets: Array  # (len(blocks), elements)
    group: Array


class SharedMemory:
    """Epochs, pending copies and the checked reads and writes of one wave of blocks."""

    def __init__(self, blocks: int):
        self.blocks = blocks
        self.epoch = np.zeros(blocks, np.int32)
        self.committed = np.zeros(blocks, np.int32)
        self.pending: list[PendingCopy] = []

    def read(self, ref: SharedRef, blocks: Array, access: Access) -> Array:
        """The elements at `access.offsets`, as (blocks, elements)."""
        allocation = ref.allocation
        rows, columns = blocks[:, None], access.offsets
        self._require_alive(allocation, blocks)
        epoch = self.epoch[blocks][:, None]
        stamp = allocation.stamp[rows, columns]
        hidden = stamp >= epoch
        if hidden.any():
            self._check_visible(allocation, stamp, hidden, access)
        allocation.read_stamp[rows, columns] = epoch
        allocation.reader = access
        return allocation.data[rows, columns]

    def write(
        self,
        ref: SharedRef,
        blocks: Array,
        access: Access,
        values: Array,
        mask: Array | None = None,
    ) -> None:
        """Store `values` (blocks, elements) where `mask` holds; others see it after a sync."""
        self._prepare_write(ref.allocation, blocks, access, mask)
        self._store(
            ref.allocation, blocks, access.offsets, values, self.epoch[blocks][:, None], mask
        )
        ref.allocation.writer = access

    def write_async(self, ref: SharedRef, blocks: Array, access: Access, values: Array) -> None:
        """Start a copy: the data is there, but reading it before its wait and sync is an error."""
        self._prepare_write(ref.allocation, blocks, access, None)
        stamp = np.full((len(blocks), 1), PENDING, np.int32)
        self._store(ref.allocation, blocks, access.offsets, values, stamp, None)
        offsets = np.broadcast_to(access.offsets, (len(blocks), access.offsets.shape[1]))
        self.pending.append(PendingCopy(ref.allocation, blocks, offsets, self.committed[blocks]))

    def commit_group(self, blocks: Array) -> None:
        self.committed[blocks] += 1

    def wait_group(self, blocks: Array, count: int) -> None:
        """Complete all but the `count` latest committed groups; the data becomes visible at the
        next sync.
        """
        self._complete(blocks, self.committed - count)

    def wait_all(self, blocks: Array) -> None:
        """Complete every copy, committed or not."""
        self._complete(blocks, self.committed + 1)

    def free(self, allocation: SharedAllocation, blocks: Array) -> None:
        """End the life of `allocation` in `blocks`, once, and with no copy in flight."""
        self._require_alive(allocation, blocks)
        if (allocation.stamp[blocks] == PENDING).any():
            raise TilusError(
                f"{allocation.name} is freed while an asynchronous copy into it is in flight",
                hint="wait for the copy first: copy_async_wait_group or copy_async_wait_all",
            )
        allocation.freed[blocks] = True

    def sync(self, blocks: Array) -> None:
        self.epoch[blocks] += 1

    def _complete(self, blocks: Array, limit: Array) -> None:
        waiting = np.zeros(self.blocks, bool)
        waiting[blocks] = True
        still: list[PendingCopy] = []
        for copy in self.pending:
            done = waiting[copy.blocks] & (copy.group < limit[copy.blocks])
            self._land(copy, done)
            if not done.all():
                left = ~done
                still.append(
                    PendingCopy(
                        copy.allocation, copy.blocks[left], copy.offsets[left], copy.group[left]
                    )
                )
        self.pending = still

    def _land(self, copy: PendingCopy, done: Array) -> None:
        rows = copy.blocks[done][:, None]
        columns = copy.offsets[done]
        stamps = copy.allocation.stamp[rows, columns]
        landed = np.where(stamps == PENDING, self.epoch[copy.blocks[done]][:, None], stamps)
        copy.allocation.stamp[rows, columns] = landed
        copy.allocation.writer = None  # the copying threads are not known: a sync is needed

    def _store(
        self,
        allocation: SharedAllocation,
        blocks: Array,
        offsets: Array,
        values: Array,
        stamp: Array,
        mask: Array | None,
    ) -> None:
        rows = blocks[:, None]
        if mask is None:
            allocation.data[rows, offsets] = values
            allocation.stamp[rows, offsets] = stamp
            return
        shape = (len(blocks), offsets.shape[1])
        chosen = np.broadcast_to(mask, shape)
        rows, columns = (
            np.broadcast_to(rows, shape)[chosen],
            np.broadcast_to(offsets, shape)[chosen],
        )
        allocation.data[rows, columns] = np.broadcast_to(values, shape)[chosen]
        allocation.stamp[rows, columns] = np.broadcast_to(stamp, shape)[chosen]

    def _prepare_write(
        self, allocation: SharedAllocation, blocks: Array, access: Access, mask: Array | None
    ) -> None:
        self._require_alive(allocation, blocks)
        rows, columns = blocks[:, None], access.offsets
        epoch = self.epoch[blocks][:, None]
        touched = True if mask is None else mask
        stamp = allocation.stamp[rows, columns]
        if ((stamp == PENDING) & touched).any():
            raise TilusError(
                f"{allocation.name} is written while an asynchronous copy into it is in flight",
                hint="wait for the copy first: copy_async_wait_group or copy_async_wait_all, then "
                "sync",
            )
        read = (allocation.read_stamp[rows, columns] == epoch) & touched
        if read.any() and not allocation.same_threads(allocation.reader, access):
            raise TilusError(
                f"{allocation.name} is overwritten while other threads may still be reading it",
                expected="a sync between the read and the write",
                hint="call self.sync() before writing this shared tensor again",
            )
        written = (stamp == epoch) & touched
        if written.any() and not allocation.same_threads(allocation.writer, access):
            raise TilusError(
                f"{allocation.name} is written twice by different threads without a sync in "
                "between",
                hint="call self.sync() between the two writes",
            )

    def _check_visible(
        self, allocation: SharedAllocation, stamp: Array, hidden: Array, access: Access
    ) -> None:
        found = stamp[hidden]
        if (found == UNWRITTEN).any():
            raise TilusError(
                f"{allocation.name} is read before it was written",
                found=f"{int((found == UNWRITTEN).sum())} of {stamp.size} elements never written",
                hint="store to the shared tensor, or copy into it, before reading",
            )
        if (found == PENDING).any():
            raise TilusError(
                f"{allocation.name} is read before its asynchronous copy has been waited for",
                hint="call copy_async_wait_group(n) or copy_async_wait_all(), then sync(), before "
                "the read",
            )
        if not allocation.same_threads(allocation.writer, access):
            raise TilusError(
                f"{allocation.name} is read by other threads than wrote it, without a sync in "
                "between",
                hint="call self.sync() after the write (or after waiting for the asynchronous "
                "copy)",
            )

    def _require_alive(self, allocation: SharedAllocation, blocks: Array) -> None:
        if allocation.freed[blocks].any():
            raise TilusError(
                f"{allocation.name} is used after free_shared",
                hint="move free_shared after the last use of the tensor",
            )
