"""Parts of register tiles: some of the registers of each thread, and which layouts can be cut."""

from __future__ import annotations

import numpy as np
import pytest

from tests.instructions.harness import failure, run_body
from tilus import dtypes
from tilus.dtypes import boolean, float16, float32, int4b, int8, int32, uint8
from tilus.errors import TilusError
from tilus.instructions.mma import Dot
from tilus.instructions.register_slice import RegisterSlice, cut_layout
from tilus.ir.expr import BLOCK_IDX
from tilus.ir.instruction import Known, Strength
from tilus.ir.layout import (
    BitLayout,
    LayoutError,
    atomic_mma_configs,
    local,
    mma_dot_config,
    register_layout,
    replicated,
    spatial,
)
from tilus.ir.parser import parse_program
from tilus.ir.printer import format_program
from tilus.ir.tensor import RegisterTensor
from tilus.ir.visit import instructions
from tilus.passes.infer_layout import InferLayout

ALL = slice(None)
B = BLOCK_IDX[0]
RNG = np.random.default_rng(7)
W = RNG.integers(-7, 8, (3, 16, 24))


def annotated(k, values, dtype, layout):
    """A register tile with these values and this layout."""
    tile = k.tile(values, dtype)
    k("annotate_layout", tile, layout)
    return tile


@pytest.mark.parametrize("dtype", [float16, float32, int8, int4b, boolean], ids=str)
@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ((1,), W[1]),
        ((ALL, slice(0, 8)), W[:, :8]),
        ((2, slice(-8, None), slice(8, 16)), W[2, -8:, 8:16]),
        ((slice(1, 3), ALL, slice(None, -8)), W[1:3, :, :-8]),
        ((-1, slice(8, 16)), W[-1, 8:16]),
        ((), W),
    ],
)
def test_parts_of_register_tiles(dtype, index, expected):
    layout = local(3, 2, 3).spatial(1, 8, 4).local(1, 1, 2)

    def body(k):
        values = W > 0 if dtype == boolean else W
        part = k.index(annotated(k, values, dtype, layout), *index)
        return k("cast", part, int32)

    wanted = (expected > 0) if dtype == boolean else expected
    assert wanted.astype(int).tolist() == run_body(body).tolist()


@pytest.mark.parametrize("nbits", [1, 3, 4, 6])
def test_parts_of_packed_registers(nbits):
    """Elements of less than a byte, in the order of the memory and in another one."""
    dtype = dtypes.dtype_from_name(f"uint{nbits}b")
    data = RNG.integers(0, 256, 32 * 2 * nbits).astype(np.uint8)
    layout = local(2, 1).spatial(4, 8).local(1, 8)
    scattered = BitLayout.strided(16, nbits, [8, 2], [1, 8]) if nbits == 1 else None

    def body(k):
        low = k.method(k.tile(data, uint8), "view", layout=layout, dtype=dtype, bits=scattered)
        return k("cast", low, int32), k("cast", k.index(low, slice(4, 8)), int32)

    whole, part = run_body(body)
    assert whole[4:8].tolist() == part.tolist()


def test_parts_of_a_part_and_their_sum():
    def body(k):
        x = annotated(k, W[0], int32, local(4, 3).spatial(4, 8))
        rows = k.index(x, slice(4, 12))
        return k("elementwise", "add", k.index(rows, slice(0, 4)), k.index(rows, slice(4, 8)))

    assert (W[0, 4:8] + W[0, 8:12]).tolist() == run_body(body).tolist()


def test_a_part_is_a_copy():
    """Writing the tile later does not change what was cut from it."""

    def body(k):
        x = annotated(k, W[0], int32, local(2, 3).spatial(8, 4).local(1, 2))
        part, whole = k.index(x, slice(8, 16)), k.index(x)
        k("assign", x, k("elementwise", "mul", x, 2))
        return part, whole, x

    part, whole, x = run_body(body)
    assert W[0, 8:].tolist() == part.tolist() and W[0].tolist() == whole.tolist()
    assert (2 * W[0]).tolist() == x.tolist()


