"""Warp instructions of the PTX emulator; fragments are written out as the PTX manual gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.ptx.kernels import apply, launch, module
from tilus.errors import TilusError

Array = np.ndarray[Any, Any]
LANES = range(32)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


# ---- shuffles and votes -------------------------------------------------------------------------


def shuffled(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The manual's pseudocode of shfl.sync: the source lane and the predicate."""
    bval, cval, segmask = b & 31, c & 31, c >> 8 & 31
    max_lane = (lane & segmask) | (cval & ~segmask & 31)
    min_lane = lane & segmask
    if mode == "up":
        j = lane - bval
        inside = j >= max_lane
    elif mode == "down":
        j = lane + bval
        inside = j <= max_lane
    elif mode == "bfly":
        j = lane ^ bval
        inside = j <= max_lane
    else:
        j = min_lane | (bval & ~segmask & 31)
        inside = j <= max_lane
    return (j, True) if inside else (lane, False)


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffles(mode: str):
    value = rng().integers(0, 2**32, 64, np.uint32)
    for width in (4, 8, 16, 32):
        c = (32 - width) << 8 | (0 if mode == "up" else 31)
        for b in (0, 1, 3, 16, 31, 33):
            body = f"""shfl.sync.{mode}.b32 %r1|%q1, {{0}}, {b}, {c}, -1;
                selp.u32 %r2, 1, 0, %q1; xor.b32 {{out}}, %r1, %r2;"""
            got = apply(body, [value], np.uint32)
            for thread in range(64):
                source, inside = shuffled(mode, thread % 32, b, c)
                wanted = int(value[thread - thread % 32 + source]) ^ inside
                assert got[thread] == wanted, (mode, width, b, thread)


def test_shuffle_with_a_source_of_each_lane():
    value = rng().integers(0, 2**32, 32, np.uint32)
    source = rng().permutation(32).astype(np.uint32)
    got = apply("shfl.sync.idx.b32 {out}, {0}, {1}, 31, -1;", [value, source], np.uint32)
    np.testing.assert_array_equal(got, value[source])


@pytest.mark.parametrize("held", ["none", "all", "some"])
def test_votes(held: str):
    flags = {"none": np.zeros(32), "all": np.ones(32), "some": rng().integers(0, 2, 32)}[held]
    value = np.concatenate([flags, np.ones(32)]).astype(np.uint32)
    ballot = [sum(int(v) << n for n, v in enumerate(value[w : w + 32])) for w in (0, 32)]
    body = "setp.ne.u32 %q0, {0}, 0;\n"
    got = apply(body + "vote.sync.ballot.b32 {out}, %q0, -1;", [value], np.uint32)
    np.testing.assert_array_equal(got, np.repeat(np.array(ballot, np.uint32), 32))
    functions: dict[str, Callable[[Array], bool]] = {
        "all": lambda v: bool(v.all()),
        "any": lambda v: bool(v.any()),
        "uni": lambda v: bool(v.all() or not v.any()),
    }
    for name, function in functions.items():
        for sign in ("", "!"):
            text = f"{body}vote.sync.{name}.pred %q1, {sign}%q0, -1; selp.u32 {{out}}, 1, 0, %q1;"
            wanted = [function(v == (sign == "")) for v in value.reshape(2, 32)]
            np.testing.assert_array_equal(apply(text, [value], np.uint32), np.repeat(wanted, 32))


def test_a_shuffle_needs_a_whole_warp():
    body = """setp.lt.u32 %q0, %i, 16;
        @%q0 shfl.sync.idx.b32 {out}, {0}, 0, 31, -1;"""
    with pytest.raises(TilusError, match="every thread of a warp"):
        apply(body, [np.zeros(32, np.uint32)], np.uint32)


# ---- ldmatrix and stmatrix ----------------------------------------------------------------------

SHARED = ".shared .align 16 .b8 tile[1024];"


def registers(count: int, first: int = 0) -> str:
    return "{" + ", ".join(f"%r{first + n}" for n in range(count)) + "}"


