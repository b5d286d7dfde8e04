"""Generated CUDA text to a binary for one target: from memory, from the cache, or by NVRTC.

    binary = build(source, target)              # at most once a process, whoever else asks
    binary.resources.registers                  # what the assembler said of it
    binaries = build_many(sources, target)      # compiled in parallel

The surprise: memory holds the machine code only while some `Binary` does; the disk cache is what
remembers.
"""

from __future__ import annotations

import contextvars
import re
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property

from tilus.codegen.source import CudaSource
from tilus.config import settings
from tilus.runtime.cache import Entry, content_key, kernel_cache
from tilus.runtime.nvrtc import (
    Compiled,
    compile_cuda,
    compile_options,
    compile_ptx,
    nvrtc_release,
)
from tilus.target import Target


@dataclass(frozen=True)
class Resources:
    """What a kernel takes of the hardware, as `ptxas -v` reports it.

    `registers` are 32-bit ones of a thread; the others are bytes: spills and `stack` of a thread
    (both live in local memory), `static_shared` of a block. Dynamic shared memory is not counted.
    """

    registers: int
    spill_stores: int
    spill_loads: int
    stack: int
    static_shared: int


@dataclass(frozen=True, eq=False)
class Code:
    """Machine code and what is known of it; the same object for equal sources in one process.

    `key` names it in the cache; `nvrtc` is the release of the compiler that made it.
    """

    key: str
    cubin: bytes
    resources: Resources | None
    nvrtc: str
    log: str


@dataclass(frozen=True, eq=False)
class Binary:
    """A kernel compiled for `target`, ready to be loaded, launched or saved."""

    source: CudaSource
    target: Target
    code: Code

    @property
    def cubin(self) -> bytes:
        """The ELF image."""
        return self.code.cubin

    @property
    def resources(self) -> Resources | None:
        """Registers, spills and memory; None where the compiler's report was not understood."""
        return self.code.resources

    @cached_property
    def ptx(self) -> str:
        """The PTX, compiled when first asked for. Raises: TilusError where NVRTC is missing."""
        return compile_ptx(self.source.text, self.source.name, self.target.arch)


def build(source: CudaSource, target: Target) -> Binary:
    """The binary of `source` for `target`; threads that want the same one wait for each other.

    Raises: CudaCompileError for a text that is no CUDA C++; TilusError if NVRTC is missing or does
    not know the target.

    >>> from tilus.target import nvgpu_sm80
    >>> source = CudaSource("f", 'extern "C" __global__ void f() {}', threads=32)
    >>> build(source, nvgpu_sm80).cubin[1:4]
    b'ELF'
    """
    return Binary(source, target, _code(source, target))


def build_many(
    sources: Sequence[CudaSource], target: Target, workers: int | None = None
) -> list[Binary]:
    """`build` for every source, in parallel; the binaries are in the order of the sources.

    `workers` is the number of threads (None: the setting `parallel_workers`). NVRTC compiles
    outside the interpreter's lock, so threads do it in parallel.

    Raises: what `build` raises for the first source that fails.
    """
    count = min(workers or settings().parallel_workers, len(sources))
    if count <= 1:
        return [build(source, target) for source in sources]
    with ThreadPoolExecutor(count, "tilus-build") as pool:
        # Each task in a copy of this context, so that settings made by `with` hold there as well.
        tasks = [
            pool.submit(contextvars.copy_context().run, build, source, target) for source in sources
        ]
        return [task.result() for task in tasks]


# ---- one compilation a key -----------------------------------------------------------------------

_codes: weakref.WeakValueDictionary[str, Code] = weakref.WeakValueDictionary()
_gates: dict[str, threading.Lock] = {}
_lock = threading.Lock()  # for the two tables; held for look-ups only


def _code(source: CudaSource, target: Target) -> Code:
    release = nvrtc_release()
    key = content_key(source.name, source.text, target.arch, *compile_options(target.arch), release)
    with _lock:
        code = _codes.get(key)
        if code is not None:
            return code
        gate = _gates.setdefault(key, threading.Lock())
    try:
        with gate:
            code = _codes.get(key) or _cached(key) or _compiled(key, source, target, release)
            with _lock:
                return _codes.setdefault(key, code)
    finally:
        with _lock:
            _gates.pop(key, None)


def _cached(key: str) -> Code | None:
    entry = kernel_cache().get(key)
    if entry is None:
        return None
    facts = entry.header
    resources = None if facts["resources"] is None else Resources(**facts["resources"])
    return Code(key, entry.payload, resources, facts["nvrtc"], facts["log"])


def _compiled(key: str, source: CudaSource, target: Target, release: str) -> Code:
    compiled: Compiled = compile_cuda(source.text, source.name, target.arch)
    resources = parse_resources(compiled.log)
    header = {
        "name": source.name,
        "target": target.arch,
        "nvrtc": release,
        "resources": None if resources is None else asdict(resources),
        "log": compiled.log,
    }
    kernel_cache().put(key, Entry(header, compiled.cubin))
    return Code(key, compiled.cubin, resources, release, compiled.log)


# ---- the assembler's report ----------------------------------------------------------------------

_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


def parse_resources(log: str) -> Resources | None:
    """The resources in the log of `--ptxas-options=-v`; None if this is no such report.

    >>> parse_resources('''ptxas info    : Function properties for f
    ... ptxas     .     16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
    ... ptxas info    : Used 40 registers, used 1 barriers, 1024 bytes smem''')
    Resources(registers=40, spill_stores=8, spill_loads=4, stack=16, static_shared=1024)
    """
    registers, frame, shared = (p.search(log) for p in (_REGISTERS, _STACK, _SHARED))
    if registers is None or frame is None:
        return None
    stack, stores, loads = map(int, frame.groups())
    return Resources(int(registers[1]), stores, loads, stack, int(shared[1]) if shared else 0)
