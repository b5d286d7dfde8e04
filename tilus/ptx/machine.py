"""The emulated GPU: threads as lanes of NumPy vectors, warps that part and meet again, barriers.

All threads of a wave of blocks are lanes 0..N-1; block b has lanes [b T, (b + 1) T). A register is
one array over all lanes. A *group* is the lanes at one instruction; the group furthest behind runs
first, and groups that reach the same instruction go on together. A lane at a barrier is set aside
until its block is complete. Source: PTX ISA, "PTX Machine Model".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tilus.errors import TilusError, locate
from tilus.ptx.memory import GlobalMemory, SharedMemory
from tilus.ptx.parse import Immediate, Instruction, Kernel, Operand, Register, Special, Symbol

Array = np.ndarray[Any, Any]
WARP = 32
PATIENCE = 10_000  # polls in a row, by whomever, with no store between: nobody will ever store

# Source: PTX ISA, "Fundamental Types".
TYPES: dict[str, Any] = {
    "u8": np.uint8, "s8": np.int8, "b8": np.uint8, "u16": np.uint16, "s16": np.int16,
    "b16": np.uint16, "u32": np.uint32, "s32": np.int32, "b32": np.uint32, "u64": np.uint64,
    "s64": np.int64, "b64": np.uint64, "f16": np.float16, "f32": np.float32, "f64": np.float64,
    "f16x2": np.uint32, "bf16x2": np.uint32, "bf16": np.uint16, "pred": np.bool_,
}  # fmt: skip
STORED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}

Action = Callable[["Machine", Instruction], None]
OPCODES: dict[str, Action] = {}


def opcode(*names: str) -> Callable[[Action], Action]:
    """Register the function that executes the opcodes `names`."""

    def add(action: Action) -> Action:
        for name in names:
            OPCODES[name] = action
        return action

    return add


class Halt(Exception):
    """Raised by an instruction that decides itself where its lanes go."""


class Machine:
    """One wave of blocks running one kernel."""

    def __init__(
        self,
        kernel: Kernel,
        params: dict[str, tuple[str, int | float]],
        memory: GlobalMemory,
        grid: tuple[int, int, int],
        threads: int,
        shared_bytes: int,
    ):
        self.kernel = kernel
        self.memory = memory
        self.threads = threads
        blocks = grid[0] * grid[1] * grid[2]
        self.count = blocks * threads
        self.shared = SharedMemory(blocks, threads, kernel.shared, shared_bytes)
        self.registers = {
            name: np.zeros(self.count, np.bool_ if kind == "pred" else _stored(kind))
            for name, kind in kernel.registers.items()
        }
        self.params = params
        self.lanes = np.arange(self.count)
        self.alive = np.ones(self.count, bool)
        self.specials = self._special_registers(grid)
        self.ready: dict[int, Array] = {0: self.lanes}
        self.barriers: dict[int, list[tuple[int, Array]]] = {}
        self.expected: dict[int, int] = {}  # threads named by a barrier, where not the whole block
        self.pc = 0
        self.looked = np.zeros(self.count, bool)  # lanes that looked at what others may change
        self.polite = np.zeros(self.count, bool)  # ... and went back to look again: others first
        self.polls = 0  # since the last store
        self.turn = 0
        self.chosen: dict[int, int] = {}  # when a group was last chosen, by its instruction

    def _special_registers(self, grid: tuple[int, int, int]) -> dict[str, Array]:
        thread, block = self.lanes % self.threads, self.lanes // self.threads
        x, y, _ = grid
        values = {
            "%tid.x": thread, "%ctaid.x": block % x, "%ctaid.y": block // x % y,
            "%ctaid.z": block // (x * y), "%laneid": thread % WARP, "%warpid": thread // WARP,
        }  # fmt: skip
        arrays = {name: value.astype(np.uint32) for name, value in values.items()}
        constants = {"%ntid.x": self.threads, "%ntid.y": 1, "%ntid.z": 1, "%tid.y": 0, "%tid.z": 0}
        constants |= {f"%nctaid.{a}": n for a, n in zip("xyz", grid, strict=True)}
        return arrays | {n: np.full(self.count, v, np.uint32) for n, v in constants.items()}

    # ---- operands of the active lanes ----

    def read(self, operand: Operand, kind: str) -> Array:
        """The value as an array of `kind` ("s32", "f16", ...) over the active lanes."""
        wanted = np.dtype(TYPES[kind])
        if isinstance(operand, Register):
            return _viewed(self.registers[operand.name][self.lanes], wanted)
        if isinstance(operand, Immediate):
            return _literal(operand, wanted)
        if isinstance(operand, Special):
            if operand.name not in self.specials:
                raise TilusError("this special register is not emulated", found=operand.name)
            return _viewed(self.specials[operand.name][self.lanes], wanted)
        if isinstance(operand, Symbol):
            return np.asarray(self.shared.address(operand.name), wanted)
        raise TilusError("this operand is not understood", found=str(operand))

    def write(self, operand: Operand, value: Any) -> None:
        """Set a register of the active lanes to `value` (its bits, where it is narrower)."""
        if isinstance(operand, Symbol) and operand.name == "_":
            return
        assert isinstance(operand, Register), operand
        target = self.registers[operand.name]
        bits = np.asarray(value)
        if bits.dtype != target.dtype:
            bits = _bits(bits).astype(target.dtype)
        target[self.lanes] = bits

    # ---- execution ----

    def run(self) -> None:
        """Run to the end. Raises `TilusError` at the Python line of what must not happen."""
        instructions = self.kernel.instructions
        while self.ready or self.barriers:
            if not self.ready:
                raise self._deadlock()
            self.pc = self._choose()
            self.lanes = self.ready.pop(self.pc)
            if self.pc >= len(instructions):
                self._exit(self.lanes)
                continue
            self._step(instructions[self.pc])

    def _choose(self) -> int:
        """The group furthest behind; those that poll memory take turns once no other can run."""
        if len(self.ready) == 1:
            return next(iter(self.ready))
        self.turn += 1
        pc = min(self.ready, key=self._order)
        self.chosen[pc] = self.turn
        self.polite[self.ready[pc]] = False
        return pc

    def _order(self, pc: int) -> tuple[bool, int, int]:
        polls = bool(self.polite[self.ready[pc]].all())
        return polls, self.chosen.get(pc, 0) if polls else 0, pc

    def _step(self, instruction: Instruction) -> None:
        skipped = self._guard(instruction)
        try:
            if len(self.lanes):
                with locate(instruction.location):
                    self._action(instruction)(self, instruction)
        except Halt:
            pass
        else:
            self.arrive(self.pc + 1, self.lanes)
        self.arrive(self.pc + 1, skipped)

    def _guard(self, instruction: Instruction) -> Array:
        """Leave only the lanes whose predicate holds; returns the others."""
        if instruction.predicate is None:
            return self.lanes[:0]
        holds = self.registers[instruction.predicate][self.lanes] != instruction.negated
        skipped, self.lanes = self.lanes[~holds], self.lanes[holds]
        return skipped

    def _action(self, instruction: Instruction) -> Action:
        action = OPCODES.get(instruction.opcode)
        if action is None:
            raise TilusError(
                f"the PTX instruction {instruction.name} is not emulated", found=instruction.text
            )
        return action

    def arrive(self, pc: int, lanes: Array) -> None:
        """Let `lanes` go on at `pc`."""
        if len(lanes):
            there = self.ready.get(pc)
            self.ready[pc] = lanes if there is None else np.sort(np.concatenate([there, lanes]))

    def jump(self, label: str) -> None:
        target = self.kernel.labels[label]
        if target <= self.pc:
            # Only a loop polls: a lone atomic operation must not part its warp from the others.
            self.polite[self.lanes] |= self.looked[self.lanes]
            self.looked[self.lanes] = False
        self.arrive(target, self.lanes)
        raise Halt

    def exit(self) -> None:
        self._exit(self.lanes)
        raise Halt

    def _exit(self, lanes: Array) -> None:
        self.alive[lanes] = False
        for barrier in list(self.barriers):
            self._release(barrier)

    # ---- polling ----

    def poll(self) -> None:
        """The active lanes look at memory that others may change: let those run first.

        Polling lanes run only when all do, so polls without a store between never end.
        """
        self.looked[self.lanes] = True
        self.polls += 1
        if self.polls > PATIENCE:
            raise TilusError(
                "deadlock: every thread waits for a value that nobody stores",
                found=f"{len(self.lanes)} threads poll here, {self._waiting()} wait at a barrier",
                hint="a lock is taken twice, or its owner waits for these threads",
            )

    def stored(self) -> None:
        """Memory has changed, so that those who poll may go on."""
        self.polls = 0

    def _waiting(self) -> int:
        return sum(len(lanes) for waiting in self.barriers.values() for _, lanes in waiting)

    # ---- barriers ----

    def wait(self, barriers: Array, threads: int | None) -> None:
        """Set every active lane aside at its barrier until all of its block's threads are there."""
        for barrier in np.unique(barriers).tolist():
            there = self.lanes[barriers == barrier]
            self.barriers.setdefault(barrier, []).append((self.pc, there))
            if threads is not None:
                self.expected[barrier] = threads
            self._release(barrier)
        raise Halt

    def _release(self, barrier: int) -> None:
        """Let the blocks go on of which every thread has arrived."""
        waiting = self.barriers.pop(barrier)
        arrived = np.zeros(self.count // self.threads, np.int64)
        for _, lanes in waiting:
            arrived += np.bincount(lanes // self.threads, minlength=len(arrived))
        alive = self.alive.reshape(-1, self.threads).sum(1)
        need = np.minimum(alive, self.expected.get(barrier, self.threads))
        complete = (arrived >= need) & (arrived > 0)
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

    def _deadlock(self) -> TilusError:
        barrier, waiting = next(iter(self.barriers.items()))
        pc, lanes = waiting[0]
        return TilusError(
            "deadlock: not every thread of a block reaches the barrier",
            found=f"{len(lanes)} threads wait at barrier {barrier}",
            expected="all threads of the block at the same barrier",
            location=self.kernel.instructions[pc].location,
        )

    # ---- warps ----

    def warps(self, what: str) -> Array:
        """The active lanes as (warps, 32); an error where a warp is not complete."""
        lanes = self.lanes
        table = lanes[: len(lanes) // WARP * WARP].reshape(-1, WARP)
        first = table[:, :1]
        if len(lanes) % WARP or (first % WARP).any() or (table != first + np.arange(WARP)).any():
            raise TilusError(
                f"{what} needs every thread of a warp",
                found=f"{len(lanes)} threads are here",
                hint="the threads of a warp took different branches",
            )
        return table


def _stored(kind: str) -> Any:
    return STORED[np.dtype(TYPES[kind]).itemsize]


def _bits(array: Array) -> Array:
    if array.dtype == np.bool_:
        return array
    return array.view(STORED[array.dtype.itemsize])


def _viewed(bits: Array, wanted: np.dtype[Any]) -> Array:
    """A register's bits as `wanted`; the low ones where it is narrower."""
    if bits.dtype == np.bool_ or bits.dtype == wanted:
        return bits
    if bits.dtype.itemsize != wanted.itemsize:
        bits = bits.astype(STORED[wanted.itemsize])
    return bits.view(wanted)


def _literal(operand: Immediate, wanted: np.dtype[Any]) -> Array:
    if operand.kind == "int" and wanted.kind != "f":
        size = 8 * wanted.itemsize
        return np.asarray(operand.value & ((1 << size) - 1), STORED[wanted.itemsize]).view(wanted)
    stored = np.uint32 if operand.kind == "f32" else np.uint64
    if operand.kind == "int":
        return np.asarray(operand.value, wanted)
    value = np.asarray(operand.value, stored)
    exact = value.view(np.float32 if operand.kind == "f32" else np.float64)
    return exact.view(wanted) if wanted.itemsize == exact.itemsize else exact.astype(wanted)


def execute(
    kernel: Kernel,
    params: Sequence[tuple[str, int | float]],
    memory: GlobalMemory,
    grid: tuple[int, int, int],
    threads: int,
    shared_bytes: int,
) -> None:
    """Run every block of `kernel`; `params` are (type, value) in order."""
    from tilus.ptx import load_opcodes

    load_opcodes()
    named = {name: value for (name, _), value in zip(kernel.params, params, strict=True)}
    if min(grid) > 0:
        Machine(kernel, named, memory, grid, threads, shared_bytes).run()
