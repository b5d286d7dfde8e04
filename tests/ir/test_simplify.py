"""Scalar simplification: every rule keeps the value, whatever the type and the ranges are."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilus import dtypes
from tilus.dtypes import DataType, boolean, float32, int8, int32, int64, uint8
from tilus.errors import TilusError
from tilus.ir.expr import Apply, Const, Expr, Var, apply, cast, const, evaluate
from tilus.ir.operators import OPERATORS
from tilus.ir.rule import CONSTANTS, Rule
from tilus.ir.rules import RULES
from tilus.ir.simplify import Simplifier, simplify

i, j, n = (Var(int32, name) for name in "ijn")
RANGES = {i: (0, 31), j: (0, 3), n: (1, 2**31 - 1)}


def range_of(expr: Expr) -> tuple[int | None, int | None]:
    return RANGES.get(expr, (None, None)) if isinstance(expr, Var) else (None, None)


def less(left: object, right: object) -> Expr:
    return apply("lt", left, right)


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        (i + 0, "i"),
        (3 + i, "i + 3"),
        ((i + 1) + 2, "i + 3"),
        ((i + 5) - 7, "i - 2"),
        ((i + 1) + (j + 2), "i + j + 3"),
        (i * 2 * 8, "i * 16"),
        (i - i, "0"),
        ((i * 64) // 64, "i"),
        ((n * 64) // 64, "n * 64 // 64"),  # n * 64 may wrap
        ((i * 64) % 64, "0"),
        ((n * 64) % 64, "0"),  # wrapping keeps remainders of powers of two
        ((n * 48) % 48, "n * 48 % 48"),
        ((i * 4 + j) // 4, "i"),
        ((i * 4 + j) % 4, "j"),
        ((j + i * 4) // 2, "i * 2 + j // 2"),
        (n // 4 // 8, "n // 32"),
        ((i // 4) * 4 + i % 4, "i"),
        (i % 32, "i"),
        (i // 32, "0"),
        (less(i, 32), "True"),
        (less(i, 31), "i < 31"),
        (less(31, i), "False"),
        (less(16, i), "i > 16"),
        (apply("eq", i, 40), "False"),
        (apply("not", less(i, n)), "i >= n"),
        (apply("and", less(i, n), less(i, 32)), "i < n"),
        (apply("min", i, 31), "i"),
        (apply("max", i, 0), "i"),
        (apply("abs", i), "i"),
        (apply("bitand", i, 31), "i"),
        (apply("where", less(i, 32), j, n), "j"),
        (cast(cast(n, int64), int32), "n"),
        (apply("neg", -i), "i"),
    ],
)
def test_what_rules_find(expr: Expr, expected: str):
    assert expected == str(simplify(expr, range_of))


def test_the_type_stays():
    narrow = Var(int8, "narrow")
    result = simplify(narrow - narrow)
    assert Const(int8, 0) == result


def test_unchanged_trees_are_the_same_objects():
    expr = (i + n) * j
    assert expr is simplify(expr, range_of)


def test_a_range_of_one_value_is_a_constant():
    assert const(7, int32) == simplify(i, lambda expr: (7, 7))


def test_an_empty_range_decides_nothing():
    expr = less(i, 5)
    assert expr is simplify(expr, lambda expr: (9, 3))


def test_floats_are_folded_but_not_rearranged():
    x = Var(float32, "x")
    for expr in (x + 0.0, x * 0.0, x - x, apply("eq", x, x)):
        assert expr is simplify(expr)
    folded = simplify(Apply(float32, "add", (const(1.5, float32), const(2.0, float32))))
    assert const(3.5, float32) == folded


def test_signed_zeros_are_different_terms():
    x = Var(float32, "x")
    less_than_zero = Apply(boolean, "lt", (Apply(float32, "truediv", (x, const(0.0))), x))
    other = Apply(boolean, "lt", (Apply(float32, "truediv", (x, const(-0.0))), x))
    expr = apply("and", less_than_zero, other)
    assert expr is simplify(expr)


def test_a_division_by_zero_is_left_to_the_run():
    expr = Apply(int32, "floordiv", (const(1), const(0)))
    assert expr is simplify(expr)


# ---- laws ---------------------------------------------------------------------------------------


def instantiate(pattern: Expr, terms: Mapping[Var, Expr], dtype: DataType) -> Expr:
    if isinstance(pattern, Var):
        return terms[pattern]
    if isinstance(pattern, Const):
        return pattern if pattern.dtype.kind == "bool" else const(pattern.value, dtype)
    assert isinstance(pattern, Apply)
    args = tuple(instantiate(a, terms, dtype) for a in pattern.args)
    return Apply(OPERATORS[pattern.op].result(tuple(a.dtype for a in args)), pattern.op, args)


def pattern_variables(pattern: Expr) -> set[Var]:
    if isinstance(pattern, Apply):
        return set().union(*(pattern_variables(a) for a in pattern.args))
    return {pattern} if isinstance(pattern, Var) else set()


class Instance:
    """A rule's pattern with random terms, ranges and values inside the ranges."""

    def __init__(self, rule: Rule, rng: random.Random):
        self.dtype = rng.choice([int8, uint8, int32])
        self.terms: dict[Var, Expr] = {}
        self.ranges: dict[Expr, tuple[int, int]] = {}
        self.env: dict[Var, Any] = {}
        for var in sorted(pattern_variables(rule.pattern), key=lambda v: v.name):
            self.terms[var] = self.term(var, rng)

    def term(self, var: Var, rng: random.Random) -> Expr:
        least, greatest = int(self.dtype.min_value), int(self.dtype.max_value)
        if var in CONSTANTS:
            value = rng.choice([1, 2, 3, 4, 7, 8, 12, 16, least, -1, rng.randint(-20, 20)])
            return const(max(least, value), self.dtype)
        if var.dtype == boolean:
            term = Var(boolean, var.name)
            self.env[term] = np.asarray(rng.random() < 0.5)
            return term
        term = Var(self.dtype, var.name)
        first = rng.choice([0, 1, least, rng.randint(-9, 9), rng.randint(least, greatest)])
        low = min(max(least, first), greatest)
        high = min(greatest, low + rng.choice([0, 1, 3, 8, 200, 2**31]))
        self.ranges[term] = (low, high)
        self.env[term] = np.asarray(rng.randint(low, high), self.dtype.carrier)
        return term

    def range_of(self, expr: Expr) -> tuple[int | None, int | None]:
        return self.ranges.get(expr, (None, None)) if isinstance(expr, Var) else (None, None)

    def bounds_of(self, expr: Expr) -> tuple[int, int]:
        if isinstance(expr, Const):
            return int(expr.value), int(expr.value)
        if isinstance(expr, Var):
            return self.ranges[expr]
        return int(expr.dtype.min_value), int(expr.dtype.max_value)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.pattern} -> {rule.result}")
