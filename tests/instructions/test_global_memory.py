"""Global memory: tiles at offsets, what lies outside, strides, and workspaces."""

from __future__ import annotations

import numpy as np
import pytest

from tests.instructions.harness import failure, run_body
from tilus import dtypes
from tilus.dtypes import boolean, float16, float32, float64, int8, int32, int64, uint4b, uint8
from tilus.ir.expr import BLOCK_IDX
from tilus.ir.layout import local, spatial

X = np.arange(12 * 24).reshape(12, 24) % 2
WIDE = (boolean, int8, uint8, float16, int32, float32, int64, float64)


@pytest.mark.parametrize("dtype", [*WIDE, *dtypes.LOW_PRECISION], ids=str)
def test_what_is_outside_reads_as_zero_and_is_not_stored(dtype):
    def body(k):
        source, target = k.array(X, dtype), k.array(X * 0, dtype)
        x = k("load_global", source, offsets=[BLOCK_IDX[0] * 8 - 4, 5], shape=[8, 32])
        k("store_global", target, x, offsets=[BLOCK_IDX[0] * 8 - 2, 3])
        return x, target

    tiles, target = run_body(body, blocks=2)
    padded = np.pad(dtype.decode(dtype.encode(X)), [(4, 4), (0, 16)])
    expected = [padded[8 * b : 8 * b + 8, 5:37] for b in range(2)]
    assert np.array(expected).tolist() == tiles.tolist()
    stored = np.zeros((16, 35), padded.dtype)
    stored[:, 3:] = np.concatenate(expected)
    assert stored[2:14, :24].tolist() == target.tolist()


@pytest.mark.parametrize("dtype", [float16, dtypes.uint3b], ids=str)
def test_a_line_is_read_along_any_dimension(dtype):
    def body(k):
        g = k.array(X, dtype)
        down = k("load_global", g, offsets=[2, BLOCK_IDX[0]], shape=[8], dims=[0])
        return down, k("load_global", g, offsets=[BLOCK_IDX[0], 2], shape=[8], dims=[1])

    down, along = run_body(body, blocks=3)
    assert X[2:10, :3].T.tolist() == down.tolist() and X[:3, 2:10].tolist() == along.tolist()


def test_strides_turn_and_repeat():
    values = np.arange(8 * 16)

    def body(k):
        k.array(values, int32)
        (pointer,) = k.args
        turned = k("global_view", pointer, dtype=int32, shape=[16, 8], strides=[1, 16])
        same = k("global_view", pointer, dtype=int32, shape=[4, 16], strides=[0, 1])
        return tuple(
            k("load_global", g, offsets=[0, 0], shape=[int(e.value) for e in g.shape])
            for g in (turned, same)
        )

    turned, same = run_body(body)
    assert values.reshape(8, 16).T.tolist() == turned.tolist()
    assert [values[:16].tolist()] * 4 == same.tolist()


def test_blocks_pass_values_through_a_workspace():
    def body(k):
        g = k("global_tensor", int32, [2, 8], requires_clean=True)
        before = k("load_global", g, offsets=[BLOCK_IDX[0], 0], shape=[8], dims=[1])
        k("store_global", g, k.tile(np.arange(8), int32), offsets=[BLOCK_IDX[0], 0], dims=[1])
        k("sync")
        after = k("load_global", g, offsets=[BLOCK_IDX[0], 0], shape=[8], dims=[1])
        zero = k("register_tensor", dtype=int32, shape=[8], init=0)
        k("store_global", g, zero, offsets=[BLOCK_IDX[0], 0], dims=[1])
        return before, after

    before, after = run_body(body, blocks=2)
    assert [[0] * 8] * 2 == before.tolist() and [list(range(8))] * 2 == after.tolist()


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (
            lambda k: k("load_global", k.array(X, int32), offsets=[0], shape=[8, 8]),
            "one offset for each dimension",
        ),
        (
            lambda k: k("store_global", k.array(X, int32), k.tile(X, float32), offsets=[0, 0]),
            "cast the tile: .to(int32)",
        ),
        (lambda k: k("load_global", k.shared(X, int32), offsets=[0, 0], shape=[1]), "global"),
        (lambda k: k("global_view", 1, dtype=int32, shape=[1]), "annotate the parameter as ~dtype"),
    ],
)
def test_arguments_that_do_not_fit(build, expected):
    assert expected in failure(build)


# ---- padding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [None, spatial(8, 4).local(1, 8), local(8, 1).spatial(1, 32)])
@pytest.mark.parametrize("dtype", [float16, int32, uint4b], ids=str)
def test_the_edge_stands_for_what_is_beyond(dtype, layout):
    """Rows -2..5 of 5 and columns 8..39 of 48, then columns that end within the tile."""
    values = np.arange(5 * 48).reshape(5, 48) % 13
    rows, columns = np.clip(np.arange(-2, 6), 0, 4), np.arange(8, 40)
    beyond = np.clip(np.arange(30, 62), 0, 47)

    def body(k):
        g = k.array(values, dtype)
        tiles = [
            k("load_global", g, offsets=[-2, first], shape=[8, 32], padding="edge")
            for first in (8, 30)
        ]
        for tile in tiles:
            tile.layout = layout
        return tuple(tiles)

    inside, cut = run_body(body)
    assert values[rows][:, columns].tolist() == inside.tolist()
    assert values[rows][:, beyond].tolist() == cut.tolist()


def test_paddings_have_names():
    def body(k):
        k("load_global", k.array(np.zeros(4), int32), offsets=[0], shape=[4], padding="wrap")

    assert "padding is not understood" in failure(body)
