"""GPUs as the cost model sees them: how many multiprocessors, how fast each part of one is.

    device = device_of("NVIDIA H100 80GB HBM3")   # or "H100": what torch or a person calls it
    device.memory_rate * device.usable_memory     # bytes a second that kernels reach
    device.sources["memory_rate"]                 # where the figure is from

What depends on the compute capability alone is not repeated here: targets know the shared memory
of a block, `tilus.runtime.inspect` what a multiprocessor holds, and `RATES` how fast its pipes are.

The surprise: the rate of the tensor cores is that of mma.sync, not that of the data sheet. Hopper
reaches 62% of its peak with it; what Blackwell reaches is not published, so its figure is too high.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from tilus.errors import TilusError
from tilus.runtime.inspect import (
    MULTIPROCESSORS,
    PARTITIONS,
    REGISTERS_PER_PARTITION,
    Multiprocessor,
)
from tilus.target import (
    Capability,
    Target,
    nvgpu_sm80,
    nvgpu_sm89,
    nvgpu_sm90a,
    nvgpu_sm100a,
)

MATRIX_FLOPS = 2 * 16 * 8 * 16  # of one mma.sync.m16n8k16 (PTX ISA, "Matrix shape")


@dataclass(frozen=True)
class Rates:
    """Instructions of a warp that the pipes of a multiprocessor take in a clock.

    `fma` are those on float32, `half` those on two 16-bit floats; `xu` converts and computes
    transcendental functions. `shared_bytes` of shared memory are served in a clock.
    """

    issue: float
    alu: float
    fma: float
    half: float
    xu: float
    shared_bytes: float
    source: str


_GUIDE = (
    'CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions" (results a clock, '
    'over 32) and "Shared Memory" (32 banks of 4 bytes); one instruction a clock for each of the '
    "four partitions of a multiprocessor"
)
# The ALU takes logic, shifts, byte permutes and comparisons.
RATES: Mapping[Capability, Rates] = MappingProxyType(
    {
        (8, 0): Rates(
            4, 2, 2, 4, 0.5, 128,
            f"{_GUIDE}; half: 78 TFLOPS in NVIDIA A100 Tensor Core GPU Architecture",
        ),
        (8, 9): Rates(
            4, 2, 4, 2, 0.5, 128,
            f"{_GUIDE}; half: the TFLOPS of float32 in NVIDIA Ada GPU Architecture",
        ),
        (9, 0): Rates(4, 2, 4, 4, 0.5, 128, _GUIDE),
        (10, 0): Rates(
            4, 2, 4, 2, 0.5, 128,
            f"{_GUIDE}; half: CUDA C++ Best Practices Guide 13.0, the same table",
        ),
    }
)  # fmt: skip


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        name: short, as in "H100".
        torch_names: as `torch.cuda.get_device_name` says.
        target: what to compile for.
        multiprocessors: that are enabled.
        clock: cycles a second, under load where that is known.
        memory_rate: bytes a second of DRAM, at the peak.
        usable_memory: the share of it that kernels reach.
        memory_latency: seconds that bytes are on their way, in the model's formula.
        l2_bytes: of the cache.
        l2_rate: bytes a second that it serves; None where that is not known.
        matrix_rate: mma.sync.m16n8k16 with float32 sums, a clock and multiprocessor.
        launch: seconds between the kernels of a CUDA graph.
        sources: where each figure is from, by its attribute.
    """

    name: str
    torch_names: tuple[str, ...]
    target: Target
    multiprocessors: int
    clock: float
    memory_rate: float
    usable_memory: float
    memory_latency: float
    l2_bytes: int
    l2_rate: float | None
    matrix_rate: float
    launch: float
    sources: Mapping[str, str]

    def __post_init__(self) -> None:
        assert set(self.sources) == FIGURES, FIGURES ^ set(self.sources)

    @property
    def rates(self) -> Rates:
        """Of the pipes of a multiprocessor."""
        return RATES[self.target.properties.compute_capability]

    @property
    def multiprocessor(self) -> Multiprocessor:
        """What the blocks on a multiprocessor share."""
        return MULTIPROCESSORS[self.target.properties.compute_capability]

    @property
    def registers(self) -> int:
        """Of 32 bits, of a multiprocessor."""
        return PARTITIONS * REGISTERS_PER_PARTITION

    @property
    def usable_rate(self) -> float:
        """Bytes a second that kernels read from DRAM, with enough of them on their way."""
        return self.memory_rate * self.usable_memory

    @property
    def per_second(self) -> float:
        """Clocks of all multiprocessors together, in a second."""
        return self.multiprocessors * self.clock


FIGURES = {f.name for f in fields(Device)} - {"name", "torch_names", "target", "sources"}


def _matrix_rate(tflops: float, multiprocessors: int, clock: float) -> float:
    """Instructions a clock and multiprocessor, of the dense float16 TFLOPS of a data sheet.

    >>> round(_matrix_rate(312, 108, 1.41e9), 3)
    0.5
    """
    return tflops * 1e12 / (multiprocessors * clock) / MATRIX_FLOPS


