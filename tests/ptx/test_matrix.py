"""Matrices of a warp; fragments are written out as the sections of the PTX manual give them."""

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


# ---- further shapes: (row, column) of each element, one line a section of the manual ------------

Place = Callable[[int, int, int], tuple[int, int]]  # of group, member, element


def c16(g: int, t: int, i: int) -> tuple[int, int]:
    return g if i < 2 else g + 8, t * 2 + (i & 1)


def c8(g: int, t: int, i: int) -> tuple[int, int]:
    return g, t * 2 + i


# "Matrix Fragments for mma.m16n8k4" and the like: operands A, B and C.
SHAPES: dict[tuple[str, str], tuple[Place, Place, Place]] = {
    ("m16n8k4", "tf32"): (lambda g, t, i: (g + 8 * i, t), lambda g, t, i: (t, g), c16),
    ("m16n8k8", "tf32"): (
        lambda g, t, i: (g if i in (0, 2) else g + 8, t if i < 2 else t + 4),
        lambda g, t, i: (t if i == 0 else t + 4, g),
        c16,
    ),
    ("m16n8k32", "s4"): (
        lambda g, t, i: (g if i < 8 else g + 8, t * 8 + (i & 7)),
        lambda g, t, i: (t * 8 + (i & 7), g),
        c16,
    ),
    ("m16n8k64", "s4"): (
        lambda g, t, i: (
            g if 0 <= i < 8 or 16 <= i < 24 else g + 8,
            t * 8 + (i & 7) + (32 if i >= 16 else 0),
        ),
        lambda g, t, i: (t * 8 + (i & 7) + (32 if i >= 8 else 0), g),
        c16,
    ),
    ("m16n8k128", "b1"): (
        lambda g, t, i: (g if i < 32 else g + 8, t * 32 + (i & 31)),
        lambda g, t, i: (t * 32 + i, g),
        c16,
    ),
    ("m16n8k256", "b1"): (
        lambda g, t, i: (
            g if 0 <= i < 32 or 64 <= i < 96 else g + 8,
            t * 32 + (i & 31) + (128 if i >= 64 else 0),
        ),
        lambda g, t, i: (t * 32 + (i & 31) + (128 if i >= 32 else 0), g),
        c16,
    ),
    ("m8n8k128", "b1"): (lambda g, t, i: (g, t * 32 + i), lambda g, t, i: (t * 32 + i, g), c8),
    ("m8n8k16", "s8"): (lambda g, t, i: (g, t * 4 + i), lambda g, t, i: (t * 4 + i, g), c8),
    ("m8n8k32", "s4"): (lambda g, t, i: (g, t * 8 + i), lambda g, t, i: (t * 8 + i, g), c8),
    ("m8n8k4", "f64"): (lambda g, t, i: (g, t), lambda g, t, i: (t, g), c8),
    ("m16n8k4", "f64"): (lambda g, t, i: (g + 8 * i, t), lambda g, t, i: (t, g), c16),
    ("m16n8k8", "f64"): (
        lambda g, t, i: (g if i % 2 == 0 else g + 8, t + (i // 2) * 4),
        lambda g, t, i: (t + i * 4, g),
        c16,
    ),
    ("m16n8k16", "f64"): (
        lambda g, t, i: (g if i % 2 == 0 else g + 8, i * 2 + t if i % 2 == 0 else i * 2 - 2 + t),
        lambda g, t, i: (i * 4 + t, g),
        c16,
    ),
    ("m16n8k16", "e4m3"): (
        lambda g, t, i: (g if i < 4 else g + 8, t * 4 + (i & 3)),
        lambda g, t, i: (t * 4 + i, g),
        c16,
    ),
}


def encoded(values: Array, kind: str) -> tuple[Array, int]:
    """Numbers as bit patterns of that many bits."""
    if kind == "tf32":  # the low bits are garbage that the hardware ignores
        return values.astype(np.float32).view(np.uint32) | np.uint32(0x1ABC), 32
    if kind in ("f16", "f32", "f64"):
        bits = int(kind[1:])
        return values.astype(f"f{bits // 8}").view(f"u{bits // 8}"), bits
    if kind in ("e4m3", "e5m2"):
        return values.astype(FLOAT_TYPES[kind]).view(np.uint8), 8
    bits = int(kind[1:])
    return values.astype(np.int64) & ((1 << bits) - 1), bits


def packed(matrix: Array, place: Place, kind: str) -> Array:
    """(32, registers): what each lane holds of a matrix."""
    patterns, bits = encoded(matrix, kind)
    size, count = max(bits, 32), matrix.size // 32
    result = np.zeros((32, count * bits // size), f"u{size // 8}")
    for lane in LANES:
        for i in range(count):
            pattern = int(patterns[place(lane >> 2, lane % 4, i)])
            register, shift = divmod(i * bits, size)
            result[lane, register] |= result.dtype.type(pattern << shift)
    return result


def product(name: str, parts: list[Array], out: Array) -> Array:
    """The registers of d, one row a lane."""
    lines: list[str] = []
    names: list[str] = []
    for number, part in enumerate([*parts, out]):
        size = part.dtype.itemsize
        first = 8 * number
        registers = [f"%{'w' if size == 8 else 'r'}{first + n}" for n in range(part.shape[1])]
        names.append("{" + ", ".join(registers) + "}")
        lines.append(f"mad.wide.u32 %p{number}, %i, {size * part.shape[1]}, %p{number};")
        places = [f"[%p{number}+{size * n}]" for n in range(part.shape[1])]
        if number < 3:
            for register, place in zip(registers, places, strict=True):
                lines.append(f"ld.global.b{8 * size} {register}, {place};")
    lines.append(f"mma.sync.aligned.{name} {names[3]}, {names[0]}, {names[1]}, {names[2]};")
    size = out.dtype.itemsize
    for n, register in enumerate(names[3][1:-1].split(", ")):
        lines.append(f"st.global.b{8 * size} [%p3+{size * n}], {register};")
    launch(module("\n".join(lines), 4, ".reg .b64 %w<32>;"), [*parts, out], 32)
    return out


def element_range(kind: str) -> tuple[int, int]:
    if kind in ("tf32", "f64", "e4m3", "e5m2"):
        return -4, 5
    bits = int(kind[1:])
    return (-(1 << bits - 1), 1 << bits - 1) if kind[0] == "s" else (0, 1 << bits)


CASES = [
    ("m16n8k4", "tf32", "tf32", "f32", ""), ("m16n8k8", "tf32", "tf32", "f32", ""),
    ("m16n8k32", "s4", "s4", "s32", ""), ("m16n8k32", "u4", "s4", "s32", ""),
    ("m16n8k64", "s4", "u4", "s32", ""), ("m8n8k32", "u4", "u4", "s32", ""),
    ("m16n8k64", "u4", "u4", "s32", ".satfinite"),
    ("m8n8k16", "s8", "u8", "s32", ""), ("m16n8k128", "b1", "b1", "s32", ".xor.popc"),
    ("m16n8k256", "b1", "b1", "s32", ".and.popc"), ("m8n8k128", "b1", "b1", "s32", ".xor.popc"),
    ("m8n8k4", "f64", "f64", "f64", ""), ("m16n8k4", "f64", "f64", "f64", ""),
    ("m16n8k8", "f64", "f64", "f64", ""), ("m16n8k16", "f64", "f64", "f64", ""),
    ("m16n8k16", "e4m3", "e5m2", "f16", ""), ("m16n8k16", "e5m2", "e4m3", "f32", ""),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "left", "right", "total", "end"), CASES)
def test_mma_of_every_shape(shape: str, left: str, right: str, total: str, end: str):
    rows, k = int(shape[1:].split("n")[0]), int(shape.split("k")[1])
    kind = {"u4": "s4", "u8": "s8", "e5m2": "e4m3"}.get(left, left)
    place_a, place_b, place_c = SHAPES[shape, kind]
    a = rng().integers(*element_range(left), (rows, k))
    b = rng().integers(*element_range(right), (k, 8))
    c = rng().integers(-9, 10, (rows, 8))
    if total == "s32":  # some sums go beyond the greatest integer
        c = 2**31 - 20 - np.abs(c)
    parts = [packed(a, place_a, left), packed(b, place_b, right), packed(c, place_c, total)]
    first, last = (end, "") if end == ".satfinite" else ("", end)
    name = f"{shape}.row.col{first}.{total}.{left}.{right}.{total}{last}"
    got = product(name, parts, np.zeros_like(parts[2]))
    exact = a @ b + c
    if end == ".xor.popc":
        exact = (a[:, :, None] != b[None]).sum(1) + c
    wanted = np.minimum(exact, 2**31 - 1) if end == ".satfinite" else exact
    np.testing.assert_array_equal(got, packed(wanted, place_c, total))


@pytest.mark.parametrize(
    "name",
    [
        "m8n8k4.row.col.f32.f16.f16.f32",
        "m16n8k32.row.col.kind::f8f6f4.f32.e2m1.e2m1.f32",
        "m16n8k16.row.col.f32.f16.bf16.f32",
        "m16n8k64.row.col.f32.e4m3.e4m3.f32",
        "m16n8k16.row.col.f16.f16.f16.s32",
    ],
)
def test_an_unknown_mma_names_itself(name: str):
    body = f"""mov.u32 %r1, 0;
        mma.sync.aligned.{name} {{{{%r1}}}}, {{{{%r1}}}}, {{{{%r1}}}}, {{{{%r1}}}};"""
    with pytest.raises(TilusError, match="this form of mma is not emulated") as info:
        apply(body, [np.zeros(32, np.uint32)], np.uint32)
    assert name.replace("::", "_") in str(info.value.found)


def test_a_fragment_has_its_registers():
    body = """mov.u32 %r1, 0; mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32
        {{%r1, %r1, %r1, %r1}}, {{%r1}}, {{%r1}}, {{%r1, %r1, %r1, %r1}};"""
    with pytest.raises(TilusError, match="a fragment of 1 registers"):
        apply(body, [np.zeros(32, np.uint32)], np.uint32)


def test_movmatrix_transposes():
    matrix = rng().integers(0, 2**16, (8, 8), np.uint16)
    words = np.ascontiguousarray(fragment_of(matrix, False)).view(np.uint32).reshape(-1)
    body = "movmatrix.sync.aligned.m8n8.trans.b16 {out}, {0};"
    got = apply(body, [words], np.uint32).view(np.uint16).reshape(32, 2)
    np.testing.assert_array_equal(got, fragment_of(matrix, True))


@pytest.mark.parametrize("name", ["m16n16.x1.trans.shared.b8", "m8n16.x1.shared.b8x16.b6x16_p32"])
def test_other_ldmatrix_name_themselves(name: str):
    body = f"mov.u32 %r1, 0; ldmatrix.sync.aligned.{name} {{{{%r2}}}}, [%r1];"
    with pytest.raises(TilusError, match="this shape of ldmatrix is not emulated") as info:
        apply(body, [np.zeros(32, np.uint32)], np.uint32)
    assert name in str(info.value.found)
