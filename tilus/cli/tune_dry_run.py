"""`tilus tune --dry-run`: the best schedules of the cost model, compiled; no GPU is needed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from tabulate import tabulate

from tilus.cli.tune_request import Request, late, point_text
from tilus.errors import TilusError
from tilus.ops.choose import device_like
from tilus.ops.tune import Choice, rank
from tilus.runtime import launch
from tilus.runtime.build import Binary
from tilus.runtime.devices import Device, device_of
from tilus.runtime.tune import in_threads
from tilus.target import Target, get_current_target, target_from_name


def dry_run(request: Request) -> Iterator[str]:
    """For every problem a table of the points that the model finds fastest, compiled."""
    figures, target = _figures(request)
    start = time.monotonic()
    for problem in request.problems:
        if late(request, start):
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
    start = (point_text(choice.point), 1e6 * prediction.seconds, prediction.binds)
    if isinstance(found, TilusError):
        return (*start, found.message, "")
    used = found.resources
    return (*start, used.registers, used.spill_stores + used.spill_loads) if used else (*start, "?")