# ---- the table -----------------------------------------------------------------------------------

_HOPPER_PAPER = "NVIDIA H100 Tensor Core GPU Architecture, table 3"
_ADA_PAPER = "NVIDIA Ada GPU Architecture (white paper), GeForce RTX 4090"
_AMPERE_PAPER = "NVIDIA A100 Tensor Core GPU Architecture (white paper)"
_B200_QUERY = "cudaDeviceProp and nvidia-smi of a B200, by others (pytorch/ao, pull request 4002)"

# Time of a byte = 1 / usable rate + latency / bytes on their way (see tilus.runtime.model). vLLM's
# Marlin on an H200, with 24 KB of weights on their way to each of 132 multiprocessors, streams
# 2.64 TB/s where 4.2 are usable.
_MARLIN_IN_FLIGHT = 132 * 24 * 1024
_LATENCY = _MARLIN_IN_FLIGHT * (1 / 2.64e12 - 1 / 4.2e12)
_LATENCY_SOURCE = (
    "derived from measurements by others: vLLM's Marlin on an H200 takes 20.3 us for 8192 x 8192 "
    "and 138 us for 8192 x 81920 weights of 4 bits, 2.64 TB/s with 24 KB in flight an SM"
)
_SAME_LATENCY = f"taken to be that of an H200: {_LATENCY_SOURCE}"
_SHARE = 3.0 / 3.35
_SAME_SHARE = "taken to be that of an H100: 3.0 of 3.35 TB/s, measured by others"
_LAUNCH = 0.5e-6
_LAUNCH_SOURCE = (
    'NVIDIA Technical Blog, "Getting Started with CUDA Graphs": kernels of 2.9 us take 3.4 us each '
    "in a graph, on a V100; taken to be the same on later GPUs"
)
_NO_L2 = "not published"

_HOPPER_CLOCK = 1.755e9
_HOPPER_MATRIX = 0.62 * _matrix_rate(989.4, 132, 1.83e9)
_HOPPER_SOURCES = {
    "multiprocessors": _HOPPER_PAPER,
    "clock": "1.755 GHz under load, measured by others",
    "l2_bytes": _HOPPER_PAPER,
    "l2_rate": "derived: 5,120 bytes a clock as on an A100, at this clock",
    "matrix_rate": (
        "62% of the peak, which mma.sync reaches as measured by others; peak derived from 989.4 "
        f"dense TFLOPS at 1.83 GHz: {_HOPPER_PAPER}"
    ),
    "launch": _LAUNCH_SOURCE,
}

