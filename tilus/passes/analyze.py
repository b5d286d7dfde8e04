"""Value analysis: what is certain about every scalar, whatever the arguments are.

    m: int32 % 16                    m:  any int32, divisible by 16
    var i: int32 = blockIdx.x * 64   i:  0 .. , divisible by 64
    for k in range(0, m, 32)         k:  0 .. m - 1, divisible by 32

A fact is a range and a divisor. Facts are one per variable for the whole program: the join of all
values assigned to it, found by iteration. Vector widths, ldmatrix legality and the removal of masks
all read this one lattice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

from tilus.dtypes import DataType
from tilus.ir.expr import BLOCK_IDX, GRID_DIM, Apply, Const, Expr, Var, as_int
from tilus.ir.operators import CAST
from tilus.ir.program import Program
from tilus.ir.stmt import Assign, Assume, Declare, Do, For, Return, Stmt
from tilus.ir.tensor import GlobalTensor
from tilus.ir.terms import variables
from tilus.ir.visit import walk

Bound = int | None  # None: not bounded


@dataclass(frozen=True)
class Fact:
    """lo <= value <= hi, and `divisor` divides it (0: the value is 0). The default says nothing."""

    lo: Bound = None
    hi: Bound = None
    divisor: int = 1

    @staticmethod
    def exactly(value: int) -> Fact:
        return Fact(value, value, abs(value))

    def join(self, other: Fact) -> Fact:
        """What holds for a value that obeys one or the other."""
        lo = None if self.lo is None or other.lo is None else min(self.lo, other.lo)
        hi = None if self.hi is None or other.hi is None else max(self.hi, other.hi)
        return Fact(lo, hi, math.gcd(self.divisor, other.divisor))

    def meet(self, other: Fact) -> Fact:
        """What holds for a value that obeys both."""
        los = [b for b in (self.lo, other.lo) if b is not None]
        his = [b for b in (self.hi, other.hi) if b is not None]
        divisor = 0 if 0 in (self.divisor, other.divisor) else math.lcm(self.divisor, other.divisor)
        return Fact(max(los, default=None), min(his, default=None), divisor)

    def fit(self, dtype: DataType) -> Fact:
        """The fact after the value was stored as `dtype`: wrapping keeps only powers of two."""
        low, high = _limits(dtype)
        if self.lo is not None and self.hi is not None and low <= self.lo and self.hi <= high:
            return self
        power = self.divisor & -self.divisor
        return Fact(low, high, power or 1)

    @property
    def constant(self) -> int | None:
        return self.lo if self.lo is not None and self.lo == self.hi else None


ANY = Fact()
PAGE = 4096  # bytes: the divisor of an address known to be 0
ROUNDS = 6  # of the fixpoint before ranges are widened


class Analysis:
    """Facts about the scalars of one program; satisfies `tilus.ir.instruction.Facts`."""

    def __init__(self, program: Program):
        self._facts: dict[Var, Fact] = {}
        self._alignment: dict[GlobalTensor, int] = {}
        # Of operators, by identity; the expression is kept, so that its id stays its own.
        self._results: dict[int, tuple[Expr, Fact]] = {}
        self._solved = False  # until then facts change
        for param in program.params:
            self._facts[param.var] = _type_fact(param.var.dtype, param.divisible_by)
        for promise in _promises(program):
            self._assume(promise)
        for axis in range(3):
            extent = self.fact(program.blocks[axis])
            top = None if extent.hi is None else max(extent.hi - 1, 0)
            self._facts[GRID_DIM[axis]] = extent.meet(Fact(0))
            self._facts[BLOCK_IDX[axis]] = Fact(0, top, 0 if top == 0 else 1)
        self._solve(program)
        self._solved = True
        for stmt in walk(program.body):
            if isinstance(stmt, Do) and isinstance(out := stmt.instruction.result, GlobalTensor):
                alignment = stmt.instruction.address_alignment(self)
                self._alignment[out] = math.gcd(self._alignment.get(out, 0), alignment)

    # ---- questions ----

    def divisibility(self, expr: Expr) -> int:
        return self.fact(expr).divisor

    def range(self, expr: Expr) -> tuple[Bound, Bound]:
        fact = self.fact(expr)
        return fact.lo, fact.hi

    def learn(self, var: Var, low: int, high: int) -> None:
        """Record that `var` is in low..high; it is new, in no expression asked about before."""
        self._facts[var] = Fact(low, high)

    def define(self, var: Var, value: Expr) -> None:
        """Record that `var` has this value; it is new, in no expression asked about before."""
        self._facts[var] = self.fact(value)

    def alignment(self, tensor: GlobalTensor) -> int:
        """The largest known divisor of the tensor's address, in elements."""
        nbytes = self._alignment.get(tensor, 1) or PAGE
        return 8 * nbytes // tensor.dtype.nbits if 8 * nbytes % tensor.dtype.nbits == 0 else 1

    def fact(self, expr: Expr) -> Fact:
        """What is certain about the value of an integer, pointer or bool expression."""
        if isinstance(expr, Const):
            whole = expr.dtype.is_integer() or expr.dtype.kind == "bool"
            return Fact.exactly(int(expr.value)) if whole else ANY
        if isinstance(expr, Var):
            return self._facts.get(expr) or _type_fact(expr.dtype, 1)
        known = self._results.get(id(expr))
        if known is not None:
            return known[1]
        assert isinstance(expr, Apply)
        fact = self._result(expr)
        if self._solved:
            self._results[id(expr)] = expr, fact
        return fact

    def _result(self, expr: Apply) -> Fact:
        """The fact of an operator, from those of its operands."""
        if expr.dtype.kind == "bool":
            return Fact(0, 1)
        if expr.op == CAST:
            return self._operand(expr.args[0], expr.dtype)
        rule = _RULES.get(expr.op)
        if rule is None or expr.dtype.is_float():
            return self._stored(ANY, expr.dtype)
        return self._stored(rule(*(self._operand(a, expr.dtype) for a in expr.args)), expr.dtype)

    def _operand(self, expr: Expr, dtype: DataType) -> Fact:
        """The fact of an operand, converted to the type that the operation is done in."""
        return self._stored(ANY if expr.dtype.is_float() else self.fact(expr), dtype)

    def _stored(self, fact: Fact, dtype: DataType) -> Fact:
        return fact.fit(dtype) if dtype.is_integer() else fact

    # ---- the fixpoint ----

    def _solve(self, program: Program) -> None:
        definitions = [d for stmt in walk(program.body) for d in self._definitions(stmt)]
        defined = {var for var, _ in definitions}
        for round_number in range(ROUNDS * 2):
            before = {var: self._facts.get(var) for var in defined}
            for var, value in definitions:
                new, old = value(), self._facts.get(var)
                joined = new if old is None else old.join(new)
                if round_number >= ROUNDS and joined != old:
                    joined = Fact(None, None, joined.divisor)
                self._facts[var] = self._stored(joined, var.dtype)
            if all(self._facts[var] == before[var] for var in defined):
                return
        for var in defined:  # divisors still shrinking: give up on those that move
            self._facts[var] = _type_fact(var.dtype, 1)

    def _definitions(self, stmt: Stmt) -> Iterator[tuple[Var, Callable[[], Fact]]]:
        if isinstance(stmt, (Declare, Assign)):
            yield stmt.var, lambda: self.fact(stmt.value)
        elif isinstance(stmt, For):
            yield stmt.var, lambda: self._loop_fact(stmt)
        elif isinstance(stmt, Do):
            for var in stmt.instruction.writes():
                if isinstance(var, Var):
                    yield var, partial(_type_fact, var.dtype, 1)

    def _loop_fact(self, loop: For) -> Fact:
        """start, start + step, ... while below (above) stop."""
        start, stop, step = self.fact(loop.start), self.fact(loop.stop), self.fact(loop.step)
        divisor = math.gcd(start.divisor, step.divisor)
        if step.lo is not None and step.lo > 0:
            last = None if stop.hi is None else stop.hi - 1
            return Fact(start.lo, _max(start.hi, last), divisor)
        if step.hi is not None and step.hi < 0:
            last = None if stop.lo is None else stop.lo + 1
            return Fact(_min(start.lo, last), start.hi, divisor)
        return Fact(None, None, divisor)

    # ---- promises ----

    def _assume(self, condition: Expr) -> None:
        """Refine a parameter by `p < c`, `p % c == 0`, ..."""
        if not isinstance(condition, Apply) or len(condition.args) != 2:
            return
        if condition.op == "and":
            for part in condition.args:
                self._assume(part)
            return
        left, right = condition.args
        bound = as_int(right)
        if bound is None or left.dtype != right.dtype:
            return
        if isinstance(left, Var) and left in self._facts and condition.op in _PROMISES:
            self._facts[left] = self._facts[left].meet(_PROMISES[condition.op](bound))
        elif condition.op == "eq" and bound == 0 and isinstance(left, Apply) and left.op == "mod":
            var, divisor = left.args[0], as_int(left.args[1])
            if isinstance(var, Var) and var in self._facts and divisor:
                self._facts[var] = self._facts[var].meet(Fact(divisor=abs(divisor)))


