"""Dead code: drop what nobody can see.

a = load_global(...)      # never read
if True:                                        ->    store_global(...)
    store_global(...)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tilus.ir.expr import Const, Expr, as_int
from tilus.ir.instruction import Instruction, leaves
from tilus.ir.program import Program
from tilus.ir.stmt import Assign, Body, Declare, Do, For, If, Stmt, ThreadGroup, While
from tilus.ir.tensor import GlobalTensor
from tilus.ir.terms import variables
from tilus.ir.visit import expressions, rewrite, walk


@dataclass(frozen=True)
class DeadCode:
    """Removes unread results, variables nobody reads, and branches never taken."""

    name: str = "dead_code"

    def __call__(self, program: Program) -> Program:
        while True:
            result = _sweep(program)
            if result is program:
                return program
            program = result


def _sweep(program: Program) -> Program:
    read = _read(program)

    def visit(stmt: Stmt) -> Stmt | Body | None:
        if isinstance(stmt, Do):
            return None if _unread(stmt.instruction, read) else stmt
        if isinstance(stmt, (Declare, Assign)):
            return stmt if stmt.var in read else None
        if isinstance(stmt, If):
            return _branch(stmt)
        if isinstance(stmt, While) and stmt.condition == Const(stmt.condition.dtype, False):
            return None
        if isinstance(stmt, For) and (not stmt.body or _never_runs(stmt)):
            return None
        if isinstance(stmt, ThreadGroup) and not stmt.body:
            return None
        return stmt

    return rewrite(program, visit)


def _branch(stmt: If) -> Stmt | Body | None:
    if isinstance(stmt.condition, Const):
        return stmt.then if stmt.condition.value else stmt.otherwise
    return stmt if stmt.then or stmt.otherwise else None


def _never_runs(stmt: For) -> bool:
    start, stop, step = as_int(stmt.start), as_int(stmt.stop), as_int(stmt.step)
    return start is not None and stop is not None and bool(step) and not range(start, stop, step)


def _unread(instruction: Instruction, read: set[Any]) -> bool:
    results = list(leaves(instruction.result))
    return bool(results) and instruction.effects.removable and read.isdisjoint(results)


def _read(program: Program) -> set[Any]:
    """Every tensor and variable that something other than its own definition reads."""
    found: set[Any] = set()
    for stmt in walk(program.body):
        if isinstance(stmt, Do):
            instruction = stmt.instruction
            operands = list(instruction.reads())
            results = list(leaves(instruction.result))
            operands += [x for x in instruction.writes() if x not in results]
        else:
            own = getattr(stmt, "var", None)
            operands = [e for e in expressions(stmt) if e is not own]
        for operand in operands:
            _mark(operand, found)
    return found


def _mark(operand: Any, found: set[Any]) -> None:
    if isinstance(operand, Expr):
        found.update(variables(operand))
        return
    found.add(operand)
    if isinstance(operand, GlobalTensor):
        layout = operand.layout
        for extent in leaves((operand.shape, layout.shape, layout.mode_shape, layout.strides)):
            found.update(variables(extent))
