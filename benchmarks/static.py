"""What a weight costs in each matmul kernel, counted in its machine code; no GPU is needed.

    python benchmarks/static.py                            # writes benchmarks/results/static.json
    python benchmarks/static.py --dtypes u4,e4m3 --m 8,16  # prints a part of the table only
    python benchmarks/static.py --readme                   # writes the table into README.md, too

Weights are 8192 x 8192 in groups of 128 with scales of float16. Signed ints are stored
offset-binary and so run the very kernel of the unsigned ones: `i4` is `u4`.

slots       instructions of a warp in one turn of the hottest loop, over the weights per lane that a
            turn takes: all (issue) and those of the integer pipe (ALU). The number of weights is
            that of a step of the pipeline times the steps of a turn, each of which has one barrier;
            it is checked against the tensor-core instructions, which also compute corrections.
            Where 8192 of k leave no loop (it is unrolled as a whole) the same schedule is counted
            at k = 32768, `counted_k` in the JSON.
in flight   bytes of weights under way to an SM: (stages - 1) * warps * weight bytes of a blob *
            blocks on an SM, at most as many as the grid has for each of 132
bounds      a time below which no GPU of 132 SMs at 1.755 GHz gets, whatever it overlaps:
                issue   slots * weights * times each is unpacked / 32 / (132 SMs * 4 a clock)
                ALU     likewise with 2 a clock, over slots of the integer pipe
                mma     likewise with 0.62 a clock, over tensor-core instructions of m16n8k16
                memory  (weights with scales, x once, y once) / (3.0 TB/s on H100, 4.2 on H200)
            and the largest of them. Start-up, tail and latency come on top.
traffic     on the emulator, for [128, 2048] weights and 8 or 64 tokens: the part of each 32-byte
            sector of global memory that its requests use, and the bank conflicts of shared memory
Triton      the kernel of peers/triton_w4a16.py, compiled and read in the same run where triton is
            installed: of the points it is tuned among, the one with the fewest issue slots

The surprise: other peers' numbers are not counted here. They were counted by others in the same
way, in the main loop of the configuration that each one's authors choose for an H100.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import platform
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from tilus import __version__
from tilus.demo import parse_types
from tilus.dtypes import DataType, dtype_from_name, float16
from tilus.errors import TilusError
from tilus.lang.script import Script
from tilus.ops import large_schedule, small_m
from tilus.ops.blobs import LANES, BlobFormat, pack_blobs
from tilus.ops.choose import choose_large
from tilus.ops.large_m import LargeMatmul
from tilus.ops.lean import COLUMNS, SMS, split_of
from tilus.ops.quantize import NF4
from tilus.ops.small_m import Epilogue, SmallMatmul
from tilus.ptx.counters import Counters, Traffic, class_of
from tilus.runtime.build import Binary
from tilus.runtime.compile import compile_program_for
from tilus.runtime.devices import H100
from tilus.runtime.inspect import Inspection
from tilus.runtime.profile import profile_program
from tilus.target import scope, target_from_name
from tilus.tensor import dtype_to_torch
from tilus.utils import cdiv

HERE = Path(__file__).parent
CASE_KEYS = ("weight", "activation", "arch", "m")
RESULTS = HERE / "results" / "static.json"
README = HERE.parent / "README.md"
EXTENT, GROUP = 8192, 128
LONG_K = 32768  # where the loop has turns, however many stages a turn unrolls
PROFILED_N, PROFILED_K, PROFILED_M = 128, 2048, (8, 64)
COLUMN = 8  # tokens of a tensor-core instruction, whose 16 x 16 weights are 8 a lane
WEIGHTS_OF_MATRIX = 8
MOST_SMALL_TOKENS = COLUMN * max(COLUMNS)
TRITON_WEIGHTS = ("u2", "u4", "u8")
TRITON_TOKENS = (16, 64, 256)  # its tiles are the same for fewer

WEIGHTS = (
    *(f"u{bits}" for bits in range(1, 9)),
    *("e5m2", "e4m3", "e2m1", "e3m2", "e2m3", "e3m1", "e2m2", "nf4"),
)
ACTIVATIONS = ("float16", "bfloat16")
HOPPER = "sm_90a"  # of the GPUs that have bounds
ARCHS = ("sm_80", HOPPER)
TOKENS = (1, 8, 16, 32, 64, 256)

# CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions", sm_80 to sm_90: warp
# instructions a clock and SM. An m16n8k16 is 4096 operations, what the tensor cores of an SM of an
# H100 do in a clock ("NVIDIA H100 Tensor Core GPU Architecture"); mma.sync is taken to reach 62%.
A_CLOCK = {"issue": 4.0, "alu": 2.0, "matrix": 0.62}
CLOCKS_PER_US = 1755.0
BYTES_PER_US = {"H100": 3.0e6, "H200": 4.2e6}  # what kernels reach of 3.35 and 4.8 TB/s

# Issue slots per weight and lane at M = 8 / 16 / 64, float16, groups of 128; x2: every weight is
# dequantised twice.
PEERS = ("Humming 0.1.19", "Marlin", "GemLite 0.6", "Tilus 0.2")
PEER_TABLE = """\
u1 | 2.75 / 2.89 / 2.71 | - | 6.19 / 6.81 / 6.94 | 6.17 / 6.17 / 8.95
u2 | 2.69 / 2.84 / 2.65 | - | 6.75 / 7.38 / 7.00 | 5.77 / 5.77 / 8.52
u3 | 3.37 / 3.52 / 3.23 | - | - | 6.33 / 6.33 / 8.62
u4 | 2.67 / 2.85 / 2.59 | 2.51 / 2.62 / 3.78 | 6.75 / 7.69 / 7.31 | 3.31 / 3.31 / 4.15 x2
u5 | 3.90 / 4.07 / 3.73 | - | - | 7.05 / 7.05 / 9.22
u6 | 3.22 / 3.46 / 3.03 | - | - | 8.52 / 8.52 / 10.72
u7 | 4.31 / 4.48 / 4.17 | - | - | 8.05 / 8.05 / 10.09
u8 | 2.72 / 2.85 / 2.46 | 2.43 / 2.52 / 3.63 | 6.69 / 7.31 / 5.72 | 2.90 / 2.90 / 3.39 x2
e5m2 | 2.69 / 2.86 / 2.46 | - | - | 5.17 / 5.17 / 7.42
e4m3 | 3.73 / 3.86 / 3.46 | 3.18 / 3.30 / 4.38 | 5.31 / 5.25 / 3.66 | 4.14 / 4.14 / 4.63 x2
e2m1 | 3.66 / 3.86 / 3.59 | 3.77 (g16) | - | 6.93 / 6.93 / 9.91
e3m2 | 4.2 / 4.4 / 4.0 | - | - | 10.05 / 10.05 / 12.20
e2m3 | 4.2 / 4.4 / 4.0 | - | - | 10.05 / 10.05 / 12.20
"""
PEER_SLOTS = {
    weight: tuple(cells) for weight, *cells in (row.split(" | ") for row in PEER_TABLE.splitlines())
}


# ---- a kernel ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A row of the table: [8192, 8192] weights times `m` tokens; names, so that it travels."""

    weight: str
    activation: str
    arch: str
    m: int


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


