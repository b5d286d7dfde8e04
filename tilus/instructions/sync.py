"""Order between threads and blocks, and layouts fixed by hand.

self.sync()                                  # the block's threads see each other's shared memory
self.lock_semaphore(ptr, value)              # wait until another block stored `value` at ptr
self.release_semaphore(ptr, value)           # let those that wait go on
self.arrive_semaphore(ptr)                   # how many blocks have been here before
self.annotate_layout(x, spatial(8, 4))       # a fact for layout inference, wherever it stands
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilus import dtypes
from tilus.errors import TilusError
from tilus.instructions.arguments import describe, expect
from tilus.ir.expr import Expr, Var, as_expr, cast
from tilus.ir.instruction import Effects, Instruction, Known, Proposal, Strength
from tilus.ir.layout import LayoutError, RegisterLayout, SharedLayout
from tilus.ir.tensor import RegisterTensor, SharedTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine


@dataclass(frozen=True, eq=False)
class Sync(Instruction, name="sync", effects=Effects.SYNC):
    @classmethod
    def build(cls) -> Sync:
        """Wait for all threads of the block; then each sees what the others wrote to shared memory.

        Example: `self.sync()`.
        """
        return cls()

    def run(self, machine: Machine) -> None:
        machine.shared.sync(machine.blocks)

    def emit(self, e: Emitter) -> None:
        e.sync()


@dataclass(frozen=True, eq=False)
class LockSemaphore(Instruction, name="lock_semaphore", effects=Effects.WAIT | Effects.READ_GLOBAL):
    ptr: Expr
    value: Expr

    @classmethod
    def build(cls, ptr: Any, value: Any) -> LockSemaphore:
        """Wait until the int32 at `ptr` equals `value`, then see what its releaser wrote.

        The interpreter raises `TilusError` where all blocks wait for each other.

        Example: `self.lock_semaphore(semaphores[i].item_ptr(), self.blockIdx.z)`.
        """
        return cls(expect(ptr, Expr, "lock_semaphore: ptr"), _value(value, "lock_semaphore"))

    def verify(self) -> None:
        _check_semaphore(self, self.ptr, self.value)

    def run(self, machine: Machine) -> None:
        address = machine.scalar(self.ptr)
        offset = np.zeros(address.shape or (1,), np.int64)
        found = machine.memory.gather(address, offset, dtypes.int32, None, "the semaphore")
        machine.wait_until(found == machine.scalar(self.value))

    def emit(self, e: Emitter) -> None:
        ptr, value = e.scalar(self.ptr), e.scalar(self.value)
        e(f"if (tid == 0) {e.use('wait_semaphore')}({ptr}, {value});")
        e.sync()


@dataclass(frozen=True, eq=False)
class ReleaseSemaphore(Instruction, name="release_semaphore", effects=Effects.WRITE_GLOBAL):
    ptr: Expr
    value: Expr

    @classmethod
    def build(cls, ptr: Any, value: Any) -> ReleaseSemaphore:
        """Store `value` to the int32 at `ptr`, after all that the block wrote before.

        Example: `self.release_semaphore(semaphores[i].item_ptr(), self.blockIdx.z + 1)`.
        """
        return cls(expect(ptr, Expr, "release_semaphore: ptr"), _value(value, "release_semaphore"))

    def verify(self) -> None:
        _check_semaphore(self, self.ptr, self.value)

    def run(self, machine: Machine) -> None:
        address, value = machine.scalar(self.ptr), machine.scalar(self.value)
        shape = (machine.count,)
        values = np.broadcast_to(value, shape)
        offset = np.zeros(shape, np.int64)
        machine.memory.scatter(address, offset, dtypes.int32, None, values, "the semaphore")

    def emit(self, e: Emitter) -> None:
        ptr, value = e.scalar(self.ptr), e.scalar(self.value)
        e.sync()
        e(f"if (tid == 0) {e.use('release_semaphore')}({ptr}, {value});")


@dataclass(frozen=True, eq=False)
class ArriveSemaphore(
    Instruction, name="arrive_semaphore", effects=Effects.READ_GLOBAL | Effects.WRITE_GLOBAL
):
    out: Var
    ptr: Expr

    @classmethod
    def build(cls, ptr: Any) -> ArriveSemaphore:
        """Add 1 to the int32 at `ptr`, after all that the block wrote before; gives the old value.

        The block that finds one less than the number of blocks is the last: it sees what the others
        wrote. Nobody waits. Whoever is last sets the int32 to 0 again, with `release_semaphore`.

        Example: `last = self.arrive_semaphore(counts[i].item_ptr()) == self.split - 1`.
        """
        pointer = expect(ptr, Expr, "arrive_semaphore: ptr")
        return cls(Var(dtypes.int32, "arrived"), pointer)

    def verify(self) -> None:
        _check_semaphore(self, self.ptr, as_expr(0))

    def run(self, machine: Machine) -> None:
        address = np.broadcast_to(machine.scalar(self.ptr), (machine.count,))
        one = np.ones(machine.count, np.int32)
        old = machine.memory.update(
            address, one * 0, dtypes.int32, None, lambda x, y: x + y[0], (one,), "the semaphore"
        )
        machine.set_scalar(self.out, old)

    def emit(self, e: Emitter) -> None:
        box = f"*reinterpret_cast<int*>({e.scratch(4)})"
        e.sync()
        e(f"if (tid == 0) {box} = {e.use('arrive_semaphore')}({e.scalar(self.ptr)});")
        e.sync()
        e(f"int {e.name(self.out)} = {box};")


def _value(value: Any, what: str) -> Expr:
    expr = as_expr(value, dtypes.int32)
    if not expr.dtype.is_integer():
        raise TilusError(f"{what}: value must be an integer", found=describe(expr))
    return cast(expr, dtypes.int32)


def _check_semaphore(instruction: Instruction, ptr: Expr, value: Expr) -> None:
    instruction.require(
        ptr.dtype.is_pointer() and ptr.dtype.pointee in (None, dtypes.int32, dtypes.uint32),
        "ptr must point to an int32",
        found=describe(ptr),
        expected="~int32 or void_p",
        hint="semaphores live in a global_tensor of int32: semaphores[i].item_ptr()",
    )
    instruction.require(
        value.dtype == dtypes.int32,
        "value must be an int32",
        found=describe(value),
    )


@dataclass(frozen=True, eq=False)
class AnnotateLayout(Instruction, name="annotate_layout"):
    """A fact about `tile`; it computes nothing."""

    tile: RegisterTensor | SharedTensor
    layout: RegisterLayout | SharedLayout

    @classmethod
    def build(cls, t: Any, layout: Any) -> AnnotateLayout:
        """Fix the layout of a register or shared tile for the whole program.

        Raises `TilusError` where the shapes differ, a register layout meets a shared tile or the
        reverse, and in layout inference where the layout is over another number of threads or an
        instruction needs another one.

        Example: `self.annotate_layout(acc, config.lc)`.
        """
        return cls(t, layout)

    def verify(self) -> None:
        kinds = {RegisterTensor: RegisterLayout, SharedTensor: SharedLayout}
        kind = kinds.get(type(self.tile))
        self.require(
            kind is not None,
            "only register and shared tiles have layouts to choose",
            found=describe(self.tile),
            hint="the layout of a global tensor is given by its strides: global_view(...)",
        )
        assert kind is not None
        self.require(
            isinstance(self.layout, kind),
            "the layout is of the wrong kind",
            found=f"{type(self.layout).__name__} for {self.tile}",
            expected=kind.__name__,
        )
        self.require(
            self.layout.shape == self.tile.shape,
            "the shape of the layout is not that of the tile",
            found=f"layout of {list(self.layout.shape)} for {self.tile}",
            expected=str(list(self.tile.shape)),
        )

    def layouts(self, known: Known) -> Iterator[Proposal]:
        layout = self.layout
        if isinstance(layout, RegisterLayout) and layout.num_threads != known.num_threads:
            raise LayoutError(
                "annotate_layout: the layout is over another number of threads",
                found=f"{layout.num_threads} threads",
                expected=f"{known.num_threads}, the threads that run this line",
                hint="self.attrs.warps sets the number of warps, of 32 threads each",
            )
        if known.layouts.get(self.tile, self.tile.layout) != layout:
            yield Proposal(self.tile, layout, Strength.MUST)

    def run(self, machine: Machine) -> None:
        pass  # a layout has no value

    def emit(self, e: Emitter) -> None:
        """A fact for layout inference, which has used it."""
