"""What a compiled kernel takes of the hardware, and what its hottest loop spends per weight.

    inspection = Inspection(compile_program_for(program, target))
    print(summary(inspection))          # registers, spills, shared memory, occupancy, the hot loop
    inspection.occupancy.bound_by       # ("registers",)
    inspection.per_weight["alu"]        # slots of the integer pipe per weight and lane

No GPU is needed: the compiler's report and the machine code say it all. The surprise: the shared
memory that a kernel asks for at launch is in neither; it comes from the generated source.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from tabulate import tabulate

from tilus.errors import TilusError
from tilus.ir.program import WARP_SIZE
from tilus.runtime.build import Binary
from tilus.runtime.sass import LoopCost, disassemble, hottest_loop, parse
from tilus.target import Capability, Target

# ---- occupancy -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Multiprocessor:
    """What the blocks on one multiprocessor (SM) share; `shared_memory` is in bytes."""

    blocks: int
    warps: int
    shared_memory: int


def _multiprocessor(blocks: int, warps: int, shared_kib: int) -> Multiprocessor:
    return Multiprocessor(blocks, warps, shared_kib * 1024)


# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": rows "Maximum
# number of resident blocks per SM", "... resident warps per SM" and "Maximum amount of shared
# memory per SM".
MULTIPROCESSORS: Mapping[Capability, Multiprocessor] = MappingProxyType(
    {
        (8, 0): _multiprocessor(32, 64, 164),
        (8, 6): _multiprocessor(16, 48, 100),
        (8, 7): _multiprocessor(16, 48, 164),
        (8, 9): _multiprocessor(24, 48, 100),
        (9, 0): _multiprocessor(32, 64, 228),
        (10, 0): _multiprocessor(32, 64, 228),
        (10, 3): _multiprocessor(32, 64, 228),
        (11, 0): _multiprocessor(24, 48, 228),
        (12, 0): _multiprocessor(24, 48, 100),
        (12, 1): _multiprocessor(24, 48, 100),
    }
)
# The same table: a quarter of an SM issues for a quarter of the warps from a quarter of its 64 K
# registers. The units of allocation are those of the occupancy calculator (cuda_occupancy.h).
PARTITIONS = 4
REGISTERS_PER_PARTITION = 16 * 1024
REGISTER_UNIT = 256  # of a warp
SHARED_UNIT = 128  # bytes of a block
RESERVED_SHARED = 1024  # bytes of a block that the system keeps, on sm_80 and later


@dataclass(frozen=True)
class Occupancy:
    """How many blocks of a kernel one multiprocessor holds.

    `limits` are the blocks that each resource alone admits; `warps` of `most_warps` are resident.
    """

    blocks: int
    warps: int
    most_warps: int
    limits: Mapping[str, int]

    @property
    def bound_by(self) -> tuple[str, ...]:
        """The resources that admit no more blocks."""
        return tuple(name for name, blocks in self.limits.items() if blocks == self.blocks)


def occupancy(target: Target, threads: int, registers: int, shared_memory: int) -> Occupancy:
    """The occupancy of a kernel with blocks of `threads`, `registers` a thread, and `shared_memory`
    bytes a block, static and dynamic.

    >>> from tilus.target import nvgpu_sm90a
    >>> found = occupancy(nvgpu_sm90a, threads=128, registers=168, shared_memory=0)
    >>> found.blocks, found.warps, found.bound_by
    (3, 12, ('registers',))
    """
    limits_of = MULTIPROCESSORS[target.properties.compute_capability]
    warps = -(-threads // WARP_SIZE)
    registers_of_warp = _rounded(max(registers, 1) * WARP_SIZE, REGISTER_UNIT)
    room = REGISTERS_PER_PARTITION // registers_of_warp * PARTITIONS  # warps
    shared = _rounded(shared_memory + RESERVED_SHARED, SHARED_UNIT)
    limits = {
        "registers": room // warps,
        "threads": limits_of.warps // warps,
        "shared memory": limits_of.shared_memory // shared,
        "blocks": limits_of.blocks,
    }
    blocks = min(limits.values())
    return Occupancy(blocks, blocks * warps, limits_of.warps, limits)


def _rounded(amount: int, unit: int) -> int:
    return -(-amount // unit) * unit


# ---- a kernel ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Inspection:
    """A compiled kernel, and which of its data are the weights that its loop's slots are for.

    The weights are the operand "A" or "B" of the matrix instructions; each one in a register is
    used by `reuse` of them. Where some of these instructions multiply no weights (they may sum what
    corrects others), the listing does not tell how many there are: then `weights_per_turn` does.

    Attributes:
        weights_per_turn: weights per lane that a turn of the loop takes, in place of counting
            operands and of `reuse`.

    Raises: TilusError for another operand, no positive `reuse` or `weights_per_turn`, or both.

    >>> from tilus.codegen.source import CudaSource
    >>> from tilus.runtime.build import build
    >>> from tilus.target import nvgpu_sm90a
    >>> source = CudaSource("f", 'extern "C" __global__ void f() {}', threads=128)
    >>> Inspection(build(source, nvgpu_sm90a)).occupancy.blocks
    16
    """

    binary: Binary
    weight_operand: str = "B"
    reuse: float = 1.0
    weights_per_turn: float | None = None

    def __post_init__(self) -> None:
        if self.weight_operand not in ("A", "B"):
            raise TilusError(
                "the weights are an operand of a matrix instruction",
                found=repr(self.weight_operand),
                expected="A or B",
            )
        if not self.reuse > 0:
            raise TilusError(
                "a weight is used by some matrix instruction",
                found=f"reuse = {self.reuse}",
                expected="a positive number",
            )
        if self.weights_per_turn is not None:
            self._check_weights_per_turn(self.weights_per_turn)

    def _check_weights_per_turn(self, weights: float) -> None:
        if not 0 < weights < math.inf:
            raise TilusError(
                "a turn of the loop takes some weights",
                found=f"weights_per_turn = {weights}",
                expected="a positive number",
            )
        if self.reuse != 1:
            raise TilusError(
                "how often a weight is used does not matter where their number is given",
                found=f"weights_per_turn = {weights}, reuse = {self.reuse}",
                hint="leave one of them out",
            )

    @property
    def cuda(self) -> str:
        """The generated text, without the `#line` directives that map it to the user's file."""
        return readable(self.binary.source.text)

    @cached_property
    def sass(self) -> str:
        """The disassembly. Raises: TilusError where nvdisasm is missing."""
        return disassemble(self.binary.cubin)

    @cached_property
    def loop(self) -> LoopCost | None:
        """One turn of the hottest loop; None for a kernel without any.

        Raises: TilusError where nvdisasm is missing.
        """
        (kernel,) = [one for one in parse(self.sass) if one.name == self.binary.source.name]
        return hottest_loop(kernel)

    @property
    def occupancy(self) -> Occupancy | None:
        """None where the compiler's report was not understood."""
        found, source = self.binary.resources, self.binary.source
        if found is None:
            return None
        shared = found.static_shared + source.shared_bytes
        return occupancy(self.binary.target, source.threads, found.registers, shared)

    @property
    def weights(self) -> float | None:
        """Weights per lane that a turn of the loop takes.

        None where there is no loop, or no number is given and no matrix instruction tells one.
        """
        if self.loop is not None and self.weights_per_turn is not None:
            return self.weights_per_turn
        held = None if self.loop is None else self.loop.weights(self.weight_operand)
        return held / self.reuse if held else None

    @property
    def per_turn(self) -> dict[str, int]:
        """Instructions of a warp in one turn of the loop, by the pipe they take; {}: no loop."""
        if self.loop is None:
            return {}
        names = ("issue", "alu", "fma", "xu", "matrix", "local_memory")
        return {name: getattr(self.loop, name) for name in names}

    @property
    def per_weight(self) -> dict[str, float]:
        """`per_turn` per weight and lane; {} where the weights are not known."""
        weights = self.weights
        return {} if weights is None else {n: c / weights for n, c in self.per_turn.items()}


