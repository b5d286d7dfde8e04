"""Semaphores between blocks, sync, and layouts fixed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.instructions.harness import failure, run_body
from tilus.dtypes import float32, int32, int64
from tilus.errors import TilusError
from tilus.instructions.sync import AnnotateLayout, LockSemaphore
from tilus.ir.expr import BLOCK_IDX, Var, apply, as_expr
from tilus.ir.instruction import Effects, Known
from tilus.ir.layout import local, shared_row_major, spatial
from tilus.ir.tensor import RegisterTensor, SharedTensor

B = BLOCK_IDX[0]


def semaphores(k, count=1):
    return k("global_tensor", int32, [count], requires_clean=True)


def pointer(k, tensor, index=0):
    return k("item_ptr", k.index(tensor, index))


@pytest.mark.parametrize("turn", [lambda b: b, lambda b: 3 - b])
def test_blocks_take_turns(turn):
    # Each block appends its number: the order is that of the semaphore, not that of the blocks.
    def body(k):
        log = k.array(np.zeros(4), int32)
        lock = pointer(k, semaphores(k))
        k("lock_semaphore", lock, turn(B))
        number = k("register_tensor", dtype=int32, shape=[1], init=B)
        k("store_global", log, number, offsets=[turn(B)])
        k("release_semaphore", lock, turn(B) + 1)
        return log

    assert [turn(b) for b in range(4)] == run_body(body, blocks=4).tolist()


def test_split_sums_accumulate_in_order():
    def body(k):
        total = k.array(np.zeros(8), float32)
        lock = pointer(k, semaphores(k, 3), 2)
        mine = k("register_tensor", dtype=float32, shape=[8], init=apply("add", B, 1))
        k("lock_semaphore", lock, B)
        so_far = k("load_global", total, offsets=[0], shape=[8])
        k("store_global", total, k("elementwise", "add", so_far, mine), offsets=[0])
        k("release_semaphore", lock, B + 1)
        return total

    assert [10.0] * 8 == run_body(body, blocks=4).tolist()


def test_the_last_block_to_arrive_sees_what_the_others_wrote():
    """Nobody waits: five blocks store their shares, and whoever comes last adds them up."""

    def body(k):
        shares, total = k.array(np.zeros(5), int32), k.array(np.zeros(1), int32)
        count = pointer(k, semaphores(k))
        k(
            "store_global",
            shares,
            k("register_tensor", dtype=int32, shape=[1], init=B + 1),
            offsets=[B],
        )
        arrived = k("arrive_semaphore", count)
        with k.when(apply("eq", arrived, 4)):
            x = k("load_global", shares, offsets=[0], shape=[5])
            k("store_global", total, k("sum", x, dim=0, keepdim=True), offsets=[0])
            k("release_semaphore", count, 0)
        return total

    assert [15] == run_body(body, blocks=5).tolist()


def test_blocks_that_wait_for_each_other_are_named():
    def body(k):
        lock = pointer(k, semaphores(k))
        with k.when(apply("gt", B, 0)):
            k("lock_semaphore", lock, 5)

    message = failure(body, blocks=3)
    assert "deadlock: every block that has not finished waits for a semaphore" in message
    assert "blocks 1, 2 wait here" in message


def test_values_of_another_width_are_converted():
    def body(k):
        lock = pointer(k, semaphores(k))
        k("release_semaphore", lock, int64(7))
        k("lock_semaphore", lock, 7)
        return k.tile(1, int32)

    assert 1 == run_body(body)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda k: k("lock_semaphore", as_expr(1), 0), "ptr must point to an int32"),
        (
            lambda k: k("release_semaphore", Var(~float32, "p"), 0),
            "semaphores[i].item_ptr()",
        ),
        (lambda k: k("lock_semaphore", k.array([1], int32), 0), "lock_semaphore: ptr must be"),
        (lambda k: k("lock_semaphore", Var(~int32, "p"), 0.5), "value must be an integer"),
    ],
)
def test_arguments_that_do_not_fit(build, expected):
    assert expected in failure(build)


def test_parsed_values_are_checked():
    with pytest.raises(TilusError, match="value must be an int32"):
        LockSemaphore(Var(~int32, "p"), int64(1)).verify()


def test_sync_makes_the_block_see_its_stores():
    def body(k):
        s, x = k("shared_tensor", dtype=int32, shape=[64]), k.tile(np.arange(64), int32)
        k("store_shared", s, x)
        k("sync")
        y = k("load_shared", s)
        x.layout, y.layout = spatial(32).local(2), local(2).spatial(32)
        return y

    assert list(range(64)) == run_body(body).tolist()


# ---- annotate_layout -----------------------------------------------------------------------------


def test_an_annotation_is_a_fact():
    def body(k):
        x = k.tile(np.arange(64), int32)
        s = k("shared_tensor", dtype=int32, shape=[64])
        k("annotate_layout", x, spatial(32).local(2))
        k("annotate_layout", s, shared_row_major(64))
        k("store_shared", s, x)
        k("sync")
        body.tiles = x, s
        return k("load_shared", s)

    assert list(range(64)) == run_body(body).tolist()
    assert (spatial(32).local(2), shared_row_major(64)) == tuple(t.layout for t in body.tiles)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (
            lambda k: k("annotate_layout", k.tile([1, 2], int32), spatial(32)),
            "the shape of the layout is not that of the tile",
        ),
        (
            lambda k: k("annotate_layout", k.tile([1, 2], int32), shared_row_major(2)),
            "the layout is of the wrong kind",
        ),
        (
            lambda k: k("annotate_layout", k.shared([1, 2], int32), spatial(2)),
            "SharedLayout",
        ),
        (
            lambda k: k("annotate_layout", k.array([1], int32), spatial(1)),
            "only register and shared tiles have layouts to choose",
        ),
        (
            lambda k: k("annotate_layout", k.tile(np.arange(64), int32), spatial(64)),
            "the layout is over another number of threads",
        ),
    ],
)
def test_annotations_that_do_not_fit(build, expected):
    assert expected in failure(build)


def test_a_conflicting_annotation_is_still_proposed():
    # Layout inference reports the conflict; the instruction must not hide it.
    x = RegisterTensor(int32, (32,))
    known = Known(32)
    known.layouts[x] = spatial(32)
    assert [] == list(AnnotateLayout.build(x, spatial(32)).layouts(known))
    other = spatial(16).replicated(2, num_workers=2)
    assert [other] == [p.layout for p in AnnotateLayout.build(x, other).layouts(known)]
    assert [x] == list(AnnotateLayout.build(x, other).reads())
    s = SharedTensor(int32, (4,))
    assert [s] == [p.tile for p in AnnotateLayout.build(s, shared_row_major(4)).layouts(known)]


def test_waiting_is_an_effect():
    assert Effects.WAIT in LockSemaphore.effects and not LockSemaphore.effects.removable
