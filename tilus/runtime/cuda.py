"""Loading and launching compiled kernels, on torch's devices and streams.

    kernel = CudaKernel(build(source, target), program)
    kernel.launch([n, x, y])            # on torch's current stream; returns before the kernel ends

A launch loads nothing, asks the device nothing and waits for nothing, the first one on a device
apart, so that launches can be captured into a CUDA graph. Devices, streams and threads may be used
together: an argument buffer belongs to one launch at a time, workspaces to one stream.

The surprise: a captured launch takes its workspaces from the graph's own memory, not from those of
the stream. A graph may be replayed on another stream than it was captured on, and at the same time.

Sources: CUDA Driver API, "Module Management", "Execution Control"; CUDA C++ Programming Guide,
"CUDA Graphs", "Prohibited and Unhandled Operations".
"""

from __future__ import annotations

import importlib
import struct
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, Protocol

import torch

from tilus.errors import TilusError
from tilus.ir.program import Program
from tilus.runtime.binding import ArgumentBuffer, Packing, explain, make_bind
from tilus.runtime.build import Binary
from tilus.target import BASE_SHARED_MEMORY

Memory = tuple[torch.Tensor | None, torch.Tensor | None]  # a clean workspace, a scratch one
_NO_WORKSPACES: tuple[tuple[int, int], Memory] = ((0, 0), (None, None))
_ALIGNMENT = 256  # of workspaces: what cudaMalloc gives
_GRANULE = 1 << 16  # workspaces grow by this much at least, so that few sizes come up
# What a value that does not fit makes the argument path raise; `explain` finds the words for it.
_REFUSALS = (TypeError, ValueError, AttributeError, ArithmeticError, struct.error)


class Devices(Protocol):
    """What a launch asks torch for; tests answer in its place."""

    def current_device(self) -> int: ...

    def on_device(self, device: int) -> AbstractContextManager[Any]:
        """Make `device` the current one for a `with` block."""
        ...

    def current_stream(self, device: int) -> int:
        """The handle of the current stream; 0 is the default one."""
        ...

    def is_capturing(self) -> bool:
        """Whether the current stream is being captured into a graph."""
        ...

    def bytes(self, nbytes: int, device: int, *, zeroed: bool) -> torch.Tensor:
        """uint8[nbytes], allocated in the order of the current stream."""
        ...


class TorchDevices:
    """The devices, streams and memory of torch."""

    def __init__(self) -> None:
        torch.cuda.init()
        # The private functions below are what torch.cuda's own do after checks and conversions
        # that cost several microseconds.
        self.current_device = torch._C._cuda_getDevice  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        self.current_stream = torch._C._cuda_getCurrentRawStream  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        self.on_device = torch.cuda.device
        self.is_capturing = torch.cuda.is_current_stream_capturing

    def bytes(self, nbytes: int, device: int, *, zeroed: bool) -> torch.Tensor:
        make = torch.zeros if zeroed else torch.empty
        return make(nbytes, dtype=torch.uint8, device=torch.device("cuda", device))


class _Entered(threading.local):
    """The devices whose context the current thread has."""

    def __init__(self) -> None:
        self.devices: set[int] = set()


