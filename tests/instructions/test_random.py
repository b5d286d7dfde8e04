"""Random numbers: Philox against its published answers, and what the instructions make of it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.instructions.harness import failure, run_body
from tilus.dtypes import bfloat16, float16, float32, float64, int8, int32, int64, uint4b, uint8
from tilus.instructions.random import philox
from tilus.ir.expr import BLOCK_IDX, mul
from tilus.ir.layout import column_spatial, spatial

FLOATS = (float16, bfloat16, float32, float64)
# Random123 1.14, examples/kat_vectors, "philox4x32 10": counter, key, answer.
KNOWN_ANSWERS = (
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
)


def words(text):
    return tuple(np.asarray(int(word, 16), np.uint64) for word in text.split())


def drawn(name, *args, warps=1, **options):
    return run_body(lambda k: k(name, *args, **options), warps=warps)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter, key, answer):
    assert answer == " ".join(f"{int(w):08x}" for w in philox(words(counter), words(key)))


def test_philox_takes_arrays():
    zeros = np.zeros(2, np.uint64)
    both = philox((zeros, zeros, zeros, zeros), (zeros, zeros))
    assert [0x6627E8D5] * 2 == both[0].tolist()


def test_an_element_is_a_function_of_seed_and_counter():
    # Seed 0, counter 0: the first known answer, 0x6627e8d5; its upper 24 bits are the number.
    assert 0x6627E8 * 2.0**-24 == drawn("rand", shape=[1], seed=0)[0]
    whole = drawn("rand", shape=[8], seed=5)
    assert whole[3:].tolist() == drawn("rand", shape=[5], seed=5, offset=3).tolist()
    assert whole.tolist() == drawn("rand", shape=[2, 4], seed=5).ravel().tolist()


def test_layouts_and_warps_change_nothing():
    def with_layout(layout):
        def body(k):
            x = k("randn", shape=[8, 4], seed=1)
            k("annotate_layout", x, layout)
            return x

        return run_body(body).tolist()

    expected = drawn("randn", shape=[8, 4], seed=1, warps=4).tolist()
    assert expected == with_layout(spatial(8, 4)) == with_layout(column_spatial(8, 4))


def test_blocks_draw_from_their_own_offsets():
    def body(k):
        return k("rand", shape=[4], seed=9, offset=mul(BLOCK_IDX[0], 4))

    blocks = run_body(body, blocks=3)
    assert drawn("rand", shape=[12], seed=9).tolist() == blocks.ravel().tolist()


def test_the_counter_and_the_seed_have_64_bits():
    low = drawn("rand", shape=[4], seed=7, offset=2**32 - 2)
    high = drawn("rand", shape=[2], seed=7, offset=2**32)
    assert low[2:].tolist() == high.tolist()
    assert high.tolist() != drawn("rand", shape=[2], seed=7, offset=0).tolist()
    assert high.tolist() != drawn("rand", shape=[2], seed=7 + 2**32, offset=2**32).tolist()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_uniform_numbers_fill_zero_to_one(dtype):
    x = drawn("rand", shape=[4096], dtype=dtype, seed=3, warps=16).astype(np.float64)
    grid = 2.0 ** (dtype.mantissa_nbits + 1)
    assert ((x >= 0) & (x < 1)).all()
    assert (x * grid == np.floor(x * grid)).all()
    assert abs(x.mean() - 0.5) < 0.03
    counts = np.histogram(x, bins=8, range=(0, 1))[0]
    assert abs(counts - 512).max() < 100


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_normal_numbers_have_the_moments(dtype):
    x = drawn("randn", shape=[8192], dtype=dtype, seed=4, warps=16).astype(np.float64)
    moments = [x.mean(), x.var(), (x**3).mean(), (x**4).mean()]
    assert np.isfinite(x).all()
    assert np.allclose([0, 1, 0, 3], moments, atol=0.2)


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [(int8, -5, 7), (uint8, 0, 256), (int32, 3, 4), (int64, -2, 2)]
)
def test_integers_fill_their_range(dtype, low, high):
    x = drawn("randint", low, high, shape=[4096], dtype=dtype, seed=6, warps=16).astype(np.int64)
    assert set(range(low, high)) == set(x.tolist())


def test_wide_integers_use_64_bits():
    x = drawn("randint", -(2**62), 2**62, shape=[2048], dtype=int64, seed=8, warps=8).astype(
        np.float64
    )
    assert abs(x.mean()) < 2.0**57
    assert len({int(v) & 0xFFFF for v in x / 2**32}) > 1900


def test_mistakes_are_named():
    def storage_format(k):
        k("rand", shape=[4], dtype=uint4b, seed=0)

    def float_seed(k):
        k("rand", shape=[4], seed=k.tile([1], int32))

    def empty(k):
        k("randint", 5, 5, shape=[4], seed=0)

    def too_wide(k):
        k("randint", 0, 300, shape=[4], dtype=int8, seed=0)

    def narrow_integers(k):
        k("randint", 0, 3, shape=[4], dtype=uint4b, seed=0)

    def empty_at_run_time(k):
        k("randint", BLOCK_IDX[0], 1, shape=[4], seed=0)

    assert "there are no random numbers of uint4b" in failure(storage_format)
    assert "scalar" in failure(float_seed)
    assert "no range of integers of int32" in failure(empty)
    assert "0 to 300, exclusive" in failure(too_wide)
    assert "there are no random integers of uint4b" in failure(narrow_integers)
    assert "1 to 1, exclusive" in failure(empty_at_run_time, blocks=2)
