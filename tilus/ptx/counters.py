"""What a launch costs: instructions by class and line, sectors and wavefronts of memory.

    counters = Counters()
    execute(kernel, params, memory, grid, threads, shared_bytes, counters)
    counters.total("mma")            # warp instructions of a class
    counters.shared.conflicts        # wavefronts beyond those that the accesses need

Instructions are those of PTX, counted once for each warp that executes them, as they are issued.
Source: Nsight Compute documentation, "Memory Tables": a request is one instruction of one warp; a
sector is 32 aligned bytes; a wavefront is what shared memory serves in one cycle: one word of 4
bytes from each of its 32 banks. Lanes that load 8 or 16 bytes are served 16 or 8 at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from tilus.errors import Location, TilusError
from tilus.ptx.groups import WARP
from tilus.ptx.memory import Array
from tilus.ptx.syntax import Instruction, Kernel

SECTOR = 32  # bytes
BANKS = 32
WORD = 4  # bytes of a bank

CLASSES: dict[str, str] = {
    "mma": "mma", "bar": "barrier", "barrier": "barrier", "mbarrier": "barrier",
    "bra": "control", "ret": "control", "exit": "control", "call": "control",
    "mov": "move", "selp": "select", "setp": "compare", "set": "compare", "slct": "select",
    "cvt": "convert", "cvta": "move", "cp": "async copy", "ldmatrix": "shared load",
    "stmatrix": "shared store", "atom": "atomic", "red": "atomic", "shfl": "warp", "vote": "warp",
    "match": "warp", "redux": "warp", "elect": "warp", "activemask": "warp", "movmatrix": "warp",
    "membar": "order", "fence": "order", "nanosleep": "order", "rcp": "special", "sqrt": "special",
    "rsqrt": "special", "ex2": "special", "lg2": "special", "sin": "special", "cos": "special",
    "tanh": "special", "lop3": "logic", "and": "logic", "or": "logic", "xor": "logic",
    "not": "logic", "shl": "logic", "shr": "logic", "shf": "logic", "prmt": "logic", "bfe": "logic",
    "bfi": "logic",
}  # fmt: skip
FLOATS = ("f16", "f16x2", "bf16", "bf16x2", "f32", "f64")


def class_of(instruction: Instruction) -> str:
    """The class that an instruction is counted in: "mma", "logic", "global load", ..."""
    if instruction.opcode in ("ld", "ldu", "st"):
        space = next(
            (s for s in ("global", "shared", "param", "local", "const") if instruction.has(s)),
            "generic",
        )
        return f"{space} {'store' if instruction.opcode == 'st' else 'load'}"
    if instruction.opcode in CLASSES:
        return CLASSES[instruction.opcode]
    floating = bool(instruction.modifiers) and instruction.modifiers[-1] in FLOATS
    return "float arithmetic" if floating else "integer arithmetic"


@dataclass
class Traffic:
    """Accesses to one kind of memory."""

    requests: int = 0
    bytes: int = 0  # distinct bytes of each request, summed
    units: int = 0  # sectors or wavefronts
    needed: int = 0  # the fewest of these that could have served the requests

    def add(self, other: Traffic) -> None:
        self.requests += other.requests
        self.bytes += other.bytes
        self.units += other.units
        self.needed += other.needed

    @property
    def per_request(self) -> float:
        return self.units / self.requests if self.requests else 0.0

    @property
    def conflicts(self) -> int:
        """Units beyond those needed: bank conflicts of shared memory."""
        return self.units - self.needed

    @property
    def used(self) -> float:
        """The part of the bytes of all sectors that was asked for."""
        return self.bytes / (SECTOR * self.units) if self.units else 1.0


@dataclass
class Line:
    """The cost of one line of the user's program."""

    location: Location | None
    issued: dict[str, int] = field(default_factory=lambda: defaultdict[str, int](int))
    global_memory: Traffic = field(default_factory=Traffic)
    shared: Traffic = field(default_factory=Traffic)

    @property
    def instructions(self) -> int:
        return sum(self.issued.values())


def _traffic() -> defaultdict[int, Traffic]:
    return defaultdict(Traffic)


