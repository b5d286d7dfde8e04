"""Views and re-indexing of register tiles, against NumPy and against the bits in memory."""

from __future__ import annotations

import numpy as np
import pytest

from tests.instructions.harness import failure, run_body
from tilus import dtypes
from tilus.dtypes import boolean, float16, float32, int4b, int8, int16, int32, uint8, uint16
from tilus.errors import TilusError
from tilus.instructions.cast import Cast
from tilus.instructions.reindex import Flatten, Reshape, Transpose
from tilus.instructions.repeat import Repeat, RepeatInterleave
from tilus.instructions.view import View
from tilus.ir.instruction import Known, Strength
from tilus.ir.layout import (
    BitLayout,
    column_spatial,
    local,
    reduce,
    replicated,
    resolve_dot_config,
    spatial,
)
from tilus.ir.tensor import RegisterTensor

X = np.arange(2 * 4 * 8).reshape(2, 4, 8)


# ---- view ----------------------------------------------------------------------------------------


def test_equal_widths_keep_shape_and_layout():
    result = run_body(lambda k: k("view", k.tile([1.0, -2.0, 0.5], float32), dtype=int32))
    assert np.array([1.0, -2.0, 0.5], np.float32).view(np.int32).tolist() == result.tolist()


@pytest.mark.parametrize("nbits", range(1, 8))
def test_bytes_become_elements_of_any_width(nbits):
    # 32 threads hold nbits bytes each, which are 8 elements: the bit stream of the memory format.
    dtype = dtypes.dtype_from_name(f"uint{nbits}b")
    data = np.random.default_rng(nbits).integers(0, 256, 32 * nbits)

    def body(k):
        low = k.method(k.tile(data, uint8), "view", layout=spatial(32).local(8), dtype=dtype)
        return k("cast", low, int32)

    expected = dtypes.unpack(data.astype(np.uint8), nbits, 256)
    assert expected.tolist() == run_body(body).tolist()


def test_a_replicated_fragment_is_fed_once():
    # B of a dot is the same in the warps along m: the packed bytes are read by all of them.
    layout = resolve_dot_config(float16, dtypes.float32, m=64, n=8, k=16, num_warps=4).lb
    assert 4 == layout.replication
    data = np.random.default_rng(0).integers(0, 256, 64)

    def body(k):
        return k("cast", k("view", k.tile(data, uint8), layout=layout, dtype=int4b), int8)

    codes = dtypes.unpack(data.astype(np.uint8), 4, 128).reshape(32, 4)
    expected = np.zeros(128, np.int64)
    expected[layout.logical_indices()[:32].reshape(-1)] = int4b.decode(codes).reshape(-1)
    assert expected.tolist() == run_body(body, warps=4).reshape(-1).tolist()


def test_a_bit_layout_says_where_the_bits_are():
    codes = np.arange(32 * 8).reshape(32, 8) % 16
    bits = BitLayout.strided(8, 4, [2, 4, 4], [4, 8, 1])  # k + 4 above k in byte k
    words = bits.pack(codes)

    def body(k):
        source = k.tile(words.reshape(-1), dtypes.uint32)
        low = k("view", source, layout=spatial(32).local(8), dtype=dtypes.uint4b, bits=bits)
        return k("cast", low, int32)

    assert codes.reshape(-1).tolist() == run_body(body).tolist()


def test_a_view_of_a_tile_with_a_bit_layout_sees_its_bits():
    bits = BitLayout.strided(8, 4, [2, 4, 4], [4, 8, 1])
    words = np.arange(32, dtype=np.uint32) * 0x01234567

    def body(k):
        low = k(
            "view",
            k.tile(words, dtypes.uint32),
            layout=spatial(32).local(8),
            dtype=int4b,
            bits=bits,
        )
        return k("view", low, layout=spatial(32), dtype=dtypes.uint32)

    assert words.tolist() == run_body(body).tolist()


def test_the_operand_may_have_any_shape_that_the_shares_fit():
    data = np.arange(64)

    def body(k):
        source = k.tile(data.reshape(1, 4, 16), uint8)
        return k("view", source, layout=spatial(32), dtype=uint16)

    assert data.astype(np.uint8).view(np.uint16).tolist() == run_body(body).tolist()


