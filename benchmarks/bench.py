"""`make bench`: what can be measured where one is, in minutes, and kept as the full runs keep it.

    python -m benchmarks.bench                 # JSONs in benchmarks/results, sections of README.md

Without a GPU: the static table for float16 on Hopper, ours and Triton's in one run, with the
emulator's counters, and compile times. It renews those rows of the JSONs that it measures and
leaves the others. With a GPU, `benchmarks.gpu --smoke` runs as well.

The surprise: it is a part of the full runs, chosen so that two cores that have other work need
less than five minutes. `python benchmarks/static.py --readme` and `python
benchmarks/compile_time.py` do all types, targets and numbers of tokens.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks import static

TOKENS = (1, 8, 16, 64, 256)  # 1 and 8 run the same kernel
COMPILED = ("uint2b", "uint4b", "uint8", "float6_e3m2")
TARGETS_MISSED = 1  # exit status of compile_time.py; it says so in its table


def run_static(jobs: int) -> int:
    return static.main(
        [
            "--activations", "float16", "--arch", static.HOPPER,
            "--m", ",".join(map(str, TOKENS)), "--jobs", str(jobs), "--update", "--readme",
        ]
    )  # fmt: skip


def run_compile_times(jobs: int) -> int:
    """One after the other, whatever `jobs`: they would disturb each other."""
    output = static.RESULTS.with_name("compile_time.json")
    command = [
        sys.executable, str(static.HERE / "compile_time.py"), "--update",
        "--types", ",".join(COMPILED), "--repeats", "1", "--output", str(output),
    ]  # fmt: skip
    status = subprocess.run(command, check=False).returncode
    return 0 if status == TARGETS_MISSED else status


def run_on_gpu(jobs: int) -> int:
    """Nothing where there is none."""
    if not torch.cuda.is_available():
        print("no CUDA device: benchmarks.gpu is left out")
        return 0
    command = [sys.executable, "-m", "benchmarks.gpu", "--smoke"]
    return subprocess.run(command, cwd=Path(static.HERE).parent, check=False).returncode


# Compile times go first, as the README's section, which the static table writes, tells them.
STEPS: tuple[tuple[str, Callable[[int], int]], ...] = (
    ("compile times", run_compile_times),
    ("static table", run_static),
    ("on a GPU", run_on_gpu),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes that compile (default: 2)")
    arguments = parser.parse_args(argv)
    start = time.perf_counter()
    failed: list[str] = []
    for name, run in STEPS:
        print(f"---- {name} ({time.perf_counter() - start:.0f} s)", flush=True)
        if run(arguments.jobs):
            failed.append(name)
    print(f"---- {time.perf_counter() - start:.0f} s in all")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
