"""Asynchronous copies: what arrives, when it may be read, and every way to read too early."""

from __future__ import annotations

import numpy as np
import pytest

from tests.instructions.harness import failure, run_body
from tilus.dtypes import float16, int4b, int32
from tilus.instructions.async_copy import CopyAsync
from tilus.ir.expr import BLOCK_IDX
from tilus.ir.instruction import Effects

X = np.arange(8 * 32).reshape(8, 32) % 50


def copied(k, values, shape, offsets, dtype=int32, **options):
    s = k("shared_tensor", dtype=dtype, shape=shape)
    s.name = "s"
    k("copy_async", k.array(values, dtype), s, offsets, **options)
    return s


def arrive(k):
    k("copy_async_wait_all")
    k("sync")


@pytest.mark.parametrize("evict", [None, "evict_first"])
@pytest.mark.parametrize("dtype", [float16, int32, int4b])
def test_a_copy_arrives(dtype, evict):
    def body(k):
        s = copied(k, X % 8, [4, 16], [2, BLOCK_IDX[0]], dtype, evict=evict)
        arrive(k)
        return k("load_shared", s)

    expected = [(X % 8)[2:6, b : 16 + b].tolist() for b in range(2)]
    assert expected == run_body(body, blocks=2).tolist()


@pytest.mark.parametrize("count", [16, 512, 528, 1040, 1002])
def test_threads_that_do_not_divide_the_vectors(count):
    """Of 4 float16 x 8 vectors and some: the last ones are copied by some threads alone."""
    x = np.arange(2048) % 97

    def body(k):
        s = copied(k, x, [count], [16], float16)
        arrive(k)
        return k("load_shared", s)

    assert x[16 : 16 + count].tolist() == run_body(body, warps=2).tolist()


def test_elements_out_of_bounds_become_zero():
    def body(k):
        s = copied(k, X, [4, 16], [-2, 24])
        arrive(k)
        return k("load_shared", s)

    expected = np.zeros((4, 16), int)
    expected[2:, :8] = X[:2, 24:]
    assert expected.tolist() == run_body(body).tolist()


def test_dims_choose_the_direction():
    def body(k):
        s = copied(k, X, [8], [0, 5], dims=[0])
        arrive(k)
        return k("load_shared", s)

    assert X[:, 5].tolist() == run_body(body).tolist()


def test_a_pipeline_of_two_stages():
    def body(k):
        g = k.array(X, int32)
        s = k("shared_tensor", dtype=int32, shape=[2, 32])
        total = k("register_tensor", dtype=int32, shape=[32], init=0)
        k("copy_async", g, k.index(s, 0), [0, 0])
        k("copy_async_commit_group")
        with k.loop(8) as i:
            k("copy_async", g, k.index(s, (i + 1) % 2), [i + 1, 0])
            k("copy_async_commit_group")
            k("copy_async_wait_group", 1)
            k("sync")
            k("elementwise", "add", total, k("load_shared", k.index(s, i % 2)), out=total)
            k("sync")
        return total

    assert X.sum(0).tolist() == run_body(body).tolist()


def without_wait(k):
    return k("load_shared", copied(k, X, [32], [0, 0]))


def without_sync(k):
    s = copied(k, X, [32], [0, 0])
    k("copy_async_wait_all")
    return k("load_shared", s)


def waiting_for_too_few(k):
    s = copied(k, X, [32], [0, 0])
    k("copy_async_commit_group")
    k("copy_async_wait_group", 1)
    k("sync")
    return k("load_shared", s)


def never_committed(k):
    s = copied(k, X, [32], [0, 0])
    k("copy_async_wait_group", 0)
    k("sync")
    return k("load_shared", s)


def overwritten(k):
    s = copied(k, X, [32], [0, 0])
    k("store_shared", s, k.tile(X[0], int32))


def copied_over_a_read(k):
    s = k.shared(X[0], int32)
    k("load_shared", s)
    k("copy_async", k.array(X, int32), s, [0, 0])


def freed(k):
    k("free_shared", copied(k, X, [32], [0, 0]))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (without_wait, "s is read before its asynchronous copy has been waited for"),
        (without_sync, "s is read by other threads than wrote it, without a sync in between"),
        (waiting_for_too_few, "s is read before its asynchronous copy has been waited for"),
        (never_committed, "call copy_async_wait_group(n) or copy_async_wait_all(), then sync()"),
        (overwritten, "s is written while an asynchronous copy into it is in flight"),
        (copied_over_a_read, "s is overwritten while other threads may still be reading it"),
        (freed, "s is freed while an asynchronous copy into it is in flight"),
    ],
)
def test_what_would_be_a_race_is_an_error(body, expected):
    assert expected in failure(body)


def test_a_broken_promise_about_bounds_is_found():
    message = failure(lambda k: copied(k, X, [32], [0, 1], check_bounds=False))
    assert "although check_bounds=False promises that none is" in message
    assert "at offsets [0, 1]" in message


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda k: copied(k, X, [32], [0]), "one offset for each dimension"),
        (lambda k: copied(k, X, [2, 2, 2], [0, 0]), "more dimensions than the tensor"),
        (lambda k: copied(k, X, [32], [0, 0], evict="soon"), "evict is not understood"),
        (
            lambda k: k("copy_async", k.array(X, int32), k.shared(X, float16), [0, 0]),
            "the dtypes of the two tensors differ",
        ),
        (
            lambda k: k("copy_async", k.array(X, int32), k.array(X, int32), [0, 0]),
            "a shared tensor",
        ),
        (lambda k: k("copy_async_wait_group", BLOCK_IDX[0]), "n must be known at compile time"),
        (lambda k: k("copy_async_wait_group", -1), "n must be at least 0"),
    ],
)
def test_arguments_that_do_not_fit(build, expected):
    assert expected in failure(build)


def test_a_copy_writes_its_target():
    assert Effects.ASYNC in CopyAsync.effects and not CopyAsync.effects.removable


@pytest.mark.parametrize("columns", [264, 520, 272, 1032])
def test_rows_that_end_within_a_turn_of_a_warp(columns):
    """Two warps copy a row each: the last vectors of a row by some of the lanes."""
    x = np.arange(2 * 1040).reshape(2, 1040) % 97

    def body(k):
        s = copied(k, x, [2, columns], [0, 8], float16)
        arrive(k)
        return k("load_shared", s)

    assert x[:, 8 : 8 + columns].tolist() == run_body(body, warps=2).tolist()
