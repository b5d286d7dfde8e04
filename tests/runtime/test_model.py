"""The cost model: waves, pipes, memory, and what was measured of kernels that are not ours."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import static, static_kernels
from benchmarks.static_kernels import Case
from tilus.codegen.source import CudaSource
from tilus.errors import TilusError
from tilus.ir.parser import parse_program
from tilus.passes import compile_program
from tilus.runtime.build import Binary, Code, Resources
from tilus.runtime.compile import compile_program_for
from tilus.runtime.devices import A100, DEVICES, H100, H200, RTX_4090
from tilus.runtime.inspect import Inspection
from tilus.runtime.model import SUSTAINED, Demand, counted, predict, shared_bytes_of
from tilus.runtime.profile import profile_program
from tilus.runtime.sass import SassInstruction
from tilus.target import nvgpu_sm90a

# A block on each multiprocessor of an H100 that does nothing.
IDLE = Demand(132, 256, 64, 160 * 1024, issue=0, read=0, in_flight=0, round_trips=0)


# ---- what binds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"issue": 1e6}, "issue"),
        ({"issue": 1e6, "alu": 0.4e6}, "issue"),
        ({"issue": 1e6, "alu": 0.6e6}, "ALU"),
        ({"issue": 1e6, "xu": 0.2e6}, "XU"),
        ({"issue": 1e6, "matrix": 0.5e6}, "tensor core"),
        ({"issue": 1e6, "shared_bytes": 100e6}, "shared memory"),
        ({"issue": 1e6, "read": 10e9, "in_flight": 64 * 1024}, "DRAM"),
        ({"issue": 1e6, "read": 10e9, "in_flight": 4 * 1024}, "latency"),
        ({"issue": 1e6, "written": 10e9}, "DRAM"),
        ({"issue": 1e6, "l2_bytes": 10e9}, "L2"),
        ({"issue": 10, "tail_issue": 1e6}, "tail"),
        ({"issue": 10, "tail_shared": 1e8}, "tail"),
        ({"issue": 10, "round_trips": 3}, "tail"),
        ({"issue": 1e6, "fixed": 1.0}, "tail"),
    ],
)
def test_what_binds(change, expected):
    assert expected == predict(replace(IDLE, **change), H100).binds


def test_pipes_differ_between_devices():
    """FFMA: 2 a clock on sm_80, 4 on sm_89, where HFMA2 has 2."""
    small = replace(IDLE, shared_memory=0, issue=1e6)
    single, packed = replace(small, fma=0.9e6), replace(small, half=0.9e6)
    found = [predict(d, device).binds for device in (A100, RTX_4090) for d in (single, packed)]
    assert ["FMA", "issue", "issue", "FMA"] == found


def test_time_by_hand():
    """Two warps an issue slot: 4 a clock, of which 60% are sustained; and 3.0 TB/s."""
    demand = replace(IDLE, issue=1.755e6, fixed=0.0)
    assert predict(demand, H100).seconds == pytest.approx(1e-3 / 4 / SUSTAINED)
    write = replace(IDLE, written=3.0e9, fixed=0.0)
    assert predict(write, H100).seconds == pytest.approx(1e-3)


@given(
    st.sampled_from(list(DEVICES.values())),
    st.sampled_from(["issue", "alu", "matrix", "shared_bytes", "read", "written", "tail_issue"]),
    st.integers(1, 1000),
    st.lists(st.floats(1, 1e7), min_size=7, max_size=7),
)
def test_more_to_do_takes_no_less_time(device, name, blocks, amounts):
    names = ("issue", "alu", "matrix", "shared_bytes", "read", "written", "tail_issue")
    demand = Demand(
        blocks, 256, 100, 40 * 1024, in_flight=8192.0, **dict(zip(names, amounts, strict=True))
    )
    before = predict(demand, device)
    after = predict(replace(demand, **{name: 2 * getattr(demand, name)}), device)
    assert before.seconds <= after.seconds
    memory = before.parts["DRAM"] + before.parts["latency"]
    overlapped = [t for n, t in before.parts.items() if n not in ("DRAM", "latency", "tail")]
    assert before.seconds == pytest.approx(max(memory, *overlapped) + before.parts["tail"])
    assert min(before.parts.values()) >= -1e-9 * before.seconds


# ---- waves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blocks", "waves", "times"),
    [(1, 1, 1), (132, 1, 1), (133, 2, 2), (264, 2, 2), (265, 3, 3)],
)
def test_a_wave_takes_as_long_as_its_busiest_multiprocessor(blocks, waves, times):
    one = replace(IDLE, issue=1e6, fixed=0.0)
    found = predict(replace(one, blocks=blocks), H100)
    assert (1, waves) == (found.occupancy.blocks, found.waves)
    assert found.seconds == pytest.approx(times * predict(one, H100).seconds)
    # What is lost to an incomplete wave is told apart from what there is to do.
    assert found.parts["tail"] == pytest.approx(found.seconds - found.parts["issue"], abs=1e-12)
    assert found.parts["issue"] == pytest.approx(predict(one, H100).seconds * blocks / 132)


def test_blocks_on_one_multiprocessor_share_its_pipes():
    two = replace(IDLE, shared_memory=100 * 1024, issue=1e6, fixed=0.0, blocks=264)
    found = predict(two, H100)
    assert (2, 1) == (found.occupancy.blocks, found.waves)
    assert found.seconds == pytest.approx(2 * predict(replace(two, blocks=132), H100).seconds)


@pytest.mark.parametrize(
    ("change", "blocks"),
    [
        ({}, 1),  # 161 of 228 KB
        ({"shared_memory": 60 * 1024}, 3),
        ({"shared_memory": 0}, 4),  # 64 registers: a quarter has room for 8 warps, a block has 8
        ({"shared_memory": 0, "registers": 65}, 3),  # given out by 256: 7 warps a quarter
        ({"shared_memory": 0, "registers": 16}, 8),  # 64 warps
    ],
)
def test_occupancy(change, blocks):
    assert blocks == predict(replace(IDLE, **change), H100).occupancy.blocks


# ---- memory --------------------------------------------------------------------------------------


def _rate(in_flight, device=H200, blocks=132):
    """Bytes a second of a long stream."""
    stream = replace(IDLE, blocks=blocks, read=1e12, in_flight=in_flight, fixed=0.0)
    return 1e12 / predict(stream, device).seconds


def test_bytes_on_their_way_make_the_bandwidth():
    """Little's law while there are few; half of the rate where both terms are alike."""
    assert _rate(1) == pytest.approx(132 / H200.memory_latency, rel=1e-3)
    enough = H200.usable_rate * H200.memory_latency / 132
    assert _rate(enough) == pytest.approx(H200.usable_rate / 2)
    assert 0.95 * H200.usable_rate < _rate(20 * enough) < H200.usable_rate
    assert _rate(24 * 1024) < _rate(48 * 1024)
    assert _rate(24 * 1024, blocks=66) < 0.75 * _rate(24 * 1024)


