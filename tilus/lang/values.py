"""What names inside a kernel can mean besides Python values, scalars and tensors.

`self.blockIdx.x`, `self.range(...)`, `self.single_thread()`, `self.attrs.blocks = ...` and the
operator functions (`self.exp`, `math.exp`, `min`) are resolved here; the transpiler asks this table
instead of knowing them.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tilus import dtypes
from tilus.errors import TilusError
from tilus.instructions.arguments import int_tuple
from tilus.instructions.elementwise import Elementwise, default_layout
from tilus.ir import layout
from tilus.ir.expr import BLOCK_IDX, GRID_DIM, Expr, Var, apply, as_expr, cast
from tilus.ir.instruction import Instruction
from tilus.ir.operators import OPERATORS
from tilus.ir.tensor import GlobalTensor, RegisterTensor, SharedTensor


@dataclass(frozen=True)
class Dim3:
    """`blockIdx` or `gridDim`."""

    x: Var
    y: Var
    z: Var


BLOCK_INDEX = Dim3(*BLOCK_IDX)
GRID_DIMENSION = Dim3(*GRID_DIM)


@dataclass(frozen=True, eq=False)
class LoopRange:
    """What a for statement of the kernel runs over; `unroll` as in `stmt.For`."""

    start: Expr
    stop: Expr
    step: Expr
    unroll: int | None = None

    def __repr__(self) -> str:
        return f"range({self.start}, {self.stop}, {self.step})"


def loop_range(*bounds: Any, unroll: Any = None) -> LoopRange:
    """`range(stop)`, `range(start, stop)` or `range(start, stop, step)`; `unroll` is None, "all" or
    a count.
    """
    if not 1 <= len(bounds) <= 3:
        raise TilusError(
            "range takes 1 to 3 bounds", found=f"{len(bounds)}", expected="range(start, stop, step)"
        )
    like = next((b.dtype for b in bounds if isinstance(b, Expr)), dtypes.int32)
    exprs = [as_expr(b, like) for b in bounds]
    for expr in exprs:
        if not expr.dtype.is_integer():
            raise TilusError("the bounds of a range are integers", found=f"{expr.dtype} {expr}")
    wide = exprs[0].dtype
    for expr in exprs[1:]:
        wide = apply("add", Var(wide, "a"), Var(expr.dtype, "b")).dtype
    exprs = [cast(e, wide) for e in exprs]
    if len(exprs) == 1:
        exprs.insert(0, as_expr(0, wide))
    if len(exprs) == 2:
        exprs.append(as_expr(1, wide))
    if exprs[2] == as_expr(0, wide):
        raise TilusError("the step of a range is 0", hint="the loop would never end")
    return LoopRange(exprs[0], exprs[1], exprs[2], _unroll(unroll))


loop_range.__name__ = "range"  # what users wrote, in error messages


def _unroll(unroll: Any) -> int | None:
    if unroll is None or unroll == "all":
        return None if unroll is None else 0
    if isinstance(unroll, int) and not isinstance(unroll, bool) and unroll > 0:
        return unroll
    raise TilusError(
        "unroll is not understood", found=repr(unroll), expected='None, "all" or a positive count'
    )


@dataclass(frozen=True)
class ThreadRange:
    """What `with self.thread_group(begin, n)` selects; `count` threads from `begin`."""

    begin: int
    count: int


def single_thread(thread: Any = 0) -> ThreadRange:
    """One thread of the block."""
    return ThreadRange(_thread_number(thread, "single_thread"), 1)


def single_warp(warp: Any = 0) -> ThreadRange:
    """The 32 threads of one warp of the block."""
    return ThreadRange(32 * _thread_number(warp, "single_warp"), 32)


def thread_group(begin: Any, n: Any) -> ThreadRange:
    """`n` threads of the block from thread `begin`: one, or whole warps."""
    return ThreadRange(_thread_number(begin, "thread_group"), _thread_number(n, "thread_group"))


def _thread_number(value: Any, what: str) -> int:
    (number,) = int_tuple((value,), f"{what}: threads")
    return number


class CudaNamespace:
    """`self.cuda`: tensor-core configurations and layouts as host values."""

    atomic_mma_configs = layout.atomic_mma_configs
    mma_dot_config = staticmethod(layout.mma_dot_config)
    resolve_dot_config = staticmethod(layout.resolve_dot_config)

    @staticmethod
    def shared_layout(shape: Any) -> layout.SharedLayout:
        """The layout a shared float16 tile of this shape gets by default: swizzled rows."""
        return layout.shared_row_major_swizzle(shape, 16)

    @staticmethod
    def default_register_layout(
        num_warps: int, dtype: dtypes.DataType, shape: Any
    ) -> layout.RegisterLayout:
        """The layout a register tile gets where nothing else decides."""
        return default_layout(32 * num_warps, RegisterTensor(dtype, tuple(shape)))


CUDA = CudaNamespace()


# ---- operators ----------------------------------------------------------------------------------


def apply_operator(name: str, *args: Any) -> Instruction | Expr:
    """Row `name` of the operator table: an instruction where an operand is a tile, else a scalar
    expression.
    """
    for arg in args:
        if isinstance(arg, (SharedTensor, GlobalTensor)):
            raise TilusError(
                f"{name} works on register tiles",
                found=str(arg),
                hint="load it first: self.load_shared(...) or self.load_global(...)",
            )
    if any(isinstance(a, RegisterTensor) for a in args):
        return Elementwise.build(name, *args)
    arity = OPERATORS[name].arity
    if len(args) != arity:
        raise TilusError(
            f"{name} takes {arity} operands", found=f"{len(args)}", expected=f"{arity}"
        )
    return apply(name, *args)


def operator_function(name: str) -> Callable[..., Instruction | Expr]:
    def function(*args: Any, out: Any = None) -> Instruction | Expr:
        if out is not None:
            return Elementwise.build(name, *args, out=out)
        return apply_operator(name, *args)

    function.__name__ = name
    function.__doc__ = f"Elementwise {OPERATORS[name].doc}, with NumPy broadcasting."
    return function


# `self.max` and `self.min` are reductions, so the elementwise ones have NumPy's names.
OPERATOR_METHODS: dict[str, str] = {
    "maximum": "max",
    "minimum": "min",
    "add": "add",
    **{
        row.name: row.name
        for row in OPERATORS.values()
        if not row.symbol and row.name not in ("min", "max")
    },
}


def fast_divmod(a: Any, b: Any) -> tuple[Any, Any]:
    """(a // b, a % b) of integer scalars."""
    return apply("floordiv", a, b), apply("mod", a, b)


def _fold(name: str) -> Callable[..., Any]:
    def function(*args: Any) -> Any:
        items = tuple(args[0]) if len(args) == 1 else args
        result = items[0]
        for item in items[1:]:
            result = apply_operator(name, result, item)
        return result

    return function


def _math(name: str) -> Callable[..., Any]:
    def function(*args: Any) -> Any:
        if any(isinstance(a, RegisterTensor) for a in args):
            raise TilusError(
                f"math.{name} works on scalars, not on tiles", hint=f"use self.{name}(x)"
            )
        return apply(name, *args)

    return function


def _cast_to(dtype: dtypes.DataType) -> Callable[[Any], Expr]:
    return lambda value: cast(value, dtype)


# What `self` has in a kernel besides instructions and operators; no attribute can be called so.
LANGUAGE: dict[str, Any] = {
    "blockIdx": BLOCK_INDEX,
    "gridDim": GRID_DIMENSION,
    "cuda": CUDA,
    "range": loop_range,
    "single_thread": single_thread,
    "single_warp": single_warp,
    "thread_group": thread_group,
    "fast_divmod": fast_divmod,
}

# Python functions that also take kernel values; host values alone get the function itself.
KERNEL_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    builtins.min: _fold("min"),
    builtins.max: _fold("max"),
    builtins.abs: lambda x: apply_operator("abs", x),
    builtins.int: _cast_to(dtypes.int32),
    builtins.float: _cast_to(dtypes.float32),
    builtins.bool: _cast_to(dtypes.boolean),
    builtins.divmod: fast_divmod,
    builtins.range: loop_range,
    **{
        getattr(math, n): _math(n)
        for n in ("exp", "log", "log2", "sqrt", "sin", "cos", "tanh", "erf", "floor", "ceil")
    },
}

# Operator names by what `ast` calls them, and the Python function for host values.
BINARY: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "Add": ("add", operator.add),
    "Sub": ("sub", operator.sub),
    "Mult": ("mul", operator.mul),
    "Div": ("truediv", operator.truediv),
    "FloorDiv": ("floordiv", operator.floordiv),
    "Mod": ("mod", operator.mod),
    "BitAnd": ("bitand", operator.and_),
    "BitOr": ("bitor", operator.or_),
    "BitXor": ("bitxor", operator.xor),
    "LShift": ("shl", operator.lshift),
    "RShift": ("shr", operator.rshift),
}
COMPARE: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "Eq": ("eq", operator.eq),
    "NotEq": ("ne", operator.ne),
    "Lt": ("lt", operator.lt),
    "LtE": ("le", operator.le),
    "Gt": ("gt", operator.gt),
    "GtE": ("ge", operator.ge),
}
UNARY: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "USub": ("neg", operator.neg),
    "Invert": ("invert", operator.invert),
    "Not": ("not", operator.not_),
}
