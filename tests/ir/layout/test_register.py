"""The algebra of register layouts: its examples and its laws."""

from __future__ import annotations

from itertools import permutations, product
from math import gcd, prod

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.layout_strategies import attempt, reference_table, register_layouts
from tilus.ir.layout import (
    LayoutError,
    RegisterLayout,
    auto_local_spatial,
    column_local,
    column_spatial,
    compose,
    concat,
    divide,
    flatten,
    holds_operands,
    left_divide,
    local,
    operand_locals,
    permute,
    reduce,
    reduce_to,
    register_layout,
    replicated,
    reshape,
    spatial,
    squeeze,
    unsqueeze,
)

LAYOUTS = register_layouts()


def fields(layout):
    return [*map(list, (layout.shape, layout.mode_shape, layout.spatial_modes, layout.local_modes))]


def indices(layout):
    """int64 (rank, T, L): the multi-index of every place."""
    flat = layout.logical_indices()
    if layout.rank == 0:
        return flat[None][:0]
    # Of one dimension: numpy 2.4 unravels arrays of shape (N > 8192, 1) wrongly.
    index = np.array(np.unravel_index(flat.ravel(), layout.shape))
    return index.reshape(layout.rank, *flat.shape)


# ---- examples


@pytest.mark.parametrize(
    ("expected", "layout"),
    [
        ([[16, 8], [2, 8, 4, 2], [1, 2], [0, 3]], local(2, 1).spatial(8, 4).local(1, 2)),
        (
            [[16, 16], [2, 8, 2, 4, 2], [1, 3], [2, 0, 4]],
            column_local(2, 2).spatial(8, 4).local(1, 2),
        ),
        ([[16, 8], [2, 4, 2, 8], [3, 1], [0, 2]], local(2, 1).column_spatial(4, 8).local(2, 1)),
        ([[4], [4], [-3, 0], []], reduce(spatial(3, 4), [0])),
        ([[4], [4], [-3], [0]], replicated(4, num_workers=3)),
        ([[2, 3], [2, 3], [1, 0], []], spatial(2, 3, ranks=[1, 0])),
        ([[2, 3, 4], [2, 3, 4], [], [2, 0, 1]], local(2, 3, 4, ranks=[1, 2, 0])),
        ([[2, 3, 4], [2, 3, 4], [2, 1, 0], []], column_spatial(2, 3, 4)),
        ([[], [], [], []], spatial()),
    ],
)
def test_fields(expected, layout):
    assert expected == fields(layout)


