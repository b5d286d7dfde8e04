"""Basic blocks of a kernel, each translated once to a Python function.

    def block(m):                 # instructions 5 to 7, whose actions and operands are bound
        m.pc = 5
        a5(m, i5)
        m.pc = 6
        m.guarded(a6, i6)         # @%p1 ...
        m.pc = 7
        m.branch(a7, i7)          # @%p2 bra ...
        m.arrive(8, m.lanes)

A block ends where lanes may part, stop or meet. Source: PTX ISA, "Control Flow Instructions".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilus.errors import TilusError
from tilus.ptx.syntax import Instruction, Kernel

if TYPE_CHECKING:
    from tilus.ptx.machine import Machine

Action = Callable[["Machine", Instruction], None]
PARTING = ("bra", "ret", "exit", "bar", "barrier", "trap")
# What all threads of a warp execute together, or those that a mask names.
TOGETHER = (
    "mma", "ldmatrix", "stmatrix", "movmatrix", "shfl", "vote", "match", "redux", "elect",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Block:
    """Instructions `start` to `end` - 1; the lanes that enter execute all of them."""

    start: int
    end: int
    run: Callable[[Machine], None]


def translate(kernel: Kernel, actions: Mapping[str, Action]) -> dict[int, Block]:
    """The basic blocks by their first instruction; one past the last instruction has none."""
    starts = sorted(set(_leaders(kernel)))
    ends = [*starts[1:], len(kernel.instructions)]
    return {
        start: Block(start, end, _function(kernel, start, end, actions))
        for start, end in zip(starts, ends, strict=True)
    }


def meetings(kernel: Kernel, blocks: Mapping[int, Block]) -> frozenset[int]:
    """The blocks, by first instruction, in which the threads of a warp act together."""
    return frozenset(
        start
        for start, block in blocks.items()
        if any(_together(op) for op in kernel.instructions[start : block.end])
    )


def _together(op: Instruction) -> bool:
    return op.opcode in TOGETHER or (op.opcode == "bar" and op.has("warp"))


def _leaders(kernel: Kernel) -> Iterator[int]:
    count = len(kernel.instructions)
    yield from (n for n in (0, *kernel.labels.values()) if n < count)
    for number, instruction in enumerate(kernel.instructions, 1):
        if instruction.opcode in PARTING and number < count:
            yield number


def _function(
    kernel: Kernel, start: int, end: int, actions: Mapping[str, Action]
) -> Callable[[Machine], None]:
    names: dict[str, Any] = {}
    lines = ["def block(m):"]
    for number in range(start, end):
        instruction = kernel.instructions[number]
        names[f"a{number}"] = actions.get(instruction.opcode, _unknown)
        names[f"i{number}"] = instruction
        lines += [f"    m.pc = {number}", f"    {_call(instruction, number)}"]
    lines.append(f"    m.arrive({end}, m.lanes)")
    exec("\n".join(lines), names)
    return names["block"]


def _call(instruction: Instruction, number: int) -> str:
    if instruction.predicate is None:
        return f"a{number}(m, i{number})"
    method = "branch" if instruction.opcode in PARTING else "guarded"
    return f"m.{method}(a{number}, i{number})"


def _unknown(m: Machine, instruction: Instruction) -> None:
    raise TilusError(
        f"the PTX instruction {instruction.name} is not emulated",
        found=f"{instruction.text} (PTX line {instruction.line})",
    )
