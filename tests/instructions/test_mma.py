"""Products of tiles: values, accumulators, and which layouts they choose."""

from __future__ import annotations

import numpy as np
import pytest

from tests.instructions.harness import Kernel, failure, run_body, settle_layouts
from tilus import dtypes
from tilus.dtypes import (
    bfloat16,
    boolean,
    float8_e4m3,
    float8_e5m2,
    float16,
    float32,
    float64,
    int4b,
    int8,
    int16,
    int32,
    int64,
    uint8,
)
from tilus.errors import TilusError
from tilus.instructions.mma import Dot
from tilus.ir.instruction import Known, Strength
from tilus.ir.layout import (
    atomic_mma_configs,
    column_local,
    local,
    mma_dot_config,
    resolve_dot_config,
    spatial,
)
from tilus.ir.program import Program
from tilus.ir.tensor import RegisterTensor

RNG = np.random.default_rng(0)
A, B, C = (RNG.integers(-4, 5, s) for s in ((32, 32), (32, 16), (32, 16)))


@pytest.mark.parametrize(
    ("a", "b", "acc"),
    [
        (float16, float16, float32),
        (bfloat16, bfloat16, float32),
        (float16, bfloat16, float32),
        (float32, float32, float32),
        (float64, float32, float64),
        (float8_e4m3, float8_e5m2, float32),
        (int8, int8, int32),
        (int8, uint8, int32),
        (int16, int16, int32),
        (int64, int64, int64),
    ],
)
def test_values_and_the_default_accumulator(a, b, acc):
    right = np.abs(B)  # uint8 has no negative numbers

    def body(k):
        out = k("dot", k.tile(A, a), k.tile(right, b))
        assert acc == out.dtype
        return out

    assert (A @ right).tolist() == run_body(body, warps=2).tolist()


def test_a_product_is_added_and_accumulated_in_place():
    def body(k):
        a, b, c = k.tile(A, float16), k.tile(B, float16), k.tile(C, float32)
        acc = k("register_tensor", dtype=float32, shape=[32, 16], init=1)
        with k.loop(3):
            k("dot", a, b, acc, out=acc)
        return k("dot", a, b, c), acc

    added, accumulated = run_body(body)
    assert (A @ B + C).tolist() == added.tolist()
    assert (3 * (A @ B) + 1).tolist() == accumulated.tolist()


@pytest.mark.parametrize("warps", [1, 2, 4, 6])
@pytest.mark.parametrize("dtype", [float16, float32], ids=str)
def test_batches_are_multiplied_matrix_by_matrix(dtype, warps):
    """With tensor cores where the warps share the batch or a matrix, and without."""
    a, b, c = (RNG.integers(-4, 5, s) for s in ((4, 16, 32), (4, 32, 16), (4, 16, 16)))

    def body(k):
        return k("dot", k.tile(a, dtype), k.tile(b, dtype), k.tile(c, float32))

    assert (a @ b + c).tolist() == run_body(body, warps=warps).tolist()


def test_a_batch_is_shared_by_the_warps_first():
    """Each of 4 warps has its own matrix, in which it does everything."""
    config = mma_dot_config(atomic_mma_configs.m16n8k16_f16_f32, (1, 1), (1, 2, 2))
    assert [
        spatial(4, 1, 1) * layout.unsqueeze(0) for layout in (config.la, config.lb, config.lc)
    ] == layouts_of(RegisterTensor(float16, (4, 16, 32)), RegisterTensor(float16, (4, 32, 16)), 4)


def layouts_of(a, b, warps):
    dot = Dot.build(a, b)
    proposals = {p.tile: p.layout for p in dot.layouts(Known(32 * warps))}
    return [proposals[tile] for tile in (a, b, dot.out)]


def test_the_sum_is_rounded_once():
    # 2048 + 1 + 1 is 2050; adding the ones to a float16 one by one would stay at 2048.
    a, b = np.array([[2048.0, 1, 1]]), np.ones((3, 1))
    assert [[2050]] == run_body(
        lambda k: k("dot", k.tile(a, float16), k.tile(b, float16), acc_dtype=float16)
    ).tolist()


