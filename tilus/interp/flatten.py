"""Structured statements to a list of steps with jumps, so that a block's whole control state is one
number.

    for i in range(0, n):  ->    0: i = 0
        body                     1: unless i < n jump 5
                                 2: body
                                 3: i = i + 1
                                 4: jump 1
                                 5: ...

Blocks that took different ways meet again by themselves when the machine always runs those that are
furthest behind.
"""

from __future__ import annotations

from dataclasses import dataclass

from tilus.errors import Location
from tilus.ir.expr import Const, Expr, Var, apply, as_int
from tilus.ir.instruction import Instruction
from tilus.ir.stmt import (
    Assign,
    Assume,
    Body,
    Break,
    Continue,
    Declare,
    Do,
    For,
    If,
    Return,
    Stmt,
    ThreadGroup,
    While,
)


@dataclass(eq=False)
class Step:
    location: Location | None


@dataclass(eq=False)
class Run(Step):
    instruction: Instruction


@dataclass(eq=False)
class SetVar(Step):
    var: Var
    value: Expr


@dataclass(eq=False)
class Check(Step):
    """Stop with an error unless `condition` holds."""

    condition: Expr
    message: str
    hint: str


@dataclass(eq=False)
class Jump(Step):
    """Go to `target`, or only where `condition` is False (None: always)."""

    target: int
    condition: Expr | None = None


@dataclass(eq=False)
class _Loop:
    breaks: list[Jump]
    continues: list[Jump]


class _Flattener:
    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.loops: list[_Loop] = []
        self.returns: list[Jump] = []
        self.emitters = {
            Do: self.do,
            Declare: self.set_var,
            Assign: self.set_var,
            For: self.for_,
            While: self.while_,
            If: self.if_,
            Break: self.break_,
            Continue: self.continue_,
            Return: self.return_,
            Assume: self.assume,
            ThreadGroup: self.thread_group,
        }

    def body(self, body: Body) -> None:
        for stmt in body:
            self.emitters[type(stmt)](stmt)  # type: ignore[operator]

    def do(self, stmt: Do) -> None:
        self.steps.append(Run(stmt.location, stmt.instruction))

    def set_var(self, stmt: Declare | Assign) -> None:
        self.steps.append(SetVar(stmt.location, stmt.var, stmt.value))

    def assume(self, stmt: Assume) -> None:
        hint = "correct the assume, or the arguments of the launch"
        self.steps.append(Check(stmt.location, stmt.condition, "an assumption does not hold", hint))

    def thread_group(self, stmt: ThreadGroup) -> None:
        self.body(stmt.body)

    def for_(self, stmt: For) -> None:
        # The bounds are evaluated once, as Python's range does.
        stop = self._once(stmt, stmt.stop, "stop")
        step = self._once(stmt, stmt.step, "step")
        self.steps.append(SetVar(stmt.location, stmt.var, stmt.start))
        forward = as_int(step)
        if forward is None:
            self.steps.append(
                Check(
                    stmt.location,
                    apply("ne", step, 0),
                    "the step of a range is 0",
                    "the loop would never end",
                )
            )
            below, above = apply("lt", stmt.var, stop), apply("gt", stmt.var, stop)
            condition: Expr = apply("where", apply("gt", step, 0), below, above)
        else:
            condition = apply("lt" if forward > 0 else "gt", stmt.var, stop)
        advance = SetVar(stmt.location, stmt.var, apply("add", stmt.var, step))
        self._loop(stmt, condition, stmt.body, advance)

    def _once(self, stmt: Stmt, value: Expr, name: str) -> Expr:
        if isinstance(value, Const):
            return value
        var = Var(value.dtype, name)
        self.steps.append(SetVar(stmt.location, var, value))
        return var

    def while_(self, stmt: While) -> None:
        self._loop(stmt, stmt.condition, stmt.body, None)

    def _loop(self, stmt: Stmt, condition: Expr, body: Body, advance: Step | None) -> None:
        head = len(self.steps)
        leave = Jump(stmt.location, 0, condition)
        self.steps.append(leave)
        loop = _Loop([leave], [])
        self.loops.append(loop)
        self.body(body)
        self.loops.pop()
        self.land(loop.continues)
        if advance is not None:
            self.steps.append(advance)
        self.steps.append(Jump(stmt.location, head))
        self.land(loop.breaks)

    def if_(self, stmt: If) -> None:
        skip = Jump(stmt.location, 0, stmt.condition)
        self.steps.append(skip)
        self.body(stmt.then)
        if stmt.otherwise:
            end = Jump(stmt.location, 0)
            self.steps.append(end)
            self.land([skip])
            self.body(stmt.otherwise)
            self.land([end])
        else:
            self.land([skip])

    def break_(self, stmt: Break) -> None:
        self.loops[-1].breaks.append(self._jump(stmt))

    def continue_(self, stmt: Continue) -> None:
        self.loops[-1].continues.append(self._jump(stmt))

    def return_(self, stmt: Return) -> None:
        self.returns.append(self._jump(stmt))

    def _jump(self, stmt: Stmt) -> Jump:
        jump = Jump(stmt.location, 0)
        self.steps.append(jump)
        return jump

    def land(self, jumps: list[Jump]) -> None:
        for jump in jumps:
            jump.target = len(self.steps)


def flatten(body: Body) -> list[Step]:
    """The steps of `body`; running past the last one ends the block."""
    flattener = _Flattener()
    flattener.body(body)
    flattener.land(flattener.returns)
    return flattener.steps
