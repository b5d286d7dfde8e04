"""The GPU that a benchmark runs on: its memory, its figures, its timer, and the state it is in.

    machine = machine_at_hand()
    machine.name, machine.l2_bytes          # ("NVIDIA H200", 52428800)

The surprise: a machine may be a fixture, with a recorded timer on the CPU. What is measured on it
says so, and is no result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.clocks import clocks
from tilus.errors import TilusError
from tilus.runtime.devices import Device, device_of
from tilus.runtime.timing import GraphTimer, Timer


class DeviceLost(TilusError):
    """The device answers no more, as after an illegal access: nothing else can be run on it."""


@dataclass(frozen=True)
class Machine:
    """Where the benchmark runs.

    Attributes:
        device: of tensors.
        name: as torch says.
        l2_bytes: of the cache that weights must not be in.
        figures: of the device table; None for a device that is not in it.
        state: reads clocks and temperature.
        fixture: whether times are made up.
    """

    device: torch.device
    name: str
    l2_bytes: int
    timer: Timer
    figures: Device | None
    state: Callable[[], dict[str, str]]
    fixture: bool = False

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def recover(self) -> None:
        """After a failure. Raises: DeviceLost if nothing runs any more."""
        if self.device.type != "cuda":
            return
        try:
            torch.cuda.synchronize(self.device)
        except RuntimeError as error:
            raise DeviceLost(
                "the GPU answers no more", found=str(error), hint="run the benchmark again"
            ) from None
        torch.cuda.empty_cache()


def machine_at_hand() -> Machine:
    """The first CUDA device. Raises: TilusError where there is none."""
    if not torch.cuda.is_available():
        raise TilusError(
            "this benchmark times kernels on an NVIDIA GPU",
            found="a machine without one, or a torch built without CUDA",
            hint="`make bench` counts instructions and traffic without a GPU; "
            "`python -m benchmarks.gpu --list` shows what would be timed",
        )
    device = torch.device("cuda", torch.cuda.current_device())
    properties = torch.cuda.get_device_properties(device)
    which = str(getattr(properties, "uuid", device.index))
    which = which if which.isdigit() or which.startswith("GPU-") else f"GPU-{which}"
    return Machine(
        device,
        properties.name,
        properties.L2_cache_size,
        GraphTimer(),
        figures_of(properties.name),
        lambda: clocks(which),
    )


def figures_of(name: str) -> Device | None:
    """None for a device that is not in the table: then there is no floor, and no prediction."""
    try:
        return device_of(name)
    except TilusError:
        return None
