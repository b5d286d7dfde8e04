"""What the emulator does not let pass: small kernels with one fault each, and sound twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilus import TilusError
from tilus.ptx.launch import execute
from tilus.ptx.memory import GlobalMemory
from tilus.ptx.parse import parse_ptx
from tilus.runtime.nvrtc import compile_ptx

Array = np.ndarray[Any, Any]

HEAD = """
#define SHARED(type, name) extern __shared__ __align__(1024) type name[]
#define COPY(to, from) asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" \\
    :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from) : "memory")
#define COMMIT() asm volatile("cp.async.commit_group;" ::: "memory")
#define WAIT(n) asm volatile("cp.async.wait_group %0;" :: "n"(n) : "memory")
#define MEET(number, threads) \\
    asm volatile("bar.sync %0, %1;" :: "r"(number), "n"(threads) : "memory")
extern "C" __global__ void k(int* out, const int* in) {
    const int t = threadIdx.x, b = blockIdx.x;
#line 1 "kernel.py"
"""


def run(body: str, threads: int = 64, blocks: int = 1, size: int = 256) -> Array:
    """Run CUDA statements on `out` and `in`, `size` ints each; `in` counts up from 0."""
    out, origin = np.zeros(size, np.int32), np.arange(size, dtype=np.int32)
    memory = GlobalMemory()
    params = [
        ("u64", memory.add(name, data.view(np.uint8)))
        for name, data in (("out", out), ("in", origin))
    ]
    memory.load()
    kernel = parse_ptx(compile_ptx(f"{HEAD}{body}\n}}", "k", "sm_90a"))
    execute(kernel, params, memory, (blocks, 1, 1), threads, 4096)
    memory.store()
    return out


def check_fault(body: str, message: str, line: int, threads: int = 64, blocks: int = 1) -> None:
    """`body` is stopped with `message` at `line` of its text, which counts from 1."""
    with pytest.raises(TilusError, match=message) as info:
        run(body, threads, blocks)
    location = info.value.location
    assert location is not None and (location.file.split("/")[-1], location.line) == (
        "kernel.py",
        line,
    )


# ---- races in shared memory ---------------------------------------------------------------------

RACES = {  # a kernel that is sound, what to remove, the race, its line
    "neighbour": (
        "SHARED(int, s); s[t] = in[t];\n__syncthreads();\nout[t] = s[t ^ 33];",
        "__syncthreads();",
        ("read after write", 3),
    ),
    "overwritten": (
        "SHARED(int, s); s[t] = in[t]; __syncthreads();\nint x = s[t ^ 33];\n"
        "MEET(0, 128);\ns[t] = x + 1; __syncthreads(); out[t] = s[t ^ 33];",
        "MEET(0, 128);",
        ("write after read", 4),
    ),
    "broadcast": (
        "SHARED(volatile int, s); if (t == 0) s[0] = 7; __syncthreads();\nout[t] = s[0];\n"
        "MEET(0, 128);\nif (t == 127) s[0] = 8;",
        "MEET(0, 128);",
        ("write after read", 4),
    ),
    "twice": (
        "SHARED(volatile int, s); s[t] = in[t];\n__syncthreads();\ns[t ^ 1] = t;\n"
        "__syncthreads(); out[t] = s[t];",
        "__syncthreads();",
        ("write after write", 3),
    ),
    "bytes": (  # the bytes of one word belong to different threads
        "SHARED(volatile unsigned char, s); s[t] = in[t];\n__syncthreads();\nout[t] = s[t ^ 1];",
        "__syncthreads();",
        ("read after write", 3),
    ),
    "within a warp": (
        "SHARED(int, s); s[t] = in[t];\n__syncwarp();\nout[t] = s[t ^ 5];",
        "__syncwarp();",
        ("read after write", 3),
    ),
    "group": (
        "SHARED(int, s); s[t] = in[t];\nMEET(1 + t / 64, 64);\nout[t] = s[t ^ 33];",
        "MEET(1 + t / 64, 64);",
        ("read after write", 3),
    ),
    "copy": (
        "SHARED(int, s); COPY(s + t, in + t); COMMIT(); WAIT(0);\n__syncthreads();\n"
        "out[t] = s[t ^ 33];",
        "__syncthreads();",
        ("read after write", 3),
    ),
    "copy into what is read": (
        "SHARED(int, s); s[t] = in[t]; __syncthreads(); out[t] = s[t ^ 33];\n"
        "MEET(0, 128);\nCOPY(s + t, in + t); COMMIT(); WAIT(0);",
        "MEET(0, 128);",
        ("write after read", 3),
    ),
    "atomics": (
        "SHARED(int, s); if (t == 0) s[0] = 0; __syncthreads();\natomicAdd(s, t);\n"
        "MEET(0, 128);\nout[t] = s[0];",
        "MEET(0, 128);",
        ("read after write", 4),
    ),
}


@pytest.mark.parametrize("name", list(RACES))
def test_a_removed_barrier_is_a_race(name: str):
    body, barrier, (kind, line) = RACES[name]
    assert barrier in body
    run(body, 128)
    check_fault(body.replace(barrier, "", 1), f"race in shared memory: {kind}", line, 128)


def test_a_barrier_of_one_group_does_not_order_another():
    check_fault(
        "SHARED(int, s); s[t] = in[t];\nMEET(1 + t / 64, 64);\nout[t] = s[t ^ 64];",
        "read after write",
        3,
        128,
    )


def test_the_sync_of_a_warp_does_not_order_another():
    check_fault(
        "SHARED(int, s); s[t] = in[t];\n__syncwarp();\nout[t] = s[t ^ 32];", "read after write", 3
    )


def test_a_barrier_orders_only_what_came_before_it():
    body = """SHARED(int, s); s[t] = 0; __syncwarp();
s[t] = in[t]; asm volatile("" ::: "memory");
out[t] = s[t ^ 5];"""
    check_fault(body, "read after write", 3)


def test_every_byte_of_a_vector_belongs_to_its_thread():
    """A check by bytes follows one by vectors."""
    body = """SHARED(int4, s); s[t] = make_int4(t, t, t, t); asm volatile("" ::: "memory");
out[t] = ((unsigned char*)s)[(t ^ {}) * 16 + 4];"""
    np.testing.assert_array_equal(run(body.format(0))[:64], np.arange(64))
    check_fault(body.format(1), "read after write", 2)


def test_groups_within_groups_are_ordered_by_either_barrier():
    """What the whole group saw stays ordered after half of it met again."""
    body = "SHARED(int, s); s[t] = in[t]; MEET(1, 128); MEET(2 + t / 64, 64);\nout[t] = s[t ^ 64];"
    np.testing.assert_array_equal(run(body, 128)[:128], np.arange(128) ^ 64)


def test_a_race_names_its_threads():
    with pytest.raises(TilusError) as info:
        run("SHARED(int, s); s[t] = t; out[t] = s[63 - t];", blocks=2)
    error = info.value
    assert error.found == "thread 0 of block 0 reads byte 252; thread 63 wrote it"
    assert error.hint is not None


def test_the_readers_of_a_byte_are_all_remembered():
    """The writer read the byte last; that others did too must not be forgotten."""
    body = """SHARED(volatile int, s); if (t == 0) s[0] = 1; __syncthreads();
if (t < 32) out[t] = s[0];
if (t == 63) { out[t] = s[0];
s[0] = 2; }"""
    check_fault(body, "write after read", 4)


def test_threads_may_use_their_own_bytes():
    body = "SHARED(volatile int, s); s[t] = in[t]; s[t] = s[t] + 1; s[t] = s[t] + 1; out[t] = s[t];"
    np.testing.assert_array_equal(run(body)[:64], np.arange(64) + 2)


def test_threads_may_store_the_same_value_at_once():
    body = "SHARED(int, s); s[t / 2] = {}; __syncthreads(); out[t] = s[t / 2];"
    np.testing.assert_array_equal(run(body.format("t / 2"))[:64], np.arange(64) // 2)
    check_fault(body.format("t"), "race in shared memory: write after write", 1)


def test_atomics_may_meet():
    body = """SHARED(int, s); if (t < 2) s[t] = 0; __syncthreads();
atomicAdd(s + t % 2, t); atomicMax(s + t % 2, 1);
__syncthreads(); out[t] = s[t % 2];"""
    result = run(body)
    assert result[0] == np.arange(0, 64, 2).sum() and result[1] == np.arange(1, 64, 2).sum()


def test_an_atomic_does_not_order_a_store():
    check_fault(
        "SHARED(volatile int, s); s[t] = 0;\natomicAdd((int*)s + (t ^ 1), 1);", "write after", 2
    )


def test_all_who_updated_a_byte_are_remembered():
    """The last of them reads: the updates of the others may still come."""
    body = """SHARED(int, s); if (t == 0) s[0] = 0; __syncthreads();
if (t < 32) atomicAdd(s, 1);
if (t == 63) { atomicAdd(s, 1);
out[0] = *(volatile int*)s; }"""
    check_fault(body, "read after write", 4)


def test_blocks_have_their_own_shared_memory():
    body = "SHARED(int, s); s[t] = b; __syncthreads(); out[b * 64 + t] = s[t ^ 1];"
    np.testing.assert_array_equal(run(body, blocks=4), np.repeat(np.arange(4), 64))


# ---- other uses of shared memory ----------------------------------------------------------------


def test_unwritten_shared_memory_is_not_read():
    check_fault(
        "SHARED(int, s); if (t < 63) s[t] = t; __syncthreads();\nout[t] = s[t];", "never", 2
    )


PIPELINE = """SHARED(int, s); COPY(s + t, in + t); COMMIT(); COPY(s + t + 64, in + t); COMMIT();
WAIT(1); __syncthreads();
out[t] = s[t ^ 1];
WAIT(0); __syncthreads();
out[64 + t] = s[64 + t];"""


def test_copies_are_waited_for():
    result = run(PIPELINE)
    np.testing.assert_array_equal(result[:64], np.arange(64) ^ 1)
    np.testing.assert_array_equal(result[64:128], np.arange(64))
    check_fault(PIPELINE.replace("WAIT(1);", ""), "in flight", 3)
    check_fault(PIPELINE.replace("WAIT(0);", ""), "in flight", 5)
    check_fault(PIPELINE.replace("WAIT(1);", "WAIT(2);"), "in flight", 3)


def test_memory_is_not_written_under_a_copy():
    body = "SHARED(volatile int, s);\nCOPY((int*)s + t, in + t); COMMIT();\ns[t] = 1;\nWAIT(0);"
    check_fault(body, "written while an asynchronous copy", 3)


def test_two_copies_do_not_meet():
    body = "SHARED(int, s); COPY(s + t, in + t);\nCOPY(s + t, in + 1 + t); COMMIT(); WAIT(0);"
    check_fault(body, "written while an asynchronous copy", 2)


# ---- bounds and alignment -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("out[t * 5] = in[t];", "a global access is out of bounds"),
        ("out[t] = in[t - 1];", "a global access is out of bounds"),
        ("out[t] = *(const int*)((const char*)in + t);", "a global access is not aligned"),
        ("*(int2*)(out + t) = make_int2(1, 2);", "a global access is not aligned"),
        ("SHARED(int, s); s[t + 1000] = 1;", "a shared access is out of bounds"),
        ("SHARED(int, s); *(volatile int*)((char*)s + t * 5) = 1;", "a shared access is not al"),
        ("SHARED(int, s); COPY(s + t, in + 250 + t);", "a global access is out of bounds"),
        ("SHARED(int, s); COPY((char*)s + t, in + t);", "a shared access is not aligned"),
    ],
)
def test_accesses_are_within_bounds_and_aligned(body: str, message: str):
    check_fault(f"\n{body}", message, 2)


# ---- threads that part --------------------------------------------------------------------------


def test_a_divergent_barrier_is_a_deadlock():
    check_fault(
        "if (t < 32) {\nMEET(0, 64); }\nelse {\nMEET(1, 64); }\nout[t] = 1;", "not every thread", 2
    )


def test_a_thread_that_has_left_is_not_waited_for():
    body = "if (t >= 32) return;\n__syncthreads(); out[t] = 1;"
    assert run(body).sum() == 32


MMA = """unsigned d[4] = {0, 0, 0, 0};
asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
    "{%4, %4, %4, %4}, {%4, %4}, {%0, %1, %2, %3};"
    : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(0x3c003c00));
