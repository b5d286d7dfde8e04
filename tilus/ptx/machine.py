"""The emulated GPU: threads as lanes of NumPy vectors, warps that part and meet again, barriers.

All threads of a wave of blocks are lanes 0..N-1; block b has lanes [b T, (b + 1) T). A register is
one array over all lanes. The lanes that execute an instruction are `Machine.lanes`; who they are is
decided by groups.py. Source: PTX ISA, "PTX Machine Model".
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilus.errors import TilusError, locate
from tilus.ptx.blocks import Action, Block
from tilus.ptx.counters import Counters
from tilus.ptx.groups import WARP, Groups
from tilus.ptx.memory import Array, GlobalMemory, SharedMemory
from tilus.ptx.syntax import (
    Immediate,
    Instruction,
    Kernel,
    Operand,
    Register,
    Special,
    Symbol,
    Vector,
)

NO_LANES = np.zeros(0, np.int64)
SMS = 132  # multiprocessors of the emulated GPU (H100 SXM)
CLOCKS = 32  # ticks of %clock for each basic block

# Source: PTX ISA, "Fundamental Types".
TYPES: dict[str, Any] = {
    "u8": np.uint8, "s8": np.int8, "b8": np.uint8, "u16": np.uint16, "s16": np.int16,
    "b16": np.uint16, "u32": np.uint32, "s32": np.int32, "b32": np.uint32, "u64": np.uint64,
    "s64": np.int64, "b64": np.uint64, "f16": np.float16, "f32": np.float32, "f64": np.float64,
    "f16x2": np.uint32, "bf16x2": np.uint32, "bf16": np.uint16, "pred": np.bool_,
}  # fmt: skip
STORED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}

# What an undefined register may not reach: addresses, memory, branches, what threads exchange.
SINKS = (
    "ld", "ldu", "st", "atom", "red", "cp", "setp", "bar", "barrier", "shfl", "vote", "match",
    "redux", "mma", "ldmatrix", "stmatrix", "movmatrix", "mbarrier", "call",
)  # fmt: skip

OPCODES: dict[str, Action] = {}


def opcode(*names: str) -> Callable[[Action], Action]:
    """Register the function that executes the opcodes `names`."""

    def add(action: Action) -> Action:
        for name in names:
            OPCODES[name] = action
        return action

    return add


@dataclass(frozen=True)
class Wave:
    """Blocks `first` .. `first + count - 1` of a grid, which run at the same time."""

    grid: tuple[int, int, int]
    threads: int
    first: int
    count: int


class Registers(dict[str, Array]):
    """The registers of all lanes; each comes to be when first used, as many never are."""

    def __init__(self, kinds: Mapping[str, str], count: int):
        super().__init__()
        self.kinds, self.count = kinds, count
        self.undefined: dict[str, Array] = {}  # register -> lanes, as long as there are any

    def __missing__(self, name: str) -> Array:
        kind = self.kinds[name]
        self[name] = np.zeros(self.count, np.bool_ if kind == "pred" else _stored(kind))
        self.undefined[name] = np.ones(self.count, bool)
        return self[name]


class Machine:
    """One wave of blocks running one kernel."""

    def __init__(
        self,
        kernel: Kernel,
        code: Mapping[int, Block],
        meetings: Set[int],
        params: Mapping[str, tuple[str, int | float | bytes]],
        memory: GlobalMemory,
        symbols: Mapping[str, int],
        wave: Wave,
        shared_bytes: int,
        counters: Counters | None = None,
    ):
        self.kernel, self.code, self.params, self.symbols = kernel, code, params, symbols
        self.memory = memory
        self.threads = wave.threads
        self.count = wave.count * wave.threads
        self.shared = SharedMemory(wave.count, wave.threads, kernel.shared, shared_bytes)
        self.groups = Groups(kernel, meetings, self.count, wave.threads, self.shared)
        self.counters = counters
        self.registers = Registers(kernel.registers, self.count)
        self.undefined = self.registers.undefined
        self.tainted: tuple[int, Array] | None = None  # instruction, and lanes of what it read
        self.local, self.local_addresses = self._local_memory()
        self.pc = 0
        self.ticks = 0
        self.focus(np.arange(self.count))
        self.specials = self._special_registers(wave, shared_bytes)
        self._watch()

    def _local_memory(self) -> tuple[Array, dict[str, int]]:
        """(lanes, bytes) of the arrays of each thread, and where each of these begins."""
        addresses: dict[str, int] = {}
        size = 0
        for variable in self.kernel.local:
            size = -(-size // variable.alignment) * variable.alignment
            addresses[variable.name] = size
            size += variable.size
        return np.zeros((self.count, size), np.uint8), addresses

    def _watch(self) -> None:
        """Have every access to memory counted."""
        if self.counters is None:
            self.memory.watch = self.shared.watch = None
            return
        counters = self.counters
        self.memory.watch = lambda lanes, offset, size: counters.global_access(
            self.pc, self.lanes if lanes is None else lanes, offset, size
        )
        self.shared.watch = lambda lanes, offset, size: counters.shared_access(
            self.pc, self.lanes if lanes is None else lanes, offset, size
        )

    def _special_registers(self, wave: Wave, shared_bytes: int) -> dict[str, Array]:
        """Source: PTX ISA, "Special Registers"."""
        thread = self.lanes % wave.threads
        block = self.lanes // wave.threads + wave.first
        x, y, z = wave.grid
        lane = np.arange(self.count, dtype=np.uint64) % self.threads % WARP
        bit = np.uint64(1) << lane
        values: dict[str, Any] = {
            "%tid.x": thread, "%ctaid.x": block % x, "%ctaid.y": block // x % y,
            "%ctaid.z": block // (x * y), "%laneid": lane, "%warpid": thread // WARP,
            "%smid": block % SMS, "%lanemask_eq": bit, "%lanemask_lt": bit - np.uint64(1),
            "%lanemask_le": 2 * bit - 1, "%lanemask_gt": ~(2 * bit - 1), "%lanemask_ge": ~(bit - 1),
            "%ntid.x": wave.threads, "%ntid.y": 1, "%ntid.z": 1, "%tid.y": 0, "%tid.z": 0,
            "%nctaid.x": x, "%nctaid.y": y, "%nctaid.z": z, "%nsmid": SMS, "%gridid": 0,
            "%nwarpid": 64, "%dynamic_smem_size": shared_bytes,
            "%total_smem_size": self.shared.used,
        }  # fmt: skip
        lanes = np.zeros(self.count, np.uint64)
        return {
            n: (v + lanes.astype(np.asarray(v).dtype)).astype(np.uint32) for n, v in values.items()
        }

    # ---- operands of the active lanes ----

    def focus(self, lanes: Array) -> None:
        """Let `lanes`, in ascending order, be the active ones."""
        self.lanes = lanes
        self._table: tuple[Array, Array] | None = None
        count = len(lanes)
        # A slice of neighbours gives views of registers, without a copy.
        whole = count and int(lanes[-1]) - int(lanes[0]) == count - 1
        self._index: Any = slice(int(lanes[0]), int(lanes[-1]) + 1) if whole else lanes

    def read(self, operand: Operand, kind: str) -> Array:
        """The value as an array of `kind` ("s32", "f16", ...) over the active lanes."""
        wanted = np.dtype(TYPES[kind])
        if isinstance(operand, Register):
            return _viewed(self._register(operand.name), wanted)
        if isinstance(operand, Immediate):
            return _literal(operand, wanted)
        if isinstance(operand, Special):
            return self._special(operand.name, wanted)
        if isinstance(operand, Symbol):
            return np.asarray(self.symbol_address(operand.name), wanted)
        raise TilusError("this operand is not understood", found=str(operand))

    def _register(self, name: str) -> Array:
        """The bits of a register, which may not be written after this as long as they are used."""
        bits = self.registers[name]
        if name in self.undefined:
            self._taint(name)
        return bits[self._index]

    def _taint(self, name: str) -> None:
        """A register is read that some lanes never wrote: what is made of it is undefined too."""
        missing = self.undefined[name][self._index]
        if not missing.any():
            return
        instruction = self.kernel.instructions[self.pc]
        if _packs(instruction):
            return  # `_define` looks at all parts together
        if instruction.opcode in SINKS or instruction.predicate == name:
            lane = int(self.lanes[missing][0])
            raise TilusError(
                "an undefined value is used: its register was never written",
                found=f"{name} of thread {lane % self.threads} in {instruction.text}",
                hint="a variable is read before it is set, or only some threads set it",
            )
        if self.tainted is not None and self.tainted[0] == self.pc:
            missing = missing | self.tainted[1]
        self.tainted = self.pc, missing

    def _special(self, name: str, wanted: np.dtype[Any]) -> Array:
        if name in ("%clock", "%clock_hi", "%clock64", "%globaltimer", "%globaltimer_lo"):
            return np.asarray(self.ticks * CLOCKS >> (32 if name == "%clock_hi" else 0)).astype(
                wanted
            )
        if name not in self.specials:
            raise TilusError("this special register is not emulated", found=name)
        return _viewed(self.specials[name][self._index], wanted)

    def symbol_address(self, name: str) -> int:
        """The address of a variable: of global memory, or an offset in shared memory."""
        if name in self.symbols:
            return self.symbols[name]
        return self.shared.address(name)

    def write(self, operand: Operand, value: Any) -> None:
        """Set a register of the active lanes to `value` (its bits, where it is narrower)."""
        if isinstance(operand, Symbol) and operand.name == "_":
            return
        if not isinstance(operand, Register):
            raise TilusError("this is no register that can be written", found=str(operand))
        name = operand.name
        target = self.registers[name]
        bits = np.asarray(value)
        if bits.dtype != target.dtype:
            bits = _bits(bits).astype(target.dtype)
        target[self._index] = bits
        packed = bool(self.undefined) and _packs(self.kernel.instructions[self.pc])
        if packed or name in self.undefined or self.tainted is not None:
            self._define(name)

    def _define(self, name: str) -> None:
        """The active lanes have written a register, of what may be undefined itself."""
        tainted = self.tainted[1] if self.tainted and self.tainted[0] == self.pc else None
        if _packs(self.kernel.instructions[self.pc]):
            tainted = self._undefined_together(self.kernel.instructions[self.pc].operands[1])
        if tainted is None and len(self.lanes) == self.count:
            self.undefined.pop(name, None)
            return
        mask = self.undefined.setdefault(name, np.zeros(self.count, bool))
        mask[self._index] = tainted if tainted is not None else False
        if not mask.any():
            del self.undefined[name]

    def _undefined_together(self, parts: Operand) -> Array | None:
        """The active lanes in which no part of a packed value is defined.

        Compilers leave the upper half of a register undefined of which they store the lower.
        """
        assert isinstance(parts, Vector)
        masks = [
            self.undefined[part.name][self._index]
            if isinstance(part, Register) and part.name in self.undefined
            else None
            for part in parts.items
        ]
        known = [mask for mask in masks if mask is not None]
        return np.logical_and.reduce(known) if len(known) == len(masks) else None

    # ---- execution ----

    def run(self) -> None:
        """Run to the end. Raises `TilusError` at the Python line of what must not happen."""
        for pc, lanes in self.groups:
            block = self.code.get(pc)
            if block is None:  # past the last instruction
                self.groups.exit(lanes)
                continue
            self.focus(lanes)
            self.ticks += 1
            self.tainted = None
            if self.counters is not None:
                warps = len(np.unique(lanes // WARP))
                self.counters.block(self.kernel, block.start, block.end, warps)
            self._execute(block)

    def _execute(self, block: Block) -> None:
        try:
            block.run(self)
        except TilusError:
            with locate(self.kernel.instructions[self.pc].location):
                raise

    def guarded(self, action: Action, instruction: Instruction) -> None:
        """Execute for the lanes whose predicate holds."""
        lanes, holds = self.lanes, self._holds(instruction)
        if holds.all():
            action(self, instruction)
        elif holds.any():
            self.focus(lanes[holds])
            action(self, instruction)
            self.focus(lanes)

    def branch(self, action: Action, instruction: Instruction) -> None:
        """`guarded`, of an instruction after which its lanes may be elsewhere."""
        lanes, holds = self.lanes, self._holds(instruction)
        if holds.any():
            self.focus(lanes[holds])
            action(self, instruction)
            left = [lanes[~holds], self.lanes]
            self.focus(np.sort(np.concatenate(left)) if len(self.lanes) else left[0])

    def _holds(self, instruction: Instruction) -> Array:
        assert instruction.predicate is not None
        return self._register(instruction.predicate) != instruction.negated

    def arrive(self, pc: int, lanes: Array) -> None:
        """Let `lanes` go on at `pc`."""
        self.groups.arrive(pc, lanes)

    def jump(self, label: str) -> None:
        target = self.kernel.labels[label]
        if target <= self.pc:
            self.groups.went_back(self.lanes)
        self.groups.arrive(target, self.lanes)
        self.focus(NO_LANES)

    def exit(self) -> None:
        self.groups.exit(self.lanes)
        self.focus(NO_LANES)

    def wait(self, barriers: Array, threads: int | None) -> None:
        """Set every active lane aside at its barrier until all of its block's threads are there."""
        self.groups.wait(self.pc, self.lanes, barriers, threads)
        self.focus(NO_LANES)

    def poll(self) -> None:
        """The active lanes look at memory that others may change."""
        self.groups.poll(self.lanes)

    def stored(self) -> None:
        """Memory has changed, so that those who poll may go on."""
        self.groups.polls = 0

    def printed(self, text: str, lane: int) -> None:
        """What lane number `lane` of the wave prints."""
        sys.stdout.write(text)

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

    def _places(self) -> tuple[Array, Array]:
        """(row of each active lane in a table of the warps here, numbers of these warps)"""
        if self._table is None:
            # Warps begin anew with every block, whose last one may be short.
            per_block = -(-self.threads // WARP)
            thread = self.lanes % self.threads
            numbers = self.lanes // self.threads * per_block + thread // WARP
            warps, row = np.unique(numbers, return_inverse=True)
            self._table = row, warps
        return self._table

    def by_warp(self, values: Array, fill: Any = 0) -> Array:
        """(warps, 32): the values of the active lanes, and `fill` for those that are not here."""
        row, warps = self._places()
        values = np.broadcast_to(np.asarray(values), self.lanes.shape)
        table = np.full((len(warps), WARP), fill, values.dtype)
        table[row, self.lanes % self.threads % WARP] = values
        return table

    def from_warps(self, table: Array) -> Array:
        """The values of the active lanes in a table (warps, 32)."""
        row, _ = self._places()
        return table[row, self.lanes % self.threads % WARP]

    def participants(self, operand: Operand, what: str) -> Array:
        """(warps, 32): the lanes that the membermask `operand` names.

        Raises `TilusError` unless every lane that executes is named by its mask, lanes of a warp
        have one mask, and whoever is named is here (or has ended). Source: PTX ISA, "shfl.sync".
        """
        mask = np.broadcast_to(self.read(operand, "b32"), self.lanes.shape).astype(np.int64)
        masks = self.by_warp(mask, fill=-1)
        here = masks >= 0
        warp_mask = masks.max(1, keepdims=True)
        named = (warp_mask >> np.arange(WARP) & 1).astype(bool)
        if (here & (masks != warp_mask)).any() or (here & ~named).any():
            raise self._illegal(what, int(warp_mask[0, 0]), "a lane that is not in it executes it")
        if (named & ~here & self._living()).any():
            raise self._illegal(what, int(warp_mask[0, 0]), "lanes that it names are not here")
        return named & here

    def _living(self) -> Array:
        """(warps, 32): the lanes, here or elsewhere, that exist and have not ended."""
        _, warps = self._places()
        per_block = -(-self.threads // WARP)
        thread = (warps % per_block * WARP)[:, None] + np.arange(WARP)
        lane = (warps // per_block * self.threads)[:, None] + thread
        exists = thread < self.threads
        return exists & self.groups.alive[np.where(exists, lane, 0)]

    def _illegal(self, what: str, mask: int, reason: str) -> TilusError:
        return TilusError(
            f"{what} has an illegal mask: {reason}",
            found=f"the mask {mask:#010x}",
            expected="a mask of exactly the lanes that execute the instruction together",
            hint="the threads of a warp took different branches",
        )


def _packs(instruction: Instruction) -> bool:
    """Whether it puts a register together from parts: mov.b64 %rd1, {%r1, %r2}."""
    return instruction.opcode == "mov" and isinstance(instruction.operands[-1], Vector)


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