def compiled(subject: Subject, arch: str) -> Binary:
    target = target_from_name(arch)
    with scope(target):
        return compile_program_for(subject.script.program(*subject.arguments), target)


def turn_of(binary: Binary, subject: Subject) -> Inspection | None:
    """The kernel with the weights of a turn of its hottest loop; None if no loop takes steps."""
    loop = Inspection(binary).loop
    steps = 0 if loop is None else loop.counts["BAR"]
    if loop is None or not steps or not loop.matrix:
        return None
    if loop.matrix != steps * subject.matrix:
        raise TilusError(
            "the hottest loop does not multiply the weights that it should",
            found=f"{loop.matrix} tensor-core instructions in {steps} steps",
            expected=f"{subject.matrix} a step, for {subject.weights} weights per lane",
        )
    return Inspection(binary, weight_operand="A", weights_per_turn=steps * subject.weights)


def counted(case: Case, subject: Subject, launched: Binary) -> tuple[Inspection, int]:
    """The kernel of which the loop is counted, and its k."""
    found = turn_of(launched, subject)
    if found is not None:
        return found, EXTENT
    longer = subject_of(case, LONG_K)
    found = turn_of(compiled(longer, case.arch), longer)
    if found is None:
        raise TilusError(
            "the kernel has no loop", found=str(case), expected=f"one, at k = {LONG_K}"
        )
    return found, LONG_K


