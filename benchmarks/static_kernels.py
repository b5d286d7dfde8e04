"""The kernels that benchmarks/static.py counts: the rows of its table, and how each is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from tilus.demo import parse_types
from tilus.dtypes import DataType, dtype_from_name, float16
from tilus.lang.script import Script
from tilus.ops import large_schedule, small_m
from tilus.ops.blobs import LANES, BlobFormat
from tilus.ops.choose import choose_large
from tilus.ops.large_m import LargeMatmul
from tilus.ops.lean import COLUMNS, SMS, split_of
from tilus.ops.quantize import NF4
from tilus.ops.small_m import Epilogue, SmallMatmul
from tilus.runtime.devices import H100
from tilus.target import target_from_name
from tilus.tensor import dtype_to_torch
from tilus.utils import cdiv

EXTENT, GROUP = 8192, 128
COLUMN = 8  # tokens of a tensor-core instruction, whose 16 x 16 weights are 8 a lane
WEIGHTS_OF_MATRIX = 8
MOST_SMALL_TOKENS = COLUMN * max(COLUMNS)

# ---- the rows ------------------------------------------------------------------------------------

WEIGHTS = ("u2", "u4", "u8")
TRITON_TOKENS = (16, 64, 256)  # its tiles are the same for fewer

WEIGHTS = (
    *(f"u{bits}" for bits in range(1, 9)),
    *("e5m2", "e4m3", "e2m1", "e3m2", "e2m3", "e3m1", "e2m2", "nf4"),
)
ACTIVATIONS = ("float16", "bfloat16")
HOPPER = "sm_90a"  # of the GPUs that have bounds
ARCHS = ("sm_80", HOPPER)
TOKENS = (1, 8, 16, 32, 64, 256)
TRITON_WEIGHTS = ("u2", "u4", "u8")
TRITON_TOKENS = (16, 64, 256)  # its tiles are the same for fewer


@dataclass(frozen=True)
class Case:
    """A row of the table: [8192, 8192] weights times `m` tokens; names, so that it travels."""

    weight: str
    activation: str
    arch: str
    m: int


def same_kernel(case: Case) -> Case:
    """Of the cases that run one kernel of few tokens, the one with the most."""
    few = case.m <= MOST_SMALL_TOKENS
    return replace(case, m=COLUMN * columns_for(case.m)) if few else case


def triton_cases(cases: Sequence[Case]) -> list[Case]:
    """Those to count beside ours: for Hopper, with activations of float16."""
    found = [
        replace(case, m=triton_tokens(case.m))
        for case in cases
        if case.weight in TRITON_WEIGHTS
        and (case.activation, case.arch) == (ACTIVATIONS[0], HOPPER)
        and case.m <= TRITON_TOKENS[-1]
    ]
    return list(dict.fromkeys(found))


def triton_tokens(m: int) -> int:
    """For which its kernel for `m` tokens is counted.

    >>> triton_tokens(1), triton_tokens(32)
    (16, 64)
    """
    return next(tokens for tokens in TRITON_TOKENS if m <= tokens)


# ---- their kernels -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A kernel and what its machine code should hold.

    Attributes:
        weights: per lane in one step of the pipeline.
        matrix: tensor-core instructions of a warp in one step.
        schedule: what the JSON tells of how the work is cut.
        warps: of a block.
        blocks: of the grid.
        unpacked: how often each weight is, by one warp or block of tokens after the other.
        in_flight: bytes of weights, of one block.
    """

    script: Script
    arguments: tuple[Any, ...]
    weights: int
    matrix: int
    schedule: dict[str, int]
    warps: int
    blocks: int
    unpacked: int
    in_flight: int


def stored_type(weight: str) -> DataType:
    """The dtype that weights named `weight` are stored as.

    >>> stored_type("i6"), stored_type("e3m2")
    (uint6b, float6_e3m2)
    """
    if weight == "nf4":
        return NF4
    (dtype,) = parse_types(weight)
    return dtype_from_name(f"u{dtype.nbits}") if dtype.kind == "int" else dtype


def blobs_of(case: Case, n: int, k: int) -> BlobFormat:
    activation = dtype_from_name(case.activation)
    return BlobFormat(stored_type(case.weight), activation, n, k, GROUP, float16)