def test_an_element_that_all_threads_hold_is_a_scalar():
    def body(k):
        x = annotated(k, [3, 5, 7], int32, replicated(3, num_workers=32))
        item = k.method(k.index(x, -1), "item")
        return k("register_tensor", dtype=int32, shape=[2], init=lambda i: item * 10 + i)

    assert [70, 71] == run_body(body).tolist()


CUTS = [
    (local(4, 1).spatial(8, 4), (slice(8, 24),), local(2, 1).spatial(8, 4)),
    (local(4, 1).spatial(8, 4), (slice(8, 16), ALL), spatial(8, 4)),
    (local(4, 2).spatial(1, 32), (3, slice(32, 64)), spatial(32)),
    (local(6).spatial(32), (slice(64, 160),), local(3).spatial(32)),
    (spatial(32, 1).local(1, 8), (ALL, slice(3, 6)), spatial(32, 1).local(1, 3)),
    (spatial(32, 1).local(1, 8), (ALL, 5), spatial(32)),
    (replicated(4, 4, num_workers=32), (1, 2), replicated(num_workers=32)),
    # The modes of the second dimension lie on both sides of the first one's.
    (local(1, 2).local(3, 1).spatial(2, 16).local(1, 2), (slice(2, 4), slice(32, 64)),
     spatial(2, 16).local(1, 2)),
    (local(1, 2).local(3, 2).spatial(2, 16), (ALL, slice(0, 16)), local(3, 1).spatial(2, 16)),
]  # fmt: skip


def part_of(layout, index):
    """A part of a tile in `layout`, and the layout that it must have."""
    x = RegisterTensor(float16, layout.shape)
    part = RegisterSlice.build(x, index)
    part.verify()
    known = Known(layout.num_threads)
    known.layouts[x] = layout
    (proposal,) = part.layouts(known)
    assert part.out is proposal.tile and Strength.MUST == proposal.strength
    return part, proposal.layout


@pytest.mark.parametrize(("layout", "index", "expected"), CUTS)
def test_the_layout_of_a_register_part(layout, index, expected):
    assert expected == part_of(layout, index)[1]


@pytest.mark.parametrize(("layout", "index", "expected"), CUTS)
def test_every_thread_keeps_what_it_holds(layout, index, expected):
    found = part_of(layout, index)[1]
    elements = np.arange(layout.size).reshape(layout.shape)[index].reshape(-1)
    held = layout.logical_indices()
    kept = elements[found.logical_indices()]
    for thread in range(layout.num_threads):
        # What a thread keeps of its registers, in the order in which it has them.
        wanted = [element for element in held[thread] if element in elements]
        assert wanted == kept[thread].tolist()


def test_halves_of_an_mma_operand_are_mma_operands():
    """[warps, 64, 64] with 4 steps along k is cut into two of 2 steps, as dot wants them."""
    atom = atomic_mma_configs.m16n8k16_f16_f32

    def operand(steps):
        la = mma_dot_config(atom, (1, 1), (4, 1, steps)).la
        return spatial(8, 1, 1) * la.unsqueeze(0)

    assert (8, 64, 64) == operand(4).shape
    for half in (slice(0, 32), slice(32, 64)):
        assert operand(2) == part_of(operand(4), (ALL, ALL, half))[1]
    for step in range(4):
        cut = slice(16 * step, 16 * step + 16)
        assert operand(1) == part_of(operand(4), (ALL, ALL, cut))[1]


