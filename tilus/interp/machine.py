"""The virtual machine: runs a program on CPU memory, many blocks at a time, and so defines what
programs mean.

A *wave* is a set of blocks whose values are kept as NumPy arrays with a leading block axis:

    scalar      () where all blocks agree, else (blocks,)
    tile        (blocks, *shape) of the dtype's carrier

Blocks at the same step run it together. Where control flow differs they part, the ones furthest
behind run first, and those that reach the same step go on together. A block that waits for a
semaphore is set aside until others moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilus.dtypes import Array
from tilus.errors import TilusError, locate
from tilus.interp.flatten import Check, Jump, Run, SetVar, Step, flatten
from tilus.interp.memory import Memory
from tilus.interp.shared import Access, SharedAllocation, SharedMemory, SharedRef
from tilus.ir.expr import BLOCK_IDX, GRID_DIM, Expr, Var, evaluate
from tilus.ir.instruction import Effects
from tilus.ir.program import Program
from tilus.ir.tensor import GlobalTensor, RegisterTensor, SharedTensor
from tilus.ir.visit import instructions

WAVE_BYTES = 1 << 28  # tiles of one wave take about this much memory
PATIENCE = 2048  # backward jumps of one group of blocks before others get a turn


@dataclass(frozen=True, eq=False)
class GlobalRef:
    """A global tensor at run time: address, extents and strides, each () or one per block."""

    address: Array
    shape: tuple[Array, ...]
    strides: tuple[Array, ...]


class _Blocked(Exception):
    """Raised by `Machine.wait_until`: only the blocks of `ready` may go on."""

    def __init__(self, ready: Array):
        super().__init__()
        self.ready = ready


def launch(program: Program, args: Mapping[Var, Any], memory: Memory) -> None:
    """Run every block of `program`.

    `args` gives each parameter's value: Python numbers, pointers as addresses in `memory`.
    Raises `TilusError` at the line of the program that does what it must not.
    """
    env: dict[Var, Array] = {
        var: np.asarray(value, var.dtype.carrier) for var, value in args.items()
    }
    grid = grid_size(program, env)
    total = grid[0] * grid[1] * grid[2]
    steps = flatten(program.body)
    size = _wave_size(program, total)
    for first in range(0, total, size):
        wave = np.arange(first, min(first + size, total), dtype=np.int64)
        Machine(program, steps, env, memory, grid, wave).execute()


def grid_size(program: Program, env: Mapping[Var, Array]) -> tuple[int, int, int]:
    """The number of blocks in x, y, z for these arguments."""
    with locate(program.location):
        grid = tuple(int(evaluate(extent, env)) for extent in program.blocks)
        limits = (2**31 - 1, 65535, 65535)
        for axis, extent, limit in zip("xyz", grid, limits, strict=True):
            if not 0 <= extent <= limit:
                raise TilusError(
                    f"the grid does not fit in {axis}",
                    found=f"attrs.blocks gives {list(grid)}",
                    expected=f"0..{limit} blocks in {axis}",
                )
    return grid  # type: ignore[return-value]


def _wave_size(program: Program, total: int) -> int:
    """Blocks per wave: bounded by memory, or all of them where blocks wait for each other."""
    block_bytes = 1
    for instruction in instructions(program):
        if Effects.WAIT in instruction.effects:
            return max(total, 1)
        tile = instruction.result
        if isinstance(tile, (RegisterTensor, SharedTensor)):
            block_bytes += int(np.prod(tile.shape)) * (tile.dtype.carrier.itemsize + 8)
    return max(1, min(total, WAVE_BYTES // block_bytes))


class Machine:
    """One wave of blocks. Instructions read and write tiles through it (`m[tile]`), always for the
    active blocks.
    """

    def __init__(
        self,
        program: Program,
        steps: Sequence[Step],
        args: Mapping[Var, Array],
        memory: Memory,
        grid: tuple[int, int, int],
        wave: Array,
    ):
        self.program = program
        self.memory = memory
        self.wave = wave
        self.shared = SharedMemory(len(wave))
        self.blocks = np.arange(len(wave))  # the active blocks, as rows of the wave
        self._steps = steps
        self._values: dict[Any, Array] = dict(args)
        self._defined: dict[Any, Array] = {}
        self._owned: set[Any] = set()
        self._allocations: dict[SharedTensor, SharedAllocation] = {}
        self._parts: set[SharedTensor] = set()
        self._set_block_indices(grid)

    def _set_block_indices(self, grid: tuple[int, int, int]) -> None:
        stride = 1
        for axis in range(3):
            index = self.wave // stride % grid[axis]
            uniform = index.size > 0 and bool((index == index[0]).all())
            self._values[BLOCK_IDX[axis]] = (index[0] if uniform else index).astype(np.int32)
            self._values[GRID_DIM[axis]] = np.asarray(grid[axis], np.int32)
            stride *= grid[axis]

    # ---- values of the active blocks ----

    @property
    def count(self) -> int:
        """How many blocks are active: the leading axis of every tile's array."""
        return len(self.blocks)

    @property
    def _all_active(self) -> bool:
        return len(self.blocks) == len(self.wave)

    def __getitem__(self, tile: RegisterTensor) -> Array:
        """The tile's elements, (blocks, *shape) of the carrier type; not to be changed in place."""
        if not self.is_defined(tile):
            raise TilusError(
                f"{tile.name or 'a register tile'} is used before it has a value",
                found=f"{tile} was made without init and not written on this path",
                hint="give register_tensor an init=, or assign the tile before this line",
            )
        return self.value_of(tile)

    def __setitem__(self, tile: RegisterTensor, values: Array) -> None:
        values = np.broadcast_to(values, (self.count, *tile.shape))
        assert values.dtype == tile.dtype.carrier, f"{tile} given {values.dtype}"
        self._write(tile, values)

    def is_defined(self, key: object) -> bool:
        if key not in self._values:
            return False
        mask = self._defined.get(key)
        return mask is None or bool(mask[self.blocks].all())

    def undefine(self, tile: RegisterTensor) -> None:
        """Forget the value of `tile` in the active blocks."""
        if self._all_active:
            self._values.pop(tile, None)
        elif tile in self._values:
            self._mark(tile, False)

    def scalar(self, expr: Expr) -> Array:
        """The value of a scalar expression: () where all active blocks agree, else (blocks,)."""
        return np.asarray(evaluate(expr, _Scalars(self)))

    def scalar_for(self, expr: Expr, rank: int) -> Array:
        """Like `scalar`, shaped to broadcast against (blocks, *extents) of `rank` extents."""
        return spread(self.scalar(expr), rank)

    def set_scalar(self, var: Var, value: Array) -> None:
        value = np.asarray(value)
        if value.ndim == 1 and value.size and bool((value == value[0]).all()):
            value = value[0]
        self._write(var, value)

    def over_axes(self, expr: Expr, axes: Sequence[Var], shape: Sequence[int]) -> Array:
        """`expr` of the axis variables, for every index of a tile: broadcastable to (blocks,
        *shape).
        """
        indices = np.indices(tuple(shape), dtype=np.int32, sparse=True)
        env = {axis: index[None] for axis, index in zip(axes, indices, strict=False)}
        return np.asarray(evaluate(expr, _Scalars(self, env, len(shape))))

    def value_of(self, key: object) -> Array:
        value = self._values[key]
        return value if value.ndim == 0 or self._all_active else value[self.blocks]

    def _write(self, key: object, value: Array) -> None:
        if self._all_active:
            self._values[key] = value
            self._owned.discard(key)
            self._defined.pop(key, None)
            return
        if key not in self._values:
            self._values[key] = np.zeros((len(self.wave), *value.shape[1:]), value.dtype)
            self._defined[key] = np.zeros(len(self.wave), bool)
            self._owned.add(key)
        if key not in self._owned:
            old = self._values[key]
            whole = old.shape if old.ndim else (len(self.wave),)
            self._values[key] = np.array(np.broadcast_to(old, whole))
            self._owned.add(key)
        self._values[key][self.blocks] = value
        self._mark(key, True)

    def _mark(self, key: object, defined: bool) -> None:
        if key not in self._defined and not defined:
            self._defined[key] = np.ones(len(self.wave), bool)
        if key in self._defined:
            self._defined[key][self.blocks] = defined

    # ---- global and shared tensors ----

    def bind_global(self, tensor: GlobalTensor, address: Array) -> None:
        """Give `tensor` its address; its extents and strides are evaluated now."""
        self._write((tensor, "address"), np.asarray(address, np.int64))
        for axis, (extent, stride) in enumerate(
            zip(tensor.shape, tensor.layout.strides, strict=True)
        ):
            self._write((tensor, "extent", axis), self._index(extent))
            self._write((tensor, "stride", axis), self._index(stride))

    def _index(self, expr: Expr | int) -> Array:
        value = self.scalar(expr) if isinstance(expr, Expr) else np.asarray(expr)
        return value.astype(np.int64)

    def global_ref(self, tensor: GlobalTensor) -> GlobalRef:
        axes = range(len(tensor.shape))
        return GlobalRef(
            self.value_of((tensor, "address")),
            tuple(self.value_of((tensor, "extent", a)) for a in axes),
            tuple(self.value_of((tensor, "stride", a)) for a in axes),
        )

    def allocate_shared(self, tensor: SharedTensor) -> None:
        """Give `tensor` storage in the active blocks, all of it unwritten."""
        assert tensor.layout is not None
        allocation = self._allocations.get(tensor)
        if allocation is None:
            allocation = SharedAllocation.create(
                tensor.name or "the shared tensor",
                tensor.dtype,
                len(self.wave),
                tensor.layout.storage_size,
            )
        else:
            allocation.reset(self.blocks)
        self._allocations[tensor] = allocation
        self._write((tensor, "base"), np.asarray(0, np.int64))

    def bind_shared(self, tensor: SharedTensor, parent: SharedTensor, base: Array) -> None:
        """Make `tensor` a part of `parent`, starting `base` elements into its storage."""
        self._allocations[tensor] = self._allocations[parent]
        self._parts.add(tensor)
        self._write((tensor, "base"), np.asarray(base, np.int64))

    def free_shared(self, tensor: SharedTensor) -> None:
        """End the life of the storage of `tensor`, which must be a whole allocation."""
        if tensor in self._parts:
            raise TilusError(
                "free_shared: only a whole shared tensor can be freed",
                found=f"a part or another shape of {self._allocations[tensor].name}",
                hint="free the tensor that shared_tensor made",
            )
        self.shared.free(self._allocations[tensor], self.blocks)

    def shared_ref(self, tensor: SharedTensor) -> SharedRef:
        assert tensor.layout is not None
        return SharedRef(self._allocations[tensor], tensor.layout, self.value_of((tensor, "base")))

    def read_shared(self, tensor: SharedTensor, access: Access) -> Array:
        return self.shared.read(self.shared_ref(tensor), self.blocks, access)

    def write_shared(
        self, tensor: SharedTensor, access: Access, values: Array, mask: Array | None = None
    ) -> None:
        """Store `values` (blocks, elements) at `access.offsets`, where `mask` holds."""
        self.shared.write(self.shared_ref(tensor), self.blocks, access, values, mask)

    def write_shared_async(self, tensor: SharedTensor, access: Access, values: Array) -> None:
        """Start a copy of `values` (blocks, elements) to `access.offsets`."""
        self.shared.write_async(self.shared_ref(tensor), self.blocks, access, values)

    # ---- execution ----

    def wait_until(self, ready: Array) -> None:
        """Let only the blocks where `ready` holds go on; the others try this instruction again
        later.
        """
        ready = np.broadcast_to(ready, (self.count,))
        if not ready.all():
            raise _Blocked(ready)

    def execute(self) -> None:
        _Scheduler(self, self._steps).run()