def test_accumulator_of_mma():
    layout = local(2, 1).spatial(8, 4).local(1, 2)
    assert (32, 4, 128, 2) == (layout.num_threads, layout.local_size, layout.size, layout.rank)
    # PTX manual: row = groupID (+ 8 for i >= 2), column = threadID_in_group * 2 + (i & 1)
    expected = [(t // 4 + 8 * (i // 2), t % 4 * 2 + i % 2) for t in range(32) for i in range(4)]
    assert expected == [layout.indices(t, i) for t in range(32) for i in range(4)]
    assert 2 == layout.contiguous_local()
    assert 1 == layout.contiguous_local(0)


def test_equality_is_of_the_mapping():
    assert local(2).local(3) == local(6)
    assert hash(local(2).local(3)) == hash(local(6))
    assert register_layout([6], [2, 1, 3], [-1, 0, 2], [1]) == spatial(6)
    assert register_layout([4], [4], [-2, -3], [0]) == replicated(4, num_workers=6)
    assert spatial(4) != local(4)
    assert spatial(4, 1) != spatial(4)
    assert spatial(4) != "register_layout([4], [4], [0], [])"


def test_text_of_the_fields():
    text = "register_layout([16, 8], [2, 8, 4, 2], [1, 2], [0, 3])"
    assert text == str(local(2, 1).spatial(8, 4).local(1, 2))
    assert text == repr(local(2, 1).spatial(8, 4).local(1, 2))


def test_operators_are_the_functions():
    a, b = spatial(2, 4), local(3, 5)
    assert compose(a, b) == a * b == a.local(3, 5)
    assert divide(a * b, b) == (a * b) / b
    assert a.replicated(2, 1, num_workers=3) == a * replicated(2, 1, num_workers=3)
    assert a.column_local(2, 3) == a * column_local(2, 3)


def test_auto_local_spatial():
    assert local(4, 2).spatial(1, 32) == auto_local_spatial(32, [4, 64])
    assert spatial(2, 16).reshape([2, 16]) == auto_local_spatial(32, [2, 16])
    assert replicated(1, 1, num_workers=4).spatial(2, 4) == auto_local_spatial(32, [2, 4])
    assert local(5).replicated(1, num_workers=8) == auto_local_spatial(8, [5])


def test_indices_of_arrays_and_expressions():
    layout = spatial(4, 8).local(2, 1)
    t, i = np.arange(32)[:, None], np.arange(2)
    rows, columns = layout.indices(t, i)
    assert np.array_equal(layout.logical_indices(), rows * 8 + columns)
    assert (32, 2) == rows.shape == columns.shape

    class Expression:
        def __init__(self, text):
            self.text = text

        def __floordiv__(self, other):
            return Expression(f"({self.text} // {other})")

        def __mod__(self, other):
            return Expression(f"({self.text} % {other})")

        def __mul__(self, other):
            return Expression(f"({self.text} * {other})")

        def __add__(self, other):
            return Expression(f"({self.text} + {getattr(other, 'text', other)})")

    row, column = layout.indices(Expression("t"), 1)
    assert ("(((t // 8) * 2) + 1)", "(t % 8)") == (row.text, column.text)


# ---- laws


@given(LAYOUTS)
def test_table_is_the_definition(layout):
    assert np.array_equal(reference_table(layout), layout.logical_indices())


@given(LAYOUTS)
def test_every_thread_is_counted(layout):
    assert layout.num_threads * layout.local_size == layout.size * layout.replication


@given(LAYOUTS)
def test_inverse(layout):
    threads, locals_ = layout.owner_table()
    assert (layout.size, layout.replication) == threads.shape
    assert np.all(np.diff(threads, axis=1) > 0)
    held = layout.logical_indices()[threads, locals_[:, None]]
    assert np.array_equal(np.broadcast_to(np.arange(layout.size)[:, None], held.shape), held)
    index = np.unravel_index(np.arange(layout.size), layout.shape) if layout.rank else ()
    inverse_locals, inverse_threads = layout.locals_and_threads(index)
    assert np.array_equal(threads, inverse_threads.reshape(threads.shape))
    assert np.array_equal(locals_, inverse_locals.reshape(locals_.shape))


@given(LAYOUTS)
def test_indices_agree_with_the_table(layout):
    t, i = layout.num_threads - 1, layout.local_size - 1
    expected = tuple(indices(layout)[:, t, i].tolist())
    assert expected == layout.indices(t, i)


@given(register_layouts(max_rank=1), register_layouts(max_rank=1))
def test_same_mapping_means_equal(a, b):
    same = (
        a.shape == b.shape
        and a.logical_indices().shape == b.logical_indices().shape
        and np.array_equal(a.logical_indices(), b.logical_indices())
    )
    assert same == (a == b)
    assert not same or hash(a) == hash(b)
    assert same == (fields(a.canonical()) == fields(b.canonical()))


@given(LAYOUTS)
def test_canonical_keeps_the_mapping(layout):
    canonical = layout.canonical()
    assert np.array_equal(layout.logical_indices(), canonical.logical_indices())
    assert fields(canonical) == fields(canonical.canonical())
    assert len(canonical.mode_shape) <= len(layout.mode_shape)
    assert 1 not in canonical.mode_shape


@given(register_layouts(rank=2), register_layouts(rank=2))
def test_compose_is_the_kronecker_product(f, g):
    h = compose(f, g)
    t, i = np.ogrid[: h.num_threads, : h.local_size]
    outer = indices(f)[:, t // g.num_threads, i // g.local_size]
    inner = indices(g)[:, t % g.num_threads, i % g.local_size]
    assert tuple(a * b for a, b in zip(f.shape, g.shape, strict=True)) == h.shape
    assert np.array_equal(outer * np.array(g.shape)[:, None, None] + inner, indices(h))


@given(*[register_layouts(max_rank=2)] * 3)
def test_compose_is_associative(a, b, c):
    assert (a * b) * c == a * (b * c)


def test_compose_is_not_commutative():
    assert local(2).spatial(4) != spatial(4).local(2)


@given(LAYOUTS, LAYOUTS)
def test_divide_undoes_compose(f, g):
    padding = max(f.rank, g.rank)
    assert unsqueeze(f, range(padding - f.rank)) == (f * g) / g
    assert unsqueeze(g, range(padding - g.rank)) == left_divide(f * g, f)


@given(register_layouts(max_rank=2), register_layouts(max_rank=2))
def test_a_quotient_is_one(h, g):
    for quotient, multiply in ((divide, lambda q: q * g), (left_divide, lambda q: g * q)):
        result, refusal = attempt(lambda quotient=quotient: quotient(h, g))
        if result is None:
            assert "do not divide" in refusal
        else:
            assert unsqueeze(h, range(result.rank - h.rank)) == multiply(result)


@given(LAYOUTS, st.data())
def test_reduce_keeps_who_holds_what(layout, data):
    dims = [dim for dim in range(layout.rank) if data.draw(st.booleans())]
    reduced = reduce(layout, dims, keepdims=True)
    kept = [dim for dim in range(layout.rank) if dim not in dims]
    assert layout.num_threads == reduced.num_threads
    assert prod(layout.shape[dim] for dim in kept) == reduced.size
    # A thread holds an element of the result if and only if it held one that was reduced into it.
    before, after = indices(layout), indices(reduced)
    for thread in range(layout.num_threads):
        expected = {tuple(index) for index in before[kept, thread].T.tolist()}
        assert expected == {tuple(index) for index in after[kept, thread].T.tolist()}
    assert squeeze(reduced, dims) == reduce(layout, dims)


@given(LAYOUTS, st.data())
def test_reduce_to_undoes_broadcasting(layout, data):
    stretched = [data.draw(st.booleans()) for _ in range(layout.rank)]
    leading = data.draw(st.integers(0, layout.rank))
    shape = [1 if s else e for s, e in zip(stretched, layout.shape, strict=True)][leading:]
    reduced = reduce_to(layout, shape)
    assert tuple(shape) == reduced.shape
    assert holds_operands(layout, reduced)
    assert reduce_to(reduced, shape) == reduced


@given(register_layouts(max_rank=2), register_layouts(max_rank=2))
def test_concat_is_over_disjoint_dimensions(f, g):
    h = concat(f, g)
    t, i = np.ogrid[: h.num_threads, : h.local_size]
    first = f.logical_indices()[t // g.num_threads, i // g.local_size]
    second = g.logical_indices()[t % g.num_threads, i % g.local_size]
    assert f.shape + g.shape == h.shape
    assert np.array_equal(first * g.size + second, h.logical_indices())


@given(LAYOUTS, st.data())
def test_permute_moves_indices(layout, data):
    dims = data.draw(st.permutations(range(layout.rank)))
    moved = permute(layout, dims)
    assert tuple(layout.shape[dim] for dim in dims) == moved.shape
    assert np.array_equal(indices(layout)[list(dims)], indices(moved))
    assert layout == permute(moved, np.argsort(dims).tolist())


@given(LAYOUTS, st.data())
def test_unsqueeze_and_squeeze(layout, data):
    dims = data.draw(st.lists(st.integers(0, layout.rank), unique=True, max_size=layout.rank + 1))
    rank = layout.rank + len(dims)
    assume(all(dim < rank for dim in dims))
    wide = unsqueeze(layout, dims)
    assert rank == wide.rank
    assert all(wide.shape[dim] == 1 for dim in dims)
    assert np.array_equal(layout.logical_indices(), wide.logical_indices())
    assert layout == squeeze(wide, dims)
    assert 1 not in squeeze(layout).shape


@given(LAYOUTS, st.data())
def test_reshape_keeps_the_order_of_elements(layout, data):
    modes = list(layout.canonical().mode_shape)
    shape = data.draw(st.permutations(modes)) if modes else []
    for target in (shape, modes, [1, *modes, 1], [layout.size]):
        result, refusal = attempt(lambda target=target: reshape(layout, target))
        if result is None:
            assert target == shape and "cannot be reshaped" in refusal
        else:
            assert tuple(target) == result.shape
            assert np.array_equal(layout.logical_indices(), result.logical_indices())
            assert layout == reshape(result, layout.shape)


@given(register_layouts(max_rank=2), st.data())
def test_reshape_fails_only_where_no_layout_exists(layout, data):
    assume(layout.size <= 24)
    rows = data.draw(st.sampled_from([d for d in range(1, 25) if layout.size % d == 0]))
    shape = (rows, layout.size // rows)
    result, _ = attempt(lambda: reshape(layout, shape))
    if result is None:
        # Every mode list of the new shape is tried in every place: none makes the same table.
        table = layout.logical_indices()
        assert not any(
            np.array_equal(table, candidate.logical_indices())
            for candidate in _all_layouts(shape, layout)
        )


def _all_layouts(shape, like):
    """All layouts of a shape with modes in any place and the replications of `like`."""

    def splits(extent):
        yield (extent,)
        yield from ((a, extent // a) for a in range(2, extent) if extent % a == 0)

    replications = [m for m in like.spatial_modes if m < -1]
    for modes in product(*(tuple(splits(extent)) for extent in shape)):
        sizes = [size for part in modes for size in part]
        for order in permutations([*range(len(sizes)), *replications]):
            for cut in range(len(order) + 1):
                if all(mode >= 0 for mode in order[cut:]):
                    candidate = RegisterLayout(shape, tuple(sizes), order[:cut], order[cut:])
                    if candidate.num_threads == like.num_threads:
                        yield candidate


@given(LAYOUTS)
def test_flatten(layout):
    flat = flatten(layout)
    assert (layout.size,) == flat.shape
    assert np.array_equal(layout.logical_indices(), flat.logical_indices())
    if layout.rank > 1:
        assert (layout.shape[0] * layout.shape[1], *layout.shape[2:]) == flatten(layout, 0, 1).shape


@given(st.integers(1, 64), st.lists(st.integers(1, 12), max_size=3))
def test_auto_local_spatial_law(threads, shape):
    layout = auto_local_spatial(threads, shape)
    assert threads == layout.num_threads
    assert tuple(shape) == layout.shape
    left = threads
    for extent in reversed(shape):
        left //= gcd(left, extent)
    assert left == layout.replication
    # Left-over threads are in front: shifting by the others changes nothing.
    table = layout.logical_indices().reshape(left, -1)
    assert np.all(table == table[0])


@given(register_layouts(max_rank=2), register_layouts(max_rank=2))
def test_holds_operands_is_the_definition(out, operand):
    trailing = zip(operand.shape[::-1], out.shape[::-1], strict=False)
    if operand.rank > out.rank or any(a not in (1, b) for a, b in trailing):
        with pytest.raises(LayoutError):
            holds_operands(out, operand)
        return
    elements = np.broadcast_to(np.arange(operand.size).reshape(operand.shape), out.shape).ravel()
    wanted = elements[out.logical_indices()]
    held = operand.logical_indices()
    expected = out.num_threads == operand.num_threads and all(
        set(wanted[t]) <= set(held[t]) for t in range(out.num_threads)
    )
    assert expected == holds_operands(out, operand)
    if expected:
        places = operand_locals(out, operand)
        assert np.array_equal(wanted, np.take_along_axis(held, places, axis=1))


@given(LAYOUTS, st.data())
def test_contiguous_local_is_the_longest_run(layout, data):
    assume(layout.rank)
    dim = data.draw(st.integers(0, layout.rank - 1))
    count = layout.contiguous_local(dim)

    def runs(length):
        if layout.local_size % length:
            return False
        index = indices(layout).reshape(layout.rank, layout.num_threads, -1, length)
        step = np.zeros((layout.rank, 1, 1, 1), dtype=np.int64)
        step[dim] = 1
        return np.array_equal(index, index[..., :1] + step * np.arange(length))

    assert runs(count)
    assert not any(runs(count * factor) for factor in range(2, layout.shape[dim] // count + 1))


# ---- mistakes


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: register_layout([4], [2, 2], [0], []), "exactly one of"),
        (lambda: register_layout([4], [2, 2], [0, 1], [1]), "exactly one of"),
        (lambda: register_layout([4], [3], [0], []), "does not split"),
        (lambda: register_layout([4, 6], [8, 3], [0], [1]), "does not split"),
        (lambda: register_layout([], [2], [0], []), "does not split"),
        (lambda: register_layout([4], [4], [0], [-2]), "at least 0"),
        (lambda: register_layout([0], [0], [0], []), "at least 1"),
        (lambda: RegisterLayout(4, (4,), (0,), ()), "sequence of integers"),
        (lambda: spatial(2.5), "must be an integer"),
        (lambda: spatial(2, 3, ranks=[0, 0]), "permutation of the dimensions"),
        (lambda: spatial(2, 3, ranks=[0]), "permutation of the dimensions"),
        (lambda: replicated(4, num_workers=0), "at least 1"),
        (lambda: auto_local_spatial(0, [4]), "at least 1"),
        (lambda: spatial(4) * 3, "combines with another"),
        (lambda: spatial(4) / local(2), "do not divide"),
        (lambda: spatial(4) / spatial(3), "do not divide"),
        (lambda: left_divide(spatial(4), local(2)), "do not divide"),
        (lambda: left_divide(spatial(4), spatial(3)), "do not divide"),
        (lambda: left_divide(spatial(2, 2), column_spatial(2, 2)), "do not divide"),
        (lambda: reduce(spatial(4), [1]), "distinct dimensions"),
        (lambda: reduce(spatial(4, 4), [1, -1]), "distinct dimensions"),
        (lambda: reduce_to(spatial(4), [2]), "does not broadcast"),
        (lambda: reduce_to(spatial(4), [1, 1, 4]), "does not broadcast"),
        (lambda: permute(spatial(2, 3), [0]), "every dimension once"),
        (lambda: squeeze(spatial(2, 3), [0]), "extent 1 only"),
        (lambda: reshape(spatial(6), [4]), "number of elements"),
        (lambda: reshape(spatial(3, 4).local(1, 1).permute([1, 0]), [6, 2]), "cannot be reshaped"),
        (lambda: flatten(spatial(2, 3), 1, 0), "start_dim <= end_dim"),
        (lambda: spatial(4).indices(4, 0), "thread out of range"),
        (lambda: spatial(4).indices(0, np.array([0, 1])), "local index out of range"),
        (lambda: spatial(4).locals_and_threads([4]), "index out of range"),
        (lambda: spatial(4).locals_and_threads([0, 0]), "one entry a dimension"),
        (lambda: operand_locals(spatial(4), local(4)), "not that of the operand"),
        (lambda: local(1 << 40).logical_indices(), "too large to tabulate"),
    ],
)
def test_mistakes_are_explained(build, message):
    with pytest.raises(LayoutError) as caught:
        build()
    assert message in caught.value.message
    assert caught.value.found or caught.value.expected
