"""Every scalar operator on tiles of every dtype that has it, and tiles that broadcast."""

from __future__ import annotations

import numpy as np
import pytest

from tests.instructions.harness import failure, run_body
from tilus.dtypes import (
    bfloat16,
    boolean,
    float16,
    float32,
    float64,
    int4b,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)
from tilus.errors import TilusError
from tilus.ir.expr import BLOCK_IDX, apply
from tilus.ir.layout import spatial
from tilus.ir.operators import OPERATORS
from tilus.ir.tensor import RegisterTensor

INTEGERS = (int8, uint8, int16, uint16, int32, uint32, int64, uint64)
FLOATS = (float16, bfloat16, float32, float64)
SHIFTS = ("shl", "shr")
DIVISIONS = ("floordiv", "mod")
X = np.arange(-8, 8).reshape(4, 4)


def numbers(dtype):
    """Small numbers of both signs, the ends of the range, and what only floats have."""
    if dtype == boolean:
        return [False, True]
    if dtype.is_float():
        return [0.0, -0.0, 0.3, -1.5, 2.5, 3.5, -7.0, 11.0, 250.0, np.inf, -np.inf, np.nan]
    low, high = int(dtype.min_value), int(dtype.max_value)
    return [0, 1, 2, 3, 7, 100, high - 1, high, low, low + 1, *([-1, -7] if low else [])]


def second(op, dtype):
    if op in SHIFTS:
        return [0, 1, 3, 7]
    if op in ("min", "max"):  # which of two zeros is the smaller is left open
        return [v for v in numbers(dtype) if v]
    return [v for v in numbers(dtype) if v or dtype.is_float() or op not in DIVISIONS]


def weighted(*index):
    return sum(8**d * i for d, i in enumerate(index, 1)) + 1


def accepts(op, dtype):
    try:
        OPERATORS[op].result((boolean,) * (op == "where") + (dtype,) * (OPERATORS[op].arity))
    except TilusError:
        return False
    return True


@pytest.mark.parametrize("op", [name for name, row in OPERATORS.items() if row.arity == 1])
def test_every_operator_of_one_operand(op):
    accepted = [d for d in (boolean, *INTEGERS, *FLOATS) if accepts(op, d)]
    assert accepted

    def body(k):
        return tuple(k("elementwise", op, k.tile(numbers(d), d)) for d in accepted)

    results = run_body(body)
    assert [len(numbers(d)) for d in accepted] == [len(r) for r in results]


@pytest.mark.parametrize("op", [name for name, row in OPERATORS.items() if row.arity == 2])
def test_every_operator_of_two_operands(op):
    accepted = [d for d in (boolean, *INTEGERS, *FLOATS) if accepts(op, d)]
    assert accepted

    def body(k):
        pairs = [np.meshgrid(numbers(d), second(op, d)) for d in accepted]
        return tuple(
            k("elementwise", op, k.tile(x, d), k.tile(y, d))
            for d, (x, y) in zip(accepted, pairs, strict=True)
        )

    results = run_body(body)
    assert [(len(second(op, d)), len(numbers(d))) for d in accepted] == [r.shape for r in results]


@pytest.mark.parametrize("dtype", [int8, int32, float16, bfloat16, float32], ids=str)
def test_operators_of_three_operands(dtype):
    x = np.arange(-4, 4)

    def body(k):
        tile = k.tile(x, dtype)
        chosen = k("elementwise", "where", k("elementwise", "lt", tile, 0), 7, tile)
        return chosen, k("elementwise", "clip", tile, -2, 2)

    chosen, clipped = run_body(body)
    assert np.where(x < 0, 7, x).tolist() == chosen.tolist()
    assert x.clip(-2, 2).tolist() == clipped.tolist()


@pytest.mark.parametrize("shapes", [((4, 4), (4,)), ((4, 1), (1, 4)), ((1,), (4, 4)), ((), (4, 4))])
def test_tiles_broadcast_as_in_numpy(shapes):
    def body(k):
        x, y = (k("register_tensor", dtype=int32, shape=s, init=weighted) for s in shapes)
        z = k("elementwise", "sub", x, k("elementwise", "mul", y, 100))
        k("annotate_layout", z, spatial(4, 4).replicated(1, 1, num_workers=2))
        return z

    x, y = (np.fromfunction(weighted, s, dtype=int) + np.zeros(s, int) for s in shapes)
    assert (x - 100 * y).tolist() == run_body(body).tolist()


def test_dtypes_are_promoted():
    def body(k):
        total = k("elementwise", "add", k.tile(X, int8), k.tile(X + 0.5, float16))
        assert float16 == total.dtype
        return total, k("elementwise", "mul", k.tile(X, int8), apply("add", BLOCK_IDX[0], 1))

    totals, products = run_body(body, blocks=2)
    assert (2 * X + 0.5).tolist() == totals[1].tolist()
    assert (2 * X).tolist() == products[1].tolist()


def test_a_tile_is_made_from_its_indices():
    def body(k):
        return k("register_tensor", dtype=int32, shape=[4, 8], init=lambda i, j: i * 8 + j)

    assert np.arange(32).reshape(4, 8).tolist() == run_body(body).tolist()


def test_a_tile_is_assigned_in_some_blocks():
    def body(k):
        x, y = k.tile(X, int8), k.tile(X + 1, int8)
        with k.when(apply("eq", BLOCK_IDX[0], 1)):
            k("assign", x, y)
        return x

    assert [X.tolist(), (X + 1).tolist()] == run_body(body, blocks=2).tolist()


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda k: k("elementwise", "add", k.tile([1], int4b), 1), "int4b"),
        (lambda k: k("elementwise", "add", k.tile(X, int32), k.tile(X[:3], int32)), "broadcast"),
        (
            lambda k: k("elementwise", "bitand", k.tile(X, float32), 1),
            "bit operations need integers",
        ),
        (
            lambda k: k(
                "elementwise", "add", k.tile(X, int32), 1, out=RegisterTensor(float32, (4, 4))
            ),
            "gives another type than its result has",
        ),
    ],
)
def test_operands_that_do_not_fit(build, expected):
    assert expected in failure(build)
