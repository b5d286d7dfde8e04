"""Simplification of scalar expressions: one table of rules, applied from the leaves up.

    (i * 64 + 3) * 2 // 128   ->   i              where i * 128 + 6 is known not to wrap
    blockIdx.y * n            ->   0              where the grid has one block in y

A rule is written as it reads: `Rule((x + a) + b, x + (a + b))`, where `x` and `y` stand for any
integer expressions of one type, `a` and `b` for constants of it, and `p` for a boolean. The
surprise: integers wrap, so a rule that is only true of unbounded integers asks first whether the
ranges keep the values inside the type.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from operator import is_

from tilus import dtypes
from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.ir.expr import Apply, Const, Expr, Operand, Var, apply, as_int, const, folded
from tilus.ir.operators import CAST, OPERATORS

Bounds = tuple[int | None, int | None]  # least and greatest value, None where not known
RangeOf = Callable[[Expr], Bounds]


def simplify(expr: Expr, range_of: RangeOf | None = None) -> Expr:
    """An expression of the same type and value, shorter where the rules find one.

    `range_of` gives bounds of an integer expression's value (`Analysis.range`); without it only the
    types bound the values. Unchanged subtrees stay the same objects.

    >>> i = Var(dtypes.int32, "i")
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
            return _folded(expr)
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
        for rule in _candidates(expr.op, tuple([_head(a) for a in expr.args])):
            result = rule.apply(expr, self.bounds)
            if result is not None:
                return self(result)
        return expr

    def bounds(self, expr: Expr) -> tuple[int, int]:
        """The range of an integer expression, at worst that of its type."""
        if (value := as_int(expr)) is not None:
            return value, value
        least, greatest = _limits(expr.dtype)
        low, high = self.range_of(expr)
        low = least if low is None else max(low, least)
        high = greatest if high is None else min(high, greatest)
        # An empty range belongs to code that never runs; nothing is concluded from it.
        return (low, high) if low <= high else (least, greatest)


@cache
def _limits(dtype: DataType) -> tuple[int, int]:
    return int(dtype.min_value), int(dtype.max_value)


def _folded(expr: Apply) -> Expr:
    if expr.dtype.is_pointer() or any(a.dtype.is_pointer() for a in expr.args):
        return expr
    try:
        return folded(expr)
    except TilusError:  # division by zero: an error only if the program gets there
        return expr


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


# ---- rules --------------------------------------------------------------------------------------

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
        least, greatest = _limits(self.dtype)
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
    return _folded(result) if all(isinstance(a, Const) for a in args) else result


# ---- the table ----------------------------------------------------------------------------------

x, y = (Var(dtypes.int32, name) for name in "xy")
a, b = CONSTANTS = tuple(Var(dtypes.int32, name) for name in "ab")
p = Var(dtypes.boolean, "p")
ZERO = const(0, dtypes.int32)
TRUE, FALSE = Const(dtypes.boolean, True), Const(dtypes.boolean, False)


def _call(operator: str) -> Callable[..., Expr]:
    def build(*args: Operand) -> Expr:
        return apply(operator, *args)

    return build


eq, ne, lt, le, gt, ge = (_call(name) for name in ("eq", "ne", "lt", "le", "gt", "ge"))
conj, disj, inverse = _call("and"), _call("or"), _call("not")
bitand, bitor, bitxor = _call("bitand"), _call("bitor"), _call("bitxor")
shl, shr, minimum, maximum = _call("shl"), _call("shr"), _call("min"), _call("max")
where, absolute, negated = _call("where"), _call("abs"), _call("neg")


def _negative(match: Match) -> bool:
    """a is negative, and -a is a number of the type."""
    return match[a] < 0 and match.exact(0 - a)


def _multiple(match: Match) -> bool:
    """a is a multiple of b, b is positive and a is not zero."""
    return match[b] > 0 and match[a] != 0 and match[a] % match[b] == 0


def _keeps_residue(match: Match, pattern: Expr) -> bool:
    """The wrap of the type does not change what `pattern` is modulo b."""
    return match[b] & (match[b] - 1) == 0 or match.exact(pattern)


