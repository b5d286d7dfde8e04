"""Running a compiled program on arguments, on the engine that fits where they live.

CPU tensors: the interpreter, or the PTX emulator where the setting says so. CUDA tensors: the
compiled kernel. Every check about devices and engines is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from tilus.config import get_option
from tilus.errors import TilusError
from tilus.interp.machine import launch
from tilus.interp.memory import Memory
from tilus.ir.expr import Var
from tilus.ir.program import Param, Program
from tilus.lang.script import Specialisation, set_launcher
from tilus.runtime.build import Binary
from tilus.runtime.compile import compile_program_for, compile_source
from tilus.runtime.cuda import CudaKernel
from tilus.runtime.emulate import emulate
from tilus.target import Target, target_of_capability
from tilus.tensor import storage_of

Engine = Callable[[Program, Sequence[Any]], None]


def run_program(program: Program, values: Sequence[Any]) -> None:
    """Run `program` with one value per parameter: numbers, torch or tilus tensors, addresses.

    Raises `TilusError` where the tensors are on several devices, or no engine can run there.
    """
    _check_count(program, values)
    for param, value in zip(program.params, values, strict=True):
        _check_promise(param, value)
    _engine(_device(program, values))(program, values)


def interpret(program: Program, values: Sequence[Any]) -> None:
    """Run on CPU memory by the virtual machine (interp/)."""
    memory = Memory()
    args: dict[Var, Any] = {}
    mapped: set[tuple[int, int]] = set()
    for param, value in zip(program.params, values, strict=True):
        storage = storage_of(value)
        args[param.var] = (
            value if storage is None else _map(memory, param.var.name, storage, mapped)
        )
    launch(program, args, memory)


def _map(memory: Memory, name: str, storage: torch.Tensor, mapped: set[tuple[int, int]]) -> int:
    """Make a tensor's memory readable; the same memory passed twice is mapped once."""
    data = (
        storage.detach().reshape(-1).view(torch.uint8).numpy()
        if storage.numel()
        else np.empty(0, np.uint8)
    )
    base = int(storage.data_ptr())
    if data.size == 0:
        return memory.allocate(name, 0)
    if (base, data.size) not in mapped:
        mapped.add((base, data.size))
        memory.map(name, base, data)
    return base


def _check_count(program: Program, values: Sequence[Any]) -> None:
    if len(values) != len(program.params):
        raise TilusError(
            f"{program.name} takes {len(program.params)} arguments",
            found=f"{len(values)}",
            expected=", ".join(p.var.name for p in program.params),
        )


def _check_promise(param: Param, value: Any) -> None:
    """The program was compiled for values divisible by this; others need another program."""
    storage = storage_of(value)
    number = value if storage is None else storage.data_ptr()
    if param.divisible_by > 1 and number % param.divisible_by:
        raise TilusError(
            f"the argument {param.var.name} breaks what the program was compiled for",
            found=str(number),
            expected=f"a multiple of {param.divisible_by}",
            hint="compile the program for this argument",
        )


def _device(program: Program, values: Sequence[Any]) -> torch.device:
    devices: dict[torch.device, str] = {}
    for param, value in zip(program.params, values, strict=True):
        storage = storage_of(value)
        if storage is not None:
            devices.setdefault(storage.device, param.var.name)
    if len(devices) > 1:
        raise TilusError(
            "the tensors of a launch are on different devices",
            found=", ".join(f"{name} on {device}" for device, name in devices.items()),
            expected="one device",
            hint="move them with .to(device)",
        )
    return next(iter(devices), torch.device("cpu"))