def test_integers_are_exact_and_wrap():
    a = np.full((1, 2048), -128)
    big = np.array([[2**31 - 1]])

    def body(k):
        long = k("dot", k.tile(a, int8), k.tile(a.T, int8))
        wrapped = k("dot", k.tile([[1]], int8), k.tile([[1]], int8), k.tile(big, int32))
        return long, wrapped

    long, wrapped = run_body(body)
    assert [[2048 * 128**2]] == long.tolist() and [[-(2**31)]] == wrapped.tolist()


@pytest.mark.parametrize("layout", [spatial(32), local(8).spatial(32).local(2)], ids=str)
def test_operands_may_lie_anywhere(layout):
    # Without tensor cores threads multiply what others hold, by way of scratch memory.
    def body(k):
        a = k.tile(A.reshape(-1)[: layout.size], float32)
        a.layout = layout
        b = k("register_tensor", dtype=float32, shape=[layout.size, 2], init=lambda i, j: i - j)
        return k("dot", k("unsqueeze", a, 0), b), k("dot", k("unsqueeze", a, 0), b)

    a, i = A.reshape(1, -1)[:, : layout.size], np.arange(layout.size)
    expected = (a @ np.stack([i, i - 1], 1)).tolist()
    assert [expected, expected] == [each.tolist() for each in run_body(body)]


def test_one_tile_is_both_operands():
    result = run_body(lambda k: k("dot", *[k.tile(A, float32)] * 2), warps=2)
    assert (A @ A).tolist() == result.tolist()


def test_c_in_other_registers_of_its_threads():
    def body(k):
        c, out = k.tile(C[:16], float32), RegisterTensor(float32, (16, 16))
        k("dot", k.tile(A[:16], float32), k.tile(B, float32), c, out=out)
        out.layout, c.layout = spatial(8, 4).local(2, 4), spatial(8, 4) * column_local(2, 4)
        return out

    assert (A[:16] @ B + C[:16]).tolist() == run_body(body).tolist()


def test_nan_and_infinity_pass_through():
    a = np.array([[np.inf, 1.0], [np.nan, 1.0]])
    result = run_body(lambda k: k("dot", k.tile(a, float16), k.tile([[1.0], [1.0]], float16)))
    assert np.inf == result[0, 0] and np.isnan(result[1, 0])


@pytest.mark.parametrize(
    ("a", "b", "options", "expected"),
    [
        (int4b, int4b, {}, "dot: int4b is a storage format"),
        (int4b, int4b, {}, "cast the operand first: x.to(tilus.float16)"),
        (float16, int4b, {}, "no arithmetic is defined on int4b"),
        (dtypes.ufloat8_e8m0, dtypes.ufloat8_e8m0, {}, "is a storage format"),
        (boolean, boolean, {}, "is a storage format"),
        (float16, float16, {"acc_dtype": int32}, "the accumulator does not fit the operands"),
        (float32, float32, {"acc_dtype": float16}, "float32 accumulated in float16"),
        (int8, int8, {"acc_dtype": int16}, "acc_dtype=int32"),
    ],
)
def test_dtypes_that_do_not_multiply(a, b, options, expected):
    ones = np.ones((4, 4))
    assert expected in failure(lambda k: k("dot", k.tile(ones, a), k.tile(ones, b), **options))


def test_shapes_and_accumulators_that_do_not_fit():
    def dot(*shapes, **options):
        tiles = [np.ones(s) for s in shapes]
        return failure(lambda k: k("dot", *[k.tile(t, float32) for t in tiles], **options))

    assert "the shapes do not multiply" in dot((4, 3), (4, 3)) and "[4, 3] @ [4, 3]" in dot(
        (4, 3), (4, 3)
    )
    assert "the shapes do not multiply" in dot((4,), (4, 3))
    assert "c is of another type" in dot((4, 3), (3, 4), (4, 3))
    out = RegisterTensor(float32, (4, 3))
    assert "the result is of another type" in dot((4, 3), (3, 4), out=out)
    assert "out is of another dtype than acc_dtype" in dot(
        (4, 3), (3, 3), out=out, acc_dtype=float64
    )


