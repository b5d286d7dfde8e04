"""Names of a program beside those that generated texts give to things of their own."""

from __future__ import annotations

import numpy as np
import pytest

from tests.instructions.harness import run_body
from tilus.dtypes import float16, float32, int32

RNG = np.random.default_rng(0)
# What a loop or a sum is called elsewhere, and users call their tiles, too.
NAMES = ("i", "j", "k", "m", "n", "x", "all", "sum", "lower", "step", "tid", "arena", "thread")
NAMES += ("bi", "ki", "mi", "ni", "folded", "below", "reach")


def named(tile, name):
    tile.name = name
    return tile


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [float16, float32], ids=str)
def test_products_of_tiles_of_one_name(name, dtype):
    """With tensor cores, in loops over matrices, rows, columns and k; and without."""
    a, b = RNG.integers(-4, 5, (2, 32, 64)), RNG.integers(-4, 5, (2, 64, 16))

    def body(k):
        left, right = named(k.tile(a, dtype), name), named(k.tile(b, dtype), name)
        return named(k("dot", left, right), name)

    assert (a @ b).tolist() == run_body(body).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_reductions_and_scans_of_tiles_of_one_name(name):
    values = RNG.integers(-9, 10, (8, 128))

    def body(k):
        tile = named(k.tile(values, int32), name)
        sums = [named(k("sum", tile, dim=dim), name) for dim in (0, 1)]
        return *sums, *(named(k("cumsum", tile, dim=dim), name) for dim in (0, 1))

    found = [tile.tolist() for tile in run_body(body, warps=4)]
    expected = [values.sum(0), values.sum(1), values.cumsum(0), values.cumsum(1)]
    assert [each.tolist() for each in expected] == found
