"""Loading and launching: what the driver is told, and real launches where there is a device."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from tests.runtime.fakes import DeviceTensor, Status, make_kernel, unpack
from tilus import dtypes
from tilus.codegen.source import CudaSource, Workspace
from tilus.errors import TilusError
from tilus.ir.expr import const, mul
from tilus.ir.parser import parse_program
from tilus.runtime.build import build
from tilus.runtime.cuda import CudaKernel, connect
from tilus.target import get_current_target

ADD = "(n: int32 % 16, x: ~float32, y: ~float32) blocks=[(n + 255) // 256]"


def names(calls):
    return [name for name, *_ in calls]


# ---- one launch ---------------------------------------------------------------------------------


def test_what_the_driver_is_told():
    kernel, driver, _ = make_kernel(ADD, sizes=[4, 8, 8], shared_bytes=1024)
    kernel.launch([1024, DeviceTensor(4096), DeviceTensor(2**40)])
    (launch,) = driver.launches
    assert ("function", (4, 1, 1), (128, 1, 1), 1024, 70) == (
        launch.function, launch.grid, launch.block, launch.shared_bytes, launch.stream,
    )  # fmt: skip
    arguments = [unpack(*each) for each in zip("iQQ", launch.arguments, strict=True)]
    assert [1024, 4096, 2**40] == arguments


def test_a_kernel_is_loaded_once_on_each_device():
    kernel, driver, devices = make_kernel("(x: void_p) blocks=[1]", sizes=[8])
    for device in (0, 1, 0, 1):
        kernel.launch([DeviceTensor(4096, device)])
    assert 2 == names(driver.calls).count("cuModuleLoadData")
    assert [70, 71, 70, 71] == [launch.stream for launch in driver.launches]
    assert 0 == devices.current


def test_kernels_of_equal_code_share_a_module():
    kernel, driver, _ = make_kernel("() blocks=[1]")
    other = CudaKernel(kernel.binary, kernel.program, kernel._cuda)
    kernel.launch([])
    other.launch([])
    assert (1, 2) == (names(driver.calls).count("cuModuleLoadData"), len(driver.launches))


def test_the_current_stream_is_asked_for_at_every_launch():
    kernel, driver, devices = make_kernel("() blocks=[1]")
    for stream in (5, 6):
        devices.streams[0] = stream
        kernel.launch([])
    assert [5, 6] == [launch.stream for launch in driver.launches]


def test_without_tensors_the_current_device_is_used():
    kernel, driver, devices = make_kernel("(p: void_p) blocks=[1]", sizes=[8])
    devices.current = 1
    kernel.launch([4096])
    assert [71] == [launch.stream for launch in driver.launches]


def test_an_empty_grid_launches_nothing():
    kernel, driver, _ = make_kernel(ADD, sizes=[4, 8, 8])
    kernel.launch([0, DeviceTensor(0), DeviceTensor(0)])
    assert ([], []) == (driver.launches, driver.calls)


def test_numbers_that_python_cannot_pack():
    kernel, driver, _ = make_kernel("(a: bfloat16, b: int4b) blocks=[1]", sizes=[2, 1])
    kernel.launch([1.0, -1])
    assert [b"\x80\x3f", b"\x0f"] == driver.launches[0].arguments


def test_numbers_of_numpy():
    kernel, driver, _ = make_kernel(ADD, sizes=[4, 8, 8])
    kernel.launch([np.int64(2**31 - 256), DeviceTensor(0), DeviceTensor(0)])
    assert (2**23 - 1, 1, 1) == driver.launches[0].grid


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([16, 0], "f takes 3 arguments"),
        ([17, 0, 0], "the argument n breaks what the program was compiled for"),
        ([2**31, 0, 0], "the argument n is of the wrong kind"),
        ([16, "x", 0], "the argument x is of the wrong kind"),
        ([-256 * 16, 0, 0], "the grid does not fit in x"),
    ],
)
def test_bad_values_launch_nothing(values, message):
    kernel, driver, _ = make_kernel(ADD, sizes=[4, 8, 8])
    with pytest.raises(TilusError) as caught:
        kernel.launch(values)
    assert message == caught.value.message
    assert [] == driver.launches


def test_tensors_of_two_devices_launch_nothing():
    kernel, driver, _ = make_kernel(ADD, sizes=[4, 8, 8])
    with pytest.raises(TilusError) as caught:
        kernel.launch([16, DeviceTensor(0, 0), DeviceTensor(0, 1)])
    assert "x on cuda:0, y on cuda:1" == caught.value.found
    assert [] == driver.launches


def test_cpu_tensors_are_refused():
    kernel, driver, _ = make_kernel("(x: ~float32) blocks=[1]", sizes=[8])
    with pytest.raises(TilusError) as caught:
        kernel.launch([torch.zeros(4)])
    assert ("a tensor on the CPU", []) == (caught.value.found, driver.launches)


def test_a_refused_launch_says_what_the_driver_says():
    fails = {"cuLaunchKernel": Status.CUDA_ERROR_INVALID_VALUE}
    kernel, _, _ = make_kernel("() blocks=[1]", fails=fails)
    with pytest.raises(TilusError) as caught:
        kernel.launch([])
    assert "the launch of f failed" == caught.value.message
    assert "CUDA_ERROR_INVALID_VALUE: words of the driver" == caught.value.found


# ---- loading ------------------------------------------------------------------------------------


def test_a_cubin_for_another_device_names_the_target():
    fails = {"cuModuleLoadData": Status.CUDA_ERROR_NO_BINARY_FOR_GPU}
    kernel, driver, _ = make_kernel("() blocks=[1]", fails=fails)
    with pytest.raises(TilusError) as caught:
        kernel.launch([])
    assert "loading f, compiled for sm_90a, failed" == caught.value.message
    driver.fails.clear()
    kernel.launch([])  # a failure is not remembered
    assert 1 == len(driver.launches)


@pytest.mark.parametrize(
    ("dynamic", "static", "raised"),
    [(48 * 1024, 0, []), (48 * 1024, 4, [48 * 1024]), (100_000, 0, [100_000]), (0, 49152, [])],
)
def test_dynamic_shared_memory_is_allowed_where_there_is_much(dynamic, static, raised):
    kernel, driver, _ = make_kernel("() blocks=[1]", shared_bytes=dynamic, static_shared=static)
    kernel.launch([])
    set_to = [call for call in driver.calls if call[0] == "cuFuncSetAttribute"]
    assert [("cuFuncSetAttribute", "function", 8, size) for size in raised] == set_to
    assert dynamic == driver.launches[0].shared_bytes


def test_equal_code_with_more_shared_memory_is_allowed_it_too():
    kernel, driver, _ = make_kernel("() blocks=[1]", shared_bytes=50_000)
    source = CudaSource("f", "", 128, shared_bytes=100_000)
    binary = type(kernel.binary)(source, kernel.binary.target, kernel.binary.code)
    kernel.launch([])
    CudaKernel(binary, kernel.program, kernel._cuda).launch([])
    raised = [call[-1] for call in driver.calls if call[0] == "cuFuncSetAttribute"]
    assert [50_000, 100_000] == raised


def test_more_shared_memory_than_the_device_has():
    kernel, driver, _ = make_kernel("() blocks=[1]", shared_bytes=100_000, shared_limit=99_000)
    with pytest.raises(TilusError) as caught:
        kernel.launch([])
    assert "100000 bytes a block" == caught.value.found
    assert "at most 99000 bytes on device 0" == caught.value.expected
    assert [] == driver.launches


def test_nothing_is_loaded_during_a_capture_unless_warmed_up():
    kernel, driver, devices = make_kernel("() blocks=[1]")
    devices.capturing = True
    with pytest.raises(TilusError) as caught:
        kernel.launch([])
    assert "warmup()" in caught.value.hint
    devices.capturing = False
    kernel.warmup()
    devices.capturing = True
    kernel.launch([])
    assert 1 == len(driver.launches)


def test_warmup_on_another_device():
    kernel, driver, devices = make_kernel("() blocks=[1]")
    kernel.warmup(1)
    assert ("cuDeviceGet", 1) in driver.calls
    assert 0 == devices.current


def test_each_thread_gets_the_context_of_the_device():
    kernel, driver, _ = make_kernel("() blocks=[1]")
    for _ in range(2):
        kernel.launch([])
        thread = threading.Thread(target=lambda: [kernel.launch([]), kernel.launch([])])
        thread.start()
        thread.join()
    entered = [call for call in driver.calls if call[0] == "cuCtxSetCurrent"]
    assert [("cuCtxSetCurrent", "context of device 0")] * 3 == entered
    assert 6 == len(driver.launches)


def test_threads_do_not_mix_their_arguments():
    kernel, driver, _ = make_kernel("(a: int64, b: int64) blocks=[1]", sizes=[8, 8])

    def work(start):
        for value in range(start, start + 200):
            kernel.launch([value, -value])

    threads = [threading.Thread(target=work, args=(1000 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pairs = [tuple(unpack("q", a) for a in launch.arguments) for launch in driver.launches]
    assert all(a == -b for a, b in pairs)
    assert {1000 * i + j for i in range(4) for j in range(200)} == {a for a, _ in pairs}


# ---- workspaces ---------------------------------------------------------------------------------

N = parse_program("kernel f(n: int32) blocks=[1] warps=1:\n    pass").params[0].var


def workspace_kernel():
    """A kernel of n: a clean workspace of 4 n bytes, a scratch one of 8, another clean one of 4."""
    kernel, driver, devices = make_kernel("(n: int32) blocks=[1]", sizes=[4, 8, 8, 8])
    n = kernel.program.params[0].var
    spaces = (Workspace(mul(n, 4), True), Workspace(const(8)), Workspace(const(4), True))
    source = CudaSource("f", "", 128, workspaces=spaces)
    binary = type(kernel.binary)(source, kernel.binary.target, kernel.binary.code)
    return CudaKernel(binary, kernel.program, kernel._cuda), driver, devices


def addresses(launch):
    return [unpack("Q", argument) for argument in launch.arguments[1:]]


def test_workspaces_follow_the_parameters_and_lie_apart():
    kernel, driver, devices = workspace_kernel()
    kernel.launch([100])
    first, scratch, second = addresses(driver.launches[0])
    assert 512 == second - first  # 400 bytes, and what aligns the next one
    assert [(65536, 0, 70, True), (65536, 0, 70, False)] == devices.allocated
    assert scratch not in (first, second)


def test_launches_on_a_stream_share_their_workspaces():
    kernel, driver, devices = workspace_kernel()
    kernel.launch([100])
    kernel.launch([50])
    assert addresses(driver.launches[0])[:2] == addresses(driver.launches[1])[:2]
    devices.streams[0] = 72
    kernel.launch([100])
    assert not set(addresses(driver.launches[0])) & set(addresses(driver.launches[2]))
    assert [70, 70, 72, 72] == [stream for _, _, stream, _ in devices.allocated]


def test_a_workspace_grows_and_is_clean_again():
    kernel, _, devices = workspace_kernel()
    for n in (100, 16385, 100, 16385):
        kernel.launch([n])
    assert [65536, 65536, 131072] == [nbytes for nbytes, *_ in devices.allocated]
    assert devices.allocated[2][3]


def test_a_captured_launch_has_its_own_workspaces():
    kernel, driver, devices = workspace_kernel()
    kernel.launch([100])
    devices.capturing = True
    kernel.launch([100])
    assert addresses(driver.launches[0]) != addresses(driver.launches[1])
    assert [(768, 0, 70, True), (256, 0, 70, False)] == devices.allocated[2:]
    devices.capturing = False
    kernel.launch([100])
    assert addresses(driver.launches[0]) == addresses(driver.launches[2])


def test_an_empty_workspace_takes_no_memory():
    kernel, driver, devices = make_kernel(
        "() blocks=[1]", sizes=[8], workspaces=[Workspace(const(0))]
    )
    kernel.launch([])
    assert ([], [b"\0" * 8]) == (devices.allocated, driver.launches[0].arguments)


def test_without_a_device_the_reason_is_given(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    connect.cache_clear()
    kernel, _, _ = make_kernel("() blocks=[1]")
    kernel._cuda = None
    with pytest.raises(TilusError) as caught:
        kernel.launch([])
    assert "there is no CUDA device to run on" == caught.value.message


# ---- on a device --------------------------------------------------------------------------------

SCALE = """
extern "C" __global__ void scale(int n, float factor, float* x) {
    extern __shared__ float buffer[];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    buffer[threadIdx.x] = i < n ? x[i] : 0.0f;
    __syncthreads();
    if (i < n) x[i] = factor * buffer[threadIdx.x];
}
"""
# The last block to arrive adds up what the blocks left in scratch, and restores the counter.
TOTAL = """
extern "C" __global__ void total(int n, const int* x, int* out, unsigned* counter, int* sums) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        int sum = 0;
        for (int i = blockIdx.x * 128; i < n && i < (blockIdx.x + 1) * 128; i++) sum += x[i];
        sums[blockIdx.x] = sum;
        __threadfence();
        last = atomicAdd(counter, 1u) == gridDim.x - 1;
        if (last) {
            int all = 0;
            for (int b = 0; b < gridDim.x; b++) all += ((volatile int*)sums)[b];
            *out = all;
            *counter = 0;
        }
    }
}
"""
SPIN = """
extern "C" __global__ void spin(int* x) {
    long long start = clock64();
    while (clock64() - start < 20000000) {}
    if (threadIdx.x == 0) *x += 1;
}
"""


def real_kernel(name, text, head, shared_bytes=0, workspaces=lambda *params: ()):
    program = parse_program(f"kernel {name}{head} warps=4:\n    pass")
    spaces = tuple(workspaces(*(param.var for param in program.params)))
    source = CudaSource(name, text, 128, shared_bytes, spaces)
    return CudaKernel(build(source, get_current_target()), program)


def scale(shared_bytes=512):
    head = "(n: int32, factor: float32, x: ~float32) blocks=[(n + 127) // 128]"
    return real_kernel("scale", SCALE, head, shared_bytes)


def total():
    head = "(n: int32, x: ~int32, out: ~int32) blocks=[(n + 127) // 128]"
    return real_kernel(
        "total",
        TOTAL,
        head,
        workspaces=lambda n, x, out: (
            Workspace(const(4), clean=True),
            Workspace(mul((n + 127) // 128, 4)),
        ),
    )


@pytest.mark.gpu
def test_gpu_a_launch():
    x = torch.arange(1000, dtype=torch.float32, device="cuda")
    scale().launch([1000, 0.5, x])
    assert torch.equal(torch.arange(1000, device="cuda") * 0.5, x)


@pytest.mark.gpu
def test_gpu_dynamic_shared_memory_up_to_the_limit():
    limit = get_current_target().properties.shared_memory_per_block
    x = torch.ones(256, device="cuda")
    scale(limit).launch([256, 3.0, x])
    assert torch.equal(torch.full_like(x, 3.0), x)
    with pytest.raises(TilusError) as caught:
        scale(limit + 4).launch([256, 3.0, x])
    assert "more shared memory than the device has" in caught.value.message


@pytest.mark.gpu
def test_gpu_workspaces_are_clean_at_every_launch():
    kernel, out = total(), torch.zeros(1, dtype=torch.int32, device="cuda")
    for n in (100, 5000, 128, 3_000_000, 129):
        x = torch.arange(n, dtype=torch.int32, device="cuda") % 7
        kernel.launch([n, x, out])
        assert int(x.sum()) == int(out)


@pytest.mark.gpu
def test_gpu_streams_do_not_wait_for_each_other_nor_share_workspaces():
    kernel = total()
    streams = [torch.cuda.Stream() for _ in range(2)]
    x = torch.ones(2_000_000, dtype=torch.int32, device="cuda")
    outs = [torch.zeros(50, dtype=torch.int32, device="cuda") for _ in streams]
    torch.cuda.synchronize()
    for index in range(50):
        for stream, out in zip(streams, outs, strict=True):
            with torch.cuda.stream(stream):
                kernel.launch([len(x), x, out[index:]])
    torch.cuda.synchronize()
    for out in outs:
        assert torch.equal(torch.full_like(out, len(x)), out)


@pytest.mark.gpu
def test_gpu_a_launch_is_ordered_on_the_current_stream():
    spin = real_kernel("spin", SPIN, "(x: ~int32) blocks=[1]")
    stream, x = torch.cuda.Stream(), torch.zeros(1, dtype=torch.int32, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(3):
            spin.launch([x])
        done = x.clone()
    assert not stream.query()  # the launches have returned before the kernels ended
    stream.synchronize()
    assert 3 == int(done)


@pytest.mark.gpu
def test_gpu_a_graph_is_captured_and_replayed():
    double, add = scale(), total()
    x = torch.ones(1024, device="cuda")
    ones = torch.ones(1000, dtype=torch.int32, device="cuda")
    out = torch.zeros(1, dtype=torch.int32, device="cuda")
    double.warmup()
    add.warmup()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        double.launch([1024, 2.0, x])
        add.launch([1000, ones, out])
    assert 1.0 == float(x[0])  # captured, not run
    for _ in range(3):
        out.zero_()
        graph.replay()
        add.launch([500, ones, x.new_zeros(1, dtype=torch.int32)])
        assert 1000 == int(out)
    assert torch.equal(torch.full_like(x, 8.0), x)


@pytest.mark.gpu
def test_gpu_a_cold_kernel_in_a_capture_says_so():
    text = SCALE.replace("scale(", "cold(")
    kernel = real_kernel("cold", text, "(n: int32, factor: float32, x: ~float32) blocks=[1]", 512)
    x = torch.ones(128, device="cuda")
    with pytest.raises(TilusError) as caught, torch.cuda.graph(torch.cuda.CUDAGraph()):
        kernel.launch([128, 2.0, x])
    assert "warmup()" in caught.value.hint
    kernel.launch([128, 2.0, x])
    assert 2.0 == float(x[0])


@pytest.mark.gpu
def test_gpu_threads_launch_at_once():
    kernel = scale()
    tensors = [torch.ones(4096, device="cuda") for _ in range(4)]
    torch.cuda.synchronize()
    failures = []

    def work(x):
        try:  # a thread that has not used CUDA before
            for _ in range(10):
                kernel.launch([4096, 2.0, x])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(x,)) for x in tensors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == failures
    for x in tensors:
        assert torch.equal(torch.full_like(x, 1024.0), x)


@pytest.mark.gpu
def test_gpu_the_device_is_that_of_the_tensors():
    if torch.cuda.device_count() < 2:  # what is tested is the choice between two
        pytest.skip("needs two CUDA devices")
    kernel = scale()
    for device in (1, 0, 1):
        x = torch.ones(100, device=f"cuda:{device}")
        kernel.launch([100, 2.0, x])
        assert 200.0 == float(x.sum())
    assert 0 == torch.cuda.current_device()


@pytest.mark.gpu
def test_gpu_every_scalar_type():
    types = {"int8": "signed char", "uint16": "unsigned short", "int64": "long long",
             "float64": "double", "boolean": "bool", "float32": "float"}  # fmt: skip
    params = ", ".join(f"{c} a{i}" for i, c in enumerate(types.values()))
    stores = "".join(f"out[{i}] = a{i};" for i in range(len(types)))
    text = (
        f'extern "C" __global__ void scalars({params}, double* out) '
        f"{{ if (threadIdx.x == 0) {{ {stores} }} }}"
    )
    names = [str(dtypes.dtype_from_name(name)) for name in types]
    head = ", ".join(f"a{i}: {name}" for i, name in enumerate(names))
    out = torch.zeros(len(types), dtype=torch.float64, device="cuda")
    values = [-100, 65535, -(2**40), 0.1, True, 0.5]
    real_kernel("scalars", text, f"({head}, out: ~float64) blocks=[1]").launch([*values, out])
    assert [float(value) for value in values] == out.tolist()
