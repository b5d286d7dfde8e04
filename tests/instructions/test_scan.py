"""Running sums and products against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.instructions.harness import failure, run_body
from tilus.dtypes import float16, int8, int32, uint4b

X = np.random.default_rng(0).integers(-3, 4, (4, 8))


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("name", ["cumsum", "cumprod"])
def test_values_are_numpys(name, dim):
    expected = getattr(np, name)(X, axis=dim, dtype=np.int32)
    assert expected.tolist() == run_body(lambda k: k(name, k.tile(X, int32), dim=dim)).tolist()


@pytest.mark.parametrize(
    ("op", "ufunc"),
    [("add", np.add), ("mul", np.multiply), ("min", np.minimum), ("max", np.maximum)],
)
def test_scan_takes_its_operation(op, ufunc):
    expected = ufunc.accumulate(X, axis=1)
    result = run_body(lambda k: k.method(k.tile(X, int32), "scan", dim=1, op=op))
    assert expected.tolist() == result.tolist()


def test_half_precision_is_rounded_at_the_end():
    # 2048 + 1 is no float16: a running sum in float16 itself would stand still.
    sums = run_body(lambda k: k.method(k.tile([2048, 1, 1], float16), "cumsum", dim=0))
    assert [2048, 2048, 2050] == sums.tolist()


def test_integers_wrap_in_their_own_dtype():
    assert [100, -56] == run_body(lambda k: k("cumsum", k.tile([100, 100], int8), dim=0)).tolist()


def test_out_is_reused():
    def body(k):
        x = k.tile([1, 2, 3], int32)
        return k("cumsum", x, dim=0, out=x)

    assert [1, 3, 6] == run_body(body).tolist()


def test_mistakes_are_named():
    def wrong_dim(k):
        k("cumsum", k.tile(X, int32), dim=2)

    def storage_format(k):
        k("cumsum", k.tile([1, 2], uint4b), dim=0)

    def other_shape(k):
        k("cumsum", k.tile([1, 2], int32), dim=0, out=k.tile([1, 2, 3], int32))

    def unknown_operation(k):
        k("scan", k.tile(X, int32), dim=0, op="xor")

    assert "expected: add, mul, min, max" in str(failure(unknown_operation))
    assert "dim" in str(failure(wrong_dim))
    assert "no arithmetic is defined on uint4b" in str(failure(storage_format))
    assert "the result is of another type" in str(failure(other_shape))
