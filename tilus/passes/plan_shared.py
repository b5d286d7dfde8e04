"""Shared-memory planning: a byte offset in the block's arena for every shared tensor.

    a = shared_tensor()         a = shared_tensor(offset=0)
    ...                    ->   ...
    free_shared(a)              free_shared(a)
    b = shared_tensor()         b = shared_tensor(offset=0)      # a's bytes again

A tensor lives from its allocation to its free_shared, or to the end of the kernel; a loop or a
branch keeps alive what began before it. Tensors that live at one time do not overlap: first fit,
128-byte steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tilus.errors import Location, TilusError
from tilus.ir.instruction import Instruction
from tilus.ir.program import Program
from tilus.ir.stmt import Body, Do, For, If, Stmt, While
from tilus.ir.tensor import SharedTensor
from tilus.ir.visit import bodies, instructions, rewrite
from tilus.target import get_current_target

ALIGNMENT = 128  # bytes: one row of all 32 banks, and what a swizzle counts from


@dataclass(frozen=True)
class PlanShared:
    """Program with layouts -> program whose shared tensors have their place."""

    name: str = "plan_shared"

    def __call__(self, program: Program) -> Program:
        lives = _lives(program)
        offsets = _first_fit(lives)
        _check_capacity(program, lives, offsets)

        def place(stmt: Stmt) -> Stmt:
            if isinstance(stmt, Do) and stmt.instruction.allocates_shared:
                tensor = stmt.instruction.result
                assert isinstance(tensor, SharedTensor)
                placed = _placed(stmt.instruction, offsets[tensor])
                return replace(stmt, instruction=placed)
            return stmt

        return rewrite(program, place)


def _placed(allocation: Any, offset: int) -> Instruction:
    return replace(allocation, offset=offset)


def shared_bytes(program: Program) -> int:
    """The size of the block's arena, after planning."""
    total = 0
    for instruction in instructions(program):
        if instruction.allocates_shared:
            tensor = instruction.result
            assert isinstance(tensor, SharedTensor)
            total = max(total, _offset(instruction) + storage_bytes(tensor))
    return total


def _offset(allocation: Any) -> int:
    return allocation.offset or 0


def storage_bytes(tensor: SharedTensor) -> int:
    assert tensor.layout is not None
    return (tensor.layout.storage_size * tensor.dtype.nbits + 7) // 8


@dataclass(eq=False)
class _Life:
    tensor: SharedTensor
    nbytes: int
    begin: int
    end: int
    location: Location | None


def _lives(program: Program) -> list[_Life]:
    """When each shared tensor is alive, in positions of a walk through the program."""
    lives: dict[SharedTensor, _Life] = {}
    position = 0

    def visit(body: Body) -> None:
        nonlocal position
        for stmt in body:
            position += 1
            if isinstance(stmt, Do):
                instruct(stmt, stmt.instruction)
            begin = position
            for inner in bodies(stmt):
                visit(inner)
            if isinstance(stmt, (For, While, If)):
                # What is freed inside is needed again by the next iteration, or by the other
                # branch, unless it began inside.
                for life in lives.values():
                    if life.begin <= begin <= life.end:
                        life.end = max(life.end, position)

    def instruct(stmt: Do, instruction: Instruction) -> None:
        if instruction.allocates_shared:
            tensor = instruction.result
            assert isinstance(tensor, SharedTensor)
            lives[tensor] = _Life(tensor, storage_bytes(tensor), position, END, stmt.location)
        if instruction.frees_operand:
            for tensor in instruction.reads():
                if isinstance(tensor, SharedTensor) and tensor in lives:
                    lives[tensor].end = position

    visit(program.body)
    return list(lives.values())


END = 1 << 60  # alive to the end of the kernel


def _first_fit(lives: list[_Life]) -> dict[SharedTensor, int]:
    offsets: dict[SharedTensor, int] = {}
    placed: list[_Life] = []
    for life in lives:
        taken = sorted(
            (offsets[other.tensor], offsets[other.tensor] + other.nbytes)
            for other in placed
            if other.begin <= life.end and life.begin <= other.end
        )
        offset = 0
        for low, high in taken:
            if offset + life.nbytes <= low:
                break
            offset = max(offset, -(-high // ALIGNMENT) * ALIGNMENT)
        offsets[life.tensor] = offset
        placed.append(life)
    return offsets


def _check_capacity(program: Program, lives: list[_Life], offsets: dict[SharedTensor, int]) -> None:
    target = get_current_target()
    limit = target.properties.shared_memory_per_block
    total = max((offsets[life.tensor] + life.nbytes for life in lives), default=0)
    if total <= limit:
        return
    largest = max(lives, key=lambda life: life.nbytes)
    sizes = ", ".join(f"{life.tensor.name or 'a tensor'} {life.nbytes}" for life in lives)
    raise TilusError(
        f"{program.name} needs more shared memory than a block has",
        found=f"{total} bytes: {sizes}",
        expected=f"at most {limit} bytes on {target}",
        hint="use smaller tiles or fewer stages, or free_shared tensors that are no longer needed",
        location=largest.location,
    )