def _promises(program: Program) -> Iterator[Expr]:
    """The conditions that hold for the whole kernel: assumed at its start, of what never changes.

    Behind a statement that may end the kernel a promise concerns only those who get there.
    """
    assigned = {stmt.var for stmt in walk(program.body) if isinstance(stmt, Assign)}
    for stmt in program.body:
        if any(isinstance(inner, Return) for inner in walk((stmt,))):
            return
        if isinstance(stmt, Assume) and assigned.isdisjoint(variables(stmt.condition)):
            yield stmt.condition


@cache
def _limits(dtype: DataType) -> tuple[int, int]:
    return int(dtype.min_value), int(dtype.max_value)


@cache
def _type_fact(dtype: DataType, divisor: int) -> Fact:
    if dtype.is_integer():
        return Fact(*_limits(dtype), divisor)
    return Fact(0, 1) if dtype.kind == "bool" else Fact(None, None, divisor)


def _max(a: Bound, b: Bound) -> Bound:
    return None if a is None or b is None else max(a, b)


def _min(a: Bound, b: Bound) -> Bound:
    return None if a is None or b is None else min(a, b)


def _add(a: Bound, b: Bound) -> Bound:
    return None if a is None or b is None else a + b


def _negated(a: Fact) -> Fact:
    return Fact(None if a.hi is None else -a.hi, None if a.lo is None else -a.lo, a.divisor)


