"""Random programs, interpreter against emulator, for as long as is asked.

    python benchmarks/fuzz.py --seconds 300 --first 10000

Prints every seed on which they disagree, with the error, and writes benchmarks/results/fuzz.json,
which keeps what earlier runs found and what it was.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count, islice
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
CHUNK = 20  # seeds a task


def run(first):
    """(seed, what went wrong) for the seeds of a task that fail."""
    import torch

    from tests.test_engines import check_random
    from tilus.runtime.emulate import emulate
    from tilus.target import nvgpu_sm90a

    torch.set_num_threads(1)
    failures = []
    for seed in range(first, first + CHUNK):
        try:
            check_random(seed, lambda program, v: emulate(program, v, nvgpu_sm90a), "cpu")
        except Exception as error:
            failures.append((seed, f"{type(error).__name__}: {str(error)[:500]}"))
    return failures


def tasks(first: int, end: float) -> Iterator[int]:
    for number in count(first, CHUNK):
        if time.monotonic() > end:
            return
        yield number


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first", type=int, default=10_000, help="the first seed")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    end, failures, done = time.monotonic() + arguments.seconds, [], 0
    source = tasks(arguments.first, end)
    with ProcessPoolExecutor(arguments.workers) as pool:
        while firsts := list(islice(source, arguments.workers)):
            for found in pool.map(run, firsts):
                done += CHUNK
                failures += found
                for seed, reason in found:
                    print(f"{seed}: {reason}", flush=True)
    last = arguments.first + done - 1
    print(f"{done} programs, seeds {arguments.first}..{last}: {len(failures)} disagree")
    path = HERE / "results" / "fuzz.json"
    found = json.loads(path.read_text())["found"] if path.exists() else []
    found += [{"seed": seed, "what": reason} for seed, reason in failures]
    log = {
        "command": f"python {' '.join(sys.argv)}",
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "programs": done,
        "seeds": [arguments.first, last],
        "failures": failures,
        "found": found,
    }
    path.write_text(json.dumps(log, indent=1) + "\n")


if __name__ == "__main__":
    main()
