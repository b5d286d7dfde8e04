"""Which lanes go on where: groups at instructions, barriers, and those who poll memory.

A *group* is the lanes at one instruction; the group furthest behind runs first, and groups that
reach the same instruction go on together. A lane at a barrier is set aside until its block is
complete. Before a block with an instruction that a warp executes together, such as mma.sync, lanes
wait for the others of their warp, as long as these can run. Lanes that wait in a loop for what
others store run after all others, in turns, so that locks between blocks make progress.

Source: PTX ISA, "Independent Thread Scheduling", "bar", "mma.sync".
"""

from __future__ import annotations

from collections.abc import Iterator, Set

import numpy as np

from tilus.errors import TilusError
from tilus.ptx.memory import Array, SharedMemory
from tilus.ptx.syntax import Kernel

WARP = 32
PATIENCE = 10_000  # polls in a row, by whomever, with no store between: nobody will ever store
SHOWN = 4  # places that the message of a deadlock lists


class Groups:
    """The lanes of a wave of blocks that have not ended."""

    def __init__(
        self,
        kernel: Kernel,
        meetings: Set[int],
        count: int,
        threads: int,
        shared: SharedMemory,
    ):
        self.kernel = kernel
        self.meetings = meetings  # the blocks in which a warp acts together, by first instruction
        self.threads = threads
        self.shared = shared
        self.alive = np.ones(count, bool)
        self.ready: dict[int, Array] = {0: np.arange(count)}
        self.barriers: dict[int, list[tuple[int, Array]]] = {}  # number -> (instruction, lanes)
        self.expected: dict[int, int] = {}  # threads named by a barrier, where not the whole block
        self.looked = np.zeros(count, bool)  # lanes that looked at what others may change
        self.polite = np.zeros(count, bool)  # ... and went back to look again: others first
        self.polls = 0  # since the last store
        self.turn = 0
        self.chosen: dict[int, int] = {}  # when a group was last chosen, by its instruction

    def __iter__(self) -> Iterator[tuple[int, Array]]:
        """The next group to run, as (instruction, lanes), until every lane has ended."""
        while self.ready or self.barriers:
            if not self.ready:
                raise self._deadlock()
            pc = self._choose()
            yield pc, self._entering(pc)

    def _entering(self, pc: int) -> Array:
        """The lanes that go on at `pc`: whole warps alone, where there are any."""
        lanes = self.ready.pop(pc)
        if pc in self.meetings:
            whole = self._whole(lanes)
            if whole.any() and not whole.all():
                self.ready[pc] = lanes[~whole]
                return lanes[whole]
        return lanes

    def _whole(self, lanes: Array) -> Array:
        """Which of `lanes` are here with all of their warp that have not ended."""
        warps = -(-len(self.alive) // WARP)
        here = np.bincount(lanes // WARP, minlength=warps)
        alive = np.bincount(np.flatnonzero(self.alive) // WARP, minlength=warps)
        return (here == alive)[lanes // WARP]

    def _choose(self) -> int:
        """The group furthest behind; who waits for others takes turns once no other can run."""
        if len(self.ready) == 1:
            return next(iter(self.ready))
        self.turn += 1
        pc = min(self.ready, key=self._order)
        self.chosen[pc] = self.turn
        self.polite[self.ready[pc]] = False
        return pc

    def _order(self, pc: int) -> tuple[int, int, int]:
        lanes = self.ready[pc]
        waits = int(self.polite[lanes].all())
        if pc in self.meetings and not self._whole(lanes).any():
            # Those who poll may be the others of the warp, unless they poll in vain.
            waits = 2 if self.polls < PATIENCE // 2 else 1
        return waits, self.chosen.get(pc, 0) if waits else 0, pc

    def arrive(self, pc: int, lanes: Array) -> None:
        """Let `lanes` go on at `pc`."""
        if len(lanes):
            there = self.ready.get(pc)
            self.ready[pc] = lanes if there is None else np.sort(np.concatenate([there, lanes]))

    def went_back(self, lanes: Array) -> None:
        """`lanes` begin a loop again; only a loop polls: a lone atomic must not part its warp."""
        self.polite[lanes] |= self.looked[lanes]
        self.looked[lanes] = False

    def exit(self, lanes: Array) -> None:
        self.alive[lanes] = False
        for barrier in list(self.barriers):
            self._release(barrier)

    # ---- polling ----

    def poll(self, lanes: Array) -> None:
        """`lanes` look at memory that others may change: let those run first.

        Polling lanes run only when all do, so polls without a store between never end.
        """
        self.looked[lanes] = True
        self.polls += 1
        if self.polls > PATIENCE:
            waiting = sum(len(a) for there in self.barriers.values() for _, a in there)
            raise TilusError(
                "deadlock: every thread waits for a value that nobody stores",
                found=f"{self._who(lanes)} poll here; {waiting} threads wait at a barrier",
                hint="a lock is taken twice, or its owner waits for these threads",
            )

    # ---- barriers ----

    def wait(self, pc: int, lanes: Array, barriers: Array, threads: int | None) -> None:
        """Set `lanes` aside at their barriers until all of a block's threads are there."""
        for barrier in np.unique(barriers).tolist():
            self.barriers.setdefault(barrier, []).append((pc, lanes[barriers == barrier]))
            if threads is not None:
                self.expected[barrier] = threads
            self._release(barrier)

    def _release(self, barrier: int) -> None:
        """Let the blocks go on of which every thread has arrived."""
        waiting = self.barriers.pop(barrier)
        complete = self._complete(barrier, [lanes for _, lanes in waiting])
        left: list[tuple[int, Array]] = []
        released: list[Array] = []
        for pc, lanes in waiting:
            free = complete[lanes // self.threads]
            self.arrive(pc + 1, lanes[free])
            released.append(lanes[free])
            if not free.all():
                left.append((pc, lanes[~free]))
        if complete.any() and self.expected.get(barrier, self.threads) < self.threads:
            self.shared.meet(barrier, np.concatenate(released))
        elif complete.any():
            self.shared.barrier(np.flatnonzero(complete))
        if left:
            self.barriers[barrier] = left

    def _complete(self, barrier: int, waiting: list[Array]) -> Array:
        """Of each block: whether all threads that the barrier expects are there."""
        arrived = np.zeros(len(self.alive) // self.threads, np.int64)
        for lanes in waiting:
            arrived += np.bincount(lanes // self.threads, minlength=len(arrived))
        alive = self.alive.reshape(-1, self.threads).sum(1)
        need = np.minimum(alive, self.expected.get(barrier, self.threads))
        return (arrived >= need) & (arrived > 0)

    def _deadlock(self) -> TilusError:
        places = [(b, pc, lanes) for b, there in self.barriers.items() for pc, lanes in there]
        barrier, pc, lanes = places[0]
        others = "; ".join(
            f"{self._who(lanes)} at barrier {barrier}, {self._where(pc)}"
            for barrier, pc, lanes in places[1:SHOWN]
        )
        return TilusError(
            "deadlock: not every thread of a block reaches the barrier",
            found=f"{self._who(lanes)} wait at barrier {barrier}"
            + (f"; {others}" if others else ""),
            expected="all threads of the block at the same barrier",
            location=self.kernel.instructions[pc].location,
        )

    def _where(self, pc: int) -> str:
        location = self.kernel.instructions[pc].location
        return f"line {location.line}" if location else f"instruction {pc}"

    def _who(self, lanes: Array) -> str:
        """The threads of `lanes` within their first block."""
        block = int(lanes[0]) // self.threads
        mine = lanes[lanes // self.threads == block] % self.threads
        warps = sorted(set((mine // WARP).tolist()))
        names = f"warp {warps[0]}" if len(warps) == 1 else f"warps {', '.join(map(str, warps))}"
        return f"{len(lanes)} threads ({names} of block {block})"