out[t] = d[0];"""


def test_a_warp_is_whole_at_an_mma():
    assert (run(MMA)[:64].view(np.float32) == 16).all()
    with pytest.raises(TilusError, match=r"mma\.sync needs every thread of a warp"):
        run(f"if (t % 32 < 31) {{ {MMA} }}")


# ---- blocks that wait for each other ------------------------------------------------------------

LOCK = """if (t == 0) {
while (atomicCAS(out, 0, 1) != 0);
out[1] = *(volatile int*)(out + 1) + 1; __threadfence();
RELEASE }"""


def test_a_lock_between_blocks_progresses():
    assert run(LOCK.replace("RELEASE", "atomicExch(out, 0);"), blocks=8)[1] == 8


def test_a_lock_that_is_not_released_is_a_deadlock():
    check_fault(LOCK.replace("RELEASE", ""), "deadlock: every thread waits", 2, blocks=3)


def test_blocks_that_wait_for_each_other_are_a_deadlock():
    body = """if (t == 0) {
while (*(volatile int*)(out + (b ^ 1)) == 0);
*(volatile int*)(out + b) = 1; }
__syncthreads();"""
    check_fault(body, "deadlock: every thread waits for a value", 2, blocks=2)


def test_a_chain_of_blocks_progresses():
    """The first block in order is the last to go on."""
    body = """if (t == 0) {
if (b < 15) while (*(volatile int*)(out + b + 1) == 0);
for (int i = 0; i < 100; i++) asm volatile("" :: "r"(i));
*(volatile int*)(out + b) = 1; }"""
    assert run(body, blocks=16).sum() == 16
