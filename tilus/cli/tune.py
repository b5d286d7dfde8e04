"""`tilus tune`: tunes the matmul for the layers of models, or shows what it would try.

request = tuning_request(arguments)
for text in tune_all(request): ...         # on the GPU at hand, a line for each shape
for text in dry_run(request): ...          # anywhere, a table for each shape
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tilus.cli.arguments import TARGET_HELP, group_size, positive, positive_number, positives
from tilus.cli.tune_dry_run import dry_run
from tilus.cli.tune_request import Request, late, point_text, tuning_request
from tilus.errors import TilusError
from tilus.ops.choose import device_for, hardware
from tilus.ops.shapes import MODELS
from tilus.ops.tune import GROUP_SIZE, Problem, space, tune, usual_time, without_points
from tilus.runtime.devices import DEVICES
from tilus.runtime.timing import GraphTimer
from tilus.runtime.tune import KEEP, Tuner
from tilus.runtime.tuning_log import Entry, TuningLog, user_log, write_log

REPEATS = 21  # of a timing, at the command line
NOTE = "Measured by `tilus tune` on this device."


def add_tune(commands: Any) -> None:
    """Declare `tilus tune` and its arguments."""
    parser = commands.add_parser(
        "tune",
        help="find the fastest schedules of the matmul for the layers of a model",
        description="Time schedules of the quantised matmul on the GPU at hand, and keep the "
        "fastest of each shape in TILUS_CACHE_DIR, where calls find it. What an earlier run has "
        "measured is not measured again.",
    )
    parser.add_argument(
        "--shapes", required=True, metavar="MODEL,...",
        help=f"models whose linear layers are tuned: {', '.join(MODELS)}",
    )  # fmt: skip
    parser.add_argument(
        "--dtypes", default="u4", metavar="T,...", help="of weights, as in u4,i6,e3m2 (default: u4)"
    )
    parser.add_argument(
        "--m", type=positives, default=(1, 16, 256), metavar="M,...",
        help="numbers of tokens (default: 1,16,256)",
    )  # fmt: skip
    parser.add_argument(
        "--group-size", type=group_size, default=GROUP_SIZE, metavar="G",
        help=f"weights that share a scale; -1: a whole row (default: {GROUP_SIZE})",
    )  # fmt: skip
    parser.add_argument(
        "--asymmetric", action="store_true", help="a zero point in every group (integers)"
    )
    parser.add_argument(
        "--activations", choices=("float16", "bfloat16"), default="float16",
        help="dtype of the activations (default: float16)",
    )  # fmt: skip
    parser.add_argument(
        "--keep", type=positive, default=KEEP, metavar="N",
        help=f"points of each shape to try, the best ones of the cost model (default: {KEEP})",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=positive_number, metavar="S", help="begin nothing after so long"
    )
    parser.add_argument(
        "--table", type=Path, metavar="FILE",
        help="write the results there too, in the form of the tables in the package",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true",
        help="without a GPU: rank by the cost model, compile the best points and show them",
    )  # fmt: skip
    parser.add_argument(
        "--device", metavar="NAME",
        help=f"of a dry run: {', '.join(DEVICES)} (default: one like the target)",
    )  # fmt: skip
    parser.add_argument("--target", metavar="ARCH", help=f"of a dry run: {TARGET_HELP}")
    parser.set_defaults(command=tune_matmul)


def tune_matmul(arguments: argparse.Namespace) -> int:
    """`tilus tune`: a line for each shape as it is done; or the tables of a dry run."""
    request = tuning_request(arguments)
    for text in dry_run(request) if arguments.dry_run else tune_all(request):
        print(text, flush=True)
    return 0


def tune_all(request: Request) -> Iterator[str]:
    """Tune every problem; a line for each. Raises: TilusError where there is no GPU, or where the
    log of earlier results is damaged.
    """
    if not torch.cuda.is_available():
        raise TilusError(
            "tuning times kernels on an NVIDIA GPU",
            found="a machine without one, or a torch built without CUDA",
            hint="--dry-run ranks by the cost model, and compiles the best points",
        )
    device = torch.device("cuda", torch.cuda.current_device())
    properties: Any = torch.cuda.get_device_properties(device)
    log = user_log(torch.cuda.get_device_name(device))
    log.entries()  # a damaged one is an error here, before anything is measured
    yield from tune_on(device, properties.L2_cache_size, log, request)


def tune_on(device: torch.device, l2_bytes: int, log: TuningLog, request: Request) -> Iterator[str]:
    """Tune every problem on `device`; what is done is written to the table after each."""
    start, found = time.monotonic(), list[Entry]()
    deadline = None if request.seconds is None else start + request.seconds
    for problem in request.problems:
        if late(request, start):
            yield f"after {request.seconds:g} s, the rest is left for the next run"
            return
        if isinstance(problem, str):
            yield f"not tuned: {problem}"
            continue
        timer = GraphTimer()
        tuner = Tuner(timer, log, request.keep, 1.0, REPEATS, deadline=deadline, progress=True)
        entry = tune(problem, device, tuner, l2_bytes)
        yield _line(problem, entry, device)
        if entry.complete:
            found.append(entry)
        if request.table is not None:
            _write_table(request.table, log.device, found)
    yield f"{len(found)} of {len(request.problems)} shapes tuned; results in {log.path}"


def _line(problem: Problem, entry: Entry, device: torch.device) -> str:
    best = entry.of_best
    if best is None or best.q1_us is None:
        return f"{problem.label}: interrupted; the next run goes on"
    usual = space(problem, device_for(device), *hardware(device))[0].point
    before = usual_time(entry, usual)
    compared = "" if before is None else f"; untuned {before:.2f} us"
    return (
        f"{problem.label}: {point_text(best.point)}: {best.median_us:.2f} us "
        f"({best.q1_us:.2f}..{best.q3_us:.2f}){compared}; "
        f"{len(entry.points)} points tried, {entry.pruned} left out"
    )


def _write_table(path: Path, device: str, entries: list[Entry]) -> None:
    try:
        write_log(path, device, [without_points(entry) for entry in entries], NOTE)
    except OSError as error:
        raise TilusError(f"{path} cannot be written", found=str(error)) from None
