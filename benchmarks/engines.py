"""How long the engines without a GPU take, and how fast PTX is parsed.

    python benchmarks/engines.py

Two matmuls with 4-bit weights and a vector add: per engine the first call, which compiles (NVRTC
included, its cache empty), and five more. Writes benchmarks/results/engines.json.
"""

import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from provenance import processor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import tilus  # noqa: E402
from tests.kernels import load_example  # noqa: E402
from tilus.ops import matmul, quantize  # noqa: E402
from tilus.ptx.parse import parse_ptx  # noqa: E402

LINES = 5000
LATER = 5


def seconds(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def matmul_case(n):
    """y [16, n] = x [16, n] W^T with weights of uint4b in groups of 128."""
    torch.manual_seed(0)
    weight = quantize(torch.randn(n, n) * 0.05, tilus.uint4b, 128, symmetric=False)
    x = torch.randn(16, n).half()
    return lambda: matmul(x, weight)


def add_case(n):
    module = load_example(HERE.parent / "examples" / "01_vector_add.py")
    x, out = torch.randn(n), torch.empty(n)
    kernel = module.VectorAdd()
    return lambda: kernel(n, x, x, out)


CASES = {
    "matmul 16 x 512 x 512, u4": lambda: matmul_case(512),
    "matmul 16 x 4096 x 4096, u4": lambda: matmul_case(4096),
    "vector add of 1,048,576": lambda: add_case(1 << 20),
}


def measure(engine, case):
    with (
        tempfile.TemporaryDirectory() as empty,
        tilus.option.context(engine=engine, cache_dir=empty),
    ):
        action = case()
        first = seconds(action)
        later = [seconds(action) for _ in range(LATER)]
    return {"first": first, "later": later}


def parsing():
    """Seconds to parse a module of `LINES` instructions."""
    body = "\n".join(f"add.s32 %r{k % 99 + 1}, %r{k % 99}, {k};" for k in range(LINES))
    text = f".visible .entry k(\n)\n{{\n.reg .b32 %r<100>;\n{body}\nret;\n}}\n"
    return seconds(lambda: parse_ptx(text))


def main():
    from tabulate import tabulate

    torch.set_num_threads(2)
    results = {
        engine: {name: measure(engine, case) for name, case in CASES.items()}
        for engine in ("interpreter", "emulator")
    }
    rows = [
        (engine, name, r["first"], statistics.median(r["later"]), min(r["later"]), max(r["later"]))
        for engine, cases in results.items()
        for name, r in cases.items()
    ]
    log = {
        "command": "python benchmarks/engines.py",
        "machine": f"{processor()}, Python {platform.python_version()}, torch {torch.__version__}",
        "engines": results,
        "parsing": {"lines": LINES, "seconds": [parsing() for _ in range(LATER)]},
    }
    (HERE / "results" / "engines.json").write_text(json.dumps(log, indent=1) + "\n")
    print(f"command: {log['command']}\nmachine: {log['machine']}")
    headings = ("engine", "case", "first, s", "median, s", "least, s", "most, s")
    print(tabulate(rows, headings, floatfmt=".3f"))
    print(f"parsing {LINES} instructions: {statistics.median(log['parsing']['seconds']):.3f} s")


if __name__ == "__main__":
    main()
