"""The whole statement grammar.

    body      := statement*
    statement :=
        Do(instruction)                             a tile instruction
      | Declare(var, value) | Assign(var, value)    scalar variables
      | For(var, start, stop, step, body, unroll) | While(condition, body)
      | If(condition, then, otherwise)
      | Break | Continue | Return
      | Assume(condition)                           a promise about scalars, checked when run
      | ThreadGroup(begin, count, body)             run by some of the block's threads

Every statement carries the place in the user's program that it came from.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tilus.errors import Location
from tilus.ir.expr import Expr, Var
from tilus.ir.instruction import Instruction


@dataclass(frozen=True, eq=False)
class Stmt:
    location: Location | None = field(default=None, kw_only=True)


Body = tuple[Stmt, ...]


@dataclass(frozen=True, eq=False)
class Do(Stmt):
    instruction: Instruction


@dataclass(frozen=True, eq=False)
class Declare(Stmt):
    var: Var
    value: Expr


@dataclass(frozen=True, eq=False)
class Assign(Stmt):
    var: Var
    value: Expr


@dataclass(frozen=True, eq=False)
class For(Stmt):
    """`unroll`: None leaves it to the compiler, 0 unrolls wholly, n > 0 unrolls n times."""

    var: Var
    start: Expr
    stop: Expr
    step: Expr
    body: Body
    unroll: int | None = None


@dataclass(frozen=True, eq=False)
class While(Stmt):
    condition: Expr
    body: Body


@dataclass(frozen=True, eq=False)
class If(Stmt):
    condition: Expr
    then: Body
    otherwise: Body = ()


@dataclass(frozen=True, eq=False)
class Break(Stmt):
    pass


@dataclass(frozen=True, eq=False)
class Continue(Stmt):
    pass


@dataclass(frozen=True, eq=False)
class Return(Stmt):
    pass


@dataclass(frozen=True, eq=False)
class Assume(Stmt):
    condition: Expr


@dataclass(frozen=True, eq=False)
class ThreadGroup(Stmt):
    begin: int
    count: int
    body: Body
