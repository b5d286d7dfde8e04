"""What a weight costs in each matmul kernel, counted in its machine code; no GPU is needed.

    python benchmarks/static.py                            # writes benchmarks/results/static.json
    python benchmarks/static.py --dtypes u4,e4m3 --m 8,16  # prints a part of the table only
    python benchmarks/static.py --readme                   # writes the table into README.md, too

Weights are 8192 x 8192 in groups of 128 with scales of float16. Signed ints are stored
offset-binary and so run the very kernel of the unsigned ones: `i4` is `u4`.

slots       instructions of a warp in one turn of the hottest loop, over the weights per lane that a
            turn takes: all (issue) and those of the integer pipe (ALU). The number of weights is
            that of a step of the pipeline times the steps of a turn, each of which has one barrier;
            it is checked against the tensor-core instructions, which also compute corrections.
            Where 8192 of k leave no loop (it is unrolled as a whole) the same schedule is counted
            at k = 32768, `counted_k` in the JSON.
in flight   bytes of weights under way to an SM: (stages - 1) * warps * weight bytes of a blob *
            blocks on an SM, at most as many as the grid has for each of 132
bounds      a time below which no GPU of 132 SMs at 1.755 GHz gets, whatever it overlaps:
                issue   slots * weights * times each is unpacked / 32 / (132 SMs * 4 a clock)
                ALU     likewise with 2 a clock, over slots of the integer pipe
                mma     likewise with 0.62 a clock, over tensor-core instructions of m16n8k16
                memory  (weights with scales, x once, y once) / (3.0 TB/s on H100, 4.2 on H200)
            and the largest of them. Start-up, tail and latency come on top.
traffic     on the emulator, for [128, 2048] weights and 8 or 64 tokens: the part of each 32-byte
            sector of global memory that its requests use, and the bank conflicts of shared memory
Triton      the kernel of peers/triton_w4a16.py, compiled and read in the same run where triton is
            installed: of the points it is tuned among, the one with the fewest issue slots

The surprise: other peers' numbers are not counted here. They were counted by others in the same
way, in the main loop of the configuration that each one's authors choose for an H100.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import platform
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # for the package `benchmarks`, where this file is run

from benchmarks.provenance import commit  # noqa: E402
from benchmarks.readme import README  # noqa: E402
from benchmarks.static_counts import PROFILED_K, PROFILED_N, bounds, count_kernel, measure_traffic  # noqa: E402
from benchmarks.static_kernels import (  # noqa: E402
    ACTIVATIONS,
    ARCHS,
    EXTENT,
    GROUP,
    HOPPER,
    TOKENS,
    WEIGHTS,
    Case,
    same_kernel,
    stored_type,
    triton_cases,
)
from benchmarks.static_tables import PEER_SLOTS, PEERS, SECTION, by_case, full_table, markdown  # noqa: E402
from tilus import __version__  # noqa: E402
from tilus.cli.arguments import positives  # noqa: E402
from tilus.errors import TilusError  # noqa: E402
from tilus.target import target_from_name  # noqa: E402

PROFILED_M = (8, 64)
RESULTS = HERE / "results" / "static.json"

# ---- all of them ---------------------------------------------------------------------------------


def try_count(case: Case) -> dict[str, Any]:
    """As `count_kernel`, with the reason where there is no kernel; run in processes of its own."""
    try:
        return count_kernel(case)
    except TilusError as error:
        return {"missing": f"{error.message}: {error.found}"}


def try_triton(case: Case) -> dict[str, Any]:
    """A row of the Triton kernel, or why there is none."""
    from benchmarks.peers.triton_static import count

    try:
        return {**asdict(case), **count(stored_type(case.weight).nbits, case.m, case.arch)}
    except TilusError as error:
        return {**asdict(case), "missing": f"{error.message}: {error.found}"}


def with_bounds(case: Case, counts: dict[str, Any]) -> dict[str, Any]:
    """A row of the table: the counts of its kernel, and bounds for its number of tokens."""
    row = {**asdict(case), **counts}
    if "per_weight" in row and case.arch == HOPPER:
        row["bounds_us"] = bounds(case, row["per_weight"], row["unpacked"])
    return row


def measure(cases: Sequence[Case], jobs: int) -> dict[str, list[dict[str, Any]]]:
    """The rows of the table, the traffic by weight and activation, and Triton's rows."""
    kernels = list(dict.fromkeys(map(same_kernel, cases)))
    profiled = [replace(c, m=m) for c in cases if c.arch == cases[-1].arch for m in PROFILED_M]
    profiled = list(dict.fromkeys(profiled))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        counts = dict(zip(kernels, pool.map(try_count, kernels), strict=True))
        traffic = list(pool.map(measure_traffic, profiled))
        triton = list(pool.map(try_triton, triton_cases(cases)))
    rows = [with_bounds(case, counts[same_kernel(case)]) for case in cases]
    named = [{**asdict(c), **found} for c, found in zip(profiled, traffic, strict=True)]
    return {"rows": rows, "traffic": named, "triton": triton}


