"""What `tilus tune` is asked for: which problems, for how long, on what."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilus.demo import parse_types
from tilus.dtypes import DataType, dtype_from_name
from tilus.errors import TilusError
from tilus.ops.lean import bucket
from tilus.ops.shapes import Layer, model_of
from tilus.ops.tune import Problem, problem_of


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


def late(request: Request, start: float) -> bool:
    """Whether the seconds asked for are over, counted from `start`."""
    return request.seconds is not None and time.monotonic() - start >= request.seconds


def point_text(point: Any) -> str:
    """A point of the search as `name=value` words."""
    return " ".join(f"{name}={value}" for name, value in point.items())