# ---- layouts -------------------------------------------------------------------------------------


def tiles(m, n, k, dtype=float16, acc=float32):
    a, b, c = (RegisterTensor(d, s) for d, s in ((dtype, (m, k)), (dtype, (k, n)), (acc, (m, n))))
    return a, b, c, Dot.build(a, b, c)


@pytest.mark.parametrize("warps", [1, 2, 4, 8])
def test_fragments_are_a_must(warps):
    a, b, c, dot = tiles(64, 64, 32)
    config = resolve_dot_config(float16, float32, m=64, n=64, k=32, num_warps=warps)
    proposals = list(dot.layouts(Known(32 * warps)))
    assert {Strength.MUST} == {p.strength for p in proposals}
    expected = {a: config.la, b: config.lb, c: config.lc, dot.out: config.lc}
    assert expected == {p.tile: p.layout for p in proposals}


def test_a_known_fragment_decides_the_tiling():
    a, b, _, dot = tiles(64, 64, 32)
    for warps in ((4, 1), (2, 2), (1, 4)):
        repeat = (4 // warps[0], 8 // warps[1], 2)
        config = mma_dot_config(atomic_mma_configs.m16n8k16_f16_f32, warps, repeat)
        known = Known(128)
        known.layouts[dot.out] = config.lc
        assert config.la == next(p.layout for p in dot.layouts(known) if p.tile is a)
        assert config.lb == next(p.layout for p in dot.layouts(known) if p.tile is b)


def form(m, n, k, *, threads=32, dtype=float16, acc=float32, out_layout=None):
    dot = tiles(m, n, k, dtype, acc)[3]
    dot.out.layout = out_layout
    return dot.form(threads)


def test_the_form_says_what_was_chosen_or_why_not():
    assert (
        "dot by mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32: warps 1x2, each 2x2x1 times"
        == form(32, 32, 16, threads=64)
    )
    assert (
        "dot without tensor cores: the tile is no multiple of m16n8k16_f16_f32: n = 4, 8 needed"
        == form(16, 4, 16)
    )
    assert "no tensor-core instruction multiplies these dtypes: float32 x float32" in form(
        16, 8, 16, dtype=float32
    )
    assert "64 threads cannot share the tile: 1 x 1 atoms" in form(16, 8, 16, threads=64)
    assert "no m16n8k16_f16_f32 tiling has the layouts that the result have already" in form(
        16, 8, 16, out_layout=spatial(8, 4).local(2, 2)
    )


def test_without_tensor_cores_each_thread_holds_what_it_multiplies():
    kernel = Kernel(warps=1, blocks=1)
    a = kernel("register_tensor", dtype=float32, shape=[8, 3], init=0)
    b = kernel("register_tensor", dtype=float32, shape=[3, 4], init=0)
    out = kernel("dot", a, b)
    one = dtypes.int32(1)
    settle_layouts(Program("test", (), (one, one, one), 1, tuple(kernel.body)))
    held = out.layout.logical_indices()
    for thread, (rows, columns) in enumerate(
        zip(a.layout.logical_indices(), b.layout.logical_indices(), strict=True)
    ):
        assert set(held[thread] // 4) == set(rows // 3)
        assert set(held[thread] % 4) == set(columns % 4)


def test_c_and_the_result_lie_together():
    def body(k):
        c = k.tile(C, float32)
        out = k("dot", k.tile(A, float32), k.tile(B, float32), c)
        c.layout, out.layout = spatial(32, 1).local(1, 16), spatial(8, 4).local(4, 4)

    assert "c and the result lie in different threads" in failure(body)


def test_an_unknown_operand_is_named():
    with pytest.raises(TilusError, match="dot: a must be a register tensor"):
        Dot.build(1, 2)
