"""Missing syncs that are certain are errors with both lines; what may be right is left alone."""

from __future__ import annotations

import pytest

from tests.passes.programs import failure, line_of, program
from tilus.errors import TilusError
from tilus.ir.program import Program
from tilus.passes.hazards import CheckHazards
from tilus.passes.infer_layout import InferLayout

# Rows over threads, and columns over threads: every element changes hands.
ROWS = "float32[128] @ register_layout([128], [128], [0], [])"
SWAPPED = "float32[128] @ register_layout([128], [4, 32], [1, 0], [])"
TILES = f"""\
g: global float32[n] = global_view(p)
x: {ROWS} = register_tensor(init=0.0)
s: shared float32[128] = shared_tensor()
"""
START = TILES.count("\n")  # the lines of a case count from the next one
LOAD = f"y: {SWAPPED} = load_shared(s)"
SAME = f"y: {ROWS} = load_shared(s)"
COPY = "copy_async(s, g, offsets=[0], dims=[0])"
ADD = "atomic.shared_add(s, x, offsets=[0], dims=[0])"


def check(source: Program) -> Program:
    return CheckHazards()(InferLayout()(source))


def lines(*body: str) -> str:
    return TILES + "\n".join(body)


@pytest.mark.parametrize(
    "body",
    [
        lines("store_shared(s, x)", "sync()", LOAD),
        lines("store_shared(s, x)", SAME),  # every thread reads what it wrote
        lines("store_shared(s, x)", "sync()", LOAD, "sync()", "store_shared(s, x)"),
        lines("store_shared(s, x)", "store_shared(s, x)"),
        lines("while c:", "    store_shared(s, x)", "    sync()", "    " + LOAD, "    sync()"),
        lines("for i in range(0, 1):", "    store_shared(s, x)", "    sync()", "    " + LOAD),
        lines("if c:", "    store_shared(s, x)", "if not c:", "    " + LOAD),
        lines("if c:", "    store_shared(s, x)", "else:", "    " + LOAD),
        lines("store_shared(s, x)", "if c:", "    sync()", LOAD),  # the branches may be related
        lines("while c:", "    sync()", "    " + LOAD, "    break", "store_shared(s, x)"),
        lines("store_shared(s, x)", "if c:", "    return", "sync()", LOAD),
        lines(COPY, "copy_async_wait_all()", "sync()", LOAD),
        lines(COPY, "copy_async_commit_group()", "copy_async_wait_group(0)", "sync()", LOAD),
        lines("store_shared(s, x)", "sync()", f"old: {ROWS} = {ADD}", f"old = {ADD}", "sync()"),
        lines("while c:", "    t: shared float32[128] = shared_tensor()", "    store_shared(t, x)"),
    ],
)  # fmt: skip
def test_nothing_certain(body: str):
    source = InferLayout()(program(body))
    assert source is CheckHazards()(source)


@pytest.mark.parametrize(
    ("body", "earlier", "later", "message"),
    [
        (
            ["store_shared(s, x)", LOAD],
            1, 2, "s is read without a sync after it was written",
        ),
        (
            ["store_shared(s, x)", "sync()", LOAD, "store_shared(s, x)"],
            3, 4, "s is overwritten without a sync after it was read",
        ),
        (
            ["store_shared(s, x)", f"z: {SWAPPED} = register_tensor()", "store_shared(s, z)"],
            1, 3, "s is written without a sync after it was written",
        ),
        (
            ["while c:", "    store_shared(s, x)", "    sync()", "    " + LOAD],
            4, 2, "s is overwritten without a sync after it was read in the iteration before",
        ),
        (
            ["while c:", "    if c:", "        continue", "    " + LOAD, "    store_shared(s, x)"],
            4, 5, "s is overwritten without a sync after it was read",
        ),
        (
            ["store_shared(s, x)", "if c:", "    n = 16", LOAD],
            1, 4, "s is read without a sync after it was written",
        ),
        (
            ["store_shared(s, x)", "if c:", "    sync()", "    return", LOAD],
            1, 5, "s is read without a sync after it was written",
        ),
        (
            ["if c:", "    " + LOAD, "    store_shared(s, x)"],
            2, 3, "s is overwritten without a sync after it was read",
        ),
        (
            ["threads 0..128:", "    store_shared(s, x)", "    " + LOAD],
            2, 3, "s is read without a sync after it was written",
        ),
        (
            [COPY, LOAD],
            1, 2, "s is read without a sync after it was copied to",
        ),
        (
            [COPY, "sync()", LOAD],
            1, 3, "s is read without a sync after it was copied to",
        ),
        (
            [COPY, "copy_async_wait_all()", LOAD],
            1, 3, "s is read without a sync after it was copied to",
        ),
        (
            ["store_shared(s, x)", "sync()", LOAD, COPY],
            3, 4, "s is overwritten without a sync after it was read",
        ),
    ],
)  # fmt: skip
def test_both_lines_are_named(body: list[str], earlier: int, later: int, message: str):
    error = failure(check, lines(*body))
    ((place, note),) = error.related
    assert message == error.message
    assert (START + later, START + earlier) == (line_of(error.location), line_of(place))
    assert note.startswith(message.split(" after it was ")[1].split(" in ")[0])


def test_the_layouts_and_the_remedy_are_shown():
    error = failure(check, lines("store_shared(s, x)", LOAD))
    assert (
        "store_shared by register_layout([128], [128], [0], []), "
        "load_shared by register_layout([128], [4, 32], [1, 0], [])"
    ) == error.found
    assert "a sync of all threads between the two lines" == error.expected
    assert "call self.sync() before this line" == error.hint


def test_a_copy_that_nobody_waits_for():
    error = failure(check, lines(COPY, "sync()", LOAD))
    assert error.found is None
    assert "wait for the copy and a sync of all threads between the two lines" == error.expected
    assert "call self.copy_async_wait_all(), then self.sync() before this line" == error.hint


def test_a_copy_that_was_waited_for_needs_a_sync():
    error = failure(check, lines(COPY, "copy_async_wait_all()", LOAD))
    assert "call self.sync() before this line" == error.hint


def test_the_error_shows_both_lines():
    with pytest.raises(TilusError) as caught:
        check(program(lines("store_shared(s, x)", LOAD)))
    text = str(caught.value)
    assert f"k.tir:{START + 2}:5: note: written here\n    5 |     store_shared(s, x)" in text
    assert f"k.tir:{START + 3}:5: error: s is read" in text