@pytest.mark.parametrize("annotate", [True, False])
def test_dot_takes_the_halves_of_its_operand(annotate):
    """From the layout of the whole to the halves, and from what dot demands back to the whole."""
    atom = atomic_mma_configs.m16n8k16_f16_f32
    layout = spatial(2, 1, 1) * mma_dot_config(atom, (1, 1), (2, 1, 4)).la.unsqueeze(0)
    w, x = RNG.integers(-4, 5, (2, 32, 64)), RNG.integers(-4, 5, (2, 64, 8))
    tiles = []

    def body(k):
        a = annotated(k, w, float16, layout) if annotate else k.tile(w, float16)
        acc = k("register_tensor", dtype=float32, shape=[2, 32, 8], init=0.0)
        for start in (0, 32):
            half = k.index(a, ALL, ALL, slice(start, start + 32))
            b = k.tile(x[:, start : start + 32], float16)
            k("dot", half, b, acc, out=acc)
            tiles.extend([a, half])
        return acc

    assert (w @ x).tolist() == run_body(body, warps=2).tolist()
    fragment = spatial(2, 1, 1) * mma_dot_config(atom, (1, 1), (2, 1, 2)).la.unsqueeze(0)
    assert annotate or local(1, 1, 2) * fragment == tiles[0].layout
    assert fragment == tiles[1].layout == tiles[3].layout


@pytest.mark.parametrize("annotation", ["", "    annotate_layout(w, {layout})\n"])
def test_halves_are_multiplied_by_tensor_cores(annotation):
    atom = atomic_mma_configs.m16n8k16_f16_f32
    layout = spatial(8, 1, 1) * mma_dot_config(atom, (1, 1), (4, 1, 4)).la.unsqueeze(0)
    program = parse_program(
        "kernel k() blocks=[1] warps=8:\n    w: float16[8, 64, 64] = register_tensor()\n"
        + annotation.format(layout=layout)
        + """    x: float16[8, 32, 8] = register_tensor()
    acc: float32[8, 64, 8] = register_tensor()
    left: float16[8, 64, 32] = register_slice(w, starts=[0, 0, 0], dims=[0, 1, 2])
    acc = dot(left, x, acc)
    right: float16[8, 64, 32] = register_slice(w, starts=[0, 0, 32], dims=[0, 1, 2])
    acc = dot(right, x, acc)
"""
    )
    dots = [i for i in instructions(InferLayout()(program)) if isinstance(i, Dot)]
    expected = f"dot by {atom.opcode}: warps 1x1, each 4x1x2 times"
    assert [expected, expected] == [dot.form(256) for dot in dots]


def demanded(shape, index, layout):
    """What a part whose layout is known proposes for the whole tile."""
    x = RegisterTensor(float16, shape)
    part = RegisterSlice.build(x, index)
    known = Known(layout.num_threads)
    known.layouts[part.out] = layout
    return [(p.tile is x, p.layout, p.strength) for p in part.layouts(known)]


@pytest.mark.parametrize(
    ("shape", "index", "layout", "expected"),
    [
        ((16, 64), (ALL, slice(32, 64)), spatial(8, 4).local(2, 8),
         local(1, 2) * spatial(8, 4).local(2, 8)),
        ((4, 32), (3,), spatial(32), local(4, 1) * spatial(1, 32)),
        ((4, 32, 2), (3, ALL, 0), spatial(32), local(4, 1, 2) * spatial(1, 32, 1)),
        ((48, 4), (slice(16, 32), slice(0, 2)), spatial(16, 2), local(3, 2) * spatial(16, 2)),
    ],
)  # fmt: skip
def test_a_known_part_tells_of_its_tile(shape, index, layout, expected):
    assert [(True, expected, Strength.MUST)] == demanded(shape, index, layout)
    assert layout == part_of(expected, index)[1]


@pytest.mark.parametrize(("shape", "index"), [((64,), (slice(16, 48),)), ((80,), (slice(32, 64),))])
def test_a_part_off_the_grid_of_parts_proposes_nothing(shape, index):
    assert [] == demanded(shape, index, spatial(32))


