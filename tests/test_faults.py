"""Faults planted in the generated CUDA: each is caught, at the line of Python whose code is wrong.

The emulator stops at what no program may do. What computes wrong values is found by the first tile
that is not the interpreter's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from tests.kernels import EXAMPLES, example_launches
from tilus import TilusError
from tilus.runtime.trace import Difference, first_difference
from tilus.target import nvgpu_sm90a

DIFFERS = None  # instead of a message: a tile has other values


@dataclass(frozen=True)
class Fault:
    """In the code of `example`, the text `old` becomes `new` where it stands for the `nth` time."""

    example: str
    line: str  # of the example: its beginning
    old: str
    new: str
    message: str | None
    nth: int = 0

    def change(self, text: str) -> str:
        head, body = text.rsplit('extern "C"', 1)
        parts = body.split(self.old)
        assert len(parts) > self.nth + 1, f"{self.old} stands in the code {len(parts) - 1} times"
        left, right = (self.old.join(p) for p in (parts[: self.nth + 1], parts[self.nth + 1 :]))
        return f'{head}extern "C"{left}{self.new}{right}'

    @property
    def number(self) -> int:
        path = next(p for p in EXAMPLES if p.stem == self.example.split("/")[0])
        lines = path.read_text().split("\n")
        return 1 + next(n for n, text in enumerate(lines) if text.strip().startswith(self.line))


SHARED, PIPELINE, SPLIT = "05_shared_memory/0", "07_software_pipelining/0", "08_split_k/0"
SOFTMAX, QUANTIZED = "02_softmax/0", "09_quantized_matmul/1"
SYNC, WAIT, COMMIT = "__syncthreads();", "cp.async.wait_group 1;", "cp.async.commit_group;"
DOT = "acc = self.dot("

FAULTS = {
    # barriers and waits
    "sync before a load": Fault(SHARED, DOT, SYNC, "", "race in shared memory: read after write"),
    "sync after a load": Fault(
        SHARED, "self.store_shared(s_a", SYNC, "", "race in shared memory: write after read", 1
    ),
    "sync of half the block": Fault(
        SHARED, DOT, SYNC, 'if (tid < 64) asm volatile("bar.sync 1, 64;" ::: "memory");',
        "race in shared memory: read after write",
    ),
    "swapped barriers": Fault(
        SHARED, "self.sync()", SYNC,
        'if (tid < 64) asm("bar.sync 1, 128;"); else asm("bar.sync 2, 128;");',
        "deadlock: not every thread of a block reaches the barrier",
    ),
    "barrier of too few": Fault(
        SHARED, DOT, SYNC, 'asm volatile("bar.sync %0, 32;" :: "r"(1 + tid / 32));',
        "race in shared memory: read after write",
    ),
    "wait for too few groups": Fault(
        PIPELINE, "a = self.load_shared", WAIT, "cp.async.wait_group 2;", "in flight"
    ),
    "no wait": Fault(PIPELINE, "a = self.load_shared", WAIT, "", "in flight"),
    "no commit": Fault(PIPELINE, "a = self.load_shared", COMMIT, "", "in flight", 1),
    "sync of a pipeline": Fault(
        PIPELINE, "a = self.load_shared", SYNC, "", "race in shared memory: read after write"
    ),
    "no sync of a lock": Fault(SPLIT, "acc += self.load_global(partial", SYNC, "", DIFFERS),
    "no lock": Fault(
        SPLIT, "acc += self.load_global(partial", "wait_semaphore(semaphore, turn)", "(void)0",
        DIFFERS,
    ),
    "lock never released": Fault(
        SPLIT, "self.lock_semaphore", "release_semaphore(semaphore, turn + 1)",
        "release_semaphore(semaphore, turn)", "deadlock: every thread waits", 1,
    ),
    # stages
    "copy into the stage that is read": Fault(
        PIPELINE, "a = self.load_shared", "ahead % 3 * 1024", "step % 3 * 1024", "in flight",
    ),
    "stage too early": Fault(
        PIPELINE, "b = self.load_shared", "part_base_5 = step % 3", "part_base_5 = ahead % 3",
        "in flight",
    ),
    # swizzles and addresses in shared memory
    "swizzle of a store": Fault(
        SHARED, DOT, "s_a + swizzle<3, 2, 3>", "s_a + swizzle<3, 2, 4>", DIFFERS
    ),
    "swizzle of a load": Fault(
        SHARED, DOT, "s_b + swizzle<3, 3, 3>", "s_b + swizzle<3, 3, 4>", DIFFERS, 1
    ),
    "tensors overlap": Fault(
        SHARED, "self.store_shared(s_b", "arena + 2048", "arena + 1024",
        "race in shared memory: write after write",
    ),
    "beyond shared memory": Fault(
        SHARED, "self.store_shared(s_b", "arena + 2048", "arena + 4096",
        "a shared access is out of bounds",
    ),
    "a row of ldmatrix misaligned": Fault(
        SHARED, DOT, "t[i * 4], s_a + ", "t[i * 4], s_a + 8 + ", "a shared access is not aligned"
    ),
    # fragments
    "matrices not transposed": Fault(SHARED, DOT, "ldmatrix_x4_trans(", "ldmatrix_x4(", DIFFERS),
    "fragment of a": Fault(SHARED, DOT, "&t[(mi * 2 + 1) * 4]", "&t[mi * 2 * 4]", DIFFERS),
    "fragment of b": Fault(
        SHARED, DOT, "&t_1[(1 * 2 + ni) * 2]", "&t_1[(1 + ni * 2) * 2]", DIFFERS
    ),
    "accumulator": Fault(
        SHARED, DOT, "&t_2[(mi * 2 + ni) * 4]", "&t_2[(ni * 2 + mi) * 4]", DIFFERS
    ),
    "accumulator not zero": Fault(
        SHARED, "acc = self.register_tensor", "acc[i] = 0.0f;", "acc[i] = 1.0f;", DIFFERS
    ),
    "halves swapped": Fault(
        SHARED, "self.store_global(g_c",
        "(acc)[i * 2 + 0], reinterpret_cast<uint32_t*>(acc)[i * 2 + 1]",
        "(acc)[i * 2 + 1], reinterpret_cast<uint32_t*>(acc)[i * 2 + 0]", DIFFERS,
    ),
    # global memory
    "row bound off by one": Fault(
        SHARED, "a = self.load_global", "i_ + tid / 4 < m", "i_ + tid / 4 <= m",
        "a global access is out of bounds",
    ),
    "column bound off by a vector": Fault(
        SHARED, "a = self.load_global", "* 8 < 104", "* 8 < 112", "a global access is out of bounds"
    ),
    "misaligned vector": Fault(
        SHARED, "a = self.load_global", "uint4*>(g_a +", "uint4*>(g_a + 2 +",
        "a global access is not aligned",
    ),
    "row stride": Fault(
        SHARED, "a = self.load_global", "* 104ll", "* 105ll", "a global access is not aligned"
    ),
    "unmasked store": Fault(
        SHARED, "self.store_global(g_c", "i % 2 * 8) < m", "i % 2 * 8) < 64",
        "a global access is out of bounds",
    ),
    "unmasked copy": Fault(
        PIPELINE, "self.copy_async(g_a, s_a[stage]", "i_ + tid / 4 < m", "true",
        "a global access is out of bounds",
    ),
    "wrong columns copied": Fault(
        PIPELINE, "b = self.load_shared", "part_base_3) * 2, g_b +", "part_base_3) * 2, g_b - 16 +",
        DIFFERS,
    ),
    # warps
    "shuffle of another lane": Fault(
        SOFTMAX, "e = self.exp(", ", 16))", ", 8))", DIFFERS
    ),
    "mask of half a warp": Fault(
        SOFTMAX, "e = self.exp(", "0xffffffffu", "0x0000ffffu", "illegal mask"
    ),
    "a value left out of a sum": Fault(
        SOFTMAX, "self.store_global", "e[(i + 1)]", "e[i]", DIFFERS
    ),
    # unpacking of weights
    "prmt selector": Fault(QUANTIZED, DOT, "0x0u, 0x1010u", "0x0u, 0x1011u", DIFFERS),
    "mask of a code": Fault(QUANTIZED, DOT, "0xf0000fu", "0xf00007u", DIFFERS),
    "exponent of a code": Fault(QUANTIZED, DOT, "0x54806408u);", "0x54806808u);", DIFFERS),
    "scale of another column": Fault(QUANTIZED, DOT, "21520, 21520", "30258, 21520", DIFFERS),
    "bytes of another tile": Fault(
        QUANTIZED, "packed = self.load_global", "p * 2048", "p * 1024", DIFFERS
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted({fault.example for fault in FAULTS.values()}))
def test_sound_code_is_let_pass(name: str):
    launch = example_launches()[name]
    assert first_difference(launch.program, launch.before, nvgpu_sm90a) is None


def outcome(fault: Fault) -> Difference | TilusError | None:
    """What is found wrong with the code that has the fault."""
    launch = example_launches()[fault.example]
    try:
        return first_difference(launch.program, launch.before, nvgpu_sm90a, fault.change)
    except TilusError as error:
        return error


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught_at_its_line(name: str):
    fault = FAULTS[name]
    found = outcome(fault)
    assert isinstance(found, Difference if fault.message is None else TilusError), found
    assert re.search(fault.message or "elements differ", str(found))
    assert found.location is not None
    assert (fault.number, True) == (found.location.line, found.location.file.endswith(".py"))
