"""The table of scalar operators, and of what types they take and give.

A row says how the operator prints, evaluates, types and (as CUDA) spells itself. Expressions and
the elementwise instructions on tiles read the same rows, so an operator means the same on a scalar
and on a tile.

The surprise: `//` and `%` round towards minus infinity as in Python, not towards zero as in C.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilus import dtypes
from tilus.dtypes import Array, DataType
from tilus.errors import TilusError

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


# ---- computing ----------------------------------------------------------------------------------


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
