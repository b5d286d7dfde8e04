"""Scalar expressions: typing, folding, meaning."""

from __future__ import annotations

import numpy as np
import pytest

import tilus.dtypes as d
from tilus.errors import TilusError
from tilus.ir.expr import Const, Var, apply, as_expr, cast, const, evaluate
from tilus.ir.operators import promote
from tilus.ir.terms import substitute, variables

I = Var(d.int32, "i")  # noqa: E741
B = Var(d.boolean, "b")


@pytest.mark.parametrize(
    ("a", "b", "common"),
    [
        (d.int8, d.int32, d.int32),
        (d.int32, d.float16, d.float16),
        (d.float16, d.bfloat16, d.float32),
        (d.float16, d.float32, d.float32),
        (d.uint8, d.int8, d.int16),
        (d.uint64, d.int64, d.int64),
        (d.boolean, d.int8, d.int8),
    ],
)
def test_promotion(a, b, common):
    assert common == promote(a, b) == promote(b, a)


@pytest.mark.parametrize("dtype", [d.int4b, d.float8_e4m3, d.float6_e3m2, ~d.float16])
def test_storage_formats_have_no_arithmetic(dtype):
    with pytest.raises(TilusError, match="no arithmetic is defined"):
        promote(dtype, d.int32)


@pytest.mark.parametrize("op", ["add", "sub", "mul", "floordiv", "mod"])
def test_booleans_are_counted(op):
    """Found by a random program: NumPy refuses to subtract booleans."""
    expr = apply(op, B, B)
    assert d.int32 == expr.dtype
    value = evaluate(expr, {B: np.asarray(True)})
    assert {"add": 2, "sub": 0, "mul": 1, "floordiv": 1, "mod": 0}[op] == value


def test_division_rounds_towards_minus_infinity():
    quotient, rest = apply("floordiv", I, 4), apply("mod", I, 4)
    env = {I: np.array([-5, -1, 0, 7], np.int32)}
    assert [-2, -1, 0, 1] == evaluate(quotient, env).tolist()
    assert [3, 3, 0, 3] == evaluate(rest, env).tolist()


def test_division_by_zero_is_an_error():
    with pytest.raises(TilusError, match="division by zero"):
        evaluate(apply("floordiv", 1, I), {I: np.asarray(0, np.int32)})


def test_logical_operators_stop_early():
    guarded = apply("and", apply("ne", I, 0), apply("eq", apply("floordiv", 8, I), 2))
    assert not evaluate(guarded, {I: np.asarray(0, np.int32)})


def test_integers_wrap():
    assert -(2**31) == evaluate(I + 1, {I: np.asarray(2**31 - 1, np.int32)})


def test_constants_fold_and_take_their_partner_s_type():
    assert Const(d.int32, 7) == apply("add", 3, 4)
    assert d.float16 == apply("mul", Var(d.float16, "x"), 2).dtype
    assert d.float32 == apply("mul", I, 0.5).dtype


def test_out_of_range_constants_are_refused():
    with pytest.raises(TilusError):
        const(300, d.uint8)
    with pytest.raises(TilusError):
        apply("add", Var(d.int8, "x"), 1000)


def test_pointers_step_by_elements():
    pointer = Var(~d.float32, "p")
    assert 112 == evaluate(apply("add", pointer, 3), {pointer: np.asarray(100)})
    with pytest.raises(TilusError, match="less than a byte"):
        apply("add", Var(~d.int4b, "p"), 1)
    with pytest.raises(TilusError, match="pointers do not support mul"):
        apply("mul", pointer, 2)


def test_the_value_of_a_scalar_is_not_known_to_python():
    with pytest.raises(TilusError, match="known only when the kernel runs"):
        bool(I + 1)


def test_substitution_and_variables():
    expr = I * 2 + cast(B, d.int32)
    assert [I, B] == list(variables(expr))
    assert expr is substitute(expr, {})
    assert 6 == evaluate(substitute(I * 2, {I: as_expr(3)}), {})