H100 = Device(
    name="H100",
    torch_names=("NVIDIA H100 80GB HBM3",),
    target=nvgpu_sm90a,
    multiprocessors=132,
    clock=_HOPPER_CLOCK,
    memory_rate=3.35e12,
    usable_memory=_SHARE,
    memory_latency=_LATENCY,
    l2_bytes=50 * 1024**2,
    l2_rate=5120 * _HOPPER_CLOCK,
    matrix_rate=_HOPPER_MATRIX,
    launch=_LAUNCH,
    sources={
        **_HOPPER_SOURCES,
        "memory_rate": "NVIDIA H100 data sheet (SXM)",
        "usable_memory": "3.0 of 3.35 TB/s, measured by others",
        "memory_latency": _SAME_LATENCY,
    },
)
H200 = Device(
    name="H200",
    torch_names=("NVIDIA H200",),
    target=nvgpu_sm90a,
    multiprocessors=132,
    clock=_HOPPER_CLOCK,
    memory_rate=4.8e12,
    usable_memory=4.2 / 4.8,
    memory_latency=_LATENCY,
    l2_bytes=50 * 1024**2,
    l2_rate=5120 * _HOPPER_CLOCK,
    matrix_rate=_HOPPER_MATRIX,
    launch=_LAUNCH,
    sources={
        **_HOPPER_SOURCES,
        "memory_rate": "NVIDIA H200 data sheet (SXM)",
        "usable_memory": "4.2 of 4.8 TB/s, measured by others",
        "memory_latency": _LATENCY_SOURCE,
    },
)
A100 = Device(
    name="A100",
    torch_names=("NVIDIA A100-SXM4-80GB",),
    target=nvgpu_sm80,
    multiprocessors=108,
    clock=1.41e9,
    memory_rate=2.039e12,
    usable_memory=_SHARE,
    memory_latency=_LATENCY,
    l2_bytes=40 * 1024**2,
    l2_rate=5120 * 1.41e9,
    matrix_rate=_matrix_rate(312, 108, 1.41e9),
    launch=_LAUNCH,
    sources={
        "multiprocessors": _AMPERE_PAPER,
        "clock": _AMPERE_PAPER,
        "memory_rate": "NVIDIA A100 data sheet (SXM, 80 GB)",
        "usable_memory": _SAME_SHARE,
        "memory_latency": _SAME_LATENCY,
        "l2_bytes": _AMPERE_PAPER,
        "l2_rate": 'NVIDIA A100 Tensor Core GPU Architecture, "A100 L2 Cache": 5,120 bytes a clock',
        "matrix_rate": f"derived from 312 dense TFLOPS: {_AMPERE_PAPER}",
        "launch": _LAUNCH_SOURCE,
    },
)
L40S = Device(
    name="L40S",
    torch_names=("NVIDIA L40S",),
    target=nvgpu_sm89,
    multiprocessors=142,
    clock=2.52e9,
    memory_rate=0.864e12,
    usable_memory=_SHARE,
    memory_latency=_LATENCY,
    l2_bytes=96 * 1024**2,
    l2_rate=None,
    matrix_rate=_matrix_rate(362.05, 142, 2.52e9),
    launch=_LAUNCH,
    sources={
        "multiprocessors": "derived: 18,176 CUDA cores in the NVIDIA L40S data sheet, 128 an SM",
        "clock": "vendors' product pages: boost clock of 2,520 MHz",
        "memory_rate": "NVIDIA L40S data sheet",
        "usable_memory": _SAME_SHARE,
        "memory_latency": _SAME_LATENCY,
        "l2_bytes": "that of an L40, which has the same chip: arXiv 2606.22588",
        "l2_rate": _NO_L2,
        "matrix_rate": "derived from 362.05 dense TFLOPS: NVIDIA L40S data sheet",
        "launch": _LAUNCH_SOURCE,
    },
)
RTX_4090 = Device(
    name="RTX 4090",
    torch_names=("NVIDIA GeForce RTX 4090",),
    target=nvgpu_sm89,
    multiprocessors=128,
    clock=2.52e9,
    memory_rate=1.008e12,
    usable_memory=_SHARE,
    memory_latency=_LATENCY,
    l2_bytes=72 * 1024**2,
    l2_rate=None,
    matrix_rate=_matrix_rate(165.2, 128, 2.52e9),
    launch=_LAUNCH,
    sources={
        "multiprocessors": _ADA_PAPER,
        "clock": _ADA_PAPER,
        "memory_rate": _ADA_PAPER,
        "usable_memory": _SAME_SHARE,
        "memory_latency": _SAME_LATENCY,
        "l2_bytes": _ADA_PAPER,
        "l2_rate": _NO_L2,
        "matrix_rate": f"derived from 165.2 dense TFLOPS with float32 sums: {_ADA_PAPER}",
        "launch": _LAUNCH_SOURCE,
    },
)
B200 = Device(
    name="B200",
    torch_names=("NVIDIA B200",),
    target=nvgpu_sm100a,
    multiprocessors=148,
    clock=1.965e9,
    memory_rate=7.672e12,
    usable_memory=_SHARE,
    memory_latency=_LATENCY,
    l2_bytes=126 * 1024**2,
    l2_rate=None,
    matrix_rate=_matrix_rate(2250, 148, 1.965e9),
    launch=_LAUNCH,
    sources={
        "multiprocessors": _B200_QUERY,
        "clock": "locked to 1,965 MHz by others (facebookexperimental/triton, pull request 3648)",
        "memory_rate": f"7,680 bits at 3,996 MHz, twice a clock: {_B200_QUERY}",
        "usable_memory": _SAME_SHARE,
        "memory_latency": _SAME_LATENCY,
        "l2_bytes": "CUDA Blackwell Tuning Guide: 126 MB",
        "l2_rate": _NO_L2,
        "matrix_rate": (
            "derived from 2,250 dense TFLOPS: NVIDIA HGX B200 data sheet. They are those of "
            "tcgen05.mma; how far mma.sync falls short is not published"
        ),
        "launch": _LAUNCH_SOURCE,
    },
)
DEVICES: Mapping[str, Device] = MappingProxyType(
    {device.name: device for device in (H100, H200, A100, L40S, RTX_4090, B200)}
)


def device_of(name: str) -> Device:
    """The device called `name`: as in the table, "H100", or as torch calls it.

    Other boards with the same chip, such as an H100 for PCIe, are not in the table: they have fewer
    multiprocessors and slower memory.

    Raises: TilusError for a name that is not in the table.

    >>> device_of("NVIDIA H100 80GB HBM3") is device_of("h100") is H100
    True
    """
    for device in DEVICES.values():
        if _plain(name) in {_plain(n) for n in (device.name, *device.torch_names)}:
            return device
    names = [n for device in DEVICES.values() for n in (device.name, *device.torch_names)]
    close = difflib.get_close_matches(str(name), names, n=1)
    raise TilusError(
        "the cost model does not know this device",
        found=repr(name),
        expected="one of " + ", ".join(DEVICES),
        hint=f"did you mean {close[0]}? Its figures hold for that board alone" if close else None,
    )


def _plain(name: str) -> str:
    """Letters and digits.

    >>> _plain("NVIDIA A100-SXM4-80GB")
    'nvidiaa100sxm480gb'
    """
    return "".join(letter for letter in str(name).lower() if letter.isalnum())
