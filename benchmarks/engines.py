"""How long the engines without a GPU take: the 16 x 512 x 512 matmul with 4-bit weights.

    python benchmarks/engines.py

Prints, per engine, the first call (which compiles) and the median of five more.
"""

import platform
import statistics
import time

import torch
from launch_overhead import processor

import tilus
from tilus.ops import matmul, quantize


def seconds(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main():
    from tabulate import tabulate

    torch.manual_seed(0)
    weight = quantize(torch.randn(512, 512) * 0.05, tilus.uint4b, 128, symmetric=False)
    x = torch.randn(16, 512).half()
    rows = []
    for engine in ("interpreter", "emulator"):
        with tilus.option.context(engine=engine):
            first = seconds(lambda: matmul(x, weight))
            later = [seconds(lambda: matmul(x, weight)) for _ in range(5)]
        rows.append((engine, first, statistics.median(later), min(later), max(later)))
    print("command: python benchmarks/engines.py")
    print(f"machine: {processor()}, Python {platform.python_version()}, torch {torch.__version__}")
    headings = ("engine", "first, s", "median, s", "least, s", "most, s")
    print(tabulate(rows, headings, floatfmt=".3f"))


if __name__ == "__main__":
    main()
