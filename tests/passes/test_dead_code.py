"""Dead code: what goes, and what must stay."""

from __future__ import annotations

import pytest

from tests.passes.programs import body_of, program
from tilus.passes.dead_code import DeadCode

VIEW = "g: global float32[n] = global_view(p)\n"
LOAD = "x: float32[128] = load_global(g, offsets=[0], dims=[0])\n"
STORE = "store_global(g, x, offsets=[0], dims=[0])"


def cleaned(body: str) -> str:
    return body_of(DeadCode()(program(body)))


def test_a_chain_of_unread_results_goes_at_once():
    assert "pass" == cleaned(VIEW + LOAD + 'y: float32[128] = elementwise("add", [x, x])')


def test_what_is_stored_stays():
    assert VIEW + LOAD + STORE == cleaned(VIEW + LOAD + STORE)


def test_a_tile_that_a_later_line_updates_stays():
    body = (
        VIEW
        + "x: float32[128] = register_tensor(init=0.0)\nx = load_global(g, offsets=[0], dims=[0])\n"
    )
    assert body + STORE == cleaned(body + STORE)


def test_the_extents_of_a_stored_tensor_are_read():
    body = (
        "var m: int32 = n * 2\ng: global float32[m, 128] @ strides[m, 1] = global_view(p)\n"
        + "x: float32[128] = register_tensor(init=0.0)\n"
        + "store_global(g, x, offsets=[0, 0], dims=[1])"
    )
    assert body == cleaned(body)


@pytest.mark.parametrize(
    ("body", "rest"),
    [
        ("var i: int32 = 0\ni = 3", "pass"),
        ("var i: int32 = 0\nif c:\n    i = 3", "pass"),
        ("if True:\n    sync()\nelse:\n    return", "sync()"),
        ("if False:\n    sync()", "pass"),
        ("if False:\n    sync()\nelse:\n    return", "return"),
        ("while False:\n    sync()", "pass"),
        ("for i in range(0, n):\n    pass", "pass"),
        ("for i in range(4, 4):\n    sync()", "pass"),
        ("threads 0..32:\n    var i: int32 = 0", "pass"),
    ],
)
def test_statements_that_do_nothing_go(body: str, rest: str):
    assert rest == cleaned(body)


@pytest.mark.parametrize(
    "body",
    [
        "while c:\n    pass",  # it may be meant to wait
        "for i in range(0, 4):\n    sync()",
        "if c:\n    sync()",
        'printf("done", args=[])',
        "assume n > 0",
    ],
)
def test_statements_with_an_effect_stay(body: str):
    assert body == cleaned(body)


def test_a_program_without_dead_code_is_the_same_object():
    source = program(VIEW + LOAD + STORE)
    assert source is DeadCode()(source)
