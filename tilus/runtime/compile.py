"""From a program to a binary: generated CUDA, compiled for a target, dumped where that is wanted.

    binary = compile_program_for(program, target)     # TILUS_DUMP=dir writes .cu, .ptx, .cubin too

`program` is what the passes left. At TILUS_DEBUG=3 every slower choice of the generator says why.
"""

from __future__ import annotations

import hashlib
import sys
from functools import cache
from pathlib import Path

import tilus.ir
from tilus.codegen.kernel import generate
from tilus.codegen.source import CudaSource
from tilus.config import settings
from tilus.ir.printer import format_program
from tilus.ir.program import Program
from tilus.ir.visit import walk
from tilus.passes import compile_program
from tilus.runtime.build import Binary, build
from tilus.runtime.cache import Entry, content_key, kernel_cache
from tilus.target import Target, scope

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


def compile_source(source: Program, target: Target) -> Binary:
    """The machine code of a program as written, by way of the passes.

    The generated text is cached on disk under what it follows from: the program's own text and
    lines, the target, and every source file of this package, so that no text outlives the generator
    that wrote it. While something is to be shown (TILUS_DUMP, TILUS_DEBUG) everything runs.
    """
    if settings().debug or settings().dump_directory is not None:
        with scope(target):
            return compile_program_for(compile_program(source), target)
    key = content_key("text", format_program(source), _places(source), target.name, fingerprint())
    text = _cached(key)
    if text is None:
        with scope(target):
            text, _ = generate(compile_program(source), target)
        _keep(key, text, target)
    return build(text, target)


@cache
def fingerprint() -> str:
    """A digest of the sources of this package."""
    digest = hashlib.sha256()
    for path in sorted(Path(tilus.ir.__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _places(program: Program) -> str:
    """The lines of the user's files, which the text carries."""
    return "\n".join(str(stmt.location) for stmt in walk(program.body))


def _cached(key: str) -> CudaSource | None:
    entry = kernel_cache().get(key)
    if entry is None:
        return None
    facts = entry.header
    return CudaSource(
        facts["name"], entry.payload.decode(), facts["threads"], facts["shared_bytes"]
    )


def _keep(key: str, source: CudaSource, target: Target) -> None:
    """Texts of kernels with workspaces are not kept: their sizes are expressions of the program."""
    if source.workspaces:
        return
    header = {
        "name": source.name,
        "target": target.arch,
        "nvrtc": "text",
        "threads": source.threads,
        "shared_bytes": source.shared_bytes,
    }
    kernel_cache().put(key, Entry(header, source.text.encode()))


def _dump(source: CudaSource, kind: str, data: str | bytes) -> None:
    directory = settings().dump_directory
    if directory is None:
        return
    path = Path(directory) / source.name / f"{source.name}.{kind}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