class Cuda:
    """The CUDA driver of this process: loaded kernels and workspaces, by device.

    `driver` is `cuda.bindings.driver`.
    """

    def __init__(self, driver: Any, devices: Devices):
        self.driver = driver
        self.devices = devices
        self.launch_kernel = driver.cuLaunchKernel
        self._lock = threading.Lock()
        # Never unloaded: a captured graph may hold any of them.
        self._functions: dict[tuple[int, str, int], Any] = {}
        self._modules: list[Any] = []
        # (device, stream) -> sizes in bytes and tensors of the clean and the scratch workspace
        self._workspaces: dict[tuple[int, int], tuple[tuple[int, int], Memory]] = {}
        self.entered = _Entered()

    # ---- kernels

    def function(self, binary: Binary, device: int) -> Any:
        """The kernel of `binary`, loaded once on `device`, which is the current one.

        Raises: TilusError where it does not run there, or while a graph is being captured.
        """
        source = binary.source
        # With the shared memory, which is an attribute of the loaded function.
        key = (device, binary.code.key, source.shared_bytes)
        with self._lock:
            if key not in self._functions:
                self._check_can_load(source.name, device)
                self.enter(device)
                module = self.call("cuModuleLoadData", binary.cubin, what=_loading(binary))
                function = self.call(
                    "cuModuleGetFunction", module, source.name.encode(), what=_loading(binary)
                )
                self._raise_shared_limit(function, binary, device)
                self._modules.append(module)
                self._functions[key] = function
            return self._functions[key]

    def _check_can_load(self, name: str, device: int) -> None:
        if device < 0:
            raise TilusError(
                f"{name} is compiled for CUDA devices",
                found="a tensor on the CPU",
                expected="CUDA tensors",
                hint="move them with .cuda()",
            )
        if self.devices.is_capturing():
            raise TilusError(
                f"{name} is not loaded yet, and a CUDA graph is being captured",
                hint="call the kernel once, or its warmup(), before the capture",
            )

    def _raise_shared_limit(self, function: Any, binary: Binary, device: int) -> None:
        """Allow the dynamic shared memory of `binary` where it is more than every kernel has."""
        dynamic = binary.source.shared_bytes
        static = binary.resources.static_shared if binary.resources else 0
        if dynamic + static <= BASE_SHARED_MEMORY:
            return
        attributes = self.driver.CUdevice_attribute
        limit = self.call(
            "cuDeviceGetAttribute",
            attributes.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            self.call("cuDeviceGet", device),
        )
        if dynamic + static > limit:
            raise TilusError(
                f"{binary.source.name} needs more shared memory than the device has",
                found=f"{dynamic + static} bytes a block",
                expected=f"at most {limit} bytes on device {device}",
                hint="use smaller tiles or fewer pipeline stages",
            )
        attribute = self.driver.CUfunction_attribute
        self.call(
            "cuFuncSetAttribute",
            function,
            attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            dynamic,
        )

    # ---- contexts

    def enter(self, device: int) -> None:
        """Give this thread the context of `device`: a new thread has none until torch needs one.

        `device` is torch's current one, so that torch and the driver agree from then on.
        """
        if device in self.entered.devices:
            return
        handle = self.call("cuDeviceGet", device)
        context = self.call("cuDevicePrimaryCtxRetain", handle)
        self.call("cuCtxSetCurrent", context)
        self.entered.devices.add(device)

    # ---- workspaces

    def workspaces(self, device: int, stream: int, clean: int, scratch: int) -> Memory:
        """Memory for one launch on `stream`, the current stream of `device`: two tensors of uint8,
        of at least `clean` and `scratch` bytes; None for 0 bytes.

        Launches on a stream run one after the other, so they share; a clean one is zeroed when it
        is made, and kernels restore the zeros. The caller keeps the tensors until the launch is
        made: what replaces them meanwhile may be given their memory only by later work of the
        stream.
        """
        if self.devices.is_capturing():
            return (
                self.devices.bytes(clean, device, zeroed=True) if clean else None,
                self.devices.bytes(scratch, device, zeroed=False) if scratch else None,
            )
        key = (device, stream)
        size, memory = self._workspaces.get(key, _NO_WORKSPACES)
        if clean <= size[0] and scratch <= size[1]:
            return memory
        with self._lock:
            return self._grown(key, clean, scratch)

    def _grown(self, key: tuple[int, int], clean: int, scratch: int) -> Memory:
        """Replace what is too small; another thread may have done so meanwhile."""
        sizes, memory = self._workspaces.get(key, _NO_WORKSPACES)
        new_sizes, new_memory = list(sizes), list(memory)
        for index, needed in enumerate((clean, scratch)):
            if needed > sizes[index]:
                new_sizes[index] = -(-needed // _GRANULE) * _GRANULE
                new_memory[index] = self.devices.bytes(new_sizes[index], key[0], zeroed=index == 0)
        self._workspaces[key] = ((new_sizes[0], new_sizes[1]), (new_memory[0], new_memory[1]))
        return self._workspaces[key][1]

    # ---- errors

    def call(self, name: str, *arguments: Any, what: str | None = None) -> Any:
        """The result of a driver function. Raises: TilusError, saying what failed."""
        status, *results = getattr(self.driver, name)(*arguments)
        if status:
            raise self.error(what or f"the driver function {name}", status)
        return results[0] if results else None

    def error(self, what: str, status: Any) -> TilusError:
        """The driver's own words for a failure."""
        found, text = self.driver.cuGetErrorString(status)
        words = "" if found or text is None else f": {text.decode()}"
        return TilusError(f"{what} failed", found=f"{getattr(status, 'name', status)}{words}")


def _loading(binary: Binary) -> str:
    return f"loading {binary.source.name}, compiled for {binary.target.arch},"


@cache
def connect() -> Cuda:
    """The driver of this machine. Raises: TilusError where there is no device to use.

    >>> connect()  # doctest: +SKIP
    <tilus.runtime.cuda.Cuda object at 0x7f2d6c1b5d50>
    """
    if not torch.cuda.is_available():
        raise TilusError(
            "there is no CUDA device to run on",
            found=f"torch {torch.__version__}, torch.cuda.is_available() is False",
            hint="install a CUDA build of torch and a driver, or pass CPU tensors",
        )
    try:
        driver = importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise TilusError(
            "launching needs cuda-python",
            found=str(error),
            hint='pip install "tilus-vm[cu13]" (or "tilus-vm[cu12]" for a CUDA 12 driver)',
        ) from None
    return Cuda(driver, TorchDevices())


class CudaKernel:
    """A compiled program that can be launched; may be used by several threads at once.

    `program` gives the parameters and the grid; its body is not looked at. `cuda` is the driver
    (None: that of this machine, from the first launch on).
    """

    def __init__(self, binary: Binary, program: Program, cuda: Cuda | None = None):
        self.binary = binary
        self.program = program
        source = binary.source
        self._cuda = cuda
        self._clean = [bool(clean) for _, clean in source.workspaces]
        self._sizes = [nbytes for nbytes, _ in source.workspaces]
        self._threads = source.threads
        self._shared_bytes = source.shared_bytes
        self._bind = make_bind(program, self._sizes)
        self._packing = Packing([p.var.dtype for p in program.params], len(self._sizes))
        self._functions: dict[int, Any] = {}
        self._buffers: list[ArgumentBuffer] = []  # free ones; a list's pop and append are atomic

    def launch(self, values: Sequence[Any]) -> None:
        """Start the kernel on the current stream of the device that its tensors are on.

        One value for each parameter: a number, or for a pointer a torch tensor, a `tilus.Tensor` or
        an address. Without tensors the device is the current one. A kernel of no blocks does
        nothing. The dtypes of tensors are not checked: callers know them.

        Raises: TilusError for values that do not fit the program, or if the driver refuses.
        """
        try:
            self._launch(values)
        except _REFUSALS:
            # The values are wrong, or of a type that is converted here, as NumPy's are.
            self._launch(explain(self.program, self._sizes, values))

    def warmup(self, device: int | None = None) -> None:
        """Load the kernel on `device` (None: the current one), as before a graph's capture.

        Raises: TilusError where it does not run there.
        """
        cuda = self._connected()
        index = cuda.devices.current_device() if device is None else device
        with cuda.devices.on_device(index):
            self._functions[index] = cuda.function(self.binary, index)

    def _connected(self) -> Cuda:
        if self._cuda is None:
            self._cuda = connect()
        return self._cuda

    def _launch(self, values: Sequence[Any]) -> None:
        bound = self._bind(values)
        if bound is None:
            return
        cuda = self._cuda or self._connected()
        device, x, y, z, arguments, sizes = bound
        current = cuda.devices.current_device()
        if device is None or device == current:
            self._launch_here(cuda, current, (x, y, z), arguments, sizes)
            return
        with cuda.devices.on_device(device):
            self._launch_here(cuda, device, (x, y, z), arguments, sizes)

    def _launch_here(
        self,
        cuda: Cuda,
        device: int,
        grid: tuple[int, int, int],
        arguments: tuple[Any, ...],
        sizes: tuple[int, ...],
    ) -> None:
        """Launch on `device`, which is the current one."""
        function = self._functions.get(device)
        if function is None:
            function = self._functions[device] = cuda.function(self.binary, device)
        if device not in cuda.entered.devices:
            cuda.enter(device)
        stream = cuda.devices.current_stream(device)
        if self._packing.encoders:
            arguments = self._packing.encoded(arguments)
        # Held until the launch is made: see Cuda.workspaces.
        held = self._workspaces(cuda, device, stream, sizes) if sizes else None
        if held is not None:
            arguments += held[1]
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = ArgumentBuffer(self._packing)
        try:
            buffer.pack(*arguments)
            # fmt: off
            (status,) = cuda.launch_kernel(
                function, *grid, self._threads, 1, 1,
                self._shared_bytes, stream, buffer.address, 0,
            )
            # fmt: on
        finally:
            self._buffers.append(buffer)
        if status:
            raise cuda.error(f"the launch of {self.program.name}", status)

    def _workspaces(
        self, cuda: Cuda, device: int, stream: int, sizes: tuple[int, ...]
    ) -> tuple[Memory, tuple[int, ...]]:
        """The memory that holds the workspaces, and the address of each."""
        offsets: list[int] = []
        clean = scratch = 0
        for is_clean, size in zip(self._clean, sizes, strict=True):
            offsets.append(clean if is_clean else scratch)
            padded = (size + _ALIGNMENT - 1) & -_ALIGNMENT
            if is_clean:
                clean += padded
            else:
                scratch += padded
        memory = cuda.workspaces(device, stream, clean, scratch)
        clean_base, scratch_base = (0 if each is None else each.data_ptr() for each in memory)
        return memory, tuple(
            [
                (clean_base if is_clean else scratch_base) + offset
                for is_clean, offset in zip(self._clean, offsets, strict=True)
            ]
        )
