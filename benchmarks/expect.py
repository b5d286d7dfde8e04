"""What a matmul takes at the least on a device, and what the cost model predicts for ours.

    floor_of([Work.of(Problem(1, 8192, 8192, "u4"), weight_bytes=34_603_008)], H100).us    # 11.5

The floor is the larger of two times: bytes (weights with scales, activations and results, each of
them once) at the rate that kernels reach, and operations at the rate of the tensor cores.

The surprise: on Hopper that rate is the peak, which wgmma comes near, and not that of mma.sync in
the device table, which our kernels are predicted with: a floor that a peer beats would be none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from benchmarks.peers import Problem
from tilus.demo import parse_types
from tilus.dtypes import DataType, dtype_from_name, storage_nbytes
from tilus.ops import small_m
from tilus.ops.demand import demand
from tilus.ops.lean import bucket, lean_form, lean_kernel
from tilus.ops.quantized_tensor import QuantizedTensor
from tilus.ops.small_m import Epilogue
from tilus.runtime.devices import MATRIX_FLOPS, Device
from tilus.runtime.model import Prediction, predict
from tilus.target import Capability

US = 1e6
# Of an SM in a clock, dense, where the device table has the rate of mma.sync in place of the peak.
# NVIDIA H100 Tensor Core GPU Architecture: a tensor core does 512 multiply-adds of float16 a clock.
PEAK_FLOPS: Mapping[Capability, float] = MappingProxyType({(9, 0): 4 * 512 * 2.0})


@dataclass(frozen=True)
class Rates:
    """Bytes and floating-point operations a second that kernels may reach."""

    bytes: float
    flops: float
    peak_bytes: float  # of the data sheet

    @classmethod
    def of(cls, device: Device) -> Rates:
        capability = device.target.properties.compute_capability
        a_clock = PEAK_FLOPS.get(capability, device.matrix_rate * MATRIX_FLOPS)
        return cls(device.usable_rate, a_clock * device.per_second, device.memory_rate)


@dataclass(frozen=True)
class Work:
    """What a launch moves and computes at the least."""

    nbytes: int
    flops: int

    @classmethod
    def of(cls, problem: Problem, weight_bytes: int) -> Work:
        """`weight_bytes` are those of codes, scales and zero points."""
        moved = problem.m * (problem.k + problem.n)
        half = dtype_from_name(problem.activation).nbits // 8
        return cls(weight_bytes + half * moved, 2 * problem.m * problem.n * problem.k)


@dataclass(frozen=True)
class Floor:
    """Microseconds, and what binds."""

    us: float
    binds: str


def floor_of(work: Sequence[Work], device: Device) -> Floor:
    """Of launches one after the other; what binds longest is named.

    >>> from tilus.runtime.devices import device_of
    >>> floor = floor_of([Work.of(Problem(1, 8192, 8192, "u4"), 34_603_008)], device_of("H100"))
    >>> round(floor.us, 1), floor.binds
    (11.5, 'DRAM')
    """
    rates = Rates.of(device)
    times = [(one.nbytes / rates.bytes, one.flops / rates.flops) for one in work]
    memory = sum(moved for moved, computed in times if moved >= computed)
    total = sum(map(max, times))
    return Floor(US * total, "DRAM" if 2 * memory >= total else "tensor core")


# ---- the cost model ------------------------------------------------------------------------------


def prediction_of(problem: Problem, device: Device, place: torch.device) -> Prediction | None:
    """That of the kernel that `tilus.ops.matmul` chooses for tensors on `place`.

    None where it takes no lean kernel, as only these are modelled.
    """
    weight = _weight_like(problem, place)
    activation = dtype_from_name(problem.activation)
    form = lean_form(weight, activation)
    if form is None:
        return None
    kernel = lean_kernel(weight, form, bucket(problem.m), Epilogue(activation))
    columns = len(kernel.columns) if isinstance(kernel, small_m.SmallMatmul) else None
    schedule: Any = kernel.schedule
    taken = demand(form.blobs, problem.m, schedule, zero=form.zero, columns=columns)
    return predict(taken, device)


def _weight_like(problem: Problem, place: torch.device) -> QuantizedTensor:
    """A weight of the problem's form, whose codes are whatever is in memory: no choice of a kernel
    depends on them.
    """
    dtype, shape = code_type(problem.dtype), (problem.n, problem.k)
    nbytes = storage_nbytes(dtype, problem.n * problem.k)
    codes = torch.empty(nbytes, dtype=torch.uint8, device=place)
    groups = problem.k // problem.group_size
    scales = torch.ones(groups, problem.n, dtype=torch.float16, device=place)
    zero = float(1 << (dtype.nbits - 1)) if dtype.kind == "uint" else 0.0
    return QuantizedTensor.unchecked(dtype, shape, problem.group_size, codes, scales, None, zero)


def code_type(name: str) -> DataType:
    """
    >>> code_type("u4"), code_type("e3m2")
    (uint4b, float6_e3m2)
    """
    (dtype,) = parse_types(name)
    return dtype


def bits_of(name: str) -> int:
    """Of a weight; "f16" is a type of peers alone.

    >>> bits_of("f16"), bits_of("u3")
    (16, 3)
    """
    return 16 if name == "f16" else code_type(name).nbits
