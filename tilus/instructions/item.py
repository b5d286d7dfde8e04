"""Single elements as scalars: the value of a register tile, the address of a global tensor.

    value = x.item()                  # the one element of a register tile, as a scalar
    pointer = g[i, j].item_ptr()      # the address of one element

Both are known to the whole block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilus.codegen.scalar import scalar_type
from tilus.instructions.arguments import expect
from tilus.ir.expr import Var, as_int
from tilus.ir.instruction import Instruction, Known, Proposal, Strength
from tilus.ir.layout import replicated
from tilus.ir.tensor import GlobalTensor, RegisterTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine


@dataclass(frozen=True, eq=False)
class Item(Instruction, name="item", methods=((RegisterTensor, "item"),)):
    out: Var
    x: RegisterTensor

    @classmethod
    def build(cls, x: Any) -> Item:
        """The element of a register tile of size 1 as a scalar, known to the whole block.

        Example: `total = self.sum(x).item()`.
        """
        tile = expect(x, RegisterTensor, "item: x", hint="load it first: self.load_global(...)")
        return cls(Var(tile.dtype, "item"), tile)

    def verify(self) -> None:
        self.require(
            self.x.size == 1,
            "only a tile of one element is a scalar",
            found=str(self.x),
            expected="a tile of size 1",
            hint="reduce it first, for example with self.sum(x)",
        )
        self.require(
            self.out.dtype == self.x.dtype,
            "the dtype changes",
            found=f"{self.x.dtype} to {self.out.dtype}",
        )

    def layouts(self, known: Known) -> Iterator[Proposal]:
        if known.register(self.x) is None:
            everywhere = replicated(*self.x.shape, num_workers=known.num_threads)
            yield Proposal(self.x, everywhere, Strength.SHOULD)

    def run(self, machine: Machine) -> None:
        machine.set_scalar(self.out, machine[self.x].reshape(-1))

    def emit(self, e: Emitter) -> None:
        layout = self.x.layout
        assert layout is not None
        self.require(
            layout.replication == layout.num_threads,
            "some threads do not hold the element",
            found=str(layout),
            expected="a layout replicated over the whole block",
            hint="load the element with load_global, or reduce to it",
        )
        e(f"{scalar_type(self.out.dtype)} {e.name(self.out)} = {e.get(self.x, '0')};")


@dataclass(frozen=True, eq=False)
class ItemPtr(Instruction, name="item_ptr", methods=((GlobalTensor, "item_ptr"),)):
    out: Var
    x: GlobalTensor

    @classmethod
    def build(cls, x: Any) -> ItemPtr:
        """The address of a global tensor of one element, as a pointer to its dtype.

        Example: `self.lock_semaphore(semaphores[i, j].item_ptr(), 1)`.
        """
        tensor = expect(x, GlobalTensor, "item_ptr: x")
        return cls(Var(~tensor.dtype, "pointer"), tensor)

    def verify(self) -> None:
        self.require(
            all(as_int(extent) == 1 for extent in self.x.shape),
            "only a tensor of one element has an item",
            found=str(self.x),
            expected="extents of 1",
            hint="index it first: g[i, j].item_ptr()",
        )
        self.require(
            self.out.dtype == ~self.x.dtype,
            "the pointer is of another type",
            found=str(self.out.dtype),
            expected=str(~self.x.dtype),
        )

    def run(self, machine: Machine) -> None:
        machine.set_scalar(self.out, machine.global_ref(self.x).address)

    def emit(self, e: Emitter) -> None:
        e(f"uint8_t* {e.name(self.out)} = {e.name(self.x)};")
