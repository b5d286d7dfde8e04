"""What accesses cost: sectors of global memory and wavefronts of shared memory, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ptx.kernels import launch, module
from tilus.ptx.counters import Counters, Traffic

SHARED = ".shared .align 16 .b8 s[8192];"
LANE = "and.b32 %r1, %i, 31;"


def counted(body: str, threads: int = 32, declarations: str = "") -> Counters:
    """The cost of a kernel that may use 8192 bytes at %p0."""
    counters = Counters()
    launch(module(body, 1, declarations), [np.zeros(8192, np.uint8)], threads, counters)
    return counters


def global_load(address: str, kind: str = "b32", registers: str = "%r9") -> Traffic:
    body = f"{address}\ncvt.u64.u32 %d1, %r2;\nadd.u64 %p0, %p0, %d1;\n"
    return counted(f"{body}ld.global.{kind} {registers}, [%p0];").global_memory


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("mul.lo.u32 %r2, %i, 4;", Traffic(1, 128, 4, 4)),  # neighbours
        ("mul.lo.u32 %r2, %i, 8;", Traffic(1, 128, 8, 4)),  # every other word
        ("mul.lo.u32 %r2, %i, 128;", Traffic(1, 128, 32, 4)),  # a sector each
        ("mov.u32 %r2, 64;", Traffic(1, 4, 1, 1)),  # all the same word
        ("mad.lo.u32 %r2, %i, 4, 16;", Traffic(1, 128, 5, 4)),  # from the middle of a sector
    ],
)
def test_sectors_of_words(address: str, expected: Traffic):
    assert expected == global_load(address)


def test_sectors_of_vectors():
    vector = "{%r9, %r10, %r11, %r12}"
    load = global_load("mul.lo.u32 %r2, %i, 16;", "v4.b32", vector)
    assert Traffic(1, 512, 16, 16) == load and load.used == 1.0


def test_a_request_is_that_of_a_warp_and_of_the_lanes_that_execute():
    body = "mad.wide.u32 %p0, %i, 4, %p0;\nsetp.lt.u32 %q1, %i, 40;\n@%q1 st.global.b32 [%p0], %i;"
    assert Traffic(2, 160, 5, 5) == counted(body, threads=96).global_memory


def shared_store(address: str, kind: str = "b32", registers: str = "%r3") -> Traffic:
    body = "".join(f"mov.u32 %r{n}, 0;\n" for n in range(3, 7))
    body += f"mov.u32 %r0, s;\n{address}\nadd.u32 %r2, %r2, %r0;\nst.shared.{kind} [%r2], "
    return counted(f"{body}{registers};", declarations=SHARED).shared


@pytest.mark.parametrize(
    ("address", "wavefronts"),
    [
        ("mul.lo.u32 %r2, %i, 4;", 1),
        ("mul.lo.u32 %r2, %i, 8;", 2),
        ("mul.lo.u32 %r2, %i, 12;", 1),  # an odd stride meets every bank
        ("mul.lo.u32 %r2, %i, 128;", 32),  # one bank
        ("mul.lo.u32 %r2, %i, 0;", 1),  # one word
        (f"{LANE} shr.u32 %r2, %r1, 2; mul.lo.u32 %r2, %r2, 128;", 8),  # 8 words of one bank
    ],
)
def test_wavefronts_of_words(address: str, wavefronts: int):
    traffic = shared_store(address)
    assert (1, wavefronts, wavefronts - 1) == (traffic.requests, traffic.units, traffic.conflicts)


@pytest.mark.parametrize(
    ("kind", "registers", "stride", "wavefronts", "needed"),
    [
        ("v2.b32", "{%r3, %r4}", 8, 2, 2),
        ("v4.b32", "{%r3, %r4, %r5, %r6}", 16, 4, 4),
        ("v4.b32", "{%r3, %r4, %r5, %r6}", 32, 8, 4),
        ("v4.b32", "{%r3, %r4, %r5, %r6}", 80, 4, 4),
        ("v4.b32", "{%r3, %r4, %r5, %r6}", 128, 32, 4),
        ("b16", "%h1", 2, 1, 1),  # two lanes share a word
    ],
)
def test_wavefronts_of_vectors(
    kind: str, registers: str, stride: int, wavefronts: int, needed: int
):
    address = f"mov.b16 %h1, 0; mul.lo.u32 %r2, %i, {stride};"
    traffic = shared_store(address, kind, registers)
    assert (wavefronts, needed) == (traffic.units, traffic.needed)


def test_rows_of_ldmatrix():
    """Eight rows of 16 bytes are served at once where their banks differ."""
    fill = "mov.u32 %r0, s; mad.lo.u32 %r2, %i, 128, %r0; mov.u32 %r3, 0;\n" + "".join(
        f"st.shared.v4.b32 [%r2+{16 * n}], {{%r3, %r3, %r3, %r3}};\n" for n in range(8)
    )
    load = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r5, %r6, %r7}, [%r1];"
    plain = "mad.lo.u32 %r1, %i, 128, %r0;"
    swizzled = "and.b32 %r8, %i, 7; shl.b32 %r8, %r8, 4; xor.b32 %r1, %r1, %r8;"

    def conflicts(address: str) -> int:
        counters = counted(f"{fill}bar.warp.sync -1;\n{address}\n{load}", declarations=SHARED)
        (number,) = counters.where(lambda op: op.opcode == "ldmatrix")
        assert counters.shared_traffic[number].requests == 1
        return counters.shared_traffic[number].conflicts

    assert (28, 0) == (conflicts(plain), conflicts(plain + swizzled))


def test_instructions_are_counted_once_a_warp():
    """A loop of three rounds in two warps; then one lane alone."""
    body = """mov.u32 %r1, 0;
again: add.u32 %r1, %r1, 1;
setp.lt.u32 %q1, %r1, 3;
@%q1 bra again;
setp.ne.u32 %q2, %i, 5;
@%q2 bra done;
add.f32 %f1, 0f3F800000, 0f3F800000;
done:"""
    counters = counted(body, threads=64)
    assert counters.total("integer arithmetic") == 6
    assert counters.total("compare") == 8 and counters.total("control") == 6 + 2 + 2
    assert counters.total("float arithmetic") == 1
    assert counters.per_item(64) == counters.total() * 32 / 64


def test_counts_of_launches_add_up():
    text, data = module("mov.u32 %r1, 0;", 1), [np.zeros(16, np.uint8)]
    counters, once = Counters(), Counters()
    for target in (once, counters, counters):
        launch(text, data, 32, target)
    assert counters.total() == 2 * once.total() > 0
