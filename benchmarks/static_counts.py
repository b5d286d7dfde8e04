"""What benchmarks/static.py counts of a kernel: slots in its machine code, bounds on its time, and
memory traffic on the emulator.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.static_kernels import (
    EXTENT,
    GROUP,
    Case,
    Subject,
    arguments_for,
    blobs_of,
    kernel_for,
    subject_of,
)
from tilus.errors import TilusError
from tilus.ops.blobs import LANES, BlobFormat, pack_blobs
from tilus.ops.lean import SMS
from tilus.ptx.counters import Counters, Traffic, class_of
from tilus.runtime.build import Binary
from tilus.runtime.compile import compile_program_for
from tilus.runtime.inspect import Inspection
from tilus.runtime.profile import profile_program
from tilus.target import scope, target_from_name
from tilus.tensor import dtype_to_torch
from tilus.utils import cdiv

LONG_K = 32768  # where the loop has turns, however many stages a turn unrolls
PROFILED_N, PROFILED_K = 128, 2048

# CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions", sm_80 to sm_90: warp
# instructions a clock and SM. An m16n8k16 is 4096 operations, what the tensor cores of an SM of an
# H100 do in a clock ("NVIDIA H100 Tensor Core GPU Architecture"); mma.sync is taken to reach 62%.
A_CLOCK = {"issue": 4.0, "alu": 2.0, "matrix": 0.62}
CLOCKS_PER_US = 1755.0
BYTES_PER_US = {"H100": 3.0e6, "H200": 4.2e6}  # what kernels reach of 3.35 and 4.8 TB/s

# ---- slots and resources -------------------------------------------------------------------------


def compiled(subject: Subject, arch: str) -> Binary:
    target = target_from_name(arch)
    with scope(target):
        return compile_program_for(subject.script.program(*subject.arguments), target)


def turn_of(binary: Binary, subject: Subject) -> Inspection | None:
    """The kernel with the weights of a turn of its hottest loop; None if no loop takes steps."""
    loop = Inspection(binary).loop
    steps = 0 if loop is None else loop.counts["BAR"]
    if loop is None or not steps or not loop.matrix:
        return None
    if loop.matrix != steps * subject.matrix:
        raise TilusError(
            "the hottest loop does not multiply the weights that it should",
            found=f"{loop.matrix} tensor-core instructions in {steps} steps",
            expected=f"{subject.matrix} a step, for {subject.weights} weights per lane",
        )
    return Inspection(binary, weight_operand="A", weights_per_turn=steps * subject.weights)


def counted(case: Case, subject: Subject, launched: Binary) -> tuple[Inspection, int]:
    """The kernel of which the loop is counted, and its k."""
    found = turn_of(launched, subject)
    if found is not None:
        return found, EXTENT
    longer = subject_of(case, LONG_K)
    found = turn_of(compiled(longer, case.arch), longer)
    if found is None:
        raise TilusError(
            "the kernel has no loop", found=str(case), expected=f"one, at k = {LONG_K}"
        )
    return found, LONG_K


def count_kernel(case: Case) -> dict[str, Any]:
    """Slots, resources and bytes in flight of the kernel of a case.

    Raises: TilusError where no kernel is written for it, or its loop is not understood.
    """
    subject = subject_of(case, EXTENT)
    launched = compiled(subject, case.arch)
    found, counted_k = counted(case, subject, launched)
    loop = found.loop
    assert loop is not None
    resources = resources_of(Inspection(launched), subject)
    return {
        "kernel": found.binary.source.name,
        "schedule": subject.schedule,
        "unpacked": subject.unpacked,
        "nvrtc": found.binary.code.nvrtc,
        **resources,
        "counted_k": counted_k,
        "weights_per_turn": found.weights,
        "per_turn": found.per_turn,
        "per_weight": found.per_weight,
        "opcodes": dict(loop.counts.most_common()),
    }


def resources_of(launched: Inspection, subject: Subject) -> dict[str, Any]:
    """Registers, spills and residency of the kernel for 8192 of k."""
    used, room = launched.binary.resources, launched.occupancy
    if used is None or room is None:
        raise TilusError("the compiler's report was not understood")
    resident = min(room.blocks, cdiv(subject.blocks, SMS))
    return {
        "registers": used.registers,
        "spill_bytes": used.spill_stores + used.spill_loads,
        "blocks_per_sm": room.blocks,
        "warps_per_sm": room.warps,
        "bound_by": list(room.bound_by),
        "resident_warps": resident * subject.warps,
        "bytes_in_flight": subject.in_flight * resident,
    }


# ---- bounds --------------------------------------------------------------------------------------


def bounds(case: Case, per_weight: dict[str, float], unpacked: int) -> dict[str, Any]:
    """Microseconds that each resource takes at the least, by GPU; see benchmarks/static.py.

    >>> case = Case("u4", "float16", "sm_90a", 8)
    >>> found = bounds(case, {"issue": 1.0, "alu": 0.5, "matrix": 0.125}, unpacked=1)
    >>> {name: round(us, 2) for name, us in found["H100"].items()}
    {'issue': 2.26, 'alu': 2.26, 'matrix': 1.83, 'memory': 11.62, 'bound': 11.62}
    """
    blobs = blobs_of(case, EXTENT, EXTENT)
    warp_weights = EXTENT * EXTENT * unpacked / LANES
    times = {
        name: per_weight[name] * warp_weights / (SMS * a_clock * CLOCKS_PER_US)
        for name, a_clock in A_CLOCK.items()
    }
    moved = blobs.n_tiles * blobs.chunks * blobs.blob_bytes + 2 * 2 * case.m * EXTENT
    found: dict[str, Any] = {}
    for gpu, speed in BYTES_PER_US.items():
        found[gpu] = {**times, "memory": moved / speed}
        found[gpu]["bound"] = max(found[gpu].values())
    return found


# ---- memory traffic ------------------------------------------------------------------------------


def measure_traffic(case: Case) -> dict[str, Any]:
    """What the emulator counts for a small problem of the same kind."""
    blobs = blobs_of(case, PROFILED_N, PROFILED_K)
    arguments = profiled_arguments(case, blobs)
    target = target_from_name(case.arch)
    with scope(target):
        program = kernel_for(case, blobs, blobs).program(*arguments)
        counters = profile_program(program, arguments, target)
    return {
        "copies": told(global_of(counters, "async copy")),
        "loads": told(global_of(counters, "global load")),
        "shared_requests": counters.shared.requests,
        "bank_conflicts": {
            kind: conflicts_of(counters, kind)
            for kind in ("async copy", "shared load", "shared store")
        },
    }


def profiled_arguments(case: Case, blobs: BlobFormat) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    shape = (blobs.n, blobs.k)
    codes = torch.randint(0, 1 << blobs.dtype.nbits, shape, dtype=torch.uint8, generator=generator)
    scales = torch.rand(blobs.k // GROUP, blobs.n, generator=generator).half()
    x = torch.randn(case.m, blobs.k, generator=generator).to(dtype_to_torch(blobs.activation))
    return arguments_for(case, blobs, pack_blobs(codes, scales, None, blobs), x)


def global_of(counters: Counters, kind: str) -> Traffic:
    """Accesses to global memory by instructions of a class."""
    total = Traffic()
    for number in counters.where(lambda instruction: class_of(instruction) == kind):
        if number in counters.global_traffic:
            total.add(counters.global_traffic[number])
    return total


def conflicts_of(counters: Counters, kind: str) -> int:
    """Bank conflicts of instructions of a class."""
    numbers = counters.where(lambda instruction: class_of(instruction) == kind)
    return sum(
        counters.shared_traffic[n].conflicts for n in numbers if n in counters.shared_traffic
    )


def told(traffic: Traffic) -> dict[str, float]:
    return {
        "requests": traffic.requests,
        "sectors_per_request": traffic.per_request,
        "sector_bytes_used": traffic.used,
    }