def test_no_more_is_on_its_way_than_there_is():
    short = replace(IDLE, read=132 * 1024, in_flight=64 * 1024)
    assert predict(short, H100) == predict(replace(short, in_flight=1024), H100)


# ---- against measurements by others --------------------------------------------------------------

# 4-bit weights in groups of 128, M = 1, microseconds; bytes on their way to a multiprocessor and
# issue slots a weight were counted in the kernels' machine code. All of them were measured by
# others: vLLM's Marlin on H200 and H100 (23-27 us), Humming 0.1.19 on H100 with 1 to 4 bits.
#
# Marlin's times on an H200 are what the latency in the table of devices and these 7 us before the
# first and after the last byte are derived from; the other rows are predictions.
FIXED = 7e-6
MEASURED = [
    ("Marlin", H200, 4, 8192, 2.51, 24, 20.3),
    ("Marlin", H200, 4, 81920, 2.51, 24, 138.0),
    ("Marlin", H100, 4, 8192, 2.51, 24, 25.0),
    ("Humming", H100, 4, 8192, 2.67, 48, 22.4),
    ("Humming", H100, 3, 8192, 3.37, 48, 22.2),
    ("Humming", H100, 2, 8192, 2.69, 48, 19.4),
    ("Humming", H100, 1, 8192, 2.75, 48, 19.4),
]


