"""Scalar expressions: what a kernel computes once per block, and the table of scalar operators.

An expression is a `Const`, a `Var` or an `Apply` of one row of `OPERATORS`; there is no other node.
A row says how the operator prints, evaluates, types and (as CUDA) spells itself, and the
elementwise instructions on tiles read the same rows, so an operator means the same on a scalar and
on a tile.

    >>> i = Var(dtypes.int32, "i")
    >>> str(add(mul(i, 2), 1))
    'i * 2 + 1'

The surprise: `//` and `%` round towards minus infinity as in Python, not towards zero as in C.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache, partial, reduce
from typing import Any, Union

import numpy as np

from tilus import dtypes
from tilus.dtypes import DataType
from tilus.errors import TilusError

Number = bool | int | float
Operand = Union["Expr", bool, int, float]
Array = np.ndarray[Any, Any]


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


# ---- typing -------------------------------------------------------------------------------------


def require_arithmetic(dtype: DataType) -> None:
    """Arithmetic is defined on the standard types; narrower ones are storage formats."""
    if (
        dtype.is_pointer()
        or dtype.is_subbyte()
        or dtype.kind == "codebook"
        or _is_narrow_float(dtype)
    ):
        raise TilusError(
            f"no arithmetic is defined on {dtype}",
            found=str(dtype),
            expected="bool, an integer of 8..64 bits, or a float of 16..64 bits",
            hint="cast it first, for example x.to(tilus.float16)",
        )


def _is_narrow_float(dtype: DataType) -> bool:
    return dtype.is_float() and dtype.nbits <= 8


def promote(a: DataType, b: DataType) -> DataType:
    """The common type: wider float wins, f16 with bf16 -> f32, float over integer, wider integer.

    Integers of one width and different signedness meet in the signed type of twice the width (at
    most 64 bits).
    """
    if a == b:
        return a
    for dtype in (a, b):
        require_arithmetic(dtype)
    if "bool" in (a.kind, b.kind):
        return b if a.kind == "bool" else a
    if a.is_float() != b.is_float():
        return a if a.is_float() else b
    if a.nbits != b.nbits:
        return a if a.nbits > b.nbits else b
    if a.is_float():
        return dtypes.float32
    return dtypes.dtype_from_name(f"int{min(64, 2 * a.nbits)}")


def _same(args: tuple[DataType, ...]) -> DataType:
    common = args[0]
    for other in args[1:]:
        common = promote(common, other)
    require_arithmetic(common)
    return common


def _number(args: tuple[DataType, ...]) -> DataType:
    """The common type; booleans are counted as int32, as in Python and C."""
    common = _same(args)
    return dtypes.int32 if common.kind == "bool" else common


def _boolean(args: tuple[DataType, ...]) -> DataType:
    _same(args)
    return dtypes.boolean


def _logical(args: tuple[DataType, ...]) -> DataType:
    return dtypes.boolean


def _integer(args: tuple[DataType, ...]) -> DataType:
    common = _same(args)
    if common.is_float():
        raise TilusError(
            f"bit operations need integers, not {common}",
            found=str(common),
            expected="integer or bool",
        )
    return common


def _floating(args: tuple[DataType, ...]) -> DataType:
    common = _same(args)
    return common if common.is_float() else dtypes.float32


def _select(args: tuple[DataType, ...]) -> DataType:
    return _same(args[1:])


# ---- the table ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operator:
    """One scalar operator: `name`, how it prints, its NumPy meaning, its typing rule and its CUDA
    spelling.

    `symbol` is the infix or prefix sign ("" = written as a call); `precedence` is Python's, higher
    binds tighter.
    """

    name: str
    arity: int
    numpy: Callable[..., Any]
    result: Callable[[tuple[DataType, ...]], DataType]
    cuda: str
    symbol: str = ""
    precedence: int = 100
    doc: str = ""


def _erf(x: Array) -> Array:
    # NumPy has no erf; math.erf is exact to about one unit in the last place of float64.
    return np.vectorize(math.erf, otypes=[np.float64])(x).astype(np.asarray(x).dtype)


def _clip(x: Array, low: Array, high: Array) -> Array:
    return np.minimum(np.maximum(x, low), high)


def _round_half_even(x: Array) -> Array:
    return np.rint(x)


def _sigmoid(x: Array) -> Array:
    wide = np.asarray(x).astype(np.float64)
    with np.errstate(over="ignore"):
        return (1.0 / (1.0 + np.exp(-wide))).astype(np.asarray(x).dtype)


def _rsqrt(x: Array) -> Array:
    return np.asarray(1.0 / np.sqrt(np.asarray(x).astype(np.float64))).astype(np.asarray(x).dtype)


def _reciprocal(x: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.asarray(1.0 / np.asarray(x).astype(np.float64)).astype(np.asarray(x).dtype)


def _integer_divisor(x: Array) -> Array:
    if np.issubdtype(np.asarray(x).dtype, np.integer) and np.any(np.asarray(x) == 0):
        raise TilusError("integer division by zero", hint="guard the division with an if statement")
    return x


def _floordiv(a: Array, b: Array) -> Any:
    return np.floor_divide(a, _integer_divisor(b))


def _mod(a: Array, b: Array) -> Any:
    return np.mod(a, _integer_divisor(b))


def _shift_left(a: Array, b: Array) -> Any:
    return np.where(
        np.asarray(b) < 8 * np.asarray(a).dtype.itemsize, np.left_shift(a, b), np.zeros_like(a)
    )


_ROWS = (
    Operator("or", 2, np.logical_or, _logical, "{} || {}", "or", 1, "logical or"),
    Operator("and", 2, np.logical_and, _logical, "{} && {}", "and", 2, "logical and"),
    Operator("not", 1, np.logical_not, _logical, "!{}", "not ", 3, "logical not"),
    Operator("eq", 2, np.equal, _boolean, "{} == {}", "==", 4, "equal"),
    Operator("ne", 2, np.not_equal, _boolean, "{} != {}", "!=", 4, "not equal"),
    Operator("lt", 2, np.less, _boolean, "{} < {}", "<", 4, "less"),
    Operator("le", 2, np.less_equal, _boolean, "{} <= {}", "<=", 4, "less or equal"),
    Operator("gt", 2, np.greater, _boolean, "{} > {}", ">", 4, "greater"),
    Operator("ge", 2, np.greater_equal, _boolean, "{} >= {}", ">=", 4, "greater or equal"),
    Operator("bitor", 2, np.bitwise_or, _integer, "{} | {}", "|", 5, "bitwise or"),
    Operator("bitxor", 2, np.bitwise_xor, _integer, "{} ^ {}", "^", 6, "bitwise exclusive or"),
    Operator("bitand", 2, np.bitwise_and, _integer, "{} & {}", "&", 7, "bitwise and"),
    Operator("shl", 2, _shift_left, _integer, "{} << {}", "<<", 8, "shift left"),
    Operator("shr", 2, np.right_shift, _integer, "{} >> {}", ">>", 8, "shift right"),
    Operator("add", 2, np.add, _number, "{} + {}", "+", 9, "sum"),
    Operator("sub", 2, np.subtract, _number, "{} - {}", "-", 9, "difference"),
    Operator("mul", 2, np.multiply, _number, "{} * {}", "*", 10, "product"),
    Operator("truediv", 2, np.true_divide, _floating, "{} / {}", "/", 10, "quotient"),
    Operator(
        "floordiv", 2, _floordiv, _number, "floordiv({}, {})", "//", 10, "floor of the quotient"
    ),
    Operator("mod", 2, _mod, _number, "mod({}, {})", "%", 10, "remainder, sign of the divisor"),
    Operator("neg", 1, np.negative, _number, "-{}", "-", 11, "negation"),
    Operator("invert", 1, np.invert, _integer, "~{}", "~", 11, "bitwise not"),
    Operator("min", 2, np.minimum, _same, "min({}, {})", doc="smaller of two"),
    Operator("max", 2, np.maximum, _same, "max({}, {})", doc="larger of two"),
    Operator("where", 3, np.where, _select, "{} ? {} : {}", doc="second where true, else third"),
    Operator("abs", 1, np.abs, _number, "abs({})", doc="absolute value"),
    Operator("clip", 3, _clip, _same, "min(max({}, {}), {})", doc="x kept within low..high"),
    Operator("square", 1, np.square, _number, "{0} * {0}", doc="x * x"),
    Operator("exp", 1, np.exp, _floating, "exp({})", doc="e to the x"),
    Operator("exp2", 1, np.exp2, _floating, "exp2({})", doc="2 to the x"),
    Operator("log", 1, np.log, _floating, "log({})", doc="natural logarithm"),
    Operator("log2", 1, np.log2, _floating, "log2({})", doc="base-2 logarithm"),
    Operator("sqrt", 1, np.sqrt, _floating, "sqrt({})", doc="square root"),
    Operator("rsqrt", 1, _rsqrt, _floating, "rsqrt({})", doc="1 / square root"),
    Operator("reciprocal", 1, _reciprocal, _floating, "reciprocal({})", doc="1 / x, approximately"),
    Operator("sin", 1, np.sin, _floating, "sin({})", doc="sine, radians"),
    Operator("cos", 1, np.cos, _floating, "cos({})", doc="cosine, radians"),
    Operator("tanh", 1, np.tanh, _floating, "tanh({})", doc="hyperbolic tangent"),
    Operator("sigmoid", 1, _sigmoid, _floating, "sigmoid({})", doc="1 / (1 + exp(-x))"),
    Operator("erf", 1, _erf, _floating, "erf({})", doc="error function"),
    Operator(
        "round", 1, _round_half_even, _floating, "rint({})", doc="nearest integer, ties to even"
    ),
    Operator("floor", 1, np.floor, _floating, "floor({})", doc="largest integer below"),
    Operator("ceil", 1, np.ceil, _floating, "ceil({})", doc="smallest integer above"),
)
OPERATORS: dict[str, Operator] = {row.name: row for row in _ROWS}
CAST = "cast"  # Apply("cast", (x,)) converts x to Apply.dtype; printed as dtype(x)


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


def compute(row: Operator, values: list[Any], args: list[DataType], result: DataType) -> Any:
    """Apply `row` to carrier arrays of types `args`, giving a carrier array of type `result`."""
    if any(d.is_pointer() for d in args):
        return np.asarray(row.numpy(*values))
    operand_types = operand_dtypes(row, tuple(args), result)
    inputs = [
        v if have == want else dtypes.convert(np.asarray(v), have, want)
        for v, have, want in zip(values, args, operand_types, strict=True)
    ]
    with np.errstate(all="ignore"):
        out = np.asarray(row.numpy(*inputs))
    return out if out.dtype == result.carrier else out.astype(result.carrier)


def operand_dtypes(
    row: Operator, args: tuple[DataType, ...], result: DataType
) -> tuple[DataType, ...]:
    """The type each operand takes before the operation."""
    if row.result is _logical:
        return (dtypes.boolean,) * row.arity
    if row.result is _boolean:
        return (_same(args),) * row.arity
    if row.result is _select:
        return (dtypes.boolean, result, result)
    return (result,) * row.arity


def variables(expr: Expr) -> Iterator[Var]:
    """Every occurrence of a variable, left to right."""
    if isinstance(expr, Var):
        yield expr
    elif isinstance(expr, Apply):
        for arg in expr.args:
            yield from variables(arg)


def substitute(expr: Expr, mapping: Mapping[Var, Expr]) -> Expr:
    """`expr` with variables replaced; unchanged subtrees stay the same objects."""
    if isinstance(expr, Var):
        return mapping.get(expr, expr)
    if isinstance(expr, Apply):
        args = tuple(substitute(a, mapping) for a in expr.args)
        if all(new is old for new, old in zip(args, expr.args, strict=True)):
            return expr
        if expr.op == CAST:
            return cast(args[0], expr.dtype)
        if any(a.dtype.is_pointer() for a in args):
            return Apply(expr.dtype, expr.op, args)
        return apply(expr.op, *args)
    return expr


def as_int(expr: object) -> int | None:
    """The Python int of a constant, else None."""
    if isinstance(expr, bool):
        return None
    if isinstance(expr, int):
        return expr
    if isinstance(expr, Const) and expr.dtype.is_integer():
        return int(expr.value)
    return None


def sum_terms(expr: Expr) -> Iterator[Expr]:
    """The operands of a sum of sums."""
    if isinstance(expr, Apply) and expr.op == "add":
        for operand in expr.args:
            yield from sum_terms(operand)
    else:
        yield expr


def split_constant(expr: Expr) -> tuple[Expr, int]:
    """A sum of integers as its variable terms, and its constant if that is not negative."""
    terms = list(sum_terms(expr))
    constant = sum(number for term in terms if (number := as_int(term)) is not None)
    if constant <= 0 or not expr.dtype.is_integer():
        return expr, 0
    variable = [term for term in terms if as_int(term) is None]
    return reduce(partial(apply, "add"), variable or [as_expr(0, expr.dtype)]), constant


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
