"""Running a program on the PTX emulator: the real code, generated and compiled, on CPU memory.

    with tilus.option.context(engine="emulator"):
        kernel(x, y)                                  # CPU tensors

What runs is the PTX that NVRTC makes of the generated CUDA; the emulator knows nothing of how it
was generated, so it judges the code generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from tilus.codegen.source import CudaSource
from tilus.interp.machine import grid_size
from tilus.ir.expr import Expr, Var, evaluate
from tilus.ir.program import Program
from tilus.ptx.counters import Counters
from tilus.ptx.launch import execute
from tilus.ptx.memory import GlobalMemory
from tilus.ptx.parse import parse_ptx
from tilus.ptx.syntax import Kernel
from tilus.runtime.compile import compile_program_for
from tilus.runtime.nvrtc import compile_ptx
from tilus.target import Target, get_current_target
from tilus.tensor import storage_of

_kernels: WeakKeyDictionary[Program, dict[Target, tuple[CudaSource, Kernel]]] = WeakKeyDictionary()


def emulate(
    program: Program,
    values: Sequence[Any],
    target: Target | None = None,
    counters: Counters | None = None,
) -> None:
    """Run `program` (as the passes left it) with one value per parameter, on CPU tensors.

    What it costs is added to `counters`, if there are any.
    Raises `TilusError` at the line of Python whose code reads or writes what it must not.
    """
    source, kernel = _compiled(program, target or get_current_target())
    _run(source, kernel, program, values, counters)


def run_source(source: CudaSource, program: Program, values: Sequence[Any], target: Target) -> None:
    """`emulate`, with CUDA text that may be other than what is generated for `program`."""
    ptx = compile_ptx(source.text, source.name, target.arch)
    _run(source, parse_ptx(ptx), program, values, None)


def _run(
    source: CudaSource,
    kernel: Kernel,
    program: Program,
    values: Sequence[Any],
    counters: Counters | None,
) -> None:
    memory = GlobalMemory()
    env: dict[Var, Any] = {}
    params: list[tuple[str, int | bytes]] = []
    addresses: dict[tuple[int, int], int] = {}
    for param, value in zip(program.params, values, strict=True):
        storage = storage_of(value)
        number = value if storage is None else _address(memory, addresses, param.var.name, storage)
        env[param.var] = carrier = param.var.dtype.encode(number)
        params.append(("b8", param.var.dtype.to_bits(carrier).tobytes()))  # as a launch packs it
    for number, (nbytes, clean) in enumerate(source.workspaces):
        workspace = np.zeros(_size(nbytes, env), np.uint8)
        params.append(("u64", memory.add(f"workspace{number}", workspace, written=clean)))
    memory.load()
    grid = grid_size(program, env)
    execute(kernel, params, memory, grid, source.threads, source.shared_bytes, counters)
    memory.store()


def _compiled(program: Program, target: Target) -> tuple[CudaSource, Kernel]:
    kernels = _kernels.setdefault(program, {})
    if target not in kernels:
        binary = compile_program_for(replace(program), target)
        kernels[target] = binary.source, parse_ptx(binary.ptx)
    return kernels[target]


def _address(
    memory: GlobalMemory,
    addresses: dict[tuple[int, int], int],
    name: str,
    storage: torch.Tensor,
) -> int:
    """The emulated address of a tensor; the same for the same memory."""
    data = np.empty(0, np.uint8)
    if storage.numel():
        data = storage.detach().reshape(-1).view(torch.uint8).numpy()
    key = (storage.data_ptr(), data.size)
    if key not in addresses:
        addresses[key] = memory.add(name, data, _misalignment(storage))
    return addresses[key]


def _misalignment(storage: torch.Tensor) -> int:
    """Bytes past a multiple of 256, where allocations of a GPU begin.

    What the kernel was compiled for is the address on the CPU, of which 16 bytes matter at most.
    """
    begin = storage.untyped_storage().data_ptr()
    return (storage.data_ptr() - (begin if begin % 16 == 0 else 0)) % 256


def _size(nbytes: Expr, env: dict[Var, Any]) -> int:
    return int(evaluate(nbytes, env))
