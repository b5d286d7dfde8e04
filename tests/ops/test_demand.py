"""Estimates before anything is compiled, against what is counted in machine code and memory."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

import tilus.runtime.build
import tilus.runtime.emulate
from benchmarks.static_counts import global_of
from benchmarks.static_kernels import stored_type
from tilus.dtypes import DataType, bfloat16, float16, float32
from tilus.ops import NF4, small_m
from tilus.ops.blobs import LANES, BlobFormat, pack_blobs
from tilus.ops.demand import demand
from tilus.ops.large_m import LargeMatmul
from tilus.ops.large_schedule import Schedule, schedules
from tilus.ops.lean import split_of
from tilus.ops.small_m import Epilogue, SmallMatmul
from tilus.runtime.compile import compile_program_for
from tilus.runtime.devices import H100, H200
from tilus.runtime.inspect import Inspection
from tilus.runtime.model import Demand, counted, predict
from tilus.runtime.profile import profile_program
from tilus.target import scope, target_from_name
from tilus.tensor import dtype_to_torch

EXTENT = 8192
LONG = 32768  # of k: a loop has turns, however many steps one unrolls
U4 = stored_type("u4")


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("TILUS_CACHE_DIR", str(tmp_path))


def blobs_of(dtype: DataType = U4, k: int = EXTENT, **changes) -> BlobFormat:
    blobs = BlobFormat(dtype, float16, EXTENT, k, 128, float16)
    return replace(blobs, **changes)


def middle(dtype: DataType) -> float:
    """The usual zero point."""
    return float(1 << dtype.nbits - 1) if dtype.kind == "uint" else 0.0


def inspected(script, m: int, arch: str) -> Inspection:
    blobs, target = script.blobs, target_from_name(arch)
    x = torch.empty(m, blobs.padded_k, dtype=dtype_to_torch(blobs.activation))
    y = torch.empty(m, blobs.n, dtype=x.dtype)
    with scope(target):
        program = script.program(m, x, torch.empty(16, dtype=torch.uint8), x, y)
        return Inspection(compile_program_for(program, target))


# ---- instructions --------------------------------------------------------------------------------

SMALL = [
    (U4, float16, 8, "sm_90a", {}),
    (U4, float16, 16, "sm_90a", {}),
    (U4, float16, 32, "sm_80", {}),
    (U4, bfloat16, 8, "sm_80", {}),
    (U4, float16, 8, "sm_90a", {"has_zeros": True}),
    (U4, float16, 8, "sm_90a", {"group": 32}),
    (U4, float16, 8, "sm_90a", {"scale_dtype": float32}),
    (stored_type("u1"), float16, 8, "sm_90a", {}),
    (stored_type("u5"), float16, 16, "sm_90a", {}),
    (stored_type("u8"), bfloat16, 16, "sm_90a", {}),
    (stored_type("e4m3"), float16, 32, "sm_90a", {}),
    (stored_type("e3m2"), bfloat16, 8, "sm_90a", {}),
    (NF4, float16, 8, "sm_90a", {}),
]


def both_small(dtype, activation, m, arch, changes) -> tuple[Demand, Demand]:
    """The demand of a kernel for few tokens: estimated, and counted in its loop."""
    blobs = blobs_of(dtype, LONG, activation=activation, **changes)
    shared = target_from_name(arch).properties.shared_memory_per_block
    schedule = small_m.Schedule.of(blobs_of(dtype), 1, shared)
    zero = 0.0 if blobs.has_zeros else middle(dtype)
    estimate = demand(blobs, m, schedule, zero=zero)
    kernel = SmallMatmul(blobs, schedule, Epilogue(activation), max(1, m // 8), zero)
    inspection = inspected(kernel, m, arch)
    assert inspection.loop is not None
    steps = inspection.loop.counts["BAR"]  # of a turn: each has one barrier
    return estimate, counted(
        inspection,
        blocks=estimate.blocks,
        turns=kernel.steps / steps,
        read=estimate.read,
        in_flight=estimate.in_flight,
    )


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_few_tokens(case):
    estimate, count = both_small(*case)
    assert count.matrix == estimate.matrix
    assert estimate.issue == pytest.approx(count.issue, rel=0.15)
    assert estimate.alu == pytest.approx(count.alu, rel=0.15)
    assert estimate.fma + estimate.half == pytest.approx(count.fma + count.half, rel=0.35)
    assert (count.threads, count.blocks) == (estimate.threads, estimate.blocks)
    assert estimate.shared_memory == pytest.approx(count.shared_memory, rel=0.05)
    assert estimate.registers == pytest.approx(count.registers, abs=80)
    # So the two tell the same story.
    first, second = (
        predict(replace(d, fixed=0.0, registers=count.registers), H100) for d in (estimate, count)
    )
    assert first.seconds == pytest.approx(second.seconds, rel=0.15)
    assert first.binds == second.binds


LARGE = [
    # rows, depth, columns, tokens, stages, tiles of the schedule
    (U4, float16, 64, "sm_90a", (2, 4, 1, 32, 3, 4), {}),
    (U4, float16, 256, "sm_90a", (8, 1, 1, 128, 3, 2), {}),
    (U4, float16, 256, "sm_80", (4, 1, 2, 32, 3, 4), {}),
    (U4, float16, 64, "sm_90a", (8, 1, 1, 64, 4, 2), {"has_zeros": True}),
    (U4, float16, 64, "sm_90a", (8, 1, 1, 64, 4, 2), {"group": 32}),
    (U4, bfloat16, 64, "sm_90a", (8, 1, 1, 64, 4, 2), {"has_zeros": True}),
    (U4, float16, 64, "sm_90a", (8, 1, 1, 64, 4, 2, "scaled weights"), {}),
    (stored_type("u1"), float16, 256, "sm_80", (8, 1, 1, 32, 5, 4), {}),
    (stored_type("u5"), float16, 128, "sm_90a", (8, 1, 1, 64, 4, 2), {}),
    (stored_type("u8"), bfloat16, 1024, "sm_90a", (8, 1, 1, 128, 3, 2), {}),
    (stored_type("e4m3"), float16, 256, "sm_90a", (8, 1, 1, 128, 3, 2), {}),
    (stored_type("e3m2"), bfloat16, 64, "sm_80", (8, 1, 1, 64, 3, 2), {}),
]


def both_large(dtype, activation, m, arch, cut, changes) -> tuple[Demand, Demand]:
    """The demand of a kernel for many tokens: estimated, and counted in its loop."""
    blobs = blobs_of(dtype, activation=activation, **changes)
    rows, depth, columns, tokens, stages, tiles, *scaled = cut
    schedule = Schedule(
        rows, depth, columns, tokens, stages, tiles, scale_weights="scaled weights" in scaled
    )
    zero = 0.0 if blobs.has_zeros else middle(dtype)
    estimate = demand(blobs, m, schedule, zero=zero)
    inspection = inspected(LargeMatmul(blobs, schedule, Epilogue(activation), zero), m, arch)
    assert inspection.loop is not None and inspection.loop.counts["BAR"] == 1
    return estimate, counted(
        inspection,
        blocks=estimate.blocks,
        turns=schedule.steps(blobs),
        read=estimate.read,
        in_flight=estimate.in_flight,
    )


@pytest.mark.parametrize("case", LARGE, ids=str)
def test_many_tokens(case):
    estimate, count = both_large(*case)
    assert count.matrix == estimate.matrix
    assert estimate.issue == pytest.approx(count.issue, rel=0.15)
    assert estimate.alu == pytest.approx(count.alu, rel=0.2)
    assert estimate.fma + estimate.half == pytest.approx(count.fma + count.half, rel=0.2)
    assert estimate.xu == count.xu
    assert estimate.shared_memory == pytest.approx(count.shared_memory, rel=0.05)
    assert estimate.registers == pytest.approx(count.registers, abs=80)
    assert count.threads == estimate.threads


# ---- bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [U4, stored_type("u3"), stored_type("e4m3")], ids=str)
@pytest.mark.parametrize("changes", [{}, {"has_zeros": True, "group": 64}], ids=str)
def test_bytes_are_those_of_the_tensors(dtype, changes):
    """Ragged: 200 of n and 200 of k fill whole blobs."""
    blobs, m = blobs_of(dtype, 200, n=200, **changes), 3
    codes = torch.zeros(200, 200, dtype=torch.uint8)
    numbers = torch.ones(-(-200 // blobs.group), 200).half()
    packed = pack_blobs(codes, numbers, numbers if blobs.has_zeros else None, blobs)
    found = demand(blobs, m, small_m.Schedule.of(blobs))
    x = torch.empty(m, blobs.padded_k).half()
    assert packed.nbytes + x.nbytes == found.read
    assert torch.empty(m, 200).half().nbytes == found.written
    assert 2 * found.written == demand(
        blobs, m, small_m.Schedule.of(blobs), out_dtype=float32
    ).written  # fmt: skip


@pytest.mark.parametrize(("m", "columns"), [(8, 1), (16, 2), (16, 1)])
def test_copies_are_those_that_the_emulator_counts(m, columns):
    """Each block of tokens copies all weights, and each tile of n reads the activations.

    There are two steps, which are written out. A loop would read those of its last step twice.
    """
    blobs = blobs_of(n=128, k=1024)
    schedule = small_m.Schedule(warps=4, stages=2)
    kernel = SmallMatmul(blobs, schedule, Epilogue(float16), columns, 8.0)
    codes = torch.zeros(128, 1024, dtype=torch.uint8)
    packed = pack_blobs(codes, torch.ones(8, 128).half(), None, blobs)
    x, y = torch.zeros(m, 1024).half(), torch.zeros(m, 128).half()
    values = (m, x, packed, x, y)
    with scope(target_from_name("sm_90a")):
        counters = profile_program(kernel.program(*values), values, target_from_name("sm_90a"))
    found = demand(blobs, m, schedule, columns=columns, zero=8.0)
    copied = global_of(counters, "async copy").bytes
    loaded = global_of(counters, "global load").bytes
    assert packed.nbytes * (m // (8 * columns)) == copied
    assert found.l2_bytes == copied + loaded
    assert found.matrix * found.blocks == counters.total("mma")


# ---- ranking -------------------------------------------------------------------------------------


def few_points() -> list[small_m.Schedule]:
    return [
        small_m.Schedule(warps, stages, split)
        for split in (1, 2, 4)
        for warps in (1, 2, 4, 8)
        for stages in range(2, 11)
    ][:100]


def rank(blobs, m, points, device):
    times = {point: predict(demand(blobs, m, point), device).seconds for point in points}
    return sorted(times, key=times.__getitem__)


def fitting(blobs, m, points, device):
    most = device.target.properties.shared_memory_per_block
    return [p for p in points if demand(blobs, m, p).shared_memory <= most]


def test_a_hundred_points_take_little_work(monkeypatch):
    """No kernel is built, compiled or emulated: some thousand calls of Python for each point."""

    def refuse(*_args, **_options):
        raise AssertionError("a ranking compiles nothing")

    for place, name in (
        (tilus.runtime.build, "compile_cuda"),
        (tilus.runtime.emulate, "emulate"),
        (SmallMatmul, "__init__"),
        (LargeMatmul, "__init__"),
    ):
        monkeypatch.setattr(place, name, refuse)
    blobs = blobs_of()
    blobs.plan  # noqa: B018 - the search for the unpack plan is once for each type, and cached
    points, calls = few_points(), 0

    def count(_frame, event, _argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        ranked = rank(blobs, 1, fitting(blobs, 1, points, H100), H100)
    finally:
        sys.setprofile(None)
    assert 100 == len(points) and 60 < len(ranked)
    assert 1_000 < calls < 200_000  # a call takes far less than 10 us


def test_schedules_for_many_tokens_are_ranked():
    """More tokens ask for wider blocks; what binds is the tensor core at last."""
    blobs = blobs_of()
    best = {}
    for m in (64, 1024):
        shared = H100.target.properties.shared_memory_per_block
        points = list(schedules(blobs, m, H100.multiprocessors, shared))
        best[m] = rank(blobs, m, points, H100)[0]
        assert best[m].block_m <= max(m, 64)
    assert best[64].block_m <= best[1024].block_m
    found = predict(demand(blobs, 4096, best[1024], zero=8.0), H100)
    assert "tensor core" == found.binds
    dense = 2 * 4096 * EXTENT * EXTENT / found.seconds
    assert 0.4e15 < dense < 0.62 * 0.99e15  # what mma.sync reaches


@pytest.mark.parametrize("device", [H100, H200], ids=["H100", "H200"])
@pytest.mark.parametrize("weight", ["u2", "u4", "u8"])
def test_the_usual_schedule_is_among_the_best(weight, device):
    """What `Schedule.of` chooses by bytes on their way costs little more than the best point."""
    blobs = blobs_of(stored_type(weight))
    best = rank(blobs, 1, fitting(blobs, 1, few_points(), device), device)[0]
    shared = device.target.properties.shared_memory_per_block
    usual = small_m.Schedule.of(blobs, split_of(blobs, 1, device.multiprocessors), shared)
    times = [predict(demand(blobs, 1, s), device).seconds for s in (best, usual)]
    assert times[0] <= times[1] < 1.25 * times[0]
    assert demand(blobs, 1, best).in_flight >= 48 * 1024


def test_blocks_that_share_k_pay_for_it():
    """Where one block a multiprocessor is enough, a second one only adds up."""
    one, two = (demand(blobs_of(), 1, small_m.Schedule(8, 3, split)) for split in (1, 2))
    assert (128, 256) == (one.blocks, two.blocks)
    assert one.issue == 2 * two.issue and one.read == two.read
    assert one.round_trips < two.round_trips
    assert predict(one, H100).seconds < predict(two, H100).seconds
    narrow = blobs_of(n=1024)
    alone, shared = (demand(narrow, 1, small_m.Schedule(8, 3, split)) for split in (1, 4))
    assert predict(alone, H100).seconds > predict(shared, H100).seconds


def test_too_few_stages_are_bound_by_latency():
    few, many = (demand(blobs_of(), 1, small_m.Schedule(2, stages)) for stages in (2, 12))
    assert ["latency", "DRAM"] == [predict(d, H100).binds for d in (few, many)]


def test_more_tokens_than_a_block_has():
    blobs, schedule = blobs_of(), small_m.Schedule(8, 3)
    assert [128, 128, 256, 384] == [demand(blobs, m, schedule).blocks for m in (1, 32, 33, 65)]
    assert [128, 256] == [demand(blobs, m, schedule, columns=1).blocks for m in (8, 9)]
    assert demand(blobs, 64, schedule).written == 64 * demand(blobs, 1, schedule).written


def test_corrections_take_the_tensor_core():
    """Constant fragments, one for each four of weights, unless nothing is to be corrected."""
    blobs = blobs_of(stored_type("e5m2"))
    plain, shifted = (demand(blobs, 8, small_m.Schedule(8, 2), zero=z) for z in (0.0, 1.0))
    assert 0 < plain.matrix == 0.8 * shifted.matrix
    weights = EXTENT * EXTENT / 128 / LANES / 8
    assert weights == plain.matrix
