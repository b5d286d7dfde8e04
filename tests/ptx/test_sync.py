"""Barriers that reduce, and mbarrier objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ptx.kernels import apply
from tests.ptx.test_spaces import run
from tilus.errors import TilusError

Array = np.ndarray[Any, Any]


@pytest.mark.parametrize("held", ["none", "one", "all"])
def test_reducing_barriers(held: str):
    """Warps arrive one after the other, from different branches."""
    value = {"none": np.zeros(96), "one": np.eye(96)[40], "all": np.ones(96)}[held]
    source = """setp.ne.u32 %q0, {0}, 0; setp.ge.u32 %q1, %i, 32; mov.u32 %r9, 0;
        $again: setp.ge.u32 %q2, %r9, %i; add.u32 %r9, %r9, 32; @!%q2 bra $again;
        bar.red.popc.u32 %r1, 0, %q0; bar.red.and.pred %q3, 0, %q0;
        barrier.cta.red.or.pred %q0, 1, 96, %q0;
        selp.u32 %r2, 256, 0, %q3; selp.u32 %r3, 512, 0, %q0;
        or.b32 {out}, %r1, %r2; or.b32 {out}, {out}, %r3;"""
    got = apply(source, [value.astype(np.uint32)], np.uint32)
    count = int(value.sum())
    assert (got == (count | 256 * (count == 96) | 512 * (count > 0))).all()


def test_counting_over_a_block():
    source = """extern "C" __global__ void k(int* out) { int t = threadIdx.x;
        int a = __syncthreads_count(t % 3 == 0);
        if (t < 40) a += 1000 * __syncthreads_or(t == 5); else a += 2000 * __syncthreads_or(0);
        out[t] = a; }"""
    got = run(source, threads=64)
    assert got.tolist() == [22 + 1000] * 40 + [22 + 2000] * 24


def test_barriers_of_some_threads():
    source = """extern "C" __global__ void k(int* out) { int t = threadIdx.x; __shared__ int s[64];
        if (t < 32) { s[t] = t; asm volatile("barrier.sync.aligned 3, 32;" ::: "memory");
            out[t] = s[31 - t]; } }"""
    np.testing.assert_array_equal(run(source, threads=64)[:32], 31 - np.arange(32))


# ---- mbarrier -----------------------------------------------------------------------------------

HEAD = r"""
__device__ unsigned at(void* p) { return (unsigned)__cvta_generic_to_shared(p); }
#define INIT(b, n) asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" \
    :: "r"(at(&b)), "r"(n) : "memory")
#define ARRIVE(b) asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(at(&b)) : "memory")
#define WAIT(b, parity) asm volatile("{ .reg .pred P; LAB_WAIT: \n" \
    "mbarrier.try_wait.parity.shared::cta.b64 P, [%0], %1; @P bra DONE; bra LAB_WAIT; DONE: }" \
    :: "r"(at(&b)), "r"(parity) : "memory")
