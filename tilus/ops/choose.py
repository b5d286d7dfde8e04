"""Which schedule of a kernel a launch takes: a measured one, or what a rule or the cost model says.

    columns, schedule = small_for(blobs, 8, torch.device("cuda"))
    schedule = large_for(blobs, 256, torch.device("cuda"))

On a GPU the user's own results come first (`tilus tune` writes them), then the package's table for
the device (`tilus/ops/tuned`). Without either: for few tokens a rule, `choose_small`, for many the
cost model, `choose_large`. The surprise: on the CPU nothing is looked up, so that what runs there
does not depend on what was measured where.

Schedules depend on the number of tokens and on the device, not on data; nothing is compiled.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch

from tilus.errors import TilusError
from tilus.ops import large_m, large_schedule, small_m
from tilus.ops.blobs import TOKENS, BlobFormat
from tilus.ops.demand import demand
from tilus.ops.small_m import COLUMNS
from tilus.ops.tuned import table_of
from tilus.runtime.devices import DEVICES, Device, device_of
from tilus.runtime.inspect import PARTITIONS
from tilus.runtime.model import predict
from tilus.runtime.tuning_log import Key, Point, leading_bits, user_log, versions
from tilus.target import Target, get_current_target, target_of_capability
from tilus.utils import cdiv

SMS = 132  # multiprocessors of an H100, for which schedules are made where there is no GPU
MOST_SPLIT = 8
MOST_WARPS = 8
WAYS = tuple(kilobytes * 1024 for kilobytes in (16, 32, 48, 64, 96, 128))  # to a multiprocessor
SMALL, LARGE = "small_matmul", "large_matmul"  # names of the kernels, in tables


class Small(NamedTuple):
    """How a launch for few tokens is cut: `columns` of 8 tokens a block, and the rest."""

    columns: int
    schedule: small_m.Schedule


# ---- what is taken -------------------------------------------------------------------------------


def small_for(blobs: BlobFormat, tokens: int, device: torch.device) -> Small:
    """How the kernel for few tokens is cut for at most `tokens` of them, on a torch device."""
    multiprocessors, shared_bytes = hardware(device)
    for place, point in _stored(SMALL, blobs, tokens, device):
        if (found := small_of(point, blobs, shared_bytes)) is not None:
            return found
        _warn_of(place, point)
    return choose_small(blobs, tokens, multiprocessors, shared_bytes)


def large_for(blobs: BlobFormat, tokens: int, device: torch.device) -> large_schedule.Schedule:
    """How the kernel for many tokens is cut, likewise."""
    shared_bytes, figures = hardware(device)[1], device_for(device)
    for place, point in _stored(LARGE, blobs, tokens, device):
        if (found := large_of(point, blobs, tokens, figures, shared_bytes)) is not None:
            return found
        _warn_of(place, point)
    return choose_large(blobs, tokens, figures, shared_bytes=shared_bytes)


def _stored(
    kernel: str, blobs: BlobFormat, tokens: int, device: torch.device
) -> Iterator[tuple[str, Point]]:
    """The points that were measured, the user's own first, and where they were found."""
    if device.type != "cuda":
        return
    key = key_for(kernel, blobs, tokens, torch.cuda.get_device_name(device), versions())
    log, table = user_log(key.device), table_of(key.device)
    own = log.find(key)
    if own is not None and own.complete and own.best is not None:
        yield str(log.path), own.best
    shipped = None if table is None else table.for_problem(key)
    if table is not None and shipped is not None and shipped.best is not None:
        yield str(table.path), shipped.best


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=5)


def _warn_of(place: str, point: Point) -> None:
    _warn_once(f"{place} has a schedule that does not fit its kernel: {dict(point)}; not used")


