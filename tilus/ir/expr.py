"""Scalar expressions: what a kernel computes once per block.

An expression is a `Const`, a `Var` or an `Apply` of one row of `OPERATORS`; there is no other node.

    >>> i = Var(dtypes.int32, "i")
    >>> str(add(mul(i, 2), 1))
    'i * 2 + 1'
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Union

import numpy as np

from tilus import dtypes
from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.ir.operators import CAST, OPERATORS, Operator, compute

Number = bool | int | float
Operand = Union["Expr", bool, int, float]


@dataclass(frozen=True, eq=False)
class Expr:
    """Base of the three nodes. `dtype` is the type of the value."""

    dtype: DataType

    def __str__(self) -> str:
        return format_expr(self)

    # Arithmetic builds expressions, so that host helpers such as cdiv work on kernel scalars.
    # Comparisons do not: equality of expressions is that of their trees, and tests rely on it.
    def __add__(self, other: Operand) -> Expr:
        return apply("add", self, other)

    def __radd__(self, other: Operand) -> Expr:
        return apply("add", other, self)

    def __sub__(self, other: Operand) -> Expr:
        return apply("sub", self, other)

    def __rsub__(self, other: Operand) -> Expr:
        return apply("sub", other, self)

    def __mul__(self, other: Operand) -> Expr:
        return apply("mul", self, other)

    def __rmul__(self, other: Operand) -> Expr:
        return apply("mul", other, self)

    def __floordiv__(self, other: Operand) -> Expr:
        return apply("floordiv", self, other)

    def __rfloordiv__(self, other: Operand) -> Expr:
        return apply("floordiv", other, self)

    def __mod__(self, other: Operand) -> Expr:
        return apply("mod", self, other)

    def __rmod__(self, other: Operand) -> Expr:
        return apply("mod", other, self)

    def __and__(self, other: Operand) -> Expr:
        return apply("bitand", self, other)

    def __xor__(self, other: Operand) -> Expr:
        return apply("bitxor", self, other)

    def __rshift__(self, other: Operand) -> Expr:
        return apply("shr", self, other)

    def __neg__(self) -> Expr:
        return apply("neg", self)

    def __bool__(self) -> bool:
        raise TilusError(
            f"the value of {self} is known only when the kernel runs",
            expected="a value known at compile time",
            hint="use it in an if statement of the kernel, or make it a Python int parameter",
        )


@dataclass(frozen=True)
class Const(Expr):
    value: Number = 0


@dataclass(frozen=True, eq=False)
class Var(Expr):
    """A parameter, a loop variable, an axis or a declared scalar; identity is the object."""

    name: str = ""


@dataclass(frozen=True)
class Apply(Expr):
    op: str = ""
    args: tuple[Expr, ...] = ()


BLOCK_IDX = tuple(Var(dtypes.int32, f"blockIdx.{axis}") for axis in "xyz")
GRID_DIM = tuple(Var(dtypes.int32, f"gridDim.{axis}") for axis in "xyz")
BUILTIN_VARS = {v.name: v for v in (*BLOCK_IDX, *GRID_DIM)}


# ---- building -----------------------------------------------------------------------------------


def const(value: Number, dtype: DataType | None = None) -> Const:
    """A literal; the type defaults to bool, int32 (int64 where 32 bits do not hold it) or
    float32.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if dtype is None:
        dtype = _literal_dtype(value)
    return Const(dtype, dtype.constant(value))


def _literal_dtype(value: Number) -> DataType:
    if isinstance(value, bool):
        return dtypes.boolean
    if isinstance(value, float):
        return dtypes.float32
    return dtypes.int32 if -(2**31) <= value < 2**31 else dtypes.int64


def as_expr(value: object, like: DataType | None = None) -> Expr:
    """`value` as an expression; a Python number takes the type of its partner `like` where that can
    hold it.
    """
    if isinstance(value, Expr):
        return value
    if isinstance(value, (bool, int, float, np.generic)):
        number = value.item() if isinstance(value, np.generic) else value
        return const(number, _weak_dtype(number, like))
    raise TilusError(
        "a scalar is needed here",
        found=f"{type(value).__name__} {repr(value) if isinstance(value, str) else value!s:.60}",
        expected="a Python number or a scalar of the kernel",
    )


def _weak_dtype(number: Number, like: DataType | None) -> DataType | None:
    if like is None or like.is_pointer() or isinstance(number, bool):
        return None
    if isinstance(number, float) and not like.is_float():
        return dtypes.float32
    return None if like.kind == "bool" else like


def apply(name: str, *args: object) -> Expr:
    """Operator `name` on expressions or Python numbers, typed by the table and folded where all are
    constant.
    """
    row = OPERATORS[name]
    like = next((a.dtype for a in args if isinstance(a, Expr) and a.dtype.kind != "bool"), None)
    exprs = tuple(as_expr(a, like) for a in args)
    if any(e.dtype.is_pointer() for e in exprs):
        return _pointer_arithmetic(name, exprs)
    result = Apply(_result_dtype(row, tuple([e.dtype for e in exprs])), name, exprs)
    if all(isinstance(e, Const) for e in exprs):
        return folded(result)
    return result


def folded(expr: Apply) -> Const:
    """An operator on constants as the constant it is. Raises: TilusError for divisions by 0."""
    if all(e.dtype.is_integer() for e in (expr, *expr.args)):
        return _folded_integers(expr)  # which are equal only if they are the same
    value = expr.dtype.decode(np.asarray(evaluate(expr, {})))
    return const(value.item(), expr.dtype)


