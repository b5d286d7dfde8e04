"""What a matmul takes of the hardware, estimated from its schedule before anything is compiled.

    schedules = [small_m.Schedule(warps, stages, split) for ...]
    min(schedules, key=lambda s: predict(demand(blobs, m, s), device).seconds)

Instructions follow from the unpack plan, the shape of the tensor core's tiles and the groups; what
a step spends besides, on addresses, barriers and loop control, is a constant that was counted in
machine code. tests/ops/test_demand.py holds the estimates against compiled kernels.

The surprise: registers are the least certain, as the compiler keeps in them what it likes. Where
they bind, the estimate of blocks on a multiprocessor may be off by one.
"""

from __future__ import annotations

from dataclasses import dataclass

from tilus.dtypes import DataType, float16, float32
from tilus.ops import large_schedule, small_m
from tilus.ops.blobs import LANES, PART, TOKENS, VECTOR, BlobFormat
from tilus.runtime.model import LEAST_TRIPS, Demand
from tilus.utils import cdiv

Schedule = small_m.Schedule | large_schedule.Schedule
K_STEP = 16  # of k, that an instruction of the tensor core takes
MATRIX_WEIGHTS = 8  # of a lane, that it takes: 16 x 16 of 32 lanes
MOST_REGISTERS = 255  # of a thread (CUDA C++ Programming Guide, "Compute Capabilities")

# Counted in kernels for sm_90a: barrier, waits, addresses and loop control of a step. In the kernel
# for few tokens they grow with each 8 of them, in that for many with each copy of 16 bytes a lane.
STEP, STEP_OF_COLUMN = 18, 4
LARGE_STEP, LARGE_STEP_OF_COPY = 65, 2
ADDRESS_ALU = 0.5  # the share of them that is integer arithmetic
QUOTIENT_ALU, QUOTIENT_FMA, QUOTIENT_XU = 12, 6, 2  # of two scales, for 16 rows
BOOKKEEPING = 24  # registers for addresses and loop control
EXCHANGE_TRIPS = 2  # to memory, of blocks that share k: to arrive, and to read the shares


def demand(
    blobs: BlobFormat,
    m: int,
    schedule: Schedule,
    *,
    zero: float = 0.0,
    columns: int | None = None,
    out_dtype: DataType | None = None,
) -> Demand:
    """The estimated demand of a launch for `m` tokens.

    Args:
        schedule: of the kernel for few tokens or of that for many, which it chooses.
        zero: the zero point that all weights have in common.
        columns: of 8 tokens, in a block of the kernel for few tokens (None: as few as hold `m`).
        out_dtype: of the result (None: that of the activations).

    >>> from tilus.dtypes import float16, uint4b
    >>> blobs = BlobFormat(uint4b, float16, 8192, 8192, 128, float16)
    >>> demand(blobs, 1, small_m.Schedule(warps=8, stages=3)).blocks
    128
    """
    out = (out_dtype or blobs.activation).nbits // 8
    if isinstance(schedule, large_schedule.Schedule):
        return _Large(blobs, m, out, schedule, zero).demand
    fitting = [c for c in small_m.COLUMNS if m <= TOKENS * c] or [small_m.COLUMNS[-1]]
    return _Small(blobs, m, out, schedule, columns or fitting[0], zero).demand


@dataclass(frozen=True)
class _Problem:
    """[n, k] weights times `m` tokens, whose results have `out` bytes each."""

    blobs: BlobFormat
    m: int
    out: int

    @property
    def weight_bytes(self) -> int:
        """Of all blobs: codes, scales and zero points."""
        return self.blobs.n_tiles * self.blobs.chunks * self.blobs.blob_bytes

    @property
    def x_bytes(self) -> int:
        """Of a token."""
        return self.blobs.padded_k * self.blobs.activation.nbits // 8

    @property
    def read(self) -> int:
        """From DRAM: everything once, as the L2 cache holds the activations."""
        return self.weight_bytes + self.m * self.x_bytes

    @property
    def written(self) -> int:
        return self.m * self.blobs.n * self.out

    def is_shifted(self, zero: float) -> bool:
        """Whether unpacked weights are off by bases or a zero point that all have in common."""
        plan = self.blobs.plan
        common = 0.0 if self.blobs.has_zeros else zero
        return any(base + plan.scale * common for base in plan.base)

    def unpacking(self, weights: float) -> tuple[float, float]:
        """Instructions of a warp that unpack `weights` of each lane: all, and those of the ALU."""
        plan = self.blobs.plan
        return weights * plan.issue_per_pair / 2, weights * plan.alu_per_pair / 2