def key_for(kernel: str, blobs: BlobFormat, tokens: int, device: str, of: dict[str, str]) -> Key:
    """Under which results are kept; epilogues and common zero points share them.

    Args:
        device: as torch calls it.
        of: the versions of driver and package.
    """
    shape = {
        "m": leading_bits(tokens),
        "n": blobs.n,
        "k": blobs.k,
        "group": blobs.group,
        "zeros": int(blobs.has_zeros),
    }
    dtypes = {
        "weight": blobs.dtype.name,
        "x": blobs.activation.name,
        "scales": blobs.scale_dtype.name,
    }
    return Key(kernel, _digest(kernel), shape, dtypes, device, **of)


@cache
def _digest(kernel: str) -> str:
    """Of the file that the kernel is written in."""
    module = small_m if kernel == SMALL else large_m
    return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()


# ---- few tokens ----------------------------------------------------------------------------------


def choose_small(
    blobs: BlobFormat,
    tokens: int,
    multiprocessors: int = SMS,
    shared_bytes: int = small_m.MOST_SHARED,
) -> Small:
    """The rule: as few columns as hold the tokens, 48 KB in flight, a split that fills waves."""
    columns = next((c for c in COLUMNS if tokens <= TOKENS * c), COLUMNS[-1])
    split = split_of(blobs, cdiv(tokens, TOKENS * columns), multiprocessors)
    return Small(columns, small_m.Schedule.of(blobs, split, shared_bytes))


def split_of(blobs: BlobFormat, blocks_m: int, multiprocessors: int) -> int:
    """How many blocks share the k of a tile, so that no wave of blocks is mostly empty."""
    blocks = blobs.n_tiles * blocks_m

    def time(split: int) -> float:
        waves = cdiv(blocks * split, multiprocessors)
        steps = cdiv(blobs.chunks, small_m.Schedule.of(blobs, split).warps * split)
        return waves * (steps + 1.0) + (0.5 if split > 1 else 0.0)  # a step is 8 chunks of an SM

    return min(range(1, min(MOST_SPLIT, blobs.chunks) + 1), key=time)


def small_space(
    blobs: BlobFormat,
    tokens: int,
    multiprocessors: int = SMS,
    shared_bytes: int = small_m.MOST_SHARED,
) -> list[Small]:
    """All cuts worth trying; the first is the one of the rule."""
    usual = choose_small(blobs, tokens, multiprocessors, shared_bytes)
    found = [
        Small(columns, small_m.Schedule(warps, stages, split))
        for columns in COLUMNS
        if columns <= usual.columns
        for warps in range(1, MOST_WARPS + 1)
        for split in range(1, min(MOST_SPLIT, blobs.chunks) + 1)
        for stages in _stages(blobs, warps, split, shared_bytes)
    ]
    return [usual, *(one for one in found if one != usual)]


def _stages(blobs: BlobFormat, warps: int, split: int, shared_bytes: int) -> list[int]:
    """Numbers of stages that have about `WAYS` bytes on their way.

    The four partitions of a multiprocessor issue for warps of their own, so blocks of fewer than
    four warps leave room for others.
    """
    room = shared_bytes * min(warps, PARTITIONS) // PARTITIONS
    steps = cdiv(blobs.chunks, warps * split)
    most = min(_fitting(blobs, warps, room), max(2, steps + 1))
    wanted = {cdiv(way, warps * blobs.weight_bytes) + 1 for way in WAYS}
    return sorted({min(most, stages) for stages in wanted}) if most >= 2 else []


def _fitting(blobs: BlobFormat, warps: int, shared_bytes: int) -> int:
    """Stages for which there is shared memory, beside that in which the warps add up."""
    scratch = warps * blobs.block_n * TOKENS * 4
    return (shared_bytes - scratch) // (warps * blobs.blob_bytes)


def small_point(cut: Small) -> dict[str, int]:
    """As it is stored."""
    schedule = cut.schedule
    return {
        "columns": cut.columns,
        "warps": schedule.warps,
        "stages": schedule.stages,
        "split": schedule.split,
    }