_LINE_DIRECTIVE = re.compile(r"^#line .*\n", re.MULTILINE)


def readable(cuda: str) -> str:
    """A generated text without its `#line` directives.

    >>> readable('int x;' + chr(10) + '#line 3 "f.py"' + chr(10) + 'int y;').split()
    ['int', 'x;', 'int', 'y;']
    """
    return _LINE_DIRECTIVE.sub("", cuda)


# ---- reports -------------------------------------------------------------------------------------


def as_json(inspection: Inspection) -> dict[str, Any]:
    """Everything `summary` tells, as numbers; `loop` is None where there is none.

    Raises: TilusError where nvdisasm is missing.
    """
    binary, found, loop = inspection.binary, inspection.binary.resources, inspection.loop
    room = inspection.occupancy
    return {
        "kernel": binary.source.name,
        "target": binary.target.arch,
        "nvrtc": binary.code.nvrtc,
        "threads": binary.source.threads,
        "resources": None if found is None else asdict(found),
        "dynamic_shared": binary.source.shared_bytes,
        "occupancy": None if room is None else {
            "blocks": room.blocks,
            "warps": room.warps,
            "most_warps": room.most_warps,
            "limits": dict(room.limits),
            "bound_by": list(room.bound_by),
        },
        "loop": None if loop is None else {
            "per_turn": inspection.per_turn,
            "calls": loop.calls,
            "opcodes": dict(loop.counts.most_common()),
            "weight_operand": inspection.weight_operand,
            "reuse": inspection.reuse,
            "weights_per_turn": inspection.weights_per_turn,
            "weights": inspection.weights,
            "per_weight": inspection.per_weight,
        },
    }  # fmt: skip


