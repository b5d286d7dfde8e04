"""Scalar simplification of whole programs."""

from __future__ import annotations

import pytest

from tests.passes.programs import HEADER, body_of, program
from tilus.passes.simplify_scalars import SimplifyScalars

VIEW = "g: global float32[n] = global_view(p)\n"


def simplified(body: str, header: str = HEADER) -> str:
    return body_of(SimplifyScalars()(program(body, header)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("n = n * 1 + 0", "n = n"),
        ("c = n % 8 == 0", "c = True"),
        ("if blockIdx.x < 0:\n    return", "if False:\n    return"),
        ("while 1 + 1 == 3:\n    pass", "while False:\n    pass"),
        (
            "for i in range(n * 0, 64, 32):\n    c = i < 64",
            "for i in range(0, 64, 32):\n    c = True",
        ),
        ("n = blockIdx.y", "n = 0"),  # the grid has one block in y
    ],
)
def test_statements(before: str, after: str):
    assert after == simplified(before)


def test_fields_of_instructions():
    before = VIEW + "x: float32[128] = load_global(g, offsets=[blockIdx.x * 2 * 64 + 0], dims=[0])"
    after = VIEW + "x: float32[128] = load_global(g, offsets=[blockIdx.x * 128], dims=[0])"
    assert after == simplified(before)


def test_variables_where_they_are_defined_stay():
    body = (
        "var zero: int32 = 0\n"
        "zero = 0\n"
        "for i in range(0, 1):\n"
        "    x: int32[4] = register_tensor(axes=[i0], init=i0 + 0)\n"
        "    v: scalar int32 = item(x)\n"
        "    n = zero + i + v"
    )
    after = body.replace("init=i0 + 0", "init=i0").replace("zero + i + v", "v")
    assert after.replace("int32[4]", "int32[1]") == simplified(body.replace("int32[4]", "int32[1]"))


def test_tensors_keep_their_extents():
    body = "g: global float32[n * 1, 4] @ strides[4, n * 0 + 1] = global_view(p)"
    assert body == simplified(body)


def test_a_promise_is_used_but_not_erased():
    body = "assume n < 100\nc = n < 100"
    assert "assume n < 100\nc = True" == simplified(body)


def test_a_promise_behind_a_return_holds_only_there():
    body = "if n >= 100:\n    return\nassume n < 100\nc = n < 200"
    assert body == simplified(body)


def test_a_simple_program_is_the_same_object():
    source = program(VIEW + "n = n + 1")
    assert source is SimplifyScalars()(source)