def spread(value: Array, rank: int) -> Array:
    """() or (blocks,) -> broadcastable against (blocks, *extents)."""
    return value if value.ndim == 0 else value.reshape((-1,) + (1,) * rank)


class _Scalars(Mapping[Var, Any]):
    """The variables of the active blocks, with axis variables in front of them."""

    def __init__(self, machine: Machine, axes: Mapping[Var, Array] | None = None, rank: int = 0):
        self._machine = machine
        self._axes = axes or {}
        self._rank = rank

    def __getitem__(self, var: Var) -> Array:
        if var in self._axes:
            return self._axes[var]
        if not self._machine.is_defined(var):
            raise TilusError(
                f"{var.name} is used before it has a value on this path",
                hint="assign it before the branch that leaves it out",
            )
        return spread(self._machine.value_of(var), self._rank)

    def __iter__(self) -> Any:
        return iter(self._axes)

    def __len__(self) -> int:
        return len(self._axes)


class _Scheduler:
    """Which blocks are at which step. The group furthest behind runs, unless it spins while others
    wait.
    """

    def __init__(self, machine: Machine, steps: Sequence[Step]):
        self.machine = machine
        self.steps = steps
        self.ready: dict[int, Array] = {0: machine.blocks}
        self.waiting: dict[int, Array] = {}
        self.actions = {Run: self._run, SetVar: self._set_var, Check: self._check, Jump: self._jump}
        self.spins = 0

    def run(self) -> None:
        while self.ready or self.waiting:
            if not self.ready:
                self._retry()
            pc = self._choose()
            blocks = self.ready.pop(pc)
            if pc < len(self.steps):
                self._step(pc, blocks)

    def _choose(self) -> int:
        order = sorted(self.ready)
        if self.spins > PATIENCE and len(order) > 1:
            self.spins = 0
            return order[-1]
        return order[0]

    def _step(self, pc: int, blocks: Array) -> None:
        step = self.steps[pc]
        self.machine.blocks = blocks
        with locate(step.location):
            self.actions[type(step)](pc, step)  # type: ignore[operator]

    def _arrive(self, pc: int, blocks: Array) -> None:
        if not len(blocks):
            return
        there = self.ready.get(pc)
        self.ready[pc] = blocks if there is None else np.sort(np.concatenate([there, blocks]))

    def _run(self, pc: int, step: Run) -> None:
        blocks = self.machine.blocks
        try:
            step.instruction.run(self.machine)
        except _Blocked as blocked:
            self._arrive(pc + 1, blocks[blocked.ready])
            left = blocks[~blocked.ready]
            before = self.waiting.get(pc)
            self.waiting[pc] = left if before is None else np.sort(np.concatenate([before, left]))
        else:
            self._arrive(pc + 1, blocks)

    def _retry(self) -> None:
        """Nobody can run: look at every semaphore again, and give up if none has moved."""
        waiting, self.waiting = self.waiting, {}
        for pc, blocks in waiting.items():
            self._step(pc, blocks)
        if not self.ready:
            raise self._deadlock()

    def _deadlock(self) -> TilusError:
        pc = min(self.waiting)
        wave = self.machine.wave
        stuck = ", ".join(str(int(wave[b])) for b in self.waiting[pc][:8])
        return TilusError(
            "deadlock: every block that has not finished waits for a semaphore",
            found=f"blocks {stuck} wait here",
            expected="another block that releases the semaphore with the awaited value",
            location=self.steps[pc].location,
            related=tuple(
                (location, "blocks wait here too")
                for other in sorted(self.waiting)[1:]
                if (location := self.steps[other].location) is not None
            ),
        )

    def _set_var(self, pc: int, step: SetVar) -> None:
        self.machine.set_scalar(step.var, self.machine.scalar(step.value))
        self._arrive(pc + 1, self.machine.blocks)

    def _check(self, pc: int, step: Check) -> None:
        holds = np.broadcast_to(self.machine.scalar(step.condition), (self.machine.count,))
        if not holds.all():
            block = int(self.machine.wave[self.machine.blocks[int(np.argmin(holds))]])
            raise TilusError(
                step.message,
                found=f"{step.condition} is False in block {block}",
                hint=step.hint,
            )
        self._arrive(pc + 1, self.machine.blocks)

    def _jump(self, pc: int, step: Jump) -> None:
        blocks = self.machine.blocks
        if step.target <= pc:
            self.spins += 1
        if step.condition is None:
            self._arrive(step.target, blocks)
            return
        holds = self.machine.scalar(step.condition).astype(bool)
        if holds.ndim == 0:
            self._arrive(pc + 1 if holds else step.target, blocks)
            return
        self._arrive(pc + 1, blocks[holds])
        self._arrive(step.target, blocks[~holds])
