"""What `tilus tune` does: tunes the matmul for the layers of models, or shows what it would try.

request = tuning_request(arguments)
for text in tune_all(request): ...         # on the GPU at hand, a line for each shape
for text in dry_run(request): ...          # anywhere, a table for each shape
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from tilus.demo import parse_types
from tilus.dtypes import DataType, dtype_from_name
from tilus.errors import TilusError
from tilus.ops.choose import device_for, device_like, hardware
from tilus.ops.lean import bucket
from tilus.ops.shapes import Layer, model_of
from tilus.ops.tune import (
    Choice,
    Problem,
    problem_of,
    rank,
    space,
    tune,
    usual_time,
    without_points,
)
from tilus.runtime import launch
from tilus.runtime.build import Binary
from tilus.runtime.devices import Device, device_of
from tilus.runtime.timing import GraphTimer
from tilus.runtime.tune import Tuner, in_threads
from tilus.runtime.tuning_log import Entry, TuningLog, user_log, write_log
from tilus.target import Target, get_current_target, target_from_name

REPEATS = 21  # of a timing, at the command line
NOTE = "Measured by `tilus tune` on this device."


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        problems: in turn; a text stands for a shape that cannot be tuned, and says why.
        seconds: after which nothing is begun.
        table: where results are written as well.
        device: of a dry run, or None for one like the target.
        target: of a dry run, or None for that of the device.
    """

    problems: tuple[Problem | str, ...]
    keep: int
    seconds: float | None
    table: Path | None
    device: str | None
    target: str | None


def tuning_request(arguments: argparse.Namespace) -> Request:
    """Raises: TilusError for unknown models or dtypes, or options that do not go together."""
    if not arguments.dry_run and (arguments.device or arguments.target):
        raise TilusError(
            "what is timed is the GPU at hand",
            found="--device or --target",
            hint="they belong to --dry-run",
        )
    if arguments.dry_run and arguments.table:
        raise TilusError("a dry run measures nothing", found="--table", hint="leave one out")
    layers = _layers(arguments.shapes)
    dtypes = parse_types(arguments.dtypes)
    tokens = list({bucket(m): m for m in reversed(arguments.m)}.values())[::-1]
    options = {
        "group": arguments.group_size,
        "activation": dtype_from_name(arguments.activations),
        "symmetric": not arguments.asymmetric,
    }
    problems = tuple(
        _problem(layer, dtype, m, options) for layer in layers for dtype in dtypes for m in tokens
    )
    return Request(
        problems,
        arguments.keep,
        arguments.seconds,
        arguments.table,
        arguments.device,
        arguments.target,
    )


def _layers(shapes: str) -> list[Layer]:
    """Those of all models; layers of one shape once, under the names of all."""
    names: dict[tuple[int, int], list[str]] = {}
    for model in (word.strip().lower() for word in shapes.split(",")):
        for layer in model_of(model).layers:
            names.setdefault((layer.n, layer.k), []).append(f"{model} {layer.name}")
    return [Layer(", ".join(found), *shape) for shape, found in names.items()]


def _problem(layer: Layer, dtype: DataType, m: int, options: dict[str, Any]) -> Problem | str:
    try:
        return problem_of(layer, dtype, m, **options)
    except TilusError as error:
        return f"{layer.name} {layer.n} x {layer.k}, {dtype.short_name}: {error}"


def _late(request: Request, start: float) -> bool:
    return request.seconds is not None and time.monotonic() - start >= request.seconds


# ---- on a GPU ------------------------------------------------------------------------------------


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
        if _late(request, start):
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
        f"{problem.label}: {_text(best.point)}: {best.median_us:.2f} us "
        f"({best.q1_us:.2f}..{best.q3_us:.2f}){compared}; "
        f"{len(entry.points)} points tried, {entry.pruned} left out"
    )


def _text(point: Any) -> str:
    return " ".join(f"{name}={value}" for name, value in point.items())


def _write_table(path: Path, device: str, entries: list[Entry]) -> None:
    try:
        write_log(path, device, [without_points(entry) for entry in entries], NOTE)
    except OSError as error:
        raise TilusError(f"{path} cannot be written", found=str(error)) from None


# ---- anywhere ------------------------------------------------------------------------------------


def dry_run(request: Request) -> Iterator[str]:
    """For every problem a table of the points that the model finds fastest, compiled."""
    figures, target = _figures(request)
    start = time.monotonic()
    for problem in request.problems:
        if _late(request, start):
            yield f"after {request.seconds:g} s, the rest is left out"
            return
        if isinstance(problem, str):
            yield f"not tuned: {problem}"
            continue
        ranked = rank(problem, figures)
        begin = time.monotonic()
        compiled = compile_choices(ranked[: request.keep], target)
        seconds = time.monotonic() - begin
        rows = [_row(choice, found, figures) for choice, found in compiled]
        headings = ("point", "predicted us", "bound by", "registers", "spilled bytes")
        yield (
            f"{problem.label}, on {figures.name} by the cost model: {len(ranked)} points; "
            f"the best {len(rows)} compiled for {target.arch} in {seconds:.1f} s\n"
            f"{tabulate(rows, headings, floatfmt='.2f')}\n"
        )


def _figures(request: Request) -> tuple[Device, Target]:
    target = target_from_name(request.target) if request.target else None
    if request.device is None:
        target = target or get_current_target()
        return device_like(target), target
    device = device_of(request.device)
    if target is not None and not device.target.supports(target):
        raise TilusError(
            f"{device.name} does not run code for {target.arch}", expected=device.target.arch
        )
    return device, target or device.target


def compile_choices(
    choices: list[Choice], target: Target
) -> list[tuple[Choice, Binary | TilusError]]:
    """Compile all for `target`, several at a time; an error stands for what does not compile."""
    found: dict[int, Binary | TilusError] = {}
    for number, task in in_threads([partial(_compile, choice, target) for choice in choices]):
        try:
            found[number] = task.result()
        except TilusError as error:
            found[number] = error
    return [(choice, found[number]) for number, choice in enumerate(choices)]


def _compile(choice: Choice, target: Target) -> Binary:
    return launch.compile_kernel(choice.kernel(), target).binary


def _row(choice: Choice, found: Binary | TilusError, device: Device) -> tuple[Any, ...]:
    prediction = choice.prediction(device)
    start = (_text(choice.point), 1e6 * prediction.seconds, prediction.binds)
    if isinstance(found, TilusError):
        return (*start, found.message, "")
    used = found.resources
    return (*start, used.registers, used.spill_stores + used.spill_loads) if used else (*start, "?")
