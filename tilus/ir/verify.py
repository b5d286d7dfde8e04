"""The verifier: what must hold of every program, before and after each pass.

Each instruction checks its own operands; here is what concerns the program as a whole: names are
defined on every path before they are used, loops and thread groups are well formed, shared memory
is alive when touched. A violation is a `TilusError` at the statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tilus.errors import Location, TilusError, locate
from tilus.ir.expr import BUILTIN_VARS, Expr, as_int
from tilus.ir.instruction import Instruction, leaves
from tilus.ir.program import WARP_SIZE, Program
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
from tilus.ir.tensor import GlobalTensor, SharedTensor
from tilus.ir.terms import variables
from tilus.ir.visit import expressions


def verify(program: Program) -> None:
    """Raise `TilusError` at the first thing in `program` that is not legal."""
    _Verifier(program).run()


@dataclass
class _Loop:
    """What was freed on the paths that leave an iteration early."""

    freed_at_breaks: dict[SharedTensor, Location | None] = field(default_factory=dict)
    freed_at_continues: dict[SharedTensor, Location | None] = field(default_factory=dict)


class _Verifier:
    def __init__(self, program: Program):
        self.program = program
        self.defined: set[Any] = set(BUILTIN_VARS.values())
        self.loops: list[_Loop] = []  # those around the current statement
        self.threads = program.num_threads
        self.freed: dict[SharedTensor, Location | None] = {}
        self.roots: dict[SharedTensor, SharedTensor] = {}  # a slice -> the tensor it is part of
        self.checks: dict[type[Stmt], Callable[[Any], None]] = {
            Do: self.do,
            Declare: self.declare,
            Assign: self.assign,
            For: self.for_,
            While: self.while_,
            If: self.if_,
            Break: self.leave,
            Continue: self.leave,
            Return: self.return_,
            Assume: self.assume,
            ThreadGroup: self.thread_group,
        }

    def run(self) -> None:
        program = self.program
        with locate(program.location):
            self._params()
            for extent in program.blocks:
                self._grid_extent(extent)
        self.body(program.body)

    def _params(self) -> None:
        names: set[str] = set()
        for param in self.program.params:
            name = param.var.name
            if name in names:
                raise TilusError(f"two parameters are called {name}", hint="rename one")
            names.add(name)
            self.defined.add(param.var)

    def _grid_extent(self, extent: Expr) -> None:
        params = [p.var for p in self.program.params]
        unknown = [v.name for v in variables(extent) if v not in params]
        if unknown or not extent.dtype.is_integer():
            raise TilusError(
                "the grid must be an integer expression of the parameters",
                found=str(extent),
                expected=f"parameters: {', '.join(p.name for p in params)}",
            )

    def body(self, body: Body) -> None:
        for stmt in body:
            with locate(stmt.location):
                self._uses(stmt)
                check = self.checks.get(type(stmt))
                if check is not None:
                    check(stmt)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Definitions made inside end here; what was freed on any path stays freed."""
        outer = set(self.defined)
        try:
            yield
        finally:
            self.defined = outer

    # ---- statements ----

    def _uses(self, stmt: Stmt) -> None:
        if isinstance(stmt, Do):
            return  # an instruction may bind axes of its own: `do` looks at its fields
        for expr in expressions(stmt):
            if isinstance(stmt, (Declare, For)) and expr is stmt.var:
                continue
            self._require_defined(expr)

    def _require_defined(self, expr: Expr, own: frozenset[Any] = frozenset()) -> None:
        for var in variables(expr):
            if var not in self.defined and var not in own:
                raise TilusError(
                    f"{var.name} is used where it is not defined",
                    hint="define it on every path before this line",
                )

    def do(self, stmt: Do) -> None:
        instruction = stmt.instruction
        own = frozenset(instruction.bound_variables())
        for operand in instruction.reads():
            if isinstance(operand, Expr):
                if operand not in own:
                    self._require_defined(operand, own)
            else:
                self._require_tensor(operand, instruction)
        instruction.verify()
        self._writes(stmt)
        self._lifetime(stmt)

    def _require_tensor(self, tensor: Any, instruction: Instruction) -> None:
        if tensor not in self.defined:
            raise TilusError(
                f"{instruction.name}: {tensor.name or 'a tensor'} is used where it is not defined",
                found=str(tensor),
                hint="define it on every path before this line",
            )

    def _writes(self, stmt: Do) -> None:
        instruction = stmt.instruction
        results = list(leaves(instruction.result))
        for written in instruction.writes():
            is_result = written in results
            if not is_result:
                self._require_tensor(written, instruction)
            if isinstance(written, (SharedTensor, GlobalTensor)) and is_result:
                if isinstance(written, SharedTensor) and written in self.freed:
                    del self.freed[written]
                self._extents_defined(written)
            self.defined.add(written)

    def _extents_defined(self, tensor: SharedTensor | GlobalTensor) -> None:
        if isinstance(tensor, GlobalTensor):
            layout = tensor.layout
            for extent in leaves((tensor.shape, layout.shape, layout.mode_shape, layout.strides)):
                self._require_defined(extent)

    def _lifetime(self, stmt: Do) -> None:
        """Shared memory is not touched after it was freed, nor freed twice."""
        instruction = stmt.instruction
        sources = [x for x in instruction.reads() if isinstance(x, SharedTensor)]
        targets = [x for x in instruction.writes() if isinstance(x, SharedTensor)]
        out = instruction.result
        if isinstance(out, SharedTensor) and sources:
            self.roots[out] = self._root(sources[0])
        for tensor in (*sources, *(t for t in targets if t is not out)):
            self._require_alive(tensor, instruction)
        if instruction.frees_operand:
            for tensor in sources:
                self.freed[self._root(tensor)] = stmt.location

    def _root(self, tensor: SharedTensor) -> SharedTensor:
        return self.roots.get(tensor, tensor)

    def _require_alive(self, tensor: SharedTensor, instruction: Instruction) -> None:
        root = self._root(tensor)
        if root not in self.freed:
            return
        place = self.freed[root]
        what = "freed twice" if instruction.frees_operand else "used after it was freed"
        raise TilusError(
            f"the shared tensor {root.name} is {what}",
            hint="move free_shared behind the last use, on every path",
            related=() if place is None else ((place, "freed here"),),
        )

    def declare(self, stmt: Declare) -> None:
        self._same_type(stmt)
        self.defined.add(stmt.var)

    def assign(self, stmt: Assign) -> None:
        self._same_type(stmt)

    def _same_type(self, stmt: Declare | Assign) -> None:
        if stmt.value.dtype != stmt.var.dtype:
            raise TilusError(
                f"the value of {stmt.var.name} has another type",
                found=f"{stmt.value.dtype} {stmt.value}",
                expected=str(stmt.var.dtype),
                hint=f"write cast(..., {stmt.var.dtype})",
            )

    def for_(self, stmt: For) -> None:
        if as_int(stmt.step) == 0:
            raise TilusError("the step of a loop is 0", hint="the loop would never end")
        for bound in (stmt.start, stmt.stop, stmt.step):
            if bound.dtype != stmt.var.dtype:
                raise TilusError(
                    "the bounds and the variable of a loop have one type",
                    found=f"{bound.dtype} {bound}",
                    expected=str(stmt.var.dtype),
                )
        with self.scope():
            self.defined.add(stmt.var)
            self._loop(stmt.body)

    def while_(self, stmt: While) -> None:
        self._condition(stmt.condition)
        self._loop(stmt.body)

    def _loop(self, body: Body) -> None:
        before = dict(self.freed)
        loop = _Loop()
        self.loops.append(loop)
        self._iteration(body, loop)
        if any(t in self.defined and t not in before for t in self.freed):
            self._iteration(body, loop)  # the next one meets what this one freed
        self.loops.pop()
        self.freed = {**before, **self.freed, **loop.freed_at_breaks}

    def _iteration(self, body: Body, loop: _Loop) -> None:
        with self.scope():
            self.body(body)
        self.freed = {**self.freed, **loop.freed_at_continues}

    def if_(self, stmt: If) -> None:
        self._condition(stmt.condition)
        before = dict(self.freed)
        with self.scope():
            self.body(stmt.then)
        after_then, self.freed = self.freed, before
        with self.scope():
            self.body(stmt.otherwise)
        self.freed = {**after_then, **self.freed}

    def _condition(self, condition: Expr) -> None:
        if condition.dtype.kind != "bool":
            raise TilusError("a condition is a boolean", found=f"{condition.dtype} {condition}")

    def assume(self, stmt: Assume) -> None:
        self._condition(stmt.condition)

    def leave(self, stmt: Break | Continue) -> None:
        if not self.loops:
            word = type(stmt).__name__.lower()
            raise TilusError(f"{word} outside a loop", hint="use return to end the block")
        loop = self.loops[-1]
        is_break = isinstance(stmt, Break)
        (loop.freed_at_breaks if is_break else loop.freed_at_continues).update(self.freed)
        self.freed = {}  # no path leads to the next statement

    def return_(self, stmt: Return) -> None:
        self.freed = {}

    def thread_group(self, stmt: ThreadGroup) -> None:
        whole_warps = stmt.begin % WARP_SIZE == 0 and stmt.count % WARP_SIZE == 0
        inside = stmt.begin >= 0 and stmt.count > 0 and stmt.begin + stmt.count <= self.threads
        if not inside or not (whole_warps or stmt.count == 1):
            raise TilusError(
                "the thread group does not fit",
                found=f"{stmt.count} threads from thread {stmt.begin}",
                expected=f"one thread, or whole warps of 32, of the {self.threads} threads here",
            )
        outer, self.threads = self.threads, stmt.count
        with self.scope():
            self.body(stmt.body)
        self.threads = outer