def _mask(match: Match) -> bool:
    """a is 0b0..01..1, and x is not larger."""
    return match[a] & (match[a] + 1) == 0 and match.within(x, 0, match[a])


RULES: tuple[Rule, ...] = (
    # sums: constants to the right, and together
    Rule(a + x, x + a),
    Rule(x + 0, x),
    Rule(x + a, x - (0 - a), _negative),
    Rule((x + a) + b, x + (a + b)),
    Rule((x - a) + b, x + (b - a)),
    Rule((x + a) + y, (x + y) + a),
    Rule((x - a) + y, (x + y) - a),
    Rule(x + (y + a), (x + y) + a),
    Rule(x + (y - a), (x + y) - a),
    Rule(x + (0 - y), x - y),
    Rule(x + -y, x - y),
    Rule((x // a) * a + x % a, x),
    Rule(x % a + (x // a) * a, x),
    Rule(x - 0, x),
    Rule(x - x, ZERO),
    Rule(x - a, x + (0 - a), _negative),
    Rule((x + a) - b, x + (a - b)),
    Rule((x - a) - b, x - (a + b)),
    Rule(x - -y, x + y),
    Rule((x + y) - x, y),
    Rule((x + y) - y, x),
    Rule(0 - x, -x),
    Rule(negated(-x), x),
    # products
    Rule(a * x, x * a),
    Rule(x * 0, ZERO),
    Rule(x * 1, x),
    Rule((x * a) * b, x * (a * b)),
    Rule((x + a) * b, x * b + a * b),
    # quotients and remainders, with the rounding of Python
    Rule(x // 1, x),
    Rule((x // a) // b, x // (a * b), lambda m: m[a] > 0 and m[b] > 0 and m.exact(a * b)),
    Rule((x * a) // b, x * (a // b), lambda m: _multiple(m) and m.exact(x * a)),
    Rule(
        (x * a + y) // b,
        x * (a // b) + y // b,
        lambda m: _multiple(m) and m.exact(x * a + y),
    ),
    Rule(
        (y + x * a) // b,
        x * (a // b) + y // b,
        lambda m: _multiple(m) and m.exact(x * a + y),
    ),
    Rule(x // a, ZERO, lambda m: m[a] > 0 and m.within(x, 0, m[a] - 1)),
    Rule(x % 1, ZERO),
    Rule(x % a, x, lambda m: m[a] > 0 and m.within(x, 0, m[a] - 1)),
    Rule((x * a) % b, ZERO, lambda m: _multiple(m) and _keeps_residue(m, x * a)),
    Rule((x * a + y) % b, y % b, lambda m: _multiple(m) and _keeps_residue(m, x * a + y)),
    Rule((y + x * a) % b, y % b, lambda m: _multiple(m) and _keeps_residue(m, x * a + y)),
    Rule((x + a) % b, x % b, lambda m: _multiple(m) and _keeps_residue(m, x + a)),
    Rule((x % a) % b, x % b, _multiple),
    # smaller, larger, magnitude
    Rule(minimum(a, x), minimum(x, a)),
    Rule(minimum(x, y), x, lambda m: m.less_equal(x, y)),
    Rule(minimum(x, y), y, lambda m: m.less_equal(y, x)),
    Rule(minimum(x, x), x),
    Rule(minimum(minimum(x, a), b), minimum(x, minimum(a, b))),
    Rule(maximum(a, x), maximum(x, a)),
    Rule(maximum(x, y), x, lambda m: m.less_equal(y, x)),
    Rule(maximum(x, y), y, lambda m: m.less_equal(x, y)),
    Rule(maximum(x, x), x),
    Rule(maximum(maximum(x, a), b), maximum(x, maximum(a, b))),
    Rule(absolute(x), x, lambda m: m.range(x)[0] >= 0),
    # bits
    Rule(bitand(a, x), bitand(x, a)),
    Rule(bitand(x, 0), ZERO),
    Rule(bitand(x, x), x),
    Rule(bitand(x, -1), x),
    Rule(bitand(x, a), x, _mask),
    Rule(bitand(bitand(x, a), b), bitand(x, bitand(a, b))),
    Rule(bitor(a, x), bitor(x, a)),
    Rule(bitor(x, 0), x),
    Rule(bitor(x, x), x),
    Rule(bitxor(a, x), bitxor(x, a)),
    Rule(bitxor(x, 0), x),
    Rule(bitxor(x, x), ZERO),
    Rule(shl(x, 0), x),
    Rule(shr(x, 0), x),
    # comparisons: the constant to the right, and what ranges decide
    Rule(eq(a, x), eq(x, a)),
    Rule(ne(a, x), ne(x, a)),
    Rule(lt(a, x), gt(x, a)),
    Rule(le(a, x), ge(x, a)),
    Rule(gt(a, x), lt(x, a)),
    Rule(ge(a, x), le(x, a)),
    Rule(eq(x, x), TRUE),
    Rule(ne(x, x), FALSE),
    Rule(lt(x, x), FALSE),
    Rule(le(x, x), TRUE),
    Rule(gt(x, x), FALSE),
    Rule(ge(x, x), TRUE),
    Rule(eq(x, y), FALSE, lambda m: m.unequal(x, y)),
    Rule(ne(x, y), TRUE, lambda m: m.unequal(x, y)),
    Rule(lt(x, y), TRUE, lambda m: m.less(x, y)),
    Rule(lt(x, y), FALSE, lambda m: m.less_equal(y, x)),
    Rule(le(x, y), TRUE, lambda m: m.less_equal(x, y)),
    Rule(le(x, y), FALSE, lambda m: m.less(y, x)),
    Rule(gt(x, y), TRUE, lambda m: m.less(y, x)),
    Rule(gt(x, y), FALSE, lambda m: m.less_equal(x, y)),
    Rule(ge(x, y), TRUE, lambda m: m.less_equal(y, x)),
    Rule(ge(x, y), FALSE, lambda m: m.less(x, y)),
    # logic
    Rule(conj(p, TRUE), p),
    Rule(conj(TRUE, p), p),
    Rule(conj(p, FALSE), FALSE),
    Rule(conj(FALSE, p), FALSE),
    Rule(conj(p, p), p),
    Rule(disj(p, FALSE), p),
    Rule(disj(FALSE, p), p),
    Rule(disj(p, TRUE), TRUE),
    Rule(disj(TRUE, p), TRUE),
    Rule(disj(p, p), p),
    Rule(inverse(inverse(p)), p),
    Rule(inverse(eq(x, y)), ne(x, y)),
    Rule(inverse(ne(x, y)), eq(x, y)),
    Rule(inverse(lt(x, y)), ge(x, y)),
    Rule(inverse(le(x, y)), gt(x, y)),
    Rule(inverse(gt(x, y)), le(x, y)),
    Rule(inverse(ge(x, y)), lt(x, y)),
    Rule(where(TRUE, x, y), x, any_type=True),
    Rule(where(FALSE, x, y), y, any_type=True),
    Rule(where(p, x, x), x),
    Rule(where(inverse(p), x, y), where(p, y, x), any_type=True),
)


_RULES_BY_OPERATOR: dict[str, list[Rule]] = defaultdict(list)
for _rule in RULES:
    _RULES_BY_OPERATOR[_rule.operator].append(_rule)


def _head(expr: Expr) -> str | None:
    """What a pattern asks of an operand first: its operator, "" of a constant, None of others."""
    if isinstance(expr, Apply):
        return expr.op
    return "" if isinstance(expr, Const) else None


@cache
def _candidates(operator: str, heads: tuple[str | None, ...]) -> tuple[Rule, ...]:
    """The rules that may match an operator on operands with these heads, in the table's order."""
    return tuple(
        rule for rule in _RULES_BY_OPERATOR[operator] if all(map(_admits, rule.operands, heads))
    )


def _admits(pattern: Expr, head: str | None) -> bool:
    if isinstance(pattern, Apply):
        return head == pattern.op
    return head == "" or not (isinstance(pattern, Const) or pattern in CONSTANTS)
