"""Peers as they are installed: what they pack, take and compute, as far as the CPU can tell.

Each test needs one package and is skipped without it. GemLite runs in Triton's interpreter; kernels
of Humming and Marlin run on the PTX emulator of this project. CUTLASS needs a GPU, so only its
interface is read.

The surprise: what needs changes to torch or to a package (they ask for a GPU when imported, and
assert that tensors are on it) is a function of this file that another Python runs, without asserts,
and that returns what it found as JSON.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from shutil import which
from types import SimpleNamespace

import pytest
import torch

from benchmarks.peers import PEERS, Prepared, Problem, check, gemlite, humming, marlin
from benchmarks.peers.codes import activation_of, integer_bits, round_weight, type_of
from benchmarks.peers.cutlass import pack_pairs
from benchmarks.peers.installed import version_of
from tilus.ops.codes import unpack_bits
from tilus.ptx.launch import execute
from tilus.ptx.memory import GlobalMemory, SharedMemory
from tilus.ptx.parse import parse_ptx

ROOT = Path(__file__).parents[2]
GROUP = 128
HOPPER = SimpleNamespace(
    name="none", major=9, minor=0, multi_processor_count=132, total_memory=1 << 36,
    index=0, sm_version=90, sm_major=9, sm_minor=0, sm_count=132, is_ppu=False,
)  # fmt: skip


def needs(*packages):
    absent = [package for package in packages if version_of(package) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}")


def needs_command(name):
    return pytest.mark.skipif(which(name) is None, reason=f"there is no {name}")


def weight(n, k):
    """Each row and each group has a scale of its own."""
    scales = torch.arange(1, n + 1)[:, None] * torch.tensor([1.0, 7.0]).repeat(k // 256)
    random = torch.randn(n, k, generator=torch.Generator().manual_seed(0))
    return 0.001 * random * scales.repeat_interleave(GROUP, 1)


def tokens(problem):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(problem.m, problem.k, generator=generator).to(activation_of(problem))


def elsewhere(function, *arguments, **environment):
    """What a function of this file returns in another Python, in which nothing is asserted."""
    code = (
        "import json, sys; from tests.benchmarks import test_peers_installed as tests; "
        f"print(json.dumps(tests.{function.__name__}(*json.loads(sys.argv[1]))))"
    )
    result = subprocess.run(
        [sys.executable, "-O", "-c", code, json.dumps(arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == result.returncode, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def run_ptx(kernel, values, grid, threads, shared_bytes=0):
    """Run a kernel on the emulator; tensors are its pointers, an empty one is null."""
    memory, params = GlobalMemory(), []
    for (name, kind), value in zip(kernel.params, values, strict=True):
        if isinstance(value, torch.Tensor):
            part = value.reshape(-1).view(torch.uint8).numpy()
            value = memory.add(name, part) if value.numel() else 0
        params.append((kind, int(value or 0)))
    memory.load()
    execute(kernel, params, memory, grid, threads, shared_bytes)
    memory.store()


# ---- GemLite -------------------------------------------------------------------------------------

GEMLITE_TYPES = ["u1", "u2", "u4", "u8", "i4", "e4m3", "e5m2"]


def import_gemlite():
    """It asks the GPU for its name, and Triton for its driver."""
    import triton
    from triton.backends.compiler import GPUTarget

    torch.cuda.get_device_properties = lambda *_: HOPPER
    torch.cuda.get_device_capability = lambda *_: (9, 0)
    limits = {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32}
    triton.runtime.driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: GPUTarget("cuda", 90, 32),
            get_current_device=lambda: 0,
            get_benchmarker=lambda: lambda *_, **__: [1.0, 1.0, 1.0],
            get_device_interface=lambda: torch.cuda,
            utils=SimpleNamespace(get_device_properties=lambda _: limits),
        )
    )
    import gemlite as package

    return package


def gemlite_layer(package, problem):
    bits = integer_bits(problem.dtype)
    name = problem.dtype if bits is None else f"u{bits}"
    w = weight(problem.n, problem.k)
    rounded = round_weight(w, name, problem.group_size, activation_of(problem))
    return gemlite.layer_of(package, rounded, problem, bits), rounded.weight


def unpacked(layer, problem):
    """The weight [n, k] that the tensors of a layer of GemLite stand for."""
    values = layer.W_q
    if values.dtype == torch.int32:
        rows = torch.arange(problem.k)
        shifts = rows % layer.elements_per_sample * layer.W_nbits
        words = values.long()[rows // layer.elements_per_sample]
        values = (words >> shifts[:, None] & layer.unpack_mask) - layer.zeros
    return (values.float() * layer.scales.float().repeat_interleave(problem.group_size, 0)).T


def what_gemlite_packs():
    package = import_gemlite()
    found = {}
    for activation in ("float16", "bfloat16"):
        for dtype in GEMLITE_TYPES:
            problem = Problem(1, 64, 256, dtype, activation=activation)
            layer, expected = gemlite_layer(package, problem)
            nbytes = layer.W_q.nbytes + layer.scales.nbytes
            bits = int(type_of(dtype).nbits)
            found[f"{dtype} {activation}"] = [
                torch.equal(unpacked(layer, problem), expected),
                nbytes == 64 * 256 * bits // 8 + 2 * 64 * 256 // GROUP,
            ]
    return found


@needs("gemlite", "triton")
def test_gemlite_packs_the_weight_that_it_is_said_to_multiply_by():
    found = elsewhere(what_gemlite_packs, TRITON_INTERPRET="1")
    assert 2 * len(GEMLITE_TYPES) == len(found)
    assert {} == {name: right for name, right in found.items() if right != [True, True]}


def products_of_gemlite(dtype, n, k):
    package = import_gemlite()
    peer = PEERS["gemlite"]
    layer, expected = gemlite_layer(package, Problem(1, n, k, dtype))
    prepared = Prepared(layer, expected, 0)
    return [check(peer, prepared, tokens(Problem(m, n, k, dtype))) for m in (1, 4, 16)]


@needs("gemlite", "triton")
@pytest.mark.parametrize(
    ("dtype", "n", "k"), [("u4", 64, 2048), ("u8", 256, 1024), ("e4m3", 256, 1024)]
)
def test_kernels_of_gemlite_in_tritons_interpreter(dtype, n, k):
    """For few tokens it adds up parts of 16 weights in float16, which is as wrong as we say."""
    one, few, some = elsewhere(products_of_gemlite, dtype, n, k, TRITON_INTERPRET="1")
    assert 0 < some < 4
    assert (one > 5 and few > 5) == (dtype == "u4")


# ---- Humming -------------------------------------------------------------------------------------

HUMMING_TYPES = [*(f"u{bits}" for bits in range(1, 9)), "i4", "e2m1", "e3m2", "e4m3", "e5m2"]


def emulate_humming():
    """Its kernels are compiled to PTX, and launched on the emulator with tensors of the CPU."""
    torch.version.cuda = "13.0"  # it looks for the headers of that release
    torch.cuda.current_device = lambda: torch.device("cpu")
    torch.cuda.current_stream = lambda _=None: SimpleNamespace(cuda_stream=0)
    torch.Tensor.cuda = lambda tensor: tensor
    tensors, address_of = {}, torch.Tensor.data_ptr

    def remembered_address(tensor):
        tensors[address_of(tensor)] = tensor
        return address_of(tensor)

    def launch(config, kernel, arguments, _):
        pairs = zip(*arguments, strict=True)
        values = [tensors.get(v, 0) if kind is ctypes.c_void_p else v for v, kind in pairs]
        grid = (config.gridDimX, config.gridDimY, config.gridDimZ)
        run_ptx(kernel, values, grid, config.blockDimX, config.sharedMemBytes)

    torch.Tensor.data_ptr = remembered_address
    import cuda.bindings.driver
    from humming import device
    from humming.jit.runtime import KernelRuntime

    device.DeviceInfo.__new__ = lambda *_: device.current_device
    device.DeviceInfo._get_value = lambda _: HOPPER
    cuda.bindings.driver.cuLaunchKernelEx = launch
    KernelRuntime.prepare = lambda kernel: None
    KernelRuntime.load_cubin = lambda kernel: humming_ptx(kernel.code, kernel.kernel_expr)


@cache
def humming_ptx(code, name):
    from cuda.bindings import nvrtc
    from humming.jit.compiler import NVRTCCompiler

    headers = {key.encode(): text.encode() for key, text in NVRTCCompiler._STD_HEADER_SHIMS.items()}
    _, program = nvrtc.nvrtcCreateProgram(
        code.encode(), b"kernel.cu", len(headers), [*headers.values()], [*headers]
    )
    nvrtc.nvrtcAddNameExpression(program, " ".join(name.split()).encode())
    flags = ["--gpu-architecture=compute_90a", "-std=c++17", "-default-device"]
    flags += ["-DHUMMING_DEBUG_KERNEL=0", *(f"-I{d}" for d in NVRTCCompiler._get_include_dirs())]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(flags), [flag.encode() for flag in flags])
    if status:
        raise RuntimeError(f"{name}: {status}")
    text = b" " * nvrtc.nvrtcGetPTXSize(program)[1]
    nvrtc.nvrtcGetPTX(program, text)
    return parse_ptx(text.decode().rstrip("\0"))


def decoded(loaded, problem):
    """The weight [n, k] that the tensors of a layer of Humming stand for, before it rearranges."""
    of, shape = type_of(problem.dtype), (problem.n, problem.k)
    stream = loaded["weight"].reshape(-1).view(torch.uint8)
    codes = unpack_bits(stream, of.nbits, problem.n * problem.k).reshape(shape)
    if of.is_integer():
        values = codes.double() - (1 << (of.nbits - 1))
    else:
        values = torch.from_numpy(of.decode(of.from_bits(codes.numpy())).astype("float64"))
    scales = loaded["weight_scale"].double().repeat_interleave(problem.group_size, 1)
    return (values * scales).float()


def what_humming_loads(activation, types):
    emulate_humming()
    n, k = 64, 256
    w, found = weight(n, k), {}
    for dtype in types:
        problem = Problem(1, n, k, dtype, activation=activation)
        loaded, exact = humming.rounded_by_it(w, problem)
        layer = humming.layer_of(problem, w.device)
        layer.load_from_tensors(loaded)
        layer.transform()
        nbytes = sum(getattr(layer, part).nbytes for part in humming.PARTS)
        bits = int(type_of(dtype).nbits)
        found[dtype] = [
            torch.equal(decoded(loaded, problem), exact),
            float((exact - w).square().mean().sqrt() / w.square().mean().sqrt()),
            nbytes == n * k * bits // 8 + 2 * n * k // GROUP,
        ]
    return found


@needs("humming-kernels", "nvidia-cuda-nvrtc", "cuda-bindings")
@pytest.mark.parametrize(
    ("activation", "types"), [("float16", HUMMING_TYPES), ("bfloat16", ["u3", "u8", "e4m3"])]
)
def test_what_humming_loads_is_the_weight_that_it_is_said_to_multiply_by(activation, types):
    """Its kernels quantise, pack, unpack and dequantise, and rearrange to as many bytes."""
    found = elsewhere(what_humming_loads, activation, types)
    assert types == list(found)
    for dtype, (equal, error, bytes_are_right) in found.items():
        assert equal and bytes_are_right, dtype
        assert error < 4 / (1 << int(dtype[1])) if dtype[0] == "u" else error < 0.2


# ---- Marlin --------------------------------------------------------------------------------------

MARLIN_NAMES = {"u4": "kU4B8", "i4": "kU4B8", "u8": "kU8B128", "i8": "kU8B128", "e4m3": "kFE4M3fn"}
THREADS, SHARED_BYTES = 256, 96 << 10


@pytest.fixture
def hopper(monkeypatch, tmp_path):
    """A GPU as far as compilers ask, and a folder of their own; variables that the adapter sets."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setenv("CUDA_HOME", str(marlin._toolkit()))
    monkeypatch.setenv("TVM_FFI_CUDA_ARCH_LIST", "")
    monkeypatch.setenv("TVM_FFI_CACHE_DIR", str(tmp_path))
    return tmp_path


