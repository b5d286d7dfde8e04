"""A CUDA driver and torch's devices that only write down what they are asked."""

from __future__ import annotations

import ctypes
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch

from tilus.codegen.source import CudaSource
from tilus.ir.parser import parse_program
from tilus.runtime.build import Binary, Code, Resources
from tilus.runtime.cuda import Cuda, CudaKernel
from tilus.target import nvgpu_sm90a


class Status(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209


@dataclass
class Launch:
    """What one cuLaunchKernel was given; `arguments` are the bytes of each, read at the call."""

    function: Any
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    stream: int
    arguments: list[bytes]


@dataclass
class FakeDriver:
    """`sizes`: bytes of each kernel argument, as the real driver knows them from the cubin."""

    sizes: list[int]
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    launches: list[Launch] = field(default_factory=list)
    fails: dict[str, Status] = field(default_factory=dict)
    shared_limit: int = 232448

    class CUdevice_attribute(IntEnum):
        CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97

    class CUfunction_attribute(IntEnum):
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8

    def _call(self, name, *arguments, result=None):
        self.calls.append((name, *arguments))
        return (self.fails.get(name, Status.CUDA_SUCCESS), result)

    def cuModuleLoadData(self, image):
        return self._call("cuModuleLoadData", image, result="module")

    def cuModuleGetFunction(self, module, name):
        return self._call("cuModuleGetFunction", module, name, result="function")

    def cuDeviceGet(self, index):
        return self._call("cuDeviceGet", index, result=f"device {index}")

    def cuDeviceGetAttribute(self, attribute, device):
        return self._call("cuDeviceGetAttribute", attribute, device, result=self.shared_limit)

    def cuFuncSetAttribute(self, function, attribute, value):
        return self._call("cuFuncSetAttribute", function, int(attribute), value)[:1]

    def cuDevicePrimaryCtxRetain(self, device):
        return self._call("cuDevicePrimaryCtxRetain", device, result=f"context of {device}")

    def cuCtxSetCurrent(self, context):
        return self._call("cuCtxSetCurrent", context)[:1]

    def cuGetErrorString(self, status):
        return (Status.CUDA_SUCCESS, b"words of the driver")

    def cuLaunchKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, params, extra):
        assert extra == 0
        pointers = (ctypes.c_void_p * len(self.sizes)).from_address(params)
        arguments = [
            ctypes.string_at(pointer, size)
            for pointer, size in zip(pointers, self.sizes, strict=True)
        ]
        self.launches.append(
            Launch(function, (gx, gy, gz), (bx, by, bz), shared, stream, arguments)
        )
        return (self.fails.get("cuLaunchKernel", Status.CUDA_SUCCESS),)


@dataclass
class FakeDevices:
    """CPU memory in the place of a device's; `streams` are the current ones."""

    current: int = 0
    streams: dict[int, int] = field(default_factory=lambda: {0: 70, 1: 71})
    capturing: bool = False
    allocated: list[tuple[int, int, int, bool]] = field(default_factory=list)

    def current_device(self):
        return self.current

    @contextmanager
    def on_device(self, device):
        before, self.current = self.current, device
        yield
        self.current = before

    def current_stream(self, device):
        assert device == self.current
        return self.streams[device]

    def is_capturing(self):
        return self.capturing

    def bytes(self, nbytes, device, *, zeroed):
        self.allocated.append((nbytes, device, self.streams[device], zeroed))
        return (torch.zeros if zeroed else torch.empty)(nbytes, dtype=torch.uint8)


class DeviceTensor(torch.Tensor):
    """A tensor that says it is at an address of a device, which need not exist."""

    def __new__(cls, address: int, device: int = 0):
        return torch.empty(0).as_subclass(cls)

    def __init__(self, address: int, device: int = 0):
        super().__init__()
        self.address, self.index = address, device

    def data_ptr(self):
        return self.address

    def get_device(self):
        return self.index

    @property
    def device(self):
        return torch.device("cuda", self.index)


def make_kernel(
    head: str, *, sizes=(), workspaces=(), shared_bytes=0, static_shared=0, **driver
) -> tuple[CudaKernel, FakeDriver, FakeDevices]:
    """A kernel of the parameters and grid in `head`, as in "(n: int32) blocks=[n]"."""
    program = parse_program(f"kernel f{head} warps=4:\n    pass")
    source = CudaSource("f", "", 128, shared_bytes, tuple(workspaces))
    code = Code("key", b"cubin", Resources(32, 0, 0, 0, static_shared), "13.0", "")
    fake, devices = FakeDriver(list(sizes), **driver), FakeDevices()
    kernel = CudaKernel(Binary(source, nvgpu_sm90a, code), program, Cuda(fake, devices))
    return kernel, fake, devices


def unpack(text: str, data: bytes) -> Any:
    return struct.unpack(text, data)[0]
