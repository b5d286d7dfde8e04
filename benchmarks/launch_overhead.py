"""What a launch costs in Python: arguments, grid, stream and workspaces, with the driver stubbed.

    python benchmarks/launch_overhead.py        # writes benchmarks/results/launch_overhead.json

No GPU is needed: torch's CPU tensors give the addresses, and a function that does nothing stands in
for cuLaunchKernel and for torch's device queries. `bind` is the part that reads the arguments. The
target is 5 us a launch.

A library call is all of it from the operator of torch on: the checks of the operands, finding what
was prepared from the weight, and the launch. Beside it stands what torch takes for an operator of
the same arguments that does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import timeit
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from provenance import machine
from tabulate import tabulate

import tilus
from tilus.codegen.source import CudaSource, Workspace
from tilus.ir.expr import const, mul
from tilus.ir.parser import parse_program
from tilus.nn import QuantizedLinear
from tilus.ops.library import OPERANDS
from tilus.runtime.build import Binary, Code
from tilus.runtime.cuda import Cuda, CudaKernel
from tilus.target import DEFAULT_TARGET

TARGET_MICROSECONDS = 5.0
CALLS = 2000
RESULTS = Path(__file__).parent / "results" / "launch_overhead.json"
M, N, K, GROUP = 16, 4096, 4096, 128

ADD = "(n: int32 % 16, x: ~float32 % 16, y: ~float32 % 16) blocks=[(n + 255) // 256]"
MATMUL = (
    "(m: int32, n: int32 % 16, k: int32 % 16, a: ~float16 % 16, b: ~uint8 % 16, "
    "scales: ~float16 % 16, zeros: ~float16 % 16, c: ~float16 % 16) "
    "blocks=[(m + 15) // 16, (n + 127) // 128]"
)


class StubDevices:
    """Device 0 with its default stream, and memory on the CPU."""

    def current_device(self):
        return -1  # where CPU tensors say they are

    def on_device(self, device):
        return nullcontext()

    def current_stream(self, device):
        return 0

    def is_capturing(self):
        return False

    def bytes(self, nbytes, device, *, zeroed):
        return torch.zeros(nbytes, dtype=torch.uint8)


class LoadedCuda(Cuda):
    """Every kernel is loaded already, and launching it does nothing."""

    def __init__(self):
        super().__init__(SimpleNamespace(cuLaunchKernel=lambda *_: (0,)), StubDevices())
        self.entered.devices.add(-1)

    def function(self, binary, device):
        return "function"


def make_kernel(head, workspaces=lambda *params: ()):
    """A kernel of the parameters and grid in `head`; `workspaces` is given its parameters."""
    program = parse_program(f"kernel f{head} warps=4:\n    pass")
    spaces = workspaces(*(param.var for param in program.params))
    source = CudaSource("f", "", 128, workspaces=tuple(spaces))
    code = Code("key", b"", None, "", "")
    return CudaKernel(Binary(source, DEFAULT_TARGET, code), program, LoadedCuda())


def split_k_workspaces(m, n, *_):
    """A semaphore for each tile, and the partial sums."""
    return Workspace(const(4096), clean=True), Workspace(mul(mul(m, n), 4))


def cases():
    """(name, kernel, values) of each row."""
    tensors = [torch.zeros(4096, dtype=torch.float16) for _ in range(5)]
    matmul = [16, 4096, 4096, *tensors]
    yield "no arguments", make_kernel("() blocks=[1]"), []
    yield "vector add, 3 arguments", make_kernel(ADD), [4096, tensors[0], tensors[1]]
    yield "quantised matmul, 8 arguments", make_kernel(MATMUL), matmul
    yield "the same, 2 workspaces", make_kernel(MATMUL, split_k_workspaces), matmul


# ---- library calls -------------------------------------------------------------------------------


@contextmanager
def compiled_kernels_on_the_cpu():
    """CPU tensors are taken for CUDA tensors: kernels are compiled, and launched by the stub."""
    cuda = LoadedCuda()
    with ExitStack() as stack:
        # Read from the environment at every call, as the default is.
        stack.enter_context(patch.dict(os.environ, TILUS_ENGINE="cuda"))
        runtime = "tilus.runtime."
        for name, stub in (
            (runtime + "launch.is_compiled_for", lambda device: True),
            (runtime + "launch.target_of", lambda device: DEFAULT_TARGET),
            (runtime + "cuda.connect", lambda: cuda),
        ):
            stack.enter_context(patch(name, stub))
        yield


def idle_operator():
    """An operator of torch with the arguments of `matmul.out` that does nothing."""
    library = torch.library.Library("tilus_benchmark", "DEF")
    library.define(f"idle.out({OPERANDS}, *, Tensor(a!) out) -> ()")
    library.impl("idle.out", lambda *_, out: None, "CPU")
    return library, torch.ops.tilus_benchmark.idle.out


def library_calls():
    """(name, function) of each row; the weight is prepared by the first call."""
    random = torch.Generator().manual_seed(0)
    weight = tilus.ops.quantize(torch.randn(N, K, generator=random), tilus.uint4b, GROUP)
    x, out = torch.zeros(M, K).half(), torch.zeros(M, N).half()
    bias = torch.zeros(N).half()
    parts = (weight.data, weight.scales, weight.zeros)
    meaning = (weight.dtype.name, weight.shape, weight.group_size, weight.zero)
    matmul, layer = torch.ops.tilus.matmul.out, QuantizedLinear.from_quantized(weight)
    held, idle = idle_operator()
    size = f"{M}x{N}x{K}"
    yield (
        f"torch alone: out form, {size}",
        lambda held=held: idle(x, *parts, None, *meaning, out=out),
    )
    yield f"library call: out form, {size}", lambda: matmul(x, *parts, None, *meaning, out=out)
    yield f"library call: with a bias, {size}", lambda: matmul(x, *parts, bias, *meaning, out=out)
    yield f"library call: QuantizedLinear, {size}", lambda: layer(x)


# ---- measuring -----------------------------------------------------------------------------------


def microseconds(function, repeats):
    """(median, least) of `repeats` measurements of CALLS calls each, for one call."""
    function()
    times = [1e6 * each / CALLS for each in timeit.repeat(function, number=CALLS, repeat=repeats)]
    return statistics.median(times), min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=30, help="measurements (default: 30)")
    repeats = parser.parse_args().repeats
    launches = []
    for name, kernel, values in cases():
        launch = microseconds(lambda k=kernel, v=values: k.launch(v), repeats)
        bind = microseconds(lambda k=kernel, v=values: k._bind(v), repeats)
        launches.append((name, *launch, bind[0]))
    with compiled_kernels_on_the_cpu():
        calls = [(name, *microseconds(call, repeats)) for name, call in library_calls()]
    environment = {
        "command": f"python {' '.join(sys.argv)}",
        "machine": machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tilus": tilus.__version__,
    }
    report(environment, launches, calls)
    worst = max(row[1] for row in launches)
    print(f"worst median of a launch {worst:.2f} us; target {TARGET_MICROSECONDS:.0f} us")
    return 0 if worst <= TARGET_MICROSECONDS else 1


def report(environment, launches, calls):
    """Print the tables, and write all of it to RESULTS."""
    for key, value in environment.items():
        print(f"{key + ':':9}{value}")
    headings = ("launch of", "median us", "least us", "of it bind, us")
    print(tabulate(launches, headings, floatfmt=".2f"))
    print(tabulate(calls, ("call", *headings[1:3]), floatfmt=".2f"))
    keys = ("name", "median_us", "least_us", "bind_us")
    log = {
        **environment,
        "launches": [dict(zip(keys, row, strict=True)) for row in launches],
        "calls": [dict(zip(keys[:3], row, strict=True)) for row in calls],
    }
    RESULTS.write_text(json.dumps(log, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