def names_of_parameters(text, function):
    """
    >>> names_of_parameters("void f(int64_t a, View const& b) {", "f")
    ['a', 'b']
    """
    (found,) = re.findall(rf"\bvoid {function}\((.*?)\)\s*{{", text, re.S)
    return [part.split()[-1].lstrip("&*") for part in found.split(",")]


@needs("sglang")
def test_the_functions_of_marlin():
    """Their parameters, in the order in which the adapter passes them."""
    folder = marlin._sources() / "csrc" / "gemm" / "marlin"
    gemm = names_of_parameters((folder / "gptq_marlin.cuh").read_text(), "gptq_marlin_gemm")
    expected = (
        "a b_q_weight b_scales global_scale b_zeros g_idx perm c c_tmp a_tmp workspace b_q_type_id "
        "is_k_full use_atomic_add use_fp32_reduce is_zp_float"
    )
    assert expected.split() == gemm
    text = (folder / "gptq_marlin_repack.cuh").read_text()
    repack = names_of_parameters(text, "gptq_marlin_repack")
    assert ["b_q_weight", "perm", "out", "size_k", "size_n", "num_bits"] == repack


@needs("sglang")
@needs_command("c++")
@pytest.mark.parametrize("dtype", MARLIN_NAMES)
def test_numbers_of_types_as_its_header_has_them(dtype, tmp_path):
    headers = ("cstdint", "cstdio", "string", "tuple", "type_traits", "utility")
    source = tmp_path / "number.cpp"
    source.write_text(
        "".join(f"#include <{name}>\n" for name in (*headers, "sgl_kernel/scalar_type.hpp"))
        + marlin.OPENED
        + f'int main() {{ printf("%lld", (long long)host::{MARLIN_NAMES[dtype]}.id()); }}\n'
    )
    include = marlin._sources() / "include"
    program = tmp_path / "number"
    subprocess.run(["c++", "-std=c++20", f"-I{include}", source, "-o", program], check=True)
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert int(printed) == marlin.form_of(dtype).number


