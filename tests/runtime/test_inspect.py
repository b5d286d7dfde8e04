"""What a kernel takes: occupancy against worked examples, and reports of real kernels."""

from __future__ import annotations

import json

import pytest

from tilus.codegen.source import CudaSource
from tilus.errors import TilusError
from tilus.ir.parser import parse_program
from tilus.passes import compile_program
from tilus.runtime import inspect as inspect_module
from tilus.runtime.build import Binary, Code, Resources, build
from tilus.runtime.compile import compile_program_for
from tilus.runtime.inspect import (
    MULTIPROCESSORS,
    Inspection,
    as_json,
    occupancy,
    readable,
    summary,
)
from tilus.target import (
    SHARED_MEMORY_PER_BLOCK,
    known_targets,
    nvgpu_sm80,
    nvgpu_sm86,
    nvgpu_sm90a,
    target_from_name,
)

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


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("TILUS_CACHE_DIR", str(tmp_path))


def inspected(text=MATMUL, arch="sm_90a", **weights):
    program = compile_program(parse_program(text))
    return Inspection(compile_program_for(program, target_from_name(arch)), **weights)


def made_up(resources, shared_bytes=0, threads=128):
    code = Code("key", b"", resources, "13.0", "")
    return Inspection(Binary(CudaSource("f", "", threads, shared_bytes), nvgpu_sm90a, code))