def columns_for(m: int) -> int:
    """Of 8 tokens, in a block of the kernel for few tokens."""
    return next(columns for columns in COLUMNS if m <= COLUMN * columns)


def kernel_for(case: Case, blobs: BlobFormat, scheduled: BlobFormat) -> Script:
    """The kernel for the tokens of a case, with the schedule that suits `scheduled`.

    Unsigned codes have the middle of their range as zero point.
    """
    zero = float(1 << blobs.dtype.nbits - 1) if blobs.dtype.kind == "uint" else 0.0
    epilogue = Epilogue(blobs.activation)
    if case.m <= MOST_SMALL_TOKENS:
        room = target_from_name(case.arch).properties.shared_memory_per_block
        split = split_of(blobs_of(case, EXTENT, EXTENT), 1, SMS)
        schedule = small_m.Schedule.of(scheduled, split, room)
        return SmallMatmul(blobs, schedule, epilogue, columns_for(case.m), zero)
    room = target_from_name(case.arch).properties.shared_memory_per_block
    schedule = choose_large(scheduled, case.m, H100, shared_bytes=room)
    return LargeMatmul(blobs, schedule, epilogue, zero)


def arguments_for(
    case: Case, blobs: BlobFormat, packed: torch.Tensor, x: torch.Tensor
) -> tuple[Any, ...]:
    """Of a launch without bias."""
    return case.m, x, packed, x, torch.empty(case.m, blobs.n, dtype=x.dtype)


def subject_of(case: Case, k: int) -> Subject:
    """The kernel that multiplies 8192 of k, with `k` of k."""
    blobs = blobs_of(case, EXTENT, k)
    script = kernel_for(case, blobs, blobs_of(case, EXTENT, EXTENT))
    x = torch.empty(case.m, k, dtype=dtype_to_torch(blobs.activation))
    arguments = arguments_for(case, blobs, torch.empty(16, dtype=torch.uint8), x)
    weights = blobs.chunk * blobs.block_n // LANES
    if isinstance(script, SmallMatmul):
        return small_subject(case, script, arguments, weights)
    assert isinstance(script, LargeMatmul)
    return large_subject(case, script, arguments, weights)


def small_subject(
    case: Case, script: SmallMatmul, arguments: tuple[Any, ...], weights: int
) -> Subject:
    """Each warp of a block has a blob, and all of the block's tokens."""
    blobs, schedule, columns = script.blobs, script.schedule, len(script.columns)
    corrections = blobs.chunk // 16 * script.corrected
    token_blocks = cdiv(case.m, script.block_m)
    return Subject(
        script,
        arguments,
        weights,
        matrix=(weights // WEIGHTS_OF_MATRIX + corrections) * columns,
        schedule={**asdict(schedule), "columns": columns},
        warps=schedule.warps,
        blocks=blobs.n_tiles * schedule.split * token_blocks,
        unpacked=token_blocks,
        in_flight=(schedule.stages - 1) * schedule.warps * blobs.weight_bytes,
    )


def large_subject(
    case: Case, script: LargeMatmul, arguments: tuple[Any, ...], weights: int
) -> Subject:
    """Warps have a blob or half of one; those along the tokens unpack the same."""
    blobs, schedule = script.blobs, script.schedule
    token_blocks = cdiv(case.m, schedule.block_m)
    loaded = schedule.blobs * schedule.depth  # blobs of a step
    weights //= schedule.sharers
    return Subject(
        script,
        arguments,
        weights,
        matrix=weights // WEIGHTS_OF_MATRIX * (schedule.tokens // COLUMN),
        schedule=asdict(schedule),
        warps=schedule.warps,
        blocks=blocks_of(schedule, schedule.tiles_n(blobs) * token_blocks),
        unpacked=schedule.columns * token_blocks,
        in_flight=(schedule.stages - 1) * loaded * blobs.weight_bytes,
    )


def blocks_of(schedule: large_schedule.Schedule, tiles: int) -> int:
    """Tiles of whole waves have a block each, those of the last one share what is left."""
    whole = tiles - tiles % schedule.multiprocessors if schedule.split > 1 else tiles
    rest = tiles - whole
    return whole + rest * min(schedule.multiprocessors // max(rest, 1), schedule.split)
