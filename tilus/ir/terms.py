"""The parts of an expression: its variables, and others in their place; the terms of a sum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial, reduce

from tilus.ir.expr import Apply, Expr, Var, apply, as_expr, as_int, cast
from tilus.ir.operators import CAST


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
