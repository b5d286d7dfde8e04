"""Warm-up: what it makes, once; and that nothing is made afterwards, least of all in a capture.

A GPU is played by a driver that writes down what it is asked and CPU tensors: kernels are compiled
by NVRTC, and not run.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch

import tilus
from tilus import TilusError
from tilus.nn import QuantizedLinear
from tilus.ops import matmul, quantize, warmup
from tilus.ops.warmup import ALL_TOKENS, WarmupReport
from tilus.runtime import launch
from tilus.runtime.cuda import Cuda
from tilus.target import nvgpu_sm90a

WIDE_CODEBOOK = tilus.codebook(6, [number**3 / 99 for number in range(64)])  # has no exact plan
N, K = 64, 2048  # of so much k several blocks share a tile, through workspaces


@pytest.fixture(autouse=True)
def nothing_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("TILUS_CACHE_DIR", str(tmp_path))
    forget_kernels(monkeypatch)


def forget_kernels(monkeypatch):
    """As another process has none."""
    monkeypatch.setattr(launch, "_kernels", WeakKeyDictionary())


@dataclass
class Gpu:
    """A device, and torch's idea of it, that remembers what happened."""

    launches: int = 0
    loaded: list[str] = field(default_factory=list)
    compiled: list[str] = field(default_factory=list)
    allocated: list[int] = field(default_factory=list)
    capturing: bool = False

    def current_device(self):
        return -1  # where CPU tensors say they are

    def current_stream(self, device):
        return 0

    def on_device(self, device):
        return nullcontext()

    def is_capturing(self):
        return self.capturing

    def bytes(self, nbytes, device, *, zeroed):
        self.allocated.append(nbytes)
        return torch.zeros(nbytes, dtype=torch.uint8)

    def launch_kernel(self, *_: Any):
        self.launches += 1
        return (0,)

    def made(self):
        """What a request would wait for."""
        return list(self.loaded), list(self.compiled), list(self.allocated)


class Driver(Cuda):
    """Writes down what it would load."""

    def __init__(self, gpu: Gpu):
        super().__init__(SimpleNamespace(cuLaunchKernel=gpu.launch_kernel), gpu)
        self.gpu = gpu
        self.entered.devices.add(-1)

    def function(self, binary, device):
        if binary.code.key not in self.gpu.loaded:
            self.gpu.loaded.append(binary.code.key)
        return "function"


@pytest.fixture
def gpu(monkeypatch):
    """CPU tensors are taken for those of a GPU."""
    one = Gpu()
    driver = Driver(one)
    compile_source = launch.compile_source

    def compiled(program, target):
        one.compiled.append(program.name)
        return compile_source(program, target)

    monkeypatch.setenv("TILUS_ENGINE", "cuda")
    monkeypatch.setattr(launch, "is_compiled_for", lambda device: True)
    monkeypatch.setattr(launch, "target_of", lambda device: nvgpu_sm90a)
    monkeypatch.setattr(launch, "compile_source", compiled)
    monkeypatch.setattr("tilus.runtime.cuda.connect", lambda: driver)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: one.capturing)
    return one


