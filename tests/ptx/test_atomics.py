"""Atomic updates of every type: lanes meet at one cell, in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.ptx.kernels import launch, module
from tests.ptx.test_arith import wrapped
from tilus.errors import TilusError

Array = np.ndarray[Any, Any]
BF16 = ml_dtypes.bfloat16
LETTER = {2: "h", 4: "r", 8: "d"}


def updated(name: str, values: Array, start: Array, cells: Array) -> tuple[Array, Array]:
    """What `name` makes of `start` when lane n updates cell cells[n] with values[n]: (old, new)."""
    size = values.dtype.itemsize
    register = f"%{LETTER[size]}"
    memory, old = start.copy(), np.zeros_like(values)
    body = f"""mad.wide.u32 %p0, %i, {size}, %p0; mad.wide.u32 %p1, %i, 4, %p1;
        mad.wide.u32 %p3, %i, {size}, %p3;
        ld.global.b{8 * size} {register}1, [%p0]; ld.global.u32 %r5, [%p1];
        mad.wide.u32 %p2, %r5, {size}, %p2;
        atom.{name} {register}2, [%p2], {register}1;
        st.global.b{8 * size} [%p3], {register}2;"""
    launch(module(body, 4), [values, cells.astype(np.uint32), memory, old], len(values))
    return old, memory


INTEGER: dict[str, Callable[[int, int], int]] = {
    "add": lambda old, x: old + x,
    "min": min,
    "max": max,
    "exch": lambda old, x: x,
    "inc": lambda old, x: 0 if old >= x else old + 1,
    "dec": lambda old, x: x if old == 0 or old > x else old - 1,
    "and": lambda old, x: old & x,
    "or": lambda old, x: old | x,
    "xor": lambda old, x: old ^ x,
}
CASES = [
    *(("add", k) for k in ("u32", "s32", "u64")),
    *((n, k) for n in ("min", "max") for k in ("u32", "s32", "u64", "s64")),
    ("inc", "u32"),
    ("dec", "u32"),
    *((n, f"b{b}") for n in ("and", "or", "xor", "exch") for b in (32, 64)),
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_integer_updates(name: str, kind: str):
    bits = int(kind[1:])
    dtype = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{bits // 8}")
    generator = np.random.default_rng(3)
    values = generator.integers(0, 2**bits, 40, f"u{bits // 8}").view(dtype)
    start = generator.integers(0, 2**bits, 3, f"u{bits // 8}").view(dtype)
    if name in ("inc", "dec"):
        values, start = values % np.uint32(4), start % np.uint32(5)
    cells = np.arange(40) % 3
    old, memory = updated(f"global.{name}.{kind}", values, start, cells)
    state = start.tolist()
    for lane, (cell, value) in enumerate(zip(cells, values.tolist(), strict=True)):
        assert old[lane] == state[cell]
        new = wrapped([INTEGER[name](state[cell], value)], f"u{bits}").view(dtype)
        state[cell] = int(new[0])
    assert memory.tolist() == state


@pytest.mark.parametrize("kind", ["f16", "bf16", "f32", "f64"])
def test_sums_of_floats_round_after_each_lane(kind: str):
    dtype: Any = {"f16": np.float16, "bf16": BF16, "f32": np.float32, "f64": np.float64}[kind]
    values = np.random.default_rng(1).normal(size=24).astype(dtype)
    cells = np.arange(24) % 2
    stored = values.view(f"u{values.dtype.itemsize}")
    start = np.array([1, -100]).astype(dtype)
    noftz = ".noftz" if kind in ("f16", "bf16") else ""
    _, memory = updated(f"global.add{noftz}.{kind}", stored, start.view(stored.dtype), cells)
    state = start.copy()
    for cell, value in zip(cells, values, strict=True):
        state[cell] = (state[cell].astype(np.float64) + value.astype(np.float64)).astype(dtype)
    np.testing.assert_array_equal(memory, state.view(stored.dtype))


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_sums_of_pairs(kind: str):
    dtype: Any = np.float16 if kind == "f16" else BF16
    values = np.arange(1, 17).astype(dtype)
    start = np.array([0.5, -4.0]).astype(dtype).view(np.uint32)
    _, memory = updated(f"global.add.noftz.{kind}x2", values.view(np.uint32), start, np.zeros(8))
    low, high = values[::2].astype(float).sum(), values[1::2].astype(float).sum()
    assert memory.view(dtype).astype(float).tolist() == [0.5 + low, -4 + high]


def test_sums_in_global_memory_flush_subnormal_numbers():
    tiny, least = np.array([1e-39], np.float32), np.array([np.finfo(np.float32).tiny], np.float32)
    _, memory = updated("global.add.f32", tiny, least, np.zeros(1))
    assert memory == least
    body = """.shared .align 4 .b8 cell[4]; mov.u32 %r1, cell; ld.global.f32 %f1, [%p0];
        mov.f32 %f2, 0f00800000; st.shared.f32 [%r1], %f2;
        red.shared.add.f32 [%r1], %f1; ld.shared.f32 %f3, [%r1]; st.global.f32 [%p0], %f3;"""
    result = tiny.copy()
    launch(module(body, 1), [result], 1)
    assert result == tiny + least


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_compare_and_swap(bits: int):
    dtype = np.dtype(f"u{bits // 8}")
    letter = LETTER[dtype.itemsize]
    memory, old = np.array([3], dtype), np.zeros(8, dtype)
    # Lane n swaps n for n + 1: only from lane 3 on does it match, each time.
    body = f"""mad.wide.u32 %p1, %i, {bits // 8}, %p1; cvt.u{bits}.u32 %{letter}1, %i;
        add.u{bits} %{letter}2, %{letter}1, 1;
        atom.global.cas.b{bits} %{letter}3, [%p0], %{letter}1, %{letter}2;
        st.global.b{bits} [%p1], %{letter}3;"""
    launch(module(body, 2), [memory, old], 8)
    assert memory.tolist() == [8]
    assert old.tolist() == [3, 3, 3, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("count", "kind"), [(2, "f32"), (4, "f32"), (4, "f16x2"), (4, "bf16")])
def test_vector_reductions(count: int, kind: str):
    dtype: Any = {"f32": np.float32, "f16x2": np.float16, "bf16": BF16}[kind]
    elements = 2 * count if kind == "f16x2" else count
    size = 2 if kind == "bf16" else 4
    memory = np.arange(2 * elements).astype(dtype)
    names = ", ".join(f"%{LETTER[size]}{n}" for n in range(1, count + 1))
    source = np.arange(6 * elements).astype(dtype)
    noftz = "" if kind == "f32" else ".noftz"
    body = f"""mad.wide.u32 %p0, %i, {size * count}, %p0; and.b32 %r9, %i, 1;
        mad.wide.u32 %p1, %r9, {size * count}, %p1;
        ld.global.v{count}.b{8 * size} {{{names}}}, [%p0];
        red.global.add{noftz}.v{count}.{kind} [%p1], {{{names}}};"""
    before = memory.copy()
    launch(module(body, 2), [source.view(np.uint8), memory.view(np.uint8)], 6)
    added = source.astype(float).reshape(3, 2, elements).sum(0).reshape(-1)
    np.testing.assert_array_equal(memory.astype(float), before.astype(float) + added)


def test_an_unknown_update_names_itself():
    body = "mov.u32 %r1, 0; atom.global.inc.f32 %f1, [%p0], 0f00000000;"
    with pytest.raises(TilusError, match="the update of f32 of atom is not emulated"):
        launch(module(body, 1), [np.zeros(1, np.float32)], 1)