@needs("apache-tvm-ffi")
def test_what_tvm_ffi_is_asked_for():
    import tvm_ffi.cpp

    asked = ("cuda_sources", "extra_cflags", "extra_cuda_cflags", "extra_include_paths")
    inspect.signature(tvm_ffi.cpp.load_inline).bind("name", **{key: [] for key in asked})


@needs("sglang", "apache-tvm-ffi")
@needs_command("nvcc")
@needs_command("ninja")
def test_the_smaller_file_of_marlin_is_compiled(hopper):
    """And loaded; the larger one takes minutes."""
    module = marlin._compiled(
        "marlin_repack", "gptq_marlin_repack.cuh", "gptq_marlin_repack", "gptq_marlin_repack"
    )
    assert callable(module.gptq_marlin_repack)
    assert "9.0" == os.environ["TVM_FFI_CUDA_ARCH_LIST"]


def marlin_ptx(folder, text, name):
    """The kernel with that in its name, of a text compiled by nvcc with the adapter's flags."""
    from tvm_ffi.libinfo import find_dlpack_include_path, find_include_path

    source, ptx = folder / f"{name}.cu", folder / f"{name}.ptx"
    source.write_text(marlin.OPENED + text)
    sources = marlin._sources()
    places = (sources / "include", find_include_path(), find_dlpack_include_path())
    command = [
        "nvcc", "-ptx", "-arch=compute_90", "-DSGL_CUDA_ARCH=900", *marlin.FLAGS,
        *(f"-I{place}" for place in (*places, sources / "csrc" / "gemm" / "marlin")),
        source, "-o", ptx,
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == result.returncode, result.stderr[-3000:]
    head, *kernels = re.split(r"(?=^\.(?:visible|weak) \.entry )", ptx.read_text(), flags=re.M)
    (kernel,) = (kernel for kernel in kernels if name in kernel.split("(")[0])
    return parse_ptx(head + kernel)


def repack_on_emulator(folder, words, order, packed, k, n, bits):
    types = "uint32_t const*, uint32_t const*, uint32_t*, int, int"
    text = (
        '#include "gptq_marlin_repack.cuh"\n'
        "template __global__ void device::marlin::"
        f"gptq_marlin_repack_kernel<{THREADS}, {bits}, false>({types});\n"
    )
    name = f"gptq_marlin_repack_kernelILi{THREADS}ELi{bits}ELb0E"
    kernel = marlin_ptx(folder, text.replace("*,", "* __restrict__,"), name)
    run_ptx(kernel, (words, order, packed, k, n), (2, 1, 1), THREADS, SHARED_BYTES)


def multiply_on_emulator(
    folder, name, a, b, scales, global_scale, zeros, g_idx, order, c, partial_sums, a_tmp, locks,
    number, is_k_full, atomic, in_float32, float_zeros,
):  # fmt: skip
    """By two blocks with tiles of 128 x 128, as the package chooses for up to 16 tokens."""
    element = "half" if a.dtype == torch.float16 else "nv_bfloat16"
    text = (
        '#include <sgl_kernel/tensor.h>\n#include "kernel.h"\n#include "marlin_template.h"\n'
        f"template __global__ void device::marlin::Marlin<{element}, host::{name}.id(), {THREADS}, "
        f"1, 8, 8, {str(len(a) <= 8).lower()}, 4, 8, false>(MARLIN_KERNEL_PARAMS);\n"
    )
    values = (
        a, b, c, partial_sums, scales, global_scale, zeros, g_idx, scales.shape[0], *a.shape[:1],
        scales.shape[1], a.shape[1], a.stride(0), locks, atomic, in_float32, SHARED_BYTES,
    )  # fmt: skip
    run_ptx(marlin_ptx(folder, text, "Marlin"), values, (2, 1, 1), THREADS, SHARED_BYTES)
    assert 0 == locks.abs().max()


@needs("sglang", "apache-tvm-ffi")
@needs_command("nvcc")
@pytest.mark.parametrize(
    ("dtype", "activation", "m"),
    [
        ("u4", "float16", 8), ("i4", "bfloat16", 16), ("i8", "float16", 8), ("u8", "bfloat16", 8),
        ("e4m3", "float16", 16), ("e4m3", "bfloat16", 8),
    ],
)  # fmt: skip
def test_kernels_of_marlin_on_the_emulator(hopper, monkeypatch, dtype, activation, m):
    """What the adapter packs, permutes and scales is what they multiply by."""
    monkeypatch.setattr(marlin, "multiprocessors", lambda _: 2)
    # They read ahead, behind the last tile, what they do not use.
    monkeypatch.setattr(SharedMemory, "check_readable", lambda *_: None)
    problem = Problem(m, 128, 256, dtype, activation=activation)
    functions = (
        partial(multiply_on_emulator, hopper, MARLIN_NAMES[dtype]),
        partial(repack_on_emulator, hopper),
    )
    prepared = marlin.prepare(weight(128, 256), problem, lambda _: functions)
    assert check(PEERS["marlin"], prepared, tokens(problem)) < 3


# ---- CUTLASS -------------------------------------------------------------------------------------

SCHEMAS = [
    "preshuffle_i4(Tensor WQ, Tensor w_scale) -> (Tensor, Tensor)",
    "bf16i4bf16_shuffled(Tensor X, Tensor W, Tensor w_scale_group, Tensor w_zero_group) -> Tensor",
]


@needs("mslk-cuda")
@pytest.mark.parametrize("schema", SCHEMAS, ids=["shuffle", "multiply"])
def test_the_operators_of_mslk(schema):
    """As the library registers them; it is loaded only where torch is a build for CUDA."""
    files = importlib.metadata.files("mslk-cuda") or ()
    (library,) = (file for file in files if file.name == "mslk.so")
    assert f"\0{schema}\0".encode() in Path(str(library.locate())).read_bytes()


def what_mslk_packs():
    from mslk.quantize.shuffle import int4_row_quantize_zp, pack_int4

    w = weight(16, 256)
    codes, scales, zeros = int4_row_quantize_zp(w, GROUP)
    spread = [part.T.repeat_interleave(GROUP, 1) for part in (scales, zeros)]
    off = (codes * spread[0] + spread[1] - w).abs() / spread[0]
    rounded = round_weight(w, "i4", GROUP, torch.bfloat16)
    signed = (rounded.codes << 4).view(torch.int8) >> 4
    return {
        "shape": list(scales.shape),
        "steps": float(off.max()),
        "packed": torch.equal(pack_int4(signed), pack_pairs(rounded.codes)),
    }


@needs("mslk-cuda", "triton")
def test_weights_are_packed_as_the_quantiser_of_mslk_does():
    """code * scale + zero is within half a step of the weight: zeros are added."""
    found = elsewhere(what_mslk_packs, MSLK_PYTHON_ONLY="1")
    assert found["packed"] and found["shape"] == [2, 16] and found["steps"] < 0.51