def weight_of(n: int = N, k: int = K, dtype=tilus.uint4b, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return quantize(torch.randn(n, k, generator=generator) * 0.05, dtype, 64)


def counts(report: WarmupReport):
    return report.kernels, report.compiled, report.found


# ---- on the CPU ----------------------------------------------------------------------------------


def test_a_warm_up_fills_the_cache_once(tmp_path):
    weight = weight_of(k=64 + 64)
    first = warmup(weight, tokens=(1, 16), progress=False)
    files = sorted(path.name for path in tmp_path.rglob("*.kernel"))
    assert (2, 2, 0) == counts(first) and first.seconds > 0
    assert (2, 0, 2) == counts(warmup(weight, tokens=(1, 16), progress=False))
    assert files == sorted(path.name for path in tmp_path.rglob("*.kernel")) != []
    assert {} == weight.prepared  # there is nothing to load it on
    assert str(first).startswith("2 kernels: 2 compiled, 0 found in the cache; ")


def test_what_another_process_compiled_is_found_in_the_cache(monkeypatch):
    weight = weight_of(k=64 + 128)
    warmup(weight, tokens=(1,), progress=False)
    forget_kernels(monkeypatch)
    assert (1, 0, 1) == counts(warmup(weight, tokens=(1,), progress=False))


def test_a_range_of_tokens_is_one_kernel():
    report = warmup(weight_of(k=64), tokens=(1, 2, 3, 8), progress=False)
    assert (1, 1, 0) == counts(report)
    assert (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096) == ALL_TOKENS


def test_each_dtype_has_its_kernel():
    weight = weight_of(k=64 + 192)
    for options in ({}, {"dtype": torch.bfloat16}, {"out_dtype": torch.float32},
                    {"bias": torch.float16}):  # fmt: skip
        assert (1, 1, 0) == counts(warmup(weight, (1,), progress=False, **options))


def test_weights_that_are_cast_have_a_packing_kernel_too():
    weight = weight_of(32, 64, WIDE_CODEBOOK)
    assert (2, 2, 0) == counts(warmup(weight, (1,), progress=False))


# ---- on a GPU that is played ---------------------------------------------------------------------


@pytest.mark.parametrize("bias", [None, torch.float16], ids=str)
def test_afterwards_a_capture_finds_everything(gpu: Gpu, bias: torch.dtype | None):
    weight = weight_of()
    report = warmup(weight, (1, 16, 64), bias=bias, progress=False)
    assert (3, 3, 0) == counts(report) and 3 == gpu.launches == len(gpu.loaded)
    assert gpu.allocated
    before = gpu.made()
    vector = None if bias is None else torch.zeros(N, dtype=bias)
    for m in (1, 5, 8, 9, 16, 33, 64):
        x, out = torch.zeros(m, K).half(), torch.zeros(m, N).half()
        matmul(x, weight, bias=vector, out=out)  # outside of a capture, as at the first request
        assert before == gpu.made()
        gpu.capturing, here = True, len(gpu.allocated)
        matmul(x, weight, bias=vector, out=out)
        assert before[:2] == gpu.made()[:2]
        gpu.capturing = False
        del gpu.allocated[here:]  # workspaces of the graph's own, see runtime/cuda.py
    assert 3 + 2 * 7 == gpu.launches


def test_equal_weights_share_kernels(gpu: Gpu):
    weights = [weight_of(seed=seed) for seed in range(3)]
    model = torch.nn.ModuleList([QuantizedLinear.from_quantized(one) for one in weights])
    assert (1, 1, 0) == counts(warmup(model, (1,), progress=False))
    assert (1, 1, 1) == (gpu.launches, len(gpu.loaded), len(gpu.compiled))
    assert [1, 1, 1] == [len(one.calls) for one in weights]  # each is packed


def test_weights_that_are_cast_are_ready_too(gpu: Gpu):
    weight, bias = weight_of(32, 64, WIDE_CODEBOOK), torch.zeros(32)
    report = warmup(weight, (16, 64), bias=torch.float32, progress=False)
    assert (3, 3, 0) == counts(report) and 1 + 2 == gpu.launches
    before, gpu.capturing = gpu.made(), True
    for m in (9, 16, 64, 33):
        matmul(torch.zeros(m, 64).half(), weight, bias=bias)
    assert before == gpu.made() and 1 + 2 + 4 == gpu.launches


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: {"m": 17},
        lambda weight: {"bias": torch.zeros(N).half()},
        lambda weight: {"out_dtype": torch.float32},
        lambda weight: {"weight": weight_of(seed=1)},
        lambda weight: weight.scales.mul_(2) is None or {},
    ],
    ids=["more tokens", "a bias", "another result", "another weight", "a changed weight"],
)
def test_a_capture_refuses_what_is_not_ready(gpu: Gpu, change):
    weight = weight_of()
    warmup(weight, (16,), progress=False)
    before = gpu.made(), gpu.launches
    options = {"weight": weight, "m": 16, **change(weight)}
    x = torch.zeros(options.pop("m"), K).half()
    gpu.capturing = True
    with pytest.raises(TilusError, match="a CUDA graph is being captured") as info:
        matmul(x, **options)
    assert "tilus.ops.warmup(weight, tokens=...)" in str(info.value)
    assert before == (gpu.made(), gpu.launches)
    gpu.capturing = False
    matmul(x, **options)
    assert before[1] + 1 == gpu.launches


class Add(tilus.Script):
    def __call__(self, x_ptr: ~tilus.float32, y_ptr: ~tilus.float32):
        self.attrs.blocks = 1
        self.attrs.warps = 1
        g_x = self.global_view(x_ptr, dtype=tilus.float32, shape=[32])
        g_y = self.global_view(y_ptr, dtype=tilus.float32, shape=[32])
        self.store_global(g_y, self.load_global(g_x, offsets=[0], shape=[32]) + 1, offsets=[0])


def test_a_capture_refuses_to_compile_any_kernel(gpu: Gpu):
    x, kernel = torch.zeros(32), Add()
    gpu.capturing = True
    with pytest.raises(TilusError, match="add is not compiled yet"):
        kernel(x, x)
    assert [] == gpu.compiled
    gpu.capturing = False
    kernel(x, x)
    gpu.capturing = True
    kernel(x, x)
    assert (["add"], 2) == (gpu.compiled, gpu.launches)


def test_a_warm_up_in_a_capture_is_refused(gpu: Gpu):
    gpu.capturing = True
    with pytest.raises(TilusError, match="the warm-up is not done yet"):
        warmup(weight_of(), (1,), progress=False)


@pytest.mark.gpu
def test_a_graph_is_captured_and_replayed():
    weight, x = weight_of().cuda(), torch.randn(16, K).half().cuda()
    assert 1 == warmup(weight, (16,), progress=False).kernels
    out, graph = torch.empty(16, N).half().cuda(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        matmul(x, weight, out=out)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(matmul(x, weight), out)


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (lambda: 4, {}, ["nothing to warm up", "int"]),
        (lambda: torch.nn.Linear(4, 4), {}, ["no quantised layer", "quantize_model"]),
        (weight_of, {"tokens": ()}, ["numbers of tokens are positive"]),
        (weight_of, {"tokens": (1, 0)}, ["numbers of tokens are positive", "(1, 0)"]),
        (weight_of, {"dtype": torch.float32}, ["activations of this dtype", "float32"]),
        (weight_of, {"out_dtype": torch.int8}, ["the result is of a dtype", "int8"]),
        (weight_of, {"bias": torch.float64}, ["the bias is of a dtype", "float64"]),
        (
            lambda: QuantizedLinear.from_quantized(weight_of()),
            {"bias": torch.float16},
            ["own biases", "float16"],
        ),
        (lambda: weight_of().to("meta"), {}, ["a weight on meta", "load the weights"]),
    ],
)
def test_mistakes_are_named(arguments, options: dict[str, Any], words: list[str]):
    with pytest.raises(TilusError) as info:
        warmup(arguments(), **{"progress": False, **options})
    for word in words:
        assert word in str(info.value)
