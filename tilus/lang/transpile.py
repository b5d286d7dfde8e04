"""From the source of a kernel method to a program: one method per Python AST node.

Every expression evaluates to a *value*: a Python object known now (a host value), a scalar `Expr`,
or a tensor. Python runs the host values; statements about the others are emitted into the program.

    x = self.load_global(g, offsets=[i, 0], shape=[16])     emits an instruction, binds x to its
    result n = 4                                                   binds a host value, emits nothing
    i = self.blockIdx.x * n                                 declares a scalar variable

The surprise, fixed by the language: assigning again to a name bound to a register tile copies into
that tile.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tilus.dtypes import DataType, boolean
from tilus.errors import Location, TilusError, locate
from tilus.instructions.elementwise import AssignTile
from tilus.ir.expr import Const, Expr, Var, apply, as_expr, as_int, cast, substitute, variables
from tilus.ir.instruction import REGISTRY, TENSOR_METHODS, Instruction, build_from_call
from tilus.ir.program import Param, Program
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
from tilus.ir.tensor import GlobalTensor, RegisterTensor, SharedTensor
from tilus.lang import values
from tilus.lang.scope import Scope, unknown_name

Tensor = (RegisterTensor, SharedTensor, GlobalTensor)
_MISSING: Any = object()


@dataclass(frozen=True)
class Source:
    """A function's AST with what is needed to place its nodes in the user's file and resolve its
    free names.
    """

    node: ast.FunctionDef
    file: str
    first_line: int
    indent: int
    namespace: Mapping[str, Any]

    def location(self, node: ast.AST) -> Location:
        line = getattr(node, "lineno", 1)
        one_line = getattr(node, "end_lineno", line) == line
        end = getattr(node, "end_col_offset", None) if one_line else None
        return Location(
            self.file,
            line + self.first_line - 1,
            getattr(node, "col_offset", 0) + self.indent,
            None if end is None else end + self.indent,
        )


def read_source(function: Callable[..., Any]) -> Source:
    """Parse `function`; raises `TilusError` where Python has no source for it."""
    node, file, first_line, indent = _parse(function)
    closure = inspect.getclosurevars(function).nonlocals
    return Source(
        node, file, first_line, indent, {**vars(builtins), **function.__globals__, **closure}
    )


@lru_cache(maxsize=256)
def _parse(function: Callable[..., Any]) -> tuple[ast.FunctionDef, str, int, int]:
    try:
        lines, first_line = inspect.getsourcelines(function)
    except OSError:
        raise TilusError(
            f"the source of {function.__qualname__} cannot be read",
            hint="define the Script in a file: kernels are compiled from their source text",
        ) from None
    text = textwrap.dedent("".join(lines))
    indent = len(lines[0]) - len(lines[0].lstrip())
    node = ast.parse(text).body[0]
    assert isinstance(node, ast.FunctionDef)
    return node, inspect.getsourcefile(function) or "<unknown>", first_line, indent


@dataclass(eq=False)
class _Attributes:
    """What the kernel wrote to `self.attrs`."""

    blocks: tuple[Expr, ...] | None = None
    warps: int | None = None


@dataclass(eq=False)
class _Frame:
    """One function being transpiled: the kernel itself or an inlined method."""

    source: Source
    scope: Scope
    depth: int  # run-time nesting at entry
    is_kernel: bool
    host_loops: list[int] = field(default_factory=list)  # run-time depth of each compile-time loop


class _InlineReturn(Exception):
    def __init__(self, value: Any):
        super().__init__()
        self.value = value


class _HostBreak(Exception):
    pass


class _HostContinue(Exception):
    pass


@dataclass(frozen=True)
class _TensorMethod:
    """`tile.method`, waiting for its call."""

    tensor: Any
    cls: type[Instruction]


@dataclass(frozen=True)
class _InlineMethod:
    """A method of the user's class, waiting to be inlined."""

    function: Callable[..., Any]
    bound: bool


@dataclass(frozen=True)
class _Namespace:
    """`self.atomic`: instructions whose names begin with a prefix."""

    prefix: str


def transpile(
    script: Any,
    function: Callable[..., Any],
    params: Mapping[str, Param],
    constants: Mapping[str, Any],
    name: str,
) -> Program:
    """The program of `script`'s kernel `function`.

    `params` are its run-time parameters, `constants` the compile-time ones. Raises `TilusError` at
    the line in question.
    """
    return _Transpiler(script, name).kernel(read_source(function), params, constants)


