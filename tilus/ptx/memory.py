"""Memory of the emulated GPU: tensors with guard zones between them, and shared memory per block.

Every access is checked: inside of one tensor, aligned to its size; in shared memory also written
before, not by a copy that is still in flight, and ordered by a barrier after what other threads did
there. Source: PTX ISA, "Memory Consistency Model", and "bar", "bar.warp.sync", "cp.async".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilus.errors import TilusError
from tilus.ptx.syntax import Variable

Array = np.ndarray[Any, Any]
Watch = Callable[[Array | None, Array, int], None]  # lanes, offsets, size of each access
BASE = 1 << 40  # the first address of global memory
GUARD = 512  # bytes between tensors
SHARED_WINDOW = 1 << 36  # generic addresses of shared memory begin here

# Who used a cell of shared memory last, in one integer: when, whether atomically, and the first and
# the last of its threads within the block. Never is -1. Groups that meet at a barrier are ranges of
# threads, so a range is ordered where its ends are.
THREAD_BITS = 11
THREAD = (1 << THREAD_BITS) - 1
ATOMIC = 1 << 2 * THREAD_BITS
WHEN = 2 * THREAD_BITS + 1
NEVER = -1
IN_FLIGHT = 1 << 62  # as a writer: a copy that nobody has waited for
WARP_SYNC = -1  # bar.warp.sync among the numbers of barriers
COARSEST = 16  # bytes of the largest access: cells begin at this size


class GlobalMemory:
    """All tensors of a launch in one array of bytes, each at its own address."""

    def __init__(self) -> None:
        self._parts: list[tuple[str, int, Array]] = []
        self._size = GUARD
        self.data = np.zeros(0, np.uint8)
        self.valid = np.zeros(0, bool)
        self.words = np.zeros(0, bool)  # valid, and up to the next multiple of 4 bytes
        self.unwritten = np.zeros(0, bool)  # empty where everything holds data from the start
        self._scratch: list[tuple[int, int]] = []
        self.watch: Watch | None = None

    def add(self, name: str, data: Array, misalignment: int = 0, *, written: bool = True) -> int:
        """Reserve room for `data` (uint8); returns its address, `misalignment` past 256 bytes.

        What is not `written` may not be read before the kernel has stored there.
        """
        offset = (self._size + 255) // 256 * 256 + misalignment
        self._parts.append((name, offset, data))
        if not written:
            self._scratch.append((offset, data.size))
        self._size = offset + data.size + GUARD
        return BASE + offset

    def load(self) -> None:
        """Copy the tensors in, once all are added."""
        self.data = np.zeros((self._size + 15) // 16 * 16, np.uint8)
        self.valid = np.zeros(self.data.size, bool)
        self.words = np.zeros(self.data.size, bool)
        for _, offset, data in self._parts:
            self.data[offset : offset + data.size] = data
            self.valid[offset : offset + data.size] = True
            self.words[offset : -(-(offset + data.size) // 4) * 4] = True
        self.unwritten = np.zeros(self.data.size if self._scratch else 0, bool)
        for offset, size in self._scratch:
            self.unwritten[offset : offset + size] = True

    def store(self) -> None:
        """Copy the tensors back to where they came from."""
        for _, offset, data in self._parts:
            data[:] = self.data[offset : offset + data.size]

    def locate(
        self, address: Array, size: int, *, atomic: bool = False, lanes: Array | None = None
    ) -> Array:
        """Offsets into `data` of accesses of `size` bytes, checked; begins every access.

        `lanes` are those that access, where they are not all the active ones. Device memory is
        allocated in multiples of 256 bytes, so an atomic update of the word that holds a tensor's
        last bytes is legal: it leaves the bytes behind them as they are.
        """
        offset = address.astype(np.int64) - BASE
        misaligned = offset % size != 0
        if misaligned.any():
            raise TilusError(
                "a global access is not aligned",
                found=f"{size} bytes at {self._describe(int(offset[misaligned][0]))}",
                expected=f"a multiple of {size} bytes",
            )
        inside = (offset >= 0) & (offset + size <= self.data.size)
        allowed = self.words if atomic else self.valid
        inside &= allowed[np.clip(offset, 0, self.data.size - 1)]
        inside &= allowed[np.clip(offset + size - 1, 0, self.data.size - 1)]
        if not inside.all():
            raise TilusError(
                "a global access is out of bounds",
                found=f"{size} bytes at {self._describe(int(offset[~inside][0]))}",
                expected="an address inside of a tensor",
            )
        if self.watch is not None:
            self.watch(lanes, offset, size)
        return offset

    def read(self, start: Array, size: int, used: Array | None = None) -> Array:
        """(lanes, size) bytes at located offsets; only those that are `used` must be written."""
        offsets = start[:, None] + np.arange(size)
        wanted = offsets if used is None else offsets[:, used]
        if self.unwritten.size and self.unwritten[wanted].any():
            where = int(wanted[self.unwritten[wanted]][0])
            raise TilusError(
                "global memory is read that was never written",
                found=self._describe(where),
                hint="store to it first, or ask for a workspace with requires_clean=True",
            )
        return self.data[offsets]

    def write(self, start: Array, values: Array) -> None:
        """Store (lanes, size) bytes at located offsets."""
        offsets = start[:, None] + np.arange(values.shape[1])
        self.data[offsets] = values
        if self.unwritten.size:
            self.unwritten[offsets] = False

    def _describe(self, offset: int) -> str:
        for name, start, data in self._parts:
            if start - GUARD <= offset < start + data.size + GUARD:
                return f"byte {offset - start} of {name} ({data.size} bytes)"
        return f"address {BASE + offset:#x}"


@dataclass(eq=False)
class Pending:
    """Asynchronous copies of one instruction that nobody has waited for."""

    lanes: Array
    group: Array
    target: Array  # (lanes, size) byte offsets into shared memory
    data: Array


class SharedMemory:
    """The shared memory of every block of the wave, as bytes."""

    def __init__(self, blocks: int, threads: int, variables: Sequence[Variable], dynamic: int):
        self.threads = threads
        self._addresses: dict[str, int] = {}
        size = 0
        for variable in sorted(variables, key=lambda v: v.size == 0):  # the dynamic one is last
            size = -(-size // variable.alignment) * variable.alignment
            self._addresses[variable.name] = size
            size += variable.size or dynamic
        self.size = max(16, -(-size // 16) * 16)
        self.used = size
        self.data = np.zeros(blocks * self.size, np.uint8)
        self.committed = np.zeros(blocks * threads, np.int64)
        self.pending: list[Pending] = []
        # Accesses are multiples of their size, so cells as large as the smallest access suffice.
        self._cell = COARSEST
        self._writers = np.full(self.data.size // COARSEST, NEVER, np.int64)
        self._readers = np.full(self.data.size // COARSEST, NEVER, np.int64)
        self._clock = 0
        self._thread = np.arange(blocks * threads) % threads
        self._floor = np.zeros(blocks * threads, np.int64)  # uses below it were before a barrier
        self._meetings: dict[int, Array] = {}  # barrier -> last meeting there, of every lane
        self.watch: Watch | None = None
        self._lanes = self._thread[:0]  # whose access is under way: each begins at `locate`

    def address(self, name: str) -> int:
        if name not in self._addresses:
            raise TilusError("this symbol is not known", found=name)
        return self._addresses[name]

    def locate(self, lanes: Array, address: Array, size: int) -> Array:
        """Byte offsets into `data` of accesses of `size` bytes, checked; begins every access."""
        offset = address.astype(np.int64)
        if ((offset % size) != 0).any():
            raise TilusError(
                "a shared access is not aligned", found=f"{size} bytes at {offset.max()}"
            )
        if ((offset < 0) | (offset + size > self.used)).any():
            raise TilusError(
                "a shared access is out of bounds",
                found=f"{size} bytes at {int(offset.max())}",
                expected=f"within {self.used} bytes",
            )
        self._lanes = lanes
        if self.watch is not None:
            self.watch(lanes, offset, size)
        if size < self._cell:
            self._writers = np.repeat(self._writers, self._cell // size)
            self._readers = np.repeat(self._readers, self._cell // size)
            self._cell = size
        return lanes // self.threads * self.size + offset

    # ---- checks of an access: `offsets` are of every byte, in the order of the located lanes ----

    def check_readable(self, offsets: Array, used: Array | None = None) -> None:
        """Raises `TilusError` unless every byte is written and safe to read, if it is `used`.

        A cell that is used in part is written as a whole, by accesses at least as large.
        """
        cells = self._cells(offsets)
        if used is not None:
            cells = cells[:, used.reshape(-1, self._cell).any(1)]
        state = self._writers[cells]
        if (state >= IN_FLIGHT).any():
            raise TilusError(
                "shared memory is read while an asynchronous copy into it is in flight",
                hint="wait for the copy first",
            )
        if (state < 0).any():
            raise TilusError("shared memory is read that was never written")
        self._check(state, cells, "read after write")
        self._record(self._readers, cells, merge=True)

    def mark_written(self, offsets: Array, *, atomic: bool = False) -> bool:
        """Note a store that is about to happen; returns whether two lanes store to one place.

        Raises `TilusError` where it may meet an access of another thread.
        """
        cells = self._cells(offsets)
        self._check_writable(cells, atomic)
        return self._record(self._writers, cells, ATOMIC if atomic else 0, merge=atomic)

    def store(self, offsets: Array, values: Array) -> None:
        """Store bytes; several lanes may store to one place if they store the same."""
        meet = self.mark_written(offsets)
        self.data[offsets] = values
        if meet and (self.data[offsets] != values).any():
            raise TilusError(
                "race in shared memory: write after write",
                found="threads store different values at one place in one instruction",
                hint="let one thread store, or all of them the same value",
            )

    def _cells(self, offsets: Array) -> Array:
        """(lanes, cells of an access)"""
        return offsets.reshape(len(self._lanes), -1)[:, :: self._cell] // self._cell

    def _check_writable(self, cells: Array, atomic: bool) -> None:
        state = self._writers[cells]
        if (state >= IN_FLIGHT).any():
            raise TilusError(
                "shared memory is written while an asynchronous copy is in flight",
                hint="wait for the copy first",
            )
        if atomic:
            state = np.where(state & ATOMIC, NEVER, state)
        self._check(state, cells, "write after write")
        self._check(self._readers[cells], cells, "write after read")

    def _check(self, state: Array, cells: Array, kind: str) -> None:
        """Raise where the use `state` of a cell is not ordered before that of the lanes."""
        row, column = np.nonzero(state >= self._floor[self._lanes][:, None])
        if not len(row):
            return
        found, lanes = state[row, column], self._lanes[row]
        race = self._unordered(found, lanes)
        if race.any():
            where = int(np.flatnonzero(race)[0])
            byte = int(cells[row[where], column[where]]) * self._cell % self.size
            raise self._race(kind, byte, int(found[where]), int(lanes[where]))

    def _race(self, kind: str, byte: int, state: int, lane: int) -> TilusError:
        now, before = kind.split(" after ")
        first, last = state >> THREAD_BITS & THREAD, state & THREAD
        other = f"thread {first}" if first == last else f"threads {first} to {last}"
        did = {"read": "read it", "write": "wrote it"}[before]
        return TilusError(
            f"race in shared memory: {kind} without a barrier between",
            found=f"thread {lane % self.threads} of block {lane // self.threads} {now}s byte "
            f"{byte}; {other} {did}",
            expected="a barrier between the accesses of two threads",
            hint="call sync() between the two accesses",
        )

    def _unordered(self, state: Array, lanes: Array) -> Array:
        """Whether each use `state` is another thread's, without a barrier up to now of `lanes`."""
        thread = self._thread[lanes]
        base = lanes - thread
        first, last, when = state >> THREAD_BITS & THREAD, state & THREAD, state >> WHEN
        unordered = (first != thread) | (last != thread)
        for meetings in self._meetings.values():
            mine = meetings[lanes]
            together = (meetings[base + first] == mine) & (meetings[base + last] == mine)
            unordered &= ~(together & (mine >> THREAD_BITS > when))
        return unordered

    def _record(self, table: Array, cells: Array, flags: int = 0, *, merge: bool) -> bool:
        """Note the use of `cells` by their lanes; returns whether lanes meet at a cell.

        `merge` keeps earlier users that no barrier orders before these.
        """
        thread = self._thread[self._lanes]
        stamp = self._clock << WHEN | flags | thread << THREAD_BITS | thread
        states = np.repeat(stamp[:, None], cells.shape[1], axis=1)
        if merge:
            self._merge(states, table[cells])
        table[cells] = states
        latest = table[cells]
        if (latest == states).all():
            return False
        # Of the lanes at one cell, lanes being sorted, the last one stays; backwards, the first.
        # Copies, as NumPy walks a reversed view in the order of memory.
        table[cells[::-1].copy()] = states[::-1].copy()
        low = THREAD << THREAD_BITS
        table[cells] = (latest & ~low) | (table[cells] & low)
        return True

    def _merge(self, states: Array, before: Array) -> None:
        """Widen the threads of `states` by those of `before` that are not ordered before."""
        row, column = np.nonzero(before >= self._floor[self._lanes][:, None])
        if not len(row):
            return
        found, now = before[row, column], states[row, column]
        first = np.minimum(found >> THREAD_BITS & THREAD, now >> THREAD_BITS & THREAD)
        last = np.maximum(found & THREAD, now & THREAD)
        wide = (now & -ATOMIC) | first << THREAD_BITS | last
        states[row, column] = np.where(self._unordered(found, self._lanes[row]), wide, now)

    # ---- barriers ----

    def barrier(self, blocks: Array) -> None:
        """All threads of `blocks` have met."""
        self._clock += 1
        self._floor.reshape(-1, self.threads)[blocks] = self._clock << WHEN

    def meet(self, number: int, lanes: Array, warp: int = 0) -> None:
        """`lanes`, not whole blocks, have met at barrier `number`; by `warp` threads, if given."""
        self._clock += 1
        never = np.zeros(len(self._thread), np.int64)
        meetings = self._meetings.setdefault(number, never)
        scope = self._thread[lanes] // warp if warp else 0
        meetings[lanes] = self._clock << THREAD_BITS | scope

    # ---- asynchronous copies ----

    def copy(self, lanes: Array, target: Array, data: Array) -> None:
        cells = self._cells(target)
        self._check_writable(cells, atomic=False)
        self._record(self._writers, cells, IN_FLIGHT, merge=False)
        self.pending.append(Pending(lanes, self.committed[lanes], target, data))

    def commit(self, lanes: Array) -> None:
        self.committed[lanes] += 1

    def wait(self, lanes: Array, groups: int | None) -> None:
        """Complete all but the latest `groups` groups of these lanes (None: everything)."""
        waiting = np.zeros(len(self.committed), bool)
        waiting[lanes] = True
        left: list[Pending] = []
        for copy in self.pending:
            limit = self.committed[copy.lanes] - (groups if groups is not None else -1)
            done = waiting[copy.lanes] & (copy.group < limit)
            if not done.any():
                left.append(copy)
                continue
            self._lanes = copy.lanes[done]
            self._record(self._writers, self._cells(copy.target[done]), merge=False)
            self.data[copy.target[done]] = copy.data[done]
            if not done.all():
                keep = ~done
                left.append(
                    Pending(copy.lanes[keep], copy.group[keep], copy.target[keep], copy.data[keep])
                )
        self.pending = left