def _sum(a: Fact, b: Fact) -> Fact:
    return Fact(_add(a.lo, b.lo), _add(a.hi, b.hi), math.gcd(a.divisor, b.divisor))


def _product(a: Fact, b: Fact) -> Fact:
    divisor = a.divisor * b.divisor
    if a.lo is not None and a.hi is not None and b.lo is not None and b.hi is not None:
        corners = [x * y for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
        return Fact(min(corners), max(corners), divisor)
    if a.lo is not None and b.lo is not None and a.lo >= 0 and b.lo >= 0:
        return Fact(a.lo * b.lo, None, divisor)
    return Fact(divisor=divisor)


def _quotient(a: Fact, b: Fact) -> Fact:
    c = b.constant
    if c is None or c <= 0:
        return ANY
    exact = a.divisor // c if a.divisor % c == 0 else 1
    return Fact(None if a.lo is None else a.lo // c, None if a.hi is None else a.hi // c, exact)


def _remainder(a: Fact, b: Fact) -> Fact:
    c = b.constant
    if c is None or c <= 0:
        return ANY
    if a.divisor % c == 0:
        return Fact.exactly(0)
    if a.lo is not None and a.hi is not None and a.lo >= 0 and a.hi < c:
        return a
    return Fact(0, c - 1, math.gcd(a.divisor, c))


def _shifted_left(a: Fact, b: Fact) -> Fact:
    power = _power(b)
    return ANY if power is None else _product(a, Fact.exactly(power))


def _shifted_right(a: Fact, b: Fact) -> Fact:
    power = _power(b)
    return ANY if power is None else _quotient(a, Fact.exactly(power))


def _power(shift: Fact) -> int | None:
    amount = shift.constant
    return 1 << amount if amount is not None and 0 <= amount < 64 else None


def _masked(a: Fact, b: Fact) -> Fact:
    highs = [x.hi for x in (a, b) if x.lo is not None and x.lo >= 0 and x.hi is not None]
    return Fact(0, min(highs)) if highs else ANY


def _smaller(a: Fact, b: Fact) -> Fact:
    his = [x for x in (a.hi, b.hi) if x is not None]
    return Fact(_min(a.lo, b.lo), min(his, default=None), math.gcd(a.divisor, b.divisor))


def _larger(a: Fact, b: Fact) -> Fact:
    los = [x for x in (a.lo, b.lo) if x is not None]
    return Fact(max(los, default=None), _max(a.hi, b.hi), math.gcd(a.divisor, b.divisor))


def _absolute(a: Fact) -> Fact:
    high = None if a.lo is None or a.hi is None else max(abs(a.lo), abs(a.hi))
    return Fact(0, high, a.divisor)


_RULES: dict[str, Callable[..., Fact]] = {
    "add": _sum,
    "sub": lambda a, b: _sum(a, _negated(b)),
    "neg": _negated,
    "mul": _product,
    "square": lambda a: Fact(0, None, a.divisor * a.divisor).meet(_product(a, a)),
    "floordiv": _quotient,
    "mod": _remainder,
    "shl": _shifted_left,
    "shr": _shifted_right,
    "bitand": _masked,
    "min": _smaller,
    "max": _larger,
    "where": lambda condition, a, b: a.join(b),
    "abs": _absolute,
}

_PROMISES: dict[str, Callable[[int], Fact]] = {
    "lt": lambda c: Fact(hi=c - 1),
    "le": lambda c: Fact(hi=c),
    "gt": lambda c: Fact(lo=c + 1),
    "ge": lambda c: Fact(lo=c),
    "eq": Fact.exactly,
}