@dataclass(eq=False)
class Counters:
    """What the instructions of a kernel did, by their number."""

    kernel: Kernel | None = None
    issued: dict[int, int] = field(default_factory=lambda: defaultdict[int, int](int))
    global_traffic: defaultdict[int, Traffic] = field(default_factory=_traffic)
    shared_traffic: defaultdict[int, Traffic] = field(default_factory=_traffic)

    # ---- what the machine reports ----

    def block(self, kernel: Kernel, start: int, end: int, warps: int) -> None:
        """`warps` warps execute instructions `start` to `end` - 1."""
        if self.kernel is not kernel:
            self._begin(kernel)
        for number in range(start, end):
            self.issued[number] += warps

    def _begin(self, kernel: Kernel) -> None:
        """The first launch; the same instructions may be another kernel, parsed again."""
        if self.kernel is not None and _texts(self.kernel) != _texts(kernel):
            raise TilusError(
                "counters belong to one kernel",
                found=f"{self.kernel.name}, and now {kernel.name}",
                hint="count each kernel with counters of its own",
            )
        self.kernel = kernel

    def global_access(self, pc: int, lanes: Array, offset: Array, size: int) -> None:
        """Each of `lanes` accesses `size` bytes (at most 16, aligned) at its `offset`."""
        self.global_traffic[pc].add(_sectors(lanes // WARP, offset, size))

    def shared_access(self, pc: int, lanes: Array, offset: Array, size: int) -> None:
        self.shared_traffic[pc].add(_wavefronts(lanes, offset, size))

    # ---- sums ----

    @property
    def global_memory(self) -> Traffic:
        return _summed(self.global_traffic)

    @property
    def shared(self) -> Traffic:
        return _summed(self.shared_traffic)

    def total(self, kind: str | None = None) -> int:
        """Warp instructions of the class `kind`, or of all."""
        return sum(line.issued[kind] if kind else line.instructions for line in self.lines())

    def per_item(self, items: int) -> float:
        """Issue slots of one lane for each of `items`, such as the weights of a matmul."""
        return self.total() * WARP / items

    def lines(self) -> list[Line]:
        """The cost of every line of the user's program, in order."""
        lines: dict[tuple[str, int], Line] = {}
        for number, instruction in self._executed():
            location = instruction.location
            known = location is not None and location.line > 0  # line 0: of no line in particular
            key = (location.file, location.line) if location and known else ("", 0)
            line = lines.setdefault(key, Line(location if known else None))
            line.issued[class_of(instruction)] += self.issued[number]
            if number in self.global_traffic:
                line.global_memory.add(self.global_traffic[number])
            if number in self.shared_traffic:
                line.shared.add(self.shared_traffic[number])
        return [lines[key] for key in sorted(lines)]

    def where(self, test: Callable[[Instruction], bool]) -> Iterator[int]:
        """The numbers of the executed instructions that `test` accepts."""
        return (number for number, instruction in self._executed() if test(instruction))

    def _executed(self) -> Iterator[tuple[int, Instruction]]:
        if self.kernel is not None:
            yield from ((n, self.kernel.instructions[n]) for n in sorted(self.issued))


def _texts(kernel: Kernel) -> list[str]:
    return [instruction.text for instruction in kernel.instructions]


def _summed(parts: dict[int, Traffic]) -> Traffic:
    total = Traffic()
    for part in parts.values():
        total.add(part)
    return total


def _sectors(warp: Array, offset: Array, size: int) -> Traffic:
    unit = np.unique(warp.astype(np.int64) << 40 | offset // size)
    bytes_of = np.bincount(np.unique(unit >> 40, return_inverse=True)[1]) * size
    sectors = len(np.unique(warp.astype(np.int64) << 40 | offset // SECTOR))
    needed = int((-(-bytes_of // SECTOR)).sum())
    return Traffic(len(bytes_of), int(bytes_of.sum()), sectors, needed)


def _wavefronts(lanes: Array, offset: Array, size: int) -> Traffic:
    together = WARP * WORD // max(size, WORD)  # lanes that one wavefront can serve
    phase = lanes // together
    words = offset[:, None] // WORD + np.arange(max(size // WORD, 1))
    distinct = np.unique(phase[:, None].astype(np.int64) << 32 | words)
    bank, count = np.unique(distinct >> 32 << 5 | distinct % BANKS, return_counts=True)
    first = np.flatnonzero(np.diff(bank >> 5, prepend=-1))
    most = np.maximum.reduceat(count, first)
    requests = len(np.unique(lanes // WARP))
    return Traffic(requests, len(distinct) * min(size, WORD), int(most.sum()), len(first))
