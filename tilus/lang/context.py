"""What transpilation knows while it runs: the open scopes, the statements so far, where it is."""

from __future__ import annotations

import ast
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tilus.dtypes import DataType
from tilus.errors import Location, TilusError
from tilus.instructions.elementwise import AssignTile
from tilus.ir.expr import Expr, Var, as_expr, cast
from tilus.ir.instruction import Instruction
from tilus.ir.stmt import Declare, Do, Stmt
from tilus.ir.tensor import GlobalTensor, RegisterTensor, SharedTensor
from tilus.lang.scope import Scope
from tilus.lang.source import Source

TENSORS = (RegisterTensor, SharedTensor, GlobalTensor)


@dataclass(eq=False)
class Attributes:
    """What the kernel wrote to `self.attrs`."""

    blocks: tuple[Expr, ...] | None = None
    warps: int | None = None


@dataclass(eq=False)
class Frame:
    """One function being transpiled: the kernel itself or an inlined method."""

    source: Source
    scope: Scope
    depth: int  # run-time nesting at entry
    is_kernel: bool
    host_loops: list[int] = field(default_factory=list)  # run-time depth of each compile-time loop


class InlineReturn(Exception):
    def __init__(self, value: Any):
        super().__init__()
        self.value = value


class HostBreak(Exception):
    pass


class HostContinue(Exception):
    pass


@dataclass(frozen=True)
class InlineMethod:
    """A method of the user's class, waiting to be inlined."""

    function: Callable[..., Any]
    bound: bool


class Context:
    """The state of one transpilation and the ways to add to the program."""

    def __init__(self, script: Any, name: str):
        self.script = script
        self.name = name
        self.attrs = Attributes()
        self.body: list[Stmt] = []
        self.depth = 0
        self.frames: list[Frame] = []
        self.location: Location | None = None
        self.initial: dict[
            Var, Expr
        ] = {}  # values of variables not assigned since, for attrs.blocks
        self.mutable: set[Var] = set()

    @property
    def frame(self) -> Frame:
        return self.frames[-1]

    @property
    def scope(self) -> Scope:
        return self.frame.scope

    # ---- emitting ----

    def emit(self, stmt: Stmt) -> None:
        self.body.append(stmt)

    def emit_instruction(self, instruction: Instruction) -> Any:
        """Check and append an instruction; its value is its result."""
        instruction.verify()
        self.emit(Do(instruction, location=self.location))
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
        self.emit(Declare(var, value, location=self.location))
        return var

    def _copy(self, name: str, value: Any) -> Any:
        if isinstance(value, Expr):
            return self._declare(name, value, value.dtype)
        if isinstance(value, RegisterTensor):
            copy = RegisterTensor(value.dtype, value.shape, name=name)
            self.emit(Do(AssignTile(copy, value), location=self.location))
            return copy
        return value

    @abstractmethod
    def inline(self, method: InlineMethod, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Run a method of the user's class in place, with its own names."""


# ---- values -------------------------------------------------------------------------------------


def is_kernel_value(value: Any) -> bool:
    return isinstance(value, (Expr, *TENSORS))


def as_scalar(value: Any, like: DataType | None) -> Expr:
    if isinstance(value, TENSORS):
        raise TilusError(
            "a scalar is needed here",
            found=str(value),
            hint="x.item() gives the value of a one-element tile",
        )
    return as_expr(value, like)


def call_host(function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
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


def values_text(value: Any) -> str:
    """A value as an error message shows it."""
    if isinstance(value, TENSORS):
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


def unsupported(node: ast.AST) -> TilusError:
    kind = type(node).__name__
    return TilusError(
        f"Python's {kind} is not part of the language of kernels", hint=_HINTS.get(kind)
    )