def test_known_runs_regroup_without_a_layout():
    x = RegisterTensor(int16, (8, 16), layout=spatial(8, 4).local(1, 4))
    out = View.build(x, dtype=int8).out
    assert (8, 32) == out.shape and spatial(8, 4).local(1, 8) == out.layout


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (
            lambda k: k("view", k.tile(np.arange(32), int16), dtype=int8),
            "the width of an element changes from 16 to 8 bits",
        ),
        (
            lambda k: k("view", k.tile(np.arange(33), int8), layout=spatial(32), dtype=int8),
            "the operand and the result differ in size",
        ),
        (
            lambda k: k(
                "view",
                k.tile(np.arange(32), int8),
                layout=spatial(32).local(2),
                dtype=int4b,
                bits=BitLayout.stream(4, 4),
            ),
            "the bit layout is of other elements than a thread holds",
        ),
        (
            lambda k: k(
                "view",
                k.tile(np.arange(32), int8),
                layout=spatial(32).local(2),
                dtype=int4b,
                bits=BitLayout.strided(2, 4, [2, 4], [32, 1]),
            ),
            "the bit layout leaves gaps",
        ),
        (lambda k: k("view", k.tile([1], int8), layout=[1]), "view: layout must be"),
    ],
)
def test_views_that_do_not_fit(build, expected):
    assert expected in failure(build)


def test_a_view_may_not_replicate_what_differs():
    def body(k):
        x = k.tile(np.arange(32), int8)
        x.layout = spatial(32)
        return k("view", x, layout=replicated(1, num_workers=32).local(1))

    assert "hold different data" in failure(body)


def test_a_view_over_other_threads():
    def body(k):
        x = k.tile(np.arange(32), int8)
        x.layout = spatial(32)
        return k("view", x, layout=spatial(16).local(2))

    assert "both layouts must be over the same threads" in failure(body)


def test_a_parsed_view_without_layout_must_keep_the_shape():
    view = View(RegisterTensor(int8, (2, 16)), RegisterTensor(int8, (32,)))
    with pytest.raises(TilusError, match="has the shape and the width of the operand"):
        view.verify()
    wrong = View(RegisterTensor(int8, (2, 16), layout=spatial(32)), RegisterTensor(int8, (32,)))
    with pytest.raises(TilusError, match="of another shape than the tile"):
        wrong.verify()


# ---- re-indexing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args", "numpy"),
    [
        ("reshape", ([4, 16],), lambda x: x.reshape(4, 16)),
        ("reshape", ([64],), lambda x: x.reshape(64)),
        ("flatten", (), lambda x: x.reshape(-1)),
        ("flatten", (1,), lambda x: x.reshape(2, 32)),
        ("flatten", (0, -2), lambda x: x.reshape(8, 8)),
        ("unsqueeze", (0,), lambda x: x[None]),
        ("unsqueeze", ([0, -1],), lambda x: x[None, ..., None]),
        ("transpose", (), lambda x: x.swapaxes(1, 2)),
        ("transpose", (0, 2), lambda x: x.swapaxes(0, 2)),
        ("repeat", ([2, 1, 3],), lambda x: np.tile(x, (2, 1, 3))),
        ("repeat", ([2],), lambda x: np.tile(x, 2)),
        ("repeat", ([2, 1, 1, 2],), lambda x: np.tile(x, (2, 1, 1, 2))),
        ("repeat_interleave", ([2, 1, 3],), lambda x: x.repeat(2, 0).repeat(3, 2)),
        ("repeat_interleave", (2, 1), lambda x: x.repeat(2, 1)),
    ],
)
@pytest.mark.parametrize("warps", [1, 2])
def test_values_are_numpys(name, args, numpy, warps):
    result = run_body(lambda k: k.method(k.tile(X, int32), name, *args), warps=warps)
    assert numpy(X).tolist() == result.tolist()


def test_squeeze_drops_one_dimension_or_all():
    x = X.reshape(1, 8, 1, 8)
    one, every = run_body(
        lambda k: (k("squeeze", k.tile(x, int32), 0), k("squeeze", k.tile(x, int32)))
    )
    assert (8, 1, 8) == one.shape and (8, 8) == every.shape
    assert X.ravel().tolist() == one.ravel().tolist() == every.ravel().tolist()


def test_rank_zero_goes_to_rank_one_and_back():
    def body(k):
        return k("squeeze", k("unsqueeze", k("flatten", k("reshape", k.tile(7, int32), [1])), 0))

    assert 7 == run_body(body)


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("reshape", ([5, 5],), "the number of elements changes"),
        ("flatten", (2, 0), "start_dim lies behind end_dim"),
        ("squeeze", (1,), "the dimension has more than one element"),
        ("unsqueeze", (7,), "dim must name different dimensions"),
        ("transpose", (0, 5), "dim must name different dimensions"),
        ("repeat", ([0, 1, 1],), "repeats must be at least 1"),
        ("repeat_interleave", ([2, 2], 0), "with dim, repeats is one count"),
        ("repeat_interleave", ([1, 1, 1, 2],), "more repeats than dimensions"),
    ],
)
def test_arguments_that_do_not_fit(name, args, expected):
    assert expected in failure(lambda k: k(name, k.tile(X, int32), *args))


