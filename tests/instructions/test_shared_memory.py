"""Shared memory: what is stored is loaded, and what a race would read is an error."""

from __future__ import annotations

import numpy as np
import pytest

from tests.instructions.harness import failure, run_body
from tilus import dtypes
from tilus.codegen.kernel import generate
from tilus.dtypes import float16, float32, int4b, int32
from tilus.errors import TilusError
from tilus.instructions.shared_memory import (
    LoadShared,
    SharedAlloc,
    StoreShared,
    StoreSharedScatter,
    contiguous_run,
)
from tilus.ir.expr import BLOCK_IDX, apply
from tilus.ir.instruction import Known
from tilus.ir.layout import (
    column_spatial,
    shared_layout,
    shared_row_major,
    shared_row_major_swizzle,
    spatial,
)
from tilus.ir.parser import parse_program
from tilus.ir.tensor import RegisterTensor, SharedTensor
from tilus.passes import compile_program
from tilus.target import nvgpu_sm90a

X = np.arange(32 * 4).reshape(32, 4)


@pytest.mark.parametrize("shape", [(), (32,), (16, 64), (2, 8, 32), (3, 5)])
@pytest.mark.parametrize("dtype", [float16, int4b])
def test_what_is_stored_is_loaded(shape, dtype):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape) % 8

    def body(k):
        return k("load_shared", k.shared(values, dtype))

    assert values.tolist() == run_body(body, warps=2).tolist()


def test_a_tensor_of_12_bytes():
    assert [1, 2, 3] == run_body(lambda k: k("load_shared", k.shared([1, 2, 3], int32))).tolist()


@pytest.mark.parametrize(("elements", "nbytes"), [(3, 16), (4, 16), (5, 32)])
def test_shared_memory_is_whole_vectors(elements, nbytes):
    # NVRTC reads 12 bytes at the start of 16 as all 16, which must be there.
    program = parse_program(f"""
kernel k() blocks=[1] warps=1:
    s: shared int32[{elements}] = shared_tensor()
    x: int32[{elements}] = register_tensor(init=1)
    store_shared(s, x)
""")
    assert nbytes == generate(compile_program(program), nvgpu_sm90a)[0].shared_bytes


def test_freed_memory_is_used_again():
    def body(k):
        s = k.shared(X, int32)
        x = k("load_shared", s)
        k("sync")
        k("free_shared", s)
        return x, k("load_shared", k.shared(X + 1, int32))

    first, second = run_body(body, warps=2)
    assert X.tolist() == first.tolist() and (X + 1).tolist() == second.tolist()


def test_tiles_are_stored_at_offsets():
    def body(k):
        s = k.shared(np.zeros((3, 32, 4)), int32)
        k("store_shared", s, k.tile(X[:16], int32), offsets=[1, 16, 0])
        k("store_shared", s, k.tile(X[:, 0], int32), offsets=[2, 0, 3], dims=[1])
        k("store_shared", s, k.tile(7, int32), offsets=[0, BLOCK_IDX[0], 0], dims=[])
        k("sync")
        return k("load_shared", s)

    result = run_body(body, blocks=2)
    expected = np.zeros((2, 3, 32, 4), int)
    expected[:, 1, 16:], expected[:, 2, :, 3] = X[:16], X[:, 0]
    expected[0, 0, 0, 0] = expected[1, 0, 1, 0] = 7
    assert expected.tolist() == result.tolist()


def test_a_thread_sees_its_own_stores_without_sync():
    def body(k):
        s = k("shared_tensor", dtype=int32, shape=[32, 4])
        x = k.tile(X, int32)
        k("store_shared", s, x)
        out = k("register_tensor", dtype=int32, shape=[32, 4])
        out.layout = x.layout = spatial(32, 1).local(1, 4)
        return k("load_shared", s, out=out)

    assert X.tolist() == run_body(body).tolist()


