"""A rule of simplification: a pattern, what it becomes, and what must hold for that.

    Rule((x + a) + b, x + (a + b))

`x` and `y` stand for any integer expressions of one type, `a` and `b` for constants of it, and `p`
for a boolean. The surprise: integers wrap, so a rule that is only true of unbounded integers asks
first whether the ranges keep the values inside the type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from tilus import dtypes
from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.ir.expr import Apply, Const, Expr, Var, as_int, const, folded
from tilus.ir.operators import OPERATORS

x, y = (Var(dtypes.int32, name) for name in "xy")
a, b = CONSTANTS = tuple(Var(dtypes.int32, name) for name in "ab")
p = Var(dtypes.boolean, "p")
BoundsOf = Callable[[Expr], tuple[int, int]]


@dataclass
class Match:
    """What the names of a pattern stand for at one place, and the questions a rule may ask."""

    bounds_of: BoundsOf
    terms: dict[Var, Expr] = field(default_factory=dict)
    dtype: DataType | None = None  # of all integer terms

    def __getitem__(self, constant: Expr) -> int:
        """The value of a constant of the pattern."""
        assert isinstance(constant, Var)
        value = as_int(self.terms[constant])
        assert value is not None
        return value

    def range(self, pattern: Expr) -> tuple[int, int]:
        """The bounds of a pattern of + - * in unbounded integers."""
        if isinstance(pattern, Var):
            return self.bounds_of(self.terms[pattern])
        if (value := as_int(pattern)) is not None:
            return value, value
        assert isinstance(pattern, Apply)
        (low, high), (least, greatest) = (self.range(arg) for arg in pattern.args)
        if pattern.op == "add":
            return low + least, high + greatest
        if pattern.op == "sub":
            return low - greatest, high - least
        assert pattern.op == "mul"
        corners = (low * least, low * greatest, high * least, high * greatest)
        return min(corners), max(corners)

    def exact(self, pattern: Expr) -> bool:
        """True where the pattern's value is the one of unbounded integers: it does not wrap."""
        low, high = self.range(pattern)
        assert self.dtype is not None
        least, greatest = limits(self.dtype)
        return least <= low and high <= greatest

    def within(self, pattern: Expr, low: int, high: int) -> bool:
        least, greatest = self.range(pattern)
        return low <= least and greatest <= high

    def less(self, left: Expr, right: Expr) -> bool:
        """left < right, always."""
        return self.range(left)[1] < self.range(right)[0]

    def less_equal(self, left: Expr, right: Expr) -> bool:
        """left <= right, always."""
        return self.range(left)[1] <= self.range(right)[0]

    def unequal(self, left: Expr, right: Expr) -> bool:
        """left != right, always."""
        return self.less(left, right) or self.less(right, left)


def _always(match: Match) -> bool:
    return True


@dataclass(frozen=True, eq=False)
class Rule:
    """`pattern` may become `result` wherever it matches and `when` holds.

    `any_type` admits floats too: the rule moves values and computes none.
    """

    pattern: Expr
    result: Expr
    when: Callable[[Match], bool] = _always
    any_type: bool = False

    @property
    def operator(self) -> str:
        assert isinstance(self.pattern, Apply)
        return self.pattern.op

    @property
    def operands(self) -> tuple[Expr, ...]:
        assert isinstance(self.pattern, Apply)
        return self.pattern.args

    def apply(self, expr: Apply, bounds_of: BoundsOf) -> Expr | None:
        """What `expr` becomes by this rule, or None where it does not match."""
        match = Match(bounds_of)
        if not _matches(self.pattern, expr, match):
            return None
        if match.dtype is not None and not (self.any_type or match.dtype.is_integer()):
            return None
        return _instance(self.result, match) if self.when(match) else None


def _matches(pattern: Expr, expr: Expr, match: Match) -> bool:
    if isinstance(pattern, Apply):
        return (
            isinstance(expr, Apply)
            and expr.op == pattern.op
            and all(_matches(p, e, match) for p, e in zip(pattern.args, expr.args, strict=True))
        )
    if pattern.dtype.kind == "bool":
        if expr.dtype.kind != "bool":
            return False
    elif expr.dtype.kind == "bool" or match.dtype not in (None, expr.dtype):
        return False
    else:
        match.dtype = expr.dtype
    if isinstance(pattern, Const):
        return isinstance(expr, Const) and expr.value == pattern.value
    assert isinstance(pattern, Var)
    if pattern in CONSTANTS and not isinstance(expr, Const):
        return False
    return _same(match.terms.setdefault(pattern, expr), expr)


def _same(one: Expr, other: Expr) -> bool:
    """Equal trees; unlike ==, it tells 0.0 from -0.0."""
    if one is other:
        return True
    if isinstance(one, Apply) and isinstance(other, Apply):
        return (one.dtype, one.op) == (other.dtype, other.op) and all(
            _same(x, y) for x, y in zip(one.args, other.args, strict=True)
        )
    if isinstance(one, Const) and isinstance(other, Const):
        return one.dtype == other.dtype and repr(one.value) == repr(other.value)
    return False


def _instance(pattern: Expr, match: Match) -> Expr:
    if isinstance(pattern, Var):
        return match.terms[pattern]
    if isinstance(pattern, Const):
        if pattern.dtype.kind == "bool":
            return pattern
        assert match.dtype is not None
        return const(pattern.value, match.dtype)
    assert isinstance(pattern, Apply)
    args = tuple(_instance(a, match) for a in pattern.args)
    dtype = OPERATORS[pattern.op].result(tuple(a.dtype for a in args))
    result = Apply(dtype, pattern.op, args)
    return folded_if_valid(result) if all(isinstance(a, Const) for a in args) else result


@cache
def limits(dtype: DataType) -> tuple[int, int]:
    """The least and the greatest value of an integer type."""
    return int(dtype.min_value), int(dtype.max_value)


def folded_if_valid(expr: Apply) -> Expr:
    """The value of an operator on constants; the expression itself where there is none."""
    if expr.dtype.is_pointer() or any(a.dtype.is_pointer() for a in expr.args):
        return expr
    try:
        return folded(expr)
    except TilusError:  # division by zero: an error only if the program gets there
        return expr
