"""Sources to binaries: once a process, from the cache where possible, in parallel."""

from __future__ import annotations

import threading

import pytest

from tilus.codegen.source import CudaSource
from tilus.config import context
from tilus.errors import TilusError
from tilus.runtime import build as build_module
from tilus.runtime.build import Resources, build, build_many, parse_resources
from tilus.runtime.nvrtc import CudaCompileError, compile_cuda
from tilus.target import nvgpu_sm80, nvgpu_sm90a


def source(number: int, name: str = "f") -> CudaSource:
    text = f'extern "C" __global__ void {name}(int* x) {{ *x = {number}; }}'
    return CudaSource(name, text, threads=32)


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("TILUS_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def compiled(monkeypatch):
    """(name, arch) of every compilation."""
    seen = []

    def record(text, name, arch, **options):
        seen.append((name, arch))
        return compile_cuda(text, name, arch, **options)

    monkeypatch.setattr(build_module, "compile_cuda", record)
    return seen


def test_equal_sources_share_their_code_in_one_process(compiled):
    first, second = build(source(1), nvgpu_sm80), build(source(1), nvgpu_sm80)
    assert first.code is second.code
    assert [("f", "sm_80")] == compiled


def test_targets_and_texts_are_compiled_apart(compiled):
    binaries = [build(source(2), nvgpu_sm80), build(source(2), nvgpu_sm90a)]
    binaries.append(build(source(3), nvgpu_sm80))
    assert 3 == len({binary.cubin for binary in binaries}) == len(compiled)


def test_another_process_finds_it_on_disk(compiled):
    first = build(source(4), nvgpu_sm80)
    expected = (first.cubin, first.resources, first.code.log, first.code.nvrtc)
    del first  # memory forgets with the last binary, as a new process would
    second = build(source(4), nvgpu_sm80)
    assert expected == (second.cubin, second.resources, second.code.log, second.code.nvrtc)
    assert 1 == len(compiled)


def test_another_nvrtc_compiles_anew(compiled, monkeypatch):
    build(source(5), nvgpu_sm80)
    monkeypatch.setattr(build_module, "nvrtc_release", lambda: "99.0")
    assert "99.0" == build(source(5), nvgpu_sm80).code.nvrtc
    assert 2 == len(compiled)


def test_other_options_compile_anew(compiled, monkeypatch):
    build(source(6), nvgpu_sm80)
    monkeypatch.setattr(build_module, "compile_options", lambda arch: ("--other",))
    build(source(6), nvgpu_sm80)
    assert 2 == len(compiled)


def test_a_damaged_entry_is_compiled_anew(compiled, cache_dir):
    expected = build(source(7), nvgpu_sm80).cubin
    (entry,) = cache_dir.glob("kernels/*.kernel")
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 1
    entry.write_bytes(data)
    assert expected == build(source(7), nvgpu_sm80).cubin
    assert expected == build(source(7), nvgpu_sm80).cubin
    assert 2 == len(compiled)  # the second found a whole entry again


def test_threads_that_want_the_same_wait_for_one_compilation(compiled):
    start, results = threading.Barrier(4), []

    def work():
        start.wait()
        results.append(build(source(8), nvgpu_sm80))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == len(compiled) == len({id(binary.code) for binary in results})


def test_many_come_in_order_and_settings_hold_in_the_threads(compiled, tmp_path):
    with context(cache_dir=tmp_path / "other"):
        binaries = build_many([source(i, f"k{i}") for i in range(9, 13)], nvgpu_sm80, workers=2)
    assert ["k9", "k10", "k11", "k12"] == [binary.source.name for binary in binaries]
    assert 4 == len(list((tmp_path / "other" / "kernels").glob("*.kernel")))


@pytest.mark.parametrize("workers", [1, 2])
def test_many_raise_the_first_error(workers):
    bad = CudaSource("bad", "nonsense", threads=32)
    with pytest.raises(CudaCompileError):
        build_many([source(13), bad], nvgpu_sm80, workers)
    assert build(source(13), nvgpu_sm80).cubin


def test_an_error_is_not_remembered():
    bad = CudaSource("bad", "nonsense", threads=32)
    for _ in range(2):
        with pytest.raises(CudaCompileError):
            build(bad, nvgpu_sm80)
    assert {} == build_module._gates


def test_ptx_is_that_of_the_target():
    assert ".target sm_90a" in build(source(14), nvgpu_sm90a).ptx


def test_resources_are_what_the_kernel_takes():
    text = """extern "C" __global__ void f(float* x, int n) {
        __shared__ float s[256];
        volatile float t[64];
        for (int i = 0; i < 64; i++) t[i] = x[i];
        s[threadIdx.x] = t[n];
        __syncthreads();
        x[0] = s[n];
    }"""
    resources = build(CudaSource("f", text, threads=32), nvgpu_sm90a).resources
    assert (1024, 256, 0) == (
        resources.static_shared,
        resources.stack,  # t is indexed at run time, so it lies in local memory
        resources.spill_stores,
    )
    assert 8 <= resources.registers <= 255


def test_a_log_that_is_no_report():
    assert parse_resources("") is None
    assert parse_resources("ptxas info : Used 9 registers") is None


def test_constant_memory_is_not_mistaken_for_shared():
    log = (
        "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 10 registers, 352 bytes cmem[0]"
    )
    assert Resources(10, 0, 0, 0, 0) == parse_resources(log)


@pytest.mark.parametrize(("threads", "shared"), [(0, 0), (1025, 0), (32, -1)])
def test_a_source_that_cannot_be_launched(threads, shared):
    with pytest.raises(TilusError):
        CudaSource("f", "", threads, shared)
