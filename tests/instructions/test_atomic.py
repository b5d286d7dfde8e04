"""Atomic updates between blocks and in shared memory, and scattered stores."""

from __future__ import annotations

import numpy as np
import pytest

from tests.instructions.harness import failure, run_body
from tilus.dtypes import (
    bfloat16,
    float16,
    float32,
    float64,
    int4b,
    int8,
    int32,
    int64,
    uint32,
)
from tilus.errors import TilusError
from tilus.instructions.atomic import GlobalAdd, GlobalCompareAndSwap, StoreGlobalScatter
from tilus.ir.expr import BLOCK_IDX, as_expr
from tilus.ir.layout import global_row_major, local, replicated, spatial
from tilus.ir.tensor import GlobalTensor, RegisterTensor

B = BLOCK_IDX[0]


@pytest.mark.parametrize("dtype", [int32, uint32, int64, float16, bfloat16, float32, float64])
@pytest.mark.parametrize(
    ("op", "expected", "old"),
    [
        ("add", 10 + 0 + 1 + 2 + 3, [10, 10, 11, 13]),
        ("sub", 10 - 0 - 1 - 2 - 3, [10, 10, 9, 7]),
        ("min", 0, [10, 0, 0, 0]),
        ("max", 10, [10, 10, 10, 10]),
        ("exch", 3, [10, 0, 1, 2]),
    ],
)
def test_blocks_update_one_after_the_other(op, expected, old, dtype):
    def body(k):
        g = k.array([10, 10], dtype)
        mine = k("register_tensor", dtype=dtype, shape=[2], init=lambda i: B)
        return k(f"atomic.global_{op}", g, mine, offsets=[0]), g

    olds, g = run_body(body, blocks=4)
    assert [[o, o] for o in old] == olds.tolist() and [expected] * 2 == g.tolist()


def test_integers_wrap_around():
    def body(k):
        g = k.array([2**31 - 1], int32)
        k("atomic.global_add", g, k.tile([1], int32), offsets=[0])
        return g

    assert [-(2**31)] == run_body(body).tolist()


def test_elements_out_of_bounds_are_skipped():
    def body(k):
        g = k.array([1, 2, 3], int32)
        return k("atomic.global_add", g, k.tile([10] * 4, int32), offsets=[B * 4 - 2]), g

    olds, g = run_body(body, blocks=2)
    assert [[0, 0, 1, 2], [3, 0, 0, 0]] == olds.tolist() and [11, 12, 13] == g.tolist()


def test_a_column_is_updated_along_dims():
    def body(k):
        g = k.array(np.zeros((3, 4)), int32)
        k("atomic.global_max", g, k.tile([1, 2, 3], int32), offsets=[0, B], dims=[0])
        return g

    expected = np.zeros((3, 4), int)
    expected[:, :2] = np.array([[1, 2, 3]]).T
    assert expected.tolist() == run_body(body, blocks=2).tolist()


def test_one_block_wins_a_compare_and_swap():
    def body(k):
        g = k.array([0, 5], int32)
        mine = k("register_tensor", dtype=int32, shape=[2], init=lambda i: B + 7)
        return k("atomic.global_cas", g, 0, mine, offsets=[0]), g

    olds, g = run_body(body, blocks=3)
    assert [[0, 5], [7, 5], [7, 5]] == olds.tolist() and [7, 5] == g.tolist()


def test_compare_may_be_a_tile():
    def body(k):
        g = k.array([1, 2, 3], int32)
        k("atomic.global_cas", g, k.tile([1, 0, 3], int32), k.tile([7, 8, 9], int32), offsets=[0])
        return g

    assert [7, 2, 9] == run_body(body).tolist()


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("add", [0, 4, 6]),
        ("sub", [0, -2, -2]),
        ("min", [0, 0, 0]),
        ("max", [0, 3, 4]),
        ("exch", [0, 3, 4]),
    ],
)
def test_shared_memory_needs_no_sync_between_atomics(op, expected):
    def body(k):
        s = k.shared([0, 1, 2], int32)
        x, y = k.tile([0, 0], int32), k.tile([3, 4], int32)
        first = k(f"atomic.shared_{op}", s, x, offsets=[1])
        second = k(f"atomic.shared_{op}", s, y, offsets=[1])
        x.layout = first.layout = replicated(1, num_workers=16).spatial(2)
        y.layout = second.layout = spatial(2).replicated(1, num_workers=16)
        k("sync")
        return k("load_shared", s)

    assert expected == run_body(body).tolist()