def _peer(device, bits, k, slots, kilobytes):
    """One block a multiprocessor, which share the weights evenly."""
    weights, blocks = 8192 * k, device.multiprocessors
    return Demand(
        blocks,
        threads=256,
        registers=128,
        shared_memory=100 * 1024,
        issue=slots * weights / 32 / blocks,
        matrix=weights / 256 / blocks,
        read=weights * bits / 8 + weights / 128 * 2 + 2 * k,
        written=2 * 8192,
        in_flight=kilobytes * 1024,
        fixed=FIXED,
    )


@pytest.mark.parametrize(("kernel", "device", "bits", "k", "slots", "kilobytes", "us"), MEASURED)
def test_kernels_of_others(kernel, device, bits, k, slots, kilobytes, us):
    found = predict(_peer(device, bits, k, slots, kilobytes), device)
    assert found.seconds * 1e6 == pytest.approx(us, rel=0.25), kernel


def test_why_low_widths_gain_little_there():
    """Humming: memory binds at 4 bits, but issue at 1 and 2."""
    binds = [
        predict(_peer(device, *numbers), device).binds
        for kernel, device, *numbers, _ in MEASURED
        if kernel == "Humming"
    ]
    assert ["DRAM", "issue", "issue", "issue"] == binds


# ---- against the static bounds -------------------------------------------------------------------


def _rows():
    log = json.loads(static.RESULTS.read_text())
    return [row for row in log["rows"] if "bounds_us" in row and row["activation"] == "float16"]


def test_parts_are_the_static_bounds():
    """benchmarks/static.py bounds a time by counts; the model adds what pipes do not sustain."""
    rows = _rows()
    assert len(rows) > 50
    for row in rows:
        case = Case(row["weight"], row["activation"], row["arch"], row["m"])
        blobs = static_kernels.blobs_of(case, static_kernels.EXTENT, static_kernels.EXTENT)
        warps = static_kernels.EXTENT**2 * row["unpacked"] / 32  # weights of a lane, of all warps
        counts = {n: row["per_weight"][n] * warps / 132 for n in ("issue", "alu", "matrix")}
        activations = 2 * row["m"] * static_kernels.EXTENT
        demand = Demand(
            blocks=132,
            threads=256,
            registers=row["registers"],
            shared_memory=0,
            read=blobs.n_tiles * blobs.chunks * blobs.blob_bytes + activations,
            written=activations,
            in_flight=row["bytes_in_flight"],
            **counts,
        )
        for name, bound in row["bounds_us"].items():
            found = {n: 1e6 * t for n, t in predict(demand, DEVICES[name]).parts.items()}
            expected = [bound[n] for n in ("issue", "alu", "matrix", "memory")]
            assert expected == pytest.approx(
                [
                    found["issue"] * SUSTAINED,
                    found["ALU"] * SUSTAINED,
                    found["tensor core"],
                    found["DRAM"],
                ],
                rel=1e-3,
            )


# ---- counted -------------------------------------------------------------------------------------

