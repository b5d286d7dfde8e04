"""The machine: values that nobody wrote, masks of warps, waves of blocks, special registers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ptx.kernels import launch, module
from tilus import TilusError
from tilus.ptx import launch as launching
from tilus.ptx.launch import execute
from tilus.ptx.memory import GlobalMemory
from tilus.ptx.parse import parse_ptx

Array = np.ndarray[Any, Any]
STORE = "mad.wide.u32 %p0, %i, 4, %p0; st.global.b32 [%p0], %r1;"


def result(body: str, threads: int = 32) -> Array:
    """What `body` leaves in %r1 of every thread."""
    out = np.zeros(threads, np.uint32)
    launch(module(f"{body}\n{STORE}", 1), [out], threads)
    return out


# ---- values that nobody wrote -------------------------------------------------------------------

UNDEFINED = "an undefined value is used"


def test_an_undefined_value_is_not_stored():
    with pytest.raises(TilusError, match=UNDEFINED):
        result("")


def test_an_undefined_value_may_be_moved_but_not_used():
    result("mov.u32 %r2, %r3; mov.u32 %r1, 7;")
    with pytest.raises(TilusError, match=UNDEFINED):
        result("mov.u32 %r2, %r3; add.u32 %r1, %r2, 1;")


def test_a_value_is_undefined_in_the_threads_that_skip_its_definition():
    body = "setp.lt.u32 %q1, %i, {}; @%q1 mov.u32 %r1, 5;"
    assert (result(body.format(32)) == 5).all()
    with pytest.raises(TilusError, match=UNDEFINED) as info:
        result(body.format(31))
    assert info.value.found == "%r1 of thread 31 in st.global.b32 [%p0], %r1"


def test_a_value_defined_on_either_path_is_defined():
    body = "setp.lt.u32 %q1, %i, 7; @%q1 mov.u32 %r1, 5; @!%q1 mov.u32 %r1, 6;"
    np.testing.assert_array_equal(result(body), np.where(np.arange(32) < 7, 5, 6))


def test_a_register_of_which_a_part_is_defined_may_be_stored():
    """The compiler leaves the half undefined that nobody will see; not both."""
    body = "mov.u32 %r2, 7; mov.b64 %d1, {%r2, %r3}; cvt.u32.u64 %r1, %d1;"
    assert (result(body) == 7).all()
    with pytest.raises(TilusError, match=UNDEFINED):
        result("mov.b64 %d1, {%r2, %r3}; cvt.u32.u64 %r1, %d1;")


def test_an_undefined_value_that_is_overwritten_is_forgotten():
    assert (result("add.u32 %r1, %r2, 1; mov.u32 %r1, 3;") == 3).all()


@pytest.mark.parametrize(
    "use",
    [
        "setp.eq.u32 %q1, %r2, 0; mov.u32 %r1, 0;",
        "@%q3 mov.u32 %r1, 0;",
        "mov.u32 %r1, 0; @%q3 bra done; mov.u32 %r1, 1;\ndone:",
        "mul.wide.u32 %d1, %r2, 0; add.u64 %d2, %d1, %p0; ld.global.b32 %r1, [%d2];",
        "bar.sync %r2; mov.u32 %r1, 0;",
        "shfl.sync.idx.b32 %r1, %r2, 0, 31, -1;",
        "mov.u32 %r1, 0; mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%f0, %f1, %f2, %f3}, {%r1, %r1, %r1, %r1}, {%r1, %r1}, {%f4, %f5, %f6, %f7};",
    ],
)
def test_an_undefined_value_does_not_decide(use: str):
    with pytest.raises(TilusError, match=UNDEFINED):
        result(use)


def test_scratch_memory_is_written_before_it_is_read():
    text = module(
        "mad.wide.u32 %p0, %i, 4, %p0; FILL ld.global.b32 %r1, [%p0];\n"
        "mad.wide.u32 %p1, %i, 4, %p1; st.global.b32 [%p1], %r1;",
        2,
    )

    def run(fill: str) -> Array:
        memory, out = GlobalMemory(), np.zeros(32, np.uint32)
        scratch = memory.add("scratch", np.zeros(128, np.uint8), written=False)
        params = [("u64", scratch), ("u64", memory.add("out", out.view(np.uint8)))]
        memory.load()
        execute(parse_ptx(text.replace("FILL", fill)), params, memory, (1, 1, 1), 32, 0)
        memory.store()
        return out

    np.testing.assert_array_equal(run("st.global.b32 [%p0], %i;"), np.arange(32))
    with pytest.raises(TilusError, match="global memory is read that was never written") as info:
        run("")
    assert info.value.found == "byte 0 of scratch (128 bytes)"


# ---- masks --------------------------------------------------------------------------------------


def shuffled(mask: str, guard: str = "") -> Array:
    body = f"setp.lt.u32 %q1, %i, 16; mov.u32 %r1, 99;\n{guard} shfl.sync.idx.b32 %r1, %i, 3, 31,"
    return result(f"{body} {mask};")


def test_a_mask_names_those_who_execute():
    assert (shuffled("-1") == 3).all()
    half = shuffled("0x0000ffff", "@%q1")
    assert (half[:16] == 3).all() and (half[16:] == 99).all()


@pytest.mark.parametrize(
    ("mask", "guard", "message"),
    [
        ("0x0000ffff", "", "a lane that is not in it executes it"),
        ("-1", "@%q1", "lanes that it names are not here"),
        ("%i", "", "a lane that is not in it executes it"),
    ],
)
def test_illegal_masks(mask: str, guard: str, message: str):
    with pytest.raises(TilusError, match=f"shfl.sync has an illegal mask: {message}"):
        shuffled(mask, guard)


def test_lanes_that_have_ended_may_be_named():
    body = f"setp.ge.u32 %q1, %i, 16; @%q1 bra end;\nshfl.sync.idx.b32 %r1, %i, 3, 31, -1;\n{STORE}"
    out = np.zeros(32, np.uint32)
    launch(module(f"bra begin;\nend: ret;\nbegin: {body}", 1), [out], 32)
    np.testing.assert_array_equal(out, np.where(np.arange(32) < 16, 3, 0))


# ---- waves --------------------------------------------------------------------------------------

BLOCKS = """mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ctaid.y; mov.u32 %r4, %nctaid.x;
mad.lo.u32 %r2, %r3, %r4, %r2; mov.u32 %r5, %ntid.x; mad.lo.u32 %r6, %r2, %r5, %i;
mad.wide.u32 %p0, %r6, 4, %p0; st.global.b32 [%p0], %r2;"""


@pytest.mark.parametrize("sms", [1, 132])
def test_every_block_of_a_grid_runs_once(monkeypatch: pytest.MonkeyPatch, sms: int):
    """On one SM, 64 threads and 100 KB: two blocks a wave."""
    monkeypatch.setattr(launching, "SMS", sms)
    out, memory = np.zeros(7 * 3 * 64, np.uint32), GlobalMemory()
    params = [("u64", memory.add("out", out.view(np.uint8)))]
    memory.load()
    execute(parse_ptx(module(BLOCKS, 1)), params, memory, (7, 3, 1), 64, 100 << 10)
    memory.store()
    np.testing.assert_array_equal(out, np.repeat(np.arange(21), 64))


def test_waves_have_room_for_local_memory(monkeypatch: pytest.MonkeyPatch):
    """64 threads of 4 KB, and a little for registers, in 1 MB: three blocks a wave."""
    sizes: list[int] = []

    class Counted(launching.Machine):
        def run(self) -> None:
            sizes.append(self.count // self.threads)
            super().run()

    monkeypatch.setattr(launching, "THREAD_BYTES", 1 << 20)
    monkeypatch.setattr(launching, "Machine", Counted)
    memory = GlobalMemory()
    memory.load()
    kernel = parse_ptx(module("", 0, ".local .align 4 .b8 array[4096];"))
    execute(kernel, [], memory, (7, 1, 1), 64, 0)
    assert sizes == [3, 3, 1]


def test_an_empty_grid_runs_nothing():
    memory = GlobalMemory()
    memory.load()
    execute(parse_ptx(module("trap;", 0)), [], memory, (0, 1, 1), 32, 0)


# ---- special registers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("%laneid", lambda t: t % 32),
        ("%warpid", lambda t: t // 32),
        ("%lanemask_lt", lambda t: (1 << t % 32) - 1),
        ("%lanemask_ge", lambda t: (1 << 32) - (1 << t % 32)),
        ("%nsmid", lambda t: 132 + 0 * t),
    ],
)
def test_special_registers(name: str, expected: Any):
    want = expected(np.arange(64, dtype=np.int64)).astype(np.uint32)
    np.testing.assert_array_equal(result(f"mov.u32 %r1, {name};", 64), want)


def test_the_clock_goes_on():
    body = "mov.u32 %r2, %clock;\nbra next;\nnext: mov.u32 %r3, %clock; sub.u32 %r1, %r3, %r2;"
    assert (result(body) > 0).all()


def test_an_unknown_special_register_names_itself():
    with pytest.raises(TilusError, match="this special register is not emulated"):
        result("mov.u32 %r1, %envreg3;")


# ---- deadlocks ----------------------------------------------------------------------------------


def test_a_deadlock_names_who_waits_where():
    body = "setp.lt.u32 %q1, %i, 32; @%q1 bra one;\nbar.sync 2;\nbra done;\none: bar.sync 1;\ndone:"
    with pytest.raises(TilusError, match="deadlock: not every thread") as info:
        result(f"{body} mov.u32 %r1, 0;", 64)
    found = info.value.found or ""
    assert "32 threads (warp 0 of block 0) wait at barrier 1" in found or "warp 1" in found
    assert "at barrier 2" in found and "at barrier 1" in found
