"""What comes before a tuning point is timed: ranking by the cost model, and compiling the best.

    python benchmarks/tuning.py        # writes benchmarks/results/tuning.json

No GPU is needed. The problem is the 4-bit matmul of 8192 x 8192 weights in groups of 128, for few
and for many tokens, on an H100. Each row is measured in a process of its own with an empty cache.
The targets are 2 s for ranking a hundred points, the search of the unpack plan included, and 5 s
for compiling the best ten on two cores.

`cpu_s` are seconds of both cores together. Where they are little less than twice the wall time,
threads keep both busy; where the machine is shared, wall times say less than they do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from provenance import commit, machine
from tabulate import tabulate

import tilus
from tilus.cli.tune_dry_run import compile_choices
from tilus.config import settings
from tilus.dtypes import uint4b
from tilus.ops.shapes import Layer
from tilus.ops.tune import problem_of, rank
from tilus.runtime.build import Binary
from tilus.runtime.devices import H100
from tilus.runtime.nvrtc import compile_cuda, nvrtc_release

LAYER = Layer("8192 x 8192", 8192, 8192)
TOKENS = (1, 256)
CORES = 2
BEST = 10
RANK_SECONDS, COMPILE_SECONDS = 2.0, 5.0
RESULTS = Path(__file__).parent / "results" / "tuning.json"


def measure(m):
    """One row, in this process; TILUS_CACHE_DIR is an empty directory."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    compile_cuda('extern "C" __global__ void f() {}', "f", "sm_90a")  # loads NVRTC
    start = time.perf_counter()
    problem = problem_of(LAYER, uint4b, m)
    ranked = rank(problem, H100)
    rank_s = time.perf_counter() - start
    start, cpu = time.perf_counter(), time.process_time()
    compiled = compile_choices(ranked[:BEST], H100.target)
    compile_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    assert all(isinstance(binary, Binary) for _, binary in compiled)
    return {
        "m": problem.tokens,
        "points": len(ranked),
        "rank_s": rank_s,
        "rank_100_s": rank_s * max(1.0, 100 / len(ranked)),
        "compiled": len(compiled),
        "compile_s": compile_s,
        "cpu_s": cpu_s,
        "workers": settings().parallel_workers,
        "load_before": None,
    }


def in_a_process(m):
    with tempfile.TemporaryDirectory() as cache:
        load = os.getloadavg()[0]
        told = subprocess.run(
            [sys.executable, __file__, "--measure", str(m)],
            env={**os.environ, "TILUS_CACHE_DIR": cache},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return {**json.loads(told.stdout), "load_before": load}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure)))
        return 0
    rows = [in_a_process(m) for m in TOKENS]
    log = {
        "command": f"python {' '.join(sys.argv)}",
        "machine": machine(),
        "commit": commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "nvrtc": nvrtc_release(),
            "tilus": tilus.__version__,
        },
        "weight": f"u4, {LAYER.name}, groups of 128",
        "device": H100.name,
        "cores": min(CORES, os.cpu_count() or 1),
        "targets": {"rank_100_s": RANK_SECONDS, "compile_s": COMPILE_SECONDS},
        "rows": rows,
    }
    print(tabulate([row.values() for row in rows], list(rows[0]), floatfmt=".2f"))
    RESULTS.write_text(json.dumps(log, indent=1) + "\n")
    in_time = all(
        row["rank_100_s"] <= RANK_SECONDS and row["compile_s"] <= COMPILE_SECONDS for row in rows
    )
    print(
        f"targets: {RANK_SECONDS:g} s and {COMPILE_SECONDS:g} s; {'met' if in_time else 'missed'}"
    )
    return 0 if in_time else 1


if __name__ == "__main__":
    sys.exit(main())