def test_transpose_needs_two_dimensions():
    message = failure(lambda k: k("transpose", k.tile([1, 2], int32)))
    assert "transpose: two dimensions are needed" in message and "rank 1" in message


def test_fields_that_contradict_each_other_are_refused():
    x = RegisterTensor(int32, (2, 3))
    broken = [
        (Transpose(RegisterTensor(int32, (2, 3)), x, (1, 0)), "dims is no permutation"),
        (Reshape(RegisterTensor(int8, (6,)), x), "the dtype changes"),
        (Repeat(RegisterTensor(int32, (4, 6)), x, (2, 1)), "the result is of another type"),
        (Repeat(RegisterTensor(int32, (3,)), x, (1,)), "one repeat for each dimension"),
        (Cast(RegisterTensor(int8, (6,)), x), "the shape of the result differs"),
    ]
    for instruction, expected in broken:
        with pytest.raises(TilusError, match=expected):
            instruction.verify()


# ---- layouts -------------------------------------------------------------------------------------


def implied(instruction, given, layout, strength):
    """The layout that `instruction` gives the other tile, once `given` has `layout`."""
    known = Known(layout.num_threads)
    known.layouts[given] = layout
    (proposal,) = [p for p in instruction.layouts(known) if p.strength == strength]
    assert proposal.tile is not given
    return proposal.layout


@pytest.mark.parametrize(
    ("build", "x", "out"),
    [
        (lambda x: Reshape.build(x, [32, 4]), spatial(8, 4).local(1, 4), spatial(32).local(4)),
        (Flatten.build, local(2, 1).spatial(8, 4), None),
        (Transpose.build, spatial(8, 4).local(1, 4), column_spatial(4, 8).local(4, 1)),
    ],
)
def test_layouts_go_both_ways(build, x, out):
    source = RegisterTensor(float32, x.shape)
    instruction = build(source)
    forward = implied(instruction, source, x, Strength.MUST)
    if out is not None and out.rank == forward.rank:
        assert out == forward
    assert x == implied(instruction, instruction.out, forward, Strength.MUST)


def test_repetition_stays_in_the_thread():
    x = RegisterTensor(float32, (8, 4))
    outer, inner = Repeat.build(x, [2, 1]), RepeatInterleave.build(x, [2, 1])
    assert local(2, 1) * spatial(8, 4) == implied(outer, x, spatial(8, 4), Strength.SHOULD)
    assert spatial(8, 4) * local(2, 1) == implied(inner, x, spatial(8, 4), Strength.SHOULD)


def test_a_result_over_more_threads_makes_the_operand_replicated():
    x = RegisterTensor(float32, (8,))
    repeat, interleave = Repeat.build(x, [4]), RepeatInterleave.build(x, [4])
    tiled = implied(repeat, repeat.out, spatial(32), Strength.MUST)
    assert reduce(spatial(4, 8), [0]) == tiled
    assert reduce(spatial(8, 4), [1]) == implied(
        interleave, interleave.out, spatial(32), Strength.MUST
    )


def test_repetition_across_threads_is_refused():
    def body(k):
        x = k.tile(np.arange(32), int32)
        x.layout = spatial(32)
        y = k("repeat", x, [2])
        y.layout = spatial(2).local(2).spatial(16)
        return y

    assert "repeat: threads do not hold the elements they copy" in failure(body)


def test_re_indexing_across_threads_is_refused():
    def body(k):
        x = k.tile(np.arange(32), int32)
        x.layout = spatial(32)
        y = k("reshape", x, [4, 8])
        y.layout = column_spatial(4, 8)
        return y

    assert "reshape: threads do not hold the elements of the result" in failure(body)


def test_a_boolean_views_as_bytes():
    expected = [1, 0, 1]
    assert (
        expected == run_body(lambda k: k("view", k.tile(expected, boolean), dtype=uint8)).tolist()
    )


def test_linear_bytes_are_what_a_fragment_asks_of_its_operand():
    fragment = resolve_dot_config(float16, dtypes.float32, m=16, n=8, k=16, num_warps=1).lb
    x = RegisterTensor(uint8, (1, 64))
    view = View.build(x, layout=fragment, dtype=int4b)
    (proposal,) = view.layouts(Known(32))
    assert x is proposal.tile and Strength.MUST == proposal.strength
    assert spatial(1, 32).local(1, 2) == proposal.layout


def test_a_share_that_the_shape_cuts_is_left_to_others():
    # Six bytes in each of 32 threads do not divide three rows of 64.
    view = View.build(RegisterTensor(uint8, (3, 64)), layout=spatial(32).local(6), dtype=int8)
    assert [] == list(view.layouts(Known(32)))
