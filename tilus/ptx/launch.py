"""Launching a kernel on the emulated GPU: waves of as many blocks as run at once."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from weakref import WeakKeyDictionary

import numpy as np

from tilus.ptx import FAMILIES
from tilus.ptx.blocks import Block, meetings, translate
from tilus.ptx.counters import Counters
from tilus.ptx.machine import OPCODES, SMS, Machine, Wave
from tilus.ptx.memory import GlobalMemory
from tilus.ptx.syntax import Kernel

# Source: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability" (9.0).
THREADS_PER_SM = 2048
SHARED_PER_SM = 228 * 1024
THREAD_BYTES = 2 << 30  # registers and local memory of a wave: fewer blocks run at once beyond it

_code: WeakKeyDictionary[Kernel, tuple[Mapping[int, Block], frozenset[int]]] = WeakKeyDictionary()


def execute(
    kernel: Kernel,
    params: Sequence[tuple[str, int | float | bytes]],
    memory: GlobalMemory,
    grid: tuple[int, int, int],
    threads: int,
    shared_bytes: int,
    counters: Counters | None = None,
) -> None:
    """Run every block of `kernel`; `params` are (type, value) in order; a structure is its bytes.

    Blocks run in waves, in order, of as many as an H100 holds at a time. Raises `TilusError` at the
    Python line of an instruction that does what it must not.
    """
    code, together = _translated(kernel)
    named = {name: value for (name, _), value in zip(kernel.params, params, strict=True)}
    symbols = _map_constants(kernel, memory)
    for wave in _waves(kernel, grid, threads, shared_bytes):
        Machine(kernel, code, together, named, memory, symbols, wave, shared_bytes, counters).run()


def _translated(kernel: Kernel) -> tuple[Mapping[int, Block], frozenset[int]]:
    if kernel not in _code:
        for family in FAMILIES:
            importlib.import_module(f"tilus.ptx.{family}")
        code = translate(kernel, OPCODES)
        _code[kernel] = code, meetings(kernel, code)
    return _code[kernel]


def _map_constants(kernel: Kernel, memory: GlobalMemory) -> dict[str, int]:
    """The addresses of the arrays of the module, copied into memory."""
    addresses = {
        c.name: memory.add(c.name, np.frombuffer(bytearray(c.data), np.uint8))
        for c in kernel.constants
    }
    if addresses:
        memory.load()
    return addresses


def _waves(
    kernel: Kernel, grid: tuple[int, int, int], threads: int, shared_bytes: int
) -> Iterator[Wave]:
    blocks = grid[0] * grid[1] * grid[2] if min(grid) > 0 else 0
    static = sum(variable.size for variable in kernel.shared)
    resident = min(THREADS_PER_SM // threads, SHARED_PER_SM // max(shared_bytes + static, 1), 32)
    private = 4 * len(kernel.registers) + sum(variable.size for variable in kernel.local)
    affordable = THREAD_BYTES // (threads * max(private, 1))
    size = max(1, min(SMS * max(resident, 1), affordable))
    for first in range(0, blocks, size):
        yield Wave(grid, threads, first, min(size, blocks - first))