def count_kernel(case: Case) -> dict[str, Any]:
    """Slots, resources and bytes in flight of the kernel of a case.

    Raises: TilusError where no kernel is written for it, or its loop is not understood.
    """
    subject = subject_of(case, EXTENT)
    launched = compiled(subject, case.arch)
    found, counted_k = counted(case, subject, launched)
    loop = found.loop
    assert loop is not None
    resources = resources_of(Inspection(launched), subject)
    return {
        "kernel": found.binary.source.name,
        "schedule": subject.schedule,
        "unpacked": subject.unpacked,
        "nvrtc": found.binary.code.nvrtc,
        **resources,
        "counted_k": counted_k,
        "weights_per_turn": found.weights,
        "per_turn": found.per_turn,
        "per_weight": found.per_weight,
        "opcodes": dict(loop.counts.most_common()),
    }


def resources_of(launched: Inspection, subject: Subject) -> dict[str, Any]:
    """Registers, spills and residency of the kernel for 8192 of k."""
    used, room = launched.binary.resources, launched.occupancy
    if used is None or room is None:
        raise TilusError("the compiler's report was not understood")
    resident = min(room.blocks, cdiv(subject.blocks, SMS))
    return {
        "registers": used.registers,
        "spill_bytes": used.spill_stores + used.spill_loads,
        "blocks_per_sm": room.blocks,
        "warps_per_sm": room.warps,
        "bound_by": list(room.bound_by),
        "resident_warps": resident * subject.warps,
        "bytes_in_flight": subject.in_flight * resident,
    }


def bounds(case: Case, per_weight: dict[str, float], unpacked: int) -> dict[str, Any]:
    """Microseconds that each resource takes at the least, by GPU; see the head of this file.

    >>> case = Case("u4", "float16", "sm_90a", 8)
    >>> found = bounds(case, {"issue": 1.0, "alu": 0.5, "matrix": 0.125}, unpacked=1)
    >>> {name: round(us, 2) for name, us in found["H100"].items()}
    {'issue': 2.26, 'alu': 2.26, 'matrix': 1.83, 'memory': 11.62, 'bound': 11.62}
    """
    blobs = blobs_of(case, EXTENT, EXTENT)
    warp_weights = EXTENT * EXTENT * unpacked / LANES
    times = {
        name: per_weight[name] * warp_weights / (SMS * a_clock * CLOCKS_PER_US)
        for name, a_clock in A_CLOCK.items()
    }
    moved = blobs.n_tiles * blobs.chunks * blobs.blob_bytes + 2 * 2 * case.m * EXTENT
    found: dict[str, Any] = {}
    for gpu, speed in BYTES_PER_US.items():
        found[gpu] = {**times, "memory": moved / speed}
        found[gpu]["bound"] = max(found[gpu].values())
    return found


# ---- its memory traffic --------------------------------------------------------------------------


def measure_traffic(case: Case) -> dict[str, Any]:
    """What the emulator counts for a small problem of the same kind."""
    blobs = blobs_of(case, PROFILED_N, PROFILED_K)
    arguments = profiled_arguments(case, blobs)
    target = target_from_name(case.arch)
    with scope(target):
        program = kernel_for(case, blobs, blobs).program(*arguments)
        counters = profile_program(program, arguments, target)
    return {
        "copies": told(global_of(counters, "async copy")),
        "loads": told(global_of(counters, "global load")),
        "shared_requests": counters.shared.requests,
        "bank_conflicts": {
            kind: conflicts_of(counters, kind)
            for kind in ("async copy", "shared load", "shared store")
        },
    }


