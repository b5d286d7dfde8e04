"""What a weight costs in the Triton kernel: compiled for a GPU that is not here, and disassembled.

    count(bits=4, m=16, arch="sm_90a")["per_weight"]["issue"]       # slots per weight and lane

The same reading of machine code as for our kernels. Of the points that a GPU would tune among, the
one with the fewest issue slots is told.

The surprise: every weight is an element of operand B of several matrix instructions, of one in each
16 rows (64 of Hopper's) of a block of tokens; so many times fewer weights there are.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.peers.installed import version_of
from tilus.codegen.source import CudaSource
from tilus.errors import TilusError
from tilus.runtime.build import Binary, Code, Resources, parse_resources
from tilus.runtime.inspect import Inspection
from tilus.target import Target, target_from_name
from tilus.utils import cdiv

GROUP = 128
POINTERS = {"x": "*fp16", "packed": "*i32", "scales": "*fp16"}
EXTENTS = ("m", "n", "k")
MULTIPLES_OF_16 = (*POINTERS, "out", "n", "k")  # as a launch finds them, and Triton assumes
ROWS_OF = {"HMMA": 16, "HGMMA": 64}  # of the activations, in a matrix instruction


def count(bits: int, m: int, arch: str) -> dict[str, Any]:
    """The best point for `m` tokens and k = n = 8192.

    Raises: TilusError where triton or nvdisasm is missing, or its code is not understood.
    """
    kernels, target = _kernels(), target_from_name(arch)
    room = target.properties.shared_memory_per_block
    found = [
        (_inspection(kernels, point, bits, target, room), point)
        for point in kernels.POINTS[kernels.bucket_of(m)]
    ]
    rows = [
        (inspection.per_weight["issue"] * cdiv(m, point.block_m), inspection, point)
        for inspection, point in found
        if inspection is not None
    ]
    if not rows:
        raise TilusError("no point of the Triton kernel fits", found=arch)
    _, inspection, point = min(rows, key=lambda row: row[0])
    return {
        "point": asdict(point),
        "tried": len(found),
        "unpacked": cdiv(m, point.block_m),
        **_resources(inspection),
        "weights_per_turn": inspection.weights,
        "per_turn": inspection.per_turn,
        "per_weight": inspection.per_weight,
        "triton": version_of("triton"),
    }


def _kernels() -> Any:
    try:
        from benchmarks.peers import triton_w4a16
    except ImportError as error:
        raise TilusError(
            "the Triton kernel is compiled by Triton",
            found=str(error),
            hint='pip install "tilus-vm[bench]"',
        ) from None
    return triton_w4a16


def _resources(inspection: Inspection) -> dict[str, Any]:
    used, binary = reported(inspection.binary), inspection.binary
    told = Binary(binary.source, binary.target, replace(binary.code, resources=used))
    room = Inspection(told).occupancy
    return {
        "registers": used.registers,
        "spill_bytes": used.spill_stores + used.spill_loads,
        "shared_bytes": binary.source.shared_bytes,
        "blocks_per_sm": None if room is None else room.blocks,
        "warps_per_sm": None if room is None else room.warps,
    }


# ---- compiling -----------------------------------------------------------------------------------


def compiled(kernels: Any, point: Any, bits: int, target: Target) -> Binary:
    """The kernel with parts of float32, or of a whole k, which differ in a conversion at the end;
    compiled in this very run.
    """
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    major, minor = target.properties.compute_capability
    with knobs.compilation.scope():
        knobs.compilation.always_compile = True
        made = triton.compile(
            ASTSource(kernels.matmul_kernel, *_signature(kernels, point, bits)),
            target=GPUTarget("cuda", 10 * major + minor, 32),
            options={"num_warps": point.warps, "num_stages": point.stages},
        )
    threads = 32 * point.warps
    source = CudaSource(made.metadata.name, made.asm["ptx"], threads, made.metadata.shared)
    release = f"triton {version_of('triton')}"
    return Binary(source, target, Code(made.hash, made.asm["cubin"], None, release, ""))


def _signature(kernels: Any, point: Any, bits: int) -> tuple[dict[str, str], Any, Any]:
    """Types of parameters, constants by their place, and what is known of the others."""
    constants = {
        "BITS": bits,
        "GROUP": GROUP,
        "BLOCK_M": point.block_m,
        "BLOCK_N": point.block_n,
        "BLOCK_K": point.block_k,
        "SCALE_LAST": point.scale_last,
    }
    kinds = {
        **POINTERS,
        "out": "*fp32",
        **dict.fromkeys(EXTENTS, "i32"),
        **dict.fromkeys(constants, "constexpr"),
    }
    names = kernels.matmul_kernel.arg_names
    place = {name: (names.index(name),) for name in names}
    known = {place[name]: [["tt.divisibility", 16]] for name in MULTIPLES_OF_16}
    fixed = {place[name]: value for name, value in constants.items()}
    return {name: kinds[name] for name in names}, fixed, known


def reported(binary: Binary) -> Resources:
    """What Triton's own ptxas says of the kernel."""
    from triton import knobs

    assembler = knobs.nvidia.ptxas.path
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(binary.source.text)
        command = [assembler, "-v", f"--gpu-name={binary.target.arch}", str(path), "-o", os.devnull]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = parse_resources(result.stdout + result.stderr)
    if result.returncode or found is None:
        raise TilusError("the report of ptxas was not understood", found=result.stderr[-400:])
    return found


# ---- counting ------------------------------------------------------------------------------------


def _inspection(
    kernels: Any, point: Any, bits: int, target: Target, room: int
) -> Inspection | None:
    """None for a point whose pipeline does not fit in `room` bytes of shared memory."""
    binary = compiled(kernels, point, bits, target)
    if binary.source.shared_bytes > room:
        return None
    plain = Inspection(binary)
    if plain.loop is None or not plain.loop.weights("B"):
        raise TilusError("the hottest loop does not multiply", found=f"{point}, {bits} bits")
    names = {name for name in ROWS_OF if plain.loop.counts[name]}
    (name,) = names
    found = Inspection(binary, "B", reuse=point.block_m / ROWS_OF[name])
    assert found.weights is not None
    turns = found.weights * 32 * point.warps / (point.block_n * point.block_k)
    if turns != int(turns):
        raise TilusError(
            "the hottest loop does not take whole steps",
            found=f"{turns} steps of {point}",
        )
    return found