typedef unsigned long long Object;
extern "C" __global__ void k(int* out) { int t = threadIdx.x;
"""


def kernel(body: str) -> str:
    return f"{HEAD}{body}\n}}"


PIPELINE = """__shared__ Object full, empty; __shared__ int s[32];
    if (t == 0) { INIT(full, 32); INIT(empty, 32); }
    __syncthreads();
    for (int i = 0; i < 3; i++) {
        if (t < 32) { if (i) WAIT(empty, (i - 1) & 1); s[t] = 100 * i + t; ARRIVE(full); }
        else { WAIT(full, i & 1); out[t] = 1000 * out[t] + s[63 - t]; ARRIVE(empty); }
    }"""


def test_a_pipeline_of_phases():
    got = run(kernel(PIPELINE), threads=64)[32:]
    t = 31 - np.arange(32)
    np.testing.assert_array_equal(got, (t * 1000 + 100 + t) * 1000 + 200 + t)


def test_a_missing_wait_is_a_race():
    with pytest.raises(TilusError, match="race in shared memory: read after write"):
        run(kernel(PIPELINE.replace("WAIT(full, i & 1);", "")), threads=64)
    with pytest.raises(TilusError, match="race in shared memory: write after read"):
        run(kernel(PIPELINE.replace("if (i) WAIT(empty, (i - 1) & 1);", "")), threads=64)


def test_a_phase_that_never_ends_is_a_deadlock():
    body = PIPELINE.replace("INIT(full, 32)", "INIT(full, 33)")
    with pytest.raises(TilusError, match="deadlock"):
        run(kernel(body), threads=64)


def test_states_and_counts():
    body = """__shared__ Object b; if (t == 0) { INIT(b, 5);
        Object first, second; int done[4]; unsigned left;
        asm volatile("mbarrier.arrive.noComplete.shared::cta.b64 %0, [%1], 3;"
            : "=l"(first) : "r"(at(&b)) : "memory");
        asm volatile("mbarrier.pending_count.b64 %0, %1;" : "=r"(left) : "l"(first));
        out[0] = left;
        #define TEST(n, state) asm volatile("{ .reg .pred P; " \\
            "mbarrier.test_wait.shared::cta.b64 P, [%1], %2; selp.u32 %0, 1, 0, P; }" \\
            : "=r"(out[n]) : "r"(at(&b)), "l"(state) : "memory")
        TEST(1, first);
        asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%1], 2;"
            : "=l"(second) : "r"(at(&b)) : "memory");
        asm volatile("mbarrier.pending_count.b64 %0, %1;" : "=r"(left) : "l"(second));
        out[2] = left;
        TEST(3, second);
        asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%1], 4;"
            : "=l"(first) : "r"(at(&b)) : "memory");
        TEST(4, first);
        asm volatile("mbarrier.arrive_drop.shared::cta.b64 %0, [%1];"
            : "=l"(second) : "r"(at(&b)) : "memory");
        TEST(5, first);
        asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%1], 4;"
            : "=l"(first) : "r"(at(&b)) : "memory");
        TEST(6, first);
        asm volatile("mbarrier.inval.shared::cta.b64 [%0];" :: "r"(at(&b)) : "memory"); }"""
    # 5 expected: 3, then 2 arrive; 4, then one drops; then 4 are enough.
    assert run(kernel(body), threads=1)[:7].tolist() == [5, 0, 2, 1, 0, 1, 1]


def test_bytes_are_waited_for():
    body = """__shared__ Object b; if (t == 0) { INIT(b, 1);
        #define TEST(n) asm volatile("{ .reg .pred P; " \\
            "mbarrier.test_wait.parity.shared::cta.b64 P, [%1], 0; selp.u32 %0, 1, 0, P; }" \\
            : "=r"(out[n]) : "r"(at(&b)) : "memory")
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 96;"
            :: "r"(at(&b)) : "memory");
        TEST(0);
        asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], 32;"
            :: "r"(at(&b)) : "memory");
        asm volatile("mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%0], 64;"
            :: "r"(at(&b)) : "memory");
        TEST(1);
        asm volatile("mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%0], 64;"
            :: "r"(at(&b)) : "memory");
        TEST(2); }"""
    assert run(kernel(body), threads=1)[:3].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ("s[0] = 5; ARRIVE(s[0]);", "this is no mbarrier object"),
        ("INIT(s[0], 0);", "this number of arrivals is not possible"),
        ("INIT(s[0], 2); for (int i = 0; i < 2; i++) ARRIVE(s[0]); "
         'asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], 3;" :: "r"(at(s)) : "memory");',
         "more threads arrive"),
        ('INIT(s[0], 1); asm volatile("mbarrier.arrive.noComplete.shared::cta.b64 _, [%0], 1;" '
         ':: "r"(at(s)) : "memory");', "noComplete completes"),
    ],
)  # fmt: skip
def test_misuse_is_an_error(body: str, match: str):
    with pytest.raises(TilusError, match=match):
        run(kernel(f"__shared__ volatile Object v; Object* s = (Object*)&v; {body}"), threads=1)