def test_other_threads_need_a_sync():
    def body(k):
        s = k("shared_tensor", dtype=int32, shape=[8, 4])
        x = k.tile(X[:8], int32)
        k("store_shared", s, x)
        y = k("load_shared", s)
        x.layout, y.layout = spatial(8, 4), column_spatial(8, 4)
        return y

    message = failure(body)
    assert "is read by other threads than wrote it, without a sync in between" in message
    assert "call self.sync() after the write" in message


def test_overwriting_what_others_read_needs_a_sync():
    def body(k):
        s = k.shared(X[:8], int32)
        y = k("load_shared", s)
        y.layout = spatial(8, 4)
        z = k("elementwise", "add", y, 1)
        w = k("register_tensor", dtype=int32, shape=[8, 4], init=0)
        w.layout = column_spatial(8, 4)
        k("store_shared", s, w)
        return z

    assert "s is overwritten while other threads may still be reading it" in failure(body)


def test_unwritten_elements_are_counted():
    def body(k):
        s = k("shared_tensor", dtype=int32, shape=[32])
        k("store_shared", s, k.tile(X[:4, 0], int32), offsets=[28])
        k("sync")
        return k("load_shared", s)

    message = failure(body)
    assert "the shared tensor is read before it was written" in message
    assert "28 of 32 elements never written" in message


def test_use_after_free():
    def body(k):
        s = k.shared(X, int32)
        k("free_shared", s)
        return k("load_shared", s)

    assert "s is used after free_shared" in failure(body)


def test_freeing_twice_and_freeing_a_part():
    def twice(k):
        s = k.shared(X, int32)
        k("free_shared", s)
        k("free_shared", s)

    def part(k):
        k("free_shared", k.index(k.shared(X, int32), 0))

    assert "s is used after free_shared" in failure(twice)
    assert "only a whole shared tensor can be freed" in failure(part)


def test_an_allocation_in_a_loop_starts_unwritten():
    def body(k):
        y = k("register_tensor", dtype=int32, shape=[32], init=0)
        with k.loop(2) as i:
            s = k("shared_tensor", dtype=int32, shape=[32])
            with k.when(apply("eq", i, 0)):
                k("store_shared", s, k.tile(X[:, 0], int32))
                k("sync")
            k("load_shared", s, out=y)
            k("free_shared", s)
        return y

    assert "is read before it was written" in failure(body)


def test_a_tile_outside_the_tensor_is_an_error():
    def store(at):
        def body(k):
            s = k.shared(np.zeros(32), int32)
            k("store_shared", s, k.tile(X[:8, 0], int32), offsets=[at])

        return failure(body, blocks=2)

    assert "reaches outside the shared tensor" in store(25) and "25..32" in store(25)
    assert "at offsets [-1..6]" in store(-1)
    assert "at offsets [0..32]" in store(BLOCK_IDX[0] * 25)


def test_scatter_skips_what_is_out_of_bounds():
    def body(k):
        s = k.shared(np.zeros((4, 4)), int32)
        rows, columns = k.tile([0, 3, 4, -1, 2], int32), k.tile([1, 3, 0, 0, 2], int32)
        k("store_shared_scatter", s, k.tile([1, 2, 3, 4, 5], int32), (rows, columns))
        k("sync")
        return k("load_shared", s)

    expected = np.zeros((4, 4), int)
    expected[0, 1], expected[3, 3], expected[2, 2] = 1, 2, 5
    assert expected.tolist() == run_body(body).tolist()


