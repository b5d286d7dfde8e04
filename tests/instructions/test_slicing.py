"""Parts of tensors: the same memory under other indices or another shape, and single elements."""

from __future__ import annotations

import numpy as np
import pytest

from tests.instructions.harness import failure, run_body
from tilus.dtypes import float16, float32, int4b, int32
from tilus.errors import TilusError
from tilus.instructions.indexing import difference
from tilus.instructions.memory_slice import GlobalSlice, SharedSlice
from tilus.instructions.shared_shape import PermuteShared, ReshapeShared
from tilus.ir.expr import BLOCK_IDX, Var, apply, as_expr, as_int
from tilus.ir.instruction import Known, Strength
from tilus.ir.layout import (
    global_row_major,
    shared_layout,
    shared_row_major,
    shared_row_major_swizzle,
)
from tilus.ir.parser import parse_program
from tilus.ir.tensor import GlobalTensor, SharedTensor
from tilus.ir.visit import instructions
from tilus.passes.analyze import Analysis

X = np.arange(3 * 16 * 64).reshape(3, 16, 64)
ALL = slice(None)
B = BLOCK_IDX[0]

INDICES = [
    ((1,), X[1]),
    ((1, ALL, 5), X[1, :, 5]),
    ((ALL, 3), X[:, 3]),
    ((-1, slice(4, 12), slice(-32, None)), X[-1, 4:12, -32:]),
    ((slice(1, 3), slice(None, 8)), X[1:3, :8]),
    ((2, 15, 63), X[2, 15, 63]),
    ((), X),
]


@pytest.mark.parametrize(("index", "expected"), INDICES)
def test_parts_of_shared_tensors(index, expected):
    result = run_body(lambda k: k("load_shared", k.index(k.shared(X, float32), *index)))
    assert expected.tolist() == result.tolist()


@pytest.mark.parametrize(("index", "expected"), INDICES)
def test_parts_of_global_tensors(index, expected):
    def body(k):
        part = k.index(k.array(X, int32), *index)
        return k("load_global", part, offsets=[0] * expected.ndim, shape=list(expected.shape))

    assert expected.tolist() == run_body(body).tolist()


def test_run_time_indices_differ_between_blocks():
    def body(k):
        row = k.index(k.shared(X, int32), B, slice(B * 4, B * 4 + 8), 7)
        tail = k.index(k.array(X, int32), B, B, slice(B, 64))
        return k("load_shared", row), k("load_global", tail, offsets=[60], shape=[8])

    rows, tails = run_body(body, blocks=3)
    assert [X[b, 4 * b : 4 * b + 8, 7].tolist() for b in range(3)] == rows.tolist()
    padded = np.pad(X, [(0, 0), (0, 0), (0, 8)])
    expected = [
        np.where(60 + np.arange(8) < 64 - b, padded[b, b, 60 + b : 68 + b], 0) for b in range(3)
    ]
    assert np.array(expected).tolist() == tails.tolist()


def test_a_part_of_a_part_writes_the_same_memory():
    def body(k):
        s = k.shared(np.zeros((2, 16, 64)), float16)
        half = k.index(k.index(s, 1), slice(8, 16))
        column = k.index(k.method(half, "transpose"), 3)
        k("store_shared", column, k.tile(np.arange(8), float16))
        k("sync")
        return k("load_shared", s)

    expected = np.zeros((2, 16, 64))
    expected[1, 8:, 3] = np.arange(8)
    assert expected.tolist() == run_body(body).tolist()


def test_storing_through_a_global_part():
    def body(k):
        g = k.array(np.zeros((4, 8)), int32)
        k("store_global", k.index(g, 2, slice(3, 6)), k.tile([1, 2, 3, 4], int32), offsets=[0])
        return g

    expected = np.zeros((4, 8))
    expected[2, 3:6] = [1, 2, 3]
    assert expected.tolist() == run_body(body).tolist()


