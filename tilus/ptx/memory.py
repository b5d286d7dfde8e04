"""Memory of the emulated GPU: tensors with guard zones between them, and shared memory per block.

Every access is checked: inside of one tensor, aligned to its size; in shared memory also written
before, and not by a copy that is still in flight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilus.errors import TilusError
from tilus.ptx.parse import Variable

Array = np.ndarray[Any, Any]
BASE = 1 << 40  # the first address of global memory
GUARD = 512  # bytes between tensors
SHARED_WINDOW = 1 << 36  # generic addresses of shared memory begin here


class GlobalMemory:
    """All tensors of a launch in one array of bytes, each at its own address."""

    def __init__(self) -> None:
        self._parts: list[tuple[str, int, Array]] = []
        self._size = GUARD
        self.data = np.zeros(0, np.uint8)
        self.valid = np.zeros(0, bool)

    def add(self, name: str, data: Array, misalignment: int = 0) -> int:
        """Reserve room for `data` (uint8); returns its address, `misalignment` past 256 bytes."""
        offset = (self._size + 255) // 256 * 256 + misalignment
        self._parts.append((name, offset, data))
        self._size = offset + data.size + GUARD
        return BASE + offset

    def load(self) -> None:
        """Copy the tensors in, once all are added."""
        self.data = np.zeros((self._size + 15) // 16 * 16, np.uint8)
        self.valid = np.zeros(self.data.size, bool)
        for _, offset, data in self._parts:
            self.data[offset : offset + data.size] = data
            self.valid[offset : offset + data.size] = True

    def store(self) -> None:
        """Copy the tensors back to where they came from."""
        for _, offset, data in self._parts:
            data[:] = self.data[offset : offset + data.size]

    def locate(self, address: Array, size: int) -> Array:
        """Offsets into `data` of accesses of `size` bytes, checked."""
        offset = address.astype(np.int64) - BASE
        misaligned = offset % size != 0
        if misaligned.any():
            raise TilusError(
                "a global access is not aligned",
                found=f"{size} bytes at {self._describe(int(offset[misaligned][0]))}",
                expected=f"a multiple of {size} bytes",
            )
        inside = (offset >= 0) & (offset + size <= self.data.size)
        inside &= self.valid[np.clip(offset, 0, self.data.size - 1)]
        inside &= self.valid[np.clip(offset + size - 1, 0, self.data.size - 1)]
        if not inside.all():
            raise TilusError(
                "a global access is out of bounds",
                found=f"{size} bytes at {self._describe(int(offset[~inside][0]))}",
                expected="an address inside of a tensor",
            )
        return offset

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
        self.written = np.zeros(blocks * self.size, bool)
        self.in_flight = np.zeros(blocks * self.size, bool)
        self.committed = np.zeros(blocks * threads, np.int64)
        self.pending: list[Pending] = []

    def address(self, name: str) -> int:
        if name not in self._addresses:
            raise TilusError("this symbol is not known", found=name)
        return self._addresses[name]

    def locate(self, lanes: Array, address: Array, size: int) -> Array:
        """Byte offsets into `data` of accesses of `size` bytes, checked."""
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
        return lanes // self.threads * self.size + offset

    def check_readable(self, offsets: Array) -> None:
        """`offsets` of every byte read."""
        if self.in_flight[offsets].any():
            raise TilusError(
                "shared memory is read while an asynchronous copy into it is in flight",
                hint="wait for the copy first",
            )
        if not self.written[offsets].all():
            raise TilusError("shared memory is read that was never written")

    def mark_written(self, offsets: Array) -> None:
        if self.in_flight[offsets].any():
            raise TilusError("shared memory is written while an asynchronous copy is in flight")
        self.written[offsets] = True

    def barrier(self, blocks: Array) -> None:
        """All threads of `blocks` have met."""

    # ---- asynchronous copies ----

    def copy(self, lanes: Array, target: Array, data: Array) -> None:
        self.in_flight[target] = True
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
            self.in_flight[copy.target[done]] = False
            self.written[copy.target[done]] = True
            self.data[copy.target[done]] = copy.data[done]
            if not done.all():
                keep = ~done
                left.append(
                    Pending(copy.lanes[keep], copy.group[keep], copy.target[keep], copy.data[keep])
                )
        self.pending = left