MATMUL = """\
kernel matmul(k: int32, a_ptr: ~float16 % 16, b_ptr: ~float16 % 16, c_ptr: ~float32) \
blocks=[1] warps=4:
    ga: global float16[16, k] = global_view(a_ptr)
    gb: global float16[k, 32] = global_view(b_ptr)
    gc: global float32[16, 32] = global_view(c_ptr)
    sa: shared float16[16, 64] = shared_tensor()
    sb: shared float16[64, 32] = shared_tensor()
    acc: float32[16, 32] = register_tensor(init=0.0)
    for kt in range(0, k // 64):
        copy_async(sa, ga, offsets=[0, kt * 64], dims=[0, 1])
        copy_async(sb, gb, offsets=[kt * 64, 0], dims=[0, 1])
        copy_async_wait_all()
        sync()
        a: float16[16, 64] = load_shared(sa)
        b: float16[64, 32] = load_shared(sb)
        acc = dot(a, b, acc)
        sync()
    store_global(gc, acc, offsets=[0, 0], dims=[0, 1])
"""


def test_a_compiled_kernel_against_the_emulator(tmp_path, monkeypatch):
    """Instructions of the tensor core and bytes through shared memory, as the emulator counts."""
    monkeypatch.setenv("TILUS_CACHE_DIR", str(tmp_path))
    program, k = compile_program(parse_program(MATMUL)), 256
    inspection = Inspection(compile_program_for(program, nvgpu_sm90a))
    read = 2 * k * (16 + 32)
    found = counted(
        inspection, blocks=1, turns=k / 64, read=read, in_flight=read, written=4 * 16 * 32
    )
    half = torch.zeros(16, k).half(), torch.zeros(k, 32).half()
    counters = profile_program(program, (k, *half, torch.zeros(16, 32)), nvgpu_sm90a)
    assert 0 < counters.total("mma") == found.matrix
    # Warps that load the same rows of `a` do so each; a copy writes what was read.
    assert found.shared_bytes == counters.shared.bytes > read
    assert (1, 128, 6144) == (found.blocks, found.threads, found.shared_memory)
    assert 0 < found.matrix < found.issue < counters.total() * 1.5
    assert "tail" == predict(found, H100).binds  # one block of an idle device


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("LDS", 128),
        ("LDS.U8", 128),
        ("LDS.64", 256),
        ("STS.128", 512),
        ("LDGSTS.E.BYPASS.128", 512),
        ("LDGSTS.E.64", 256),
        ("LDSM.16.M88", 128),
        ("LDSM.16.MT88.2", 256),
        ("LDG.E.128", 0),
        ("HMMA.16816.F32", 0),
    ],
)
def test_bytes_of_shared_memory(text, expected):
    assert expected == shared_bytes_of(SassInstruction(0, "@!P0", text, ""))
    assert 0 == shared_bytes_of(SassInstruction(0, "@!PT", text, ""))


@pytest.mark.parametrize(
    ("resources", "found"),
    [(None, "report was not understood"), (Resources(32, 0, 0, 0, 0), "it has none")],
)
def test_kernels_that_cannot_be_counted(resources, found, monkeypatch):
    monkeypatch.setattr(Inspection, "loop", None)
    code = Code("key", b"", resources, "13.0", "")
    inspection = Inspection(Binary(CudaSource("f", "", 128, 0), nvgpu_sm90a, code))
    with pytest.raises(TilusError, match="hottest loop") as caught:
        counted(inspection, blocks=1, turns=1, read=0, in_flight=0)
    assert found in caught.value.found


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": 0},
        {"threads": 0},
        {"issue": -1.0},
        {"read": float("nan")},
        {"written": float("inf")},
        {"fixed": -1e-6},
    ],
)
def test_amounts(change):
    with pytest.raises(TilusError, match="finite amount") as caught:
        replace(IDLE, **change)
    assert next(iter(change)) in caught.value.found


def test_what_is_read_is_on_its_way():
    with pytest.raises(TilusError, match="on its way"):
        replace(IDLE, read=1.0)


@pytest.mark.parametrize(
    "change", [{"registers": 300}, {"shared_memory": 228 * 1024}, {"threads": 4096}]
)
def test_a_block_that_fits_nowhere(change):
    with pytest.raises(TilusError, match="fits on a multiprocessor of H100"):
        predict(replace(IDLE, **change), H100)
