"""The table of rules by which scalar expressions are simplified."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import cache

from tilus import dtypes
from tilus.ir.expr import Apply, Const, Expr, Operand, apply, const
from tilus.ir.rule import CONSTANTS, Match, Rule, a, b, p, x, y

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


def candidates(expr: Apply) -> tuple[Rule, ...]:
    """The rules that may match, in the table's order."""
    return _candidates(expr.op, tuple([_head(a) for a in expr.args]))


@cache
def _candidates(operator: str, heads: tuple[str | None, ...]) -> tuple[Rule, ...]:
    return tuple(
        rule for rule in _RULES_BY_OPERATOR[operator] if all(map(_admits, rule.operands, heads))
    )


def _admits(pattern: Expr, head: str | None) -> bool:
    if isinstance(pattern, Apply):
        return head == pattern.op
    return head == "" or not (isinstance(pattern, Const) or pattern in CONSTANTS)