def _engine(device: torch.device) -> Engine:
    name = get_option("engine")
    if device.type not in ("cpu", "cuda"):
        raise TilusError(
            "no engine runs kernels on this device",
            found=f"tensors on {device}",
            expected="tensors on the CPU or on a CUDA device",
        )
    if name == "auto":
        name = "interpreter" if device.type == "cpu" else "cuda"
    if name == "interpreter" and device.type == "cpu":
        return interpret
    if name == "interpreter":
        raise TilusError(
            "the interpreter runs on CPU tensors",
            found=f"tensors on {device}",
            hint="move them: x.cpu()",
        )
    if name == "emulator" and device.type == "cpu":
        return emulate
    if name == "cuda" and device.type == "cuda":
        return launch_on_gpu
    if name == "cuda":
        raise TilusError(
            "the cuda engine runs on CUDA tensors",
            found=f"tensors on {device}",
            hint="move them: x.cuda(), or use the engine auto",
        )
    raise TilusError(
        "the emulator runs on CPU tensors",
        found=f"tensors on {device}",
        hint="move them: x.cpu()",
    )


_kernels: WeakKeyDictionary[Program, dict[Target, CudaKernel]] = WeakKeyDictionary()


def launch_on_gpu(program: Program, values: Sequence[Any]) -> None:
    """Run on the CUDA device of the tensors, on torch's current stream; returns at once."""
    target = target_of(_device(program, values))
    _kernel_for(program, target, compile_program_for).launch(values)


def run_specialisation(kernel: Specialisation, values: Sequence[Any]) -> None:
    """Run a Script's kernel; on a GPU its passes run only where no cache has the code already."""
    program = kernel.source
    device = _device(program, values)
    if not is_compiled_for(device):
        run_program(kernel.program, values)
        return
    _check_count(program, values)
    compile_kernel(kernel, target_of(device)).launch(values)


def is_compiled_for(device: torch.device) -> bool:
    """Whether tensors on `device` are given to compiled kernels, not to an engine of the CPU."""
    return _engine(device) is launch_on_gpu


def launcher(kernel: Specialisation, device: torch.device) -> Callable[[Sequence[Any]], None]:
    """What runs `kernel` on the values of a call whose tensors are on `device`.

    On a GPU the kernel is compiled and loaded now, so that it can be launched in a capture.
    """
    if not is_compiled_for(device):
        return partial(run_specialisation, kernel)
    compiled = compile_kernel(kernel, target_of(device))
    compiled.warmup(device.index)
    return compiled.launch


def compile_kernel(kernel: Specialisation, target: Target) -> CudaKernel:
    """The code of a Script's kernel for `target`; nothing is loaded."""
    return _kernel_for(kernel.source, target, compile_source)


def is_compiled(kernel: Specialisation, target: Target) -> bool:
    """Whether this process has the code already."""
    return target in _kernels.get(kernel.source, {})


def target_of(device: torch.device) -> Target:
    """What the code for a CUDA device is compiled for."""
    return target_of_capability(torch.cuda.get_device_capability(device))


def _kernel_for(
    program: Program, target: Target, compiler: Callable[[Program, Target], Binary]
) -> CudaKernel:
    """The form of `program` that can be launched, compiled when first asked for."""
    kernels = _kernels.setdefault(program, {})
    if target not in kernels:
        refuse_in_capture(program.name, "compiled")
        # The launcher looks at the head only; holding the program would keep it alive for ever.
        kernels[target] = CudaKernel(compiler(program, target), replace(program, body=()))
    return kernels[target]


def refuse_in_capture(name: str, missing: str) -> None:
    """Raises: TilusError while a CUDA graph is being captured, for `name` is not ready for it.

    Memory that is allocated then belongs to the graph, what is computed into it is there only
    after a replay, and loading code waits for the device, which is forbidden. Source: CUDA C++
    Programming Guide, "CUDA Graphs", "Prohibited and Unhandled Operations".
    """
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        raise TilusError(
            f"{name} is not {missing} yet, and a CUDA graph is being captured",
            hint="before the capture call tilus.ops.warmup(weight, tokens=...) or "
            "tilus.nn.warmup(model, tokens=...), or run once what is captured",
        )


set_launcher(run_specialisation)
