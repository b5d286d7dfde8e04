"""Value analysis: what it finds, and that no run of any program contradicts it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.passes.programs import HEADER, program
from tilus.dtypes import boolean, float32, int8, int32, int64, uint8
from tilus.errors import TilusError
from tilus.interp.flatten import Jump, SetVar, flatten
from tilus.ir.expr import BLOCK_IDX, GRID_DIM, Apply, Const, Expr, Var, apply, cast, const, evaluate
from tilus.ir.program import Param, Program
from tilus.ir.stmt import Assign, Body, Declare, For, If, Stmt, While
from tilus.ir.tensor import GlobalTensor
from tilus.ir.visit import expressions, instructions, walk
from tilus.passes.analyze import Analysis, Fact
from tilus.passes.dead_code import DeadCode
from tilus.passes.simplify_scalars import SimplifyScalars

LEAST, GREATEST = -(2**31), 2**31 - 1


def fact_of(body: str, name: str, header: str = HEADER) -> Fact:
    """What is known about the variable `name` of the program."""
    source = program(body, header)
    variables = {
        var.name: var
        for stmt in walk(source.body)
        for var in expressions(stmt)
        if isinstance(var, Var)
    }
    return Analysis(source).fact(variables[name])


@pytest.mark.parametrize(
    ("body", "name", "expected"),
    [
        ("n = n", "n", Fact(LEAST, GREATEST, 16)),
        ("var i: int32 = blockIdx.x", "i", Fact(0, GREATEST - 1, 1)),
        ("var i: int32 = blockIdx.y", "i", Fact(0, 0, 0)),
        ("var i: int32 = 24", "i", Fact(24, 24, 24)),
        ("var i: int32 = n * 4", "i", Fact(LEAST, GREATEST, 64)),
        ("var i: int32 = n * 3", "i", Fact(LEAST, GREATEST, 16)),  # a wrap keeps powers of two
        ("for i in range(0, 128, 32):\n    n = i", "i", Fact(0, 127, 32)),
        ("for i in range(64, -1, -16):\n    n = i", "i", Fact(0, 64, 16)),
        ("for i in range(0, n, 48):\n    n = i", "i", Fact(0, GREATEST - 1, 48)),
        ("var i: int32 = 0\nif c:\n    i = 12\nelse:\n    i = 20", "i", Fact(0, 20, 4)),
        ("var i: int32 = 0\nwhile c:\n    i = i + 12", "i", Fact(LEAST, GREATEST, 4)),
        ("var i: int32 = n % 64", "i", Fact(0, 63, 16)),
        ("var i: int32 = n % 8", "i", Fact(0, 0, 0)),
        ("var i: int32 = (n & 255) // 4", "i", Fact(0, 63, 1)),
        ("var i: int32 = min(max(n, 0), 100)", "i", Fact(0, 100, 4)),
        ("var i: int32 = where(c, 6, 9)", "i", Fact(6, 9, 3)),
        ("var i: int32 = cast(c, int32)", "i", Fact(0, 1, 1)),
        ("var i: int32 = 1 << 4", "i", Fact(16, 16, 16)),
        ("assume n >= 0 and n < 1000\nvar i: int32 = n", "i", Fact(0, 999, 16)),
        ("assume n % 96 == 0\nvar i: int32 = n", "i", Fact(LEAST, GREATEST, 96)),
        ("assume n == 32\nvar i: int32 = n", "i", Fact(32, 32, 32)),
    ],
)
def test_facts(body: str, name: str, expected: Fact):
    assert expected == fact_of(body, name)


@pytest.mark.parametrize(
    "body",
    [
        "if n > 9:\n    return\nassume n < 10",  # only those who get there promise
        "n = n - 5\nassume n < 10",  # another value of n
        "while c:\n    assume n < 10",
    ],
)
def test_promises_that_hold_only_at_their_place(body: str):
    assert fact_of(body + "\nvar i: int32 = n", "i").hi == GREATEST


@pytest.mark.parametrize(
    ("pointer", "dtype", "expected"),
    [
        ("p", "float32", 4),
        ("p + 8", "float32", 2),  # in text, pointers step by bytes
        ("p + 16 * blockIdx.x", "float32", 4),
        ("p + 2", "float32", 1),
        ("cast(p, ~uint4b)", "uint4b", 32),
        ("cast(p, ~float16)", "float16", 8),
        ("cast(p, ~float6_e3m2)", "float6_e3m2", 1),  # 16 bytes are no whole number of elements
    ],
)
def test_alignment_in_elements(pointer: str, dtype: str, expected: int):
    source = program(f"g: global {dtype}[n] = global_view({pointer})")
    (view,) = instructions(source)
    assert isinstance(view.result, GlobalTensor)
    assert expected == Analysis(source).alignment(view.result)


def test_an_operand_is_converted_before_the_operation():
    """-10 is a multiple of 10, as uint64 it is not."""
    x = Var(int32, "x")
    source = Program("k", (Param(x, 10),), (const(1), const(1), const(1)), 1, ())
    remainder = Apply(Var(int64, "").dtype, "mod", (x, const(10, int64)))
    assert Fact(0, 0, 0) == Analysis(source).fact(remainder)
    from_unsigned = apply("mod", x, const(10, uint8))
    assert Fact(0, 0, 0) == Analysis(source).fact(from_unsigned)
    wrapped = cast(cast(x, uint8), int32)
    assert Fact(0, 255, 2) == Analysis(source).fact(wrapped)


def test_a_cast_to_bool_is_no_cast_to_an_integer():
    x = Var(int32, "x")
    source = Program("k", (Param(x, 16),), (const(1), const(1), const(1)), 1, ())
    assert Fact(0, 1) == Analysis(source).fact(cast(x, boolean))


def test_nothing_is_known_of_floats():
    assert Fact() == Analysis(program("pass")).fact(const(2.0, float32))


# ---- soundness ----------------------------------------------------------------------------------

N, M, BYTE = Var(int32, "n"), Var(int32, "m"), Var(int8, "byte")
PARAMS = (Param(N, 16), Param(M, 6), Param(BYTE))
LOCALS = tuple(Var(int32, f"v{k}") for k in range(4))
OPERATORS = ["add", "sub", "mul", "floordiv", "mod", "min", "max", "bitand", "shl", "shr", "bitor"]
STEPS = 300


@st.composite
def scalars(draw: Any, readable: tuple[Var, ...], depth: int = 2) -> Expr:
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        constant = st.builds(const, st.integers(-4, 64))
        return draw(constant | st.sampled_from(readable))
    operands = scalars(readable, depth - 1)
    name = draw(st.sampled_from([*OPERATORS, "abs", "cast", "where"]))
    try:
        if name == "abs":
            return apply("abs", draw(operands))
        if name == "cast":
            return cast(draw(operands), draw(st.sampled_from([int8, uint8, int32, int64])))
        if name == "where":
            return apply("where", draw(conditions(readable)), draw(operands), draw(operands))
        return apply(name, draw(operands), draw(operands))
    except TilusError:  # a division of constants by zero
        return const(1)


@st.composite
def conditions(draw: Any, readable: tuple[Var, ...]) -> Expr:
    operands = scalars(readable, 1)
    return apply(draw(st.sampled_from(["lt", "le", "eq", "ne"])), draw(operands), draw(operands))


@st.composite
def statements(draw: Any, readable: tuple[Var, ...], depth: int) -> Stmt:
    kind = draw(st.sampled_from(["assign"] * 3 + (["if", "for", "while"] if depth else [])))
    if kind == "assign":
        value = cast(draw(scalars(readable)), int32)
        return Assign(draw(st.sampled_from(LOCALS)), value)
    if kind == "for":
        step = draw(st.sampled_from([1, 3, 16, -1, -8]))
        bounds = [cast(draw(scalars(readable, 1)), int32) for _ in range(2)]
        var = Var(int32, "i")
        return For(var, *bounds, const(step), draw(blocks((*readable, var), depth - 1)))
    condition, body = draw(conditions(readable)), draw(blocks(readable, depth - 1))
    if kind == "while":
        return While(condition, body)
    return If(condition, body, draw(blocks(readable, depth - 1)))


def blocks(readable: tuple[Var, ...], depth: int) -> st.SearchStrategy[Body]:
    return st.lists(statements(readable, depth), min_size=1, max_size=3).map(tuple)


@st.composite
def scalar_programs(draw: Any) -> Program:
    known: tuple[Var, ...] = (N, M, BYTE, BLOCK_IDX[0], BLOCK_IDX[1])
    body: Body = ()
    for var in LOCALS:
        body += (Declare(var, cast(draw(scalars(known)), int32)),)
        known += (var,)
    body += draw(blocks(known, 2))
    extents = (draw(st.sampled_from([N, const(5), const(1)])), const(3), const(1))
    return Program("k", PARAMS, extents, 1, body)


def environment(source: Program, data: Any) -> dict[Var, Any]:
    env: dict[Var, Any] = {
        N: np.int32(16 * data.draw(st.integers(0, 5) | st.integers(0, 2**26))),
        M: np.int32(6 * data.draw(st.integers(-5, 5) | st.integers(-(2**27), 2**27))),
        BYTE: np.int8(data.draw(st.integers(-128, 127))),
    }
    for axis, extent in enumerate(source.blocks):
        count = int(evaluate(extent, env))
        env[GRID_DIM[axis]] = np.int32(count)
        env[BLOCK_IDX[axis]] = np.int32(data.draw(st.integers(0, max(count - 1, 0))))
    return env


def run(source: Program, env: dict[Var, Any]) -> list[tuple[Var, int]]:
    """Every value that a local variable took, in order; up to the first error or so many steps."""
    steps, position, history = flatten(source.body), 0, list[tuple[Var, int]]()
    values = dict(env)
    for _ in range(STEPS):
        if position >= len(steps):
            break
        step = steps[position]
        position += 1
        try:
            if isinstance(step, SetVar):
                values[step.var] = evaluate(step.value, values)
                if step.var in LOCALS:
                    history.append((step.var, int(values[step.var])))
            elif isinstance(step, Jump) and not (
                step.condition is not None and evaluate(step.condition, values)
            ):
                position = step.target
        except TilusError:
            break  # a division by zero ends the program
    return history


def obeys(value: int, fact: Fact) -> bool:
    above = fact.lo is None or fact.lo <= value
    below = fact.hi is None or value <= fact.hi
    return above and below and (value == 0 if fact.divisor == 0 else value % fact.divisor == 0)


@given(scalar_programs(), st.data())
def test_every_value_of_a_run_obeys_the_facts(source: Program, data: Any):
    analysis = Analysis(source)
    for var, value in run(source, environment(source, data)):
        assert obeys(value, analysis.fact(var)), f"{var.name} = {value}: {analysis.fact(var)}"


@given(scalar_programs(), st.data())
def test_every_expression_obeys_its_fact(source: Program, data: Any):
    """Facts of expressions, for values of the parameters that obey theirs."""
    analysis, env = Analysis(source), environment(source, data)
    declared = [stmt for stmt in source.body if isinstance(stmt, Declare)]
    for stmt in declared:
        try:
            env[stmt.var] = evaluate(stmt.value, env)
        except TilusError:
            return
        value = int(env[stmt.var])
        assert obeys(value, analysis.fact(stmt.value)), f"{stmt.value} = {value}"


@given(scalar_programs(), st.data())
def test_simplification_keeps_every_value(source: Program, data: Any):
    result = SimplifyScalars()(source)
    env = environment(source, data)
    expected, actual = run(source, env), run(result, env)
    assert expected == actual[: len(expected)]


def test_a_constant_condition_removes_the_branch():
    source = program("var i: int32 = blockIdx.y\nif i > 0:\n    sync()")
    result = DeadCode()(SimplifyScalars()(source))
    assert () == result.body
    assert Const(int32, 0) == SimplifyScalars()(program("n = blockIdx.z")).body[0].value  # type: ignore[attr-defined]
