"""Reductions against NumPy: dimensions, accumulation, and layouts."""

from __future__ import annotations

import numpy as np
import pytest

from tests.instructions.harness import failure, run_body
from tilus.dtypes import (
    bfloat16,
    boolean,
    float8_e4m3,
    float16,
    float32,
    int4b,
    int8,
    int32,
    uint8,
)
from tilus.errors import TilusError
from tilus.instructions.reduce import Max, Sum
from tilus.ir.instruction import Known, Strength
from tilus.ir.layout import reduce, spatial
from tilus.ir.tensor import RegisterTensor

X = np.random.default_rng(0).integers(-50, 50, (4, 8, 2))


@pytest.mark.parametrize("dim", [None, 0, -1, [0, 2], [2, 1, 0]])
@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("name", ["sum", "max", "min"])
def test_values_are_numpys(name, dim, keepdim):
    axes = tuple(dim) if isinstance(dim, list) else dim
    expected = getattr(np, name)(X, axis=axes, keepdims=keepdim)
    result = run_body(lambda k: k.method(k.tile(X, int32), name, dim=dim, keepdim=keepdim))
    assert expected.tolist() == result.tolist()


@pytest.mark.parametrize(("name", "function"), [("any", np.any), ("all", np.all)])
def test_truth_is_boolean(name, function):
    x = np.array([[0, 0], [1, 0], [2, -1]])
    result = run_body(lambda k: k(name, k.tile(x, int8), dim=1))
    assert np.bool_ == result.dtype and function(x, axis=1).tolist() == result.tolist()
    assert [True] == run_body(lambda k: k(name, k.tile([True], boolean), keepdim=True)).tolist()


@pytest.mark.parametrize("dtype", [float16, bfloat16])
def test_half_precision_sums_are_rounded_once(dtype):
    # Beyond 2048 (256 in bfloat16) a running sum of ones in the dtype itself would stand still.
    assert 4096 == run_body(lambda k: k("sum", k.tile(np.ones(4096), dtype)))


def test_integers_wrap_in_their_own_dtype():
    assert -56 == run_body(lambda k: k("sum", k.tile([100, 100], int8)))
    assert 44 == run_body(lambda k: k("sum", k.tile([100, 200], uint8)))


def test_float16_sums_overflow_to_infinity():
    assert np.inf == run_body(lambda k: k("sum", k.tile([60000, 60000], float16)))


def test_nan_wins():
    low, high = run_body(
        lambda k: tuple(k(n, k.tile([1, np.nan, 3], bfloat16)) for n in ("min", "max"))
    )
    assert np.isnan(low) and np.isnan(high)


def test_out_reuses_a_tile():
    def body(k):
        out = k("register_tensor", dtype=int32, shape=[4])
        k("sum", k.tile(X[..., 0], int32), dim=1, out=out)
        return out

    assert X[..., 0].sum(1).tolist() == run_body(body).tolist()


def test_a_tile_of_rank_zero_is_its_own_sum():
    assert 5 == run_body(lambda k: k("sum", k.tile(5, int32)))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda k: k("sum", k.tile([1], int4b)), "no arithmetic is defined on int4b"),
        (lambda k: k("max", k.tile([1], float8_e4m3)), "cast it first"),
        (
            lambda k: k("sum", k.tile([True], boolean)),
            "count them with self.sum(x.to(tilus.int32))",
        ),
        (lambda k: k("sum", k.tile([1], int32), dim=1), "dim must name different dimensions"),
        (lambda k: k("sum", k.tile([[1]], int32), dim=[0, -2]), "none twice"),
        (lambda k: k("max", 1), "elementwise: self.maximum(a, b)"),
        (
            lambda k: k("sum", k.tile([1], int32), out=k.tile([1.0], float32)),
            "the result is of another type",
        ),
        (
            lambda k: k("sum", k.tile([1.0], float32), dim="rows"),
            "sum: dim must be a list",
        ),
    ],
)
def test_what_cannot_be_reduced(build, expected):
    assert expected in failure(build)


def test_parsed_fields_are_checked():
    x = RegisterTensor(int32, (4,))
    with pytest.raises(TilusError, match="dims must be different dimensions of the tile"):
        Sum(RegisterTensor(int32, ()), x, (1,), False).verify()


def test_the_result_is_replicated_along_the_reduced_dimension():
    x = RegisterTensor(float32, (8, 4), layout=spatial(8, 4))
    (proposal,) = Max.build(x, dim=1).layouts(Known(32))
    assert (Strength.MUST, reduce(spatial(8, 4), [1])) == (proposal.strength, proposal.layout)


def test_the_result_cannot_lie_elsewhere():
    def body(k):
        x = k.tile(X[0], int32)
        x.layout = spatial(8, 2).replicated(1, 1, num_workers=2)
        y = k("sum", x, dim=1)
        y.layout = spatial(4).local(2).replicated(1, num_workers=8)
        return y

    assert "the result lies in other threads" in failure(body)