class _Transpiler:
    def __init__(self, script: Any, name: str):
        self.script = script
        self.name = name
        self.attrs = _Attributes()
        self.body: list[Stmt] = []
        self.depth = 0
        self.frames: list[_Frame] = []
        self.location: Location | None = None
        self.initial: dict[
            Var, Expr
        ] = {}  # values of variables not assigned since, for attrs.blocks
        self.mutable: set[Var] = set()

    # ---- functions ----

    def kernel(
        self, source: Source, params: Mapping[str, Param], constants: Mapping[str, Any]
    ) -> Program:
        place = source.location(source.node)
        self.frames.append(_Frame(source, Scope(None, "kernel"), 0, True))
        for key, param in params.items():
            self._bind_parameter(key, param.var, place)
        for key, value in constants.items():
            self.scope.bind(key, value, place)
        self.statements(source.node.body)
        with locate(place):
            return Program(
                self.name,
                tuple(params.values()),
                self._grid(),
                self._warps(),
                tuple(self.body),
                location=place,
            )

    def _grid(self) -> tuple[Expr, Expr, Expr]:
        if self.attrs.blocks is None:
            raise TilusError(
                "the kernel does not say how many blocks it has", hint="set self.attrs.blocks = ..."
            )
        x, y, z = (*self.attrs.blocks, as_expr(1), as_expr(1))[:3]
        return x, y, z

    def _warps(self) -> int:
        if self.attrs.warps is None:
            raise TilusError(
                "the kernel does not say how many warps a block has",
                hint="set self.attrs.warps = ...",
            )
        return self.attrs.warps

    def _bind_parameter(self, name: str, value: Any, place: Location) -> None:
        """Bind an argument; a name the body assigns to gets a copy, so that the caller's value
        stays as it is.
        """
        if name in _assigned_names(self.frame.source.node):
            value = self._copy(name, value)
        self.scope.bind(name, value, place)

    def _copy(self, name: str, value: Any) -> Any:
        if isinstance(value, Expr):
            return self._declare(name, value, value.dtype)
        if isinstance(value, RegisterTensor):
            copy = RegisterTensor(value.dtype, value.shape, name=name)
            self._emit(Do(AssignTile(copy, value), location=self.location))
            return copy
        return value

    def inline(self, method: _InlineMethod, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Run a method of the user's class in place, with its own names."""
        if any(f.source.node.name == method.function.__name__ for f in self.frames[1:]):
            raise TilusError(
                f"{method.function.__name__} calls itself", hint="inlined methods cannot recurse"
            )
        signature = inspect.signature(method.function)
        try:
            bound = signature.bind(*([self.script] if method.bound else []), *args, **kwargs)
        except TypeError as error:
            raise TilusError(
                f"{method.function.__name__}: {error}",
                expected=f"{method.function.__name__}{signature}",
            ) from None
        bound.apply_defaults()
        source = read_source(method.function)
        place, caller = source.location(source.node), self.location
        self.frames.append(_Frame(source, Scope(None, "method"), self.depth, False))
        try:
            for key, value in bound.arguments.items():
                self._bind_parameter(key, value, place)
            self.statements(source.node.body)
        except _InlineReturn as result:
            return result.value
        finally:
            self.frames.pop()
            self.location = caller
        return None

    @property
    def frame(self) -> _Frame:
        return self.frames[-1]

    @property
    def scope(self) -> Scope:
        return self.frame.scope

    # ---- emitting ----

    def _emit(self, stmt: Stmt) -> None:
        self.body.append(stmt)

    def emit_instruction(self, instruction: Instruction) -> Any:
        """Check and append an instruction; its value is its result."""
        instruction.verify()
        self._emit(Do(instruction, location=self.location))
        return instruction.result

    @contextmanager
    def nested(self, kind: str) -> Iterator[list[Stmt]]:
        """A run-time body: statements go to the yielded list, names bound inside end with it."""
        outer_body, outer_scope = self.body, self.scope
        self.body, self.frame.scope = [], Scope(outer_scope, kind)
        self.depth += 1
        try:
            yield self.body
        finally:
            self.scope.close()
            self.body, self.frame.scope = outer_body, outer_scope
            self.depth -= 1

    def _declare(self, name: str, value: Expr, dtype: DataType) -> Var:
        var = Var(dtype, name)
        value = cast(value, dtype)
        self.mutable.add(var)
        self.initial[var] = value
        self._emit(Declare(var, value, location=self.location))
        return var

    # ---- statements ----

    def statements(self, nodes: list[ast.stmt]) -> None:
        for node in nodes:
            self.location = self.frame.source.location(node)
            with locate(self.location):
                handler = getattr(self, f"stmt_{type(node).__name__}", None)
                if handler is None:
                    raise _unsupported(node)
                handler(node)

    def stmt_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.expr(node.value)

    def stmt_Pass(self, node: ast.Pass) -> None:
        pass

    def stmt_Assign(self, node: ast.Assign) -> None:
        value = self.expr(node.value)
        fresh = isinstance(node.value, (ast.Call, ast.BinOp, ast.UnaryOp, ast.Compare))
        for target in node.targets:
            self.assign(target, value, fresh)
            fresh = False

    def stmt_AnnAssign(self, node: ast.AnnAssign) -> None:
        if not isinstance(node.target, ast.Name) or node.value is None:
            raise TilusError(
                "an annotation needs a name and a value", expected="name: dtype = value"
            )
        annotation = self._annotation(node.annotation)
        value = self.expr(node.value)
        if not isinstance(annotation, DataType):
            fresh = isinstance(node.value, (ast.Call, ast.BinOp, ast.UnaryOp, ast.Compare))
            self.assign(node.target, value, fresh)
            return
        name = node.target.id
        if self.scope.find(name) is not None:
            raise TilusError(f"{name} is bound already", hint="annotate the first binding only")
        if isinstance(value, Tensor):
            raise TilusError(
                f"{name} is annotated as a scalar", found=str(value), expected=str(annotation)
            )
        self.scope.bind(
            name, self._declare(name, _scalar(value, annotation), annotation), self.location
        )

    def stmt_AugAssign(self, node: ast.AugAssign) -> None:
        load = ast.copy_location(_as_load(node.target), node.target)
        binary = ast.copy_location(ast.BinOp(left=load, op=node.op, right=node.value), node)
        self.assign(node.target, self.expr(binary), True)

    def assign(self, target: ast.expr, value: Any, fresh: bool) -> None:
        """Bind `target`; `fresh` says that `value` was made by this statement and has no other
        name.
        """
        if isinstance(target, ast.Name):
            self.assign_name(target.id, value, fresh)
        elif isinstance(target, (ast.Tuple, ast.List)):
            self.assign_tuple(target, value)
        elif isinstance(target, ast.Attribute):
            self.assign_attribute(target, value)
        elif isinstance(target, ast.Subscript):
            self.assign_item(target, value)
        else:
            raise _unsupported(target)

    def assign_name(self, name: str, value: Any, fresh: bool) -> None:
        owner = self.scope.find(name)
        if owner is None:
            self.scope.bind(name, self._first_binding(name, value, fresh), self.location)
            return
        old = owner.names[name]
        if isinstance(old, Var):
            self._assign_var(name, old, value)
        elif isinstance(old, RegisterTensor):
            self._assign_tile(name, old, value)
        elif isinstance(old, Tensor):
            raise TilusError(
                f"{name} is bound to a tensor in memory already",
                found=str(old),
                hint="give the new one another name",
            )
        else:
            self._rebind_host(name, owner, value, fresh)

    def _first_binding(self, name: str, value: Any, fresh: bool) -> Any:
        if isinstance(value, Expr):
            return self._declare(name, value, value.dtype)
        if isinstance(value, RegisterTensor) and not fresh and value.name:
            return self._copy(
                name, value
            )  # `y = x` is a new tile: a later `y = ...` leaves x alone
        if isinstance(value, Tensor) and not value.name:
            value.name = name
        return value

    def _assign_var(self, name: str, var: Var, value: Any) -> None:
        if var not in self.mutable:
            raise TilusError(
                f"the loop variable {name} cannot be assigned",
                hint="use a while loop, or another name",
            )
        if isinstance(value, Tensor):
            raise TilusError(
                f"{name} is a scalar variable", found=str(value), expected=f"a {var.dtype} scalar"
            )
        self.initial.pop(var, None)
        self._emit(Assign(var, cast(_scalar(value, var.dtype), var.dtype), location=self.location))

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

    def _rebind_host(self, name: str, owner: Scope, value: Any, fresh: bool) -> None:
        if owner is not self.scope:
            raise TilusError(
                f"{name} is a compile-time constant, and this line runs inside a "
                f"{self.scope.kind} of the kernel",
                found=f"{name} = {values_text(owner.names[name])} outside",
                expected="a variable of the kernel",
                hint=f"declare it before: {name}: tilus.int32 = ...",
            )
        self.scope.bind(name, self._first_binding(name, value, fresh), self.location)

    def assign_tuple(self, target: ast.Tuple | ast.List, value: Any) -> None:
        items = list(value) if isinstance(value, (tuple, list, range)) else None
        if items is None or len(items) != len(target.elts):
            raise TilusError(
                "cannot unpack this into the names on the left",
                found=values_text(value),
                expected=f"{len(target.elts)} values",
            )
        # All are read before any is written, so that `a, b = b, a` swaps.
        if any(isinstance(e, ast.Name) and self.scope.find(e.id) for e in target.elts):
            items = [
                self._copy("swap", v) if isinstance(v, (Expr, RegisterTensor)) else v for v in items
            ]
        for element, item in zip(target.elts, items, strict=True):
            self.assign(element, item, False)

    def assign_attribute(self, target: ast.Attribute, value: Any) -> None:
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
        expr = _scalar(value, None)
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
        self._emit(If(condition, tuple(then), tuple(otherwise), location=place))

    def _condition(self, node: ast.expr) -> Expr | bool:
        """The truth of an expression: a Python bool where it is known now."""
        value = self.expr(node)
        if isinstance(value, Tensor):
            raise TilusError(
                "a tile has no single truth value",
                found=str(value),
                hint="reduce it first: self.any(x).item() or self.all(x).item()",
            )
        if isinstance(value, Const):
            return bool(value.value)
        if isinstance(value, Expr):
            return cast(value, boolean) if value.dtype == boolean else apply("ne", value, 0)
        return bool(value)

    def _forget_assigned(self, node: ast.AST) -> None:
        """Variables assigned in a branch or loop no longer have their declared value."""
        for name in _assigned_names(node):
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
                "a run-time loop has one loop variable", found=ast.unparse(node.target)
            )
        place = self.location
        self._forget_assigned(node)
        var = Var(iterable.start.dtype, node.target.id)
        with self.nested("loop") as body:
            self.scope.bind(var.name, var, place)
            self.statements(node.body)
        self._emit(
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
        if isinstance(iterable, (Expr, *Tensor)):
            raise TilusError(
                "this cannot be iterated over",
                found=values_text(iterable),
                hint="loop over self.range(n) and index",
            )
        self.frame.host_loops.append(self.depth)
        try:
            for item in iterable:
                self._bind_host_target(node.target, item)
                try:
                    self.statements(node.body)
                except _HostContinue:
                    continue
                except _HostBreak:
                    break
        finally:
            self.frame.host_loops.pop()

    def _bind_host_target(self, target: ast.expr, item: Any) -> None:
        """The targets of a compile-time loop are plain names for the items: nothing is copied."""
        if isinstance(target, ast.Name):
            self.scope.bind(target.id, item, self.location)
        elif isinstance(target, (ast.Tuple, ast.List)):
            for element, part in zip(target.elts, item, strict=True):
                self._bind_host_target(element, part)
        else:
            raise _unsupported(target)

    def stmt_While(self, node: ast.While) -> None:
        if node.orelse:
            raise TilusError(
                "a while loop of a kernel has no else",
                hint="use a variable and an if after the loop",
            )
        place = self.location
        self._forget_assigned(node)
        condition = self._condition(node.test)
        if condition is False:
            return
        with self.nested("loop") as body:
            self.statements(node.body)
        self._emit(While(as_expr(condition), tuple(body), location=place))

    def stmt_Break(self, node: ast.Break) -> None:
        self._leave_loop("break", _HostBreak, Break(location=self.location))

    def stmt_Continue(self, node: ast.Continue) -> None:
        self._leave_loop("continue", _HostContinue, Continue(location=self.location))

    def _leave_loop(self, word: str, host: type[Exception], stmt: Stmt) -> None:
        loops = self.frame.host_loops
        if not loops or self._inside_run_time_loop(loops[-1]):
            self._emit(stmt)
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
            self._emit(Return(location=self.location))
            return
        if self.depth != self.frame.depth:
            raise TilusError(
                "an inlined method returns from inside a run-time loop or branch",
                hint="assign the result to a variable and return it at the end",
            )
        raise _InlineReturn(None if node.value is None else self.expr(node.value))

    def stmt_With(self, node: ast.With) -> None:
        if len(node.items) != 1:
            raise _unsupported(node)
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
        self._emit(ThreadGroup(threads.begin, threads.count, tuple(body), location=place))

    def stmt_Assert(self, node: ast.Assert) -> None:
        self.static_assert(self.expr(node.test), None if node.msg is None else self.expr(node.msg))

    # ---- what self offers besides instructions ----

    def assume(self, condition: Any) -> None:
        """Promise that a condition on scalars holds; the compiler relies on it, the interpreter
        checks it.
        """
        if isinstance(condition, Expr) and not isinstance(condition, Const):
            self._emit(Assume(cast(condition, boolean), location=self.location))
            return
        self.static_assert(condition, "the assumption is False")

    def static_assert(self, condition: Any, msg: Any = None) -> None:
        """Stop compilation with `msg` unless a compile-time condition holds."""
        if isinstance(condition, Const):
            condition = condition.value
        if isinstance(condition, (Expr, *Tensor)):
            raise TilusError(
                "static_assert needs a condition known at compile time",
                found=values_text(condition),
                hint="use self.assume(...) for conditions on run-time scalars",
            )
        if not condition:
            raise TilusError(
                f"static assertion failed: {msg}" if msg else "static assertion failed"
            )

    # ---- expressions ----

    def expr(self, node: ast.expr) -> Any:
        with locate(self.frame.source.location(node)):
            handler = getattr(self, f"expr_{type(node).__name__}", None)
            if handler is None:
                raise _unsupported(node)
            return handler(node)

    def expr_Constant(self, node: ast.Constant) -> Any:
        return node.value

    def expr_Name(self, node: ast.Name) -> Any:
        owner = self.scope.find(node.id)
        if owner is not None:
            return owner.names[node.id]
        if node.id == "self":
            return self.script
        namespace = self.frame.source.namespace
        if node.id in namespace and self.scope.ended_at(node.id) is None:
            return namespace[node.id]
        raise unknown_name(self.scope, node.id, list(namespace))

    def expr_Tuple(self, node: ast.Tuple) -> Any:
        return tuple(self._elements(node.elts))

    def expr_List(self, node: ast.List) -> Any:
        return self._elements(node.elts)

    def expr_Set(self, node: ast.Set) -> Any:
        return set(self._elements(node.elts))

    def _elements(self, nodes: list[ast.expr]) -> list[Any]:
        result: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                result.extend(self.expr(node.value))
            else:
                result.append(self.expr(node))
        return result

    def expr_Dict(self, node: ast.Dict) -> Any:
        result: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                result.update(self.expr(value))
            else:
                result[self.expr(key)] = self.expr(value)
        return result

    def expr_JoinedStr(self, node: ast.JoinedStr) -> Any:
        return "".join(str(self.expr(part)) for part in node.values)

    def expr_FormattedValue(self, node: ast.FormattedValue) -> Any:
        value = self.expr(node.value)
        if isinstance(value, Expr) and not isinstance(value, Const):
            raise TilusError(
                "the value is known only when the kernel runs", hint='use self.printf("%d", value)'
            )
        spec = "" if node.format_spec is None else self.expr(node.format_spec)
        text = {ord("r"): repr, ord("s"): str, ord("a"): ascii}.get(node.conversion, lambda v: v)(
            value
        )
        return format(text, spec)

    def expr_BinOp(self, node: ast.BinOp) -> Any:
        left, right = self.expr(node.left), self.expr(node.right)
        if isinstance(node.op, ast.MatMult):
            raise TilusError("tiles are multiplied by self.dot", hint="self.dot(a, b)")
        if isinstance(node.op, ast.Pow):
            return self._power(left, right)
        name, host = values.BINARY[type(node.op).__name__]
        return self.operator(name, host, left, right)

    def _power(self, left: Any, right: Any) -> Any:
        if not _is_kernel_value(left) and not _is_kernel_value(right):
            return left**right
        if right == 2 and _is_kernel_value(left):
            return self.operator("square", lambda x: x, left)
        raise TilusError(
            "kernel values have no power operator",
            expected="x ** 2",
            hint="self.exp2(y * self.log2(x))",
        )

    def operator(self, name: str, host: Callable[..., Any], *args: Any) -> Any:
        """An operator of the table; host values alone are left to Python."""
        if not any(_is_kernel_value(a) for a in args):
            return _call_host(host, args, {})
        for arg in args:
            if isinstance(arg, (SharedTensor, GlobalTensor)):
                raise TilusError(
                    f"{name} works on register tiles",
                    found=str(arg),
                    hint="load it first: self.load_shared(...) or self.load_global(...)",
                )
        return self.emit_result(values.apply_operator(name, *args))

    def emit_result(self, value: Any) -> Any:
        return self.emit_instruction(value) if isinstance(value, Instruction) else value

    def expr_UnaryOp(self, node: ast.UnaryOp) -> Any:
        value = self.expr(node.operand)
        if isinstance(node.op, ast.UAdd):
            return value
        name, host = values.UNARY[type(node.op).__name__]
        if name == "not" and isinstance(value, Tensor):
            raise TilusError("a tile has no single truth value", hint="use ~x on a boolean tile")
        return self.operator(name, host, value)

    def expr_BoolOp(self, node: ast.BoolOp) -> Any:
        is_and = isinstance(node.op, ast.And)
        result: Any = is_and
        for part in node.values:
            value = self.expr(part)
            if isinstance(value, Tensor):
                raise TilusError(
                    "a tile has no single truth value", hint="combine boolean tiles with & and |"
                )
            if not isinstance(result, Expr):
                if bool(result) is not is_and:
                    return result  # host values decide early, as in Python
                result = value
            else:
                result = apply("and" if is_and else "or", result, as_expr(value))
        return result

    def expr_Compare(self, node: ast.Compare) -> Any:
        operands = [self.expr(n) for n in (node.left, *node.comparators)]
        parts = [
            self._compare(op, a, b)
            for op, a, b in zip(node.ops, operands, operands[1:], strict=False)
        ]
        result = parts[0]
        for part in parts[1:]:
            if isinstance(result, RegisterTensor) or isinstance(part, RegisterTensor):
                result = self.operator("bitand", lambda a, b: a & b, result, part)
            elif isinstance(result, Expr) or isinstance(part, Expr):
                result = apply("and", result, part)
            else:
                result = result and part
        return result

    def _compare(self, op: ast.cmpop, a: Any, b: Any) -> Any:
        if isinstance(op, ast.Is):
            return a is b
        if isinstance(op, ast.IsNot):
            return a is not b
        if isinstance(op, (ast.In, ast.NotIn)):
            return (a in b) == isinstance(op, ast.In)
        name, host = values.COMPARE[type(op).__name__]
        return self.operator(name, host, a, b)

    def expr_IfExp(self, node: ast.IfExp) -> Any:
        condition = self._condition(node.test)
        if isinstance(condition, bool):
            return self.expr(node.body if condition else node.orelse)
        return self.operator(
            "where", lambda *a: a, condition, self.expr(node.body), self.expr(node.orelse)
        )

    def expr_Lambda(self, node: ast.Lambda) -> Any:
        names = [a.arg for a in node.args.args]

        def function(*args: Any) -> Any:
            if len(args) != len(names):
                raise TilusError(
                    "the function takes another number of indices",
                    found=f"lambda {', '.join(names)}",
                    expected=f"{len(args)} arguments",
                )
            return self._with_names(
                dict(zip(names, args, strict=True)), lambda: self.expr(node.body)
            )

        return function

    def _with_names(self, names: Mapping[str, Any], action: Callable[[], Any]) -> Any:
        outer = self.scope
        self.frame.scope = Scope(outer, "lambda")
        self.scope.names.update(names)
        try:
            return action()
        finally:
            self.frame.scope = outer

    def expr_ListComp(self, node: ast.ListComp) -> Any:
        return list(self._comprehension(node.generators, lambda: self.expr(node.elt)))

    def expr_SetComp(self, node: ast.SetComp) -> Any:
        return set(self._comprehension(node.generators, lambda: self.expr(node.elt)))

    def expr_GeneratorExp(self, node: ast.GeneratorExp) -> Any:
        return list(self._comprehension(node.generators, lambda: self.expr(node.elt)))

    def expr_DictComp(self, node: ast.DictComp) -> Any:
        return dict(
            self._comprehension(
                node.generators, lambda: (self.expr(node.key), self.expr(node.value))
            )
        )

    def _comprehension(
        self, generators: list[ast.comprehension], element: Callable[[], Any]
    ) -> list[Any]:
        if not generators:
            return [element()]
        first, rest = generators[0], generators[1:]
        iterable = self.expr(first.iter)
        if isinstance(iterable, (values.LoopRange, Expr, *Tensor)):
            raise TilusError(
                "a comprehension runs over host values",
                found=values_text(iterable),
                hint="use range(n) with a compile-time n",
            )
        result: list[Any] = []
        for item in iterable:
            result += self._with_names(
                _matched(first.target, item),
                lambda: (
                    self._comprehension(rest, element)
                    if all(map(self._condition, first.ifs))
                    else []
                ),
            )
        return result

    def expr_Attribute(self, node: ast.Attribute) -> Any:
        return self.attribute(self.expr(node.value), node.attr)

    def attribute(self, value: Any, name: str) -> Any:
        if value is self.script:
            return self._self_attribute(name)
        if isinstance(value, _Namespace):
            return self._instruction(f"{value.prefix}.{name}")
        if isinstance(value, Tensor):
            return self._tensor_attribute(value, name)
        if isinstance(value, Expr) and name == "to":
            return lambda dtype: cast(value, dtype)
        try:
            return getattr(value, name)
        except AttributeError:
            raise TilusError(f"{values_text(value)} has no attribute {name}") from None

    def _self_attribute(self, name: str) -> Any:
        special = self._specials().get(name, _MISSING)
        if special is not _MISSING:
            return special
        user = inspect.getattr_static(type(self.script), name, None)
        if inspect.isfunction(user) and not getattr(user, "tilus_language", False):
            return _InlineMethod(user, True)
        if isinstance(user, staticmethod):
            return _InlineMethod(user.__func__, False)
        if name in self.script.__dict__:
            return self.script.__dict__[name]
        if name in REGISTRY:
            return REGISTRY[name]
        if name in values.OPERATOR_METHODS:
            return values.operator_function(values.OPERATOR_METHODS[name])
        if any(key.startswith(f"{name}.") for key in REGISTRY):
            return _Namespace(name)
        if hasattr(self.script, name):
            return getattr(self.script, name)
        raise self._unknown_attribute(name)

    def _specials(self) -> dict[str, Any]:
        return {
            "blockIdx": values.BLOCK_INDEX,
            "gridDim": values.GRID_DIMENSION,
            "attrs": self.attrs,
            "cuda": values.CUDA,
            "range": values.loop_range,
            "assume": self.assume,
            "static_assert": self.static_assert,
            "single_thread": values.single_thread,
            "single_warp": values.single_warp,
            "thread_group": values.thread_group,
            "fast_divmod": values.fast_divmod,
        }

    def _unknown_attribute(self, name: str) -> TilusError:
        import difflib

        names = [*self._specials(), *REGISTRY, *values.OPERATOR_METHODS, *self.script.__dict__]
        close = difflib.get_close_matches(name, names, n=3)
        return TilusError(
            f"self has no instruction or attribute {name}",
            hint=f"did you mean {' or '.join('self.' + c for c in close)}?"
            if close
            else "set it in __init__",
        )

    def _instruction(self, name: str) -> type[Instruction]:
        if name not in REGISTRY:
            raise self._unknown_attribute(name)
        return REGISTRY[name]

    def _tensor_attribute(self, tensor: Any, name: str) -> Any:
        cls = TENSOR_METHODS.get((type(tensor), name))
        if cls is not None:
            return _TensorMethod(tensor, cls)
        if name == "shape":
            extents = (as_int(e) if as_int(e) is not None else e for e in tensor.shape)
            return tuple(extents)
        if name in ("dtype", "layout", "name"):
            return getattr(tensor, name)
        known = [m for kind, m in TENSOR_METHODS if kind is type(tensor) and not m.startswith("__")]
        raise TilusError(
            f"a {values_kind(tensor)} has no attribute {name}",
            expected=", ".join(["dtype", "shape", *sorted(known)]),
        )

    def expr_Subscript(self, node: ast.Subscript) -> Any:
        container, index = self.expr(node.value), self.expr(node.slice)
        if isinstance(container, Tensor):
            cls = TENSOR_METHODS.get((type(container), "__getitem__"))
            if cls is None:
                raise TilusError(
                    "a register tile cannot be indexed: its elements lie in many threads",
                    found=str(container),
                    hint="store it to shared memory and load the part, or use .item() on a tile "
                    "of size 1",
                )
            return self.emit_instruction(build_from_call(cls, (container, index), {}))
        if isinstance(index, Expr) and not isinstance(index, Const):
            raise TilusError(
                "a host value is indexed by a value known only when the kernel runs",
                found=values_text(container),
                hint="use a compile-time index, or keep the data in a tensor",
            )
        if isinstance(index, Const):
            index = index.value
        return _call_host(lambda: container[index], (), {})

    def expr_Slice(self, node: ast.Slice) -> Any:
        return slice(
            *(None if n is None else self.expr(n) for n in (node.lower, node.upper, node.step))
        )

    # ---- calls ----

    def arguments(self, node: ast.Call) -> tuple[list[Any], dict[str, Any]]:
        args = self._elements(node.args)
        kwargs: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                kwargs.update(self.expr(keyword.value))
            else:
                kwargs[keyword.arg] = self.expr(keyword.value)
        return args, kwargs

    def expr_Call(self, node: ast.Call) -> Any:
        function = self.expr(node.func)
        args, kwargs = self.arguments(node)
        outer, self.location = self.location, self.frame.source.location(node)
        try:
            return self.call(function, args, kwargs)
        finally:
            self.location = outer

    def call(self, function: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if isinstance(function, type) and issubclass(function, Instruction):
            return self.emit_instruction(build_from_call(function, tuple(args), kwargs))
        if isinstance(function, _TensorMethod):
            return self.emit_instruction(
                build_from_call(function.cls, (function.tensor, *args), kwargs)
            )
        if isinstance(function, _InlineMethod):
            return self.inline(function, args, kwargs)
        kernel_values = [a for a in (*args, *kwargs.values()) if _is_kernel_value(a)]
        replacement = (
            _kernel_function(function) if kernel_values or _holds_kernel_values(args) else None
        )
        if replacement is not None:
            return self.emit_result(_call_host(replacement, args, kwargs))
        if isinstance(function, DataType) and any(isinstance(a, Tensor) for a in args):
            raise TilusError(
                f"{function}(...) makes scalars", hint=f"cast a tile with x.to({function})"
            )
        if function is builtins.print:
            raise TilusError(
                "print runs on the host", hint="use self.printf(...) or self.print_tensor(...)"
            )
        if not callable(function):
            raise TilusError("this cannot be called", found=values_text(function))
        return self.emit_result(_call_host(function, args, kwargs))

    def _annotation(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.copy_location(ast.parse(node.value, mode="eval").body, node)
        return self.expr(node)


# ---- helpers ------------------------------------------------------------------------------------


def build_range(args: list[Any], kwargs: dict[str, Any]) -> values.LoopRange:
    if set(kwargs) - {"unroll"}:
        raise TilusError("range has no such argument", found=", ".join(kwargs), expected="unroll=")
    return values.loop_range(*args, **kwargs)


def _kernel_function(function: Any) -> Callable[..., Any] | None:
    try:
        return values.KERNEL_FUNCTIONS.get(function)
    except TypeError:  # not hashable
        return None


def _call_host(function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
    """Call Python at compile time; what it raises becomes an error at the user's line."""
    try:
        return function(*args, **kwargs)
    except TilusError:
        raise
    except Exception as error:
        raise TilusError(
            f"{getattr(function, '__name__', 'the expression')} failed at compile time: {error}",
            found=f"{type(error).__name__}",
        ) from error


def _is_kernel_value(value: Any) -> bool:
    return isinstance(value, (Expr, *Tensor))


def _holds_kernel_values(args: list[Any]) -> bool:
    return any(isinstance(a, (list, tuple)) and any(map(_is_kernel_value, a)) for a in args)


def _scalar(value: Any, like: DataType | None) -> Expr:
    if isinstance(value, Tensor):
        raise TilusError(
            "a scalar is needed here",
            found=str(value),
            hint="x.item() gives the value of a one-element tile",
        )
    return as_expr(value, like)


def values_text(value: Any) -> str:
    """A value as an error message shows it."""
    if isinstance(value, Tensor):
        return str(value)
    if isinstance(value, Expr):
        return f"{value.dtype} {value}"
    return f"{type(value).__name__} {value!r:.60}"


def values_kind(tensor: Any) -> str:
    return {
        RegisterTensor: "register tile",
        SharedTensor: "shared tensor",
        GlobalTensor: "global tensor",
    }[type(tensor)]


def _matched(target: ast.expr, item: Any) -> dict[str, Any]:
    """The names of a comprehension's target with their values."""
    if isinstance(target, ast.Name):
        return {target.id: item}
    if isinstance(target, (ast.Tuple, ast.List)):
        result: dict[str, Any] = {}
        for element, part in zip(target.elts, item, strict=True):
            result |= _matched(element, part)
        return result
    raise _unsupported(target)


def _as_load(target: ast.expr) -> ast.expr:
    if isinstance(target, ast.Name):
        return ast.Name(id=target.id, ctx=ast.Load())
    if isinstance(target, ast.Subscript):
        return ast.copy_location(
            ast.Subscript(value=target.value, slice=target.slice, ctx=ast.Load()), target
        )
    raise _unsupported(target)


def _assigned_names(node: ast.AST) -> set[str]:
    """Names that the statements under `node` assign to."""
    return {
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


_HINTS = {
    "FunctionDef": "define a method of the class and call it: it is inlined",
    "Import": "import at the top of the file",
    "ImportFrom": "import at the top of the file",
    "Try": "kernels have no exceptions",
    "Raise": "use self.static_assert(condition, message)",
    "Delete": "names end with the loop or branch that binds them",
    "Global": "set attributes in __init__",
    "Nonlocal": "set attributes in __init__",
    "ClassDef": "define classes outside the kernel",
    "NamedExpr": "assign on a line of its own",
    "Await": "kernels are not asynchronous; see copy_async",
    "Yield": "kernels return nothing",
    "Match": "use if and elif",
}


def _unsupported(node: ast.AST) -> TilusError:
    kind = type(node).__name__
    return TilusError(
        f"Python's {kind} is not part of the language of kernels", hint=_HINTS.get(kind)
    )


__all__ = ["Body", "read_source", "transpile"]