def profiled_arguments(case: Case, blobs: BlobFormat) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    shape = (blobs.n, blobs.k)
    codes = torch.randint(0, 1 << blobs.dtype.nbits, shape, dtype=torch.uint8, generator=generator)
    scales = torch.rand(blobs.k // GROUP, blobs.n, generator=generator).half()
    x = torch.randn(case.m, blobs.k, generator=generator).to(dtype_to_torch(blobs.activation))
    return arguments_for(case, blobs, pack_blobs(codes, scales, None, blobs), x)


def global_of(counters: Counters, kind: str) -> Traffic:
    """Accesses to global memory by instructions of a class."""
    total = Traffic()
    for number in counters.where(lambda instruction: class_of(instruction) == kind):
        if number in counters.global_traffic:
            total.add(counters.global_traffic[number])
    return total


def conflicts_of(counters: Counters, kind: str) -> int:
    """Bank conflicts of instructions of a class."""
    numbers = counters.where(lambda instruction: class_of(instruction) == kind)
    return sum(
        counters.shared_traffic[n].conflicts for n in numbers if n in counters.shared_traffic
    )


def told(traffic: Traffic) -> dict[str, float]:
    return {
        "requests": traffic.requests,
        "sectors_per_request": traffic.per_request,
        "sector_bytes_used": traffic.used,
    }


# ---- the Triton kernel ---------------------------------------------------------------------------


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


def try_triton(case: Case) -> dict[str, Any]:
    """A row of the Triton kernel, or why there is none."""
    from benchmarks.peers.triton_static import count

    try:
        return {**asdict(case), **count(stored_type(case.weight).nbits, case.m, case.arch)}
    except TilusError as error:
        return {**asdict(case), "missing": f"{error.message}: {error.found}"}


# ---- all of them ---------------------------------------------------------------------------------


def try_count(case: Case) -> dict[str, Any]:
    """As `count_kernel`, with the reason where there is no kernel; run in processes of its own."""
    try:
        return count_kernel(case)
    except TilusError as error:
        return {"missing": f"{error.message}: {error.found}"}


def same_kernel(case: Case) -> Case:
    """Of the cases that run one kernel of few tokens, the one with the most."""
    few = case.m <= MOST_SMALL_TOKENS
    return replace(case, m=COLUMN * columns_for(case.m)) if few else case


def with_bounds(case: Case, counts: dict[str, Any]) -> dict[str, Any]:
    """A row of the table: the counts of its kernel, and bounds for its number of tokens."""
    row = {**asdict(case), **counts}
    if "per_weight" in row and case.arch == HOPPER:
        row["bounds_us"] = bounds(case, row["per_weight"], row["unpacked"])
    return row


def measure(cases: Sequence[Case], jobs: int) -> dict[str, list[dict[str, Any]]]:
    """The rows of the table, the traffic by weight and activation, and Triton's rows."""
    kernels = list(dict.fromkeys(map(same_kernel, cases)))
    profiled = [replace(c, m=m) for c in cases if c.arch == cases[-1].arch for m in PROFILED_M]
    profiled = list(dict.fromkeys(profiled))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        counts = dict(zip(kernels, pool.map(try_count, kernels), strict=True))
        traffic = list(pool.map(measure_traffic, profiled))
        triton = list(pool.map(try_triton, triton_cases(cases)))
    rows = [with_bounds(case, counts[same_kernel(case)]) for case in cases]
    named = [{**asdict(c), **found} for c, found in zip(profiled, traffic, strict=True)]
    return {"rows": rows, "traffic": named, "triton": triton}


def versions(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    git = ("git", "-C", str(HERE), "--no-optional-locks")
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", "../tilus"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        "tilus": __version__,
        "commit": commit.stdout.strip(),
        "changed_since": bool(changed.stdout),
        "nvrtc": sorted({row["nvrtc"] for row in rows if "nvrtc" in row}),
        "nvdisasm": importlib.metadata.version("nvidia-cuda-nvdisasm"),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


# ---- tables --------------------------------------------------------------------------------------

HEADINGS = (
    "weight", "x", "arch", "M", "issue", "ALU", "unpacked", "regs", "spills", "blocks/SM",
    "warps/SM",
    "KB in flight", "us: issue", "ALU", "mma", "H100 memory", "bound", "H200 memory", "bound",
)  # fmt: skip


def full_table(rows: Sequence[dict[str, Any]]) -> str:
    """Every row; one without a kernel says so."""
    cells = [full_cells(row) for row in rows]
    missing = sorted({row["missing"] for row in rows if "missing" in row})
    table = tabulate(cells, HEADINGS, disable_numparse=True, stralign="right")
    return "\n".join([table, *(f"missing: {reason}" for reason in missing)])


def full_cells(row: dict[str, Any]) -> list[str]:
    name = [row["weight"], row["activation"], row["arch"], str(row["m"])]
    if "missing" in row:
        return [*name, "missing"]
    slots = [f"{row['per_weight'][pipe]:.2f}" for pipe in ("issue", "alu")]
    kept = ("unpacked", "registers", "spill_bytes", "blocks_per_sm", "warps_per_sm")
    held = [*(str(row[key]) for key in kept), f"{row['bytes_in_flight'] / 1024:g}"]
    if "bounds_us" not in row:
        return [*name, *slots, *held]
    first, second = row["bounds_us"].values()
    times = [*(first[key] for key in (*A_CLOCK, "memory", "bound")), second["memory"]]
    return [*name, *slots, *held, *(f"{us:.1f}" for us in (*times, second["bound"]))]


Rows = dict[Case, dict[str, Any]]


def slots_cell(rows: Rows, case: Case) -> str:
    row = rows.get(case, {})
    if "per_weight" not in row:
        return "-"
    spilled = " (spills)" if row["spill_bytes"] else ""
    times = f" x{row['unpacked']}" if row["unpacked"] > 1 else ""
    return f"{row['per_weight']['issue']:.2f} / {row['per_weight']['alu']:.2f}{times}{spilled}"


def slots_table(rows: Rows, weights: Sequence[str], arch: str) -> str:
    """Issue and ALU slots beside the peers' issue slots."""
    tokens = TOKENS[1:]
    bf16 = "bf16, M = 8"
    headings = ("weight", *(f"M = {m}" for m in tokens), bf16, "sm_80, M = 8", *PEERS)
    cells = [
        (
            weight,
            *(slots_cell(rows, Case(weight, "float16", arch, m)) for m in tokens),
            slots_cell(rows, Case(weight, "bfloat16", arch, 8)),
            slots_cell(rows, Case(weight, "float16", "sm_80", 8)),
            *PEER_SLOTS.get(weight, ("-",) * len(PEERS)),
        )
        for weight in weights
    ]
    return tabulate(cells, headings, tablefmt="github", disable_numparse=True)


def bounds_table(
    rows: Rows, traffic: Sequence[dict[str, Any]], weights: Sequence[str], arch: str
) -> str:
    """Resources, bounds and traffic at 8 tokens."""
    headings = (
        "weight", "registers", "warps / SM", "KB in flight", "issue, us", "ALU, us", "mma, us",
        "memory, us: H100 / H200", "bound, us: H100 / H200", "sectors used", "bank conflicts",
    )  # fmt: skip
    of = {t["weight"]: t for t in traffic if (t["activation"], t["m"]) == ("float16", 8)}
    cells = [
        bounds_cells(rows[case], of[weight])
        for weight in weights
        if "per_weight" in rows.get(case := Case(weight, "float16", arch, 8), {})
    ]
    return tabulate(cells, headings, tablefmt="github", disable_numparse=True)


def bounds_cells(row: dict[str, Any], traffic: dict[str, Any]) -> list[str]:
    one, other = row["bounds_us"].values()
    used = min(traffic[kind]["sector_bytes_used"] for kind in ("copies", "loads"))
    return [
        row["weight"],
        f"{row['registers']}" + (" (spills)" if row["spill_bytes"] else ""),
        str(row["resident_warps"]),
        f"{row['bytes_in_flight'] / 1024:g}",
        *(f"{one[pipe]:.1f}" for pipe in A_CLOCK),
        *(f"{one[key]:.1f} / {other[key]:.1f}" for key in ("memory", "bound")),
        f"{used:.0%}",
        str(sum(traffic["bank_conflicts"].values())),
    ]


def triton_table(rows: Rows, triton: Rows, arch: str) -> str:
    """Ours and Triton's side by side, with the registers of each."""
    tokens = [m for m in TOKENS[1:] if m in TRITON_TOKENS or m < TRITON_TOKENS[0]]
    headings = ("weight", *(f"M = {m}: {who}" for m in tokens for who in ("tilus", "Triton")))
    cells = []
    for weight in TRITON_WEIGHTS:
        row = [weight]
        for m in tokens:
            case = Case(weight, ACTIVATIONS[0], arch, m)
            row += [with_registers(rows, case),
                    with_registers(triton, replace(case, m=triton_tokens(m)))]  # fmt: skip
        if set(row[2::2]) != {"-"}:
            cells.append(row)
    return tabulate(cells, headings, tablefmt="github", disable_numparse=True)


def with_registers(rows: Rows, case: Case) -> str:
    cell = slots_cell(rows, case)
    return cell if cell == "-" else f"{cell}, {rows[case]['registers']}"


def triton_section(rows: Rows, log: dict[str, Any], arch: str) -> list[str]:
    """Lines; none where nothing of Triton was counted."""
    triton = by_case([row for row in log.get("triton", ()) if "missing" not in row])
    if not triton:
        return []
    releases = ", ".join(sorted({row["triton"] for row in triton.values()}))
    return [
        "Beside a W4A16 kernel in Triton with the same scales "
        "([its text](benchmarks/peers/triton_w4a16.py)), compiled in the same run by Triton "
        f"{releases}: issue / ALU slots, and registers. Of its tuning points, the one with the "
        "fewest issue slots.",
        "",
        triton_table(rows, triton, arch),
        "",
    ]


def by_case(rows: Sequence[dict[str, Any]]) -> Rows:
    return {Case(*(row[key] for key in CASE_KEYS)): row for row in rows}


def compile_lines() -> list[str]:
    """What benchmarks/compile_time.py measured; none where it did not."""
    path = RESULTS.with_name("compile_time.json")
    if not path.is_file():
        return []
    log = json.loads(path.read_text())
    found = log["medians"]
    return [
        f"From a program to machine code, medians over {len(log['types'])} types: "
        f"{1e3 * found['uncached']:.0f} ms, {1e3 * found['first']:.0f} ms in a new process, "
        f"{1e3 * found['on_disk']:.1f} ms from disk. Matmuls that are unrolled for Hopper: "
        f"{1e3 * found['lean_8']:.0f} ms for up to 8 tokens, {1e3 * found['lean_64']:.0f} ms for "
        "64. "
        f"(`{log['command']}`, {log['machine']}; "
        "[all figures](benchmarks/results/compile_time.json).)",
        "",
    ]


def markdown(log: dict[str, Any], weights: Sequence[str], arch: str) -> str:
    """The tables for the README, and where they come from."""
    rows = by_case(log["rows"])
    version = log["versions"]
    changed = ", with changes" if version["changed_since"] else ""
    updates = map(command_of, log.get("updates", ()))
    return "\n".join(
        [
            f"Issue / ALU slots per weight and lane in the hottest loop, for {arch}, float16 "
            "activations and groups of 128 unless the column says otherwise; peers: issue slots at "
            "M = 8 / 16 / 64, float16, measured by others, static. x2: every weight is "
            "dequantised twice. `i1` .. `i8` run the kernels of `u1` .. `u8`.",
            "",
            slots_table(rows, weights, arch),
            "",
            "At M = 8, 8192 x 8192: what each resource of 132 SMs at 1.755 GHz takes at the least; "
            "memory at 3.0 (H100) and 4.2 TB/s (H200). Lower bounds from counts, no timings.",
            "",
            bounds_table(rows, log["traffic"], weights, arch),
            "",
            *triton_section(rows, log, arch),
            *compile_lines(),
            f"{', renewed by '.join([command_of(log), *updates])}; "
            f"NVRTC {', '.join(version['nvrtc'])}, nvdisasm {version['nvdisasm']}, "
            f"commit {version['commit'][:10]}{changed}; "
            "[all figures](benchmarks/results/static.json).",
        ]
    )


def command_of(log: dict[str, Any]) -> str:
    return f"`{log['command']}`"


BEGIN, END = "<!-- static:begin -->", "<!-- static:end -->"
NEXT_SECTION = "## Reading on"
SECTION = f"""\
## What a weight costs

Between memory and the tensor core a weight costs instructions, and there are few to spare: at the
speed of an H100's memory a weight of b bits may take 1.24 b issue slots of a lane, half of them on
the integer pipe. The kernels' machine code says what they take. `make bench` counts the more
important rows again, without a GPU and within five minutes.

{BEGIN}
{END}

"""


def with_table(readme: str, table: str) -> str:
    """A README with the table between its markers; its section is made where there is none.

    >>> with_table("a" + chr(10) + BEGIN + "old" + END + "b", "new").split()[4:]
    ['new', '<!--', 'static:end', '-->b']
    """
    if BEGIN not in readme:
        head, found, tail = readme.partition(NEXT_SECTION)
        readme = f"{head}{SECTION}{found}{tail}" if found else f"{head.rstrip()}\n\n{SECTION}"
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table}\n{END}{tail}"


# ---- the command ---------------------------------------------------------------------------------


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dtypes", type=words, default=WEIGHTS, metavar="T,...")
    parser.add_argument("--activations", type=words, default=ACTIVATIONS, metavar="T,...")
    parser.add_argument("--arch", type=words, default=ARCHS, metavar="A,...")
    parser.add_argument("--m", type=numbers, default=TOKENS, metavar="M,...")
    parser.add_argument("--jobs", type=int, default=2, help="processes that compile (default: 2)")
    parser.add_argument("--update", action="store_true", help="renew these rows of the JSON alone")
    parser.add_argument("--readme", action="store_true", help="write the tables into README.md")
    return parser.parse_args(argv)


def words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    found = tuple(int(word) for word in text.split(","))
    if min(found) < 1:
        raise argparse.ArgumentTypeError("M is at least 1")
    return found


def check(arguments: argparse.Namespace) -> None:
    """Raises: TilusError for an unknown type or target."""
    for weight in arguments.dtypes:
        stored_type(weight)
    for arch in arguments.arch:
        target_from_name(arch)
    unknown = set(arguments.activations) - set(ACTIVATIONS)
    if unknown:
        raise TilusError(
            "activations of this dtype are not multiplied",
            found=", ".join(sorted(unknown)),
            expected=" or ".join(ACTIVATIONS),
        )


def is_whole(arguments: argparse.Namespace) -> bool:
    """Whether the table is the one to keep."""
    chosen = (arguments.dtypes, arguments.activations, arguments.arch, arguments.m)
    return chosen == (WEIGHTS, ACTIVATIONS, ARCHS, TOKENS)


def updated(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The log of a whole sweep with the rows that a part of it counted anew, and how; the same
    part is told once.
    """
    parts = {part: renewed(old.get(part, []), new[part]) for part in ("rows", "traffic", "triton")}
    update = {"command": new["command"], "versions": new["versions"]}
    others = [one for one in old.get("updates", []) if one["command"] != new["command"]]
    return {**old, **parts, "updates": [*others, update]}


def renewed(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the same case take the place of old ones, others come behind."""
    return list({**by_case(old), **by_case(new)}.values())


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        check(arguments)
    except TilusError as error:
        print(error, file=sys.stderr)
        return 2
    cases = [
        Case(weight, activation, arch, m)
        for arch in arguments.arch
        for activation in arguments.activations
        for weight in arguments.dtypes
        for m in arguments.m
    ]
    found = measure(cases, arguments.jobs)
    command = " ".join(["python benchmarks/static.py", *(sys.argv[1:] if argv is None else argv)])
    log: dict[str, Any] = {
        "command": command, "versions": versions(found["rows"]), "n": EXTENT, "k": EXTENT,
        "group_size": GROUP, **found,
        "traffic_problem": {"n": PROFILED_N, "k": PROFILED_K},
        "peers": {"source": "measured by others, static", "names": PEERS, "slots": PEER_SLOTS},
    }  # fmt: skip
    weights = arguments.dtypes
    if arguments.update:
        log = updated(json.loads(RESULTS.read_text()), log)
        weights = tuple(dict.fromkeys(row["weight"] for row in log["rows"]))
    if is_whole(arguments) or arguments.update:
        RESULTS.write_text(json.dumps(log, indent=1) + "\n")
    print(full_table(log["rows"]), end="\n\n")
    table = markdown(log, weights, arguments.arch[-1])
    if arguments.readme:
        README.write_text(with_table(README.read_text(), table))
    print(table)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))  # for the Triton kernel, of the package `benchmarks`
    sys.exit(main())