def test_each_rule_keeps_type_and_value(rule: Rule):
    rng = random.Random(str(rule.pattern))
    applied = 0
    for _ in range(400):
        instance = Instance(rule, rng)
        try:
            expr = instantiate(rule.pattern, instance.terms, instance.dtype)
            expected = evaluate(expr, instance.env)
        except TilusError:
            continue  # -1 of an unsigned type, or a division by zero
        assert isinstance(expr, Apply)
        direct = rule.apply(expr, instance.bounds_of)
        applied += direct is not None
        for result in (direct, simplify(expr, instance.range_of)):
            if result is not None:
                assert expr.dtype == result.dtype
                assert expected == evaluate(result, instance.env), f"{expr} -> {result}"
    assert applied > 0


INTEGER_OPERATORS = [
    "add", "sub", "mul", "floordiv", "mod", "min", "max", "bitand", "bitor", "bitxor", "shl", "shr",
]  # fmt: skip
COMPARISONS = ["eq", "ne", "lt", "le", "gt", "ge"]


@st.composite
def expressions(draw: Any, leaves: tuple[Var, ...], depth: int = 4) -> Expr:
    """Integer expressions over variables of several types, with small constants."""
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        if draw(st.booleans()):
            return draw(st.sampled_from(leaves))
        return const(draw(st.integers(-3, 20)), int32)
    children = expressions(leaves, depth - 1)
    kind = draw(st.integers(0, 9))
    if kind == 0:
        operator = draw(st.sampled_from(["neg", "abs", "invert"]))
        return Apply((a := draw(children)).dtype, operator, (a,))
    if kind == 1:
        condition = Apply(
            boolean, draw(st.sampled_from(COMPARISONS)), (draw(children), draw(children))
        )
        then, otherwise = draw(children), draw(children)
        dtype = OPERATORS["where"].result((boolean, then.dtype, otherwise.dtype))
        return Apply(dtype, "where", (condition, then, otherwise))
    if kind == 2:
        return cast(draw(children), draw(st.sampled_from([int8, int32, int64])))
    args = (draw(children), draw(children))
    operator = draw(st.sampled_from(INTEGER_OPERATORS))
    return Apply(OPERATORS[operator].result(tuple(a.dtype for a in args)), operator, args)


LEAVES = (Var(int32, "p"), Var(int32, "q"), Var(int64, "w"), Var(int8, "s"), Var(uint8, "u"))


@given(expressions(LEAVES), st.data())
def test_random_expressions_keep_their_value(expr: Expr, data: Any):
    ranges, env = {}, {}
    for leaf in LEAVES:
        least, greatest = int(leaf.dtype.min_value), int(leaf.dtype.max_value)
        low = data.draw(st.sampled_from([0, 1, least]) | st.integers(least, greatest))
        high = data.draw(st.sampled_from([low, greatest]) | st.integers(low, greatest))
        ranges[leaf] = (low, high)
        env[leaf] = np.asarray(data.draw(st.integers(low, high)), leaf.dtype.carrier)

    def known(e: Expr) -> tuple[int | None, int | None]:
        return ranges.get(e, (None, None)) if isinstance(e, Var) else (None, None)

    result = simplify(expr, known)
    assert expr.dtype == result.dtype
    try:
        expected = evaluate(expr, env)
    except TilusError:
        return  # a division by zero
    assert expected == evaluate(result, env)
    assert result is simplify(result, known)


def test_pointer_arithmetic_is_shortened_and_stays_a_pointer():
    pointer = Var(~dtypes.float32, "ptr")
    result = simplify(Apply(pointer.dtype, "add", (pointer, (i + 1) + 2)))
    assert ("ptr + (i + 3)", pointer.dtype) == (str(result), result.dtype)


def test_equal_results_are_the_same_object():
    short = Simplifier(range_of)
    found = [short(e) for e in ((i + 1) + 2, (i + 2) + 1, i + 3, 3 + i)]
    assert all(one is found[0] for one in found)
    assert short(const(3, int32)) is found[0].args[1]


def test_zeros_of_either_sign_are_no_equal_results():
    short, x = Simplifier(range_of), Var(float32, "x")
    ends = [short(apply("mul", x, const(zero, float32))) for zero in (0.0, -0.0)]
    assert ["x * 0.0", "x * -0.0"] == [str(end) for end in ends]
