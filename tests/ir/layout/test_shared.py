"""Shared-memory layouts: addresses, swizzles, slices and bank conflicts."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.layout_strategies import attempt, register_layouts, shared_layouts, swizzles
from tilus.ir.layout import (
    LayoutError,
    SharedLayout,
    Swizzle,
    auto_local_spatial,
    bank_conflicts,
    shared_column_major,
    shared_compose,
    shared_layout,
    shared_permute,
    shared_reshape,
    shared_row_major,
    shared_row_major_swizzle,
    spatial,
)


def test_row_and_column_major():
    expected = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(expected, shared_row_major(2, 3, 4).offsets())
    assert np.array_equal(expected.T, shared_column_major(4, 3, 2).offsets())
    assert 24 == shared_row_major(2, 3, 4).storage_size
    assert 0 == shared_row_major().offset(())


def test_equality_is_of_the_mapping():
    assert shared_layout([4, 8], [2, 2, 8], [16, 8, 1]) == shared_row_major(4, 8)
    assert hash(shared_layout([4, 8], [2, 2, 8], [16, 8, 1])) == hash(shared_row_major(4, 8))
    assert shared_layout([4], [4], [1], Swizzle(3, 0, 3)) == shared_row_major(4)
    assert shared_row_major(4, 8) != shared_column_major(4, 8)
    assert shared_row_major(4) != shared_row_major(4).with_swizzle(Swizzle(0, 1, 1))
    assert shared_row_major(4) != 4


def test_text():
    assert "shared_layout([4, 8], [4, 8], [8, 1])" == str(shared_row_major(4, 8))
    swizzled = shared_row_major(8, 64).with_swizzle(Swizzle(3, 3, 3))
    assert "shared_layout([8, 64], [8, 64], [64, 1], Swizzle(3, 3, 3))" == repr(swizzled)


# ---- swizzles


@given(swizzles())
def test_swizzle_is_its_formula_and_a_permutation(swizzle):
    base, bits, shift = swizzle.base, swizzle.bits, swizzle.shift
    offsets = np.arange(1 << (base + bits + shift))
    mask = ((1 << bits) - 1) << (base + shift)
    assert np.array_equal(offsets ^ ((offsets & mask) >> shift), swizzle(offsets))
    assert np.array_equal(offsets, np.sort(swizzle(offsets)))
    blocks = swizzle(offsets[: swizzle.block])
    assert np.array_equal(offsets[: swizzle.block], np.sort(blocks))


@pytest.mark.parametrize("nbits", [4, 8, 16, 32])
def test_rows_of_128_bytes(nbits):
    chunk = 128 // nbits
    offsets = shared_row_major_swizzle([32, 8 * chunk], nbits).offsets()
    for row in range(32):
        for c in range(8):
            assert (row * 8 + (c ^ (row & 7))) * chunk == offsets[row, c * chunk]
            assert np.all(np.diff(offsets[row, c * chunk : (c + 1) * chunk]) == 1)


@pytest.mark.parametrize("width", [32, 64, 96, 128, 160, 192, 256, 384, 512])
@pytest.mark.parametrize("rows", [8, 16, 24])
def test_eight_rows_of_a_chunk_column_use_every_bank_once(rows, width):
    """What `ldmatrix` reads in one pass: eight rows of 16 bytes."""
    layout = shared_row_major_swizzle([rows, width // 2], 16)
    assert layout.is_injective()
    assert rows * width // 2 == layout.storage_size
    chunks = layout.offsets().reshape(-1, 8, width // 16, 8)[..., 0] * 2 // 16
    assert np.all(np.sort(chunks % 8, axis=1) == np.arange(8)[:, None])


def test_leading_dimensions_are_copies():
    layout = shared_row_major_swizzle([3, 8, 64], 16)
    one = shared_row_major_swizzle([8, 64], 16)
    assert np.array_equal(one.offsets() + 1024, layout.offsets()[2])


# ---- laws


@given(shared_layouts())
def test_offsets_are_the_definition(layout):
    expected = np.zeros(layout.shape, dtype=np.int64)
    for flat, index in enumerate(np.ndindex(*layout.shape)):
        coordinates = np.unravel_index(flat, layout.mode_shape) if layout.mode_shape else ()
        linear = int(np.dot(np.array(coordinates, dtype=int), layout.mode_strides))
        expected[index] = layout.swizzle(linear) if layout.swizzle else linear
        assert expected[index] == layout.offset(index)
    assert np.array_equal(expected, layout.offsets())
    assert expected.max() + 1 == layout.storage_size
    assert layout.is_injective()


@given(shared_layouts(), st.data())
def test_permute(layout, data):
    dims = data.draw(st.permutations(range(layout.rank)))
    assert np.array_equal(layout.offsets().transpose(dims), layout.permute(dims).offsets())
    if layout.rank >= 2:
        assert np.array_equal(np.swapaxes(layout.offsets(), -1, -2), layout.transpose().offsets())


@given(shared_layouts(), st.data())
def test_reshape(layout, data):
    for shape in (list(layout.mode_shape), [layout.size], [1, *layout.shape]):
        expected = layout.offsets().reshape(shape)
        assert np.array_equal(expected, layout.reshape(shape).offsets())
    assert layout == layout.reshape(layout.mode_shape).reshape(layout.shape)


@given(shared_layouts(rank=2, swizzled=False), shared_layouts(rank=2, swizzled=False))
def test_compose_is_the_kronecker_product(f, g):
    h = shared_compose(f, g)
    i, j = np.indices(h.shape)
    outer = f.offset((i // g.shape[0], j // g.shape[1])) * g.storage_size
    assert np.array_equal(outer + g.offset((i % g.shape[0], j % g.shape[1])), h.offsets())


@given(shared_layouts(rank=2), shared_layouts(rank=2))
def test_compose_of_swizzled_layouts_is_right_or_refused(f, g):
    h, refusal = attempt(lambda: shared_compose(f, g))
    if h is None:
        assert f.swizzle or g.swizzle
        assert "not a swizzled layout" in refusal
    else:
        i, j = np.indices(h.shape)
        outer = f.offset((i // g.shape[0], j // g.shape[1])) * g.storage_size
        assert np.array_equal(outer + g.offset((i % g.shape[0], j % g.shape[1])), h.offsets())


def test_compose_keeps_a_swizzle():
    atom = shared_row_major_swizzle([8, 64], 16)
    tiled = shared_compose(shared_row_major(2, 3), atom)
    assert atom.swizzle == tiled.swizzle
    assert np.array_equal(atom.offsets() + 4 * 512, tiled.offsets()[8:, 64:128])


@given(shared_layouts(), st.data())
def test_a_slice_finds_the_elements_of_its_parent(layout, data):
    starts = [data.draw(st.integers(0, extent - 1)) for extent in layout.shape]
    shape = [
        data.draw(st.integers(1, extent - start))
        for start, extent in zip(starts, layout.shape, strict=True)
    ]
    window = tuple(slice(s, s + e) for s, e in zip(starts, shape, strict=True))
    result, refusal = attempt(lambda: layout.slice(starts, shape))
    if result is None:
        assert "cuts through the modes" in refusal
        assert any(len(modes) > 1 for modes in layout.dim_modes)
    else:
        base, part = result
        found = part.offset(np.indices(tuple(shape)), base) if shape else part.offset((), base)
        assert np.array_equal(layout.offsets()[window], found)


@given(shared_layouts(), st.data())
def test_indexing_drops_dimensions(layout, data):
    assume(layout.rank)
    dim = data.draw(st.integers(0, layout.rank - 1))
    starts = [0] * layout.rank
    starts[dim] = data.draw(st.integers(0, layout.shape[dim] - 1))
    kept = [d for d in range(layout.rank) if d != dim]
    base, part = layout.slice(starts, [layout.shape[d] for d in kept], kept)
    expected = np.take(layout.offsets(), starts[dim], axis=dim)
    found = part.offset(np.indices(part.shape), base) if kept else part.offset((), base)
    assert np.array_equal(expected, found)


def test_slices_of_stages_of_a_swizzled_tile():
    stages = shared_row_major_swizzle([16, 64], 16).prepend(3)
    for stage in range(3):
        base, tile = stages.slice([stage, 0, 0], [16, 64])
        assert np.array_equal(stages.offsets()[stage], tile.offset(np.indices((16, 64)), base))
        base, part = stages.slice([stage, 3, 8], [5, 16])
        window = stages.offsets()[stage, 3:8, 8:24]
        assert np.array_equal(window, part.offset(np.indices((5, 16)), base))


def test_a_tiled_dimension_is_sliced_along_its_tiles():
    tiled = shared_compose(shared_row_major(1, 4), shared_row_major(8, 8))
    base, part = tiled.slice([0, 16], [8, 16])
    assert np.array_equal(tiled.offsets()[:, 16:32], part.offset(np.indices((8, 16)), base))


@given(shared_layouts(), st.integers(1, 3))
def test_prepend_makes_disjoint_copies(layout, count):
    copies = layout.prepend(count)
    assert (count, *layout.shape) == copies.shape
    assert copies.is_injective()
    assert np.array_equal(layout.offsets(), copies.offsets()[0])


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 12)), min_size=1, max_size=3),
    st.sampled_from([None, Swizzle(1, 1, 1), Swizzle(0, 2, 1)]),
)
def test_elements_that_share_an_address_are_found(modes, swizzle):
    sizes, strides = zip(*modes, strict=True)
    layout = SharedLayout(sizes, sizes, strides, swizzle)
    assert layout.is_injective() == (len(set(layout.offsets().ravel())) == layout.size)


# ---- bank conflicts


def reference_wavefronts(shared, register, element_nbits, vector_nbits):
    """Count word by word, as the programming guide tells it."""
    count = vector_nbits // element_nbits
    offsets = shared.offsets().ravel()[register.logical_indices()]
    lanes_together = 32 // max(1, vector_nbits // 32)
    result = []
    for warp in range(0, register.num_threads, 32):
        for i in range(0, register.local_size, count):
            passes = 0
            for group in range(warp, warp + 32, lanes_together):
                banks: dict[int, set[int]] = {}
                for thread in range(group, min(group + lanes_together, register.num_threads)):
                    for bit in range(0, vector_nbits, 32):
                        word = (int(offsets[thread, i]) * element_nbits + bit) // 32
                        banks.setdefault(word % 32, set()).add(word)
                passes += max((len(words) for words in banks.values()), default=1)
            result.append(passes)
    return result


@pytest.mark.parametrize(
    ("expected", "shared", "register", "nbits", "vector"),
    [
        (1, shared_row_major(1, 32), spatial(1, 32), 32, 32),
        (32, shared_row_major(32, 32), spatial(32, 1).local(1, 32), 32, 32),
        (1, shared_layout([32, 32], [32, 32], [33, 1]), spatial(32, 1).local(1, 32), 32, 32),
        (1, shared_row_major(32), spatial(1).replicated(1, num_workers=32).local(32), 32, 32),
        (4, shared_row_major(32, 4), spatial(32, 1).local(1, 4), 32, 128),
        (2, shared_row_major(32, 2), spatial(32, 1).local(1, 2), 32, 64),
        (32, shared_row_major(32, 64), spatial(32, 1).local(1, 64), 16, 128),
        (4, shared_row_major_swizzle([32, 64], 16), spatial(32, 1).local(1, 64), 16, 128),
        (1, shared_row_major(32, 2), spatial(32, 1).local(1, 2), 8, 16),
    ],
)
def test_bank_conflicts(expected, shared, register, nbits, vector):
    report = bank_conflicts(shared, register, nbits, vector)
    assert expected == report.wavefronts
    assert (report.wavefronts == max(1, vector // 32)) == report.conflict_free


@given(st.sampled_from([8, 16, 32]), st.sampled_from([8, 16, 32, 64, 128]), st.data())
def test_bank_conflicts_are_counted_right(nbits, vector, data):
    register = auto_local_spatial(data.draw(st.sampled_from([32, 48, 64])), [16, 8])
    register = register.local(1, data.draw(st.sampled_from([1, 2, 4])))
    pad = data.draw(st.integers(0, 4)) * 4
    rows, columns = register.shape
    shared = shared_layout([rows, columns], [rows, columns], [columns + pad, 1])
    report, refusal = attempt(lambda: bank_conflicts(shared, register, nbits, vector))
    if report is None:
        assert "no such vectors" in refusal
    else:
        expected = reference_wavefronts(shared, register, nbits, vector)
        assert max(expected) == report.wavefronts
        assert sum(expected) == report.total_wavefronts
        assert len(expected) == report.requests


def test_the_widest_vector_is_the_default():
    shared = shared_row_major(16, 16)
    assert 128 == bank_conflicts(shared, spatial(16, 2).local(1, 8), 16).vector_nbits
    assert 32 == bank_conflicts(shared, spatial(8, 4).local(2, 4).local(1, 1), 8).vector_nbits
    assert 16 == bank_conflicts(shared, spatial(16, 2).local(1, 8), 2).vector_nbits
    assert 32 == bank_conflicts(shared, spatial(16, 1).local(1, 16), 2).vector_nbits


@given(register_layouts(rank=2))
def test_any_access_of_words_is_at_least_ideal(register):
    report = bank_conflicts(shared_row_major(*register.shape), register, 32, 32)
    assert 1 <= report.wavefronts <= 32
    assert report.requests <= report.total_wavefronts
    assert prod((-(-register.num_threads // 32), register.local_size)) == report.requests


# ---- mistakes


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: shared_layout([4], [4], []), "one stride"),
        (lambda: shared_layout([4], [4], [-1]), "at least 0"),
        (lambda: shared_layout([4], [3], [1]), "does not split"),
        (lambda: Swizzle(0, 2, 0), "loses addresses"),
        (lambda: Swizzle(-1, 2, 3), "at least 0"),
        (lambda: shared_row_major(4, 4).offset((1,)), "one entry a dimension"),
        (lambda: shared_row_major_swizzle([64], 16), "rows and columns"),
        (lambda: shared_row_major_swizzle([8, 64], 6), "16-byte chunk"),
        (lambda: shared_row_major_swizzle([8, 8], 16), "too narrow"),
        (lambda: shared_reshape(shared_row_major(4, 4), [8]), "number of elements"),
        (lambda: shared_reshape(shared_column_major(3, 4), [4, 3]), "cannot be reshaped"),
        (lambda: shared_permute(shared_row_major(4, 4), [0, 0]), "distinct dimensions"),
        (lambda: shared_row_major(4).transpose(), "two dimensions"),
        (lambda: shared_row_major(4, 4).slice([0], [4]), "one start a dimension"),
        (lambda: shared_row_major(4, 4).slice([1, 0], [4, 4]), "sticks out"),
        (lambda: shared_row_major(4, 4).slice([-1, 0], [4, 4]), "sticks out"),
        (lambda: shared_row_major(4, 4).slice([4, 0], [4]), "sticks out"),
        (lambda: shared_row_major(4).slice([object()], [5]), "larger than the tile"),
        (lambda: bank_conflicts(shared_row_major(4), spatial(8), 32), "differ in shape"),
        (lambda: bank_conflicts(shared_row_major(4), spatial(4), 32, 64), "no such vectors"),
        (lambda: bank_conflicts(shared_row_major(4), spatial(4), 3), "no such vectors"),
        (lambda: SharedLayout((1 << 40,), (1 << 40,), (1,)).offsets(), "too large"),
    ],
)
def test_mistakes_are_explained(build, message):
    with pytest.raises(LayoutError) as caught:
        build()
    assert message in caught.value.message