@pytest.mark.parametrize(
    ("layout", "index", "message", "found", "expected"),
    [
        (spatial(8, 4).local(4, 1), (slice(0, 8),), "dimension 0 is cut between threads",
         "indices 0..7 of 32", "all of 0..31: nothing that leads dimension 0 is local"),
        (local(4, 1).spatial(8, 4), (slice(4, 12),), "dimension 0 is cut between threads",
         "indices 4..11 of 32", "starts and lengths in multiples of 8: local is the leading 4"),
        (local(1, 4).spatial(8, 4), (ALL, 5), "dimension 1 is cut between threads",
         "index 5 of 16", "starts and lengths in multiples of 4: local is the leading 4"),
        (local(2, 1).spatial(32, 1).local(1, 2).local(2, 1), (slice(0, 1),),
         "dimension 0 is cut between threads", "index 0 of 128", "in multiples of 64"),
        (local(2, 1).local(1, 3).local(2, 1).spatial(8, 4), (slice(8, 24),),
         "dimension 0 is cut across registers that do not follow on", "indices 8..23 of 32",
         "a range within one of the local 2 x 2, of steps of 8"),
    ],
)  # fmt: skip
def test_cuts_that_leave_threads_without_elements(layout, index, message, found, expected):
    with pytest.raises(LayoutError) as caught:
        part_of(layout, index)
    error = caught.value
    assert f"register_slice: {message}" == error.message
    assert found in str(error.found) and str(layout.canonical()) in str(error.found)
    assert expected in str(error.expected)
    assert "annotate_layout" in str(error.hint) and "shared memory" in str(error.hint)


def test_cut_layouts_keep_replication():
    layout = register_layout([4, 8], [4, 8], [-4, 1], [0])
    assert register_layout([8], [8], [-4, 0], []) == cut_layout(layout, [2, 0], [1, 8], [1])


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ((B,), "an index must be known at compile time"),
        ((slice(B, B + 1),), "an index must be known at compile time"),
        ((slice(0, B),), "the length of a slice must be known at compile time"),
        ((3,), "index 3 in dimension 0"),
        ((-4,), "index -1 in dimension 0"),
        ((0, slice(0, 17)), "indices 0..16 in dimension 1"),
        ((0, 0, 0, 0), "more indices than dimensions"),
        ((slice(0, 3, 2),), "split the dimension first: x.reshape("),
        ((slice(2, 2),), "a slice is empty"),
        ((1.0,), "an index is an integer, a scalar or a slice"),
        ((True,), "an index is an integer, a scalar or a slice"),
    ],
)
def test_indices_of_register_tiles_that_do_not_fit(index, expected):
    assert expected in failure(lambda k: k.index(k.tile(W, int32), *index))


def test_a_part_in_other_threads_is_refused():
    def body(k):
        x = annotated(k, W[0], int32, local(2, 3).spatial(8, 4).local(1, 2))
        k.index(x, slice(0, 8)).layout = local(1, 6).spatial(8, 4)

    message = failure(body)
    assert "register_slice: threads do not hold the elements of the part" in message
    assert "annotate_layout one of them" in message


def test_parsed_register_parts_are_checked():
    x, half = RegisterTensor(int32, (4, 8)), RegisterTensor(int32, (4, 4))
    broken = [
        (RegisterSlice(half, x, (0,), (0, 1)), "one start for each dimension"),
        (RegisterSlice(half, x, (0, 0), (1,)), "dims must name a different dimension"),
        (RegisterSlice(half, x, (0, 0), (1, 0)), "the dimensions change their order"),
        (RegisterSlice(half, x, (0, 6), (0, 1)), "the index is out of bounds"),
        (RegisterSlice(RegisterTensor(float32, (4, 4)), x, (0, 0), (0, 1)), "the dtypes of the"),
    ]
    for instruction, expected in broken:
        with pytest.raises(TilusError, match=expected):
            instruction.verify()


def test_a_register_part_as_text():
    text = """kernel k() blocks=[1] warps=1:
    x: float16[4, 32] = register_tensor()
    part: float16[32] = register_slice(x, starts=[3, 0], dims=[1])
"""
    _, part = instructions(parse_program(text))
    assert isinstance(part, RegisterSlice) and ((3, 0), (1,)) == (part.starts, part.dims)
    assert text.splitlines()[2] in format_program(parse_program(text))
