"""From a program to a binary: generated CUDA, compiled for a target, dumped where that is wanted.

    binary = compile_program_for(program, target)     # TILUS_DUMP=dir writes .cu, .ptx, .cubin too

`program` is what the passes left. At TILUS_DEBUG=3 every slower choice of the generator says why.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tilus.codegen.kernel import generate
from tilus.codegen.source import CudaSource
from tilus.config import settings
from tilus.ir.program import Program
from tilus.runtime.build import Binary, build
from tilus.target import Target

NOTES_LEVEL = 3  # of TILUS_DEBUG


def compile_program_for(program: Program, target: Target) -> Binary:
    """The machine code of `program` for `target`; works without a GPU or a driver.

    Raises `TilusError` at the instruction that has no form on the target.
    """
    source, notes = generate(program, target)
    if settings().debug >= NOTES_LEVEL:
        for note in notes:
            sys.stderr.write(f"tilus: {program.name}: {note}\n")
    _dump(source, "cu", source.text)
    binary = build(source, target)
    if settings().dump_directory is not None:
        _dump(source, "ptx", binary.ptx)
        _dump(source, "cubin", binary.cubin)
    return binary


def _dump(source: CudaSource, kind: str, data: str | bytes) -> None:
    directory = settings().dump_directory
    if directory is None:
        return
    path = Path(directory) / source.name / f"{source.name}.{kind}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
