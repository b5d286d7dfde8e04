"""Global-memory layouts, over integers and over expressions."""

from __future__ import annotations

import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from tilus.ir.layout import (
    GlobalLayout,
    LayoutError,
    global_column_major,
    global_compose,
    global_layout,
    global_row_major,
    global_slice,
    global_strides,
)

SHAPES = st.lists(st.integers(1, 5), max_size=3)


def table(layout):
    """The offset of every element."""
    return np.array([layout.offset(index) for index in np.ndindex(*layout.shape)]).reshape(
        layout.shape
    )


@given(SHAPES)
def test_row_and_column_major(shape):
    size = int(np.prod(shape))
    assert np.array_equal(np.arange(size).reshape(shape), table(global_row_major(shape)))
    expected = np.arange(size).reshape(shape, order="F")
    assert np.array_equal(expected, table(global_column_major(shape)))
    assert size == global_row_major(shape).size


@given(SHAPES, st.data())
def test_permute(shape, data):
    dims = data.draw(st.permutations(range(len(shape))))
    layout = global_row_major(shape)
    assert np.array_equal(table(layout).transpose(dims), table(layout.permute(dims)))


@given(st.lists(st.integers(1, 3), min_size=2, max_size=2), st.data())
def test_compose_is_the_kronecker_product(shape, data):
    inner_shape = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=2))
    outer, inner = global_column_major(shape), global_row_major(inner_shape)
    product = global_compose(outer, inner)
    rows, columns = np.indices(product.shape)
    expected = table(outer)[rows // inner_shape[0], columns // inner_shape[1]] * inner.size
    expected = expected + table(inner)[rows % inner_shape[0], columns % inner_shape[1]]
    assert np.array_equal(expected, table(product))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.data())
def test_slice_finds_the_elements_of_its_parent(shape, data):
    layout = global_column_major(shape)
    starts = [data.draw(st.integers(0, extent - 1)) for extent in shape]
    dims = data.draw(st.lists(st.sampled_from(range(len(shape))), unique=True))
    extents = [data.draw(st.integers(1, shape[dim] - starts[dim])) for dim in dims]
    base, part = global_slice(layout, starts, dims, extents)
    window = [slice(start, start + 1) for start in starts]
    for dim, extent in zip(dims, extents, strict=True):
        window[dim] = slice(starts[dim], starts[dim] + extent)
    order = [*dims, *(d for d in range(len(shape)) if d not in dims)]
    expected = table(layout)[tuple(window)].transpose(order).reshape(extents)
    assert np.array_equal(expected, base + table(part))


def test_expressions_are_never_asked_for_a_value():
    m, i, j = sympy.symbols("m i j", integer=True, positive=True)
    assert i * 64 + j == global_row_major([m, 64]).offset((i, j))
    assert i + j * m == global_column_major([m, 64]).offset((i, j))
    base, part = global_slice(global_row_major([m, 64, 8]), [i, j, 0], [2], [8])
    assert sympy.expand(512 * i + 8 * j - base) == 0
    assert GlobalLayout((8,), (1,)) == part
    assert m * 64 == global_row_major([m, 64]).size


def test_text():
    assert "global_layout([4, 8], [8, 1])" == str(global_row_major([4, 8]))
    tiled = global_compose(global_row_major([2, 2]), global_row_major([4, 8]))
    assert "global_layout([8, 16], [64, 8, 32, 1], [[2, 4], [2, 8]])" == str(tiled)
    assert not tiled.is_strided
    assert tiled == global_layout([8, 16], [64, 8, 32, 1], [[2, 4], [2, 8]])


def test_slices_of_tiled_dimensions():
    tiled = global_compose(global_row_major([2, 2]), global_row_major([4, 8]))
    base, part = global_slice(tiled, [3, 0], [1], [16])
    assert np.array_equal(table(tiled)[3], base + table(part))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: global_strides([4, 8], [1]), "one stride a dimension"),
        (lambda: global_layout([4], [1], [[4], [4]]), "one stride a dimension"),
        (lambda: global_row_major([-1]), "not be negative"),
        (lambda: global_row_major([4]).offset((0, 0)), "one entry a dimension"),
        (lambda: global_compose(global_row_major([4]), global_row_major([4, 4])), "equal ranks"),
        (lambda: global_slice(global_row_major([4]), [0], [0, 1], [4, 4]), "distinct dimensions"),
        (lambda: global_slice(global_row_major([4]), [0], [0], []), "one offset a dimension"),
        (
            lambda: global_slice(
                global_compose(global_row_major([2]), global_column_major([3])), [1], [0], [3]
            ),
            "whole or indexed",
        ),
    ],
)
def test_mistakes_are_explained(build, message):
    with pytest.raises(LayoutError) as caught:
        build()
    assert message in caught.value.message
