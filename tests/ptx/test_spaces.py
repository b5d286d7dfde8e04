"""State spaces as NVRTC uses them: local arrays, constants, structures, generic addresses."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from tests.ptx.kernels import apply, launch, module
from tilus.errors import TilusError
from tilus.ptx.launch import execute
from tilus.ptx.memory import GlobalMemory
from tilus.ptx.parse import parse_ptx
from tilus.runtime.nvrtc import compile_ptx

Array = np.ndarray[Any, Any]


def run(source: str, *params: Any, threads: int = 32, size: int = 64) -> Array:
    """Run the CUDA kernel k(int* out, ...) of one block; the int32 that it wrote."""
    out = np.zeros(size, np.int32)
    memory = GlobalMemory()
    address = memory.add("out", out.view(np.uint8))
    memory.load()
    kernel = parse_ptx(compile_ptx(source, "k", "sm_90a"))
    given: list[Any] = [("u64", address), *params]
    execute(kernel, given, memory, (1, 1, 1), threads, 0)
    memory.store()
    return out


def test_local_arrays_belong_to_their_thread():
    source = """extern "C" __global__ void k(int* out) {
        volatile int x[8]; short y[4];
        for (int i = 0; i < 8; i++) x[i] = i * 100 + threadIdx.x;
        for (int i = 0; i < 4; i++) y[i] = -x[i];
        out[threadIdx.x] = x[threadIdx.x % 8] + y[threadIdx.x % 4]; }"""
    thread = np.arange(32)
    np.testing.assert_array_equal(run(source)[:32], thread % 8 * 100 - thread % 4 * 100)


@pytest.mark.parametrize("index", [8, -1])
def test_local_memory_has_bounds(index: int):
    body = f"""{{{{ .local .align 4 .b8 array[32];
        mov.u64 %d1, array; mov.s32 %r2, {index}; mad.wide.s32 %d2, %r2, 4, %d1;
        st.local.u32 [%d2], %r2; mov.u32 {{out}}, 0; }}}}"""
    with pytest.raises(TilusError, match="a local access is out of bounds"):
        apply(body, [np.zeros(1, np.uint32)], np.uint32)


def test_constants_of_the_module():
    source = """__constant__ int table[4] = {1, -2, 3};
        __device__ const float weights[3] = {1.5f, 2.f, -1.f};
        __device__ unsigned char bytes[3] = {7, 255, 9};
        __device__ unsigned long long total;
        extern "C" __global__ void k(int* out) {
        int t = threadIdx.x;
        atomicAdd(&total, 1ull + bytes[t % 3]); __syncthreads();
        out[t] = table[t % 4] + int(weights[t % 3] * 2) * 10 + bytes[t % 3] * 1000;
        if (t == 0) out[40] = total; }"""
    got, thread = run(source), np.arange(32)
    table, weights = np.array([1, -2, 3, 0]), np.array([30, 40, -20])
    octets = np.array([7, 255, 9])
    wanted = table[thread % 4] + weights[thread % 3] + octets[thread % 3] * 1000
    np.testing.assert_array_equal(got[:32], wanted)
    assert got[40] == 32 + octets[thread % 3].sum()


STRUCTURE = """struct alignas(16) P { int a; long long b; float c[4]; unsigned char d; };
    extern "C" __global__ void k(int* out, P p, unsigned char small, short negative,
                                 const __grid_constant__ P q) {
    int t = threadIdx.x;
    out[t] = p.a + int(p.b) + int(p.c[t % 4]) + p.d + small + negative + int(q.c[t % 4]) + q.d; }"""


def test_structures_by_value():
    p = struct.pack("<i4xq4fB15x", 5, -70, 1.0, 2.0, 3.0, 4.0, 200)
    q = struct.pack("<i4xq4fB15x", 0, 0, 10.0, 20.0, 30.0, 40.0, 100)
    got = run(STRUCTURE, ("b8", p), ("u8", 255), ("s16", -3), ("b8", q))
    fixed = 5 - 70 + 200 + 255 - 3 + 100
    np.testing.assert_array_equal(got[:32], fixed + (np.arange(32) % 4 + 1) * 11)
    with pytest.raises(TilusError, match="the parameter k_param_1 has another size"):
        run(STRUCTURE, ("b8", p[:-1]), ("u8", 255), ("s16", -3), ("b8", q))


def test_parameters_have_bounds():
    text = module("ld.param.u64 %d1, [k_param_0+8];", 1)
    with pytest.raises(TilusError, match="a parameter access is out of bounds"):
        launch(text.replace("k_param_0+8", "k_param_0+16"), [np.zeros(1, np.uint32)], 1)


def test_generic_addresses_know_their_space():
    """Each lane of one instruction reads another space."""
    body = """{{ .local .align 4 .b8 mine[4]; .shared .align 4 .b8 ours[4];
        mov.u64 %d1, mine; st.local.u32 [%d1], 30; cvta.local.u64 %d1, %d1;
        mov.u64 %d2, ours; setp.eq.u32 %q0, %i, 0; @%q0 st.shared.u32 [%d2], 20;
        cvta.shared.u64 %d2, %d2; bar.sync 0;
        mad.wide.u32 %d3, %i, -4, %p0;
        setp.eq.u32 %q1, {0}, 1; setp.eq.u32 %q2, {0}, 2;
        @%q1 mov.u64 %d3, %d1; @%q2 mov.u64 %d3, %d2;
        isspacep.local %q3, %d3; isspacep.shared %q4, %d3; isspacep.global %q5, %d3;
        selp.u32 %r1, 100, 0, %q3; selp.u32 %r2, 200, 0, %q4; selp.u32 %r3, 400, 0, %q5;
        ld.u32 {out}, [%d3]; add.u32 {out}, {out}, %r1; add.u32 {out}, {out}, %r2;
        add.u32 {out}, {out}, %r3; }}"""
    body = body.replace("mad.wide.u32 %d3, %i, -4, %p0;", "mov.u64 %d3, %p0;")
    choice = np.array([0, 1, 2, 1, 0], np.uint32)
    assert apply(body, [choice], np.uint32).tolist() == [400, 130, 220, 130, 400]


def test_wide_vectors():
    source, target = np.arange(64, dtype=np.uint32), np.zeros(64, np.uint32)
    names = ", ".join(f"%r{n}" for n in range(8))
    body = f"""mad.wide.u32 %p0, %i, 32, %p0; mad.wide.u32 %p1, %i, 32, %p1;
        ld.global.L1::no_allocate.L2::256B.v8.b32 {{{names}}}, [%p0];
        createpolicy.fractional.L2::evict_last.b64 %d1, 1.0;
        st.global.L2::cache_hint.v8.b32 [%p1], {{{names}}}, %d1;"""
    launch(module(body, 2), [source, target], 8)
    np.testing.assert_array_equal(source, target)


def test_copies_may_ignore_their_source():
    body = """{{ .shared .align 16 .b8 tile[512]; mov.u32 %r1, tile; mad.lo.u32 %r1, %i, 4, %r1;
        setp.ge.u32 %q0, %i, 4;
        cp.async.ca.shared.global [%r1], [%p0], 4, %q0;
        cp.async.wait_all; ld.shared.u32 {out}, [%r1]; }}"""
    got = apply(body, [np.arange(5, 13, dtype=np.uint32)], np.uint32)
    assert got.tolist() == [5, 6, 7, 8, 0, 0, 0, 0]


HINTED_COPY = """{{ .shared .align 16 .b8 tile[512]; mov.u32 %r1, tile; mad.lo.u32 %r1, %i, 4, %r1;
    cvt.u64.u32 %d1, %i; mad.wide.u32 %d3, %i, 4, %p0; setp.ge.u32 %q0, %i, 4;
    POLICY
    cp.async.ca.shared.global.L2::cache_hint [%r1], [%d3], COUNT, %d2;
    cp.async.wait_all; ld.shared.u32 {out}, [%r1]; }}"""


@pytest.mark.parametrize(
    "policy",
    [
        "fractional.L2::evict_first.b64 %d2, 1.0",
        "fractional.L2::evict_last.L2::evict_unchanged.b64 %d2, 0.5",
        "fractional.L2::evict_normal.b64 %d2",
        "range.global.L2::evict_last.L2::evict_first.b64 %d2, [%p0], 64, 128",
        "cvt.L2.b64 %d2, %d1",
    ],
)
@pytest.mark.parametrize(
    ("count", "kept"), [("4", 8), ("4, 4", 8), ("4, %q0", 4)], ids=["size", "bytes", "predicate"]
)
def test_a_hint_means_nothing_to_what_is_copied(policy: str, count: str, kept: int):
    body = HINTED_COPY.replace("POLICY", f"createpolicy.{policy};").replace("COUNT", count)
    values = np.arange(5, 13, dtype=np.uint32)
    found = launched(body, values)
    assert [*values[:kept], *[0] * (8 - kept)] == found.tolist()


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("", "its register was never written"),
        ("mov.b64 %d2, 4;", "a cache hint is no policy of eviction"),
        ("createpolicy.partial.b64 %d2, 1.0;", "this form of createpolicy is not emulated"),
    ],
)
def test_a_hint_that_is_no_policy_is_an_error(policy: str, message: str):
    body = HINTED_COPY.replace("POLICY", policy).replace("COUNT", "4")
    with pytest.raises(TilusError, match=message):
        launched(body, np.arange(8, dtype=np.uint32))


def launched(body: str, values: np.ndarray) -> np.ndarray:
    """What 8 threads put out, whose %p0 is the address of `values`."""
    out = np.zeros(8, np.uint32)
    body = body.format(out="%r2") + "mad.wide.u32 %d4, %i, 4, %p1; st.global.u32 [%d4], %r2;"
    launch(module(body, 2), [values, out], 8)
    return out


def test_bulk_copies_name_themselves():
    body = "cp.async.bulk.commit_group; mov.u32 {out}, 0;"
    with pytest.raises(TilusError, match="this form of cp is not emulated"):
        apply(body, [np.zeros(1, np.uint32)], np.uint32)


def test_wide_arithmetic_of_nvrtc():
    """Division of 64 bits, double precision functions' parts, and integer intrinsics."""
    source = """extern "C" __global__ void k(int* out, long long a, long long b) {
        long long* wide = (long long*)out;
        wide[0] = a / b; wide[1] = a % b; wide[2] = __mul64hi(a, b);
        wide[3] = (unsigned long long)a / 10; wide[4] = __popcll(a) * 100 + __clzll(b);
        wide[5] = (long long)sqrt((double)b * b); wide[6] = __ffsll(a); wide[7] = __brevll(a);
        out[16] = __dp4a(int(a), int(b), 3); out[17] = __sad(int(a), int(b), 9u);
        out[18] = __byte_perm(int(a), int(b), 0x5410); out[19] = __mul24(int(a), int(b)); }"""
    a, b = -(2**62) + 12345, 98765
    got = run(source, ("s64", a), ("s64", b), threads=1)
    wide, unsigned = got[:16].view(np.int64).tolist(), a % 2**64
    quotient = -(-a // b)
    assert wide[:4] == [quotient, a - quotient * b, a * b >> 64, unsigned // 10]
    assert wide[4] == bin(unsigned).count("1") * 100 + 64 - b.bit_length()
    assert wide[5:7] == [b, (unsigned & -unsigned).bit_length()]
    assert wide[7] % 2**64 == int(f"{unsigned:064b}"[::-1], 2)
    low = (a & 0xFFFF) | (b & 0xFFFF) << 16
    assert int(got[18]) % 2**32 == low