@dataclass(frozen=True)
class _Small(_Problem):
    """Of the kernel for few tokens; instructions are those of a warp in a step, for a blob."""

    schedule: small_m.Schedule
    columns: int
    zero: float

    @property
    def steps(self) -> int:
        return cdiv(self.blobs.chunks, self.schedule.warps * self.schedule.split)

    @property
    def token_blocks(self) -> int:
        return cdiv(self.m, TOKENS * self.columns)

    @property
    def weights(self) -> int:
        """Of a lane."""
        return self.blobs.chunk * self.blobs.block_n // LANES

    @property
    def matrix(self) -> int:
        """With those that compute corrections and, for zero points, the sums of x."""
        fragments = self.is_shifted(self.zero) + self.blobs.has_zeros
        extra = fragments * self.blobs.chunk // K_STEP
        return self.columns * (self.weights // MATRIX_WEIGHTS + extra)

    @property
    def x_loads(self) -> int:
        """A lane finds its share of a span in a row."""
        halves = TOKENS * self.blobs.chunk // LANES
        return self.columns * halves // min(self.blobs.span // 4, VECTOR // 2)

    @property
    def numbers(self) -> int:
        """Scales and zero points of a lane."""
        return self.blobs.groups * (self.blobs.block_n // TOKENS) * (1 + self.blobs.has_zeros)

    @property
    def loads(self) -> int:
        """From shared memory: codes, and scales of each group."""
        blobs = self.blobs
        scales = cdiv(blobs.group_bytes // TOKENS, VECTOR) * (1 + blobs.has_zeros)
        return blobs.weight_bytes // (LANES * VECTOR) + blobs.groups * scales

    @property
    def rescaling(self) -> int:
        """Of sums: an FFMA each, and another one for a zero point."""
        sums = self.blobs.block_n * TOKENS // LANES
        return self.columns * self.blobs.groups * sums * (1 + self.blobs.has_zeros)

    @property
    def half(self) -> float:
        """Scales to float32, activations by their factor, and what a plan does on floats."""
        issue, alu = self.unpacking(self.weights)
        converted = self.numbers if self.blobs.scale_dtype != float32 else 0
        words = self.columns * TOKENS * self.blobs.chunk // (2 * LANES)
        return issue - alu + converted + (words if self.blobs.x_factor != 1.0 else 0)

    @property
    def addressing(self) -> int:
        return STEP + STEP_OF_COLUMN * self.columns

    @property
    def alu(self) -> float:
        return self.unpacking(self.weights)[1] + ADDRESS_ALU * self.addressing

    @property
    def issue(self) -> float:
        unpack = self.unpacking(self.weights)[1]  # the rest of it is in `half`
        copies = cdiv(self.blobs.blob_bytes, LANES * VECTOR)
        moved = self.x_loads + self.loads + copies
        return unpack + self.matrix + self.rescaling + self.half + moved + self.addressing

    @property
    def registers(self) -> int:
        """Sums of all of k and of a group, activations, a part of the weights, corrections."""
        blobs = self.blobs
        sums = 2 * blobs.block_n * TOKENS // LANES
        ahead = 2 if self.columns <= 2 else 1
        x = ahead * TOKENS * blobs.chunk // (2 * LANES)
        part = blobs.block_n * PART // (2 * LANES) + blobs.part_bytes // (4 * LANES)
        needed = self.columns * (sums + x) + part + BOOKKEEPING
        return min(needed, MOST_REGISTERS)

    @property
    def exchanged(self) -> int:
        """Bytes that the warps of a block add up."""
        return self.schedule.warps * self.columns * self.blobs.block_n * TOKENS * 4

    @property
    def shared_memory(self) -> int:
        ring = self.schedule.stages * self.schedule.warps * self.blobs.blob_bytes
        return ring + self.exchanged // self.columns

    @property
    def demand(self) -> Demand:
        blobs, s = self.blobs, self.schedule
        times = s.warps * self.steps
        on_the_way = min(s.stages - 1, self.steps) * s.warps * blobs.blob_bytes
        tokens = self.token_blocks * self.columns * TOKENS
        return Demand(
            blocks=blobs.n_tiles * s.split * self.token_blocks,
            threads=s.warps * LANES,
            registers=self.registers,
            shared_memory=self.shared_memory,
            issue=times * self.issue,
            alu=times * self.alu,
            fma=times * self.rescaling,
            half=times * self.half,
            matrix=times * self.matrix,
            shared_bytes=times * 2 * blobs.blob_bytes,  # copied there, and read once
            read=self.read,
            written=self.written,
            l2_bytes=self.token_blocks * self.weight_bytes + blobs.n_tiles * tokens * self.x_bytes,
            in_flight=on_the_way,
            tail_issue=s.warps * self.issue,  # the last step
            tail_shared=2 * self.exchanged,
            tail_l2=shares_moved(s.split, self.exchanged // s.warps),
            round_trips=LEAST_TRIPS + (EXCHANGE_TRIPS if s.split > 1 else 0),
        )


def shares_moved(split: int, sums: int) -> int:
    """Bytes that the last one of `split` blocks moves to add up `sums` bytes of each: it writes its
    own, and reads all.
    """
    return (1 + split) * sums if split > 1 else 0


@dataclass(frozen=True)
class _Large(_Problem):
    """Of the kernel for many tokens; instructions are those of a warp in a step."""

    schedule: large_schedule.Schedule
    zero: float

    @property
    def steps(self) -> float:
        """Of a block, on average."""
        return self.tiles * self.schedule.steps(self.blobs) / self.blocks

    @property
    def tiles(self) -> int:
        return cdiv(self.m, self.schedule.block_m) * self.schedule.tiles_n(self.blobs)

    @property
    def blocks(self) -> int:
        """In the last wave, blocks share tiles."""
        s = self.schedule
        return self.tiles + self.tiles % s.multiprocessors * (s.split - 1)

    @property
    def sums(self) -> int:
        """Of a lane."""
        return 16 * self.schedule.tiles * self.schedule.tokens // LANES

    @property
    def rescaled_groups(self) -> int:
        """In each of which sums change their unit; 0 where one scale holds for all of k."""
        rescales = not self.schedule.scale_weights and self.blobs.group < self.blobs.k
        return self.blobs.groups if rescales else 0

    @property
    def subtracts_zeros(self) -> bool:
        """From weights; else the tensor core sums x, for zero points to multiply."""
        blobs = self.blobs
        exact = blobs.activation == float16 == blobs.scale_dtype
        return blobs.has_zeros and (self.schedule.scale_weights or exact)

    @property
    def sums_x(self) -> bool:
        return self.blobs.has_zeros and not self.subtracts_zeros

    @property
    def weights(self) -> int:
        """Of a lane."""
        return self.schedule.tiles * 16 * self.blobs.chunk // LANES

    @property
    def matrix(self) -> int:
        s = self.schedule
        x_sums = s.tokens // TOKENS * self.blobs.chunk // K_STEP
        products = s.tokens // TOKENS * self.weights // MATRIX_WEIGHTS
        return products + (x_sums if self.sums_x else 0)

    @property
    def quotients(self) -> int:
        """Of scales: rows of 16, each time they change."""
        return self.schedule.tiles * self.rescaled_groups

    @property
    def fma(self) -> int:
        zeros = self.sums * self.blobs.groups if self.sums_x else 0
        return self.sums * self.rescaled_groups + QUOTIENT_FMA * self.quotients + zeros

    @property
    def half(self) -> float:
        """On pairs of weights: what a plan does on floats, bases and zero points, scales."""
        blobs, s, weights = self.blobs, self.schedule, self.weights
        issue, alu = self.unpacking(weights)
        passes = self.is_shifted(self.zero) + self.subtracts_zeros + s.scale_weights
        numbers = 2 * s.tiles * blobs.groups * (1 + blobs.has_zeros)
        converted = numbers if blobs.scale_dtype != float32 else 0
        passes += blobs.x_factor != 1.0 and not s.scale_weights
        return issue - alu + passes * weights / 2 + converted

    @property
    def copies(self) -> int:
        return cdiv(self.schedule.stage_bytes(self.blobs), self.schedule.warps * LANES * VECTOR)

    @property
    def loads(self) -> float:
        """From shared memory: codes, scales, and for each span the share of 8 tokens."""
        blobs, s = self.blobs, self.schedule
        codes = self.weights * blobs.dtype.nbits / (8 * VECTOR)
        spans = s.tokens // TOKENS * blobs.chunk // blobs.span
        return codes + spans + blobs.groups * (1 + blobs.has_zeros)

    @property
    def addressing(self) -> int:
        return LARGE_STEP + LARGE_STEP_OF_COPY * self.copies

    @property
    def alu(self) -> float:
        unpack = self.unpacking(self.weights)[1]
        return unpack + QUOTIENT_ALU * self.quotients + ADDRESS_ALU * self.addressing

    @property
    def issue(self) -> float:
        unpack = self.unpacking(self.weights)[1]  # the rest of it is in `half`
        quotients = (QUOTIENT_ALU + QUOTIENT_XU) * self.quotients  # the rest is in `fma`
        moved = self.loads + self.copies + self.addressing
        return unpack + self.matrix + self.fma + self.half + quotients + moved

    @property
    def shared_bytes(self) -> int:
        """That a block copies there in a step, and reads."""
        s, blobs = self.schedule, self.blobs
        fragments = s.warps * s.tokens * blobs.chunk * blobs.activation.nbits // 8
        codes = s.blobs * s.depth * blobs.blob_bytes * s.columns
        return fragments + codes + s.stage_bytes(blobs)

    @property
    def registers(self) -> int:
        """Sums, a part of the weights and the words of the next one."""
        part = 16 * self.schedule.tiles * PART // LANES
        words = part * self.blobs.dtype.nbits // 32
        return min(self.sums + part // 2 + words + 2 * BOOKKEEPING, MOST_REGISTERS)

    @property
    def exchanged(self) -> int:
        """Bytes of sums that warps add up, and of results, which are turned in shared memory."""
        s = self.schedule
        return s.warps * self.sums * LANES * (self.out + (4 if s.depth > 1 else 0))

    @property
    def demand(self) -> Demand:
        blobs, s = self.blobs, self.schedule
        times = s.warps * self.steps
        token_blocks = cdiv(self.m, s.block_m)
        tokens = s.tiles_n(blobs) * token_blocks * s.block_m
        return Demand(
            blocks=self.blocks,
            threads=s.warps * LANES,
            registers=self.registers,
            shared_memory=s.stages * s.stage_bytes(blobs) + s.exchange_bytes,
            issue=times * self.issue,
            alu=times * self.alu,
            fma=times * self.fma,
            half=times * self.half,
            xu=times * QUOTIENT_XU * self.quotients,
            matrix=times * self.matrix,
            shared_bytes=self.steps * self.shared_bytes,
            read=self.read,
            written=self.written,
            l2_bytes=token_blocks * self.weight_bytes + tokens * self.x_bytes,
            in_flight=min(s.stages - 1, self.steps) * s.stage_bytes(blobs),
            tail_issue=s.warps * self.issue,  # the last step
            tail_shared=2 * self.exchanged,
            tail_l2=shares_moved(s.split, s.blobs * blobs.block_n * s.block_m * 4),
            round_trips=LEAST_TRIPS + (EXCHANGE_TRIPS if s.split > 1 else 0),
        )