def test_sub_byte_parts_begin_at_whole_bytes():
    rows = np.arange(4 * 6).reshape(4, 6) % 8

    def body(at):
        return lambda k: k("load_global", k.index(k.array(rows, int4b), at), offsets=[0], shape=[6])

    assert rows[3].tolist() == run_body(lambda k: k("cast", body(3)(k), int32)).tolist()
    odd = np.arange(9).reshape(3, 3) % 8
    message = failure(lambda k: k.index(k.array(odd, int4b), 1))
    assert "the part does not start at a whole byte" in message and "bit 4 of a byte" in message


@pytest.mark.parametrize("kind", ["array", "shared"])
@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ((3,), "index 3 in dimension 0"),
        ((-4,), "index -1 in dimension 0"),
        ((0, slice(0, 17)), "indices 0..16 in dimension 1"),
        ((0, 0, 0, 0), "more indices than dimensions"),
        ((slice(0, 3, 2),), "a slice has no step"),
        ((slice(2, 2),), "a slice is empty"),
        ((1.0,), "an index is an integer, a scalar or a slice"),
        ((True,), "an index is an integer, a scalar or a slice"),
        ((Var(float32, "f"),), "an index is an integer"),
    ],
)
def test_indices_that_do_not_fit(kind, index, expected):
    assert expected in failure(lambda k: k.index(getattr(k, kind)(X, int32), *index))


def test_run_time_indices_are_checked_when_run():
    for kind in ("array", "shared"):
        message = failure(lambda k, kind=kind: k.index(getattr(k, kind)(X, int32), B), blocks=4)
        assert "the index is out of bounds" in message and "index 3 in dimension 0" in message
        assert "within 0..2" in message and "guard it with an if statement" in message


def test_the_length_of_a_shared_part_is_constant():
    message = failure(lambda k: k.index(k.shared(X, int32), slice(0, B)))
    assert "the length of a slice must be known at compile time" in message


def test_differences_of_run_time_bounds():
    i, j = Var(int32, "i"), Var(int32, "j")
    assert 16 == as_int(difference(i * 4 + 16, i * 4))
    assert 3 == as_int(difference(j + i + 1, i + j - 2))
    assert "j - i" == str(difference(j, i))
    assert as_expr(-2) == difference(i - 2, i)


def test_shared_tensors_under_another_shape():
    def body(k):
        s = k.shared(X[0], float16)
        flat = k("reshape_shared", s, [4, 4, 64])
        swapped = k.method(k.method(flat, "permute", [2, 0, 1]), "transpose", 0, 1)
        return k("load_shared", swapped)

    expected = X[0].reshape(4, 4, 64).transpose(2, 0, 1).swapaxes(0, 1)
    assert expected.tolist() == run_body(body).tolist()


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda k, s: k("reshape_shared", s, [7]), "the number of elements changes"),
        (lambda k, s: k("permute_shared", s, [0, 1]), "dims must name every dimension once"),
        (lambda k, s: k("permute_shared", s, [0, 1, 1]), "none twice"),
        (lambda k, s: k("transpose_shared", k.index(s, 0, 0)), "two dimensions are needed"),
        (lambda k, s: k("permute_shared", k.tile([1], int32), [0]), "must be a shared tensor"),
        (lambda k, s: k("item", k("load_shared", s)), "only a tile of one element is a scalar"),
        (lambda k, s: k("item_ptr", k.array(X, int32)), "index it first: g[i, j].item_ptr()"),
        (lambda k, s: k("item", k.array([1], int32)), "load it first: self.load_global(...)"),
    ],
)
def test_arguments_that_do_not_fit(build, expected):
    assert expected in failure(lambda k: build(k, k.shared(X, int32)))


def test_items_are_scalars_of_each_block():
    def body(k):
        g = k.array(X[0, 0], int32)
        x = k("load_global", g, offsets=[B], shape=[1])
        item = k.method(x, "item")
        return k("register_tensor", dtype=int32, shape=[2], init=lambda i: item * 10 + i)

    assert [[10 * b, 10 * b + 1] for b in range(3)] == run_body(body, blocks=3).tolist()


def test_an_item_pointer_is_an_address():
    def body(k):
        g = k.array(X, int32)
        pointer = k.method(k.index(g, 2, 3, B), "item_ptr")
        assert ~int32 == pointer.dtype
        view = k("global_view", pointer, dtype=int32, shape=[2])
        return k("load_global", view, offsets=[0], shape=[2])

    assert [[X[2, 3, b], X[2, 3, b + 1]] for b in range(2)] == run_body(body, blocks=2).tolist()