def small_of(point: Point, blobs: BlobFormat, shared_bytes: int) -> Small | None:
    """The cut that a stored point describes; None where it is none, or does not fit."""
    if set(point) != {"columns", "warps", "stages", "split"} or not _are_counts(point):
        return None
    fits = (
        point["columns"] in COLUMNS
        and point["warps"] <= MOST_WARPS
        and 2 <= point["stages"] <= _fitting(blobs, point["warps"], shared_bytes)
        and point["split"] <= min(MOST_SPLIT, blobs.chunks)
    )
    schedule = {name: point[name] for name in ("warps", "stages", "split")}
    return Small(point["columns"], small_m.Schedule(**schedule)) if fits else None


def _are_counts(point: Point) -> bool:
    return all(type(value) is int and value > 0 for value in point.values())


# ---- many tokens ---------------------------------------------------------------------------------


def choose_large(
    blobs: BlobFormat,
    tokens: int,
    device: Device,
    *,
    shared_bytes: int | None = None,
    scale_weights: bool = False,
) -> large_schedule.Schedule:
    """The schedule of the kernel for many tokens that takes `tokens` of them in the least time, as
    the cost model says.

    Args:
        shared_bytes: that a block may have, if not what `device` gives it.

    Raises: TilusError where no two stages fit in shared memory.
    """
    found = large_space(blobs, tokens, device, shared_bytes, scale_weights)

    def cost(schedule: large_schedule.Schedule) -> tuple[float, int]:
        seconds = predict(demand(blobs, tokens, schedule), device).seconds
        return seconds, schedule.stage_bytes(blobs)

    return min(found, key=cost)


def large_space(
    blobs: BlobFormat,
    tokens: int,
    device: Device,
    shared_bytes: int | None = None,
    scale_weights: bool = False,
) -> list[large_schedule.Schedule]:
    """All schedules that fit, in no order. Raises: TilusError where there is none."""
    room = device.target.properties.shared_memory_per_block
    room = room if shared_bytes is None else min(room, shared_bytes)
    found = list(
        large_schedule.schedules(blobs, tokens, device.multiprocessors, room, scale_weights)
    )
    if not found:
        raise TilusError(
            "no two stages of weights and tokens fit in shared memory",
            found=f"{room} bytes",
            hint="the kernel for few tokens needs less",
        )
    return found


LARGE_FIELDS = ("rows", "depth", "columns", "tokens", "stages", "tiles", "split")


def large_point(schedule: large_schedule.Schedule) -> dict[str, int]:
    """As it is stored."""
    return {name: getattr(schedule, name) for name in LARGE_FIELDS}


def large_of(
    point: Point, blobs: BlobFormat, tokens: int, device: Device, shared_bytes: int | None
) -> large_schedule.Schedule | None:
    """The schedule that a stored point describes; None where it is none of the space."""
    if set(point) != set(LARGE_FIELDS) or not _are_counts(point):
        return None
    space = large_space(blobs, tokens, device, shared_bytes)
    return next((one for one in space if large_point(one) == point), None)


# ---- devices -------------------------------------------------------------------------------------


def hardware(device: torch.device) -> tuple[int, int]:
    """Multiprocessors, and the shared memory that a block may have."""
    if device.type != "cuda":
        return SMS, get_current_target().properties.shared_memory_per_block
    properties: Any = torch.cuda.get_device_properties(device)
    target = target_of_capability(torch.cuda.get_device_capability(device))
    return properties.multi_processor_count, target.properties.shared_memory_per_block


@lru_cache(64)
def device_for(device: torch.device) -> Device:
    """The figures of a torch device, with its own number of multiprocessors.

    Where no GPU is at hand, or its figures are not known, those of one that is like it.
    """
    if device.type != "cuda":
        return device_like(get_current_target())
    try:
        return device_of(torch.cuda.get_device_name(device))
    except TilusError:
        found = device_like(target_of_capability(torch.cuda.get_device_capability(device)))
    count = torch.cuda.get_device_properties(device).multi_processor_count
    return replace(found, multiprocessors=count)


def device_like(target: Target) -> Device:
    """The first device of the table with the latest capability that `target` has."""
    capability = target.properties.compute_capability

    def rank(device: Device) -> tuple[int, int]:
        own = device.target.properties.compute_capability
        return own if own <= capability else (0, 0)

    return max(DEVICES.values(), key=rank)
