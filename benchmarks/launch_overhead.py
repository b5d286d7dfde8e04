"""What a launch costs in Python: arguments, grid, stream and workspaces, with the driver stubbed.

    python benchmarks/launch_overhead.py

No GPU is needed: torch's CPU tensors give the addresses, and a function that does nothing stands in
for cuLaunchKernel and for torch's device queries. `bind` is the part that reads the arguments. The
target is 5 us a launch.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import timeit
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
from tabulate import tabulate

from tilus.codegen.source import CudaSource, Workspace
from tilus.ir.expr import const, mul
from tilus.ir.parser import parse_program
from tilus.runtime.build import Binary, Code
from tilus.runtime.cuda import Cuda, CudaKernel
from tilus.target import DEFAULT_TARGET

TARGET_MICROSECONDS = 5.0
CALLS = 2000

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


def microseconds(function, repeats):
    """(median, least) of `repeats` measurements of CALLS calls each, for one call."""
    function()
    times = [1e6 * each / CALLS for each in timeit.repeat(function, number=CALLS, repeat=repeats)]
    return statistics.median(times), min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=30, help="measurements (default: 30)")
    repeats = parser.parse_args().repeats
    rows = []
    for name, kernel, values in cases():
        launch = microseconds(lambda k=kernel, v=values: k.launch(v), repeats)
        bind = microseconds(lambda k=kernel, v=values: k._bind(v), repeats)
        rows.append((name, *launch, bind[0]))
    print(f"command: python {' '.join(sys.argv)}")
    print(f"machine: {processor()}, {platform.system()} {platform.release()}")
    print(f"python:  {platform.python_version()}, torch {torch.__version__}")
    headings = ("launch of", "median us", "least us", "of it bind, us")
    print(tabulate(rows, headings, floatfmt=".2f"))
    worst = max(row[1] for row in rows)
    print(f"worst median {worst:.2f} us; target {TARGET_MICROSECONDS:.0f} us")
    return 0 if worst <= TARGET_MICROSECONDS else 1


def processor():
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