# ---- fields and layouts --------------------------------------------------------------------------


def test_parsed_fields_are_checked():
    s = SharedTensor(int32, (4, 8))
    zero = as_expr(0)
    broken = [
        (SharedSlice(SharedTensor(int32, (8,)), s, (zero, zero), (2,)), "dims must name"),
        (SharedSlice(SharedTensor(float32, (8,)), s, (zero, zero), (1,)), "the dtypes of the part"),
        (SharedSlice(SharedTensor(int32, (8,)), s, (zero,), (1,)), "one offset for each dimension"),
        (PermuteShared(SharedTensor(int32, (4, 8)), s, (1, 0)), "the result is of another type"),
        (ReshapeShared(SharedTensor(float32, (32,)), s), "the result is of another type"),
    ]
    for instruction, expected in broken:
        with pytest.raises(TilusError, match=expected):
            instruction.verify()


def test_the_layout_of_a_part_follows_the_whole():
    s = SharedTensor(float16, (2, 64, 64))
    part = SharedSlice.build(s, (B, slice(0, 16)))
    known = Known(32)
    assert [] == list(part.layouts(known))
    known.layouts[s] = shared_row_major_swizzle([2, 64, 64], 16)
    (proposal,) = part.layouts(known)
    assert part.out is proposal.tile and Strength.MUST == proposal.strength
    assert shared_row_major_swizzle([16, 64], 16) == proposal.layout


def test_parts_of_wide_rows_keep_the_rows_whole():
    # Swizzled rows of 128 float16 are cut into panels of 64, which a part from 32 to 96 would
    # cross.
    def body(k):
        s = k.shared(np.arange(16 * 128).reshape(16, 128), float32)
        inner = k.index(k.method(s, "transpose"), slice(B * 32, B * 32 + 64))
        outer = k.index(k.index(s, slice(0, 8)), ALL, slice(B * 32, B * 32 + 64))
        return k("load_shared", inner), k("load_shared", outer)

    x = np.arange(16 * 128).reshape(16, 128)
    inner, outer = run_body(body, blocks=2)
    assert [x[:, b * 32 : b * 32 + 64].T.tolist() for b in range(2)] == inner.tolist()
    assert [x[:8, b * 32 : b * 32 + 64].tolist() for b in range(2)] == outer.tolist()


def test_a_part_cannot_have_a_layout_of_its_own():
    def body(k):
        s = k.shared(X[0], int32)
        s.layout = shared_row_major(16, 64)
        k.index(s, 0).layout = shared_layout([64], [64], [2])

    assert "the layout of the part is not that of the whole" in failure(body)


def test_another_shape_cannot_have_a_layout_of_its_own():
    def body(k):
        s = k.shared(X[0], int32)
        s.layout = shared_row_major(16, 64)
        k("transpose_shared", s).layout = shared_row_major(64, 16)

    assert "the layout of the result is not that of the storage" in failure(body)


def test_global_parts_keep_their_strides():
    m = Var(int32, "m")
    g = GlobalTensor(int32, (m, as_expr(8)), layout=global_row_major((m, as_expr(8))))
    part = GlobalSlice.build(g, (slice(1, None), 2))
    assert (0,) == part.dims and int32 == part.out.dtype
    assert [apply("sub", m, 1)] == list(part.out.shape)
    assert [8] == [as_int(stride) for stride in part.out.layout.strides]


def test_a_part_is_as_aligned_as_its_offset_allows():
    """Rows of 32 float16 elements start at multiples of 64 bytes in a 16-byte aligned tensor."""
    program = parse_program("""
kernel k(i: int32, p: ~float16 % 16) blocks=[1] warps=1:
    g: global float16[8, 32] = global_view(p)
    row: global float16[32] = global_slice(g, [i, 0], dims=[1])
    odd: global float16[4] = global_slice(g, [i, 3], dims=[1])
""")
    view, row, odd = instructions(program)
    analysis = Analysis(program)
    assert [8, 8, 1] == [analysis.alignment(i.result) for i in (view, row, odd)]