def fragment_of(matrix: Array, trans: bool) -> Array:
    """(32, 2): the elements of one 8x8 matrix of b16 in each lane.

    Lane l holds row l / 4, columns 2 (l % 4) and 2 (l % 4) + 1; of the transpose with .trans.
    """
    source = matrix.T if trans else matrix
    return np.array([[source[n // 4, 2 * (n % 4) + j] for j in (0, 1)] for n in LANES])


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", [False, True])
def test_ldmatrix(count: int, trans: bool):
    # Each lane writes two rows of 16 bytes of the tile; row addresses are then permuted.
    tile = rng().integers(0, 2**16, (64, 8), np.uint16)
    order = rng().permutation(64)[:32].astype(np.uint32)
    out = np.zeros((32, count), np.uint32)
    loads = f"ldmatrix.sync.aligned.m8n8.x{count}{'.trans' if trans else ''}.shared.b16"
    stores = "\n".join(f"st.global.b32 [%p2+{4 * n}], %r{n};" for n in range(count))
    body = f"""mad.wide.u32 %p0, %i, 32, %p0; mad.wide.u32 %p1, %i, 4, %p1;
        mad.wide.u32 %p2, %i, {4 * count}, %p2;
        mov.u32 %r20, tile; shl.b32 %r21, %i, 5; add.u32 %r21, %r20, %r21;
        ld.global.v4.u32 {registers(4, 8)}, [%p0]; st.shared.v4.u32 [%r21], {registers(4, 8)};
        ld.global.v4.u32 {registers(4, 8)}, [%p0+16];
        st.shared.v4.u32 [%r21+16], {registers(4, 8)};
        ld.global.u32 %r22, [%p1]; mad.lo.u32 %r22, %r22, 16, %r20;
        bar.sync 0;
        {loads} {registers(count)}, [%r22];
        {stores}"""
    launch(module(body, 3, SHARED), [tile, order, out], 32)
    for number in range(count):
        matrix = tile[order[8 * number : 8 * number + 8]]
        got = np.ascontiguousarray(out[:, number]).view(np.uint16).reshape(32, 2)
        np.testing.assert_array_equal(got, fragment_of(matrix, trans))


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", [False, True])
def test_stmatrix(count: int, trans: bool):
    words = rng().integers(0, 2**32, (32, count), np.uint32)
    order = rng().permutation(32).astype(np.uint32)
    out = np.zeros((32, 8), np.uint16)
    stores = f"stmatrix.sync.aligned.m8n8.x{count}{'.trans' if trans else ''}.shared.b16"
    loads = "\n".join(f"ld.global.b32 %r{n}, [%p0+{4 * n}];" for n in range(count))
    body = f"""mad.wide.u32 %p0, %i, {4 * count}, %p0; mad.wide.u32 %p1, %i, 4, %p1;
        mad.wide.u32 %p2, %i, 16, %p2;
        {loads}
        mov.u32 %r20, tile; shl.b32 %r21, %i, 4; add.u32 %r21, %r20, %r21;
        mov.u32 %r8, 0; st.shared.v4.u32 [%r21], {{%r8, %r8, %r8, %r8}};
        ld.global.u32 %r22, [%p1]; mad.lo.u32 %r22, %r22, 16, %r20;
        bar.sync 0;
        {stores} [%r22], {registers(count)};
        bar.sync 0;
        ld.shared.v4.u32 {registers(4, 8)}, [%r21]; st.global.v4.u32 [%p2], {registers(4, 8)};"""
    launch(module(body, 3, SHARED), [words, order, out], 32)
    wanted = np.zeros((32, 8), np.uint16)
    for number in range(count):
        matrix = np.zeros((8, 8), np.uint16)
        for lane in LANES:
            for j in (0, 1):
                row, column = lane // 4, 2 * (lane % 4) + j
                value = int(words[lane, number]) >> 16 * j & 0xFFFF
                matrix[(column, row) if trans else (row, column)] = value
        wanted[order[8 * number : 8 * number + 8]] = matrix
    np.testing.assert_array_equal(out, wanted)


# ---- mma ----------------------------------------------------------------------------------------


def place_a(k: int, bits: int, lane: int, i: int) -> tuple[int, int]:
    """Row and column of element a_i: "Matrix Fragments for mma.m16n8k8/k16/k32"."""
    group, member = lane >> 2, lane % 4
    if (k, bits) == (8, 16):
        return group if i < 2 else group + 8, member * 2 + (i & 1)
    if (k, bits) == (16, 16):
        row = group if 0 <= i < 2 or 4 <= i < 6 else group + 8
        return row, member * 2 + (i & 1) + (8 if i >= 4 else 0)
    if (k, bits) == (16, 8):
        return group if i < 4 else group + 8, member * 4 + (i & 3)
    row = group if 0 <= i < 4 or 8 <= i < 12 else group + 8
    return row, member * 4 + (i & 3) + (16 if i >= 8 else 0)


def place_b(k: int, bits: int, lane: int, i: int) -> tuple[int, int]:
    """Row and column of element b_i."""
    group, member = lane >> 2, lane % 4
    if (k, bits) == (8, 16):
        return member * 2 + i, group
    if (k, bits) == (16, 16):
        return member * 2 + (i & 1) + (8 if i >= 2 else 0), group
    if (k, bits) == (16, 8):
        return member * 4 + i, group
    return member * 4 + (i & 3) + (16 if i >= 4 else 0), group


def place_c(lane: int, i: int) -> tuple[int, int]:
    """Row and column of element c_i or d_i."""
    return (lane >> 2) + (0 if i < 2 else 8), (lane % 4) * 2 + (i & 1)


def gathered(matrix: Array, place: Callable[[int, int], tuple[int, int]]) -> Array:
    """(32, words): what each lane holds of a matrix."""
    count = matrix.size // 32
    elements = np.array([[matrix[place(n, i)] for i in range(count)] for n in LANES], matrix.dtype)
    return elements.view(np.uint32)


def multiplied(name: str, k: int, a: Array, b: Array, c: Array) -> Array:
    """Matrix d of one mma.sync."""
    bits = 8 * a.dtype.itemsize
    parts = [
        gathered(a, lambda n, i: place_a(k, bits, n, i)),
        gathered(b, lambda n, i: place_b(k, bits, n, i)),
        gathered(c, place_c),
    ]
    out = np.zeros_like(parts[2])
    lines: list[str] = []
    names: list[str] = []
    for number, part in enumerate([*parts, out]):
        words = part.shape[1]
        lines.append(f"mad.wide.u32 %p{number}, %i, {4 * words}, %p{number};")
        names.append(registers(words, 8 * number))
        if number < 3:
            for n in range(words):
                lines.append(f"ld.global.u32 %r{8 * number + n}, [%p{number}+{4 * n}];")
    lines.append(f"mma.sync.aligned.{name} {names[3]}, {names[0]}, {names[1]}, {names[2]};")
    lines += [f"st.global.u32 [%p3+{4 * n}], %r{24 + n};" for n in range(out.shape[1])]
    launch(module("\n".join(lines), 4), [*parts, out], 32)
    elements = out.view(c.dtype)
    result = np.zeros((16, 8), c.dtype)
    for lane in LANES:
        for i in range(4):
            result[place_c(lane, i)] = elements[lane, i]
    return result


FLOAT_TYPES: dict[str, Any] = {
    "f16": np.float16, "bf16": ml_dtypes.bfloat16,
    "e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2,
}  # fmt: skip
FLOAT_CASES = [
    ("f16", "f16", 16, "f32"), ("f16", "f16", 16, "f16"), ("bf16", "bf16", 16, "f32"),
    ("f16", "f16", 8, "f32"), ("bf16", "bf16", 8, "f32"), ("e4m3", "e4m3", 32, "f32"),
    ("e5m2", "e5m2", 32, "f32"), ("e4m3", "e5m2", 32, "f32"),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right", "k", "total"), FLOAT_CASES)
def test_mma_of_floats(left: str, right: str, k: int, total: str):
    # Small integers and halves: every sum is exact, so that no order of it matters.
    a = (rng().integers(-6, 7, (16, k)) / 2).astype(FLOAT_TYPES[left])
    b = rng().integers(-4, 5, (k, 8)).astype(FLOAT_TYPES[right])
    c = rng().integers(-9, 10, (16, 8)).astype(total.replace("f", "float"))
    name = f"m16n8k{k}.row.col.{total}.{left}.{right}.{total}"
    wanted = a.astype(np.float64) @ b.astype(np.float64) + c
    np.testing.assert_array_equal(multiplied(name, k, a, b, c), wanted)


@pytest.mark.parametrize("k", [16, 32])
@pytest.mark.parametrize(("left", "right"), [("s8", "s8"), ("u8", "u8"), ("s8", "u8")])
def test_mma_of_integers(k: int, left: str, right: str):
    types = {"s8": np.int8, "u8": np.uint8}
    a, b = (
        rng().integers(np.iinfo(types[t]).min, np.iinfo(types[t]).max, shape, types[t], True)
        for t, shape in ((left, (16, k)), (right, (k, 8)))
    )
    c = rng().integers(-(2**31), 2**31, (16, 8), np.int32)
    exact = a.astype(np.int64) @ b.astype(np.int64) + c
    name = f"m16n8k{k}.row.col.s32.{left}.{right}.s32"
    got = multiplied(name, k, a, b, c)
    np.testing.assert_array_equal(got, exact.astype(np.int32))  # wraps
    saturated = multiplied(name.replace(".s32", ".satfinite.s32", 1), k, a, b, c)
    np.testing.assert_array_equal(saturated, np.clip(exact, -(2**31), 2**31 - 1))


def test_an_unknown_mma_names_itself():
    body = "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%d1}, {%d2}, {%d3}, {%d4};"
    with pytest.raises(TilusError, match="mma is not emulated"):
        launch(module(body, 1), [np.zeros(32, np.uint32)], 32)
