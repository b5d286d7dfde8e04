"""Loads of which some bytes are not used, as NVRTC reads 12 bytes by 16.

    .pragma "used_bytes_mask 4095";
    ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [tile];

Source: PTX ISA, "Pragma Strings: used_bytes_mask".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ptx.kernels import launch, module
from tests.ptx.test_spaces import run
from tilus.errors import TilusError
from tilus.ptx.launch import execute
from tilus.ptx.memory import GlobalMemory
from tilus.ptx.parse import parse_ptx

Array = np.ndarray[Any, Any]
TILE = ".shared .align 16 .b8 tile[64];"
LOAD = "ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [tile];"
SUM = "add.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3; @%q0 st.global.u32 [%p0], %r1;"


def shared(before: str, pragma: str, load: str = LOAD) -> int:
    """What thread 0 of 4 makes of a load, after `before`."""
    out = np.zeros(1, np.uint32)
    body = f"""mov.u32 %r8, tile; mad.lo.u32 %r8, %i, 4, %r8; setp.eq.u32 %q0, %i, 0;
        mov.u32 %r4, 0; {before} {pragma} {load} {SUM}"""
    launch(module(body, 1, TILE), [out], 4)
    return int(out[0])


WRITTEN = "setp.lt.u32 %q1, %i, 3; add.u32 %r9, %i, 5; @%q1 st.shared.u32 [%r8], %r9; bar.sync 0;"


@pytest.mark.parametrize("mask", ["4095", "0xfff", "0x0FFF"])
def test_bytes_that_are_not_used_may_be_unwritten(mask: str):
    assert shared(WRITTEN, f'.pragma "used_bytes_mask {mask}";') == 5 + 6 + 7


@pytest.mark.parametrize(
    "pragma",
    ["", '.pragma "nounroll";', '.pragma "used_bytes_mask 0xffff";',
     '.pragma "used_bytes_mask 0x1fff";', '.pragma "used_bytes_mask 0xfff"; add.u32 %r9, %i, 1;'],
)  # fmt: skip
def test_used_bytes_must_be_written(pragma: str):
    """The pragma is that of the next instruction alone."""
    with pytest.raises(TilusError, match="shared memory is read that was never written"):
        shared(WRITTEN, pragma)


def test_bytes_that_are_not_used_are_no_race():
    """Thread 3 writes the last word while thread 0 reads the others, and the other way round."""
    others = "setp.eq.u32 %q2, %i, 3; @%q2 st.shared.u32 [%r8], %r9;"
    pragma, load = '.pragma "used_bytes_mask 0xfff";', f"@%q0 {LOAD}"
    assert shared(WRITTEN + others, pragma, load) == 18
    assert shared(WRITTEN, pragma, load + others) == 18
    with pytest.raises(TilusError, match="race in shared memory: read after write"):
        shared(WRITTEN + others, "", load)
    with pytest.raises(TilusError, match="race in shared memory: write after read"):
        shared(WRITTEN + "st.shared.u32 [%r8], %r9; bar.sync 0;", "", load + others)
    with pytest.raises(TilusError, match="race in shared memory: read after write"):
        shared(WRITTEN + others, '.pragma "used_bytes_mask 0xf0ff";', load)


def test_bytes_that_are_not_used_must_lie_in_bounds():
    with pytest.raises(TilusError, match="a shared access is out of bounds"):
        shared("", '.pragma "used_bytes_mask 0xfff";', LOAD.replace("tile]", "tile+64]"))
    source, pragma = np.zeros(3, np.uint32), '.pragma "used_bytes_mask 0xfff";'
    body = f"{pragma} ld.global.v4.u32 {{%r1, %r2, %r3, %r4}}, [%p0];"
    with pytest.raises(TilusError, match="a global access is out of bounds"):
        launch(module(body, 1), [source], 1)


@pytest.mark.parametrize("used", [True, False])
def test_global_scratch(used: bool):
    pragma = '.pragma "used_bytes_mask 255";' if used else ""
    body = f"""mov.u32 %r1, 7; st.global.u32 [%p0], %r1; st.global.u32 [%p0+4], %r1;
        {pragma} ld.global.v4.u32 {{%r1, %r2, %r3, %r4}}, [%p0];"""
    memory = GlobalMemory()
    address = memory.add("scratch", np.zeros(16, np.uint8), written=False)
    memory.load()
    kernel = parse_ptx(module(body, 1))
    if used:
        execute(kernel, [("u64", address)], memory, (1, 1, 1), 1, 0)
        return
    with pytest.raises(TilusError, match="global memory is read that was never written"):
        execute(kernel, [("u64", address)], memory, (1, 1, 1), 1, 0)


def test_what_nvrtc_makes_of_12_bytes():
    source = """struct alignas(16) V { int a, b, c; };
        extern "C" __global__ void k(int* out) { __shared__ V s[8]; int t = threadIdx.x;
            if (t < 24) ((int*)s)[t / 3 * 4 + t % 3] = t; __syncthreads();
            V v = s[t % 8]; out[t] = v.a + 100 * v.b + 10000 * v.c; }"""
    first = np.arange(32) % 8 * 3
    np.testing.assert_array_equal(run(source)[:32], first + 100 * (first + 1) + 10000 * (first + 2))
