"""Which schedule of a kernel a launch takes: the one that the cost model finds fastest.

    schedule = choose_large(blobs, 256, H100)

Schedules depend on the number of tokens and on the device, not on data; nothing is compiled.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch

from tilus.errors import TilusError
from tilus.ops import large_schedule
from tilus.ops.blobs import BlobFormat
from tilus.ops.demand import demand
from tilus.runtime.devices import DEVICES, Device, device_of
from tilus.runtime.model import predict
from tilus.target import Target, get_current_target, target_of_capability


def choose_large(
    blobs: BlobFormat,
    tokens: int,
    device: Device,
    *,
    shared_bytes: int | None = None,
    scale_weights: bool = False,
) -> large_schedule.Schedule:
    """The schedule of the kernel for many tokens that takes `tokens` of them in the least time.

    Args:
        shared_bytes: that a block may have, if not what `device` gives it.

    Raises: TilusError where no two stages fit in shared memory.
    """
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

    def cost(schedule: large_schedule.Schedule) -> tuple[float, int]:
        seconds = predict(demand(blobs, tokens, schedule), device).seconds
        return seconds, schedule.stage_bytes(blobs)

    return min(found, key=cost)


@lru_cache(64)
def device_for(device: torch.device) -> Device:
    """The figures of a torch device, with its own number of multiprocessors.

    Where no GPU is at hand, or its figures are not known, those of one that is like it.
    """
    if device.type != "cuda":
        return _like(get_current_target())
    try:
        return device_of(torch.cuda.get_device_name(device))
    except TilusError:
        found = _like(target_of_capability(torch.cuda.get_device_capability(device)))
    count = torch.cuda.get_device_properties(device).multi_processor_count
    return replace(found, multiprocessors=count)


def _like(target: Target) -> Device:
    """The first device of the table with the latest capability that `target` has."""
    capability = target.properties.compute_capability

    def rank(device: Device) -> tuple[int, int]:
        own = device.target.properties.compute_capability
        return own if own <= capability else (0, 0)

    return max(DEVICES.values(), key=rank)
