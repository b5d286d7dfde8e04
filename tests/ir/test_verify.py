"""The verifier: scopes, loops, thread groups, the life of shared memory; all messages are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

import tilus.instructions  # noqa: F401 (fills the registry)
from tilus.dtypes import boolean, float32, int32
from tilus.errors import TilusError
from tilus.ir.expr import Var, const
from tilus.ir.instruction import Instruction
from tilus.ir.parser import parse_program
from tilus.ir.program import Param, Program
from tilus.ir.stmt import Assume, Body, Declare, Do, For, If, ThreadGroup, While
from tilus.ir.tensor import SharedTensor
from tilus.ir.verify import verify

# Instructions that only allocate, touch and free: lives do not depend on what is computed.


class Toy(Instruction):
    def run(self, machine: Any) -> None:
        raise NotImplementedError("a toy is never run")


@dataclass(frozen=True, eq=False)
class Alloc(Toy, name="verify.alloc"):
    allocates_shared: ClassVar[bool] = True
    out: SharedTensor


@dataclass(frozen=True, eq=False)
class Touch(Toy, name="verify.touch"):
    src: SharedTensor


@dataclass(frozen=True, eq=False)
class Part(Toy, name="verify.part"):
    out: SharedTensor
    src: SharedTensor


@dataclass(frozen=True, eq=False)
class Free(Toy, name="verify.free"):
    frees_operand: ClassVar[bool] = True
    src: SharedTensor


HEADER = "kernel k(n: int32, c: bool, p: ~float32) blocks=[n] warps=4:\n"
ALLOC = "s: shared float32[32] = verify.alloc()\n"


def indented(body: str) -> str:
    return HEADER + "".join(f"    {line}\n" for line in body.strip("\n").split("\n"))


def check(body: str) -> None:
    verify(parse_program(indented(body), "k.tir"))


def failure(body: str) -> TilusError:
    with pytest.raises(TilusError) as caught:
        check(body)
    return caught.value


def line_of(error: TilusError) -> int:
    """The line of the body that the error points at, from 1."""
    assert error.location is not None
    return error.location.line - 1


@pytest.mark.parametrize(
    "body",
    [
        "var i: int32 = 0\ni = i + n",
        "for i in range(0, n):\n    var j: int32 = i\n    j = j + i",
        "while n < 4:\n    if c:\n        break\n    continue",
        "threads 32..64:\n    threads 0..1:\n        pass",
        ALLOC + "verify.touch(s)\nverify.free(s)",
        ALLOC + "if c:\n    verify.free(s)\nelse:\n    verify.touch(s)\n    verify.free(s)",
        ALLOC + "while c:\n    if c:\n        verify.free(s)\n        break\n    verify.touch(s)",
        ALLOC + "if c:\n    verify.free(s)\n    return\nverify.touch(s)",
        "while c:\n    s: shared float32[32] = verify.alloc()\n    verify.free(s)",
    ],
)
def test_legal(body: str):
    check(body)


@pytest.mark.parametrize(
    ("body", "line", "message"),
    [
        (
            "for i in range(0, n):\n    pass\nvar j: int32 = i",
            3,
            "i is used where it is not defined",
        ),
        ("if c:\n    var j: int32 = 1\nn = j", 3, "j is used where it is not defined"),
        ("while c:\n    var j: int32 = 1\nn = j", 3, "j is used where it is not defined"),
        (
            'if c:\n    x: float32[32] = register_tensor()\nprint_tensor("x", x)',
            3,
            "print_tensor: x is used where it is not defined",
        ),
        ("break", 1, "break outside a loop"),
        ("if c:\n    continue", 2, "continue outside a loop"),
        ("while n:\n    pass", 1, "a condition is a boolean"),
        ("if n:\n    pass", 1, "a condition is a boolean"),
        ("assume n", 1, "a condition is a boolean"),
        ("n = 1.5", 1, "the value of n has another type"),
        ("for i in range(0, n, 0):\n    pass", 1, "the step of a loop is 0"),
        ("threads 0..33:\n    pass", 1, "the thread group does not fit"),
        ("threads 96..160:\n    pass", 1, "the thread group does not fit"),
        ("threads 0..32:\n    threads 32..64:\n        pass", 2, "the thread group does not fit"),
    ],
)
def test_scopes_and_statements(body: str, line: int, message: str):
    error = failure(body)
    assert (line, message) == (line_of(error), error.message)


def test_the_value_of_another_type_is_shown():
    error = failure("n = 1.5")
    assert ("float32 1.5", "int32") == (error.found, error.expected)
    assert "write cast(..., int32)" == error.hint


def test_a_thread_group_that_does_not_fit_is_shown():
    error = failure("threads 96..160:\n    pass")
    assert "64 threads from thread 96" == error.found
    assert "one thread, or whole warps of 32, of the 128 threads here" == error.expected


# ---- shared memory ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "freed", "used"),
    [
        ("verify.free(s)\nverify.touch(s)", 2, 3),
        ("if c:\n    verify.free(s)\nverify.touch(s)", 3, 4),
        ("if c:\n    pass\nelse:\n    verify.free(s)\nverify.touch(s)", 5, 6),
        ("while c:\n    verify.touch(s)\n    verify.free(s)", 4, 3),  # the next iteration
        ("while c:\n    if c:\n        verify.free(s)\n        break\nverify.touch(s)", 4, 6),
        (
            "while c:\n    verify.touch(s)\n    if c:\n        verify.free(s)\n        continue",
            5,
            3,
        ),
        ("t: shared float32[8] = verify.part(s)\nverify.free(s)\nverify.touch(t)", 3, 4),
        ("t: shared float32[8] = verify.part(s)\nverify.free(t)\nverify.touch(s)", 3, 4),
    ],
)
def test_shared_memory_used_after_it_was_freed(body: str, freed: int, used: int):
    error = failure(ALLOC + body)
    assert "the shared tensor s is used after it was freed" == error.message
    assert "move free_shared behind the last use, on every path" == error.hint
    ((place, note),) = error.related
    assert (used, freed, "freed here") == (line_of(error), place.line - 1, note)


@pytest.mark.parametrize(
    "body",
    [
        "verify.free(s)\nverify.free(s)",
        "if c:\n    verify.free(s)\nverify.free(s)",
        "for i in range(0, n):\n    verify.free(s)",
    ],
)
def test_shared_memory_freed_twice(body: str):
    assert "the shared tensor s is freed twice" == failure(ALLOC + body).message


# ---- what text cannot say -----------------------------------------------------------------------

n, flag = Var(int32, "n"), Var(boolean, "flag")
PROGRAM = Program("k", (Param(n), Param(flag)), (n, const(1), const(1)), 1, ())


def message_of(program: Program) -> str:
    with pytest.raises(TilusError) as caught:
        verify(program)
    return str(caught.value)


def of_body(body: Body) -> str:
    return message_of(replace(PROGRAM, body=body))


def test_two_parameters_of_one_name():
    text = message_of(replace(PROGRAM, params=(Param(n), Param(Var(int32, "n")))))
    assert "error: two parameters are called n\n  hint:     rename one" == text


@pytest.mark.parametrize("extent", [Var(int32, "m"), const(1.0, float32)])
def test_the_grid_is_an_integer_expression_of_parameters(extent: Any):
    text = message_of(replace(PROGRAM, blocks=(extent, const(1), const(1))))
    assert "the grid must be an integer expression of the parameters" in text
    assert f"found:    {extent}" in text
    assert "expected: parameters: n, flag" in text


def test_a_variable_that_is_assigned_before_it_is_declared():
    stray = Var(int32, "stray")
    assert "stray is used where it is not defined" in of_body((Declare(n, stray + 1),))


def test_the_bounds_of_a_loop_have_the_type_of_its_variable():
    loop = For(Var(int32, "i"), const(0.0), n, const(1), ())
    text = of_body((loop,))
    assert "the bounds and the variable of a loop have one type" in text
    assert "found:    float32 0.0" in text


def test_a_thread_group_before_the_first_thread():
    assert "32 threads from thread -32" in of_body((ThreadGroup(-32, 32, ()),))


@pytest.mark.parametrize("make", [lambda e: While(e, ()), lambda e: If(e, ()), Assume])
def test_conditions_say_what_they_are_instead(make: Any):
    assert "found:    int32 n + 1" in of_body((make(n + 1),))


def test_an_instruction_checks_its_own_operands():
    error = failure(
        'x: float32[32] = register_tensor()\ny: float32[16] = elementwise("add", [x, x])'
    )
    assert "elementwise: add gives another type than its result has" == error.message
    assert 2 == line_of(error)


def test_extents_of_a_view_are_defined_before_it():
    error = failure("if c:\n    var m: int32 = n\ng: global float32[m] = global_view(p)")
    assert (3, "m is used where it is not defined") == (line_of(error), error.message)


def test_a_tile_read_by_itself_only_is_not_defined():
    tensor = SharedTensor(float32, (8,), name="s")
    assert "verify.touch: s is used where it is not defined" in of_body((Do(Touch(tensor)),))