@lru_cache(1 << 14)
def _folded_integers(expr: Apply) -> Const:
    return const(evaluate(expr, {}).item(), expr.dtype)


@cache
def _result_dtype(row: Operator, args: tuple[DataType, ...]) -> DataType:
    return row.result(args)


def _pointer_arithmetic(name: str, args: tuple[Expr, ...]) -> Expr:
    """`pointer + k` steps by elements; the tree holds bytes, so that nothing later asks for the
    pointee.
    """
    if name in ("eq", "ne"):
        return Apply(dtypes.boolean, name, args)
    pointer, step = (args[0], args[-1]) if args[0].dtype.is_pointer() else (args[-1], args[0])
    pointee = pointer.dtype.pointee
    if (
        name not in ("add", "sub")
        or not step.dtype.is_integer()
        or (name == "sub" and args[0] is not pointer)
    ):
        raise TilusError(
            f"pointers do not support {name}",
            found=" and ".join(str(a.dtype) for a in args),
            expected="pointer + integer, pointer - integer, == or !=",
        )
    if pointee is not None and pointee.is_subbyte():
        raise TilusError(
            f"a step of {pointee} is less than a byte",
            hint="make a global_view of the pointer and use offsets",
        )
    nbytes = 1 if pointee is None else pointee.nbytes
    return Apply(pointer.dtype, name, (pointer, apply("mul", cast(step, dtypes.int64), nbytes)))


def cast(value: object, dtype: DataType) -> Expr:
    """`value` converted to `dtype`, with the rules of the cast instruction.

    A Python number must be one that `dtype` can hold.
    """
    if isinstance(value, (bool, int, float)) and not isinstance(value, Expr):
        return const(value, dtype)
    expr = as_expr(value)
    if expr.dtype == dtype:
        return expr
    result = Apply(dtype, CAST, (expr,))
    if isinstance(expr, Const) and not dtype.is_pointer():
        return const(dtype.decode(evaluate(result, {})).item(), dtype)
    return result


def add(a: object, b: object) -> Expr:
    return apply("add", a, b)


def mul(a: object, b: object) -> Expr:
    return apply("mul", a, b)


# ---- reading ------------------------------------------------------------------------------------


def evaluate(expr: Expr, env: Mapping[Var, Any]) -> Any:
    """The value as a NumPy array or scalar of the carrier type, broadcast over the arrays in `env`.

    Logical `and` / `or` do not look at their second operand where the first decides for all.
    """
    if isinstance(expr, Const):
        return np.asarray(expr.dtype.encode(np.asarray(expr.value)))
    if isinstance(expr, Var):
        return env[expr]
    assert isinstance(expr, Apply)
    if expr.op in ("and", "or"):
        first = evaluate(expr.args[0], env)
        if np.all(np.asarray(first, bool) == (expr.op == "or")):
            return np.asarray(first, bool)
    values = [evaluate(a, env) for a in expr.args]
    if expr.op == CAST:
        return dtypes.convert(np.asarray(values[0]), expr.args[0].dtype, expr.dtype)
    return compute(OPERATORS[expr.op], values, [a.dtype for a in expr.args], expr.dtype)


def as_int(expr: object) -> int | None:
    """The Python int of a constant, else None."""
    if isinstance(expr, bool):
        return None
    if isinstance(expr, int):
        return expr
    if isinstance(expr, Const) and expr.dtype.is_integer():
        return int(expr.value)
    return None


# ---- printing -----------------------------------------------------------------------------------


def _own_name(var: Var) -> str:
    return var.name


def format_expr(expr: Expr, outer: int = 0, names: Callable[[Var], str] = _own_name) -> str:
    """Python syntax that the parser reads back to the same tree.

    There are parentheses only where precedence needs them: `outer` is how tightly the surroundings
    bind. `names` gives the name to print for a variable, where its own may not be unique.
    """
    if isinstance(expr, Const):
        return _format_const(expr)
    if isinstance(expr, Var):
        return names(expr)
    assert isinstance(expr, Apply)
    if expr.op == CAST:
        return f"cast({format_expr(expr.args[0], 0, names)}, {expr.dtype})"
    row = OPERATORS[expr.op]
    if not row.symbol:
        return f"{row.name}({', '.join(format_expr(a, 0, names) for a in expr.args)})"
    if row.arity == 1:
        text = f"{row.symbol}{_format_operand(row, expr.args[0], names)}"
    else:
        # Comparisons do not chain in the IR, so both sides of one bind tighter than it.
        left = row.precedence + (row.precedence == 4)
        lhs = format_expr(expr.args[0], left, names)
        text = f"{lhs} {row.symbol} {format_expr(expr.args[1], row.precedence + 1, names)}"
    return f"({text})" if row.precedence < outer else text


def _format_operand(row: Operator, operand: Expr, names: Callable[[Var], str]) -> str:
    """The operand of a prefix operator; `-3` is a literal, so the negation of the literal 3 is
    `-(3)`.
    """
    text = format_expr(operand, row.precedence, names)
    is_literal = text[0].isdigit() or text in ("inf", "nan")
    return f"({text})" if row.name == "neg" and is_literal else text


def _format_const(expr: Const) -> str:
    value = expr.dtype.constant(expr.value)
    text = format_number(value)
    if expr.dtype == _literal_dtype(value):
        return text
    return f"({expr.dtype})({text})" if str(expr.dtype).startswith("~") else f"{expr.dtype}({text})"


def format_number(value: Number) -> str:
    if isinstance(value, float) and (math.isinf(value) or math.isnan(value)):
        return str(value)  # inf, -inf, nan
    return repr(value)


dtypes.set_constant_factory(lambda dtype, value: cast(value, dtype))