# ---- occupancy -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "expected"),
    [
        # H100: 64 warps, 64 K registers, 228 KiB of which a block loses one, 32 blocks.
        (1024, 32, 0, (2, "registers threads")),
        (1024, 33, 0, (1, "registers")),
        (128, 32, 0, (16, "registers threads")),
        (128, 255, 0, (2, "registers")),
        (128, 40, 0, (12, "registers")),
        (32, 16, 0, (32, "blocks")),
        (33, 16, 0, (32, "threads blocks")),  # a block of 33 threads takes two warps
        (128, 32, 227 * 1024, (1, "shared memory")),
        (128, 32, 113 * 1024, (2, "shared memory")),
        (128, 32, 113 * 1024 + 1, (1, "shared memory")),
        (96, 80, 0, (8, "registers")),  # 6 warps a quarter, 24 in all
    ],
)
def test_blocks_on_an_h100(threads, registers, shared, expected):
    found = occupancy(nvgpu_sm90a, threads, registers, shared)
    assert expected == (found.blocks, " ".join(found.bound_by))
    assert found.warps == found.blocks * -(-threads // 32) <= found.most_warps == 64


def test_registers_are_given_out_by_the_quarter():
    """Of 40 a thread 51 warps would fit into 64 K registers, but 12 into each quarter."""
    assert 12 * 4 == occupancy(nvgpu_sm80, 32, 40, 0).limits["registers"]


def test_other_capabilities_hold_less():
    assert (8, ("threads",)) == _blocks(nvgpu_sm86, 192, 32)  # 48 warps
    assert (16, ("blocks",)) == _blocks(nvgpu_sm86, 32, 32)
    assert (1, ("shared memory",)) == _blocks(nvgpu_sm86, 128, 32, 99 * 1024)


def _blocks(target, threads, registers, shared=0):
    found = occupancy(target, threads, registers, shared)
    return found.blocks, found.bound_by


def test_every_target_has_limits_that_agree_with_those_of_a_block():
    assert {t.properties.compute_capability for t in known_targets()} == set(MULTIPROCESSORS)
    for capability, limits in MULTIPROCESSORS.items():
        assert SHARED_MEMORY_PER_BLOCK[capability] == limits.shared_memory - 1024
        assert limits.warps % 4 == 0 and limits.blocks <= limits.warps


def test_a_block_that_does_not_fit():
    assert 0 == occupancy(nvgpu_sm90a, 1024, 255, 0).blocks


def test_shared_memory_of_both_kinds_counts():
    found = made_up(Resources(32, 0, 0, 0, 63 * 1024), shared_bytes=50 * 1024).occupancy
    assert found is not None and (2, ("shared memory",)) == (found.blocks, found.bound_by)


# ---- a kernel ------------------------------------------------------------------------------------


def test_the_loop_of_a_matmul():
    """4 warps, each with 8 columns: 4 steps of k16, one mma and 4 weights a lane each."""
    found = inspected()
    assert (4, 16.0) == (found.per_turn["matrix"], found.weights)
    assert found.loop is not None and found.per_turn["issue"] == len(found.loop.instructions)
    assert {name: count / 16 for name, count in found.per_turn.items()} == found.per_weight


def test_weights_as_the_other_operand_and_used_more_than_once():
    assert 32.0 == inspected(weight_operand="A").weights
    assert 8.0 == inspected(reuse=2).weights
    assert inspected(reuse=2).per_weight["matrix"] == 0.5


def test_weights_that_are_given():
    """Where some matrix instructions correct others, only the author knows what holds weights."""
    found = inspected(weights_per_turn=12)
    assert 12 == found.weights and found.per_turn["issue"] / 12 == found.per_weight["issue"]
    assert "12 weights per lane a turn: as given\n" in summary(found)
    assert (12, 12) == tuple(
        as_json(found)["loop"][name] for name in ("weights_per_turn", "weights")
    )


def test_given_weights_need_a_loop():
    text = 'extern "C" __global__ void f(int* x) { *x = 1; }'
    binary = build(CudaSource("f", text, threads=32), nvgpu_sm90a)
    assert {} == Inspection(binary, weights_per_turn=12).per_weight


@pytest.mark.parametrize("arch", ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120a"])
def test_the_summary_on_every_target(arch):
    found = inspected(arch=arch)
    resources, loop = found.binary.resources, found.loop
    assert resources is not None and loop is not None
    lines = {line[:13].strip(): line[13:].split() for line in summary(found).splitlines()}
    assert ["for", arch + ",", "blocks", "of", "128", "threads"] == summary(found).split()[1:7]
    assert [str(resources.registers), "a", "thread"] == lines["registers"]
    assert lines["spills"][0] == lines["stack"][0] == "0"
    assert lines["shared memory"][3:] == [str(found.binary.source.shared_bytes), "dynamic"]
    assert str(loop.issue) in summary(found) and "HMMA 4" in summary(found)
    assert "16 weights per lane a turn: operand B" in summary(found)


def test_the_summary_word_for_word():
    """Of a report that is made up, so that no compiler decides what it says."""
    found = made_up(Resources(168, 8, 4, 16, 1024), shared_bytes=2048)
    found.__dict__["loop"] = None
    assert """\
f for sm_90a, blocks of 128 threads
registers      168 a thread
spills         8 bytes stored, 4 loaded
stack          16 bytes of local memory a thread
shared memory  1024 bytes static, 2048 dynamic
occupancy      3 blocks an SM, 12 of 64 warps (19%), bound by registers
               blocks an SM by registers 3, threads 16, shared memory 57, blocks 32

hottest loop: there is none""" == summary(found)


def test_a_kernel_without_a_loop():
    text = 'extern "C" __global__ void f(int* x) { *x = 1; }'
    found = Inspection(build(CudaSource("f", text, threads=32), nvgpu_sm90a))
    assert (None, {}, {}, None) == (found.loop, found.per_turn, found.per_weight, found.weights)
    assert "hottest loop: there is none" in summary(found)


def test_a_loop_without_weights_that_calls():
    text = """__device__ __noinline__ float g(float x) { return x * 2; }
    extern "C" __global__ void f(float* x, int n) {
        #pragma unroll 1
        for (int i = 0; i < n; i++) x[i] = __expf(g(x[i]));
    }"""
    found = Inspection(build(CudaSource("f", text, threads=32), nvgpu_sm90a))
    assert "calls of subroutines, whose instructions are not counted: 1" in summary(found)
    assert found.loop is not None and found.per_turn["xu"] == 1 and {} == found.per_weight
    assert "per weight" not in summary(found)


def test_a_report_that_was_not_understood():
    found = made_up(None)
    found.__dict__["loop"] = None
    assert "the compiler's report was not understood" in summary(found)
    assert as_json(found)["occupancy"] is None is as_json(found)["resources"]


def test_without_a_disassembler_the_rest_is_told(monkeypatch):
    def missing(cubin):
        raise TilusError("reading machine code needs nvdisasm", hint="pip install it")

    monkeypatch.setattr(inspect_module, "disassemble", missing)
    found = made_up(Resources(32, 0, 0, 0, 0))
    assert "registers" in summary(found)
    assert summary(found).endswith(
        "hottest loop: not known, as reading machine code needs nvdisasm; pip install it"
    )
    with pytest.raises(TilusError):
        as_json(found)


def test_as_json_survives_json():
    found = inspected()
    told = as_json(found)
    assert told == json.loads(json.dumps(told))
    assert ("matmul", "sm_90a", 128) == (told["kernel"], told["target"], told["threads"])
    assert found.per_weight == told["loop"]["per_weight"]
    assert told["occupancy"]["blocks"] == min(told["occupancy"]["limits"].values())
    assert sum(told["loop"]["opcodes"].values()) == told["loop"]["per_turn"]["issue"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_operand": "C"}, "the weights are an operand of a matrix instruction"),
        ({"reuse": 0.0}, "a weight is used by some matrix instruction"),
        ({"reuse": float("nan")}, "a weight is used by some matrix instruction"),
        ({"weights_per_turn": 0}, "a turn of the loop takes some weights"),
        ({"weights_per_turn": float("nan")}, "a turn of the loop takes some weights"),
        ({"weights_per_turn": 8, "reuse": 2}, "does not matter where their number is given"),
    ],
)
def test_questions_that_are_none(arguments, message):
    binary = made_up(None).binary
    with pytest.raises(TilusError, match=message):
        Inspection(binary, **arguments)


def test_only_line_directives_are_left_out():
    text = '#line 3 "f.py"\nint x;  // #line 4\n#pragma unroll\n#line 5\nint y;\n'
    assert "int x;  // #line 4\n#pragma unroll\nint y;\n" == readable(text)
