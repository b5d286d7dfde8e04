"""Statements of a kernel: one method per AST node, and the binding of names."""

from __future__ import annotations

import ast
from typing import Any

from tilus.dtypes import DataType
from tilus.errors import TilusError, locate
from tilus.instructions.elementwise import AssignTile
from tilus.ir.expr import Expr, Var, apply, as_expr, as_int
from tilus.ir.program import Param
from tilus.ir.stmt import Assign, Break, Continue, For, If, Return, Stmt, ThreadGroup, While
from tilus.ir.tensor import GlobalTensor, RegisterTensor, SharedTensor
from tilus.ir.terms import substitute, variables
from tilus.lang import values
from tilus.lang.context import (
    TENSORS,
    HostBreak,
    HostContinue,
    InlineReturn,
    as_scalar,
    call_host,
    host_items,
    unpack,
    unpacked,
    unsupported,
    values_text,
)
from tilus.lang.expressions import Expressions
from tilus.lang.scope import Scope
from tilus.lang.source import assigned_names
from tilus.syntax import parse


class Statements(Expressions):
    """Turns statements into those of the program."""

    # ---- statements ----

    def statements(self, nodes: list[ast.stmt]) -> None:
        for node in nodes:
            self.location = self.frame.source.location(node)
            with locate(self.location):
                handler = getattr(self, f"stmt_{type(node).__name__}", None)
                if handler is None:
                    raise unsupported(node)
                handler(node)

    def stmt_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.expr(node.value)

    def stmt_Pass(self, node: ast.Pass) -> None:
        pass

    def stmt_Assign(self, node: ast.Assign) -> None:
        value = self.expr(node.value)
        for target in node.targets:
            self.assign(target, value)

    def stmt_AnnAssign(self, node: ast.AnnAssign) -> None:
        if not isinstance(node.target, ast.Name) or node.value is None:
            raise TilusError(
                "an annotation needs a name and a value", expected="name: dtype = value"
            )
        annotation = self._annotation(node.annotation)
        value = self.expr(node.value)
        if not isinstance(annotation, DataType):
            self.assign(node.target, value)
            return
        name = node.target.id
        if self.scope.find(name) is not None:
            raise TilusError(f"{name} is bound already", hint="annotate the first binding only")
        if isinstance(value, TENSORS):
            raise TilusError(
                f"{name} is annotated as a scalar", found=str(value), expected=str(annotation)
            )
        self.scope.bind(
            name, self._declare(name, as_scalar(value, annotation), annotation), self.location
        )

    def stmt_AugAssign(self, node: ast.AugAssign) -> None:
        load = ast.copy_location(_as_load(node.target), node.target)
        binary = ast.copy_location(ast.BinOp(left=load, op=node.op, right=node.value), node)
        self.assign(node.target, self.expr(binary))

    def assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self.assign_name(target.id, value)
        elif isinstance(target, (ast.Tuple, ast.List)):
            self.assign_tuple(target, value)
        elif isinstance(target, ast.Attribute):
            self.assign_attribute(target, value)
        elif isinstance(target, ast.Subscript):
            self.assign_item(target, value)
        else:
            raise unsupported(target)

    def assign_name(self, name: str, value: Any) -> None:
        owner = self.scope.find(name)
        if owner is None:
            self.scope.bind(name, self._first_binding(name, value), self.location)
            return
        old = owner.names[name]
        if isinstance(old, Var):
            self._assign_var(name, old, value)
        elif isinstance(old, RegisterTensor):
            self._assign_tile(name, old, value)
        elif isinstance(old, TENSORS):
            raise TilusError(
                f"{name} is bound to a tensor in memory already",
                found=str(old),
                hint="give the new one another name",
            )
        else:
            self._rebind_host(name, owner, value)

    def _first_binding(self, name: str, value: Any) -> Any:
        if isinstance(value, Expr):
            return self._declare(name, value, value.dtype)
        if isinstance(value, RegisterTensor) and self._is_bound(value):
            return self._copy(name, value)  # a later `y = ...` must leave the x of `y = x` alone
        if isinstance(value, TENSORS) and not value.name:
            value.name = name
        return value

    def _is_bound(self, tile: RegisterTensor) -> bool:
        """True where a name, or a host list that has one, stands for the tile already."""
        for frame in self.frames:
            scope: Scope | None = frame.scope
            while scope is not None:
                if any(_holds(value, tile) for value in scope.names.values()):
                    return True
                scope = scope.parent
        return False

    def _assign_var(self, name: str, var: Var, value: Any) -> None:
        if var not in self.mutable:
            raise TilusError(
                f"the loop variable {name} cannot be assigned",
                hint="use a while loop, or another name",
            )
        if isinstance(value, TENSORS):
            raise TilusError(
                f"{name} is a scalar variable", found=str(value), expected=f"a {var.dtype} scalar"
            )
        self.initial.pop(var, None)
        self.emit(Assign(var, as_scalar(value, var.dtype), location=self.location))

    def _assign_tile(self, name: str, tile: RegisterTensor, value: Any) -> None:
        if value is tile:
            return
        if not isinstance(value, RegisterTensor):
            raise TilusError(
                f"{name} is bound to a register tile",
                found=values_text(value),
                expected=str(tile),
                hint="use another name",
            )
        self.emit_instruction(AssignTile(tile, value))

    def _rebind_host(self, name: str, owner: Scope, value: Any) -> None:
        if owner is not self.scope:
            raise TilusError(
                f"{name} is a compile-time constant, and this line runs inside a "
                f"{self.scope.kind} of the kernel",
                found=f"{name} = {values_text(owner.names[name])} outside",
                expected="a variable of the kernel",
                hint=_declaration_hint(name, value),
            )
        self.scope.bind(name, self._first_binding(name, value), self.location)

    def assign_tuple(self, target: ast.Tuple | ast.List, value: Any) -> None:
        items = unpacked(target, value)
        # All are read before any is written, so that `a, b = b, a` swaps.
        if any(isinstance(e, ast.Name) and self.scope.find(e.id) for e in target.elts):
            items = [
                self._copy("swap", v) if isinstance(v, (Expr, RegisterTensor)) else v for v in items
            ]
        for element, item in zip(target.elts, items, strict=True):
            self.assign(element, item)

    def assign_attribute(self, target: ast.Attribute, value: Any) -> None:
        if ast.unparse(target).startswith("self.attrs.") and self.depth > 0:
            raise TilusError(
                f"{ast.unparse(target)} is set inside a {self.scope.kind} of the kernel",
                expected="one value for the whole launch, known before it runs",
                hint="set it at the beginning of the kernel",
            )
        if ast.unparse(target) == "self.attrs.blocks":
            self.attrs.blocks = self._blocks(value)
        elif ast.unparse(target) == "self.attrs.warps":
            self.attrs.warps = self._host_int(value, "self.attrs.warps", 1, 32)
        else:
            raise TilusError(
                f"{ast.unparse(target)} cannot be assigned in a kernel",
                expected="self.attrs.blocks or self.attrs.warps",
                hint="set attributes of self in __init__",
            )

    def _blocks(self, value: Any) -> tuple[Expr, ...]:
        items = value if isinstance(value, (tuple, list)) else (value,)
        if not 1 <= len(items) <= 3:
            raise TilusError(
                "a grid has one to three dimensions", found=f"{len(items)}", expected="[x, y, z]"
            )
        return tuple(self._grid_extent(item) for item in items)

    def _grid_extent(self, value: Any) -> Expr:
        expr = as_scalar(value, None)
        for _ in range(len(self.initial) + 1):  # a name may be defined by other names
            expr = substitute(expr, self.initial)
        known = {f.var for f in self._params()}
        unknown = [v.name for v in variables(expr) if v not in known]
        if unknown or not expr.dtype.is_integer():
            raise TilusError(
                "the grid must be an integer expression of the kernel's parameters",
                found=str(expr),
                expected="for example self.attrs.blocks = [tilus.utils.cdiv(m, 16), 4]",
            )
        if (as_int(expr) or 0) < 0:
            raise TilusError(
                "the grid has a negative extent", found=str(expr), expected="0 or more blocks"
            )
        return expr

    def _params(self) -> list[Param]:
        return [
            Param(v)
            for v in self.frames[0].scope.names.values()
            if isinstance(v, Var) and v not in self.mutable
        ]

    def _host_int(self, value: Any, what: str, low: int, high: int) -> int:
        number = as_int(value)
        if number is None or not low <= number <= high:
            raise TilusError(
                f"{what} must be a compile-time integer in {low}..{high}",
                found=values_text(value),
                expected=f"{low}..{high}",
            )
        return number

    def assign_item(self, target: ast.Subscript, value: Any) -> None:
        container = self.expr(target.value)
        if isinstance(container, GlobalTensor):
            raise TilusError(
                "a global tensor is stored to, not assigned",
                hint="use self.store_global(g, x, offsets=[...])",
            )
        if isinstance(container, SharedTensor):
            raise TilusError(
                "a shared tensor is stored to, not assigned", hint="use self.store_shared(s, x)"
            )
        if isinstance(container, (list, dict)):
            index = self.expr(target.slice)
            old = container[index] if isinstance(container, list) or index in container else None
            if isinstance(old, RegisterTensor):
                self._assign_tile(f"element {index!r}", old, value)
                return
        raise TilusError(
            "this element cannot be assigned",
            found=f"{ast.unparse(target)}, of {values_text(container)}",
            expected="an element of a host list that is a register tile",
        )

    def stmt_If(self, node: ast.If) -> None:
        condition = self._condition(node.test)
        if isinstance(condition, bool):
            self.statements(node.body if condition else node.orelse)
            return
        place = self.location
        with self.nested("branch") as then:
            self.statements(node.body)
        with self.nested("branch") as otherwise:
            self.statements(node.orelse)
        self._forget_assigned(node)
        self.emit(If(condition, tuple(then), tuple(otherwise), location=place))

    def _forget_assigned(self, node: ast.AST) -> None:
        """Variables assigned in a branch or loop no longer have their declared value."""
        for name in assigned_names(node):
            owner = self.scope.find(name)
            if owner is not None and isinstance(owner.names[name], Var):
                self.initial.pop(owner.names[name], None)

    def stmt_For(self, node: ast.For) -> None:
        if node.orelse:
            raise TilusError(
                "a for loop of a kernel has no else", hint="use a variable and an if after the loop"
            )
        iterable = self._iterable(node.iter)
        if not isinstance(iterable, values.LoopRange):
            self._host_loop(node, iterable)
            return
        if not isinstance(node.target, ast.Name):
            raise TilusError(
                "a run-time loop has one loop variable",
                found=ast.unparse(node.target),
                expected="a name",
            )
        place = self.location
        self._forget_assigned(node)
        var = Var(iterable.start.dtype, node.target.id)
        with self.nested("loop") as body:
            self.scope.bind(var.name, var, place)
            self.statements(node.body)
        self.emit(
            For(
                var,
                iterable.start,
                iterable.stop,
                iterable.step,
                tuple(body),
                iterable.unroll,
                location=place,
            )
        )

    def _iterable(self, node: ast.expr) -> Any:
        """`range(...)` of a for statement is a run-time loop; every other iterable is a host
        value.
        """
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and self._is_builtin(node.func, range)
        ):
            args, kwargs = self.arguments(node)
            return build_range(args, kwargs)
        return self.expr(node)

    def _is_builtin(self, node: ast.Name, function: Any) -> bool:
        return (
            self.scope.find(node.id) is None
            and self.frame.source.namespace.get(node.id) is function
        )

    def _host_loop(self, node: ast.For, iterable: Any) -> None:
        items = host_items(iterable)
        self.frame.host_loops.append(self.depth)
        try:
            for item in items:
                # The targets are plain names for the items: nothing is copied.
                for name, part in unpack(node.target, item):
                    self.scope.bind(name.id, part, self.location)
                try:
                    self.statements(node.body)
                except HostContinue:
                    continue
                except HostBreak:
                    break
        finally:
            self.frame.host_loops.pop()

    def stmt_While(self, node: ast.While) -> None:
        if node.orelse:
            raise TilusError(
                "a while loop of a kernel has no else",
                hint="use a variable and an if after the loop",
            )
        place = self.location
        self._forget_assigned(node)
        with self.nested("loop") as body:
            condition = self._condition(node.test)
            if condition is False:
                return
            if body and isinstance(condition, Expr):
                # Instructions of the condition run again in every iteration, so they are inside.
                leave = (Break(location=place),)
                self.emit(If(apply("not", condition), leave, (), location=place))
                condition = True
            self.statements(node.body)
        self.emit(While(as_expr(condition), tuple(body), location=place))

    def stmt_Break(self, node: ast.Break) -> None:
        self._leave_loop("break", HostBreak, Break(location=self.location))

    def stmt_Continue(self, node: ast.Continue) -> None:
        self._leave_loop("continue", HostContinue, Continue(location=self.location))

    def _leave_loop(self, word: str, host: type[Exception], stmt: Stmt) -> None:
        loops = self.frame.host_loops
        if not loops or self._inside_run_time_loop(loops[-1]):
            self.emit(stmt)
        elif loops[-1] == self.depth:
            raise host
        else:
            raise TilusError(
                f"{word} leaves a compile-time loop from inside a run-time branch",
                hint="use self.range(...) for the loop, or a condition known at compile time",
            )

    def _inside_run_time_loop(self, depth: int) -> bool:
        """True where a run-time loop was opened inside the innermost compile-time loop."""
        scope: Scope | None = self.scope
        for _ in range(self.depth - depth):
            assert scope is not None
            if scope.kind == "loop":
                return True
            scope = scope.parent
        return False

    def stmt_Return(self, node: ast.Return) -> None:
        if self.frame.is_kernel:
            if node.value is not None and not _is_none(node.value):
                raise TilusError(
                    "a kernel returns nothing", hint="store results with self.store_global(...)"
                )
            self.emit(Return(location=self.location))
            return
        if self.depth != self.frame.depth:
            raise TilusError(
                "an inlined method returns from inside a run-time loop or branch",
                hint="assign the result to a variable and return it at the end",
            )
        raise InlineReturn(None if node.value is None else self.expr(node.value))

    def stmt_With(self, node: ast.With) -> None:
        if len(node.items) != 1 or node.items[0].optional_vars is not None:
            raise TilusError(
                "a with statement of a kernel has one item and no name",
                found=", ".join(ast.unparse(item) for item in node.items),
                expected="with self.single_warp():",
            )
        threads = self.expr(node.items[0].context_expr)
        if not isinstance(threads, values.ThreadRange):
            raise TilusError(
                "a with statement of a kernel selects threads",
                found=ast.unparse(node.items[0].context_expr),
                expected="self.single_thread(), self.single_warp() or self.thread_group(begin, n)",
            )
        place = self.location
        with self.nested("thread group") as body:
            self.statements(node.body)
        self.emit(ThreadGroup(threads.begin, threads.count, tuple(body), location=place))

    def stmt_Assert(self, node: ast.Assert) -> None:
        self.static_assert(self.expr(node.test), None if node.msg is None else self.expr(node.msg))

    def _annotation(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.copy_location(parse(node.value, "eval").body, node)
        return self.expr(node)


def _holds(value: Any, tile: RegisterTensor) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(_holds(item, tile) for item in value)
    return value is tile


def _declaration_hint(name: str, value: Any) -> str:
    """How to make `name` something that a line of the kernel can change."""
    if isinstance(value, RegisterTensor):
        return f"make the tile before: {name} = self.register_tensor(...)"
    if isinstance(value, TENSORS):
        return f"bind {name} before, on every path"
    numeric = isinstance(value, (bool, int, float, Expr))
    return f"declare it before: {name}: tilus.{as_expr(value).dtype if numeric else 'int32'} = ..."


def build_range(args: list[Any], kwargs: dict[str, Any]) -> values.LoopRange:
    return call_host(values.loop_range, args, kwargs)


def _as_load(target: ast.expr) -> ast.expr:
    if isinstance(target, ast.Name):
        return ast.Name(id=target.id, ctx=ast.Load())
    if isinstance(target, ast.Subscript):
        return ast.copy_location(
            ast.Subscript(value=target.value, slice=target.slice, ctx=ast.Load()), target
        )
    raise unsupported(target)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