def versions(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "tilus": __version__,
        "nvrtc": sorted({row["nvrtc"] for row in rows if "nvrtc" in row}),
        "nvdisasm": importlib.metadata.version("nvidia-cuda-nvdisasm"),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


# ---- the command ---------------------------------------------------------------------------------


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dtypes", type=words, default=WEIGHTS, metavar="T,...")
    parser.add_argument("--activations", type=words, default=ACTIVATIONS, metavar="T,...")
    parser.add_argument("--arch", type=words, default=ARCHS, metavar="A,...")
    parser.add_argument("--m", type=positives, default=TOKENS, metavar="M,...")
    parser.add_argument("--jobs", type=int, default=2, help="processes that compile (default: 2)")
    parser.add_argument("--update", action="store_true", help="renew these rows of the JSON alone")
    parser.add_argument("--readme", action="store_true", help="write the tables into README.md")
    return parser.parse_args(argv)


def words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def check(arguments: argparse.Namespace) -> None:
    """Raises: TilusError for an unknown type or target."""
    for weight in arguments.dtypes:
        stored_type(weight)
    for arch in arguments.arch:
        target_from_name(arch)
    unknown = set(arguments.activations) - set(ACTIVATIONS)
    if unknown:
        raise TilusError(
            "activations of this dtype are not multiplied",
            found=", ".join(sorted(unknown)),
            expected=" or ".join(ACTIVATIONS),
        )


def is_whole(arguments: argparse.Namespace) -> bool:
    """Whether the table is the one to keep."""
    chosen = (arguments.dtypes, arguments.activations, arguments.arch, arguments.m)
    return chosen == (WEIGHTS, ACTIVATIONS, ARCHS, TOKENS)


def updated(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The log of a whole sweep with the rows that a part of it counted anew, and how; the same
    part is told once.
    """
    parts = {part: renewed(old.get(part, []), new[part]) for part in ("rows", "traffic", "triton")}
    update = {key: new[key] for key in ("command", "commit", "versions")}
    others = [one for one in old.get("updates", []) if one["command"] != new["command"]]
    return {**old, **parts, "updates": [*others, update]}


def renewed(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the same case take the place of old ones, others come behind."""
    return list({**by_case(old), **by_case(new)}.values())


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        check(arguments)
    except TilusError as error:
        print(error, file=sys.stderr)
        return 2
    cases = [
        Case(weight, activation, arch, m)
        for arch in arguments.arch
        for activation in arguments.activations
        for weight in arguments.dtypes
        for m in arguments.m
    ]
    found = measure(cases, arguments.jobs)
    command = " ".join(["python benchmarks/static.py", *(sys.argv[1:] if argv is None else argv)])
    log: dict[str, Any] = {
        "command": command, "commit": commit(), "versions": versions(found["rows"]),
        "n": EXTENT, "k": EXTENT, "group_size": GROUP, **found,
        "traffic_problem": {"n": PROFILED_N, "k": PROFILED_K},
        "peers": {"source": "measured by others, static", "names": PEERS, "slots": PEER_SLOTS},
    }  # fmt: skip
    weights = arguments.dtypes
    if arguments.update:
        log = updated(json.loads(RESULTS.read_text()), log)
        weights = tuple(dict.fromkeys(row["weight"] for row in log["rows"]))
    if is_whole(arguments) or arguments.update:
        RESULTS.write_text(json.dumps(log, indent=1) + "\n")
    print(full_table(log["rows"]), end="\n\n")
    table = markdown(log, weights, arguments.arch[-1])
    if arguments.readme:
        README.write_text(SECTION.filled(README.read_text(), table))
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
