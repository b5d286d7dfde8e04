"""What transpilation knows while it runs: the open scopes, the statements so far, where it is."""

from __future__ import annotations

import ast
import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
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


def as_scalar(value: Any, dtype: DataType | None) -> Expr:
    """`value` as a scalar, of `dtype` where one is given.

    Raises `TilusError` for tensors, for numbers that `dtype` cannot hold and for floats where it is
    an integer: a fraction is never lost without being asked for.
    """
    if isinstance(value, TENSORS):
        raise TilusError(
            "a scalar is needed here",
            found=str(value),
            hint="x.item() gives the value of a one-element tile",
        )
    if dtype is None:
        return as_expr(value)
    if isinstance(value, (bool, int, float)):
        return cast(value, dtype)
    expr = as_expr(value)
    if expr.dtype.is_float() and not dtype.is_float():
        raise TilusError(
            f"a {dtype} scalar cannot take the value of a float",
            found=f"{expr.dtype} {expr}",
            expected=str(dtype),
            hint=f"convert it: x.to(tilus.{dtype}) rounds towards zero",
        )
    return cast(expr, dtype)


def call_host(function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
    """Call Python at compile time; what it raises becomes an error at the user's line."""
    try:
        return function(*args, **kwargs)
    except TilusError:
        raise
    except Exception as error:
        name = getattr(function, "__name__", "the expression")
        raise (
            _wrong_arguments(function, name, args, kwargs)
            or TilusError(
                f"{name} failed at compile time: {error}",
                found=type(error).__name__,
                hint=_host_hint((*args, *kwargs.values())),
            )
        ) from error


def _wrong_arguments(
    function: Callable[..., Any], name: str, args: Any, kwargs: Mapping[str, Any]
) -> TilusError | None:
    """The error where the arguments do not fit the function's signature."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have none
        return None
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
        return TilusError(f"{name}: {error}", expected=f"{name}{inspect.Signature(bare)}")
    return None


def _host_hint(values: Iterable[Any]) -> str | None:
    if not any(map(is_kernel_value, values)):
        return None
    return (
        "Python functions run at compile time, on host values; self has the operators of kernel "
        "values"
    )


def host_items(value: Any) -> list[Any]:
    """The items of a host value that a compile-time loop runs over."""
    if not is_kernel_value(value):
        try:
            return list(value)
        except TypeError:
            pass
    raise TilusError(
        "this cannot be iterated over",
        found=values_text(value),
        expected="a range, or a host list",
        hint="loop over self.range(n) and index",
    )


def unpack(target: ast.expr, value: Any) -> Iterator[tuple[ast.Name, Any]]:
    """The names of a target such as `i` or `(i, (j, k))`, with the part of `value` each takes."""
    if isinstance(target, ast.Name):
        yield target, value
    elif isinstance(target, (ast.Tuple, ast.List)):
        for element, part in zip(target.elts, unpacked(target, value), strict=True):
            yield from unpack(element, part)
    else:
        raise unsupported(target)


def unpacked(target: ast.Tuple | ast.List, value: Any) -> list[Any]:
    """The values for the elements of a target, as many as it has."""
    for element in target.elts:
        if isinstance(element, ast.Starred):
            raise unsupported(element)
    items = list(value) if isinstance(value, (tuple, list, range)) else None
    if items is None or len(items) != len(target.elts):
        raise TilusError(
            "cannot unpack this into the names on the left",
            found=values_text(value),
            expected=f"{len(target.elts)} values",
        )
    return items


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


# What Python's grammar calls it, what users call it, and what to write instead.
_UNSUPPORTED = {
    "FunctionDef": ("def", "define a method of the class and call it: it is inlined"),
    "Import": ("import", "import at the top of the file"),
    "ImportFrom": ("import", "import at the top of the file"),
    "Try": ("try", "kernels have no exceptions"),
    "Raise": ("raise", "use self.static_assert(condition, message)"),
    "Delete": ("del", "names end with the loop or branch that binds them"),
    "Global": ("global", "set attributes in __init__"),
    "Nonlocal": ("nonlocal", "set attributes in __init__"),
    "ClassDef": ("class", "define classes outside the kernel"),
    "NamedExpr": (":=", "assign on a line of its own"),
    "Await": ("await", "kernels are not asynchronous; see copy_async"),
    "Yield": ("yield", "kernels return nothing"),
    "YieldFrom": ("yield", "kernels return nothing"),
    "Match": ("match", "use if and elif"),
    "Starred": ("* in front of a name", "give every value a name, or index the list"),
}


def unsupported(node: ast.AST) -> TilusError:
    kind = type(node).__name__
    word, hint = _UNSUPPORTED.get(kind, (kind, "see docs/language.md for what kernels can say"))
    return TilusError(f"Python's {word} is not part of the language of kernels", hint=hint)