def test_shared_compare_and_swap():
    def body(k):
        s = k.shared([0.0, 1.0], float32)
        old = k("atomic.shared_cas", s, 1, k.tile([5.0, 6.0], float32), offsets=[0])
        k("sync")
        return old, k("load_shared", s)

    old, s = run_body(body)
    assert [0, 1] == old.tolist() and [0, 6] == s.tolist()


def test_reading_after_an_atomic_needs_a_sync():
    def body(k):
        s = k.shared([0], int32)
        s.name = "s"
        k("atomic.shared_add", s, k.tile([1], int32), offsets=[0])
        k("print_tensor", "s", s)

    assert "s is read by other threads than wrote it" in failure(body)


def test_old_values_may_go_to_a_tile_that_exists():
    def body(k):
        out = k("register_tensor", dtype=int32, shape=[1])
        k("atomic.global_add", k.array([3], int32), k.tile([1], int32), offsets=[0], out=out)
        return out

    assert [3] == run_body(body).tolist()


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (
            lambda k: k("atomic.global_add", k.array([1], int8), k.tile([1], int8), offsets=[0]),
            "int8 has no atomic operations",
        ),
        (
            lambda k: k("atomic.global_add", k.array([1], int4b), k.tile([1], int4b), offsets=[0]),
            "an integer or a float of 16, 32 or 64 bits",
        ),
        (
            lambda k: k(
                "atomic.global_add", k.array([1], int32), k.tile([1], float32), offsets=[0]
            ),
            "cast the tile: .to(int32)",
        ),
        (
            lambda k: k("atomic.global_add", k.shared([1], int32), k.tile([1], int32), offsets=[0]),
            "atomic.global_add: dst must be a global tensor",
        ),
        (
            lambda k: k("atomic.shared_add", k.shared([1], int32), k.tile([1], int32), offsets=[1]),
            "the tile reaches outside the shared tensor",
        ),
        (
            lambda k: k("atomic.global_add", k.array([1], int32), k.tile([1], int32), offsets=[]),
            "one offset for each dimension",
        ),
        (
            lambda k: k(
                "atomic.global_cas", k.array([1], int32), "x", k.tile([1], int32), offsets=[0]
            ),
            "compare must be a scalar or a register tensor",
        ),
        (
            lambda k: k(
                "store_global_scatter",
                k.array([1], int32),
                k.tile([1.0], float32),
                k.tile([0], int32),
            ),
            "the dtypes of the tile and of the tensor differ",
        ),
        (
            lambda k: k(
                "store_global_scatter",
                k.array([1], int32),
                k.tile([1], int32),
                k.tile([[0]], int32),
            ),
            "the indices are of another type",
        ),
        (
            lambda k: k("store_global_scatter", k.array([1], int32), k.tile([1], int32), ()),
            "one tile of indices for each dimension of the tensor is needed",
        ),
    ],
)
def test_arguments_that_do_not_fit(build, expected):
    assert expected in failure(build)


def test_parsed_fields_are_checked():
    g = GlobalTensor(int32, (as_expr(4),), layout=global_row_major((as_expr(4),)))
    x = RegisterTensor(int32, (4,))
    zero = (as_expr(0),)
    with pytest.raises(TilusError, match="compare is of another dtype"):
        GlobalCompareAndSwap(x, g, x, zero, (0,), int64(1)).verify()
    with pytest.raises(TilusError, match="the tile is of another type"):
        GlobalAdd(RegisterTensor(int32, (2,)), g, x, zero, (0,)).verify()
    out = RegisterTensor(int32, (4,), layout=spatial(4))
    x.layout = local(4)
    with pytest.raises(TilusError, match="the operands have different layouts"):
        GlobalAdd(out, g, x, zero, (0,)).check_layouts()
    assert [g, out] == sorted(GlobalAdd(out, g, x, zero, (0,)).writes(), key=lambda t: t is out)


def test_scatter_to_global_memory():
    def body(k):
        g = k.array(np.zeros((3, 4)), int4b)
        rows, columns = k.tile([0, 2, 3, -1], int32), k.tile([1, 3, 0, 0], int64)
        k("store_global_scatter", g, k.tile([1, 2, 3, 4], int4b), (rows, columns))
        return g

    expected = np.zeros((3, 4), int)
    expected[0, 1], expected[2, 3] = 1, 2
    assert expected.tolist() == run_body(body).tolist()
    assert not StoreGlobalScatter.effects.removable
