"""What a launch costs on a device, and what binds it: the cost model.

    demand = Demand(blocks=128, threads=256, registers=152, shared_memory=150_000, issue=...)
    prediction = predict(demand, device_of("H100"))
    prediction.seconds, prediction.binds          # (1.4e-05, "DRAM")

A `Demand` is what a launch takes of the hardware: instructions of each pipe, bytes of shared memory
and DRAM, bytes on their way. It is counted in machine code (`counted`) or estimated before anything
is compiled (`tilus.ops.demand`). The time of a wave of blocks is that of its busiest resource, as
all of them overlap; start-up and tail come on top. docs/performance-model.md says what is left out.

The surprise: bytes on their way do not bound the bandwidth sharply. A byte takes 1 / rate of the
memory and latency / bytes on their way, one after the other: where queues fill, latency grows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property

from tilus.errors import TilusError
from tilus.ir.program import WARP_SIZE
from tilus.runtime.devices import Device
from tilus.runtime.inspect import Inspection, Occupancy, occupancy
from tilus.runtime.sass import LoopCost, SassInstruction
from tilus.utils import cdiv

# The share of its issue slots, and of those of a pipe, that a real kernel sustains: measured by
# others. The tensor core's rate is one that kernels reach; see `Device.matrix_rate`.
SUSTAINED = 0.6
LEAST_TRIPS = 1  # to memory that nothing overlaps: the first bytes of a block
HALF = frozenset({"HFMA2", "HADD2", "HMUL2"})  # of the pipe FMA: on two 16-bit floats


@dataclass(frozen=True)
class Demand:
    """What a launch takes of the hardware.

    Attributes:
        blocks: of the grid.
        threads: of a block.
        registers: of a thread.
        shared_memory: bytes of a block, static and dynamic.
        issue: instructions of all warps of a block, over its life; likewise `alu`, `fma` (on
            float32), `half` (on two 16-bit floats), `xu` and `matrix` (mma.sync.m16n8k16) of them.
        shared_bytes: that a block reads and writes in shared memory, bank conflicts included.
        read: bytes of the launch from DRAM.
        written: bytes of the launch to DRAM.
        l2_bytes: of the launch, that the L2 cache serves, those from DRAM included.
        in_flight: bytes of a block that are on their way while it computes.
        tail_issue: instructions of all warps of a block after its last bytes have come, and
            `tail_shared` bytes that it reads and writes in shared memory then, and `tail_l2` those
            that it moves from and to the L2 cache.
        round_trips: to memory, one after the other, that nothing overlaps.
        fixed: seconds before the first and after the last byte, where they were measured: in place
            of the launch, the tail and `round_trips`.

    Raises: TilusError for a grid or block of nothing, or a negative number.
    """

    blocks: int
    threads: int
    registers: int
    shared_memory: int
    issue: float
    read: float
    in_flight: float
    alu: float = 0.0
    fma: float = 0.0
    half: float = 0.0
    xu: float = 0.0
    matrix: float = 0.0
    shared_bytes: float = 0.0
    written: float = 0.0
    l2_bytes: float = 0.0
    tail_issue: float = 0.0
    tail_shared: float = 0.0
    tail_l2: float = 0.0
    round_trips: int = LEAST_TRIPS
    fixed: float | None = None

    def __post_init__(self) -> None:
        for name, least in (*((f.name, 0) for f in fields(self)), ("blocks", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise TilusError(
                    "a launch takes a finite amount of each resource",
                    found=f"{name} = {value}",
                    expected=f"at least {least}",
                )
        if self.read > 0 and self.in_flight == 0:
            raise TilusError(
                "what is read from memory is on its way for a while",
                found=f"read = {self.read:g}, in_flight = 0",
                hint="count the bytes that a block has asked for and not yet got",
            )


@dataclass(frozen=True)
class Prediction:
    """The time of a launch.

    Attributes:
        seconds: from the start of the launch to its end.
        parts: seconds that each resource takes if the blocks are shared out evenly; "tail" is the
            rest: start-up, what is done in the end, and waves that do not fill the device.
        binds: the name of what decides: "issue", "ALU", "FMA", "XU", "tensor core",
            "shared memory", "L2", "DRAM" (its rate), "latency" (too few bytes on their way) or
            "tail".
        occupancy: of a multiprocessor.
        waves: of blocks.
    """

    seconds: float
    parts: Mapping[str, float]
    binds: str
    occupancy: Occupancy
    waves: int


def predict(demand: Demand, device: Device) -> Prediction:
    """The time that `demand` takes on `device`, and what binds.

    Raises: TilusError where no block fits on a multiprocessor.

    >>> from tilus.runtime.devices import device_of
    >>> stream = Demand(132, 256, 64, 65536, issue=0, read=1e9, in_flight=49152)
    >>> predict(stream, device_of("H100")).binds
    'DRAM'
    """
    return _Launch(demand, device).prediction


@dataclass(frozen=True)
class _Launch:
    demand: Demand
    device: Device

    @cached_property
    def room(self) -> Occupancy:
        demand, target = self.demand, self.device.target
        most = target.properties.shared_memory_per_block
        room = occupancy(target, demand.threads, demand.registers, demand.shared_memory)
        if not room.blocks or demand.shared_memory > most:
            raise TilusError(
                f"no block of the kernel fits on a multiprocessor of {self.device.name}",
                found=f"{demand.threads} threads of {demand.registers} registers, "
                f"{demand.shared_memory} bytes of shared memory",
                expected=f"{self.device.registers} registers and {most} bytes at most",
            )
        return room

    @property
    def slots(self) -> int:
        """Blocks of a full wave."""
        return self.room.blocks * self.device.multiprocessors

    def pipes(self, blocks: float) -> dict[str, float]:
        """Seconds that `blocks` blocks on one multiprocessor take each of its resources."""
        demand, rates = self.demand, self.device.rates
        fma = demand.fma / rates.fma + demand.half / rates.half
        clocks = {
            "issue": demand.issue / rates.issue / SUSTAINED,
            "ALU": demand.alu / rates.alu / SUSTAINED,
            "FMA": fma / SUSTAINED,
            "XU": demand.xu / rates.xu / SUSTAINED,
            "tensor core": demand.matrix / self.device.matrix_rate,
            "shared memory": demand.shared_bytes / rates.shared_bytes,
        }
        return {name: blocks * count / self.device.clock for name, count in clocks.items()}

    def l2(self, share: float) -> float:
        """Seconds of the L2 cache, for a share of the launch; 0 where its rate is not known."""
        rate = self.device.l2_rate
        return share * self.demand.l2_bytes / rate if rate else 0.0

    def dram(self, share: float) -> float:
        return share * (self.demand.read + self.demand.written) / self.device.usable_rate

    def latency(self, share: float, blocks: int) -> float:
        """What comes on top of `dram` while `blocks` blocks have bytes on their way.

        Little's law: bytes on their way = rate * latency.
        """
        if not self.demand.read:
            return 0.0
        on_the_way = blocks * min(self.demand.in_flight, self.demand.read / self.demand.blocks)
        return share * self.demand.read * self.device.memory_latency / on_the_way

    def wave(self, blocks: int) -> float:
        """Seconds of a wave of `blocks` blocks: its busiest multiprocessor, or memory."""
        share = blocks / self.demand.blocks
        memory = self.dram(share) + self.latency(share, blocks)
        busiest = self.pipes(cdiv(blocks, self.device.multiprocessors))
        return max(*busiest.values(), self.l2(share), memory)

    @property
    def fixed(self) -> float:
        """Seconds before the first step and after the last one."""
        demand, device = self.demand, self.device
        if demand.fixed is not None:
            return demand.fixed
        trips = demand.round_trips * device.memory_latency
        tail = demand.tail_issue / device.rates.issue / SUSTAINED
        tail += demand.tail_shared / device.rates.shared_bytes
        rate = (device.l2_rate or device.usable_rate) / device.multiprocessors
        return device.launch + trips + tail / device.clock + demand.tail_l2 / rate

    @property
    def seconds(self) -> float:
        full, rest = divmod(self.demand.blocks, self.slots)
        waves = full * self.wave(self.slots) if full else 0.0
        return self.fixed + waves + (self.wave(rest) if rest else 0.0)

    def parts(self) -> dict[str, float]:
        """Each resource, with blocks that are shared out evenly."""
        demand = self.demand
        return {
            **self.pipes(demand.blocks / self.device.multiprocessors),
            "L2": self.l2(1.0),
            "DRAM": self.dram(1.0),
            "latency": self.latency(1.0, min(demand.blocks, self.slots)),
        }

    @property
    def prediction(self) -> Prediction:
        parts, seconds = self.parts(), self.seconds
        memory = parts["DRAM"] + parts["latency"]
        overlapped = {name: part for name, part in parts.items() if name not in _MEMORY}
        binds = max(overlapped, key=overlapped.__getitem__)
        if memory >= overlapped[binds]:
            binds = max(_MEMORY, key=parts.__getitem__)
        steady = max(memory, *overlapped.values())
        parts["tail"] = seconds - steady
        if parts["tail"] > steady:
            binds = "tail"
        return Prediction(seconds, parts, binds, self.room, cdiv(self.demand.blocks, self.slots))


_MEMORY = ("DRAM", "latency")


# ---- what was counted ----------------------------------------------------------------------------


def counted(
    inspection: Inspection,
    *,
    blocks: int,
    turns: float,
    read: float,
    in_flight: float,
    written: float = 0.0,
    l2_bytes: float = 0.0,
    tail_issue: float = 0.0,
    tail_shared: float = 0.0,
    round_trips: int = LEAST_TRIPS,
) -> Demand:
    """The demand of a compiled kernel: that of its hottest loop, `turns` times for each warp.

    What runs before and after the loop is not counted; `tail_issue` may stand for it. The other
    arguments are those of `Demand`.

    Raises: TilusError for a kernel without a loop, with calls in it, or without the report of
        ptxas; or where nvdisasm is missing.
    """
    binary, loop, used = inspection.binary, inspection.loop, inspection.binary.resources
    if loop is None or used is None or loop.calls:
        reason = "subroutines are called in it" if loop and loop.calls else "it has none"
        raise TilusError(
            "the demand of a kernel is counted in its hottest loop",
            found="the compiler's report was not understood" if used is None else reason,
            hint="build a Demand from formulas",
        )
    times = turns * cdiv(binary.source.threads, WARP_SIZE)
    return Demand(
        blocks,
        binary.source.threads,
        used.registers,
        used.static_shared + binary.source.shared_bytes,
        **{name: times * count for name, count in loop_counts(loop).items()},
        read=read,
        written=written,
        l2_bytes=l2_bytes,
        in_flight=in_flight,
        tail_issue=tail_issue,
        tail_shared=tail_shared,
        round_trips=round_trips,
    )


def loop_counts(loop: LoopCost) -> dict[str, float]:
    """What a warp takes of each pipe in a turn, under the names of `Demand`."""
    half = sum(loop.counts[name] for name in HALF)
    return {
        "issue": loop.issue,
        "alu": loop.alu,
        "fma": loop.fma - half,
        "half": half,
        "xu": loop.xu,
        "matrix": loop.matrix,
        "shared_bytes": sum(map(shared_bytes_of, loop.instructions)),
    }


_SHARED = frozenset({"LDS", "STS", "LDGSTS", "ATOMS"})
_MATRICES = frozenset({"LDSM", "STSM"})


def shared_bytes_of(instruction: SassInstruction) -> int:
    """Bytes of shared memory that one instruction of a warp moves, at the most.

    Lanes that ask for the same bytes are not seen in a listing, nor are bank conflicts. Under
    `@!PT` an instruction does nothing: the assembler pads with such loads.

    >>> shared_bytes_of(SassInstruction(0, "", "LDS.128", "R4, [R2]"))
    512
    >>> shared_bytes_of(SassInstruction(0, "", "LDSM.16.M88.4", "R4, [R2]"))
    512
    """
    if instruction.predicate == "@!PT":
        return 0
    if instruction.name in _MATRICES:
        count = instruction.modifiers[-1]
        return 128 * (int(count) if count.isdigit() else 1)
    if instruction.name not in _SHARED:
        return 0
    widths = {"128": 16, "64": 8}
    return WARP_SIZE * next((widths[m] for m in instruction.modifiers if m in widths), 4)