def summary(inspection: Inspection) -> str:
    """Resources, occupancy and the hottest loop as text.

    Without nvdisasm it says how to get it, in place of the loop.
    """
    source, target = inspection.binary.source, inspection.binary.target
    heading = f"{source.name} for {target.arch}, blocks of {source.threads} threads"
    try:
        loop = _loop_text(inspection)
    except TilusError as error:
        loop = f"hottest loop: not known, as {error.message}; {error.hint or error.found}"
    return f"{heading}\n{_resources_text(inspection)}\n\n{loop}"


def _resources_text(inspection: Inspection) -> str:
    found, room = inspection.binary.resources, inspection.occupancy
    if found is None or room is None:
        return "resources: the compiler's report was not understood"
    dynamic = inspection.binary.source.shared_bytes
    limits = ", ".join(f"{name} {blocks}" for name, blocks in room.limits.items())
    percent = 100 * room.warps / room.most_warps
    rows = [
        ("registers", f"{found.registers} a thread"),
        ("spills", f"{found.spill_stores} bytes stored, {found.spill_loads} loaded"),
        ("stack", f"{found.stack} bytes of local memory a thread"),
        ("shared memory", f"{found.static_shared} bytes static, {dynamic} dynamic"),
        (
            "occupancy",
            f"{room.blocks} blocks an SM, {room.warps} of {room.most_warps} warps "
            f"({percent:.0f}%), bound by {' and '.join(room.bound_by)}",
        ),
        ("", f"blocks an SM by {limits}"),
    ]
    return tabulate(rows, tablefmt="plain")


_HEADINGS = ("hottest loop", "issue", "ALU", "FMA", "XU", "matrix", "local memory")


def _loop_text(inspection: Inspection) -> str:
    loop = inspection.loop
    if loop is None:
        return "hottest loop: there is none"
    rows: list[tuple[Any, ...]] = [("slots of a warp a turn", *inspection.per_turn.values())]
    if inspection.per_weight:
        values = (f"{value:.2f}" for value in inspection.per_weight.values())
        rows.append(("per weight and lane", *values))
    lines = [tabulate(rows, _HEADINGS, disable_numparse=True, stralign="right")]
    if inspection.weights is not None:
        lines.append(f"{inspection.weights:g} weights per lane a turn: {_origin(inspection)}")
    elif loop.matrix:
        lines.append("the matrix instructions do not hold their operands in registers")
    if loop.calls:
        lines.append(f"calls of subroutines, whose instructions are not counted: {loop.calls}")
    lines.append("opcodes: " + ", ".join(f"{name} {n}" for name, n in loop.counts.most_common(12)))
    return "\n".join(lines)


def _origin(inspection: Inspection) -> str:
    """Where the number of weights comes from."""
    if inspection.weights_per_turn is not None:
        return "as given"
    shared = f", each used {inspection.reuse:g} times" if inspection.reuse != 1 else ""
    return f"operand {inspection.weight_operand} of its matrix instructions{shared}"