def test_a_skipped_element_races_with_nobody():
    # Only elements in bounds are written, so reading the others before needs no sync.
    def body(k):
        s = k.shared(np.arange(4), int32)
        y = k("load_shared", k.index(s, slice(0, 2)))
        k("store_shared_scatter", s, k.tile([9, 9], int32), k.tile([3, -1], int32))
        return y

    assert [0, 1] == run_body(body).tolist()


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda k: k("shared_tensor", dtype=int32, shape=[0]), "shape must be at least 1"),
        (lambda k: k("shared_tensor", dtype=int32, shape=[BLOCK_IDX[0]]), "known at compile time"),
        (lambda k: k("load_shared", k.tile([1], int32)), "allocate it with self.shared_tensor"),
        (
            lambda k: k("store_shared", k.shared(X, int32), k.tile(X, float32)),
            "cast the tile: .to(int32)",
        ),
        (
            lambda k: k("store_shared", k.shared(X, int32), k.tile(X[0], int32)),
            "the shapes of the tile and of the tensor differ",
        ),
        (
            lambda k: k("store_shared", k.shared(X, int32), k.tile(X[:, :1], int32), offsets=[0]),
            "one offset for each dimension of the tensor is needed",
        ),
        (
            lambda k: k("store_shared", k.shared(X[:8], int32), k.tile(X, int32), offsets=[0, 0]),
            "the tile is larger than the tensor",
        ),
        (
            lambda k: k(
                "store_shared_scatter", k.shared(X, int32), k.tile(X, int32), k.tile(X, int32)
            ),
            "one tile of indices for each dimension of the tensor is needed",
        ),
        (
            lambda k: k(
                "store_shared_scatter",
                k.shared(X[0], int32),
                k.tile([1], int32),
                k.tile([1.0], float32),
            ),
            "the indices are of another type",
        ),
    ],
)
def test_arguments_that_do_not_fit(build, expected):
    assert expected in failure(build)


def test_two_elements_at_one_address():
    def body(k):
        s = k("shared_tensor", dtype=int32, shape=[4])
        s.layout = shared_layout([4], [4], [0])

    assert "two elements share an address" in failure(body)


def test_scatter_operands_share_one_layout():
    x, i = (RegisterTensor(int32, (32,), layout=lo) for lo in (spatial(32), spatial(32)))
    j = RegisterTensor(int32, (32,), layout=spatial(16).local(2))
    s = SharedTensor(int32, (32, 32))
    with pytest.raises(TilusError, match="the operands have different layouts"):
        StoreSharedScatter.build(s, x, (i, j)).check_layouts()


# ---- layouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        (float16, [64, 64], shared_row_major_swizzle([64, 64], 16)),
        (float16, [2, 64, 32], shared_row_major_swizzle([2, 64, 32], 16)),
        (float16, [64, 8], shared_row_major(64, 8)),
        (dtypes.uint3b, [64, 64], shared_row_major(64, 64)),
        (float32, [64], shared_row_major(64)),
        (float32, [], shared_row_major()),
    ],
)
def test_rows_are_swizzled_where_they_can_be(dtype, shape, expected):
    (proposal,) = SharedAlloc.build(dtype=dtype, shape=shape).layouts(Known(32))
    assert expected == proposal.layout


def test_loads_are_as_wide_as_the_layout_allows():
    source = SharedTensor(float16, (64, 64))
    load = LoadShared.build(source)
    known = Known(128)
    known.layouts[source] = shared_row_major_swizzle([64, 64], 16)
    (wide,) = load.layouts(known)
    assert 8 == wide.layout.contiguous_local()
    known.layouts[source] = shared_row_major(64, 64).transpose()
    (narrow,) = load.layouts(known)
    assert 1 == narrow.layout.contiguous_local()


def test_a_contiguous_run_ends_at_a_swizzled_chunk():
    assert 8 == contiguous_run(shared_row_major_swizzle([64, 64], 16))
    assert 64 == contiguous_run(shared_row_major(64, 64))
    assert 1 == contiguous_run(shared_row_major())


def test_effects_tell_reads_from_writes():
    s, x = SharedTensor(int32, (4,)), RegisterTensor(int32, (4,))
    assert [s] == list(StoreShared.build(s, x).writes()) and [x] == list(
        StoreShared.build(s, x).reads()
    )
    assert LoadShared.effects.removable and not StoreShared.effects.removable
