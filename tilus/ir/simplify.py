"""Simplification of scalar expressions: one table of rules, applied from the leaves up.

    (i * 64 + 3) * 2 // 128   ->   i              where i * 128 + 6 is known not to wrap
    blockIdx.y * n            ->   0              where the grid has one block in y

The rules are those of rules.py; here is when they are asked: operands first, then what the
operands or the range decide, then the first rule that matches, over and over.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import is_

from tilus.ir.expr import Apply, Const, Expr, as_int, const
from tilus.ir.operators import CAST
from tilus.ir.rule import folded_if_valid, limits
from tilus.ir.rules import candidates

Bounds = tuple[int | None, int | None]  # least and greatest value, None where not known
RangeOf = Callable[[Expr], Bounds]


def simplify(expr: Expr, range_of: RangeOf | None = None) -> Expr:
    """An expression of the same type and value, shorter where the rules find one.

    `range_of` gives bounds of an integer expression's value (`Analysis.range`); without it only the
    types bound the values. Unchanged subtrees stay the same objects.

    >>> from tilus.dtypes import int32
    >>> from tilus.ir.expr import Var
    >>> i = Var(int32, "i")
    >>> print(simplify((i + 1) + 2), "and", simplify((i * 8 + 3) // 4, lambda e: (0, 100)))
    i + 3 and i * 2
    """
    return Simplifier(range_of or _unbounded)(expr)


def _unbounded(expr: Expr) -> Bounds:
    return None, None


class Simplifier:
    """`simplify` that remembers its results: for many expressions with common parts. Equal results
    are the same object, so that whoever remembers by identity, too, finds them again.

    `range_of` must answer the same each time it is asked about an expression.
    """

    def __init__(self, range_of: RangeOf):
        self.range_of = range_of
        # By identity, as == takes 0.0 for -0.0; the expression is kept, so its id stays its own.
        self._results: dict[int, tuple[Expr, Expr]] = {}
        # Constants by type and text, results of operators by the identity of short operands.
        self._alike: dict[tuple[str | int, ...], Expr] = {}

    def __call__(self, expr: Expr) -> Expr:
        known = self._results.get(id(expr))
        if known is not None:
            return known[1]
        result = self._found_before(self.with_short_args(expr))
        self._results[id(expr)] = expr, result
        self._results[id(result)] = result, result
        return result

    def _found_before(self, expr: Expr) -> Expr:
        """What an expression of short operands becomes."""
        if isinstance(expr, Const):
            return self._alike.setdefault((expr.dtype.name, repr(expr.value)), expr)
        if not isinstance(expr, Apply):
            return self._decided_alike(expr)
        key = (expr.dtype.name, expr.op, *map(id, expr.args))
        found = self._alike.get(key)
        if found is None:
            found = self._alike[key] = self.rewritten(self._decided_alike(expr))
        return found

    def _decided_alike(self, expr: Expr) -> Expr:
        decided = self.decided(expr)
        return self(decided) if isinstance(decided, Const) else decided

    def with_short_args(self, expr: Expr) -> Expr:
        if not isinstance(expr, Apply):
            return expr
        args = tuple([self(a) for a in expr.args])
        if all(map(is_, args, expr.args)):
            return expr
        return Apply(expr.dtype, expr.op, args)

    def decided(self, expr: Expr) -> Expr:
        """A constant, where the operands or the range leave only one value."""
        if isinstance(expr, Const):
            return expr
        if isinstance(expr, Apply) and all(isinstance(a, Const) for a in expr.args):
            return folded_if_valid(expr)
        if expr.dtype.is_integer():
            low, high = self.bounds(expr)
            if low == high:
                return const(low, expr.dtype)
        return expr

    def rewritten(self, expr: Expr) -> Expr:
        if not isinstance(expr, Apply):
            return expr
        if expr.op == CAST:
            return _shorter_cast(expr)
        for rule in candidates(expr):
            result = rule.apply(expr, self.bounds)
            if result is not None:
                return self(result)
        return expr

    def bounds(self, expr: Expr) -> tuple[int, int]:
        """The range of an integer expression, at worst that of its type."""
        if (value := as_int(expr)) is not None:
            return value, value
        least, greatest = limits(expr.dtype)
        low, high = self.range_of(expr)
        low = least if low is None else max(low, least)
        high = greatest if high is None else min(high, greatest)
        # An empty range belongs to code that never runs; nothing is concluded from it.
        return (low, high) if low <= high else (least, greatest)


def _shorter_cast(expr: Apply) -> Expr:
    """cast(cast(x, int64), int32) -> x, where the type in between holds every value of x's."""
    (inner,) = expr.args
    if inner.dtype == expr.dtype:
        return inner
    if not (isinstance(inner, Apply) and inner.op == CAST and inner.dtype.is_integer()):
        return expr
    (source,) = inner.args
    if source.dtype != expr.dtype or not source.dtype.is_integer():
        return expr
    narrow, wide = source.dtype, inner.dtype
    holds = wide.min_value <= narrow.min_value and narrow.max_value <= wide.max_value
    return source if holds else expr
